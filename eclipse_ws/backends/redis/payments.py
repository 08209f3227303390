"""Hands over to Redis what it has not been told, whenever there is a link."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from eclipse_ws.backends.redis.link import Link
from eclipse_ws.backends.redis.links import Links
from eclipse_ws.backends.redis.outage import Outage, Owed

log = structlog.get_logger("eclipse_ws.redis")

BATCH = 250
"""Things owed that are paid in one pipeline."""
RETRY, LAST_RETRY = 1.0, 0.05
"""Seconds until what Redis refused to take is offered again; the second one when the node is closing."""


class Payments:
    """Pays what is owed, oldest first; at most ``limit`` things are, more are lost to the other nodes.

    ``pay`` hands one of them over: False if Redis doesn't take it now. ``break_off`` is told of the chats of
    which something is lost, once the rest is paid; ``count_lost`` is called for each such thing.
    """

    def __init__(
        self,
        links: Links,
        limit: int,
        pay: Callable[[Link, Owed], Awaitable[bool]],
        break_off: Callable[[str], None],
        count_lost: Callable[[], None],
    ) -> None:
        self._links = links
        self._limit = limit
        self._pay = pay
        self._break_off = break_off
        self._count_lost = count_lost
        self._owed = Outage(limit)
        self._paying: asyncio.Task[None] | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._owed)

    def owe(self, owed: Owed) -> None:
        """Note it, and pay it as soon as that can be done."""
        if not self._owed.owe(owed):
            self.overflow(owed)
        self.pay_soon()

    def overflow(self, owed: Owed) -> None:
        """Give something up for want of room."""
        self.lose(owed.chat_id)
        log.error(
            "the queue for redis is full: an event is lost to other nodes, whose sessions will resume",
            chat=owed.chat_id,
            limit=self._limit,
        )
        self.pay_soon()

    def lose(self, chat_id: str) -> None:
        """Count something that is lost, and remember its chat."""
        self._count_lost()
        self._owed.overflowed.add(chat_id)

    def pay_soon(self) -> None:
        """Begin to pay, if anything is owed and there is a link."""
        due = self._owed or self._owed.overflowed
        if due and self._paying is None and self._links.commands is not None:
            self._paying = asyncio.create_task(self._pay_on())
            self._paying.add_done_callback(self._paid)

    async def close(self, seconds: float) -> None:
        """Pay until nothing is owed, Redis has gone, or the time is over; say what is left.

        A payment that is under way may be refused for what was true when it began: it is offered again.
        """
        self._closed = True
        deadline = time.monotonic() + seconds
        while self._owed and self._links.commands is not None:
            self.pay_soon()
            left = deadline - time.monotonic()
            if self._paying is None or left <= 0:
                break
            await asyncio.wait([self._paying], timeout=left)
            if self._owed:
                await asyncio.sleep(LAST_RETRY)
        if self._paying is not None:
            self._paying.cancel()
            await asyncio.gather(self._paying, return_exceptions=True)
        if self._owed:
            log.error("events were not handed over to the other nodes", count=len(self._owed))

    def _paid(self, done: asyncio.Task[None]) -> None:
        self._paying = None
        if not done.cancelled() and done.exception() is not None:
            log.error("paying what is owed failed", exc_info=done.exception())
        if (self._owed or self._owed.overflowed) and not self._closed:
            asyncio.get_running_loop().call_later(RETRY, self.pay_soon)

    async def _pay_on(self) -> None:
        """Pay until nothing is owed; stops at what Redis doesn't take now."""
        while self._owed and (commands := self._links.commands) is not None:
            batch = self._owed.first(BATCH)
            outcomes = await asyncio.gather(*(self._pay(commands, owed) for owed in batch))
            paid = outcomes.index(False) if False in outcomes else len(batch)
            self._owed.paid(paid)
            if paid < len(batch):
                return
        if self._owed.overflowed and self._links.state == "up":
            broken, self._owed.overflowed = self._owed.overflowed, set()
            for chat_id in broken:
                self._break_off(chat_id)
