"""Deadlines of many things, watched by one timer of the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

T = TypeVar("T")

GRAIN: Final = 0.01
"""Seconds between two checks at least, so that many deadlines in a row cost few of them."""


class Deadlines(Generic[T]):
    """Things that have a deadline, in the order in which they were added.

    Nearly all of them end long before it: adding and removing one costs a dict's entry, not a timer. The
    timer fires early rather than being moved. ``on_passed`` is called with each one whose deadline has
    passed; it has been removed then.
    """

    __slots__ = ("_deadlines", "_on_passed", "_timer")

    def __init__(self, on_passed: Callable[[T], None]) -> None:
        self._on_passed = on_passed
        self._deadlines: dict[T, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._deadlines)

    def __iter__(self) -> Iterator[T]:
        return iter(self._deadlines)

    def add(self, item: T, deadline: float) -> None:
        """Watch the deadline, a time of the running loop's clock."""
        self._deadlines[item] = deadline
        if self._timer is None or deadline < self._timer.when():
            self._arm(deadline)

    def remove(self, item: T) -> None:
        """Forget a deadline, if it is still watched."""
        self._deadlines.pop(item, None)

    def pop(self) -> T:
        """Forget the one that was added last, and return it. Raises KeyError if there is none."""
        return self._deadlines.popitem()[0]

    def close(self) -> None:
        """Forget all deadlines and stop the timer."""
        self._deadlines.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(deadline, self._check)

    def _check(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for item in [item for item, deadline in self._deadlines.items() if deadline <= now]:
            if self._deadlines.pop(item, None) is not None:
                self._on_passed(item)
        if self._deadlines and self._timer is None:
            self._arm(max(min(self._deadlines.values()), now + GRAIN))
