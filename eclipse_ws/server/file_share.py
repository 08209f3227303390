"""What files may take of the loop beside sessions: one at a time, with a pause after each."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

PAUSE: Final = 0.0005
"""Seconds after a file until the next one, while sessions are active. A file takes 0.15 to 0.3 ms, so that a
crowd that loads them takes a third of the time at most, and a message waits for one of them at most.
"""
QUIET: Final = 0.05
"""Seconds without a frame of any session after which files follow each other without a pause."""


class FileShare:
    """Lets requests for files in, the first that came first.

    Each takes as long as a few messages, and a client may send hundreds in one packet: without this, they
    would have all of the time that messages leave, and every message would wait for some of them.
    """

    def __init__(self, frames: Callable[[], int]) -> None:
        """``frames``: how many frames sessions have had since the start."""
        self._frames = frames
        self._known = frames()
        self._active_until = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._pause: asyncio.Handle | None = None

    async def turn(self) -> None:
        """Wait until a file may be sent."""
        if self._pause is None:
            self._begin_pause()
            return
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        await waiting

    def _begin_pause(self) -> None:
        loop = asyncio.get_running_loop()
        now, frames = loop.time(), self._frames()
        if frames != self._known:
            self._known, self._active_until = frames, now + QUIET
        if now < self._active_until:
            self._pause = loop.call_later(PAUSE, self._end_pause)
        else:
            self._pause = loop.call_soon(self._end_pause)

    def _end_pause(self) -> None:
        self._pause = None
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)
                self._begin_pause()
                return
