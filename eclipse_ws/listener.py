"""The listener: an HTTP server that bounds requests: how large, how slow, and how many at once."""

from __future__ import annotations

import json
import logging
import socket
import ssl
import sys
import time
from collections import OrderedDict
from collections.abc import Iterable
from functools import partial
from typing import Any, cast

import structlog
from tornado.http1connection import HTTP1ServerConnection
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPConnection, HTTPMessageDelegate, RequestStartLine, ResponseStartLine
from tornado.httputil import HTTPHeaders as Headers
from tornado.ioloop import IOLoop
from tornado.iostream import UnsatisfiableReadError
from tornado.log import gen_log
from tornado.web import Application

from eclipse_ws.limits import Limits
from eclipse_ws.settings import Settings

log = structlog.get_logger("eclipse_ws.listener")


ACCEPTS_PER_TURN = 4
"""Sockets that are accepted before everything else on the loop has its turn again."""
CUTS_PER_TURN, CUTS_PAUSE = 32, 0.005
"""Slow sockets that are closed in one go, and seconds until the next ones are."""
NOISE = ("SSL Error on", "error on read", "Malformed HTTP message", "Unsatisfiable read")
"""How Tornado's lines begin that anybody can cause at will."""


def _demote(record: logging.LogRecord) -> bool:
    """Makes no line of a stranger who does not speak TLS or HTTP: a port scan must not fill a log."""
    if str(record.msg).startswith(NOISE):
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
        return gen_log.isEnabledFor(logging.DEBUG)
    return True


gen_log.addFilter(_demote)


class Listener(HTTPServer):
    """An HTTP server for strangers.

    A socket's first request has ``handshake_timeout`` seconds, TLS included; a later one may be waited for
    ``idle_timeout`` seconds. Beyond ``max_handshakes`` sockets without a whole request the one that has
    waited longest is closed, rather than the newcomer: whoever is honest is quick. A body beyond ``max_body``
    bytes is answered with 413; on headers beyond ``max_header_bytes`` the socket is closed.
    """

    def initialize(  # type: ignore[override]
        self, application: Application, settings: Settings, limits: Limits, tls: ssl.SSLContext | None = None
    ) -> None:
        """Tornado calls this with what the constructor was given."""
        super().initialize(
            application,
            ssl_options=tls,
            max_header_size=settings.max_header_bytes,
            max_body_size=sys.maxsize,  # ours answers in a sentence, and is counted
            idle_connection_timeout=settings.idle_timeout,
            body_timeout=settings.handshake_timeout,
        )
        self.max_body = settings.max_body
        self._timeout = settings.handshake_timeout
        self._most = settings.max_handshakes
        self._limits = limits
        self._arriving: OrderedDict[Any, float] = OrderedDict()
        """Sockets whose first request is not complete, the oldest first, and since when."""
        self._idle: OrderedDict[Any, None] = OrderedDict()
        """Sockets between two requests, or in the middle of a later one."""
        self._served: set[Any] = set()
        """Sockets whose first request was complete."""
        self._headless: set[Any] = set()
        """Sockets of whose request the headers are not complete."""

    def add_sockets(self, sockets: Iterable[socket.socket]) -> None:
        """Accept on these, a few at a time.

        Tornado takes as many as 128 in one turn of the loop, and each is a handshake that takes as long as
        twenty messages: whoever comes back in a crowd would hold everybody else up.
        """
        loop = IOLoop.current()
        for listening in sockets:
            self._sockets[listening.fileno()] = listening
            loop.add_handler(listening, self._accept, IOLoop.READ)
            self._handlers[listening.fileno()] = partial(loop.remove_handler, listening)

    def _accept(self, listening: socket.socket, _events: int) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                accepted, address = listening.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:  # it was gone before it was accepted
                continue
            self._handle_connection(accepted, address)

    @property
    def unfinished(self) -> int:
        """Sockets that have not sent a whole request, or not the next one."""
        return len(self._arriving) + len(self._idle)

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """A request may arrive now on this socket."""
        self._headless.add(server_conn)
        if server_conn in self._served:
            self._idle[server_conn] = None
        else:
            self._arriving[server_conn] = time.monotonic()
        if self.unfinished > self._most:
            table = self._idle or self._arriving
            self._cut(next(iter(table)), "max_handshakes")
        return _Arrival(self, server_conn, super().start_request(server_conn, request_conn))

    def headed(self, server_conn: object) -> None:
        """The headers of a request are here."""
        self._headless.discard(server_conn)

    def refuse_body(self, server_conn: object) -> None:
        """The body of a request is too large: say so, and read no more of it."""
        text = f"The body must have at most {self.max_body} bytes"
        body = json.dumps({"error": text, "limit": "max_body"}).encode()
        head = "HTTP/1.1 413 Request Entity Too Large\r\nContent-Type: application/json; charset=UTF-8\r\n"
        head += f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        cast(HTTP1ServerConnection, server_conn).stream.write(head.encode() + body)
        self._cut(server_conn, "max_body")

    def arrived(self, server_conn: object) -> None:
        """A whole request is here."""
        self._arriving.pop(server_conn, None)
        self._idle.pop(server_conn, None)
        self._served.add(server_conn)

    def on_close(self, server_conn: object) -> None:
        """The socket is closed, or has been taken over."""
        self._arriving.pop(server_conn, None)
        self._idle.pop(server_conn, None)
        self._served.discard(server_conn)
        if server_conn in self._headless:
            self._headless.discard(server_conn)
            cut = cast(HTTP1ServerConnection, server_conn)
            if isinstance(cut.stream.error, UnsatisfiableReadError):
                self._note(cut, "max_header_bytes")
        super().on_close(server_conn)

    def sweep(self, now: float) -> None:
        """Close the sockets whose first request takes too long, a few at a time."""
        for _ in range(CUTS_PER_TURN):
            if not self._arriving:
                return
            oldest, since = next(iter(self._arriving.items()))
            if now - since < self._timeout:
                return
            self._cut(oldest, "handshake_timeout")
        IOLoop.current().call_later(CUTS_PAUSE, self.sweep, now)

    def _cut(self, server_conn: object, limit: str) -> None:
        self._arriving.pop(server_conn, None)
        self._idle.pop(server_conn, None)
        cut = cast(HTTP1ServerConnection, server_conn)
        self._note(cut, limit)
        cut.stream.close()

    def _note(self, cut: HTTP1ServerConnection, limit: str) -> None:
        if (unsaid := self._limits.refuse(limit, time.monotonic())) is not None:
            address = getattr(cut.context, "remote_ip", "")
            log.info("request cut off", limit=limit, address=address, unsaid=unsaid)


class _Arrival(HTTPMessageDelegate):
    """Passes a request on unless it is too large, and tells the listener when all of it is there."""

    __slots__ = ("_left", "_listener", "_next", "_server_conn")

    def __init__(self, listener: Listener, server_conn: object, following: HTTPMessageDelegate) -> None:
        self._listener = listener
        self._server_conn = server_conn
        self._next: HTTPMessageDelegate | None = following
        self._left = listener.max_body

    def headers_received(self, start_line: RequestStartLine | ResponseStartLine, headers: Headers) -> Any:
        assert self._next is not None
        self._listener.headed(self._server_conn)
        length = headers.get("Content-Length", "")
        # Before the handler is made: what it says of the request is no matter any more.
        if length.isdecimal() and (len(length) > 18 or int(length) > self._left):
            return self._refuse()
        return self._next.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Any:
        if self._next is None:
            return None
        self._left -= len(chunk)
        if self._left < 0:  # in chunks, it has no length
            following = self._next
            self._refuse()
            following.on_connection_close()
            return None
        return self._next.data_received(chunk)

    def finish(self) -> None:
        if self._next is not None:
            self._listener.arrived(self._server_conn)
            self._next.finish()

    def on_connection_close(self) -> None:
        if self._next is not None:
            self._next.on_connection_close()

    def _refuse(self) -> None:
        self._next = None
        self._listener.refuse_body(self._server_conn)
