"""The command queue: a session's commands that wait for those in progress. Pure; no I/O."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Coroutine
from typing import Any, Final, NamedTuple

MOST_RUNNING: Final = 8
"""Maximum number of chats in which a session has a command in progress."""
MOST_WAITING: Final = 32
"""Maximum number of waiting commands of one session."""
MOST_BYTES: Final = 1 << 18
"""Maximum bytes of these commands; the last one may exceed it."""
COST: Final = 512
"""Bytes that a waiting command takes besides its content."""


class Waiting(NamedTuple):
    """A command that was read and has not begun; ``key`` is its clientMessageId, ``chat_id`` its chat."""

    work: Coroutine[Any, Any, None]
    key: str | None
    chat_id: str
    size: int


class CommandQueue:
    """First in, first out, one at a time in each chat: a slow chat holds no other one up.

    ``chat_id``: the chat in which a command is in progress already. ``held``: the bytes of all that wait.
    ``beside``: the tasks that run commands beside the session's first one.
    """

    __slots__ = ("_busy", "_commands", "_room", "beside", "held")

    def __init__(self, chat_id: str) -> None:
        self.held = 0
        self.beside: set[asyncio.Task[None]] = set()
        self._busy = {chat_id}
        self._commands: deque[Waiting] = deque()
        self._room: asyncio.Future[None] | None = None

    def begin(self, chat_id: str) -> bool:
        """Whether a command in a chat may begin at once; until `after` the next one in this chat waits."""
        if chat_id in self._busy or len(self._busy) >= MOST_RUNNING:
            return False
        self._busy.add(chat_id)
        return True

    def after(self, chat_id: str) -> Waiting | None:
        """Note that a chat's command has ended. Returns the oldest one that may begin, and now does."""
        self._busy.discard(chat_id)
        for waiting in self._commands:
            if waiting.chat_id not in self._busy:
                self._commands.remove(waiting)
                self._busy.add(waiting.chat_id)
                self._release(waiting)
                return waiting
        return None

    def put(
        self, work: Coroutine[Any, Any, None], key: str | None, chat_id: str, said: str
    ) -> asyncio.Future[None] | None:
        """Append a command. If that fills the queue, returns what to wait for before reading the next one.

        ``said`` is its content, which counts against the queue's bound.
        """
        size = COST + sys.getsizeof(said)
        self.held += size
        self._commands.append(Waiting(work, key, chat_id, size))
        if self._is_full and self._room is None:
            self._room = asyncio.get_running_loop().create_future()
        return self._room

    def take(self) -> Waiting:
        """The oldest command. Raises IndexError if none waits."""
        waiting = self._commands.popleft()
        self._release(waiting)
        return waiting

    def _release(self, waiting: Waiting) -> None:
        self.held -= waiting.size
        if self._room is not None and not self._is_full:
            self._room.set_result(None)
            self._room = None

    @property
    def _is_full(self) -> bool:
        return len(self._commands) >= MOST_WAITING or self.held >= MOST_BYTES

    def __len__(self) -> int:
        """Number of waiting commands."""
        return len(self._commands)
