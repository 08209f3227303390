"""The scripts that developers run: they see what is missing, and tell what was skipped."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts import bare, test
from tests import needs

pytestmark = pytest.mark.slow

SERVER = 'run:\n\t@cd eclipse && python3 -m http.server --bind 127.0.0.1 "$$PORT"\n'


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can reach, as pytest's own are not."""
    made = Path(tempfile.mkdtemp(prefix="eclipse-scripts-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def stranger(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, makefile: str) -> None:
    """What a stranger does with a repository that has this Makefile."""
    try:
        bare.find_python()
    except bare.MissingError as error:
        needs.missing("Python for every user", str(error))
    git = needs.program("git", "Debian: apt-get install git")
    (tmp_path / "Makefile").write_text(makefile)
    (tmp_path / "eclipse").mkdir()
    (tmp_path / "eclipse" / "demo").write_text("<eclipse-chat>")
    author = ["-c", "user.name=A. Author", "-c", "user.email=author@example.org"]
    for command in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "Begin"]):
        subprocess.run([git, *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(bare, "ROOT", tmp_path)
    bare.play(folder, short=False)


def test_a_stranger_who_needs_nothing_else(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The demo is waited for, then the tests run, with an empty home, as somebody who isn't root."""
    monkeypatch.setenv("CI", "true")
    home = 'test "$$(ls -A $$HOME)" = "" && test "$$(id -u)" != 0 && test -z "$$CI"'
    stranger(folder, tmp_path, monkeypatch, f"{SERVER}test:\n\t@{home} && echo random order, all passed\n")
    said = capsys.readouterr().out
    assert "the demo answered" in said
    assert "all passed" in said


@pytest.mark.parametrize(
    ("makefile", "says"),
    [
        ("run:\n\t@node --version\n", "node"),
        (f"{SERVER}test:\n\t@gcc --version\n", "gcc"),
    ],
)
def test_a_stranger_who_needs_something_else(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, makefile: str, says: str
) -> None:
    """A program from outside of the clone is missing, whatever this machine has, and its name is told."""
    with pytest.raises(bare.MissingError, match=f"{says}.*not found|{says}: No such file"):
        stranger(folder, tmp_path, monkeypatch, makefile)


def test_what_was_skipped_is_told_once_for_all_lanes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reasons are grouped over the lanes, and counted."""
    monkeypatch.setattr(test, "LOGS", tmp_path)
    some = tmp_path / "test_some.py"
    some.write_text(
        "import pytest\n"
        "def test_one(): pytest.skip('needs a thing (get it)')\n"
        "def test_other(): pytest.skip('needs a thing (get it)')\n"
    )
    lanes = [
        test.Lane(name, [str(some), "-c", "/dev/null", "-p", "no:tornado"], cover=False) for name in "ab"
    ]
    assert test.wait(lanes)
    test.tell_skipped(lanes)
    assert "    4 x needs a thing (get it)" in capsys.readouterr().out


def test_a_lane_that_fails_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log's end is shown, and the whole fails."""
    monkeypatch.setattr(test, "LOGS", tmp_path)
    some = tmp_path / "test_some.py"
    some.write_text("def test_it(): assert 'this' == 'that'\n")
    assert not test.wait([test.Lane("some", [str(some), "-c", "/dev/null", "-p", "no:tornado"], cover=False)])
    assert "AssertionError: assert 'this' == 'that'" in capsys.readouterr().out
