"""The structure's numbers that are reached stay reached."""

from __future__ import annotations

from pathlib import Path

from eclipse_ws.config.settings import Settings
from scripts import structure


def test_the_package_has_few_entries() -> None:
    """A newcomer sees all of the package at a glance."""
    assert len(structure.entries()) <= 14
    assert {"cli", "sessions", "backends"} <= set(structure.entries())


def test_every_setting_is_documented() -> None:
    """docs/settings.md names each of them."""
    assert structure.undocumented() == []


def test_every_setting_is_set_by_a_test() -> None:
    """What no test sets may do nothing at all."""
    assert structure.untested() == []


def test_there_are_few_settings() -> None:
    """A setting needs somebody who would change it; what nobody would is a constant."""
    assert len(Settings.model_fields) <= 62


def test_lines_are_counted(tmp_path: Path) -> None:
    """Of a folder the Python and Lua files, in all depths."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.py").write_text("1\n2\n")
    (tmp_path / "deep" / "b.lua").write_text("1\n")
    (tmp_path / "deep" / "c.txt").write_text("1\n")
    assert structure.lines([tmp_path]) == 3
