"""Histograms of durations, in plain numbers: written while the server works, read by a scrape."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Generic, TypeVar

LOOP_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Upper bounds in seconds for durations within turns of the loop; one more bucket counts slower ones."""
LAG_INTERVAL: Final = 0.25
"""Seconds between two measurements of the loop's lag."""
CACHE_SHARE: Final = 0.02
"""Fraction of the time that computing one `Cached` value may take, in the long run."""
CACHE_BURST: Final = 0.1
"""Seconds of such work that may be done in a burst."""
CACHE_SECONDS: Final = 1.0
"""Maximum age of a cached value."""
SLICE: Final = 0.0001
"""Seconds that the making of a `CachedPage` takes in one turn of the loop, and one piece more."""

T = TypeVar("T")


class Histogram:
    """A histogram of durations; ``buckets`` are not cumulative, the last one has no upper bound."""

    __slots__ = ("bounds", "buckets", "seconds")

    def __init__(self, bounds: Sequence[float] = LOOP_BUCKETS) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.seconds = 0.0

    def count(self, seconds: float) -> None:
        """Count one duration, in seconds."""
        self.seconds += seconds
        self.buckets[bisect_left(self.bounds, seconds)] += 1


class LoopLag:
    """Measures four times a second how late the event loop runs a timer."""

    def __init__(self) -> None:
        self.histogram = Histogram()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start to measure, on the running loop."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(LAG_INTERVAL, self._measure, loop, loop.time() + LAG_INTERVAL)

    def stop(self) -> None:
        """Stop measuring. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _measure(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self.histogram.count(max(0.0, loop.time() - due))
        self.start()


class Cached(Generic[T]):
    """A value that is computed for each request, unless frequent requests would make that too expensive."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._value: T
        self._made = -CACHE_SECONDS
        self._spent = 0.0
        """The time at which the computing budget is full again."""

    def get(self) -> T:
        """The value, at most a second old."""
        now = time.monotonic()
        if not self._is_enough(now):
            value = self._make()
            self._keep(value, now, time.monotonic() - now)
        return self._value

    def _is_enough(self, now: float) -> bool:
        """Whether the last value has to be enough."""
        return self._spent - now > CACHE_BURST / CACHE_SHARE and now - self._made < CACHE_SECONDS

    def _keep(self, value: T, began: float, took: float) -> None:
        self._value, self._made = value, began
        self._spent = max(self._spent, began) + took / CACHE_SHARE


class CachedPage(Cached[Iterable[bytes]]):
    """The same for a page that is made in pieces, over several turns of the loop."""

    def __init__(self, make: Callable[[], Iterable[bytes]]) -> None:
        super().__init__(make)
        self._turn = asyncio.Lock()

    async def fetch(self) -> bytes:
        """The page, at most a second old; requests that come while it is made share the next one."""
        asked = time.monotonic()
        async with self._turn:
            if self._made < asked and not self._is_enough(asked):
                pieces, took = [], 0.0
                made = began = time.monotonic()
                for piece in self._make():
                    pieces.append(piece)
                    spent = time.monotonic() - began
                    if spent > SLICE:
                        took += spent
                        await asyncio.sleep(0)
                        began = time.monotonic()
                self._keep([b"".join(pieces)], made, took + time.monotonic() - began)
            return b"".join(self._value)
