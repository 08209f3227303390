"""The real program in a process of its own, as a platform runs it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

from eclipse_ws.config.settings import variable
from tests.client import QUICK, WAIT, http
from tests.conftest import SECRET
from tests.portable import inherited
from tests.servers import free_port

ROOT = Path(__file__).parents[2]


def environment(**given: object) -> dict[str, str]:
    """The machine's environment without its configuration, and the tests' own; ``given`` are settings."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    coverage = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
    settings = {"drain_seconds": 0, "allowed_hosts": "x", **QUICK, **given}
    return {
        **kept,
        **coverage,
        **inherited(),
        "JWT_SECRET": SECRET,
        "INTERNAL_API_SECRET": SECRET,
        **{variable(name): str(value) for name, value in settings.items()},
    }


def away() -> dict[str, object]:
    """Settings of a node whose Redis is unavailable: it can't know other nodes, so a drain takes its time."""
    return {"redis_url": f"redis://127.0.0.1:{free_port()}", "redis_timeout": 0.1}


class Program:
    """``eclipse-ws run`` in ``folder``, which also keeps what it prints."""

    def __init__(self, folder: Path, *arguments: str, wrapper: tuple[str, ...] = (), **given: object) -> None:
        self.port = int(str(given.pop("port", 0))) or free_port()
        self.output = folder / "output.txt"
        command = [*wrapper, sys.executable, "-m", "eclipse_ws", "run", "--profile", "test", *arguments]
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port)],
                cwd=folder,
                env=environment(**given),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def printed(self) -> str:
        """What it has printed."""
        return self.output.read_text()

    async def ready(self) -> Self:
        """Wait until it answers; fails with what it printed if it ends instead."""
        deadline = time.monotonic() + 3 * WAIT
        while True:
            try:
                await http(self.port, "/health")
                return self
            except (OSError, asyncio.IncompleteReadError):
                assert self.process.poll() is None, self.printed
                assert time.monotonic() < deadline, self.printed
                await asyncio.sleep(0.01)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Its exit code, when it has one."""
        deadline = time.monotonic() + 2 * WAIT
        while (code := self.process.poll()) is None:
            assert time.monotonic() < deadline, self.printed
            await asyncio.sleep(0.01)
        return code

    def kill(self) -> None:
        """End it as a crash would. Idempotent."""
        self.process.kill()
        self.process.wait()


@asynccontextmanager
async def program(
    folder: Path, *arguments: str, wrapper: tuple[str, ...] = (), **given: object
) -> AsyncIterator[Program]:
    """The program, answering; killed at the end if it still runs."""
    started = Program(folder, *arguments, wrapper=wrapper, **given)
    try:
        yield await started.ready()
    finally:
        started.kill()
