"""The event loop as the streams of strangers see it: a few of them are served in each turn."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from tornado.ioloop import IOLoop

from eclipse_ws.connections import Gate
from eclipse_ws.readiness import READ, WRITE, watch

EVENTS: Final = 4
"""Streams that are served in a turn for each stranger whom the gate lets through."""
CROWD: Final = 64
"""Streams that are ready at once from which on it matters which of them are served first."""
MOST: Final = 4096
"""Streams that are looked at in one turn."""


class _Handler(NamedTuple):
    """What is called for a stream; the newest has the highest number."""

    number: int
    of: socket.socket
    handle: Callable[[socket.socket, int], None]


class PacedLoop:
    """An `IOLoop` whose handlers are called a few at a time; everything else is the loop's own.

    On the event loop itself, everything that is ready is served in the same turn: a few hundred steps of TLS
    handshakes, or of bodies that nobody wants, would hold every session up. Of a crowd that is ready the
    newest and the oldest streams take turns: so a newcomer waits for nobody, and nobody waits for ever.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._loop = IOLoop.current()
        self._handlers: dict[int, _Handler] = {}
        self._added = 0
        self.behind = False
        """Whether newcomers that are served already had to wait in the last turn."""
        self._readiness = watch(asyncio.get_running_loop(), self._ready)

    def add_handler(
        self, of: socket.socket, handler: Callable[[socket.socket, int], None], events: int
    ) -> None:
        """See IOLoop."""
        fd = of.fileno()
        self._readiness.register(fd, events & (READ | WRITE))
        self._added += 1
        self._handlers[fd] = _Handler(self._added, of, handler)

    def update_handler(self, of: socket.socket, events: int) -> None:
        """See IOLoop."""
        self._readiness.modify(of.fileno(), events & (READ | WRITE))

    def remove_handler(self, of: socket.socket) -> None:
        """See IOLoop."""
        if self._handlers.pop(of.fileno(), None) is not None:
            with contextlib.suppress(OSError):
                self._readiness.unregister(of.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def close(self) -> None:
        """Watch nothing any more."""
        self._handlers.clear()
        self._readiness.close()

    def _ready(self) -> None:
        most = EVENTS * self._gate.allowed
        ready = self._readiness.poll(0, CROWD)
        self.behind = False
        if len(ready) == CROWD:
            ready = self._readiness.poll(0, MOST)
            ready.sort(key=self._age)
            half = most // 2
            # More of the newcomers are ready than are served now: others need not begin.
            self.behind = self._age(ready[-half - 1]) > self._added - CROWD
            ready = [*ready[-half:], *ready[: most - half]]
        for fd, events in ready[:most]:
            found = self._handlers.get(fd)
            if found is not None:
                found.handle(found.of, events)

    def _age(self, ready: tuple[int, int]) -> int:
        found = self._handlers.get(ready[0])
        return 0 if found is None else found.number
