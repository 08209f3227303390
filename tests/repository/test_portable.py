"""Under `scripts/portable` every process lacks what Linux alone has, those that a test starts included."""

from __future__ import annotations

import os
import select
import selectors
import subprocess
import sys
from pathlib import Path

import pytest

from tests.portable import FOLDER, inherited

SELECTOR = os.environ.get("PORTABLE_SELECTOR", "")
LOOK = (
    "import asyncio, select, selectors; print(hasattr(select, 'epoll'), selectors.DefaultSelector.__name__)"
)


def look(environ: dict[str, str]) -> str:
    """What a fresh process has."""
    command = [sys.executable, "-c", LOOK]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout.strip()


def test_a_process_that_a_test_starts_is_like_this_one() -> None:
    """It has this process's selector, and an epoll only if this process has one."""
    assert look(inherited()) == f"{hasattr(select, 'epoll')} {selectors.DefaultSelector.__name__}"
    assert not (SELECTOR and hasattr(select, "epoll"))


@pytest.mark.parametrize(("selector", "name"), [("poll", "PollSelector"), ("select", "SelectSelector")])
def test_a_selector_is_forced(selector: str, name: str) -> None:
    """The one that is asked for takes the place of the system's own."""
    assert look({"PYTHONPATH": str(FOLDER), "PORTABLE_SELECTOR": selector}) == f"False {name}"


def test_nothing_below_proc_is_there_for_us() -> None:
    """Our own code finds no /proc; psutil, which has other ways elsewhere, still does."""
    code = (
        "import eclipse_ws.sessions.node as node\n"
        "assert node.resident_bytes() > 1 << 20\n"
        "exec('open(\"/proc/self/statm\")', vars(node))"
    )
    environ = {"PYTHONPATH": f"{FOLDER}{os.pathsep}{Path(__file__).parents[2]}", "PORTABLE_SELECTOR": "poll"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False
    )
    assert done.stderr.strip().endswith("No such file or directory: '/proc/self/statm'"), done.stderr
