"""Which file descriptors are ready.

On Linux the descriptors are in their own epoll, and the event loop watches only that epoll. An idle
descriptor then costs the loop no handle and no context, and a turn in which many are ready costs it one
callback. Other systems (macOS, the BSDs) have no epoll: there the event loop watches each descriptor by its
own means (kqueue, poll, select), and its reports are collected for one callback.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable
from typing import Final, Protocol

READ: Final = 1
"""Something can be read, or the peer is gone. The values are those of epoll and poll on all systems."""
WRITE: Final = 4
BROKEN: Final = 8 | 16
"""An error or a hang-up: reported together with what was polled for, and by epoll also on its own."""


class Readiness(Protocol):
    """The part of `select.epoll` that this package uses."""

    def register(self, fd: int, events: int, /) -> None:
        """Watch a descriptor for these events. Raises FileExistsError if it is registered already."""

    def modify(self, fd: int, events: int, /) -> None:
        """Watch a registered descriptor for these events from now on."""

    def unregister(self, fd: int, /) -> None:
        """Stop watching a descriptor. Raises OSError if it is not registered."""

    def poll(self, timeout: float, most: int, /) -> list[tuple[int, int]]:
        """Up to `most` descriptors that are ready now, each with its events. The timeout must be 0."""

    def close(self) -> None:
        """Stop watching everything."""


def watch(loop: asyncio.AbstractEventLoop, on_ready: Callable[[], None]) -> Readiness:
    """The system's best Readiness; ``on_ready`` is called in each turn of the loop in which `poll` has
    something to return.
    """
    return Epoll(loop, on_ready) if hasattr(select, "epoll") else LoopReadiness(loop, on_ready)


def half_close(fd: int) -> None:
    """Shut down our side of a connection: the peer learns that nothing more will come."""
    connection = socket.socket(fileno=fd)
    try:
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the peer is gone
    finally:
        connection.detach()


class Epoll:
    """An epoll whose descriptor the event loop watches. Its methods are the epoll's own."""

    __slots__ = ("_epoll", "_loop", "modify", "poll", "register", "unregister")

    def __init__(self, loop: asyncio.AbstractEventLoop, on_ready: Callable[[], None]) -> None:
        self._loop = loop
        self._epoll = epoll = select.epoll()
        self.register = epoll.register
        self.modify = epoll.modify
        self.unregister = epoll.unregister
        self.poll = epoll.poll
        loop.add_reader(epoll.fileno(), on_ready)

    def close(self) -> None:
        """See Readiness."""
        if not self._loop.is_closed():
            self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()


class LoopReadiness:
    """Readers and writers of the event loop, collected until the loop's next turn."""

    __slots__ = ("_due", "_found", "_loop", "_on_ready", "_watched")

    def __init__(self, loop: asyncio.AbstractEventLoop, on_ready: Callable[[], None]) -> None:
        self._loop = loop
        self._on_ready = on_ready
        self._watched: dict[int, int] = {}
        """The events that each descriptor is watched for."""
        self._found: dict[int, None] = {}
        """Descriptors that the loop has reported since the last `poll`, in order."""
        self._due: asyncio.Handle | None = None
        """The next call of `on_ready`, if scheduled."""

    def register(self, fd: int, events: int) -> None:
        """See Readiness."""
        if fd in self._watched:
            raise FileExistsError(f"file descriptor {fd} is already watched. Fix: modify it")
        self._watch(fd, 0, events)

    def modify(self, fd: int, events: int) -> None:
        """See Readiness."""
        self._watch(fd, self._known(fd), events)

    def unregister(self, fd: int) -> None:
        """See Readiness."""
        self._watch(fd, self._known(fd), 0)
        del self._watched[fd]
        self._found.pop(fd, None)

    def poll(self, timeout: float, most: int) -> list[tuple[int, int]]:
        """See Readiness."""
        del timeout
        # Polled again, because the loop may report a descriptor once more before it has been read.
        polled = select.poll()
        for fd in list(self._found)[:most]:
            del self._found[fd]
            if events := self._watched[fd]:
                polled.register(fd, events)
        if self._found:
            self._schedule()
        return polled.poll(0)

    def close(self) -> None:
        """See Readiness."""
        if not self._loop.is_closed():
            for fd in list(self._watched):
                self.unregister(fd)
        if self._due is not None:
            self._due.cancel()
        self._on_ready = _nothing  # so that its owner is not kept alive

    def _known(self, fd: int) -> int:
        if fd not in self._watched:
            raise FileNotFoundError(f"file descriptor {fd} is not watched. Fix: register it")
        return self._watched[fd]

    def _watch(self, fd: int, before: int, events: int) -> None:
        loop, changed = self._loop, before ^ events
        if changed & READ:
            if events & READ:
                loop.add_reader(fd, self._report, fd)
            else:
                loop.remove_reader(fd)
        if changed & WRITE:
            if events & WRITE:
                loop.add_writer(fd, self._report, fd)
            else:
                loop.remove_writer(fd)
        self._watched[fd] = events

    def _report(self, fd: int) -> None:
        self._found[fd] = None
        self._schedule()

    def _schedule(self) -> None:
        if self._due is None:
            self._due = self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._due = None
        self._on_ready()


def _nothing() -> None:
    """After `close`."""
