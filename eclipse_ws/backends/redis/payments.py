"""Hands over to Redis what it has not been told, whenever there is a link."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog
from redis.exceptions import RedisError

from eclipse_ws.backends.redis.connection import Link, LinkError
from eclipse_ws.backends.redis.connections import Links
from eclipse_ws.backends.redis.outage import Outage, Owed
from eclipse_ws.backends.redis.refusals import Refusal, classify

log = structlog.get_logger("eclipse_ws.redis")

BATCH = 250
"""Things owed that are paid in one pipeline."""
TRIES = 5
"""How often Redis may refuse one thing for a reason that isn't known, while it accepts heartbeats."""
RETRY, LAST_RETRY = 1.0, 0.05
"""Seconds until what Redis refused to take is offered again; the second one when the node is closing."""


class Payments:
    """Pays what is owed, oldest first; at most ``limit`` things are, more are lost to the other nodes.

    ``pay`` hands one of them over, or raises what Redis has against it. ``break_off`` is told of the
    chats that have lost an event (see `lose`), once the rest is paid, ``count_lost`` of each lost event.
    """

    def __init__(
        self,
        links: Links,
        limit: int,
        pay: Callable[[Link, Owed], Awaitable[None]],
        break_off: Callable[[str, str], None],
        count_lost: Callable[[], None],
    ) -> None:
        self._links = links
        self._limit = limit
        self._pay = pay
        self._break_off = break_off
        self._count_lost = count_lost
        self._owed = Outage(limit)
        self._lost: dict[str, str] = {}  # chats, and the epoch in which every node has lost the same event
        self._paying: asyncio.Task[None] | None = None
        self._refused = 0  # how often Redis has refused the oldest thing owed, alone
        self._closed = False

    def __len__(self) -> int:
        return len(self._owed)

    def owe(self, owed: Owed) -> None:
        """Note it, and pay it as soon as that can be done."""
        if not self._owed.owe(owed) and owed.event is not None:
            self.overflow(owed.chat_id)
        self._pay_unless_refused()

    def overflow(self, chat_id: str, epoch: str = "") -> None:
        """Give an event up for want of room; see `lose`."""
        if not self._lost:
            log.error(
                "the queue for redis is full: events are lost to other nodes, whose sessions will resume",
                chat=chat_id,
                limit=self._limit,
            )
        self.lose(chat_id, epoch)

    def lose(self, chat_id: str, epoch: str = "") -> None:
        """Count an event that is lost, and have its chat broken off once the rest is paid.

        ``epoch``: the one in which every node that hears the chat has lost the same event. The first of them
        begins another one.
        """
        self._count_lost()
        self._lost[chat_id] = epoch if self._lost.get(chat_id, epoch) else ""
        self._pay_unless_refused()

    def _pay_unless_refused(self) -> None:
        """Begin to pay; what Redis has refused is offered again in its own time, whatever comes meanwhile."""
        if not self._refused:
            self.pay_soon()

    def pay_soon(self) -> None:
        """Begin to pay, if anything is owed and there is a link."""
        due = self._owed or self._lost
        if due and self._paying is None and self._links.commands is not None:
            self._paying = asyncio.create_task(self._pay_on())
            self._paying.add_done_callback(self._paid)

    async def close(self, seconds: float) -> None:
        """Pay until nothing is owed, Redis has gone, or the time is over; say what is left.

        A payment that is under way may be refused for what was true when it began: it is offered again.
        """
        self._closed = True
        deadline = time.monotonic() + seconds
        while self._owed and (self._links.commands or self._links.refusal):
            self.pay_soon()
            left = deadline - time.monotonic()
            if left <= 0:
                break
            if self._paying is not None:
                await asyncio.wait([self._paying], timeout=left)
            if self._owed:
                self._links.beat_soon()  # a Redis that refuses everything may accept it again
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
        if (self._owed or self._lost) and not self._closed:
            asyncio.get_running_loop().call_later(RETRY, self.pay_soon)

    async def _pay_on(self) -> None:
        """Pay until nothing is owed; stops at what Redis doesn't take now."""
        while self._owed and (commands := self._links.commands) is not None:
            # What was refused goes alone: what comes behind it must not overtake it.
            batch = self._owed.first(1 if self._refused else BATCH)
            outcomes = await asyncio.gather(
                *(self._pay(commands, owed) for owed in batch), return_exceptions=True
            )
            for owed, error in zip(batch, outcomes, strict=True):
                if error is not None and not self._gives_up(owed, error):
                    return
                self._owed.paid(1)
                self._refused = 0
        if self._lost and self._links.state == "up":
            lost, self._lost = self._lost, {}
            for chat_id, epoch in lost.items():
                self._break_off(chat_id, epoch)

    def _gives_up(self, owed: Owed, error: BaseException) -> bool:
        """Whether a thing owed is lost, because Redis refuses it alone."""
        if isinstance(error, LinkError):
            return False
        if not isinstance(error, RedisError):
            raise error
        refusal = classify(error)
        if refusal is not Refusal.REJECTED:
            if self._links.doubt(error):
                return False
            self._refused += 1
            # Of a chat that has lost one already, no more are waited for: its sessions resume anyway.
            waits = self._refused < TRIES and owed.chat_id not in self._lost
            if waits or refusal is not Refusal.UNAVAILABLE:
                return False
        self.lose(owed.chat_id)
        log.error(
            "redis will never take this, it was dropped", chat=owed.chat_id, why=str(error), fix=refusal.value
        )
        return True
