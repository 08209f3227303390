"""The outgoing half of a socket: frames for the turn's end, and those that the kernel does not take."""

import asyncio
import os
from collections.abc import Awaitable, Sequence
from types import TracebackType
from typing import Any, Final, Protocol

from eclipse_ws.websocket.audience import Audience
from eclipse_ws.websocket.backlog import Backlog, Frame
from eclipse_ws.websocket.event_poll import Poll, stats

OPEN: Final = 0
CLOSING: Final = 1
"""Our close frame is queued or sent, the peer's has not come; what else it says is thrown away."""
ENDING: Final = 2
"""Nothing more to hear; over as soon as our queue is empty."""
LINGERING: Final = 3
"""The handler knows that it is over; the kernel's socket waits for the peer's end (RFC 6455, 7.1.1)."""
GONE: Final = 4


class Handler(Protocol):
    """What a socket knows of its handler; see `WireHandler`."""

    wire_slow_close: tuple[int, str]
    wire_flood_close: tuple[int, str]
    under_way: "asyncio.Future[Any] | None"

    @property
    def held(self) -> int:
        """Bytes of messages that the handler keeps until it is done with them."""

    def on_message(self, message: str | bytes) -> Awaitable[None] | None:
        """Handle a message; the next one waits for what is returned."""

    def on_ping(self, data: bytes) -> None:
        """A ping came."""

    def on_pong(self, data: bytes) -> None:
        """A pong came."""

    def on_flood(self) -> None:
        """The peer is about to be closed for what it costs."""

    def on_failure(
        self, typ: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        """One of the methods above raised."""

    def closed(self, code: int, reason: str) -> None:
        """The session is over."""


class Outgoing:
    """Takes frames, and gets them to the kernel in as few calls as there are turns."""

    __slots__ = ("_fd", "_heard", "_soft", "_state", "audiences", "handler", "out", "poll", "queued")

    def __init__(self, handler: Handler, poll: Poll, fd: int) -> None:
        self.handler = handler
        self.poll = poll
        self.audiences: tuple[Audience, ...] = ()
        """Those that it is in."""
        self.queued = 0
        """Bytes of its own frames that have not reached the kernel."""
        self.out: list[bytes] | Backlog | None = None
        """Its frames for the turn's end, or those that the kernel did not take."""
        self._soft = 0
        """Bit n: frame n of the list may be dropped."""
        self._fd = fd
        self._state: int = OPEN
        self._heard = True
        """Whether the peer sent (or took) anything since the last ping."""

    @property
    def is_closing(self) -> bool:
        """Whether a frame that is sent now goes nowhere."""
        return self._state != OPEN

    def send(self, frame: bytes, droppable: bool = False) -> None:
        """Send a frame at the turn's end. Never raises, never blocks; after a close it does nothing.

        A droppable frame is lost when the peer does not read and its queue is half full; when one that is not
        meets a full queue, the droppable ones in it are lost, and if that is not enough the socket is closed.
        """
        if self._state:
            return
        for audience in self.audiences:
            if audience.frames:
                audience.pull(self)
                if self.is_closing:
                    return  # those were too much for its queue
        out = self.out
        if out is None:
            self.out = [frame]
            self._soft = 1 if droppable else 0
            poll = self.poll
            poll.sockets.append(self)
            if not poll.scheduled:
                poll.schedule()
        elif type(out) is list:
            if droppable:
                self._soft |= 1 << len(out)
            out.append(frame)
        else:
            self.take((frame,), 1 if droppable else 0)
            return
        self.queued += len(frame)
        if self.queued > self.poll.params.queue_bytes:
            self.flush()

    def take(self, taken: Sequence[bytes], soft: int) -> None:
        """Append frames to its own; bit n of `soft` says that frame n may be dropped."""
        out = self.out
        if out is None:
            self.out = list(taken)
            self._soft = soft & (1 << len(taken)) - 1
            self.poll.sockets.append(self)
            self.poll.schedule()
        elif isinstance(out, list):
            self._soft |= (soft & (1 << len(taken)) - 1) << len(out)
            out.extend(taken)
        else:
            stats.dropped += out.push(taken, soft, self.poll.params.queue_bytes // 2)
            self.queued = out.size
            self._limit(out)
            return
        self.queued += sum(map(len, taken))
        if self.queued > self.poll.params.queue_bytes:
            self.flush()

    def put(self, taken: Sequence[bytes], soft: int, data: bytes) -> None:
        """Write frames now, `data` being all of them; for when nothing waits (`out` is None)."""
        try:
            size = os.write(self._fd, data)
        except BlockingIOError:
            size = 0
        except OSError:
            self._part()
            return
        stats.sends += 1
        stats.bytes_out += size
        if size == len(data):
            stats.frames_out += len(taken)
            return
        begun, left = 0, size
        while left > 0:
            left -= len(taken[begun])
            begun += 1
        soft &= -1 << begun  # what the kernel has begun with must not be dropped
        out = self.out = Backlog()
        stats.dropped += out.push(taken, soft, self.poll.params.queue_bytes // 2)
        stats.frames_out += out.advance(size)
        self.queued = out.size
        self._watch()
        self._limit(out)

    def flush(self) -> None:
        """The turn's end: its own frames in one call."""
        out = self.out
        if not isinstance(out, list):
            return  # lost meanwhile, or flushed when its list grew too large
        self.out = None
        self.queued = 0
        self.put(out, self._soft, out[0] if len(out) == 1 else b"".join(out))
        if self._state and self.out is None:
            self._flushed()

    def writable(self) -> None:
        """The kernel takes bytes again."""
        out = self.out
        if not isinstance(out, Backlog):
            return
        try:
            size = self._write(out.chunk())
        except BlockingIOError:
            return
        except OSError:
            self._part()
            return
        self._heard = True  # a slow reader is not a dead one
        stats.sends += 1
        stats.bytes_out += size
        stats.frames_out += out.advance(size)
        self.queued = out.size
        if not out.size:
            self.out = None
            self._watch()
            if self._state:
                self._flushed()
            elif out.late is not None:
                self.send(out.late)

    def _write(self, data: Frame) -> int:
        """Offer bytes that have waited to the kernel; how many it takes. Raises OSError."""
        return os.write(self._fd, data)

    def _limit(self, out: Backlog) -> None:
        """Hold the bound: drop what may be dropped, then end the session. No other socket notices."""
        if out.size <= self.poll.params.queue_bytes:
            return
        stats.dropped += out.drop()
        self.queued = out.size
        if out.size > self.poll.params.queue_bytes and self._state == OPEN:
            stats.closed_slow += 1
            self._leave(with_frames=False)
            out.clear()
            self.close(*self.handler.wire_slow_close)

    def _leave(self, with_frames: bool = True) -> None:
        for audience in self.audiences:
            audience.discard(self, with_frames)

    # What the incoming half does

    def close(self, code: int | None = 1000, reason: str = "") -> None:
        """Start the closing handshake."""
        raise NotImplementedError

    def _part(self) -> None:
        """The peer is gone."""
        raise NotImplementedError

    def _flushed(self) -> None:
        """Everything is out, in a closing handshake."""
        raise NotImplementedError

    def _watch(self) -> None:
        """Watch for the events that matter now."""
        raise NotImplementedError
