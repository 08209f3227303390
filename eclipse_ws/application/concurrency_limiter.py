"""A bounded number of calls at once, and a bounded queue in front of them, shared out evenly."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final

from eclipse_ws.application.base import ApiError, ApiStats, Share

OF_ONE: Final = 10
"""One user, or one chat of visitors, has at most one part in so many."""
OF_ADDRESS: Final = 4
"""One address has at most one part in so many: an office may be behind it."""
LEAST_WAITING: Final = 10
"""Places in the queue that everybody may have, however short it is."""
LENGTH: Final = 65536
"""Bytes of a call that wait in one place more of the queue: a place is memory."""
LOOK: Final = OF_ONE + OF_ADDRESS + 1
"""Users and chats that are looked at for one that has less than its part of the slots."""


class Portions:
    """How many of ``total`` things each user, chat and address holds, of which at most a part is theirs."""

    __slots__ = ("_held", "_of_address", "_of_one")

    def __init__(self, total: int, least: int = 1) -> None:
        self._of_one = max(total // OF_ONE, least)
        self._of_address = max(total // OF_ADDRESS, least)
        self._held: dict[str, int] = {}

    def is_full(self, share: Share | None) -> bool:
        """Whether the share's user, chat or address has its part; who has no share has none to fill."""
        if share is None:
            return False
        held = self._held
        return held.get(share.who, 0) >= self._of_one or (
            share.address is not None and held.get(share.address, 0) >= self._of_address
        )

    def add(self, share: Share | None, count: int = 1) -> None:
        """Count so many more."""
        for name in share or ():
            if name is not None:
                self._held[name] = self._held.get(name, 0) + count

    def remove(self, share: Share | None, count: int = 1) -> None:
        """Count so many less."""
        for name in share or ():
            if name is not None:
                left = self._held[name] - count
                if left:
                    self._held[name] = left
                else:
                    del self._held[name]


class Slots:
    """At most ``limit`` callers hold a slot, at most ``waiting`` wait for one; a long call counts as several.

    Slots go round by user or chat (`Share.who`), and to each one's callers in the order in which they came.
    Nobody has more than a part of the queue. Who has its part of the slots already is passed over while
    others wait, and can't take the last tenth of them: however long its calls take, others get through.

    The curl client has a queue too, but without a bound, and what waits in it does not count towards a
    timeout.
    """

    def __init__(self, limit: int, waiting: int, stats: ApiStats) -> None:
        self._free = limit
        self._kept = limit // OF_ONE  # for those who have less than their part
        self._max_waiting = waiting
        self._stats = stats
        self._held = Portions(limit)
        self._waiting = Portions(waiting, LEAST_WAITING)
        self._taken = 0  # places of the queue
        # By user or chat, whose turn is next first. Dicts, because they keep their order and forget one that
        # gave up in constant time.
        self._queues: OrderedDict[str, dict[asyncio.Future[None], Share | None]] = OrderedDict()

    def take(self, share: Share | None = None) -> bool:
        """Take a free slot at once, if there is one for this share."""
        if self._free <= self._kept and (not self._free or self._held.is_full(share)):
            return False
        self._take(share)
        return True

    async def wait(self, deadline: float, share: Share | None = None, length: int = 0) -> None:
        """Wait for a slot until ``deadline`` (the loop's clock) with a call of ``length`` bytes. Raises
        ApiError when it is over, the queue full, or the share's part of it.
        """
        if self._taken >= self._max_waiting or self._waiting.is_full(share):
            raise ApiError(
                "api_busy",
                f"{self._stats.waiting} calls wait for a connection, or too many of one sender; "
                "the API is slow, or api_max_connections is too low",
                retry_after=1.0,
            )
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        who = "" if share is None else share.who
        self._queues.setdefault(who, {})[turn] = share
        places = 1 + length // LENGTH
        self._taken += places
        self._stats.waiting += 1
        self._waiting.add(share, places)
        timer = loop.call_at(deadline, self._give_up, who, turn, "no connection was free within api_timeout")
        try:
            await turn
        except asyncio.CancelledError:
            self._forget(who, turn)
            if not turn.cancelled() and turn.exception() is None:
                self.release(share)  # the slot came in the very moment in which its caller went away
            raise
        finally:
            timer.cancel()
            self._taken -= places
            self._stats.waiting -= 1
            self._waiting.remove(share, places)

    def release(self, share: Share | None = None) -> None:
        """Give a slot back: to whoever's turn it is, if anybody waits."""
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
        """Send everybody who waits away."""
        for who, queue in list(self._queues.items()):
            for turn in list(queue):
                self._give_up(who, turn, why)

    def _take(self, share: Share | None) -> None:
        self._free -= 1
        self._stats.active += 1
        self._held.add(share)

    def _next(self) -> str | None:
        """Whose turn it is: the first who has less than its part, or else the first, if there is enough."""
        for _ in range(min(LOOK, len(self._queues))):
            who = next(iter(self._queues))
            if not self._held.is_full(next(iter(self._queues[who].values()))):
                return who
            self._queues.move_to_end(who)
        return next(iter(self._queues), None) if self._free > self._kept else None

    def _forget(self, who: str, turn: asyncio.Future[None]) -> None:
        queue = self._queues.get(who)
        if queue is not None:
            queue.pop(turn, None)
            if not queue:
                del self._queues[who]

    def _give_up(self, who: str, turn: asyncio.Future[None], why: str) -> None:
        self._forget(who, turn)
        if not turn.done():
            turn.set_exception(ApiError("api_unavailable", why, retry_after=1.0))
