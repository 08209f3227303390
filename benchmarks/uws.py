"""uWebSockets.js as a peer.

Its binaries need glibc 2.38. If the machine's is older, it runs in a root of Debian's trixie, which
`make bench-peers` makes with debootstrap, and which it enters by chroot.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks.processes import SERVER_CORE, NotInstalledError, Process
from benchmarks.servers import CACHE, JWT_SECRET, PEERS, Running, Server, processes

ROOT = CACHE / "trixie"
SOURCE = PEERS / "uws"
GLIBC = (2, 38)
SUITE, MIRROR = "trixie", "http://deb.debian.org/debian"
PREPARE = "run `make bench-peers`"


def has_glibc() -> bool:
    """Whether this machine's own C library will do."""
    name, version = platform.libc_ver()
    found = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    return name == "glibc" and found >= GLIBC


def folder() -> Path:
    """Where the server and its packages are."""
    return CACHE / "uws" if has_glibc() else ROOT / "srv" / "uws"


def prepare() -> str:
    """Make the root, if one is needed, and install the locked packages; a line about it.

    Raises NotInstalledError.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise NotInstalledError("npm is not installed (apt-get install nodejs npm)")
    if not has_glibc() and not (ROOT / "usr" / "bin" / "node").exists():
        _make_root()
    shutil.copytree(SOURCE, folder(), dirs_exist_ok=True)
    argv = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
    done = subprocess.run(argv, cwd=folder(), check=False)
    if done.returncode:
        raise NotInstalledError(f"npm ci failed in {folder()}")
    return f"uWebSockets.js: {folder()}"


def _make_root() -> None:
    program = shutil.which("debootstrap") or "/usr/sbin/debootstrap"
    if not Path(program).exists():
        raise NotInstalledError("debootstrap is not installed (apt-get install debootstrap)")
    if os.geteuid():
        raise NotInstalledError("debootstrap and chroot need root")
    unfinished = ROOT.with_name(f"{ROOT.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    argv = [program, "--variant=minbase", "--include=nodejs", SUITE, str(unfinished), MIRROR]
    print(f"Making a root of Debian {SUITE} in {ROOT} (once, a minute or two) ...", flush=True)
    if subprocess.run(argv, stdout=subprocess.DEVNULL, check=False).returncode:
        raise NotInstalledError(f"debootstrap failed; its log: {unfinished}/debootstrap/debootstrap.log")
    unfinished.rename(ROOT)


def _start(port: int) -> Process:
    if not (folder() / "node_modules").is_dir():
        raise NotInstalledError(f"uWebSockets.js (which needs glibc 2.38) is not prepared: {PREPARE}")
    shutil.copy(SOURCE / "server.mjs", folder())
    env = {"JWT_SECRET": JWT_SECRET, "PORT": str(port), "NODE_ENV": "production", "NODE_EXTRA_CA_CERTS": ""}
    if has_glibc():
        return Process(["node", str(folder() / "server.mjs")], port, SERVER_CORE, env)
    if os.geteuid():
        raise NotInstalledError("uWebSockets.js runs in a root of its own, and chroot needs root")
    argv = ["chroot", str(ROOT), "/usr/bin/node", "/srv/uws/server.mjs"]
    return Process(argv, port, SERVER_CORE, env)


@contextlib.contextmanager
def running(count: int) -> Iterator[Running]:
    """So many nodes."""
    with processes(count, _start) as nodes:
        yield nodes


UWS = Server("uWebSockets.js", running)
