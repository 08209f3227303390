"""Ephemeral events on their way to Redis: those of one turn of the loop share a command."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

from redis.exceptions import NoScriptError

from eclipse_ws.backends.redis.connection import CommandConnection
from eclipse_ws.backends.redis.own_events import OwnEvents
from eclipse_ws.backends.redis.scripts import BROADCAST
from eclipse_ws.protocol import Event

MOST: Final = 100
"""Events of one command at most: Redis serves nobody else meanwhile."""
Failed = Callable[[int, BaseException | None], None]
"""Takes how many events were not published, and the error, if it concerns all of them."""


class Broadcasts:
    """Collects the events of a turn. Nobody waits for them."""

    def __init__(self, publish: str, own: OwnEvents, failed: Failed) -> None:
        self._publish = publish
        self._together = publish == "PUBLISH"  # sharded channels of one script would have to be in one slot
        self._own = own
        self._failed = failed
        self._due: list[str | bytes] = []  # channel, payload, channel, payload, and so on
        self._commands: CommandConnection

    def add(self, commands: CommandConnection, channel: str, event: Event) -> None:
        """Publish an event with the next write of a connection."""
        self._due += channel, self._own.broadcast(event)
        if len(self._due) == 2:
            self._commands = commands
            commands.before_next(self._send)
        elif len(self._due) == 2 * MOST:
            commands.flush()

    def _send(self) -> None:
        due, self._due = self._due, []
        if self._together and len(due) > 2:
            self._call_script(due, "EVALSHA", BROADCAST.digest)
            return
        for at in range(0, len(due), 2):
            answer = self._commands.call(self._publish, *due[at : at + 2])
            answer.add_done_callback(self._published)

    def _call_script(self, due: list[str | bytes], *script: str | bytes) -> None:
        answer = self._commands.call(*script, 0, *due)
        answer.add_done_callback(partial(self._published_together, due))

    def _published(self, answer: asyncio.Future[int]) -> None:
        if (error := answer.exception()) is not None:
            self._failed(1, error)

    def _published_together(self, due: list[str | bytes], answer: asyncio.Future[int]) -> None:
        error = answer.exception()
        if isinstance(error, NoScriptError):  # a restarted Redis has lost its scripts
            self._call_script(due, "EVAL", BROADCAST.source)
        elif error is not None:
            self._failed(len(due) // 2, error)
        elif refused := answer.result():
            self._failed(refused, None)
