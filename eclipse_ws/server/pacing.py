"""Paces strangers: new connections are served a few at a time, so that sessions never wait for them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from bisect import bisect_left, insort
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from operator import attrgetter
from typing import Any, Final, Generic, TypeVar

from tornado.ioloop import IOLoop

from eclipse_ws.websocket.readiness import BROKEN, READ, WRITE, watch

T = TypeVar("T")

MAX_PER_TURN: Final = 4
"""Sockets that are accepted, and requests that are handled, in a turn of the loop."""
SLOW_TURN: Final = 0.001
"""Duration in seconds from which on a turn starts a pause, and halves the number of strangers afterwards."""
TURN_BUDGET: Final = 0.0005
"""Seconds of a turn after which it serves no other stranger: what a message waits for them."""
QUICK_TURN: Final = 0.0001
"""Duration in seconds of an idle turn, which ends a pause."""
PAUSE_TURNS: Final = 8
"""Turns of the longest pause: a message takes about as many."""
PAUSE_SECONDS: Final = 0.01
"""Seconds after which a pause ends, however few turns it had."""
EVENTS: Final = 2
"""Streams that are served in a turn for each stranger that the gate lets through."""
OLDEST: Final = 3
"""One in OLDEST of those served or accepted is the oldest in the queue, the others are the newest."""
FOUND: Final = 64
"""Ready streams that are polled in one turn."""
_NUMBER: Final = attrgetter("number")


class Turns(Generic[T]):
    """A queue with round-robin by address, so that a crowd behind one address does not delay the others."""

    def __init__(self) -> None:
        self._queues: OrderedDict[Hashable, deque[T]] = OrderedDict()
        """The next address comes first, and in each queue the oldest item."""
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, address: Hashable, item: T) -> None:
        """Add an item to its address's queue."""
        self._size += 1
        self._queues.setdefault(address, deque()).append(item)

    def take(self, newest: bool = False) -> T:
        """Remove the next address's oldest, or newest, item."""
        self._size -= 1
        address, queue = next(iter(self._queues.items()))
        item = queue.pop() if newest else queue.popleft()
        if queue:
            self._queues.move_to_end(address)
        else:
            del self._queues[address]
        return item

    def take_while(self, condition: Callable[[T], bool]) -> list[T]:
        """Remove each address's oldest items, as long as the condition holds."""
        taken = []
        for address, queue in list(self._queues.items()):
            while queue and condition(queue[0]):
                taken.append(queue.popleft())
            if not queue:
                del self._queues[address]
        self._size -= len(taken)
        return taken


class Gate:
    """Lets a few strangers through in each turn of the loop. After a slow turn it pauses for a few turns, and
    then lets fewer through: a message takes several turns of the loop, and waits for the strangers of one of
    them at most.
    """

    def __init__(self) -> None:
        self._allowed = self._left = MAX_PER_TURN
        self._waiting: Turns[asyncio.Future[None]] = Turns()
        self._began: float | None = None
        """When the turn began; None while no stranger comes."""
        self._came = False
        """Whether a stranger came in this turn."""
        self._pause_turns = 0
        """Remaining turns of a pause."""
        self._pause_end = 0.0
        """The latest end of a pause."""

    @property
    def allowed(self) -> int:
        """How many sockets may be accepted in this turn."""
        self._watch()
        return 0 if self._pause_turns else self._allowed

    @property
    def has_time(self) -> bool:
        """Whether this turn has time left for another stranger; the first one of a turn needs none."""
        return self._began is None or time.monotonic() - self._began < TURN_BUDGET

    def enter(self, address: Hashable) -> asyncio.Future[None] | None:
        """None if a request of that address may proceed at once, else a future to wait for."""
        self._watch()
        if self._left:
            self._left -= 1
            return None
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(address, waiting)
        return waiting

    def _watch(self) -> None:
        self._came = True
        if self._began is None:
            loop = asyncio.get_running_loop()
            self._began = time.monotonic()  # uvloop's own clock does not advance within a turn
            loop.call_soon(self._turn, loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        now, began = time.monotonic(), self._began
        if self._came or self._waiting or self._pause_turns:
            self._began, self._came = now, False
            loop.call_soon(self._turn, loop)
        else:
            self._began = None
        took = 0.0 if began is None else now - began
        if self._pause_turns:
            self._pause_turns = self._pause_turns - 1 if took > QUICK_TURN and now < self._pause_end else 0
        elif took > SLOW_TURN:
            self._allowed = max(1, self._allowed // 2)
            self._pause_turns, self._pause_end = PAUSE_TURNS, now + PAUSE_SECONDS
        else:
            self._allowed = min(MAX_PER_TURN, 2 * self._allowed)
        self._left = 0 if self._pause_turns else self._allowed
        while self._left and self._waiting:
            waiting = self._waiting.take()
            if not waiting.done():
                waiting.set_result(None)
                self._left -= 1


class _Stream:
    """A watched connection; the newest has the highest number."""

    __slots__ = ("events", "found", "handle", "number", "of", "watched")

    def __init__(
        self, number: int, of: socket.socket, handle: Callable[[socket.socket, int], None], events: int
    ) -> None:
        self.number = number
        self.of = of
        self.handle = handle
        self.events = events
        """The events that its owner wants."""
        self.watched = True
        """Whether it is watched for them now."""
        self.found = 0
        """The events that are ready, while it waits to be served."""


class PacedLoop:
    """An `IOLoop` whose handlers are called a few at a time; everything else is delegated to the loop.

    The event loop itself serves every ready stream in the same turn: a few hundred steps of TLS handshakes,
    or of unwanted bodies, would delay every session. Here ready streams wait, and mostly the newest are
    served: a new client does not wait for a crowd. Some are the oldest, so that none waits forever.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._loop = IOLoop.current()
        self._asyncio = asyncio.get_running_loop()
        self._streams: dict[int, _Stream] = {}
        """By file descriptor."""
        self._waiting: list[_Stream] = []
        """The ready streams, oldest first."""
        self._added = 0
        self._served = 0
        self._due: asyncio.Handle | None = None
        """The next call of `_serve`, if it is scheduled."""
        self._readiness = watch(self._asyncio, self._ready)

    @property
    def watched(self) -> int:
        """The number of watched connections."""
        return len(self._streams)

    def add_handler(
        self, of: socket.socket, handler: Callable[[socket.socket, int], None], events: int
    ) -> None:
        """See IOLoop."""
        fd = of.fileno()
        self._added += 1
        self._streams[fd] = _Stream(self._added, of, handler, events)
        self._readiness.register(fd, events & (READ | WRITE))

    def update_handler(self, of: socket.socket, events: int) -> None:
        """See IOLoop."""
        fd = of.fileno()
        stream = self._streams[fd]
        stream.events = events
        if stream.watched:
            self._readiness.modify(fd, events & (READ | WRITE))

    def remove_handler(self, of: socket.socket) -> None:
        """See IOLoop."""
        fd = of.fileno()
        stream = self._streams.pop(fd, None)
        if stream is None:
            return
        if stream.found:
            del self._waiting[bisect_left(self._waiting, stream.number, key=_NUMBER)]
        with contextlib.suppress(OSError):
            self._readiness.unregister(fd)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def close(self) -> None:
        """Stop watching."""
        self._streams.clear()
        self._waiting.clear()
        self._readiness.close()
        if self._due is not None:
            self._due.cancel()

    def _ready(self) -> None:
        """Queue ready streams, and serve a few; those that wait are not watched until they are served."""
        found = []
        for fd, events in self._readiness.poll(0, FOUND):
            stream = self._streams.get(fd)
            if stream is None:
                continue
            if not stream.found:
                insort(self._waiting, stream, key=_NUMBER)
                found.append((fd, stream))
            stream.found |= events
        if self._due is None:
            self._serve()
        for fd, stream in found:
            if stream.found and self._streams.get(fd) is stream:
                stream.watched = False
                self._readiness.modify(fd, 0)

    def _serve(self) -> None:
        """Serve a few of the waiting streams."""
        self._due = None
        for number in range(EVENTS * self._gate.allowed):
            if not self._waiting:
                return
            if number and not self._gate.has_time:
                break
            self._served += 1
            stream = self._waiting.pop(-1 if self._served % OLDEST else 0)
            self._handle(stream)
        if self._waiting:
            self._due = self._asyncio.call_soon(self._serve)

    def _handle(self, stream: _Stream) -> None:
        fd = stream.of.fileno()
        events, stream.found = stream.found & (stream.events | BROKEN), 0
        try:
            if events:
                stream.handle(stream.of, events)
        finally:
            # Neither closed nor taken over by a session meanwhile.
            if not stream.watched and self._streams.get(fd) is stream:
                stream.watched = True
                self._readiness.modify(fd, stream.events & (READ | WRITE))
