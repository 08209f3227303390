"""A replay: what a session has missed, in pieces that its socket's queue has room for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Final

from eclipse_ws.protocol import Cursor
from eclipse_ws.websocket import Socket, text_frame

PATIENCE: Final = 10.0
"""Seconds that a client may take to read one piece."""
LOOK: Final = 0.01
"""Seconds between looks at the socket's queue."""
PART: Final = 2
"""A piece fills one of so many equal parts of the queue: live events need room, too."""


class Replay:
    """Kept events on their way to one session, each once, in the order of their cursors from ``cursor`` on.

    ``missed``: the events' bodies, as the session gets them, and their cursors. ``size``: bytes that wait.
    ``cursor``: that of the last event that was sent.
    """

    def __init__(self, wire: Socket, cursor: Cursor, missed: Iterable[tuple[bytes, Cursor | None]]) -> None:
        self.cursor = cursor
        self._events = deque(missed)
        self.size = sum(len(body) for body, _ in self._events)
        self._wire = wire
        self._most = wire.poll.params.queue_bytes // PART

    def fits(self) -> bool:
        """Whether the socket's queue has room for everything."""
        return self._wire.queued + self.size <= self._most

    def send(self) -> None:
        """Send everything that waits."""
        while self._events:
            self._send_one()

    def send_piece(self) -> None:
        """Send as much as there is room for, at least one event if there is any."""
        if self._events:
            self._send_one()
        while self._events and self._wire.queued + len(self._events[0][0]) <= self._most:
            self._send_one()

    async def drained(self) -> bool:
        """Wait until the client has read most of a piece; False if that takes too long, or it has left."""
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
        body, cursor = self._events.popleft()
        self.size -= len(body)
        self._wire.send(text_frame(body))
        if cursor is not None:
            self.cursor = cursor
