"""What the tests of the JavaScript need from the machine: Node, and npm for the type check."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest


def require(program: str, package: str) -> str:
    """The program's path; on a machine without it the test is skipped, in CI it is installed first."""
    found = shutil.which(program)
    if not found and os.environ.get("CI") == "true":
        if shutil.which("apt-get") and os.geteuid() == 0:
            command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", package]
            subprocess.run(command, check=True, capture_output=True, timeout=300)
            found = shutil.which(program)
        if not found:
            pytest.fail(f"CI needs {program}: install the package {package}")
    if not found:
        pytest.skip(f"{program} is not installed: this test runs where it is, and in CI")
    return found


@pytest.fixture(scope="session")
def node() -> str:
    """Node's path."""
    return require("node", "nodejs")


@pytest.fixture(scope="session")
def npm() -> str:
    """npm's path."""
    require("node", "nodejs")
    return require("npm", "npm")
