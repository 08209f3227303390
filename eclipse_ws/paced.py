"""The event loop as the streams of strangers see it: a few of them are served in each turn."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

from tornado.ioloop import IOLoop

from eclipse_ws.connections import Gate
from eclipse_ws.readiness import READ, WRITE, watch

EVENTS: Final = 4
"""Streams that are served in a turn for each stranger whom the gate lets through."""


class PacedLoop:
    """The part of `IOLoop` that an `IOStream` uses.

    On the event loop itself, everything that is ready is served in the same turn: a few hundred steps of TLS
    handshakes, or of bodies that nobody wants, would hold every session up.
    """

    READ, WRITE, ERROR = IOLoop.READ, IOLoop.WRITE, IOLoop.ERROR

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._loop = IOLoop.current()
        self._handlers: dict[int, Callable[[int, int], None]] = {}
        self._readiness = watch(asyncio.get_running_loop(), self._ready)

    def add_handler(self, fd: int, handler: Callable[[int, int], None], events: int) -> None:
        """See IOLoop."""
        self._readiness.register(fd, events & (READ | WRITE))
        self._handlers[fd] = handler

    def update_handler(self, fd: int, events: int) -> None:
        """See IOLoop."""
        self._readiness.modify(fd, events & (READ | WRITE))

    def remove_handler(self, fd: int) -> None:
        """See IOLoop."""
        if self._handlers.pop(fd, None) is not None:
            with contextlib.suppress(OSError):
                self._readiness.unregister(fd)

    def add_callback(self, callback: Callable[..., Any]) -> None:
        """See IOLoop."""
        self._loop.add_callback(callback)

    def close(self) -> None:
        """Watch nothing any more."""
        self._handlers.clear()
        self._readiness.close()

    def _ready(self) -> None:
        for fd, events in self._readiness.poll(0, EVENTS * self._gate.allowed):
            handler = self._handlers.get(fd)
            if handler is not None:
                handler(fd, events)
