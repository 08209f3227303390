"""What Redis has not been told yet: kept events and settled attempts, in order, bounded."""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from eclipse_ws.backends.base import Key, Outcome
from eclipse_ws.protocol import Event

MAX_EVENTS: Final = 10_000
"""Events and settled attempts that wait: minutes of a busy node."""
MAX_BYTES: Final = 1 << 26
"""Bytes of the events that wait; a single one may be larger."""


class Owed(NamedTuple):
    """One thing to do when Redis is back: publish ``event``, or else settle ``key`` with ``outcome``."""

    chat_id: str
    event: Event | None
    key: Key | None = None
    outcome: Outcome | None = None

    @property
    def size(self) -> int:
        """Bytes of its event."""
        return 0 if self.event is None else len(self.event.body)


class Outage:
    """A queue of at most ``limit`` things owed, of MAX_BYTES. What doesn't fit is lost to other nodes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._queue: deque[Owed] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._queue)

    def owe(self, owed: Owed) -> bool:
        """Queue it; False if there is no room."""
        fits = not self._queue or self._bytes + owed.size <= MAX_BYTES
        if len(self._queue) < self._limit and fits:
            self._queue.append(owed)
            self._bytes += owed.size
            return True
        return False

    def first(self, count: int) -> list[Owed]:
        """The oldest, which stay queued until they are `paid`."""
        return [self._queue[at] for at in range(min(count, len(self._queue)))]

    def paid(self, count: int) -> None:
        """Forget the oldest ``count``."""
        for _ in range(count):
            self._bytes -= self._queue.popleft().size
