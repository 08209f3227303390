"""The reporter: the one node of all that tells the application who is in its chats, and what was read.

Every node with ECLIPSE_APP_EVENTS_URL has a `Reporter`::

    standby ──nobody holds the ledger, or its holder is gone──▶ reporting ──another node holds it──▶ standby

The ledger, in the backend, says who reports, what the application knows about each chat, and what it has yet
to be told. So the node that comes next, after any of these nodes has died, knows what is missing:

    census, reads ──▶ what is new ──▶ ledger ──▶ application ──▶ ledger

A holder is gone when presence says so: it costs no command to stay the holder.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

import structlog

from eclipse_ws.application.occupancy import Occupancy
from eclipse_ws.application.report_queue import ReportQueue
from eclipse_ws.application.reports import MAX_BATCH
from eclipse_ws.application.reports_client import ApplicationBusy, BatchRefused, ReportsClient
from eclipse_ws.backends.base import Backend, Unavailable
from eclipse_ws.backends.ledger import MAX_RECORDS, Ledger
from eclipse_ws.config.settings import Settings
from eclipse_ws.delivery.delivery import Delivery
from eclipse_ws.delivery.marks import ReadPosition
from eclipse_ws.delivery.tasks import Tasks
from eclipse_ws.protocol import moment
from eclipse_ws.protocol.reports import Report

T = TypeVar("T")
log = structlog.get_logger("eclipse_ws.application")

SPACING: Final = 0.1
"""Seconds between two writes of the ledger; what happens meanwhile shares one."""
ABSENT: Final = 10.0
"""Seconds for which a holder that was never heard may be silent, while the backend is up."""
COUNT: Final = 5.0
"""Seconds that the nodes have to tell a new reporter who is there; most take one."""
LOOK: Final = 0.5
"""Seconds between two looks at whether the holder is known."""
RETRY: Final = 1.0
"""Seconds until the backend is asked again."""
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0
"""Seconds until the application is told again; twice as long after each time that it didn't take a batch."""
LAST_REPORTS: Final = 1.0
"""Seconds in which a reporter that stops sends what waits; the next one sends the rest."""
RECENT: Final = 60.0
"""Seconds for which a node remembers reads while the reporter lives, which may die before it tells them."""
MAX_READS: Final = 10_000
"""Reads that are remembered, or that wait for room in the queue, each."""


@dataclass(slots=True)
class ReportCounts:
    """Plain counters, read when metrics are scraped."""

    sent: int = 0
    refused: int = 0
    """Reports that the application can't take, and which were dropped."""
    failures: int = 0
    """Batches that the application didn't take, and which were sent again."""


class Reporter:
    """Tells the application, as long as this node holds the ledger."""

    def __init__(
        self,
        backend: Backend,
        delivery: Delivery,
        client: ReportsClient,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._presence = delivery.presence
        self._marks = delivery.marks
        self._client = client
        self._clock = clock
        self._ledger: Ledger
        self._holder = ""  # as far as this node knows
        self._is_gone = False  # presence has said so of that one
        self._news = asyncio.Event()
        self._due = asyncio.Event()
        self._ready = asyncio.Event()
        self._queue = ReportQueue()
        self._occupancy = Occupancy(lambda chat_id: {})
        self._recent: dict[tuple[str, str], tuple[float, ReadPosition]] = {}
        self._reads: dict[tuple[str, str], ReadPosition] = {}
        self._made = 0
        self._tasks = Tasks()
        self.is_reporting = False
        self.counts = ReportCounts()

    @property
    def waiting(self) -> int:
        """Reports that the application has yet to get from this node."""
        return len(self._queue)

    async def start(self) -> None:
        """Begin, once delivery has started. A backend without a ledger is logged, and nothing is reported."""
        if self._backend.ledger is None:
            fix = "use a backend that has one, or remove ECLIPSE_APP_EVENTS_URL"
            log.error("nothing is reported to the application: the backend has no ledger", fix=fix)
            return
        self._ledger = self._backend.ledger
        self._presence.gone = self._gone
        self._marks.heard = self._read
        await self._client.start()
        self._tasks.start(self._run(), name="reporter")

    async def close(self) -> None:
        """Send what is ready, for a short time, and stop. Idempotent."""
        deadline = self._clock() + LAST_REPORTS
        while self.is_reporting and self._queue.is_ready and self._clock() < deadline:  # noqa: ASYNC110 - rare
            await asyncio.sleep(0.02)
        await self._tasks.close()
        await self._client.close()

    def reload(self, settings: Settings) -> None:
        """Sign with the secret of these settings from the next batch on."""
        self._client.reload(settings)

    # -- what presence and marks say --------------------------------------------------------------

    def _gone(self, node: str) -> None:
        if node == self._holder:
            self._is_gone = True
            self._news.set()

    def _read(self, chat_id: str, position: ReadPosition) -> None:
        """A user has read further, on any node."""
        key = chat_id, position.user_id
        if self.is_reporting:
            _put(self._reads, key, position)
            self._due.set()
        _put(self._recent, key, (self._clock(), position))

    def _forget_reads(self) -> None:
        """Forget the reads that a reporter which lives has told since, or has put into the ledger."""
        now = self._clock()
        for key in [key for key, (at, _) in self._recent.items() if now - at >= RECENT]:
            del self._recent[key]

    def _changed(self, chat_id: str) -> None:
        self._occupancy.changed(chat_id)
        self._due.set()

    # -- who reports ------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            try:
                await self._take_ledger()
                await self._report()
            except Unavailable as error:
                log.log(_level(error), "ledger not taken; trying again", why=str(error))
            except Exception:
                log.exception("reporting to the application failed; trying again")
            finally:
                self._forget()
            await asyncio.sleep(RETRY)

    def _forget(self) -> None:
        """Know nothing of what the application was told: from now on another node tells it."""
        self.is_reporting = False
        self._presence.end_census()
        self._forget_reads()
        self._queue, self._occupancy = ReportQueue(), Occupancy(lambda chat_id: {})
        self._reads.clear()

    async def _take_ledger(self) -> None:
        """Return once this node holds the ledger. Raises Unavailable."""
        node, gone = self._presence.node, ""
        while True:
            self._is_gone = False
            self._holder = await self._ledger.take(node, gone)
            if self._holder == node:
                return
            gone = self._holder
            await self._until_gone(gone)

    async def _until_gone(self, holder: str) -> None:
        absent = 0.0
        while not self._is_gone and absent < ABSENT:
            if self._presence.knows(holder):
                absent = 0.0
                self._forget_reads()
            elif self._backend.health.state == "up":
                absent += LOOK
            self._news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await self._news.wait()

    # -- what the holder does ---------------------------------------------------------------------

    async def _report(self) -> None:
        """Report until another node holds the ledger. Raises Unavailable before anything was told."""
        records = await self._ledger.read()
        census = self._presence.take_census(self._changed)
        self._occupancy = Occupancy(census.users)
        self._occupancy.told = self._queue.load(records)
        deadline = self._clock() + COUNT
        while not self._presence.is_census_complete and self._clock() < deadline:  # noqa: ASYNC110 - rare
            await asyncio.sleep(SPACING)
        for chat_id in (*self._occupancy.told, *census.chats()):
            self._occupancy.changed(chat_id)
        self._reads = {key: read for key, (_, read) in self._recent.items()}
        self.is_reporting = True
        log.info("reporting to the application", chats=len(self._occupancy.told), waiting=len(self._queue))
        posting = asyncio.create_task(self._post_all(), name="reports")
        try:
            while await self._write():
                await self._wait()
        finally:
            posting.cancel()
            with suppress(asyncio.CancelledError):
                await posting
        log.info("another node reports to the application now", waiting=len(self._queue))

    async def _wait(self) -> None:
        """Wait for something to write."""
        await asyncio.sleep(SPACING)
        due, timeout = self._occupancy.next_due, None
        if due is not None:
            timeout = max(0.0, due - self._clock())
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._due.wait()
        self._due.clear()

    async def _write(self) -> bool:
        """Have the ledger keep what is new. False if another node holds it."""
        self._collect()
        while chats := self._queue.take_changes(MAX_RECORDS):
            told = self._occupancy.told
            records = {chat_id: self._queue.record(chat_id, told.get(chat_id)) for chat_id in chats}
            try:
                kept = await self._ledger.write(self._presence.node, records)
                if not kept:
                    self._holder = await self._ledger.take(self._presence.node)
            except Unavailable as error:
                log.log(_level(error), "ledger not written; trying again", why=str(error))
                self._queue.change(chats)
                await asyncio.sleep(RETRY)
                continue
            if kept:
                continue
            if self._holder != self._presence.node:
                return False
            self._queue.change([*chats, *told, *self._queue.chats()])  # the backend has lost its data
        self._queue.save()
        self._ready.set()
        return True

    def _collect(self) -> None:
        """Make reports of what is new, as far as there is room."""
        queue, wall = self._queue, time.time()
        for turn in self._occupancy.collect(self._clock(), queue.room, queue.is_full):
            at = moment(wall - turn.ago)
            queue.add(Report(self._id(), turn.type, turn.chat_id, at, turn.user_id, turn.role))
        for key in list(self._reads)[: max(0, queue.room)]:
            chat_id = key[0]
            if not queue.is_full(chat_id):
                user_id, role, message_id = self._reads.pop(key)
                queue.add(Report(self._id(), "read", chat_id, moment(wall), user_id, role, message_id))

    def _id(self) -> str:
        self._made += 1
        return f"{self._presence.node}.{self._made}"

    # -- what the application gets ----------------------------------------------------------------

    async def _post_all(self) -> None:
        """Send what is ready, batch by batch, until cancelled."""
        wait, single = FIRST_WAIT, 0
        while True:
            await self._ready.wait()
            batch = self._queue.batch(1 if single else MAX_BATCH)
            if not batch:
                self._ready.clear()
                continue
            try:
                await self._client.post(batch)
            except ApplicationBusy as error:
                self.counts.failures += 1
                log.warning("reports not taken; trying again", why=str(error), waiting=len(self._queue))
                pause = wait * random.uniform(0.5, 1)  # noqa: S311  # nosec B311 - jitter
                await asyncio.sleep(pause if error.retry_after is None else error.retry_after)
                wait = min(2 * wait, LONGEST_WAIT)
                continue
            except BatchRefused as error:
                if len(batch) > 1:
                    single = len(batch)
                    continue
                self.counts.refused += 1
                report = batch[0]
                log.error("report refused", type=report.type, chat=report.chat_id, why=str(error))
            except Exception:
                log.exception("reports not sent; trying again")
                await asyncio.sleep(LONGEST_WAIT)
                continue
            else:
                self.counts.sent += len(batch)
            wait, single = FIRST_WAIT, max(0, single - 1)
            self._queue.done(batch)
            self._due.set()


def _level(error: Unavailable) -> int:
    """How loud the log is: an outage has its own lines, but a backend that refuses only this has none."""
    return logging.WARNING if error.refused else logging.DEBUG


def _put(known: dict[tuple[str, str], T], key: tuple[str, str], value: T) -> None:
    """Put a value at the end, and drop the oldest if there are too many."""
    known.pop(key, None)
    known[key] = value
    if len(known) > MAX_READS:
        del known[next(iter(known))]
