"""The listener: an HTTP server that bounds how long, and how many at once, requests may take to arrive."""

from __future__ import annotations

import logging
import ssl
import time
from collections import OrderedDict
from typing import Any, cast

import structlog
from tornado.http1connection import HTTP1ServerConnection
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPConnection, HTTPMessageDelegate, RequestStartLine, ResponseStartLine
from tornado.httputil import HTTPHeaders as Headers
from tornado.log import gen_log
from tornado.web import Application

from eclipse_ws.limits import Limits
from eclipse_ws.settings import Settings

log = structlog.get_logger("eclipse_ws.listener")


def _demote(record: logging.LogRecord) -> bool:
    """Makes no warning of a stranger who does not speak TLS: a port scan must not fill a log."""
    if str(record.msg).startswith("SSL Error on"):
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
        return gen_log.isEnabledFor(logging.DEBUG)
    return True


gen_log.addFilter(_demote)


class Listener(HTTPServer):
    """An HTTP server for strangers.

    A socket's first request has ``handshake_timeout`` seconds, TLS included; a later one may be waited for
    ``idle_timeout`` seconds. Beyond ``max_handshakes`` sockets without a whole request the one that has
    waited longest is closed, rather than the newcomer: whoever is honest is quick.
    """

    def initialize(  # type: ignore[override]
        self, application: Application, settings: Settings, limits: Limits, tls: ssl.SSLContext | None = None
    ) -> None:
        """Tornado calls this with what the constructor was given."""
        super().initialize(
            application,
            ssl_options=tls,
            max_header_size=settings.max_header_bytes,
            max_body_size=settings.max_body,
            idle_connection_timeout=settings.idle_timeout,
            body_timeout=settings.handshake_timeout,
        )
        self._timeout = settings.handshake_timeout
        self._most = settings.max_handshakes
        self._limits = limits
        self._arriving: OrderedDict[Any, float] = OrderedDict()
        """Sockets whose first request is not complete, the oldest first, and since when."""
        self._idle: OrderedDict[Any, None] = OrderedDict()
        """Sockets between two requests, or in the middle of a later one."""
        self._served: set[Any] = set()
        """Sockets whose first request was complete."""

    @property
    def unfinished(self) -> int:
        """Sockets that have not sent a whole request, or not the next one."""
        return len(self._arriving) + len(self._idle)

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """A request may arrive now on this socket."""
        if server_conn in self._served:
            self._idle[server_conn] = None
        else:
            self._arriving[server_conn] = time.monotonic()
        if self.unfinished > self._most:
            table = self._idle or self._arriving
            self._cut(next(iter(table)), "max_handshakes")
        return _Arrival(self, server_conn, super().start_request(server_conn, request_conn))

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
        super().on_close(server_conn)

    def sweep(self, now: float) -> None:
        """Close the sockets whose first request takes too long."""
        while self._arriving:
            oldest, since = next(iter(self._arriving.items()))
            if now - since < self._timeout:
                return
            self._cut(oldest, "handshake_timeout")

    def _cut(self, server_conn: object, limit: str) -> None:
        self._arriving.pop(server_conn, None)
        self._idle.pop(server_conn, None)
        cut = cast(HTTP1ServerConnection, server_conn)
        if (unsaid := self._limits.refuse(limit, time.monotonic())) is not None:
            address = getattr(cut.context, "remote_ip", "")
            log.info("request cut off", limit=limit, address=address, unsaid=unsaid)
        cut.stream.close()


class _Arrival(HTTPMessageDelegate):
    """Passes a request on, and tells the listener when all of it is there."""

    __slots__ = ("_listener", "_next", "_server_conn")

    def __init__(self, listener: Listener, server_conn: object, following: HTTPMessageDelegate) -> None:
        self._listener = listener
        self._server_conn = server_conn
        self._next = following

    def headers_received(self, start_line: RequestStartLine | ResponseStartLine, headers: Headers) -> Any:
        return self._next.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Any:
        return self._next.data_received(chunk)

    def finish(self) -> None:
        self._listener.arrived(self._server_conn)
        self._next.finish()

    def on_connection_close(self) -> None:
        self._next.on_connection_close()
