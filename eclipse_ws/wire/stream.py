"""The same `Socket` in front of Tornado's own protocol, for TLS in this process and for compressed sessions.

Bounds, order, audiences, close codes and the clock are the same as elsewhere. Tornado's are: how frames are
read (it takes unmasked ones, checks UTF-8 at a message's end, and drops a session that breaks the protocol
without a close frame), how pings are sent, and the memory that both cost.
"""

import asyncio
import functools
import sys
import zlib
from collections.abc import Awaitable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from tornado import gen
from tornado.httputil import HTTPHeaders
from tornado.iostream import IOStream, StreamClosedError
from tornado.websocket import WebSocketHandler, WebSocketProtocol13

from eclipse_ws.wire import frames
from eclipse_ws.wire.backlog import Backlog
from eclipse_ws.wire.outgoing import CLOSING, ENDING, GONE, OPEN
from eclipse_ws.wire.poll import Poll, poll_for, stats
from eclipse_ws.wire.socket import Socket

if TYPE_CHECKING:
    from eclipse_ws.wire.handler import WireHandler

EXTENSION = "permessage-deflate"
SMALLEST = 64
"""Bytes below which compressing a message costs more than it saves; sending it as it is, is always allowed.
"""
RSV1 = 0x40


def accepted_offer(header: str) -> str | None:
    """The first offer of permessage-deflate that we can take, as we take it: without context takeover.

    `header` is the client's Sec-WebSocket-Extensions; None if nothing in it is for us (RFC 7692 sections 5
    and 7.1).
    """
    for offer in header.split(","):
        name, *parameters = (part.strip() for part in offer.split(";"))
        if name.lower() != EXTENSION:
            continue
        taken = [EXTENSION, "server_no_context_takeover", "client_no_context_takeover"]
        seen = set()
        for parameter in parameters:
            key, _, value = (part.strip().strip('"') for part in parameter.partition("="))
            if key in seen:
                break
            seen.add(key)
            if key in {"server_no_context_takeover", "client_no_context_takeover"} and not value:
                continue
            if key == "client_max_window_bits" and value in _WINDOW_BITS | {"", "8"}:
                continue
            # zlib can't keep to a window of 8 bits.
            if key == "server_max_window_bits" and value in _WINDOW_BITS:
                taken.append(f"{key}={value}")
                continue
            break
        else:
            return "; ".join(taken)
    return None


_WINDOW_BITS = {str(bits) for bits in range(9, 16)}


@functools.lru_cache(maxsize=64)
def deflated(frame: bytes, level: int, memory: int, bits: int) -> bytes:
    """A frame of ours with its payload compressed (RFC 7692 section 7.2.1), once for all sessions that want
    it so.
    """
    opcode = frame[0] & 0x0F
    header = {126: 4, 127: 10}.get(frame[1], 2)
    if opcode >= frames.CLOSE or len(frame) - header < SMALLEST:
        return frame
    deflate = zlib.compressobj(level, zlib.DEFLATED, -bits, memory)
    payload = deflate.compress(frame[header:]) + deflate.flush(zlib.Z_SYNC_FLUSH)
    compressed = frames.frame(opcode, payload[:-4])
    return bytes((compressed[0] | RSV1,)) + compressed[1:]


class StreamSocket(Socket):
    """A `Socket` that writes to a Tornado stream."""

    __slots__ = ("_deflate", "_protocol")

    def __init__(
        self,
        handler: "WireHandler",
        poll: Poll,
        protocol: "StreamProtocol",
        deflate: tuple[int, int, int] | None,
    ) -> None:
        super().__init__(handler, poll, -1)
        self._protocol = protocol
        self._deflate = deflate
        """Level, memory level and window bits; None sends frames as they are."""

    def put(self, taken: Sequence[bytes], soft: int, data: bytes) -> None:
        """Write frames now; what the stream can't pass on at once makes the rest wait here."""
        del soft
        if self._deflate is not None:
            data = b"".join(deflated(frame, *self._deflate) for frame in taken)
        stats.frames_out += len(taken)
        self._write(data)

    def _write(self, data: bytes) -> None:
        stream = self._protocol.stream
        try:
            written = stream.write(data)
        except StreamClosedError:
            self._lose()
            return
        stats.sends += 1
        stats.bytes_out += len(data)
        if stream.writing():
            if self.out is None:
                self.out = Backlog()
            written.add_done_callback(self._written)

    def _written(self, written: "asyncio.Future[None]") -> None:
        out = self.out
        if not isinstance(out, Backlog):
            return
        if written.cancelled() or written.exception() is not None:
            self._lose()
            return
        if not out.size:
            self.out = None
            if self._state:
                self._flushed()
            return
        taken = out.take()
        self.queued = out.size
        self.put(taken, 0, b"".join(taken))
        if self.out is out and not self._protocol.stream.writing():
            self._written(written)

    def _say_close(self, code: int | None, reason: str, keep: bool = False) -> None:
        self._leave()
        if self._state != OPEN:
            return
        if not keep:
            self._code, self._reason = frames.NO_CODE if code is None else code, reason
        self.poll.closing[self] = self.poll.loop.time() + self.poll.params.close_timeout
        self.flush()
        self._state = self._state or CLOSING
        if self.out is None:
            self._flushed()

    def _flushed(self) -> None:
        if self._state == CLOSING:
            self._state = ENDING
            code = None if self._code == frames.NO_CODE else self._code
            # Through the frame, because that is where a reason is cut to what may be sent.
            reason = frames.close_frame(code, self._reason)[4:].decode()
            self._protocol.close(code, reason if code is not None else None)

    def _watch(self) -> None:
        pass

    def _lose(self) -> None:
        if self._state != GONE:
            self._leave(with_frames=False)
            self._state = GONE
            self.poll.remove(self, -1, watched=False)
            self.out = None
            self.queued = 0
            self._ended_now()
            self._protocol.stream.close()

    def ping(self) -> None:
        """Tornado's protocol does that here."""

    def over(self, code: int | None, reason: str | None) -> None:
        """The peer has closed, or is gone."""
        if self._state == OPEN and code is not None:
            self._code, self._reason = code, reason or ""
        self._lose()


class _Delegate:
    """What the protocol calls instead of the handler, so that a handler's failures end as they do
    elsewhere.
    """

    def __init__(self, handler: "WireHandler") -> None:
        self.handler = handler

    def on_message(self, message: str | bytes) -> Awaitable[None] | None:
        stats.frames_in += 1
        if self.handler.wire.is_closing:
            return None
        try:
            result = self.handler.on_message(message)
        except (Exception, asyncio.CancelledError):
            self.handler.on_failure(*sys.exc_info())
            return None
        return None if result is None else self._wait(result)

    async def _wait(self, result: Awaitable[None]) -> None:
        try:
            await gen.convert_yielded(result)
        except (Exception, asyncio.CancelledError):
            self.handler.on_failure(*sys.exc_info())

    def on_ping(self, data: bytes) -> None:
        stats.frames_in += 1
        self.handler.on_ping(data)

    def on_pong(self, data: bytes) -> None:
        stats.frames_in += 1
        self.handler.on_pong(data)

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.handler.log_exception(typ, value, tb)

    def on_ws_connection_close(self, close_code: int | None = None, close_reason: str | None = None) -> None:
        wire = self.handler.wire
        assert isinstance(wire, StreamSocket)
        wire.over(close_code, close_reason)


class StreamProtocol(WebSocketProtocol13):
    """Tornado's protocol, with our socket in front of it from the moment when there is a stream."""

    def __init__(self, handler: "WireHandler", params: Any, extension: str | None) -> None:
        super().__init__(_Delegate(handler), False, params)
        self._wire_handler = handler
        self._extension = extension

    async def accept_connection(self, handler: WebSocketHandler) -> None:
        """Answer the upgrade and stay until the session is over."""
        try:
            await super().accept_connection(handler)
        except zlib.error:
            stats.protocol_errors += 1  # what the client sent does not decompress
            self.on_connection_close()
        finally:
            wire = self._wire_handler.__dict__.get("wire")
            if isinstance(wire, StreamSocket):
                wire.over(None, None)
                wire.opened()

    def _parse_extensions_header(self, headers: HTTPHeaders) -> list[tuple[str, dict[str, str]]]:
        # Tornado answers with the parameters that it was offered, and overlooks those without a value:
        # without this every session would keep two compressors. There is no other place to say so.
        del headers
        if not self._extension:
            return []
        name, *parameters = self._extension.split("; ")
        taken: dict[str, Any] = {}
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            taken[key] = value or None
        return [(name, taken)]

    def start_pinging(self) -> None:
        """The stream is ours now, and open() comes next."""
        handler = self._wire_handler
        deflate = None
        if self._extension:
            options = self.params.compression_options or {}
            _, _, bits = self._extension.partition("server_max_window_bits=")
            deflate = options.get("compression_level", 6), options.get("mem_level", 8), int(bits or 15)
        handler._subprotocol = self.selected_subprotocol
        handler.wire = StreamSocket(handler, poll_for(handler.wire_params()), self, deflate)
        super().start_pinging()

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        """As Tornado's; a code that must not be on the wire is answered with 1002."""
        if self.client_terminated and code is not None and not frames.is_wire_code(code):
            stats.protocol_errors += 1
            code = frames.PROTOCOL_ERROR
        if code == frames.TOO_BIG and not (self.client_terminated or self.server_terminated):
            # Tornado's own limit, which it tells in its own words.
            stats.protocol_errors += 1
            stats.too_big += 1
            reason = frames.too_big(self._wire_handler.max_message_size)
        super().close(code, reason)


def stream_of(handler: "WireHandler") -> IOStream:
    """The stream that a request came on."""
    return cast(IOStream, cast(Any, handler.request.connection).stream)
