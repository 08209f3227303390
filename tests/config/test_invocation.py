"""How the program was started, as a reader would have to type it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from eclipse_ws.config.invocation import program


@pytest.mark.parametrize(
    ("argv0", "typed"),
    [
        (".venv/bin/eclipse-ws", ".venv/bin/eclipse-ws"),
        ("/opt/my things/eclipse-ws", "'/opt/my things/eclipse-ws'"),
        ("/usr/bin/pytest", "eclipse-ws"),
        ("/usr/lib/python3/pytest/__main__.py", "eclipse-ws"),
        ("", "eclipse-ws"),
    ],
)
def test_a_path_is_repeated(monkeypatch: pytest.MonkeyPatch, argv0: str, typed: str) -> None:
    """A path stays that path, quoted for the shell if necessary; another program gives our name."""
    monkeypatch.setattr(sys, "argv", [argv0])
    assert program() == typed


def test_a_program_on_the_path_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The name suffices if the shell finds this very program by it, not if it finds another."""
    ours, other = tmp_path / "ours" / "eclipse-ws", tmp_path / "other" / "eclipse-ws"
    for path in (ours, other):
        path.parent.mkdir()
        path.touch(0o755)
    monkeypatch.setattr(sys, "argv", [str(ours)])
    for path, typed in ((ours, "eclipse-ws"), (other, str(ours))):
        monkeypatch.setenv("PATH", str(path.parent))
        assert program() == typed


def test_a_module_is_named_with_its_interpreter(tmp_path: Path) -> None:
    """`python -m eclipse_ws` names its interpreter, so that its help can be pasted anywhere."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "eclipse_ws", "token", "--help"],
        env={"PYTHONPATH": str(root), "PATH": os.defpath},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"    {sys.executable} -m eclipse_ws token --chat c1" in done.stdout
