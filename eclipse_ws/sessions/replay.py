"""A replay: what a session has missed, in pieces that its socket's queue has room for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Final

from eclipse_ws.protocol import Cursor, Event
from eclipse_ws.websocket import Socket, text_frame

PATIENCE: Final = 10.0
"""Seconds that a client may take to read one piece."""
LOOK: Final = 0.01
"""Seconds between looks at the socket's queue."""
PART: Final = 2
"""A piece fills the queue to one part in so many: what is live comes on top of the last one."""


class Replay:
    """Kept events on their way to one session, each once, in the order of their cursors from ``cursor`` on.

    ``size`` is what waits, in bytes. ``cursor`` follows what was sent.
    """

    def __init__(self, wire: Socket, cursor: Cursor, missed: Iterable[Event]) -> None:
        self.cursor = cursor
        self.size = 0
        self._wire = wire
        self._most = wire.poll.params.queue_bytes // PART
        self._events: deque[Event] = deque()
        self._seen: set[str] = set()
        self.add(missed)

    def add(self, events: Iterable[Event]) -> None:
        """Let events follow that came meanwhile."""
        for event in events:
            self._events.append(event)
            self.size += len(event.body)

    def __len__(self) -> int:
        """How many events wait."""
        return len(self._events)

    def fits(self, more: int = 0) -> bool:
        """Whether the socket's queue has room for everything, and so many bytes besides."""
        return self._wire.queued + self.size + more <= self._most

    def send(self) -> None:
        """Send everything that waits."""
        while self._events:
            self._send_one()

    def send_piece(self) -> None:
        """Send as much as there is room for, at least one event."""
        self._send_one()
        while self._events and self._wire.queued + len(self._events[0].body) <= self._most:
            self._send_one()

    async def drained(self) -> bool:
        """Wait until the client has read most of a piece; False if it takes too long or has left."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + PATIENCE
        while True:
            await asyncio.sleep(LOOK)
            if self._wire.is_closing or self._wire.is_lost:
                return False
            if self._wire.queued <= self._most // 2:
                return True
            if clock() > deadline:
                return False

    def _send_one(self) -> None:
        event = self._events.popleft()
        self.size -= len(event.body)
        # A local copy comes again once it is sequenced, to those who joined after it: not twice now.
        if event.cursor is None or event.cursor.epoch != self.cursor.epoch or event.cursor <= self.cursor:
            return
        if event.identity not in self._seen:
            self._seen.add(event.identity)
            self._wire.send(text_frame(event.body))
        self.cursor = event.cursor
