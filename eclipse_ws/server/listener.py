"""The listener: an HTTP server that bounds requests: how large, how slow, how often, and how many at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
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
from tornado.iostream import StreamClosedError, UnsatisfiableReadError
from tornado.log import gen_log
from tornado.web import Application, RequestHandler

from eclipse_ws.config.settings import Settings
from eclipse_ws.security.internal_auth import InternalAuth, Refusal
from eclipse_ws.server.acceptor import Acceptor
from eclipse_ws.server.connections import Connection, Connections
from eclipse_ws.server.pacing import Gate

log = structlog.get_logger("eclipse_ws.listener")

CHUNK: Final = 16384
"""Bytes that are read from a connection in one go."""
NODE_BODY_BYTES: Final = 1 << 25
"""Bytes of all bodies that are held at once."""
NOISE = ("SSL Error on", "error on read", "Malformed HTTP message", "Unsatisfiable read")
"""How Tornado's lines begin that anybody can cause at will."""
HEADER_LINES: Final = 128
"""Lines of a request's headers; each takes as long to read as kilobytes of a body."""
LEAVE: Final = 0.5
"""Seconds that a peer has to read its refusal when what else it says is not read."""
NO_LENGTH: Final = Refusal(411, "A body needs a Content-Length here")
TOO_OFTEN: Final = Refusal(429, "Too many requests; try again later", "http_rate", 5)


def _demote(record: logging.LogRecord) -> bool:
    """Makes no line of a stranger who does not speak TLS or HTTP: a port scan must not fill a log."""
    if str(record.msg).startswith(NOISE):
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
        return gen_log.isEnabledFor(logging.DEBUG)
    return True


gen_log.addFilter(_demote)


class Listener(Acceptor):
    """An HTTP server for strangers.

    A socket's first request has ``handshake_timeout`` seconds, TLS included, and so has the peer to take an
    answer; a later request may be waited for ``idle_timeout`` seconds. Of more than ``most`` connections the
    slowest is closed, rather than the newcomer: whoever is honest is quick (`Connections`).

    A handler's class may have the attributes ``needs_secret`` (who does not show the secret is refused before
    the body is read) and ``takes_body`` (without it a body is read and dropped, and one in chunks is answered
    with 411). A body beyond ``max_body`` bytes is answered with 413; on headers beyond ``max_header_bytes``
    the socket is closed.
    """

    def initialize(  # type: ignore[override]
        self,
        application: Application,
        settings: Settings,
        internal_auth: InternalAuth,
        tls: ssl.SSLContext | None = None,
        most: int | None = None,
    ) -> None:
        """Tornado calls this with what the constructor was given; ``most`` is ``max_handshakes`` if unset."""
        super().initialize(
            application,
            ssl_options=tls,
            chunk_size=CHUNK,
            max_header_size=settings.max_header_bytes,
            max_body_size=sys.maxsize,  # ours answers in a sentence, and is counted
            body_timeout=settings.handshake_timeout,
        )
        # Tornado counts the first request's wait as well, TLS handshake included; the table doesn't.
        self.conn_params.header_timeout = None
        self.application = application
        self.limits = internal_auth.limits
        self.sources = internal_auth.sources
        self.timeout = settings.handshake_timeout
        self.max_body = settings.max_body
        self.body_bytes = 0
        """Bytes of bodies that are held now."""
        self.gate = Gate()
        self.connections = Connections(
            settings.max_handshakes if most is None else most,
            settings.handshake_timeout,
            settings.idle_timeout,
            # What a handler waits for has bounds of its own, this is for what they overlook.
            settings.handshake_timeout + max(settings.idle_timeout, 2 * settings.api_timeout),
            internal_auth.limits,
        )
        self._internal_auth = internal_auth
        self._open: dict[object, Connection] = {}

    @property
    def held(self) -> int:
        """How many entries all tables have, of connections, waiting sockets and addresses; 0 when nobody is
        connected.
        """
        table, watched = self.connections, 0 if self._paced is None else self._paced.watched
        return len(self._open) + len(table) + table.addresses + len(self._accepted) + watched

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """A connection is there, or may send its next request."""
        served = cast(HTTP1ServerConnection, server_conn)
        connection = self._open.get(server_conn)
        request = cast(HTTP1Connection, request_conn)
        request.__class__ = _Request  # Tornado gives no choice
        if served.stream.closed():
            return HTTPMessageDelegate()  # cut off meanwhile, as reading it will find out
        if connection is None:
            peer = getattr(served.context, "remote_ip", "")
            connection = self._open[server_conn] = Connection(served.stream, peer)
            self.connections.add(connection)
        else:
            self._settle(connection)
            connection.headless = True
            table = self.connections
            table.move(connection, table.trusted if connection.trusted else table.idle)
        self._count_by_peer(connection)
        connection.request = request
        return _Arrival(self, connection, request)

    def _count_by_peer(self, connection: Connection) -> None:
        """Count a connection by its socket's address; where a header names the client, by none."""
        source = self.sources.of(connection.peer, None)
        known = not source.shared and not self.sources.header
        self.connections.count(connection, source.address if known else None)

    def refusal(self, connection: Connection, request: HTTPServerRequest, handler: type) -> Refusal | None:
        """None if a request, of which only the headers are there, may go on."""
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
            connection.upgrading = True  # its own limits look at it
        self.pace(connection.stream, paced=True)
        source = self._internal_auth.source(request)
        self.connections.count(connection, None if source.shared else source.address)
        if not connection.upgrading and not self._may_ask(connection, now):
            self.connections.note(connection, TOO_OFTEN.limit)
            return TOO_OFTEN
        takes_body = getattr(handler, "takes_body", False)
        if refusal is None and not takes_body and "Transfer-Encoding" in request.headers:
            return NO_LENGTH  # chunks of a byte each would cost far more than they weigh
        return refusal

    def _may_ask(self, connection: Connection, now: float) -> bool:
        if connection.address is None:
            return connection.may_ask(now)
        return self._internal_auth.addresses.allow_request(connection.address, now)

    def release_body(self, connection: Connection) -> None:
        """The body of its request is held no more."""
        self.body_bytes -= connection.body_bytes
        connection.body_bytes = 0

    def _settle(self, connection: Connection) -> None:
        """A request is over: charge an upgrade that has not become a session."""
        self.release_body(connection)
        if connection.upgrading:
            connection.upgrading = False
            connection.failed = True
            self._may_ask(connection, time.monotonic())

    def on_close(self, server_conn: object) -> None:
        """The connection is closed, or has been taken over by a session."""
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
        # Its traceback holds the stream with all that waits to be sent: hundreds of them would wait for the
        # collector, which holds everybody up for as long as it takes to free them.
        stream.error = None

    def sweep(self, now: float) -> None:
        """Close the connections that take too long."""
        self.drop_overdue(now)
        self.connections.sweep(now)


class _Request(HTTP1Connection):
    """Tornado's side of one request, with a bound on how many lines its headers have."""

    def read_response(self, delegate: HTTPMessageDelegate) -> Awaitable[bool]:
        """As Tornado's, but what a peer has said in advance is not read once its connection is closed.

        Raises StreamClosedError.
        """
        if cast(Any, self.stream).closed():
            raise StreamClosedError
        return super().read_response(delegate)

    def _parse_headers(self, data: bytes) -> tuple[str, Headers]:
        if data.count(b"\n") > HEADER_LINES:
            raise HTTPInputError(f"More than {HEADER_LINES} lines of headers")
        return super()._parse_headers(data)


class _Arrival(HTTPMessageDelegate):
    """One request, from its connection to its handler; a refused one gets its answer here."""

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
        """Bytes that its body may still have."""

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: Headers
    ) -> Awaitable[None] | None:
        listener, connection = self._listener, self._connection
        connection.headless = False
        length = headers.get("Content-Length", "")
        if length.isdecimal() and (len(length) > 18 or int(length) > self._left):
            self._refuse_body(headers)
            if len(length) > 18:  # Tornado would answer it once more
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
            return asyncio.sleep(LEAVE)  # then it is closed, for no body is left to be read
        self._next = following
        self._keeps = getattr(handler, "takes_body", False)
        table = listener.connections
        if connection.phase is None:
            return None  # it was cut off when this had been read
        if connection.trusted:
            table.move(connection, table.trusted)
            return following.headers_received(start_line, headers)  # no crowd holds it up
        if not length.strip("0") and "Transfer-Encoding" not in headers:
            table.move(connection, table.working)
        elif connection.phase is not table.arriving:
            table.move(connection, table.arriving)
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
        if self._left < 0:  # in chunks, it has no length
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
            table.move(connection, table.working)
        self._next.finish()

    def on_connection_close(self) -> None:
        if self._next is not None:
            self._next.on_connection_close()

    def _refuse_body(self, headers: Headers | None) -> None:
        text = f"The body must have at most {self._listener.max_body} bytes"
        self._listener.connections.note(self._connection, "max_body")
        self._refuse(Refusal(413, text, "max_body"), headers)

    def _refuse(self, refusal: Refusal, headers: Headers | None, bodiless: bool = False) -> None:
        """Answer at once. What is left of the body is dropped, so that the peer gets to read the answer."""
        self._refused = True
        self.on_connection_close()
        self._next = None
        self._listener.release_body(self._connection)
        self._left = self._listener.max_body
        if headers is not None:
            headers.pop("Expect", None)
        connection, table = self._connection, self._listener.connections
        with contextlib.suppress(StreamClosedError):
            connection.stream.write(_answer(refusal, bodiless))
        if connection.phase is not None:
            table.move(connection, table.taking)


def _is_upgrade(headers: Headers) -> bool:
    """Whether a request asks to become a session, in a version that we speak."""
    upgrade = headers.get("Upgrade", "")
    return "websocket" in upgrade.lower() and headers.get("Sec-WebSocket-Version") == "13"


def _answer(refusal: Refusal, bodiless: bool) -> bytes:
    body = json.dumps(refusal.document).encode()
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
