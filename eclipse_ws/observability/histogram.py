"""How long things take, as plain numbers: written while the server works, read when metrics are scraped."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

LOOP_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Upper bounds in seconds for what happens within turns of the loop; one more bucket takes what is slower."""
LAG_INTERVAL: Final = 0.25
"""Seconds between two looks at how late the loop is."""
CACHE_SHARE: Final = 0.02
"""Part of the time that making one `Cached` answer may take, in the long run."""
CACHE_BURST: Final = 0.1
"""Seconds of such work that may be done at once."""
CACHE_SECONDS: Final = 1.0
"""Age of the oldest answer that is given again."""

T = TypeVar("T")


class Histogram:
    """A histogram of durations; ``buckets`` are not cumulative, the last one has no upper bound."""

    __slots__ = ("bounds", "buckets", "seconds")

    def __init__(self, bounds: Sequence[float] = LOOP_BUCKETS) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.seconds = 0.0

    def count(self, seconds: float) -> None:
        """Note one duration, in seconds."""
        self.seconds += seconds
        self.buckets[bisect_left(self.bounds, seconds)] += 1


class LoopLag:
    """Looks four times a second how much later than asked the event loop calls it."""

    def __init__(self) -> None:
        self.histogram = Histogram()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look from now on, on the running loop."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(LAG_INTERVAL, self._measure, loop, loop.time() + LAG_INTERVAL)

    def stop(self) -> None:
        """Look no more. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _measure(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self.histogram.count(max(0.0, loop.time() - due))
        self.start()


class Cached(Generic[T]):
    """An answer that is made anew for whoever asks, unless so many ask that making it would cost too much."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._value: T
        self._made = -CACHE_SECONDS
        self._spent = 0.0
        """When all the time will be paid for that making it has taken."""

    def get(self) -> T:
        """The answer, at most a second old."""
        now = time.monotonic()
        if self._spent - now > CACHE_BURST / CACHE_SHARE and now - self._made < CACHE_SECONDS:
            return self._value
        self._value, self._made = self._make(), now
        took = time.monotonic() - now
        self._spent = max(self._spent, now) + took / CACHE_SHARE
        return self._value
