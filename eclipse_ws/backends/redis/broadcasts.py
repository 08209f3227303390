"""Ephemeral events on their way to Redis: those of one turn of the loop share a command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from redis.exceptions import NoScriptError

from eclipse_ws.backends.redis.connection import CommandConnection
from eclipse_ws.backends.redis.scripts import BROADCAST
from eclipse_ws.protocol import Event, with_origin

MOST: Final = 100
"""Events of one command at most: Redis serves nobody else meanwhile."""
REMEMBERED: Final = 10_000
"""Events on their way at most: 5 MB."""
Failed = Callable[[int, Exception | None], None]
"""Takes how many events were not published, and the error, if it concerns all of them."""


class Broadcasts:
    """Collects the events of a turn. Nobody waits for them.

    ``on_their_way`` has those that may still be heard, by their payload: what this node has published need
    not be parsed again. What it never hears is forgotten with all others, now and then.
    """

    def __init__(self, publish: str, failed: Failed) -> None:
        self._publish = publish
        self._together = publish == "PUBLISH"  # sharded channels of one script would have to be in one slot
        self._failed = failed
        self._due: list[str | bytes] = []  # channel, payload, channel, payload, and so on
        self.on_their_way: dict[bytes, Event] = {}
        self._commands: CommandConnection

    def add(self, commands: CommandConnection, channel: str, event: Event) -> None:
        """Publish an event with the next write of a connection."""
        payload = with_origin(event) if event.origin else event.body
        if len(self.on_their_way) == REMEMBERED:
            self.on_their_way.clear()
        self.on_their_way[payload] = event
        self._due += channel, payload
        if len(self._due) == 2:
            self._commands = commands
            commands.before_next(self._send)
        elif len(self._due) == 2 * MOST:
            commands.flush()

    def _send(self) -> None:
        due, self._due = self._due, []
        if self._together and len(due) > 2:
            _Batch(self._commands, due, self._failed).send("EVALSHA", BROADCAST.digest)
            return
        for at in range(0, len(due), 2):
            self._commands.post(_One(self._failed), self._publish, *due[at : at + 2])


class _One:
    """Takes the answer to one event's command."""

    __slots__ = ("_failed",)

    def __init__(self, failed: Failed) -> None:
        self._failed = failed

    def done(self) -> bool:
        """See Waiter."""
        return False

    def set_result(self, _answer: int, /) -> None:
        """See Waiter."""

    def set_exception(self, error: Exception, /) -> None:
        """See Waiter."""
        self._failed(1, error)


class _Batch:
    """Sends many events' script, and takes the answer."""

    __slots__ = ("_commands", "_due", "_failed")

    def __init__(self, commands: CommandConnection, due: list[str | bytes], failed: Failed) -> None:
        self._commands = commands
        self._due = due
        self._failed = failed

    def send(self, *script: str | bytes) -> None:
        """Call the script, by its digest or as a whole."""
        self._commands.post(self, *script, "0", *self._due)

    def done(self) -> bool:
        """See Waiter."""
        return False

    def set_result(self, refused: int, /) -> None:
        """See Waiter."""
        if refused:
            self._failed(refused, None)

    def set_exception(self, error: Exception, /) -> None:
        """See Waiter. A Redis that was restarted has lost its scripts."""
        if isinstance(error, NoScriptError):
            self.send("EVAL", BROADCAST.source)
        else:
            self._failed(len(self._due) // 2, error)
