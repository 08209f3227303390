"""From an HTTP upgrade to a `Socket`: the handshake, the takeover, and what is released after it."""

import asyncio
import socket as sockets
import ssl
import sys
from types import TracebackType
from typing import Any, Self, cast
from weakref import WeakKeyDictionary

from tornado.concurrent import Future
from tornado.escape import json_encode
from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPServerRequest
from tornado.iostream import StreamClosedError
from tornado.log import app_log, gen_log
from tornado.web import Application
from tornado.websocket import WebSocketClosedError, WebSocketHandler, WebSocketProtocol, WebSocketProtocol13

from eclipse_ws.websocket import frames, opening
from eclipse_ws.websocket.counters import Stats
from eclipse_ws.websocket.deflate import Deflate, accepted_offer
from eclipse_ws.websocket.event_poll import event_poll_for
from eclipse_ws.websocket.layered import LayeredSocket
from eclipse_ws.websocket.params import Params
from eclipse_ws.websocket.socket import CLOSED as CLOSED_STATE
from eclipse_ws.websocket.socket import Socket
from eclipse_ws.websocket.takeover import fault, listed, set_no_delay, take_over

# Attributes that RequestHandler and WebSocketHandler keep for the request. `WireHandler` has defaults for
# those that are read later.
_RELEASED = frozenset(
    (
        "_auto_finish",
        "_finished",
        "_headers",
        "_headers_written",
        "_on_close_called",
        "_opening",
        "_prepared_future",
        "_reason",
        "_status_code",
        "_transforms",
        "_write_buffer",
        "close_code",
        "close_reason",
        "open_args",
        "open_kwargs",
        "path_args",
        "path_kwargs",
        "request",
        "ui",
    )
)
_params: WeakKeyDictionary[Application, dict[type, Params]] = WeakKeyDictionary()


def _closed_socket() -> Socket:
    socket = Socket.__new__(Socket)
    socket._state = CLOSED_STATE
    socket.audiences = ()
    socket.out = None
    socket.queued = 0
    return socket


CLOSED = _closed_socket()
"""The socket of a handler whose own is closed: it discards frames."""


class WireHandler(WebSocketHandler):
    """A `WebSocketHandler` whose frames go through this package. Its API is Tornado's.

    `self.wire` exists from `open` on. What only the upgrade needs (the request, its headers, the URL
    arguments) is released when `open` is done: save what you need in `open`. `close_code` and
    `close_reason` in `on_close` are ours if we closed first, else the peer's (1005: its frame had none;
    1006: there was no close frame).

    What is None below comes from the application setting of the same name, else from `Params`.
    """

    wire: Socket
    wire_max_message: int | None = None
    wire_queue_bytes: int | None = None
    wire_read_bytes: int | None = None
    wire_messages_per_turn: int | None = None
    wire_ping_interval: float | None = None
    wire_ping_timeout: float | None = None
    wire_close_timeout: float | None = None
    wire_frame_rate: float | None = None
    wire_frame_burst: float | None = None
    wire_stats: Stats | None = None
    wire_slow_close: tuple[int, str] = (1008, "Too slow: the queue is full")
    """Code and reason for a peer whose queue is full because it does not read."""
    wire_flood_close: tuple[int, str] = (1008, "Too many frames that are not messages")
    """Code and reason for a peer that has exceeded its allowance (`Params.frame_rate`)."""
    wire_error_close: tuple[int, str] = (1011, "Internal error")
    """Code and reason after `open` or `on_message` raised."""

    under_way: "Future[Any] | None" = None
    """Work that the handler still does for messages for which `on_message` returned None. The peer's close is
    answered, and the socket of a lost peer closed, when it is done.
    """

    _subprotocol: str | None = None

    # What Tornado reads from a handler whose own attributes are released.
    _auto_finish = False
    _finished = True
    _headers_written = True
    _on_close_called = False
    _prepared_future = None
    _status_code = 101
    close_code: int | None = None
    close_reason: str | None = None

    @property
    def held(self) -> int:
        """Bytes of messages that the handler keeps until it is done with them."""
        return 0

    def get_websocket_protocol(self) -> WebSocketProtocol | None:
        """Our server side of the handshake; None for a version other than RFC 6455's."""
        if self.request.headers.get("Sec-WebSocket-Version") != "13":
            return None
        return cast(WebSocketProtocol, _UPGRADE)

    @property
    def ping_interval(self) -> float:
        """Seconds; Tornado's name for ours."""
        return self.wire_params().ping_interval

    @property
    def ping_timeout(self) -> float:
        """Seconds, at most the interval; Tornado's name for ours."""
        params = self.wire_params()
        return min(params.ping_timeout, params.ping_interval)

    @property
    def max_message_size(self) -> int:
        """Bytes; Tornado's name for ours."""
        return self.wire_params().max_message

    def wire_params(self) -> Params:
        """The bounds of this class's sockets under this application."""
        known = _params.setdefault(self.application, {})
        params = known.get(type(self))
        if params is None:
            chosen = {}
            for name in Params.__dataclass_fields__:
                value = getattr(self, f"wire_{name}")
                if value is None:
                    value = self.settings.get(f"wire_{name}")
                if value is not None:
                    chosen[name] = value
            params = known[type(self)] = Params(**chosen)
        return params

    @property
    def selected_subprotocol(self) -> str | None:
        """What `select_subprotocol` returned."""
        return self._subprotocol

    def write_message(self, message: bytes | str | dict[str, Any], binary: bool = False) -> "Future[None]":
        """Like Tornado's; the future is already done. Raises WebSocketClosedError after a close."""
        wire = self._open_wire()
        if isinstance(message, dict):
            message = json_encode(message)
        payload = message.encode() if isinstance(message, str) else message
        wire.send(frames.frame(frames.BINARY if binary else frames.TEXT, payload))
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def ping(self, data: str | bytes = b"") -> None:
        """Send a ping of at most 125 bytes; `on_pong` follows. Raises WebSocketClosedError after a close."""
        payload = data.encode() if isinstance(data, str) else data
        if len(payload) > frames.CONTROL_BYTES:
            raise ValueError(
                f"A ping carries at most {frames.CONTROL_BYTES} bytes, not {len(payload)}: send fewer"
            )
        self._open_wire().ping(payload)

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        """Start the closing handshake. Before the upgrade it does nothing."""
        wire = self.__dict__.get("wire")
        if wire is not None:
            wire.close(1000 if code is None and reason else code, reason or "")

    def set_nodelay(self, value: bool) -> None:
        """Does nothing: Nagle's algorithm is off, and each turn's frames are written in one call."""

    def _open_wire(self) -> Socket:
        wire: Socket | None = self.__dict__.get("wire")
        if wire is None or wire.is_closing:
            raise WebSocketClosedError
        return wire

    def on_flood(self) -> None:
        """The peer has exceeded its allowance (`Params.frame_rate`) and is about to be closed with
        `wire_flood_close`.
        """

    def on_failure(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Log an exception raised by `open`, `on_message`, `on_ping` or `on_pong`, and end the session with
        `wire_error_close`.
        """
        if isinstance(value, WebSocketClosedError) and self.wire.is_closing:
            return  # the handler wrote to a peer that has left
        self.log_exception(typ, value, tb)
        self.wire.close(*self.wire_error_close)

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Like Tornado's, but works without the request, which Tornado's quotes."""
        if "request" in self.__dict__:
            super().log_exception(typ, value, tb)
        else:
            app_log.error("Uncaught exception in %s", type(self).__name__, exc_info=(typ, value, tb))  # type: ignore[arg-type]

    def closed(self, code: int, reason: str) -> None:
        """End the session: run `on_close` once."""
        self.close_code = code
        self.close_reason = reason
        self.ws_connection = None
        if not self._on_close_called:
            self._on_close_called = True
            try:
                self.on_close()
            except Exception:
                self.log_exception(*sys.exc_info())
        self.wire = CLOSED
        self.__dict__.pop("ui", None)  # refers back to us

    @classmethod
    def for_upgrade(cls, application: Application, request: opening.Request, **arguments: Any) -> Self | None:
        """A handler of an upgrade that `opening` has parsed; `take` follows if it is accepted.

        None if Tornado would refuse it. `initialize`, `check_origin` and `select_subprotocol` are called, but
        not `prepare` and `get`: a subclass that overrides those has to let Tornado read the upgrade.
        """
        handler = cls.__new__(cls)
        handler.application = application
        handler.request = cast(HTTPServerRequest, request)
        handler.path_args, handler.path_kwargs = [], {}
        handler.open_args, handler.open_kwargs = (), {}
        handler.initialize(**arguments)
        try:
            if handler._check_cross_origin(handler.check_origin) is not None:
                return None
        except ValueError:  # the origin is not a URL
            return None
        offered = listed(request.headers.get("Sec-WebSocket-Protocol", ""))
        selected = handler.select_subprotocol(offered)
        if selected is not None:
            if selected not in offered:
                return None
            handler._subprotocol = selected
        return handler

    def take(self, taken: sockets.socket) -> None:
        """Accept such an upgrade on its socket: the response is written together with what `open` sends.

        Raises OSError if the system can't watch the socket.
        """
        set_no_delay(taken)
        self.wire = _socket(self, taken, None)
        self.ws_connection = cast(WebSocketProtocol, self.wire)
        response = opening.response(cast(opening.Request, self.request), self._subprotocol)
        self.application.log_request(self)
        self._opening = self.wire.poll.loop.create_task(self._respond_and_open(response))

    async def _respond_and_open(self, response: bytes) -> None:
        stats = self.wire.poll.stats
        self.wire.send(response)
        stats.frames_out -= 1  # it is not a frame
        stats.bytes_out -= len(response)
        await self._run_open()

    async def _run_open(self) -> None:
        """Run `open`, and release what only the upgrade needed."""
        socket = self.wire
        try:
            result = self.open(*self.open_args, **self.open_kwargs)
            if result is not None:
                await result
        except (Exception, asyncio.CancelledError):
            self.on_failure(*sys.exc_info())
        self.forget_request()
        socket.opened()

    def forget_request(self) -> None:
        """Release what only the upgrade needed."""
        # A new dict, because deletions don't shrink a dict.
        self.__dict__ = {name: value for name, value in self.__dict__.items() if name not in _RELEASED}

    def __getattr__(self, name: str) -> Any:
        if name in _RELEASED:
            raise AttributeError(
                f"{name!r} is released when open() is done. Fix: save what you need of it in open()"
            )
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")


class Upgrade:
    """The server side of the opening handshake (RFC 6455 section 4.2)."""

    async def accept_connection(self, handler: WireHandler) -> None:
        """Accept the upgrade, take over its socket, and run the handler's open()."""
        request = handler.request
        why = fault(request)
        if why:
            handler.set_status(400)
            handler.finish(why)
            return
        offered = listed(request.headers.get("Sec-WebSocket-Protocol", ""))
        selected = handler.select_subprotocol(offered)
        if selected is not None:
            if selected not in offered:
                raise ValueError(
                    f"select_subprotocol() returned {selected!r}, which the client did not offer"
                )
            handler._subprotocol = selected
            handler.set_header("Sec-WebSocket-Protocol", selected)
        deflate = _compression(handler)
        if deflate is not None:
            handler.set_header("Sec-WebSocket-Extensions", deflate.accepted)
        handler.clear_header("Content-Type")
        handler.set_status(101)
        handler.set_header("Upgrade", "websocket")
        handler.set_header("Connection", "Upgrade")
        key = request.headers["Sec-WebSocket-Key"].strip()
        handler.set_header("Sec-WebSocket-Accept", WebSocketProtocol13.compute_accept_value(key))
        handler.finish()
        stream = cast(HTTP1Connection, request.connection).stream
        try:
            if stream.writing():
                # Before the stream is detached, because Tornado still uses it when the response is written.
                await stream.write(b"")
            taken, rest = take_over(handler.detach())
            socket = _socket(handler, taken, deflate)
        except (StreamClosedError, OSError) as error:
            if not isinstance(error, StreamClosedError | ssl.SSLError):  # those are caused by the peer
                gen_log.warning("Can't take a socket over: %s", error)
            stream.close()
            handler.forget_request()
            handler.closed(frames.LOST, "")
            return
        handler.wire = socket
        handler.ws_connection = cast(WebSocketProtocol, socket)
        if rest:
            socket.poll.stats.bytes_in += len(rest)
            socket.receive(rest)
        await handler._run_open()

    def on_connection_close(self) -> None:
        """Do nothing: the client has left during the handshake, and the takeover will fail."""


_UPGRADE = Upgrade()


def _compression(handler: WireHandler) -> Deflate | None:
    """The compression that the handler supports and the client offers; None if there is none."""
    options = handler.get_compression_options()
    if options is None:
        return None
    offer = accepted_offer(handler.request.headers.get("Sec-WebSocket-Extensions", ""))
    return None if offer is None else Deflate.of(offer, options)


def _socket(handler: WireHandler, taken: sockets.socket, deflate: Deflate | None) -> Socket:
    """The session's socket. Raises OSError if the system can't watch it."""
    poll = event_poll_for(handler.wire_params())
    if isinstance(taken, ssl.SSLSocket):
        return LayeredSocket(handler, poll, taken.fileno(), deflate, taken)
    if deflate is not None:
        return LayeredSocket(handler, poll, taken.detach(), deflate)
    return Socket(handler, poll, taken.detach())
