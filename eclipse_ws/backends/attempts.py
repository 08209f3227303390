"""The attempts that this node knows of: who saves a message, and who waits for the outcome."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

from eclipse_ws.backends.base import Attempt
from eclipse_ws.protocol import Receipt


class _Entry:
    __slots__ = ("attempt", "expires", "settled")

    def __init__(self, attempt: Attempt, expires: float) -> None:
        self.attempt = attempt
        self.expires = expires
        self.settled: asyncio.Future[None] | None = None


_Place = tuple[str, str]  # chat and key


class Attempts:
    """A bounded table of (chat, key) -> attempt, whose entries live for ``lifetime`` seconds.

    At most ``limit`` are remembered; of more, the oldest settled ones are forgotten first: to forget one that
    is under way could save its message twice.
    """

    def __init__(self, lifetime: float, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._lifetime = lifetime
        self._limit = limit
        self._clock = clock
        self._pending: OrderedDict[_Place, _Entry] = OrderedDict()
        self._settled: OrderedDict[_Place, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pending) + len(self._settled)

    async def take(self, chat_id: str, key: str, *, again: bool, patience: float) -> Attempt:
        """Answer the outcome that is known, wait for one that is under way, or begin a new attempt.

        Waits at most ``patience`` seconds; an attempt that outlives that is unknown.
        """
        deadline = self._clock() + patience
        while entry := self._live(chat_id, key):
            attempt = entry.attempt
            if attempt.state == "done" or (attempt.state == "unknown" and not again):
                return attempt
            if attempt.state == "unknown":
                break
            if (left := deadline - self._clock()) <= 0:
                return Attempt(chat_id, key, "unknown")
            if entry.settled is None:
                entry.settled = asyncio.get_running_loop().create_future()
            # Shielded by wait(): one waiter's cancellation must not settle the others.
            await asyncio.wait([entry.settled], timeout=left)
        attempt = Attempt(chat_id, key, "new")
        self._put(attempt)
        return attempt

    def known(self, chat_id: str, key: str) -> Attempt | None:
        """What is known of an attempt now; ``new`` while it is under way."""
        entry = self._live(chat_id, key)
        return None if entry is None else entry.attempt

    def under_way(self) -> list[Attempt]:
        """The attempts that are not settled yet."""
        return [entry.attempt for entry in self._pending.values()]

    def settle(self, attempt: Attempt, state: str, receipt: Receipt | None = None) -> None:
        """Remember an outcome: ``done`` with its receipt, or ``unknown``; whoever waits is told."""
        outcome = Attempt(attempt.chat_id, attempt.key, "done" if state == "done" else "unknown", receipt)
        self._put(outcome)

    def forget(self, attempt: Attempt) -> None:
        """Drop an attempt, so that the next one is new."""
        self._drop((attempt.chat_id, attempt.key))

    def _live(self, chat_id: str, key: str) -> _Entry | None:
        entry = self._pending.get((chat_id, key)) or self._settled.get((chat_id, key))
        if entry is not None and entry.expires <= self._clock():
            self._drop((chat_id, key))
            return None
        return entry

    def _put(self, attempt: Attempt) -> None:
        now = self._clock()
        place = (attempt.chat_id, attempt.key)
        self._drop(place)
        table = self._pending if attempt.state == "new" else self._settled
        table[place] = _Entry(attempt, now + self._lifetime)
        for table in (self._settled, self._pending):
            while table:
                oldest = next(iter(table))
                if oldest == place or (table[oldest].expires > now and len(self) <= self._limit):
                    break
                self._drop(oldest)

    def _drop(self, place: _Place) -> None:
        entry = self._pending.pop(place, None) or self._settled.pop(place, None)
        if entry is not None and entry.settled is not None and not entry.settled.done():
            entry.settled.set_result(None)
