"""A bounded number of concurrent calls behind a bounded, fair queue."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final

from eclipse_ws.application.base import ApiError, ApiStats, Share
from eclipse_ws.application.deadlines import Deadlines

OF_ONE: Final = 10
"""One user, or one chat of visitors, gets at most 1/OF_ONE of the total."""
OF_ADDRESS: Final = 4
"""One address gets at most 1/OF_ADDRESS of the total: a whole office may share it."""
MIN_WAITING: Final = 10
"""Places in the queue that every caller may have, however short the queue is."""
PLACE_BYTES: Final = 65536
"""A waiting call takes one more place in the queue for each of these bytes, because it holds memory."""
MAX_SCAN: Final = OF_ONE + OF_ADDRESS + 1
"""Users and chats that are examined to find one below its quota of slots."""


class Quotas:
    """How many of ``total`` things each user, chat and address holds; a fraction at most, or ``least``."""

    __slots__ = ("_held", "_of_address", "_of_one")

    def __init__(self, total: int, least: int = 1) -> None:
        self._of_one = max(total // OF_ONE, least)
        self._of_address = max(total // OF_ADDRESS, least)
        self._held: dict[str, int] = {}

    def is_full(self, share: Share | None) -> bool:
        """Whether the share's user, chat or address has used its quota; without a share there is none."""
        if share is None:
            return False
        held = self._held
        return held.get(share.who, 0) >= self._of_one or (
            share.address is not None and held.get(share.address, 0) >= self._of_address
        )

    def add(self, share: Share | None, count: int = 1) -> None:
        """Count ``count`` more for the share."""
        for name in share or ():
            if name is not None:
                self._held[name] = self._held.get(name, 0) + count

    def remove(self, share: Share | None, count: int = 1) -> None:
        """Count ``count`` fewer for the share."""
        for name in share or ():
            if name is not None:
                left = self._held[name] - count
                if left:
                    self._held[name] = left
                else:
                    del self._held[name]


class ConcurrencyLimiter:
    """At most ``limit`` calls hold a slot, at most ``waiting`` wait for one; a long call counts as several.

    They are granted round-robin by user or chat (`Share.who`), and in order of arrival within each. Every
    caller has a quota of the queue. A caller that has used its quota of slots is skipped while others wait,
    and can't take the last tenth of them: however long its calls take, others get through.
    """

    def __init__(self, limit: int, waiting: int, stats: ApiStats) -> None:
        self._free = limit
        self._reserved = limit // OF_ONE  # for callers below their quota
        self._max_waiting = waiting
        self._stats = stats
        self._held = Quotas(limit)
        self._waiting = Quotas(waiting, MIN_WAITING)
        self._taken = 0  # places of the queue
        self._deadlines: Deadlines[asyncio.Future[None]] = Deadlines(self._passed)
        # By user or chat, next turn first. Dicts keep their order, and remove a cancelled call in constant
        # time.
        self._queues: OrderedDict[str, dict[asyncio.Future[None], Share | None]] = OrderedDict()

    def take(self, share: Share | None = None) -> bool:
        """Take a slot if one is free for this share; never waits."""
        if self._free <= self._reserved and (not self._free or self._held.is_full(share)):
            return False
        self._take(share)
        return True

    async def wait(self, deadline: float, share: Share | None = None, length: int = 0) -> None:
        """Wait for a slot until ``deadline`` (the loop's clock) with a call of ``length`` bytes. Raises
        ApiError at the deadline, and at once when the queue, or the share's quota of it, is full.
        """
        if self._taken >= self._max_waiting or self._waiting.is_full(share):
            raise ApiError(
                "api_busy",
                f"too many calls wait for a connection ({self._stats.waiting}), or too many of one sender; "
                "the application is slow, or api_max_connections is too low",
                retry_after=1.0,
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        who = "" if share is None else share.who
        self._queues.setdefault(who, {})[turn] = share
        places = 1 + length // PLACE_BYTES
        self._taken += places
        self._stats.waiting += 1
        self._waiting.add(share, places)
        self._deadlines.add(turn, deadline)
        try:
            await turn
        except (ApiError, asyncio.CancelledError):
            self._forget(who, turn)
            if not turn.cancelled() and turn.exception() is None:
                self.release(share)  # the slot was granted in the moment of the cancellation
            raise
        finally:
            self._deadlines.remove(turn)
            self._taken -= places
            self._stats.waiting -= 1
            self._waiting.remove(share, places)

    def release(self, share: Share | None = None) -> None:
        """Return a slot, and grant it to the next waiting call."""
        self._free += 1
        self._stats.active -= 1
        self._held.remove(share)
        while self._free and (who := self._next()) is not None:
            queue = self._queues[who]
            turn, waiting = next(iter(queue.items()))
            self._forget(who, turn)
            if who in self._queues:
                self._queues.move_to_end(who)
            if not turn.done():
                self._take(waiting)
                turn.set_result(None)

    def clear(self, why: str) -> None:
        """Fail every waiting call."""
        for queue in self._queues.values():
            for turn in queue:
                _fail(turn, why)
        self._deadlines.close()

    def _take(self, share: Share | None) -> None:
        self._free -= 1
        self._stats.active += 1
        self._held.add(share)

    def _next(self) -> str | None:
        """The next user or chat: the first below its quota, else the first, if unreserved slots are free."""
        for _ in range(min(MAX_SCAN, len(self._queues))):
            who = next(iter(self._queues))
            if not self._held.is_full(next(iter(self._queues[who].values()))):
                return who
            self._queues.move_to_end(who)
        return next(iter(self._queues), None) if self._free > self._reserved else None

    def _forget(self, who: str, turn: asyncio.Future[None]) -> None:
        queue = self._queues.get(who)
        if queue is not None:
            queue.pop(turn, None)
            if not queue:
                del self._queues[who]

    def _passed(self, turn: asyncio.Future[None]) -> None:
        _fail(turn, "no connection was free within api_timeout")


def _fail(turn: asyncio.Future[None], why: str) -> None:
    """Fail a waiting call. It stays in its queue until its caller, which wakes now, removes it."""
    if not turn.done():
        turn.set_exception(ApiError("api_unavailable", why, retry_after=1.0))
