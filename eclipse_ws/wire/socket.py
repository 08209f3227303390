"""One WebSocket on a socket that was taken over from the HTTP server: reading, and every way to end."""

import asyncio
import os
import socket as sockets
import sys
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Final

from tornado import gen

from eclipse_ws.readiness import READ, WRITE
from eclipse_ws.wire import frames
from eclipse_ws.wire.backlog import Backlog
from eclipse_ws.wire.outgoing import CLOSING, ENDING, GONE, LINGERING, OPEN, Outgoing
from eclipse_ws.wire.poll import Poll, stats

if TYPE_CHECKING:
    from eclipse_ws.wire.handler import WireHandler

READ_BYTES: Final = 65536
LOOK: Final = 0.01
"""Seconds between looks for a sign of life that somebody waits for."""
MOST_THROWN_AWAY: Final = 64
"""Frames of one read that are looked through for the peer's close after ours."""
MOST_LEFT_UNREAD: Final = 16384
"""Bytes behind such a frame that may be there still."""


class _Busy:
    """Why a socket's next message has to wait, apart from an awaitable of the last one."""


OPENING: Final = _Busy()
"""open() is not done."""
YIELDED: Final = _Busy()
"""It has had its share of the turn."""


class Socket(Outgoing):
    """What sessions and audiences hold: something that takes frames. Belongs to the event loop's thread."""

    __slots__ = ("__weakref__", "_busy", "_code", "_ended", "_inbound", "_muted", "_paused", "_reason")

    def __init__(self, handler: "WireHandler", poll: Poll, fd: int) -> None:
        super().__init__(handler, poll, fd)
        self._inbound: frames.Inbound | None = None
        """Reads what is not one whole short message; exists only while something is under way."""
        self._busy: object = OPENING
        """What the next message has to wait for."""
        self._paused = False
        """Whether it is not read from, because enough waits already."""
        self._muted = False
        """Whether it is watched no more: the peer is gone, and what it said before is being handled."""
        self._ended = False
        """Whether the handler was told, or is about to be."""
        self._code = frames.LOST
        self._reason = ""
        poll.add(self, fd)
        stats.sockets += 1

    @property
    def is_lost(self) -> bool:
        """Whether the peer is known to be gone, though what it said before may still be handled."""
        return self._state == GONE or self._muted

    async def is_alive(self, seconds: float) -> bool:
        """Ask for a sign of life, and tell whether there is one within so many seconds."""
        if self.is_lost or self._paused:
            return not self.is_lost  # who is not read from says a lot
        self.ping()
        deadline = self.poll.loop.time() + seconds
        while not self._heard and not self.is_lost and self.poll.loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(LOOK)
        return self._heard and not self.is_lost

    # In

    def readable(self, event: int) -> None:
        """There is something to read, or the peer is gone."""
        if self._paused and not event & READ:
            self._part()  # a reset: nothing that we have not read will ever come
            return
        try:
            data = os.read(self._fd, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._part()
            return
        self._heard = True
        stats.bytes_in += len(data)
        if self._state > CLOSING:
            return  # it was told that this is over
        if self._state == CLOSING and self._wasted(len(data)):
            self._hush()
            return
        self.receive(data)

    def receive(self, data: bytes) -> None:
        """Take bytes that the peer sent."""
        inbound = self._inbound
        if inbound is None:
            limit = self.poll.params.max_message
            if self._busy is None and self._state == OPEN:
                text = frames.whole_text(data, limit)
                if text is not None:
                    stats.frames_in += 1
                    self._message(text)
                    return
            inbound = self._inbound = frames.Inbound(limit)
        inbound.receive(data)
        if self._busy is None or self._state == CLOSING:
            self._drain(inbound)
        elif inbound.waiting > self.poll.params.read_bytes and not self._paused:
            self._paused = True
            self._watch()

    def _wasted(self, size: int) -> bool:
        """Take what it says, rather than answer our close, off the time that it has; whether none is left."""
        poll = self.poll
        deadline = poll.closing.get(self, 0.0) - poll.params.close_timeout * size / READ_BYTES
        poll.closing[self] = deadline
        return deadline <= poll.loop.time()

    def _hush(self) -> None:
        """It floods rather than answer our close: reading on would cost more than it is worth, so the kernel
        makes it wait until its time is over.
        """
        self._inbound = None
        if not self._paused:
            self._paused = True
            self._watch()

    def opened(self) -> None:
        """open() is done: the messages that came meanwhile are handled now."""
        if self._ended:
            self._notify()  # it waited for us
        self.go_on()

    def go_on(self) -> None:
        """Nothing holds the next message up any more."""
        self._busy = None
        if self._state == GONE:
            return
        hushed = self._paused and self._inbound is None
        if self._inbound is not None and self._state < ENDING:
            self._drain(self._inbound)
        if self._muted or not hushed:
            self._settle()

    def _settle(self) -> None:
        if self._busy is not None:
            return
        if self._muted:
            self._lose()
        elif self._paused and (self._inbound is None or self._inbound.waiting <= self.poll.params.read_bytes):
            self._paused = False
            self._watch()

    def _drain(self, inbound: frames.Inbound) -> None:
        """Handle what is complete, until a message has to be waited for or the turn's share is used up."""
        share, thrown = self.poll.params.messages_per_turn, 0
        try:
            while self._state < ENDING:
                event = inbound.next()
                if event is None:
                    if inbound.idle:
                        self._inbound = None
                    return
                stats.frames_in += 1
                self._event(event)
                if self._state != OPEN:
                    thrown += 1
                    if thrown > MOST_THROWN_AWAY or inbound.waiting > MOST_LEFT_UNREAD:
                        self._hush()
                        return
                    continue  # nothing to wait for: it is thrown away
                if self._busy is not None:
                    return
                share -= 1
                if not share:
                    self._busy = YIELDED
                    self.poll.again(self)
                    return
        except frames.Violation as violation:
            stats.protocol_errors += 1
            if self._state == OPEN:
                stats.too_big += violation.code == frames.TOO_BIG
                self._say_close(violation.code, violation.reason)
            self._end()
        self._inbound = None

    def _event(self, event: frames.Event) -> None:
        opcode = event.opcode
        if opcode == frames.CLOSE:
            if self._state == OPEN:
                self._code, self._reason = event.code, event.text
                self._say_close(event.code, "", keep=True)
            self._end()
        elif self._state != OPEN:
            return  # we have said goodbye already
        elif opcode == frames.TEXT:
            self._message(event.text)
        elif opcode == frames.BINARY:
            self._message(event.data)
        elif opcode == frames.PING:
            # Only the last of several pings has to be answered (RFC 6455 section 5.5.3): a peer that asks and
            # does not read gets that one answer.
            pong = frames.frame(frames.PONG, event.data)
            if isinstance(self.out, Backlog):
                self.out.late = pong
            else:
                self.send(pong, droppable=True)
            self._call(self.handler.on_ping, event.data)
        elif opcode == frames.PONG:
            self._call(self.handler.on_pong, event.data)

    def _message(self, message: str | bytes) -> None:
        try:
            result = self.handler.on_message(message)
        except (Exception, asyncio.CancelledError):
            self.handler.on_failure(*sys.exc_info())
            return
        if result is not None:
            self._wait(result)

    def _call(self, callback: Any, data: bytes) -> None:
        try:
            callback(data)
        except (Exception, asyncio.CancelledError):
            self.handler.on_failure(*sys.exc_info())

    def _wait(self, result: Awaitable[None]) -> None:
        """Hold the next message up until this one is done."""
        future: asyncio.Future[Any]
        if asyncio.iscoroutine(result):  # by far the most frequent, and several times as quick
            future = self.poll.loop.create_task(result)
        else:
            future = gen.convert_yielded(result)
        self._busy = future
        future.add_done_callback(self._waited)

    def _waited(self, future: "asyncio.Future[Any]") -> None:
        try:
            future.result()
        except (Exception, asyncio.CancelledError):
            self.handler.on_failure(*sys.exc_info())
        self.go_on()

    def _watch(self) -> None:
        """Watch for the events that matter now."""
        if not self._muted:
            wanted = 0 if self._paused else READ
            self.poll.watch(self._fd, wanted | WRITE if isinstance(self.out, Backlog) else wanted)

    # The end

    def close(self, code: int | None = 1000, reason: str = "") -> None:
        """Start the closing handshake; what was sent before goes out first. Later calls do nothing.

        The handler's on_close() follows, with this code and reason, when the peer has answered or has had
        its time.
        """
        if self._state == OPEN:
            self._say_close(code, reason)

    def _say_close(self, code: int | None, reason: str, keep: bool = False) -> None:
        self._leave()
        if self._state != OPEN:
            return  # its audiences' last frames were too much for its queue
        if not keep:
            self._code, self._reason = frames.NO_CODE if code is None else code, reason
        self._state = CLOSING
        self.poll.closing[self] = self.poll.loop.time() + self.poll.params.close_timeout
        self.take((frames.close_frame(code, reason),), 0)

    def _end(self) -> None:
        """Both sides have said what they had to say, once our queue is empty."""
        self._inbound = None
        if self._state < ENDING:
            self._state = ENDING
            if self._paused:
                self._paused = False
                self._watch()
            if self.out is None:
                self._flushed()

    def _flushed(self) -> None:
        """Everything is out, in a closing handshake."""
        if self._state != ENDING:
            return
        # The peer ends it (and keeps no bytes that a reset could take from it): half close, wait for its end.
        self._state = LINGERING
        handle = sockets.socket(fileno=self._fd)
        try:
            handle.shutdown(sockets.SHUT_WR)
        except OSError:
            pass
        finally:
            handle.detach()
        self._ended_now()

    def _part(self) -> None:
        """The peer is gone. What it said before is still handled."""
        if self._muted:
            return
        if self._busy is not None and self._state < ENDING:
            self._muted = True
            self.poll.mute(self._fd)
        else:
            self._lose()

    def abort(self) -> None:
        """End without another word."""
        self._lose()

    def _lose(self) -> None:
        if self._state == GONE:
            return
        self._leave(with_frames=False)
        self._state = GONE
        self.poll.remove(self, self._fd, not self._muted)
        os.close(self._fd)
        self._fd = -1
        self.out = self._inbound = None
        self.queued = 0
        self._ended_now()

    def forget(self) -> None:
        """Be gone without a word to anybody: the loop is closed."""
        self._state = GONE
        os.close(self._fd)
        self._fd = -1
        if not self._ended:
            self._ended = True
            stats.sockets -= 1

    def _ended_now(self) -> None:
        if not self._ended:
            self._ended = True
            stats.sockets -= 1
            if self._busy is not OPENING:
                self.poll.loop.call_soon(self._notify)

    def _notify(self) -> None:
        """Tell the handler, once, and never from within a send."""
        self.handler.closed(self._code, self._reason)

    # The clock

    def ping(self) -> None:
        """Ask for a sign of life; `answered` looks for it later."""
        if self._state == OPEN:
            self._heard = False
            self.send(frames.frame(frames.PING, b""), droppable=True)

    def answered(self) -> None:
        """The time for an answer to a ping is over: whoever gave none is dead, unless it is us who do not
        read.
        """
        if not self._heard and self._state == OPEN and not self._paused and not self._muted:
            self.abort()
