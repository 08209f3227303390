"""The wheel and the source archive, built for real from a copy of the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
# What a developer's folder holds besides, none of which may be packed.
STRAY = (".env", "conf/.env", "eclipse_ws/static/.env", "tests/__pycache__/x.pyc", "mine.sqlite3")


def tracked() -> list[str]:
    """The repository's files; skips where the tests run from a source archive, whose list is its own."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: the repository's files are unknown")
    listed = subprocess.run(
        ["git", "ls-files", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    # A file that is deleted, but not yet for git, is listed and not there.
    return sorted(name for name in listed if name and (ROOT / name).is_file())


class Built(NamedTuple):
    """The two files, and what was printed while they were made."""

    wheel: Path
    archive: Path
    printed: str


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Both, built without isolation and network; the wheel is made from the archive, as an index gets it."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name)
    for name in STRAY:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("JWT_SECRET=a-developer's-own")
    command = [Path(sys.executable).with_name("uv"), "build", "--offline", "--no-build-isolation"]
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    made = subprocess.run(
        [*command, "--python", sys.executable, "--out-dir", target, source],
        env={**environ, "PYTHONWARNINGS": "error"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        text=True,
    )
    assert made.returncode == 0, made.stdout
    (wheel,), (archive,) = target.glob("*.whl"), target.glob("*.tar.gz")
    return Built(wheel, archive, made.stdout)
