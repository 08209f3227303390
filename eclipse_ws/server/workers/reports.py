"""Collects what the workers report, and answers the one that was asked for all of it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import Any, Final

import psutil

from eclipse_ws.server.families import process
from eclipse_ws.server.workers.process import WorkerProcess
from eclipse_ws.server.workers.totals import Totals, health, supervisor_metrics

REPORT_TIME: Final = 0.5
"""Seconds that the workers have for a report; of one that is late, the last one counts."""
AGE: Final = 0.2
"""Seconds for which an answer is used again: so much work can nobody cause by asking."""
REFRESH: Final = 5.0
"""Seconds between two reports that nobody has asked for: what a killed worker counted since is lost."""


class Reports:
    """The workers' reports."""

    def __init__(self, workers: Mapping[int, WorkerProcess], ends: Mapping[str, int]) -> None:
        """``workers`` are those that run; ``ends`` counts how workers have ended."""
        self._workers = workers
        self._ends = ends
        self._totals = Totals()
        self._began = time.monotonic()
        self._collecting: dict[str, asyncio.Task[None]] = {}
        self._waiting: dict[str, dict[int, WorkerProcess]] = {"health": {}, "metrics": {}}
        self._answers: dict[str, tuple[float, Any]] = {}

    async def refresh(self) -> None:
        """Collect metrics regularly."""
        while True:
            await asyncio.sleep(REFRESH)
            await self._collect("metrics")

    def take(self, worker: WorkerProcess, message: dict[str, Any]) -> None:
        """Take a worker's report, if it is one."""
        for what in message.keys() & worker.reports.keys():
            setattr(worker, what, message[what])
            worker.reports[what].set()

    def keep(self, worker: WorkerProcess) -> None:
        """Keep what a worker that has ended had counted."""
        self._totals.keep(worker.metrics)

    def ask(self, worker: WorkerProcess, what: str) -> None:
        """Answer a worker when all have reported, or soon."""
        self._waiting[what][worker.number] = worker
        if what not in self._collecting:
            task = self._collecting[what] = asyncio.create_task(self._answer(what))
            task.add_done_callback(lambda _: self._collecting.pop(what, None))

    async def _answer(self, what: str) -> None:
        made, value = self._answers.get(what, (0.0, None))
        if time.monotonic() - made > AGE:
            await self._collect(what)
            value = self._health() if what == "health" else self._metrics()
            self._answers[what] = time.monotonic(), value
        waiting, self._waiting[what] = self._waiting[what], {}
        for worker in waiting.values():
            worker.say("answer", what=what, value=value)

    async def _collect(self, what: str) -> None:
        asked = [worker for worker in self._workers.values() if worker.ready]
        for worker in asked:
            worker.reports[what].clear()
            worker.say("report", what=what)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REPORT_TIME):
                for worker in asked:
                    await worker.reports[what].wait()

    def _metrics(self) -> str:
        workers = [worker for worker in self._workers.values() if worker.metrics]
        ready = sum(worker.ready for worker in self._workers.values())
        own = [*process(), *supervisor_metrics(ready, self._ends)]
        return self._totals.page([worker.metrics for worker in workers], own).decode()

    def _health(self) -> dict[str, Any] | None:
        found = [worker.health for worker in self._workers.values() if worker.health is not None]
        if not found:
            return None
        largest = [each for one in found for each in one["largest"]]
        memory = psutil.Process().memory_info().rss
        return health(
            [one["document"] for one in found],
            largest,
            uptime=time.monotonic() - self._began,
            own_memory=memory,
        )
