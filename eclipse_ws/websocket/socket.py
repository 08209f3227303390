"""A WebSocket on a socket taken over from the HTTP server."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

from eclipse_ws.websocket import frames
from eclipse_ws.websocket.after_close import LATE_FRAMES, discard
from eclipse_ws.websocket.allowance import charged, is_overdrawn, late_read_cost, read_cost
from eclipse_ws.websocket.audience import Audience
from eclipse_ws.websocket.backlog import Backlog, Frame, count_started
from eclipse_ws.websocket.callbacks import OPENING, YIELDED, Handler, after, as_future, call
from eclipse_ws.websocket.event_poll import EventPoll, FrameSource
from eclipse_ws.websocket.readiness import READ, WRITE, half_close

READ_BYTES: Final = 65536
READS_AHEAD: Final = 64
"""Reads, however small, that may wait for the handler; beyond that nothing is read from the peer."""
MANY_AUDIENCES: Final = 8
"""Audiences of a socket above which it looks for its own among those that have frames."""
BYTES_PER_SHARE: Final = 8192
"""Bytes of a message that count as one more frame of the socket's share of a turn."""

# The states of a socket, and of its intake: see Socket.
OPEN, CLOSING, FLUSHING, LINGERING, CLOSED = range(5)
READING, PAUSED, STOPPED, ENDED = range(4)


class Socket:
    """One WebSocket: sessions and audiences send through it. Belongs to the event loop's thread.

    It is created when the opening handshake is done; its states follow RFC 6455 section 7:

             close(), a full queue,       the peer's close           the queue
             an overdrawn allowance       frame, a violation         is empty
        OPEN ─────────────────────▶ CLOSING ───────────────▶ FLUSHING ────────▶ LINGERING
          │                            │                        │                   │
          └────────────────────────────┴────────────┬───────────┴───────────────────┘
                                                    ▼ the peer is gone, `close_timeout`, abort()
                                                 CLOSED

    - CLOSING: our close frame is queued or sent ("the closing handshake is started", 7.1.3). Only the peer's
      close frame still matters; everything it sends is charged.
    - FLUSHING: the handshake is complete except for our queue. A peer's close frame or a violation (7.1.7) in
      OPEN leads here at once, with our close frame in the queue.
    - LINGERING: our side of the TCP connection is shut down and the handler was notified. The peer closes
      first (7.1.1), because a reset could cost it bytes that it has not read.
    - CLOSED: the file descriptor is closed (7.1.4). The handler is notified, if it was not before.

    A second state, the intake, says what is read from the peer:

                enough waits            it floods
                for the handler         after our close
        READING ◀─────────────▶ PAUSED ───────────────▶ STOPPED
           │                      │                        │
           └──────────────────────┴───────────┬────────────┘
                                              ▼ the peer is gone, what it sent is still being handled
                                            ENDED

    - PAUSED: nothing is read until there is room. READING leads to STOPPED, too.
    - STOPPED: nothing more is read. The peer can still read our close frame; `close_timeout` ends it.
    - ENDED: the file descriptor is no longer watched; CLOSED follows when everything is handled.

    Messages are handled one after the other. While one is awaited (`_busy`), what arrives stays unparsed.
    """

    __slots__ = (
        "__weakref__",
        "_busy",
        "_code",
        "_fd",
        "_full_at",
        "_heard",
        "_inbound",
        "_intake",
        "_pings",
        "_reason",
        "_soft",
        "_state",
        "_told",
        "audiences",
        "handler",
        "out",
        "poll",
        "queued",
    )

    def __init__(self, handler: Handler, poll: EventPoll, fd: int) -> None:
        self.handler = handler
        self.poll = poll
        self._fd = fd
        self._state = OPEN
        self._intake = READING
        self._code = frames.LOST
        """The close code and reason for the handler."""
        self._reason = ""
        self._told = False
        """Whether the handler was notified of the end, or is about to be."""

        self.audiences: tuple[Audience, ...] = ()
        """The audiences that the socket belongs to."""
        self.out: list[bytes] | Backlog | None = None
        """Its own frames for the end of the turn, or those that the kernel did not take."""
        self.queued = 0
        """Bytes of `out`."""
        self._soft = 0
        """Bit n: frame n of the list may be dropped."""

        self._inbound: frames.Inbound | None = None
        """Parses what is not one whole message; exists only while there is something to parse."""
        self._busy: object = OPENING
        """What the next message waits for."""
        self._full_at = 0.0
        """The peer's allowance, on the loop's clock: see `allowance`."""
        self._heard = True
        """Whether the peer sent (or took) anything since the last ping."""
        self._pings = 0
        """Unanswered pings; as many pongs are free."""
        poll.add(self, fd)
        poll.stats.sockets += 1

    @property
    def is_closing(self) -> bool:
        """Whether a frame that is sent now is discarded."""
        return self._state != OPEN

    @property
    def is_lost(self) -> bool:
        """Whether the peer is known to be gone, though what it sent before may still be handled."""
        return self._state == CLOSED or self._intake == ENDED

    @property
    def held(self) -> int:
        """Bytes from the peer that wait for the rest of their message or for the handler."""
        if self._state == CLOSED:
            return 0
        return self.handler.held + (0 if self._inbound is None else self._inbound.held)

    # Sending

    def send(self, frame: bytes, droppable: bool = False) -> None:
        """Send a frame at the end of the turn. Never raises, never blocks; does nothing after a close.

        A droppable frame is dropped if the peer does not read and the queue is half full. If another frame
        fills the queue, the droppable ones in it are dropped, and if that is not enough the socket is closed.
        """
        if self._state:
            return
        audiences: Sequence[FrameSource] = self.audiences
        if len(audiences) > MANY_AUDIENCES and len(audiences) > len(self.poll.audiences):
            audiences = [audience for audience in self.poll.audiences if self in audience]
        for audience in audiences:
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

    def take(self, batch: Sequence[bytes], soft: int) -> None:
        """Append frames to the socket's own; bit n of `soft` says that frame n may be dropped."""
        out = self.out
        if out is None:
            self.out = list(batch)
            self._soft = soft & (1 << len(batch)) - 1
            self.poll.sockets.append(self)
            self.poll.schedule()
        elif isinstance(out, list):
            self._soft |= (soft & (1 << len(batch)) - 1) << len(out)
            out.extend(batch)
        else:
            self.poll.stats.dropped += out.push(batch, soft, self.poll.params.queue_bytes // 2)
            self._limit(out)
            return
        self.queued += sum(map(len, batch))
        if self.queued > self.poll.params.queue_bytes:
            self.flush()

    def put(self, batch: Sequence[bytes], soft: int, data: bytes) -> None:
        """Write frames now; `data` is all of them joined. Only if nothing waits (`out` is None)."""
        try:
            size = os.write(self._fd, data)
        except BlockingIOError:
            size = 0
        except OSError:
            self._lose()
            return
        stats = self.poll.stats
        stats.sends += 1
        stats.bytes_out += size
        if size == len(data):
            stats.frames_out += len(batch)
            return
        soft &= -1 << count_started(batch, size)  # the rest of a frame must follow
        out = self.out = Backlog()
        stats.dropped += out.push(batch, soft, self.poll.params.queue_bytes // 2)
        stats.frames_out += out.advance(size)
        self._watch()
        self._limit(out)

    def flush(self) -> None:
        """End of the turn: write the socket's own frames in one call."""
        out = self.out
        if not isinstance(out, list):
            return  # closed since, or flushed when the list grew too large
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
            self._lose()
            return
        self._heard = True  # a slow reader is not a dead one
        stats = self.poll.stats
        stats.sends += 1
        stats.bytes_out += size
        stats.frames_out += out.advance(size)
        self.queued = out.size
        if not out.size:
            self.out = None
            self._watch()
            if self._state:
                self._flushed()
            elif out.pong is not None:
                self.send(out.pong)

    def _limit(self, out: Backlog) -> None:
        """Enforce the queue's bound: drop droppable frames, then close. Other sockets are not affected."""
        if out.size > self.poll.params.queue_bytes:
            self.poll.stats.dropped += out.drop()
        self.queued = out.size
        if out.size > self.poll.params.queue_bytes and self._state == OPEN:
            self.poll.stats.closed_slow += 1
            self._leave_audiences(with_frames=False)
            out.clear()
            self.close(*self.handler.wire_slow_close)

    # Receiving

    def readable(self, event: int) -> None:
        """There is something to read, or the peer is gone."""
        if self._intake and not event & READ:
            self._lose()  # a reset: nothing that we have not read will ever come
            return
        try:
            data = self._read()
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lose()
            return
        self._heard = True
        self.poll.stats.bytes_in += len(data)
        if self._state == OPEN:
            self.receive(data)
            return
        self._charge(late_read_cost(len(data)))
        if self._state == CLOSING and self._intake < STOPPED:
            inbound = self._inbound = self._inbound or self._parser()
            inbound.receive(data)
            self._discard(inbound)

    def receive(self, data: bytes) -> None:
        """Process bytes that the peer sent; only while the socket is open."""
        inbound = self._inbound
        if inbound is None:
            if self._busy is None:
                text = frames.whole_text(data, self.poll.params.max_message)
                if text is not None:
                    self.poll.stats.frames_in += 1
                    self._message(text)
                    return
            inbound = self._inbound = self._parser()
        inbound.receive(data)
        if self._busy is None:
            self._parse(inbound)
        elif not self._intake and (
            inbound.waiting > self.poll.params.read_bytes or inbound.reads > READS_AHEAD
        ):
            self._set_intake(PAUSED)

    def _parse(self, inbound: frames.Inbound) -> None:
        """Handle whole frames until a message has to be awaited or the share of the turn is used up."""
        share = self.poll.params.messages_per_turn
        before, cost, is_piece = inbound.waiting, 0, True
        inbound.reads = 0
        try:
            while self._state == OPEN:
                event = inbound.next()
                if event is None:
                    if inbound.idle:
                        self._inbound = None
                    break
                self.poll.stats.frames_in += 1
                share -= 1 + (len(event.text) + len(event.data)) // BYTES_PER_SHARE
                is_piece = False
                cost += self._handle(event)
                if self._busy is not None:
                    break
                if share <= 0:
                    self._busy = YIELDED
                    self.poll.resume_later(self)
                    break
        except frames.Violation as violation:
            self._when_handled(partial(self._fail, violation))
            return
        if self._state == OPEN:
            self._charge(read_cost(None if is_piece else cost, before - inbound.waiting))
        if self._state == CLOSING and self._inbound is not None:
            self._discard(inbound)

    def _handle(self, event: frames.Event) -> int:
        """Handle one frame. Returns its cost: 0 for messages, which the handler charges."""
        opcode = event.opcode
        if opcode == frames.TEXT:
            self._message(event.text)
            return 0
        if opcode == frames.BINARY:
            self._message(event.data)
            return 0
        if opcode == frames.CLOSE:
            self._when_handled(partial(self._answer_close, event))
        elif opcode == frames.PING:
            # Only the last of several pings has to be answered (RFC 6455 section 5.5.3): a peer that pings
            # without reading gets only that answer.
            pong = frames.frame(frames.PONG, event.data)
            if isinstance(self.out, Backlog):
                self.out.pong = pong
            else:
                self.send(pong, droppable=True)
            call(self.handler, self.handler.on_ping, event.data)
        elif opcode == frames.PONG:
            call(self.handler, self.handler.on_pong, event.data)
            if self._pings:
                self._pings -= 1
                return 0
        return 1

    def _message(self, message: str | bytes) -> None:
        try:
            result = self.handler.on_message(message)
        except (Exception, asyncio.CancelledError):
            self.handler.on_failure(*sys.exc_info())
            return
        if result is not None:
            self._wait(result)

    def _wait(self, result: Awaitable[None]) -> None:
        """Make the next message wait until this one is done."""
        future = self._busy = as_future(result, self.poll.loop)
        future.add_done_callback(self._waited)

    def _waited(self, future: "asyncio.Future[Any]") -> None:
        call(self.handler, future.result)
        if self._inbound is None:
            self.resume()
        else:
            self.poll.resume_later(self)  # many may have waited for the same thing

    def opened(self) -> None:
        """The handler's `open` has returned: handle the messages that arrived in the meantime."""
        if self._told:
            self._tell()
        self.resume()

    def resume(self) -> None:
        """Handle the next messages: what they waited for is done, or the others have had their turn."""
        self._busy = None
        if self._state == CLOSED:
            return
        if self._inbound is not None:
            self._parse(self._inbound)
        self._settle()

    def _settle(self) -> None:
        """Unless a message is awaited, read again, or close if the peer is gone."""
        if self._busy is not None:
            return
        if self._intake == ENDED:
            if self.handler.under_way is None:
                self.abort()
            else:
                self._wait(self.handler.under_way)
        elif self._intake == PAUSED:
            self._set_intake(READING)

    def _charge(self, units: float) -> None:
        """Charge the peer's allowance, or add what it has earned (below 0). If it is overdrawn, close the
        peer, or after our close stop reading from it.
        """
        if units <= 0 and not self._full_at:
            return
        now, params = self.poll.loop.time(), self.poll.params
        self._full_at = charged(self._full_at, now, units, params)
        if not is_overdrawn(self._full_at, now, params):
            return
        if self._state != OPEN:
            self._stop_reading()
            return
        call(self.handler, self.handler.on_flood)
        self.close(*self.handler.wire_flood_close)

    def _set_intake(self, intake: int) -> None:
        self._intake = intake
        self._watch()

    def _watch(self) -> None:
        """Watch the descriptor for the events that matter now."""
        if self._intake < ENDED:
            wanted = 0 if self._intake else READ
            self.poll.watch(self._fd, wanted | WRITE if isinstance(self.out, Backlog) else wanted)

    # Closing

    def close(self, code: int | None = 1000, reason: str = "") -> None:
        """Start the closing handshake; what was sent before is written first. Later calls do nothing.

        The handler's on_close() follows with this code and reason when the peer has answered, or after
        `close_timeout`.
        """
        if self._state == OPEN:
            self._send_close(code, reason)

    def _send_close(self, code: int | None, reason: str, keep: bool = False) -> None:
        """OPEN to CLOSING; `keep` leaves the code and reason for the handler as they are."""
        self._leave_audiences()
        if self._state != OPEN:
            return  # the audiences' last frames were too much for its queue
        if not keep:
            self._code, self._reason = frames.NO_CODE if code is None else code, reason
        self._state = CLOSING
        self._full_at = 0.0  # so that a peer that is closed for flooding can answer
        self.poll.track_closing(self)
        self.take((frames.close_frame(code, reason),), 0)

    def _leave_audiences(self, with_frames: bool = True) -> None:
        for audience in reversed(self.audiences):  # the last one is the cheapest one to leave
            audience.discard(self, with_frames)

    def _when_handled(self, end: Callable[[], None]) -> None:
        """Call `end` for the peer's last frame once everything before it has been handled."""
        if self.handler.under_way is None:
            end()
        else:
            self._wait(after(self.handler.under_way, end))

    def _answer_close(self, event: frames.Event) -> None:
        """The peer's close frame came first, or crossed ours."""
        if self._state == OPEN:
            self._code, self._reason = event.code, event.text
            self._send_close(event.code, "", keep=True)
        self._finish()

    def _fail(self, violation: frames.Violation) -> None:
        """Fail the WebSocket connection (RFC 6455 section 7.1.7)."""
        self.poll.stats.protocol_errors += 1
        if self._state == OPEN:
            self.poll.stats.too_big += violation.code == frames.TOO_BIG
            self._send_close(violation.code, violation.reason)
        self._finish()

    def _discard(self, inbound: frames.Inbound) -> None:
        """CLOSING: look for the peer's close frame. Everything else is discarded and charged."""
        try:
            discarded = discard(inbound, self.poll.stats)
        except frames.Violation as violation:
            self._fail(violation)
            return
        if discarded is None:
            self._finish()
        elif discarded > LATE_FRAMES:
            self._stop_reading()
        else:
            self._charge(discarded)

    def _stop_reading(self) -> None:
        self._inbound = None
        if self._intake < STOPPED:
            self._set_intake(STOPPED)

    def _finish(self) -> None:
        """CLOSING to FLUSHING: the closing handshake is done except for our queue."""
        self._inbound = None
        if self._state < FLUSHING:
            self._state = FLUSHING
            if self._intake == PAUSED:
                self._set_intake(READING)
            if self.out is None:
                self._flushed()

    def _flushed(self) -> None:
        """The queue is empty, after our close: FLUSHING to LINGERING."""
        if self._state == FLUSHING:
            self._state = LINGERING
            self._half_close()
            self._tell_soon()

    def _lose(self) -> None:
        """The peer is gone; what it sent before is still handled."""
        if self._intake == ENDED:
            return
        if self._state < FLUSHING and (self._busy is not None or self.handler.under_way is not None):
            self._intake = ENDED
            self.poll.unwatch(self._fd)
            self._settle()
        else:
            self.abort()

    def abort(self) -> None:
        """Close at once, without another frame."""
        if self._state == CLOSED:
            return
        self._leave_audiences(with_frames=False)
        self._state = CLOSED
        self.poll.remove(self, self._fd, self._intake < ENDED)
        self._close_fd()
        self.out = self._inbound = None
        self.queued = 0
        self._tell_soon()

    def forget(self) -> None:
        """Close without notifying the handler: the loop is closed."""
        self._state = CLOSED
        self._close_fd()
        if not self._told:
            self._told = True
            self.poll.stats.sockets -= 1

    def _tell_soon(self) -> None:
        if not self._told:
            self._told = True
            self.poll.stats.sockets -= 1
            if self._busy is not OPENING:
                self.poll.loop.call_soon(self._tell)

    def _tell(self) -> None:
        """Notify the handler: once, and never from within a send."""
        self.handler.closed(self._code, self._reason)

    # Signs of life

    def ping(self, payload: bytes = b"", droppable: bool = False) -> None:
        """Send a ping of at most 125 bytes."""
        if self._state == OPEN:
            self._pings += 1
            self.send(frames.frame(frames.PING, payload), droppable)

    def probe(self) -> None:
        """Ask for a sign of life, which `check_alive` checks later."""
        self._heard = False
        self.ping(droppable=True)

    def check_alive(self) -> None:
        """The time to answer a ping is over: a peer that sent nothing is lost, unless we did not read."""
        if not self._heard and self._state == OPEN and not self._intake:
            self._lose()

    # Overridden by LayeredSocket, besides take(), put() and writable()

    def _parser(self) -> frames.Inbound:
        return frames.Inbound(self.poll.params.max_message)

    def _read(self) -> bytes:
        """The available bytes, b"" at the end. Raises OSError."""
        return os.read(self._fd, READ_BYTES)

    def _write(self, data: Frame) -> int:
        """Offer queued bytes to the kernel. Returns how many it takes; raises OSError."""
        return os.write(self._fd, data)

    def _half_close(self) -> None:
        half_close(self._fd)

    def _close_fd(self) -> None:
        os.close(self._fd)
        self._fd = -1
