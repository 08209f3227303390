"""What all sockets of one event loop share: readiness, the turn's end, and the clock.

They share one `Readiness` and one timer, so that a socket that does nothing costs the loop no handle, no
context and no timer.
"""

import asyncio
import time
from collections import deque
from typing import Final, Protocol

from eclipse_ws.websocket.params import Params
from eclipse_ws.websocket.readiness import READ, WRITE, watch

EVENTS_PER_TURN: Final = 256
"""Sockets that are served before everything else on the loop has its turn again."""
FEWEST_EVENTS: Final = 8
"""As many are served in any turn, however long it takes."""
MOST_CLOSING: Final = 500
"""Sockets that may be in a closing handshake at once: they have files, and count as nothing else any more."""
SLOW_TURN: Final = 0.004
"""Seconds of a turn after which the next one serves fewer."""
LEFT_OVER: Final = 0.001
"""Seconds of a turn that go to frames left over from earlier ones."""
TICK: Final = 0.25
"""Seconds between two looks at the clock, at most; pings are spread evenly over them."""


class Flushable(Protocol):
    """What has frames for the turn's end: a socket, or an audience."""

    def flush(self) -> None:
        """Write them to the kernel."""


class Pollable(Flushable, Protocol):
    """What an event poll knows of its sockets; see `Socket`."""

    queued: int
    """Bytes that wait for the peer."""

    def readable(self, event: int) -> None:
        """There is something to read, or the peer is gone."""

    def writable(self) -> None:
        """The kernel takes bytes again."""

    def resume(self) -> None:
        """The other sockets have had their turn."""

    def probe(self) -> None:
        """Ask the peer for a sign of life."""

    def check_alive(self) -> None:
        """The time for that sign is over."""

    def abort(self) -> None:
        """Close at once, without another frame."""

    def forget(self) -> None:
        """Close without telling anybody: the loop is closed."""


_polls: dict[tuple[asyncio.AbstractEventLoop, Params], "EventPoll"] = {}


def event_poll_for(params: Params) -> "EventPoll":
    """The running loop's poll for sockets with these bounds; it lasts for as long as it has sockets."""
    loop = asyncio.get_running_loop()
    poll = _polls.get((loop, params))
    if poll is None:
        # A loop that was closed with sockets open can't let go of them any more.
        for key in [key for key in _polls if key[0].is_closed()]:
            _polls[key].abandon()
        poll = _polls[loop, params] = EventPoll(loop, params)
    return poll


def queued_bytes() -> int:
    """Bytes that wait for peers that don't read, over all sockets. Walks them: for a scrape, not for a
    message.
    """
    return sum(socket.queued for poll in _polls.values() for socket in poll.table if socket is not None)


class EventPoll:
    """The sockets of one loop and one set of bounds."""

    def __init__(self, loop: asyncio.AbstractEventLoop, params: Params) -> None:
        self.loop = loop
        self.params = params
        self.table: list[Pollable | None] = []
        """The sockets by file descriptor. Those are small and dense, so a list is the smallest map there
        is.
        """
        self.sockets: list[Flushable] = []
        """Those with frames of their own for the turn's end."""
        self.audiences: list[Flushable] = []
        """Those with frames for the turn's end."""
        self.scheduled = False
        """Whether the turn's end is already arranged."""
        self.closing: dict[Pollable, float] = {}
        """Sockets in a closing handshake, the oldest first, and when it has taken too long."""
        self._count = 0
        self._unfinished: deque[Pollable] = deque()
        """Sockets with frames left over from their share of the last turn."""
        self._resuming = False
        """Whether their next turn is already arranged."""
        self._pinged: deque[tuple[float, list[Pollable]]] = deque()
        """Whom we have pinged, and until when they may be silent."""
        self._events = EVENTS_PER_TURN
        """How many sockets are served in the next turn: fewer after a slow one."""
        self._turn = 0
        self._shares = max(2, round(params.ping_interval / TICK))
        every = params.ping_interval / self._shares or TICK
        self._every = min(every, params.close_timeout / 2)
        self._shares = max(1, round(params.ping_interval / self._every))
        self._readiness = watch(loop, self._ready)
        self._timer = loop.call_later(self._every, self._sweep)

    # Membership

    def add(self, socket: Pollable, fd: int) -> None:
        """Watch a socket for something to read."""
        self._count += 1
        if fd >= len(self.table):
            self.table.extend([None] * (fd + 1 - len(self.table)))
        self.table[fd] = socket
        self._readiness.register(fd, READ)

    def watch(self, fd: int, events: int) -> None:
        """Watch for these events from now on. Where there is an epoll, resets are always reported."""
        self._readiness.modify(fd, events)

    def unwatch(self, fd: int) -> None:
        """Report nothing of this socket any more, not even that it was reset."""
        self._readiness.unregister(fd)

    def remove(self, socket: Pollable, fd: int, watched: bool) -> None:
        """Forget a socket; its file descriptor is the caller's to close, afterwards."""
        if watched:
            self._readiness.unregister(fd)
        self.table[fd] = None
        self.closing.pop(socket, None)
        self._count -= 1
        if not self._count:
            self._stop()

    def abandon(self) -> None:
        """Close everything without a word: the loop has been closed already."""
        for socket in self.table:
            if socket is not None:
                socket.forget()
        self._readiness.close()
        _polls.pop((self.loop, self.params), None)

    def _stop(self) -> None:
        _polls.pop((self.loop, self.params), None)
        self._timer.cancel()
        self._pinged.clear()
        self._readiness.close()

    # The turn

    def schedule(self) -> None:
        """See to it that what was sent in this turn leaves at its end."""
        if not self.scheduled:
            self.scheduled = True
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """The turn's end: everything that is ready for a socket leaves in one call."""
        # Audiences first: a socket that has frames of its own too takes the audience's into the same call.
        audiences, self.audiences = self.audiences, []
        for audience in audiences:
            audience.flush()
        sockets, self.sockets = self.sockets, []
        for socket in sockets:
            socket.flush()
        self.scheduled = False

    def resume_later(self, socket: Pollable) -> None:
        """Let a socket go on with its buffered frames once the others have had their turn."""
        self._unfinished.append(socket)
        if not self._resuming:
            self._resuming = True
            self.loop.call_soon(self._resume_unfinished)

    def _resume_unfinished(self) -> None:
        # For a bounded time: a crowd that floods must not fill the turn of everybody else.
        until = time.monotonic() + LEFT_OVER
        for _ in range(len(self._unfinished)):
            self._unfinished.popleft().resume()
            if time.monotonic() > until:
                break
        self._resuming = bool(self._unfinished)
        if self._resuming:
            self.loop.call_soon(self._resume_unfinished)

    def _ready(self) -> None:
        self.scheduled = True  # what is sent from here on leaves at the end of this call
        table, clock = self.table, time.monotonic  # uvloop's own clock stands still for a turn
        try:
            until = clock() + SLOW_TURN
            for fd, event in self._readiness.poll(0, self._events):
                socket = table[fd]
                if socket is not None:
                    if event & WRITE:
                        socket.writable()
                    if event != WRITE:
                        socket.readable(event)
                    if clock() > until:  # the others are reported again
                        self._events = max(FEWEST_EVENTS, self._events // 2)
                        break
            else:
                if self._events < EVENTS_PER_TURN:
                    self._events *= 2
        finally:
            self.flush()

    # The clock

    def _sweep(self) -> None:
        now = self.loop.time()
        self._timer = self.loop.call_later(self._every, self._sweep)
        while self._pinged and self._pinged[0][0] <= now:
            for socket in self._pinged.popleft()[1]:
                socket.check_alive()
        if self.params.ping_interval:
            self._turn = (self._turn + 1) % self._shares
            share = [socket for socket in self.table[self._turn :: self._shares] if socket is not None]
            for socket in share:
                socket.probe()
            if share and self.params.ping_timeout:
                self._pinged.append((now + min(self.params.ping_timeout, self.params.ping_interval), share))
        self._end_overdue()

    def track_closing(self, socket: Pollable) -> None:
        """A socket's closing handshake begins. Of too many the oldest ends, when its close frame has left."""
        self.closing[socket] = self.loop.time() + self.params.close_timeout
        if len(self.closing) > MOST_CLOSING:
            self.loop.call_later(SLOW_TURN, self._end_oldest)

    def _end_oldest(self) -> None:
        if len(self.closing) > MOST_CLOSING:
            next(iter(self.closing)).abort()

    def _end_overdue(self) -> None:
        """End closing handshakes that have taken too long, a few at a time."""
        now = self.loop.time()
        for _ in range(FEWEST_EVENTS):
            if not self.closing:
                return
            socket, deadline = next(iter(self.closing.items()))
            if deadline > now:
                return
            socket.abort()
        self.loop.call_later(SLOW_TURN, self._end_overdue)
