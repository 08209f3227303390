"""A bounded number of calls at once, and a bounded queue in front of them."""

from __future__ import annotations

import asyncio

from eclipse_ws.api.base import ApiError, ApiStats


class Slots:
    """At most ``limit`` callers hold a slot, at most ``waiting`` wait for one, in the order in which they
    came.

    The curl client has such a queue too, but without a bound, and what waits in it does not count towards a
    timeout.
    """

    def __init__(self, limit: int, waiting: int, stats: ApiStats) -> None:
        self._free = limit
        self._max_waiting = waiting
        self._stats = stats
        # A dict, because it keeps its order and forgets one that gave up in constant time.
        self._queue: dict[asyncio.Future[None], None] = {}

    def take(self) -> bool:
        """Take a free slot at once, if there is one."""
        if not self._free:
            return False
        self._free -= 1
        self._stats.active += 1
        return True

    async def wait(self, deadline: float) -> None:
        """Wait for a slot until ``deadline`` (the loop's clock). Raises ApiError when it is over or the
        queue full.
        """
        if len(self._queue) >= self._max_waiting:
            raise ApiError(
                "api_unavailable",
                f"{len(self._queue)} calls wait for a connection already: the API is slow, or "
                "api_max_connections is too low",
                retry_after=1.0,
            )
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._queue[turn] = None
        self._stats.waiting += 1
        timer = loop.call_at(deadline, self._give_up, turn, "no connection was free within api_timeout")
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled() and turn.exception() is None:
                self.release()  # the slot came in the very moment in which its caller went away
            raise
        finally:
            timer.cancel()
            self._queue.pop(turn, None)
            self._stats.waiting -= 1

    def release(self) -> None:
        """Give a slot back: to the first in the queue, if there is one."""
        self._stats.active -= 1
        while self._queue:
            turn = next(iter(self._queue))
            del self._queue[turn]
            if not turn.done():
                self._stats.active += 1
                turn.set_result(None)
                return
        self._free += 1

    def clear(self, why: str) -> None:
        """Send everybody who waits away."""
        for turn in list(self._queue):
            self._give_up(turn, why)

    def _give_up(self, turn: asyncio.Future[None], why: str) -> None:
        self._queue.pop(turn, None)
        if not turn.done():
            turn.set_exception(ApiError("api_unavailable", why, retry_after=1.0))
