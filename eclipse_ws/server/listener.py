"""The listener: an HTTP server that bounds the size, time, rate and number of requests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import ssl
import sys
import time
from collections.abc import Awaitable
from http import HTTPStatus
from typing import Any, Final, cast

import structlog
from tornado.http1connection import HTTP1Connection, HTTP1ServerConnection
from tornado.httputil import (
    HTTPConnection,
    HTTPInputError,
    HTTPMessageDelegate,
    HTTPServerRequest,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.httputil import HTTPHeaders as Headers
from tornado.ioloop import IOLoop
from tornado.iostream import StreamClosedError, UnsatisfiableReadError
from tornado.log import gen_log
from tornado.web import Application, RequestHandler

from eclipse_ws.config.settings import Settings
from eclipse_ws.security.internal_auth import InternalAuth, Refusal
from eclipse_ws.server.acceptor import Acceptor
from eclipse_ws.server.connections import Connection, Connections
from eclipse_ws.server.pacing import Gate
from eclipse_ws.server.turnstile import GIVEN_WAY, MANY, Turnstile

log = structlog.get_logger("eclipse_ws.listener")

CHUNK: Final = 16384
"""Bytes that are read from a connection at once."""
NODE_BODY_BYTES: Final = 1 << 25
"""Maximum bytes of all bodies in memory."""
NOISE = ("SSL Error on", "error on read", "Malformed HTTP message", "Unsatisfiable read")
"""Prefixes of Tornado's log lines that any client can cause."""
HEADER_LINES: Final = 128
"""Maximum lines of a request's headers; each takes as long to parse as kilobytes of a body."""
REFUSAL_READ_TIME: Final = 0.5
"""Seconds that a peer has to read its refusal when the rest of its request is not read."""
NO_LENGTH: Final = Refusal(411, "A body needs a Content-Length on this route")
TOO_OFTEN: Final = Refusal(429, "Too many requests; try again later", "http_rate", 5)


def _demote(record: logging.LogRecord) -> bool:
    """Log peers that do not speak TLS or HTTP at debug: a port scan must not fill a log."""
    if str(record.msg).startswith(NOISE):
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
        return gen_log.isEnabledFor(logging.DEBUG)
    return True


gen_log.addFilter(_demote)


HANDSHAKE_TIMEOUT: Final = 10.0
"""Seconds within which a request, including its TLS handshake, must arrive, and its answer be taken."""
IDLE_TIMEOUT: Final = 75.0
"""Seconds that a connection may wait between two requests: longer than most proxies keep theirs."""
MAX_HEADER_BYTES: Final = 16384
"""Bytes of all headers of a request: as many as Node.js takes."""


class Listener(Acceptor):
    """An HTTP server for strangers.

    A socket's first request has HANDSHAKE_TIMEOUT seconds, TLS included, and the peer has as long to read
    a response; a later request may take IDLE_TIMEOUT seconds to begin. Of more than ``most`` connections
    the slowest is closed, not the newest: honest clients are quick (`Connections`).

    A handler's class may have the attributes ``needs_secret`` (a request without the secret is refused before
    the body is read) and ``takes_body`` (without it a body is read and dropped, and a chunked one gets 411).
    A body of more than ``max_event`` bytes gets 413; more than MAX_HEADER_BYTES of headers closes the
    socket.
    """

    turnstile: Turnstile | None = None
    """Of a worker that shares the listening sockets with others."""
    _room = MANY
    """Sockets that this worker may accept before it lets another one go first."""

    def initialize(  # type: ignore[override]
        self,
        application: Application,
        settings: Settings,
        internal_auth: InternalAuth,
        tls: ssl.SSLContext | None,
        most: int,
    ) -> None:
        """Tornado calls this with the constructor's arguments. ``most``: how many connections."""
        super().initialize(
            application,
            ssl_options=tls,
            chunk_size=CHUNK,
            max_header_size=MAX_HEADER_BYTES,
            max_body_size=sys.maxsize,  # our own limit responds with a sentence, and is counted
            body_timeout=HANDSHAKE_TIMEOUT,
        )
        # Tornado would include the wait for a request in this timeout; the table has one for each phase.
        self.conn_params.header_timeout = None
        self.application = application
        self.limits = internal_auth.limits
        self.sources = internal_auth.sources
        self.timeout = HANDSHAKE_TIMEOUT
        self.max_body = settings.max_event
        self.body_bytes = 0
        """Bytes of bodies in memory now."""
        self.gate = Gate()
        self.connections = Connections(
            most,
            HANDSHAKE_TIMEOUT,
            IDLE_TIMEOUT,
            # Handlers have their own timeouts; this one is a safety net.
            HANDSHAKE_TIMEOUT + max(IDLE_TIMEOUT, 2 * settings.api_timeout),
            internal_auth.limits,
        )
        self._internal_auth = internal_auth
        self._open: dict[object, Connection] = {}

    @property
    def held(self) -> int:
        """The entries of all tables: connections, waiting sockets and addresses; 0 without any connection."""
        table, watched = self.connections, 0 if self._paced is None else self._paced.watched
        waiting = len(self._accepted) + len(self._silent) + len(self._begun)
        return len(self._open) + len(table) + table.addresses + waiting + watched

    @property
    def waiting(self) -> int:
        """Accepted sockets that are not yet served."""
        return len(self._accepted)

    def _accept(self, listening: socket.socket, _events: int) -> None:
        if self.turnstile is None:
            super()._accept(listening, _events)
            return
        self._room = self.turnstile.room()
        if self._room:
            super()._accept(listening, _events)
            self.turnstile.publish()
            return
        loop = IOLoop.current()
        loop.remove_handler(listening)
        loop.call_later(GIVEN_WAY, self._resume, listening)

    def _turn_away(self, listening: socket.socket) -> None:
        if self.turnstile is None or self.turnstile.alone:
            super()._turn_away(listening)  # otherwise the others have descriptors for them

    def _places(self) -> int:
        return min(super()._places(), self._room)

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """Begin a request: of a new connection, or the next one of an open connection."""
        served = cast(HTTP1ServerConnection, server_conn)
        connection = self._open.get(server_conn)
        request = cast(HTTP1Connection, request_conn)
        request.__class__ = _Request  # Tornado offers no other way
        waited_for = self._begun.pop(served.stream, None)
        if served.stream.closed():
            if waited_for is not None:
                self.connections.drop(waited_for)
            return HTTPMessageDelegate()  # closed meanwhile: reading will fail
        if waited_for is not None:
            connection = self._open[server_conn] = waited_for
        elif connection is None:
            peer = getattr(served.context, "remote_ip", "")
            connection = self._open[server_conn] = Connection(served.stream, peer)
            self.connections.add(connection)
        else:
            self._settle(connection)
            connection.headless = True
            table = self.connections
            table.move(connection, table.trusted if connection.trusted else table.idle)
        self.count_by_peer(connection)
        connection.request = request
        return _RequestDelegate(self, connection, request)

    def refusal(self, connection: Connection, request: HTTPServerRequest, handler: type) -> Refusal | None:
        """None if a request may proceed, whose headers are received but not its body."""
        now = time.monotonic()
        connection.trusted = False
        refusal = None
        if getattr(handler, "needs_secret", False):
            refusal = self._internal_auth.refusal(request)
            if refusal is None:
                connection.trusted = True
                self.connections.count(connection, None)
                self.pace(connection.stream, paced=False)
                return None
        elif not connection.failed and _is_upgrade(request.headers):
            connection.upgrading = True  # upgrades have their own limits
        self.pace(connection.stream, paced=True)
        source = self.sources.of_request(request)
        self.connections.count(connection, None if source.shared else source.address)
        if not connection.upgrading and not self._allow_request(connection, now):
            self.connections.note(connection, TOO_OFTEN.limit)
            return TOO_OFTEN
        takes_body = getattr(handler, "takes_body", False)
        if refusal is None and not takes_body and "Transfer-Encoding" in request.headers:
            return NO_LENGTH  # tiny chunks would cost far more than their bytes
        return refusal

    def _allow_request(self, connection: Connection, now: float) -> bool:
        if connection.address is None:
            return connection.allow_request(now)
        return self._internal_auth.addresses.allow_request(connection.address, now)

    def release_body(self, connection: Connection) -> None:
        """The body of its request is no longer in memory."""
        self.body_bytes -= connection.body_bytes
        connection.body_bytes = 0

    def _settle(self, connection: Connection) -> None:
        """End a request: charge an upgrade that has not become a session."""
        self.release_body(connection)
        if connection.upgrading:
            connection.upgrading = False
            connection.failed = True
            self._allow_request(connection, time.monotonic())

    def on_close(self, server_conn: object) -> None:
        """Drop a connection that is closed, or taken over by a session."""
        super().on_close(server_conn)
        connection = self._open.pop(server_conn, None)
        if connection is None:
            return
        stream = connection.stream
        if connection.taken_over:
            connection.upgrading = False
        self._settle(connection)
        if connection.headless and isinstance(stream.error, UnsatisfiableReadError):
            self.connections.note(connection, "max_header_bytes")
        self.connections.drop(connection)
        # Its traceback references the stream with its unsent bytes: hundreds of them would wait for the
        # garbage collector, which blocks the loop while it frees them.
        stream.error = None

    def sweep(self, now: float) -> None:
        """Close overdue connections."""
        self.drop_overdue(now)
        self.connections.sweep(now)


class _Request(HTTP1Connection):
    """Tornado's side of one request, with a bound on its header lines."""

    def read_response(self, delegate: HTTPMessageDelegate) -> Awaitable[bool]:
        """As Tornado's, but pipelined requests are not read once the connection is closed.

        Raises StreamClosedError.
        """
        if cast(Any, self.stream).closed():
            raise StreamClosedError
        return super().read_response(delegate)

    def _parse_headers(self, data: bytes) -> tuple[str, Headers]:
        if data.count(b"\n") > HEADER_LINES:
            raise HTTPInputError(f"more than {HEADER_LINES} header lines")
        return super()._parse_headers(data)


class _RequestDelegate(HTTPMessageDelegate):
    """One request, from its connection to its handler; refusals are sent here."""

    __slots__ = ("_connection", "_keeps", "_left", "_listener", "_next", "_refused", "_request_conn")

    def __init__(self, listener: Listener, connection: Connection, request_conn: HTTP1Connection) -> None:
        self._listener = listener
        self._connection = connection
        self._request_conn = request_conn
        self._next: HTTPMessageDelegate | None = None
        self._refused = False
        self._keeps = False
        """Whether the handler wants the body."""
        self._left = listener.max_body
        """Bytes that the body may still have."""

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: Headers
    ) -> Awaitable[None] | None:
        listener, connection = self._listener, self._connection
        connection.headless = False
        length = headers.get("Content-Length", "")
        if length.isdecimal() and (len(length) > 18 or int(length) > self._left):
            self._refuse_body(headers)
            if len(length) > 18:  # Tornado would send a second response
                connection.stream.close()
            return None
        request = HTTPServerRequest(
            connection=self._request_conn,
            server_connection=None,
            start_line=cast(RequestStartLine, start_line),
            headers=headers,
        )
        following = listener.application.find_handler(request)
        handler: type[RequestHandler] = following.handler_class
        refusal = listener.refusal(connection, request, handler)
        if refusal is not None:
            self._refuse(refusal, headers, bodiless=request.method == "HEAD")
            if headers.pop("Transfer-Encoding", None) is None:
                return None
            return asyncio.sleep(REFUSAL_READ_TIME)  # then it is closed, because no body is left to read
        self._next = following
        self._keeps = getattr(handler, "takes_body", False)
        table = listener.connections
        if connection.phase is None:
            return None  # it was closed meanwhile
        if connection.trusted:
            table.move(connection, table.trusted)
            return following.headers_received(start_line, headers)  # never waits at the gate
        if not length.strip("0") and "Transfer-Encoding" not in headers:
            table.move(connection, table.handling)
        elif connection.phase is not table.receiving:
            table.move(connection, table.receiving)
        return following.headers_received(start_line, headers) or listener.gate.enter(
            connection.address or connection
        )

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        listener = self._listener
        self._left -= len(chunk)
        if self._refused:
            if self._left < 0:
                self._connection.stream.close()
            return None
        if self._left < 0:  # a chunked body
            self._refuse_body(None)
        elif self._keeps and self._next is not None:
            self._connection.body_bytes += len(chunk)
            listener.body_bytes += len(chunk)
            if listener.body_bytes <= NODE_BODY_BYTES:
                return self._next.data_received(chunk)
            refusal = Refusal(503, "Too many bodies at once; try again", "node_body_bytes", 1)
            listener.connections.note(self._connection, refusal.limit)
            self._refuse(refusal, None)
        return None

    def finish(self) -> None:
        connection, table = self._connection, self._listener.connections
        if self._refused:
            connection.stream.close()
            return
        assert self._next is not None
        if connection.phase is None:
            self._next.on_connection_close()
            return
        if not connection.trusted:
            table.move(connection, table.handling)
        self._next.finish()

    def on_connection_close(self) -> None:
        if self._next is not None:
            self._next.on_connection_close()

    def _refuse_body(self, headers: Headers | None) -> None:
        text = f"The body must have at most {self._listener.max_body} bytes"
        self._listener.connections.note(self._connection, "max_body")
        self._refuse(Refusal(413, text, "max_body"), headers)

    def _refuse(self, refusal: Refusal, headers: Headers | None, bodiless: bool = False) -> None:
        """Respond at once. The rest of the body is read and dropped, so that the peer reads the response."""
        self._refused = True
        self.on_connection_close()
        self._next = None
        self._listener.release_body(self._connection)
        self._left = self._listener.max_body
        if headers is not None:
            headers.pop("Expect", None)
        connection, table = self._connection, self._listener.connections
        with contextlib.suppress(StreamClosedError):
            connection.stream.write(_response(refusal, bodiless))
        if connection.phase is not None:
            table.move(connection, table.sending)


def _is_upgrade(headers: Headers) -> bool:
    """Whether a request is a WebSocket upgrade, in the supported version."""
    upgrade = headers.get("Upgrade", "")
    return "websocket" in upgrade.lower() and headers.get("Sec-WebSocket-Version") == "13"


def _response(refusal: Refusal, bodiless: bool) -> bytes:
    body = json.dumps(refusal.body.fields()).encode()
    lines: dict[str, Any] = {
        "Content-Type": "application/json; charset=UTF-8",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
        "Content-Length": len(body),
        "Connection": "close",
    }
    if refusal.retry_after:
        lines["Retry-After"] = refusal.retry_after
    status = HTTPStatus(refusal.status)
    head = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        *(f"{name}: {value}" for name, value in lines.items()),
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + (b"" if bodiless else body)
