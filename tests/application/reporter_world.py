"""Nodes with reporters, over a backend with every fault, and an application that checks what it is told."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, TypeVar

from eclipse_ws.application.reporter import Reporter
from eclipse_ws.application.reports import MAX_BATCH, Report
from eclipse_ws.application.reports_client import ApplicationBusy, BatchRefused
from eclipse_ws.backends.ledger import Ledger, MemoryLedger
from eclipse_ws.delivery.marks import ReadPosition
from tests.delivery.presence_world import Node
from tests.delivery.world import Flaky

T = TypeVar("T")


class Told:
    """A chat, as the application knows it by the reports."""

    def __init__(self) -> None:
        self.occupied = False
        self.users: dict[str, str] = {}
        self.reads: dict[str, str] = {}

    def take(self, report: Report) -> None:
        """Take the next one; each must fit what was said before."""
        match report.type:
            case "chat_occupied":
                assert not self.occupied, report
                self.occupied = True
            case "chat_vacated":
                assert self.occupied, report
                assert not self.users, report
                self.occupied = False
            case "user_joined":
                assert self.occupied, report
                assert report.user_id not in self.users, report
                self.users[report.user_id] = report.role
            case "user_left":
                assert self.users.pop(report.user_id) == report.role, report
            case "read":
                self.reads[report.user_id] = report.message_id


class Application:
    """Takes batches as a real application does; ``trouble`` is how often it fails."""

    def __init__(self, chance: random.Random, trouble: float = 0.0) -> None:
        self.chance = chance
        self.trouble = trouble
        self.refuses: set[str] = set()
        """Chats whose reports it takes for malformed."""
        self.is_down = False
        self.reports: dict[str, Report] = {}
        self.chats: dict[str, Told] = defaultdict(Told)
        self.batches: list[int] = []
        self.repeats = 0

    def count(self, kind: str, chat_id: str | None = None) -> int:
        """How many different reports of a type it has got."""
        return sum(r.type == kind and chat_id in (None, r.chat_id) for r in self.reports.values())

    def client(self) -> Any:
        """What a reporter sends with."""
        return SimpleNamespace(start=_nothing, close=_nothing, post=self.post)

    async def post(self, reports: Sequence[Report]) -> None:
        """Take a batch, or not; see `ReportsClient.post`."""
        assert 0 < len(reports) <= MAX_BATCH
        await asyncio.sleep(self.chance.choice([0, 0.001, 0.1]))
        if self.is_down or self.chance.random() < self.trouble:
            raise ApplicationBusy("status 500")
        if any(report.chat_id in self.refuses for report in reports):
            raise BatchRefused("status 400")
        self.batches.append(len(reports))
        for report in reports:
            if report.id in self.reports:
                assert self.reports[report.id] == report
                self.repeats += 1
            else:
                self.reports[report.id] = report
                self.chats[report.chat_id].take(report)
        await asyncio.sleep(self.chance.choice([0, 0.001, 0.1]))
        if self.chance.random() < self.trouble:
            raise ApplicationBusy("no response")


async def _nothing() -> None:
    pass


class FlakyLedger(Ledger):
    """One node's way to the ledger that all share."""

    def __init__(self, backend: Flaky, shared: MemoryLedger) -> None:
        self._backend = backend
        self._shared = shared
        self.commands = 0

    async def take(self, holder: str, instead_of: str = "") -> str:
        """See the contract."""
        return await self._do(lambda: self._shared.take(holder, instead_of))

    async def write(self, holder: str, records: Mapping[str, bytes]) -> bool:
        """See the contract."""
        return await self._do(lambda: self._shared.write(holder, records), late=True)

    async def read(self) -> dict[str, bytes]:
        """See the contract."""
        return await self._do(lambda: self._shared.read())

    async def _do(self, work: Callable[[], Coroutine[Any, Any, T]], *, late: bool = False) -> T:
        self.commands += 1

        def effect() -> T:
            try:
                work().send(None)
            except StopIteration as end:
                found: T = end.value
                return found
            raise AssertionError("a ledger in memory never waits")

        return await self._backend._do(effect, writes=True, late=late)


class Reporting(Node):
    """A node with a reporter."""

    def __init__(self, backend: Flaky, clock: Any, shared: MemoryLedger, application: Application) -> None:
        super().__init__(backend, clock)
        backend.ledger = self.ledger = FlakyLedger(backend, shared)
        self.marks: Any = SimpleNamespace(heard=None)
        delivery: Any = SimpleNamespace(presence=self.presence, marks=self.marks)
        self.reporter = Reporter(backend, delivery, application.client(), clock)

    async def start(self) -> Reporting:
        """Begin."""
        await super().start()
        await self.reporter.start()
        return self

    async def close(self) -> None:
        """Its sessions end, and so does it."""
        await self.reporter.close()
        await super().close()

    async def kill(self) -> None:
        """It is gone without a word."""
        backend: Any = self.backend
        backend.send = self._never
        await self.reporter._tasks.close()
        await super().kill()

    def count(self) -> None:
        """Its reporter takes the census."""

    def stop_counting(self) -> None:
        """Its reporter takes the census."""

    def read(self, chat_id: str, user_id: str, message_id: str) -> None:
        """This node hears how far a user has read."""
        self.marks.heard(chat_id, ReadPosition(user_id, "user", message_id))
