"""What the sockets of one event loop share: readiness, the end of a turn, and the clock.

With one `Readiness` and one timer for all of them, an idle socket costs the loop no handle, no context and no
timer.
"""

import asyncio
import time
from collections import deque
from typing import Any, Final, Protocol

from eclipse_ws.websocket.params import Params
from eclipse_ws.websocket.readiness import READ, WRITE, watch

EVENTS_PER_TURN: Final = 256
"""Maximum number of sockets served in one turn of the event loop."""
FEWEST_EVENTS: Final = 8
"""Sockets served in every turn, however long it takes."""
MOST_CLOSING: Final = 500
"""Maximum number of sockets in a closing handshake: they have file descriptors, but no session."""
SLOW_TURN: Final = 0.004
"""Seconds of a turn after which the next one serves fewer sockets."""
LEFT_OVER: Final = 0.001
"""Seconds of a turn for frames left over from earlier turns."""
FRAME_WAIT: Final = 0.0001
"""Seconds of a turn after which its frames are written, although more sockets are ready. After a write
that took longer, as long as that: half of the time at most is spent on writing.
"""
TICK: Final = 0.25
"""Maximum seconds between two sweeps; pings are spread evenly over them, and over the time between them."""
PINGS: Final = 8
"""Sockets that are pinged at once."""


class Flushable(Protocol):
    """Something with frames to write at the end of the turn: a socket or an audience."""

    def flush(self) -> None:
        """Write them to the kernel."""


class FrameSource(Flushable, Protocol):
    """What an event poll and the sockets know about an audience; see `Audience`."""

    frames: list[bytes]

    def __contains__(self, socket: object) -> bool:
        """Whether a socket is a member."""

    def pull(self, socket: Any) -> None:
        """Move the turn's frames of a member to its own."""


class Pollable(Flushable, Protocol):
    """What an event poll knows about its sockets; see `Socket`."""

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
        """The time to give that sign is over."""

    def abort(self) -> None:
        """Close at once, without another frame."""

    def forget(self) -> None:
        """Close without notifying the handler: the loop is closed."""


_polls: dict[tuple[asyncio.AbstractEventLoop, Params], "EventPoll"] = {}


def event_poll_for(params: Params) -> "EventPoll":
    """The running loop's event poll for sockets with these bounds; it exists while it has sockets."""
    loop = asyncio.get_running_loop()
    poll = _polls.get((loop, params))
    if poll is None:
        # A loop that was closed while it had sockets can no longer close them.
        for key in [key for key in _polls if key[0].is_closed()]:
            _polls[key].abandon()
        poll = _polls[loop, params] = EventPoll(loop, params)
    return poll


def queued_bytes() -> int:
    """Bytes queued for peers that don't read. Visits every socket: for metrics, not for each message."""
    return sum(socket.queued for poll in _polls.values() for socket in poll.by_fd if socket is not None)


class EventPoll:
    """The sockets of one loop and one set of bounds, which count together."""

    def __init__(self, loop: asyncio.AbstractEventLoop, params: Params) -> None:
        self.loop = loop
        self.params = params
        self.stats = params.stats
        self.by_fd: list[Pollable | None] = []
        """The sockets by file descriptor. Descriptors are small and dense, so a list is the smallest map.
        """
        self.sockets: list[Flushable] = []
        """Sockets with frames of their own to write at the end of the turn."""
        self.audiences: list[FrameSource] = []
        """Audiences with frames to write at the end of the turn."""
        self.scheduled = False
        """Whether `flush` is already scheduled."""
        self.closing: dict[Pollable, float] = {}
        """Sockets in a closing handshake with their deadlines, oldest first."""
        self._count = 0
        self._unfinished: deque[Pollable] = deque()
        """Sockets with frames left over from their share of the last turn."""
        self._resuming = False
        """Whether their next turn is already scheduled."""
        self._pinged: deque[tuple[float, list[Pollable]]] = deque()
        """Sockets that were pinged, with the deadline of their answers."""
        self._events = EVENTS_PER_TURN
        """Sockets to serve in the next turn: fewer after a slow one."""
        self._probing: asyncio.TimerHandle | None = None
        """The next call of `_probe`."""
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
        if fd >= len(self.by_fd):
            self.by_fd.extend([None] * (fd + 1 - len(self.by_fd)))
        self.by_fd[fd] = socket
        self._readiness.register(fd, READ)

    def watch(self, fd: int, events: int) -> None:
        """Watch for these events from now on. With epoll, resets are always reported."""
        self._readiness.modify(fd, events)

    def unwatch(self, fd: int) -> None:
        """Stop reporting anything about this descriptor, even a reset."""
        self._readiness.unregister(fd)

    def remove(self, socket: Pollable, fd: int, watched: bool) -> None:
        """Forget a socket. The caller closes its file descriptor afterwards."""
        if watched:
            self._readiness.unregister(fd)
        self.by_fd[fd] = None
        self.closing.pop(socket, None)
        self._count -= 1
        if not self._count:
            self._stop()

    def abandon(self) -> None:
        """Close all sockets without notifying their handlers: the loop is closed."""
        for socket in self.by_fd:
            if socket is not None:
                socket.forget()
        self._readiness.close()
        _polls.pop((self.loop, self.params), None)

    def _stop(self) -> None:
        _polls.pop((self.loop, self.params), None)
        self._timer.cancel()
        if self._probing is not None:
            self._probing.cancel()
        self._pinged.clear()
        self._readiness.close()

    # The turn

    def schedule(self) -> None:
        """Flush at the end of this turn."""
        if not self.scheduled:
            self.scheduled = True
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """End of the turn: write all frames, in one call for each socket."""
        # Audiences first: a socket with frames of its own writes the audience's frames in the same call.
        audiences, self.audiences = self.audiences, []
        for audience in audiences:
            audience.flush()
        sockets, self.sockets = self.sockets, []
        for socket in sockets:
            socket.flush()
        self.scheduled = False

    def resume_later(self, socket: Pollable) -> None:
        """Let a socket handle its buffered frames once the other sockets have had their turn."""
        self._unfinished.append(socket)
        if not self._resuming:
            self._resuming = True
            self.loop.call_soon(self._resume_unfinished)

    def _resume_unfinished(self) -> None:
        # For a bounded time, so that many flooding peers don't take the others' turn.
        until = time.monotonic() + LEFT_OVER
        for _ in range(len(self._unfinished)):
            self._unfinished.popleft().resume()
            if time.monotonic() > until:
                break
        self._resuming = bool(self._unfinished)
        if self._resuming:
            self.loop.call_soon(self._resume_unfinished)

    def _ready(self) -> None:
        self.scheduled = True  # what is sent from here on is written at the end of this call
        by_fd, clock = self.by_fd, time.monotonic  # uvloop's clock stands still within a turn
        try:
            now = clock()
            until, flush_at = now + SLOW_TURN, now + FRAME_WAIT
            for fd, event in self._readiness.poll(0, self._events):
                socket = by_fd[fd]
                if socket is not None:
                    if event & WRITE:
                        socket.writable()
                    if event != WRITE:
                        socket.readable(event)
                    now = clock()
                    if now > flush_at:
                        self.flush()
                        self.scheduled = True
                        flush_at = clock() + max(FRAME_WAIT, clock() - now)
                    if now > until:  # the others will be reported again
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
            share = [socket for socket in self.by_fd[self._turn :: self._shares] if socket is not None]
            if share:
                self._probe(share, 0, self._every * PINGS / len(share))
            if share and self.params.ping_timeout:
                # The last of them are pinged a tick later; all are checked before they are pinged again.
                wait = min(self._every + self.params.ping_timeout, self.params.ping_interval)
                self._pinged.append((now + wait, share))
        self._end_overdue()

    def _probe(self, share: list[Pollable], first: int, pause: float) -> None:
        """Ping some of these sockets, and the others after a pause: a burst would delay messages."""
        for socket in share[first : first + PINGS]:
            socket.probe()
        if first + PINGS < len(share):
            self._probing = self.loop.call_later(pause, self._probe, share, first + PINGS, pause)

    def track_closing(self, socket: Pollable) -> None:
        """A socket's closing handshake has begun. If there are too many, the oldest one is ended once its
        close frame has been written.
        """
        self.closing[socket] = self.loop.time() + self.params.close_timeout
        if len(self.closing) > MOST_CLOSING:
            self.loop.call_later(SLOW_TURN, self._end_oldest)

    def _end_oldest(self) -> None:
        if len(self.closing) > MOST_CLOSING:
            next(iter(self.closing)).abort()

    def _end_overdue(self) -> None:
        """End closing handshakes that are past their deadlines, a few at a time."""
        now = self.loop.time()
        for _ in range(FEWEST_EVENTS):
            if not self.closing:
                return
            socket, deadline = next(iter(self.closing.items()))
            if deadline > now:
                return
            socket.abort()
        self.loop.call_later(SLOW_TURN, self._end_overdue)
