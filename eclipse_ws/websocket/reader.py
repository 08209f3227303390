"""The incoming half of a socket: bytes into frames, frames to the handler, and what they cost."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from tornado import gen

from eclipse_ws.websocket import frames
from eclipse_ws.websocket.backlog import Backlog
from eclipse_ws.websocket.event_poll import Poll, stats
from eclipse_ws.websocket.readiness import READ, WRITE
from eclipse_ws.websocket.writer import CLOSING, GONE, OPEN, Handler, Outgoing

READ_BYTES: Final = 65536
READS_AHEAD: Final = 64
"""Reads that may wait for a message under way, however small; beyond that the peer is not read from."""
BYTES_PER_UNIT: Final = 512
"""Bytes that are worth a frame: see `Params.frame_rate`."""
BYTES_PER_READ: Final = 64
"""Bytes for which a read costs nothing, though it completes no frame: no network makes smaller segments."""
BYTES_PER_SHARE: Final = 8192
"""Bytes of a message that count as one more frame of the turn's share."""

LATE_FRAMES: Final = 64
"""Frames of one read after our close that are looked through for the peer's own."""

# What a socket takes from its peer. It only ever goes up, except from PAUSED back to READING.
READING: Final = 0
PAUSED: Final = 1
"""It is not read from, because enough waits already."""
HUSHED: Final = 2
"""It is not read from any more, because it floods rather than answer our close. It can still read our close
frame, and the close timeout ends it.
"""
MUTED: Final = 3
"""It is watched no more: the peer is gone, and what it said before is being handled."""


class _Busy:
    """Why a socket's next message has to wait, apart from an awaitable of the last one."""


OPENING: Final = _Busy()
"""open() is not done."""
YIELDED: Final = _Busy()
"""It has had its share of the turn."""


async def _after(work: "asyncio.Future[Any]", end: Callable[[], None]) -> None:
    await asyncio.wait((work,))
    end()


class Incoming(Outgoing):
    """Reads what the peer sends, and hands it to the handler one message after the other."""

    __slots__ = ("__weakref__", "_busy", "_code", "_full", "_inbound", "_intake", "_pings", "_reason")

    def __init__(self, handler: Handler, poll: Poll, fd: int) -> None:
        super().__init__(handler, poll, fd)
        self._inbound: frames.Inbound | None = None
        """Reads what is not one whole short message; exists only while something is under way."""
        self._busy: object = OPENING
        """What the next message has to wait for."""
        self._intake = READING
        self._full = 0.0
        """When its allowance (`Params.frame_rate`) is full again, on the loop's clock."""
        self._pings = 0
        """Pings that were not answered; as many pongs cost nothing."""
        self._code = frames.LOST
        self._reason = ""

    def readable(self, event: int) -> None:
        """There is something to read, or the peer is gone."""
        if self._intake and not event & READ:
            self._part()  # a reset: nothing that we have not read will ever come
            return
        try:
            data = self._read()
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._part()
            return
        self._heard = True
        stats.bytes_in += len(data)
        if self._state == OPEN:
            self.receive(data)
        else:
            self._receive_late(data)

    def _read(self) -> bytes:
        """What there is to read, b"" at the end. Raises OSError."""
        return os.read(self._fd, READ_BYTES)

    def _parser(self) -> frames.Inbound:
        return frames.Inbound(self.poll.params.max_message)

    def receive(self, data: bytes) -> None:
        """Take bytes that the peer sent."""
        inbound = self._inbound
        if inbound is None:
            if self._busy is None:
                text = frames.whole_text(data, self.poll.params.max_message)
                if text is not None:
                    stats.frames_in += 1
                    self._message(text)
                    return
            inbound = self._inbound = self._parser()
        inbound.receive(data)
        if self._busy is None:
            self._drain(inbound)
        elif not self._intake and (
            inbound.waiting > self.poll.params.read_bytes or inbound.reads > READS_AHEAD
        ):
            self._intake = PAUSED
            self._watch()

    def _receive_late(self, data: bytes) -> None:
        """Take bytes that come after our close: only the peer's own close matters, and everything costs."""
        self._charge(1 + len(data) / BYTES_PER_UNIT)
        if self._state == CLOSING and self._intake < HUSHED:
            inbound = self._inbound
            if inbound is None:
                inbound = self._inbound = self._parser()
            inbound.receive(data)
            self._seek_close(inbound)

    def _charge(self, cost: float) -> None:
        """Take what the peer has cost off its allowance, or give back what it has earned (below 0).

        Without an allowance it is closed; after our close it is hushed.
        """
        if cost <= 0 and not self._full:
            return
        now, params = self.poll.loop.time(), self.poll.params
        full = self._full = max(self._full, now) + cost / params.frame_rate
        if full - now <= params.frame_burst / params.frame_rate:
            return
        if self._state != OPEN:
            self._hush()
            return
        self._call(self.handler.on_flood)
        self.close(*self.handler.wire_flood_close)

    def _hush(self) -> None:
        """Never read from it again."""
        self._inbound = None
        if self._intake < HUSHED:
            self._intake = HUSHED
            self._watch()

    def go_on(self) -> None:
        """Nothing holds the next message up any more."""
        self._busy = None
        if self._state == GONE:
            return
        if self._inbound is not None:
            self._drain(self._inbound)
        self._settle()

    def _settle(self) -> None:
        if self._busy is not None:
            return
        if self._intake == MUTED:
            if self.handler.under_way is None:
                self._lose()
            else:
                self._wait(self.handler.under_way)
        elif self._intake == PAUSED:
            self._intake = READING
            self._watch()

    def _drain(self, inbound: frames.Inbound) -> None:
        """Handle what is complete, until a message has to be waited for or the turn's share is used up."""
        share = whole_share = self.poll.params.messages_per_turn
        before, cost = inbound.waiting, 0
        inbound.reads = 0
        try:
            while self._state == OPEN:
                event = inbound.next()
                if event is None:
                    if inbound.idle:
                        self._inbound = None
                    break
                stats.frames_in += 1
                share -= 1 + (len(event.text) + len(event.data)) // BYTES_PER_SHARE
                cost += self._event(event)
                if self._busy is not None:
                    break
                if share <= 0:
                    self._busy = YIELDED
                    self.poll.again(self)
                    break
        except frames.Violation as violation:
            self._finally(partial(self._fail, violation))
            return
        taken = before - inbound.waiting
        if share == whole_share and taken < BYTES_PER_READ:
            cost = 1  # for a small read that completed nothing
        if self._state == OPEN:  # bytes are in its favour: they become messages, or too large a message
            self._charge(cost - taken / BYTES_PER_UNIT)
        if self._state == CLOSING and self._inbound is not None:
            self._seek_close(inbound)

    def _seek_close(self, inbound: frames.Inbound) -> None:
        """Look through what comes after our close for the peer's; the rest is thrown away, and costs."""
        thrown = 0
        try:
            while True:
                event = inbound.next()
                if event is None:
                    break
                stats.frames_in += 1
                thrown += 1
                if event.opcode == frames.CLOSE:
                    self._end()
                    return
                if thrown > LATE_FRAMES:
                    self._hush()
                    return
        except frames.Violation as violation:
            self._fail(violation)
            return
        self._charge(thrown)

    def _fail(self, violation: frames.Violation) -> None:
        """The peer has broken the protocol: say so, unless we have said goodbye already, and hear no more."""
        stats.protocol_errors += 1
        if self._state == OPEN:
            stats.too_big += violation.code == frames.TOO_BIG
            self._say_close(violation.code, violation.reason)
        self._end()

    def _event(self, event: frames.Event) -> int:
        """Handle one frame; what it costs. Messages cost nothing here: the handler charges for those."""
        opcode = event.opcode
        if opcode == frames.TEXT:
            self._message(event.text)
            return 0
        if opcode == frames.BINARY:
            self._message(event.data)
            return 0
        if opcode == frames.CLOSE:
            self._finally(partial(self._closed, event))
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
            if self._pings:
                self._pings -= 1
                return 0
        return 1

    def _closed(self, event: frames.Event) -> None:
        """The peer has said goodbye: so do we, unless we have."""
        if self._state == OPEN:
            self._code, self._reason = event.code, event.text
            self._say_close(event.code, "", keep=True)
        self._end()

    def _finally(self, end: Callable[[], None]) -> None:
        """Do what the peer's last frame asks for when what it said before has been handled."""
        if self.handler.under_way is None:
            end()
        else:
            self._wait(_after(self.handler.under_way, end))

    def _message(self, message: str | bytes) -> None:
        try:
            result = self.handler.on_message(message)
        except (Exception, asyncio.CancelledError):
            self.handler.on_failure(*sys.exc_info())
            return
        if result is not None:
            self._wait(result)

    def _call(self, callback: Any, *arguments: bytes) -> None:
        try:
            callback(*arguments)
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
        if self._inbound is None:
            self.go_on()
        else:
            self.poll.again(self)  # many may have waited for the same thing

    def _watch(self) -> None:
        """Watch for the events that matter now."""
        if self._intake < MUTED:
            wanted = 0 if self._intake else READ
            self.poll.watch(self._fd, wanted | WRITE if isinstance(self.out, Backlog) else wanted)

    # What the rest does

    def _lose(self) -> None:
        """It is over."""
        raise NotImplementedError

    def _end(self) -> None:
        """Both sides have said what they had to say, once our queue is empty."""
        raise NotImplementedError

    def _say_close(self, code: int | None, reason: str, keep: bool = False) -> None:
        """Start the closing handshake; `keep` leaves the code and reason for the handler as they are."""
        raise NotImplementedError
