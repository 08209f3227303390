"""The command queue: a session's commands that wait for the one under way. Pure; no I/O."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Coroutine
from typing import Any, Final, NamedTuple

MOST_WAITING: Final = 32
"""Commands of one session that may wait."""
MOST_BYTES: Final = 1 << 18
"""Bytes that they may take; the last one may go beyond them."""
COST: Final = 512
"""Bytes that a waiting command takes beside what it says."""


class Waiting(NamedTuple):
    """A command that was read and has not begun; ``key`` is its clientMessageId."""

    work: Coroutine[Any, Any, None]
    key: str | None
    size: int


class CommandQueue:
    """First in, first out. ``held``: the bytes that all of them take."""

    __slots__ = ("_commands", "_room", "held")

    def __init__(self) -> None:
        self.held = 0
        self._commands: deque[Waiting] = deque()
        self._room: asyncio.Future[None] | None = None

    def put(self, work: Coroutine[Any, Any, None], key: str | None, said: str) -> asyncio.Future[None] | None:
        """Append a command; if the queue is full then, what its session has to wait for before the next."""
        size = COST + sys.getsizeof(said)
        self.held += size
        self._commands.append(Waiting(work, key, size))
        if self._is_full and self._room is None:
            self._room = asyncio.get_running_loop().create_future()
        return self._room

    def take(self) -> Waiting:
        """The oldest command. Raises IndexError if none waits."""
        waiting = self._commands.popleft()
        self.held -= waiting.size
        if self._room is not None and not self._is_full:
            self._room.set_result(None)
            self._room = None
        return waiting

    @property
    def _is_full(self) -> bool:
        return len(self._commands) >= MOST_WAITING or self.held >= MOST_BYTES

    def __len__(self) -> int:
        """How many wait."""
        return len(self._commands)
