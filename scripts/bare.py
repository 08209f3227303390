"""Does what a newcomer does: clone, `make run`, `make test`, as a user who has only Python, make and git.

    python3 scripts/bare.py            everything, in about ten minutes
    python3 scripts/bare.py --short    the demo, and some of the tests (as in CI)

The committed tree is cloned to a temporary folder. The user's home is empty and the PATH holds Python, make,
git and coreutils only: if anything else is needed, this fails. Started as root, it continues as nobody. It
imports no package, because a newcomer has none.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
USER = "nobody"
COREUTILS = (
    "basename cat chmod cp cut date dirname echo env expr false head id install ln ls mkdir mktemp mv nproc "
    "printf pwd readlink realpath rm rmdir seq sleep sort stat tail tee test touch tr true uname uniq wc"
)
TOOLS = ["sh", "make", "git", *COREUTILS.split()]
PASSED_ON = re.compile(r"(PIP_|SSL_CERT_|REQUESTS_CA_BUNDLE$|(HTTPS?|NO)_PROXY$)", re.IGNORECASE)
"""Variables that say where packages come from; required in a network without the public index."""
SHORT_TESTS = "tests/delivery/test_guarantees.py tests/commands/test_check.py tests/test_cli.py"
"""A server, real sockets and whole processes: these fail if something is missing."""
START_SECONDS = 300


class MissingError(Exception):
    """The newcomer could not continue; the message says why."""


def identity() -> dict[str, Any]:
    """Arguments that make a process run as an unprivileged user; none if this process already does."""
    if os.geteuid() != 0:
        return {}
    entry = pwd.getpwnam(USER)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def find_python() -> str:
    """An interpreter with venv that the user can run: the one that runs this, or else the system's."""
    candidates = [str(Path(sys.executable).resolve()), "/usr/bin/python3"]
    check = "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))"
    for python in candidates:
        with contextlib.suppress(OSError):
            done = subprocess.run(
                [python, "-c", check], cwd="/", capture_output=True, check=False, **identity()
            )
            if done.returncode == 0:
                return python
    raise MissingError(
        f"an unprivileged user has no Python of 3.11 or later with venv; tried: {', '.join(candidates)}.\n"
        "Fix: apt-get install python3-venv, or start this with another Python: make bare PYTHON=..."
    )


class Stranger:
    """A newcomer: a user with an empty home and a short PATH."""

    def __init__(self, folder: Path) -> None:
        self.clone, self.home, self.programs = folder / "eclipse-ws", folder / "home", folder / "bin"
        self.home.mkdir()
        self.programs.mkdir()
        programs = {tool: shutil.which(tool) for tool in TOOLS} | {"python3": find_python()}
        for name, path in programs.items():
            if path:
                (self.programs / name).symlink_to(path)
        passed_on = {name: value for name, value in os.environ.items() if PASSED_ON.match(name)}
        # Without LANG, output would not be UTF-8 on some machines.
        self.environment = {
            **passed_on,
            "PATH": str(self.programs),
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
        }

    def own(self, folder: Path) -> None:
        """Make the newcomer the owner of a folder and everything in it."""
        if user := identity():
            for path in (folder, *folder.rglob("*")):
                os.chown(path, user["user"], user["group"], follow_symlinks=False)

    def start(self, *command: str, log: Path, **variables: str) -> subprocess.Popen[bytes]:
        """Start a command in the clone, in a process group of its own."""
        with log.open("ab") as output:
            return subprocess.Popen(
                command,
                executable=self.programs / command[0],
                cwd=self.clone if self.clone.exists() else self.home,
                env={**self.environment, **variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **identity(),
            )

    def run(self, *command: str, log: Path) -> None:
        """Run a command to its end. Raises MissingError with the last lines if it fails."""
        process = self.start(*command, log=log)
        try:
            failed = process.wait() != 0
        finally:
            end(process)
        if failed:
            lines = log.read_text(errors="replace").splitlines()
            # If tests fail, the reason is far above the end.
            wanted = [line for line in lines[:-60] if line.startswith(("FAILED ", "ERROR ", "E  "))]
            said = "\n".join([*wanted[-60:], *lines[-60:]])
            raise MissingError(f"`{' '.join(command)}` failed:\n{said}")


def megabytes(folder: Path) -> float:
    """The size of the folder on disk."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*")) / 1e6


def free_port() -> int:
    """A free TCP port: 8080 may be taken on a shared machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop a command and everything that it has started. Idempotent."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def demo(stranger: Stranger, log: Path) -> None:
    """Run `make run` until the demo answers. Raises MissingError."""
    port = free_port()
    page = f"http://127.0.0.1:{port}/demo"
    process = stranger.start("make", "run", log=log, PORT=str(port))
    deadline = time.monotonic() + START_SECONDS
    try:
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(page, timeout=5):
                return
            time.sleep(0.1)
        said = "\n".join(log.read_text(errors="replace").splitlines()[-40:])
        raise MissingError(f"`make run` has ended, or has no demo after {START_SECONDS} s:\n{said}")
    finally:
        end(process)


def play(folder: Path, short: bool) -> None:
    """Clone, run and test. Raises MissingError."""
    say(f"clone, make run, make test{' (a part)' if short else ''} in {folder}")
    stranger, log = Stranger(folder), folder / "log"
    # The committed tree, in the newcomer's own repository: git refuses to clone from another user's.
    source = str(folder / "source")
    subprocess.run(["git", "clone", "--quiet", "--bare", "--depth=1", ROOT.as_uri(), source], check=True)
    stranger.own(folder)
    began, quiet = time.monotonic(), ("-c", "advice.detachedHead=false")
    stranger.run("git", *quiet, "clone", "--quiet", source, str(stranger.clone), log=log)
    demo(stranger, log)
    took = time.monotonic() - began
    say(f"the demo answered {took:.0f} s after the clone began; {megabytes(stranger.clone):.0f} MB on disk")
    began = time.monotonic()
    tests = [f"TESTS={SHORT_TESTS}"] if short else []
    stranger.run("make", "test", *tests, log=log)
    lines = log.read_text(errors="replace").splitlines()
    first = next((number for number, line in enumerate(lines) if line.startswith("random order")), 0)
    say(*lines[first:])
    part = f"a part of the tests ({SHORT_TESTS})" if short else "make test"
    say(f"{part} took {time.monotonic() - began:.0f} s; {megabytes(stranger.clone):.0f} MB on disk")


def say(*lines: str) -> None:
    """Print at once."""
    print(*lines, sep="\n", flush=True)


def main() -> int:
    """Run it. Returns 0 if nothing was missing."""
    parser = argparse.ArgumentParser(description="Do what a newcomer does: clone, make run, make test.")
    parser.add_argument("--short", action="store_true", help="run only some of the tests")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="eclipse-bare-"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        play(folder, given.short)
    except MissingError as error:
        say(str(error), "FAILED: a newcomer can't do this")
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    say("only Python, make and git were needed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
