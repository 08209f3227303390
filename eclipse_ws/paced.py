"""The event loop as the streams of strangers see it: a few of them are served in each turn."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any, Final

from tornado.ioloop import IOLoop

from eclipse_ws.connections import Gate
from eclipse_ws.readiness import READ, WRITE, watch

EVENTS: Final = 4
"""Streams that are served in a turn for each stranger whom the gate lets through."""


class PacedLoop:
    """An `IOLoop` whose handlers are called a few at a time; everything else is the loop's own.

    On the event loop itself, everything that is ready is served in the same turn: a few hundred steps of TLS
    handshakes, or of bodies that nobody wants, would hold every session up.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._loop = IOLoop.current()
        self._handlers: dict[int, tuple[socket.socket, Callable[[socket.socket, int], None]]] = {}
        self._readiness = watch(asyncio.get_running_loop(), self._ready)

    def add_handler(
        self, of: socket.socket, handler: Callable[[socket.socket, int], None], events: int
    ) -> None:
        """See IOLoop."""
        fd = of.fileno()
        self._readiness.register(fd, events & (READ | WRITE))
        self._handlers[fd] = of, handler

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
        for fd, events in self._readiness.poll(0, EVENTS * self._gate.allowed):
            found = self._handlers.get(fd)
            if found is not None:
                of, handler = found
                handler(of, events)
