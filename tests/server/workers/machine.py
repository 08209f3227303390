"""A machine: ``eclipse-ws run --workers N`` with its processes, on a real Redis."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from coverage import Coverage
from prometheus_client.parser import text_string_to_metric_families

from tests.client import Client, http, running
from tests.conftest import SECRET
from tests.portable import ROOT, inherited
from tests.servers import free_port

PATIENCE = 30.0
"""Seconds after which something that must happen counts as missing."""
INTERNAL = "b" + SECRET
QUICKLY = {
    "process.WORKER": "tests.server.workers.counted",
    "supervisor.PATIENCE": 3.0,
    "reports.REFRESH": 0.2,
}
"""Constants of the tests: a stuck worker is found out sooner, and more of a killed one's counts are kept."""


def counting() -> dict[str, str]:
    """Variables that make processes count the lines that they run, if those of the tests are counted."""
    if Coverage.current() is None:
        return {}
    return {"COVERAGE_PROCESS_START": str(ROOT / "pyproject.toml"), "COVERAGE_FILE": str(ROOT / ".coverage")}


class Machine:
    """The processes and an application, from their start to their end; then they and the clients are gone."""

    def __init__(
        self, folder: Path, redis_url: str, *flags: str, constants: dict[str, Any] | None = None, **more: str
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.log = folder / "log"
        self.output = folder / "output"
        self.command = [json.dumps(QUICKLY | (constants or {})), "run", "--profile", "test", *flags]
        self.environment = {
            "PATH": os.environ.get("PATH", ""),
            "PORT": str(self.port),
            "JWT_SECRET": SECRET,
            "INTERNAL_API_SECRET": INTERNAL,
            "ECLIPSE_LOG_FORMAT": "json",
            "LOG_LEVEL": "debug",  # at others, not every line is written
            "ECLIPSE_API": "http",
            "ECLIPSE_MESSAGE_RATE": "0",
            "ECLIPSE_COMMAND_RATE": "0",
            **({"REDIS_URL": redis_url} if redis_url else {}),
            **inherited(),
            **counting(),
            **more,
        }
        self.process: subprocess.Popen[bytes]
        self.clients: list[Client] = []
        self.stack = AsyncExitStack()

    async def launch(self) -> Self:
        """Start it."""
        with self.log.open("wb") as log, self.output.open("wb") as output:
            self.process = subprocess.Popen(  # noqa: ASYNC220 - a fork takes no time that matters here
                [sys.executable, "-m", "tests.server.workers.command", *self.command],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
            )
        return self

    async def __aenter__(self) -> Self:
        await self.stack.__aenter__()
        application = await self.stack.enter_async_context(running(internal_api_secret=INTERNAL))
        self.environment["NEXT_API_URL"] = f"http://127.0.0.1:{application.port}"
        await self.launch()
        try:
            await self.until(lambda: self.output.read_text(), "it listens")
        except BaseException:
            self.process.kill()
            self.process.wait()
            await self.stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        for pid in self.pids().values():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        await self.stack.aclose()
        await asyncio.gather(*(client.close() for client in self.clients))
        if error is not None:
            print(self.log.read_text()[-20000:])

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for the condition."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not in {PATIENCE} s; {self.log.read_text()[-3000:]}"
            await asyncio.sleep(0.02)

    async def ended(self) -> int:
        """Wait for the supervisor's end; its exit code."""
        await self.until(lambda: self.process.poll() is not None, "the supervisor ends")
        code = self.process.returncode
        assert isinstance(code, int)
        return code

    # -- its log ----------------------------------------------------------------------------------

    def lines(self, event: str = "", **fields: object) -> list[dict[str, Any]]:
        """The log's lines of this event with these fields."""
        found = []
        for text in self.log.read_text().splitlines():
            if text.startswith("{"):
                line = json.loads(text)
                if event in ("", line["event"]) and fields.items() <= line.items():
                    found.append(line)
        return found

    def pids(self) -> dict[int, int]:
        """The newest process of each worker."""
        return {line["worker"]: line["pid"] for line in self.lines("worker started")}

    def placed(self, prefix: str = "") -> dict[str, int]:
        """The worker that each user's newest session is on."""
        return {
            line["user"]: line["worker"]
            for line in self.lines("session started")
            if line["user"].startswith(prefix)
        }

    def spread(self, prefix: str) -> Counter[int]:
        """How many of these users' sessions each worker has."""
        return Counter(self.placed(prefix).values())

    def kill(self, number: int, how: signal.Signals = signal.SIGKILL) -> int:
        """Send a worker a signal. Returns its process's id."""
        pid = self.pids()[number]
        os.kill(pid, how)
        return pid

    async def restarted(self, number: int, pid: int) -> None:
        """Wait until a worker is ready in another process than this one."""
        await self.until(lambda: self.pids()[number] != pid, "it is started again")
        count = sum(1 for line in self.lines("worker started") if line["worker"] == number)
        await self.until(lambda: len(self.lines("server started", worker=number)) >= count, "it is ready")

    # -- clients ----------------------------------------------------------------------------------

    async def join(self, chat: str, user: str, **more: Any) -> Client:
        """A session of a user."""
        self.clients.append(await Client.join(self.port, chat, user, **more))
        return self.clients[-1]

    async def pair(self, chat: str = "c1") -> dict[int, Client]:
        """A session of the chat on each of two workers, by the worker's number."""
        found: dict[int, Client] = {}
        more = []
        while len(found) < 2:
            user = f"{chat}-pair-{len(more)}"
            more.append(await self.join(chat, user))
            await self.until(lambda name=user: name in self.placed(), "it is logged")  # type: ignore[misc]
            found.setdefault(self.placed()[user], more[-1])
            assert len(more) < 20, f"all sessions are on one worker: {self.placed()}"
        for client in more:
            if client not in found.values():
                await client.close()
        return found

    async def health(self) -> dict[str, Any]:
        """The health document."""
        answer = await http(self.port, "/health")
        document: dict[str, Any] = answer.json
        return document

    async def metrics(self) -> dict[str, float]:
        """Every sample without labels, and those with labels by ``name{value}``."""
        answer = await http(self.port, "/metrics")
        assert answer.status == 200, answer
        return {
            sample.name + (f"{{{','.join(sample.labels.values())}}}" if sample.labels else ""): sample.value
            for family in text_string_to_metric_families(answer.body.decode())
            for sample in family.samples
        }
