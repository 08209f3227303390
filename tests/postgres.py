"""A real PostgreSQL server, started for the tests and stopped after them."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil

from tests import needs
from tests.servers import free_port

HOW = "Debian: apt-get install postgresql; macOS: brew install postgresql"
OPTIONS = "-c fsync=off -c full_page_writes=off -c max_connections=40 -c shared_buffers=32MB"


def binaries() -> Path | None:
    """The folder of initdb and postgres, the newest one; Debian keeps them out of the path."""
    if found := shutil.which("initdb"):
        return Path(found).parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    return installed[-1].parent if installed else None


class PostgresServer:
    """One server on a port of its own, with an empty database; root starts it as another user."""

    def __init__(self, port: int | None = None) -> None:
        self.binaries = binaries() or Path(needs.missing("PostgreSQL", HOW))
        self.port = port or free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="eclipse-postgres-"))
        self.user: str | None = None
        if os.geteuid() == 0:
            self.user = next((name for name in ("postgres", "nobody") if _exists(name)), None)
            shutil.chown(self.folder, self.user)
        (self.folder / "password").write_text("right")
        options = f"-U chat -A scram-sha-256 --pwfile={self.folder}/password --no-sync -E UTF8 --locale=C"
        self._run("initdb", *options.split(), "-D", str(self.folder / "data"))

    @property
    def url(self) -> str:
        """Its address for DATABASE_URL."""
        return f"postgresql://chat:right@127.0.0.1:{self.port}/postgres"

    def start(self) -> PostgresServer:
        """Start it, and wait until it accepts."""
        options = f"-p {self.port} -h 127.0.0.1 -k {self.folder} {OPTIONS}"
        log = str(self.folder / "log")
        self._run("pg_ctl", "start", "-w", "-D", str(self.folder / "data"), "-l", log, "-o", options)
        return self

    def stop(self, mode: str = "fast") -> None:
        """Stop it as an administrator would; "immediate" is a crash."""
        self._run("pg_ctl", "stop", "-w", "-m", mode, "-D", str(self.folder / "data"))

    def freeze(self, frozen: bool) -> None:
        """Let all its processes stand still, or go on; their sockets stay open."""
        first = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        for pid in (first, *(child.pid for child in psutil.Process(first).children())):
            with suppress(ProcessLookupError):  # one that served a connection may just have ended
                os.kill(pid, signal.SIGSTOP if frozen else signal.SIGCONT)

    def remove(self) -> None:
        """Stop it and remove its folder."""
        if (self.folder / "data" / "postmaster.pid").exists():
            self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, name: str, *arguments: str) -> None:
        done = subprocess.run(
            [self.binaries / name, *arguments],
            user=self.user,
            stdout=subprocess.DEVNULL,  # what it starts would keep a pipe open
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{name} failed: {done.args}"


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
