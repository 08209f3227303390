"""One worker as the supervisor sees it: its process, what it has said, and how long it has been silent."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess  # nosec B404
import sys
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from eclipse_ws.server.workers.channel import Channel, Message, packed
from eclipse_ws.server.workers.start import Start
from eclipse_ws.server.workers.totals import Report

WORKER: Final = "eclipse_ws.server.workers.worker"
"""The module that a worker runs."""
STARTING: Final = 50.0
"""Seconds more than later that a process has for its first sign of life: a slow core imports for long."""
POLL: Final = 0.02
"""Seconds between two looks at a process that is ending."""


class WorkerProcess:
    """A worker's process, from its start to its end."""

    def __init__(self, number: int, process: subprocess.Popen[bytes], channel: Channel) -> None:
        self.number = number
        self.channel = channel
        self._process = process
        self._started = time.monotonic()
        self.silent = -STARTING
        """Seconds without a sign of life; below 0 before the first one, which may take longer."""
        self.hung = False
        """Whether it was killed because it was stuck."""
        self.ready = False
        self.left = asyncio.Event()
        """Set when it takes no more chats over."""
        self.failure: tuple[str, int] | None = None
        """Why its start has failed, as a sentence, and its exit code."""
        self.metrics: Report = []
        """Its last report."""
        self.health: Message | None = None
        self.reports: dict[str, asyncio.Event] = {"health": asyncio.Event(), "metrics": asyncio.Event()}
        """Set by a report."""

    @classmethod
    async def launch(cls, start: Start) -> WorkerProcess:
        """Start a process for a worker."""
        # A new process rather than a fork, which is not safe on macOS after certain libraries were used.
        ours, theirs = socket.socketpair()
        inherited = [number for numbers in start.sockets.values() for number in numbers]
        with theirs:
            process = subprocess.Popen(  # nosec B603 # noqa: ASYNC220, S603 - it takes milliseconds; all ours
                [sys.executable, "-P", "-m", WORKER, str(theirs.fileno())],
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
                },
                pass_fds=[theirs.fileno(), start.table, *inherited],
                stdin=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C is for the supervisor
            )
        ours.sendall(packed(msgspec.to_builtins(start)))
        return cls(start.number, process, await Channel.open(ours))

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def lived(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self._started

    def say(self, do: str, **more: Any) -> None:
        """Tell it what to do."""
        self.channel.send({"do": do, **more})

    def kill(self) -> None:
        """End it at once. Idempotent."""
        self._process.kill()

    async def end(self) -> int:
        """Wait for its end, after the end of its messages. Returns its exit code, negative for a signal."""
        while (code := self._process.poll()) is None:  # noqa: ASYNC110
            await asyncio.sleep(POLL)
        self.channel.close()
        return code


def how(code: int) -> str:
    """How a process has ended, in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
