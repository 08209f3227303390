"""An HTTP/1.1 client for one origin, cut down to what calls to one JSON API need."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from aiohappyeyeballs import start_connection
from tornado.httpclient import AsyncHTTPClient

from eclipse_ws.application.call import ApiRequest
from eclipse_ws.application.connection import Connection
from eclipse_ws.application.deadlines import Deadlines
from eclipse_ws.application.response import ApiResponse, Result, TransportError
from eclipse_ws.config.key_material import client_context

HAPPY_EYEBALLS: Final = 0.25
"""Seconds after which a connection to a host's next address is tried as well (RFC 8305 section 5)."""


class ApiClient(AsyncHTTPClient):
    """A client of Tornado's interface for ApiRequests to one origin, at a fraction of the time per call.

    It keeps connections open and uses the most recent one first; an unused one is closed after ``max_idle``
    seconds. It follows no redirect (see `Call`), and ignores proxies in the environment, which would see the
    secret although no setting of ours names them. ``max_body_size`` bounds a response's decoded bytes, ``ca``
    is the PEM file of the trusted authorities, instead of the system's. The number of connections is the
    caller's: there is one for each request in progress.

    A ``once`` request that was begun is never sent again. But a connection that the peer had already closed
    is detected before anything is sent, and the request goes over another one.
    """

    def initialize(  # type: ignore[override]
        self, origin: str, max_body_size: int, connect_timeout: float, max_idle: float, ca: str = ""
    ) -> None:
        """Set up on the running loop. Raises KeyMaterialError for a ``ca`` that has no certificate."""
        super().initialize()
        self.max_body_size = max_body_size
        parts = urlsplit(origin)
        self._host = _ascii(parts.hostname or "")
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._authority = _ascii(parts.netloc)
        self._tls: ssl.SSLContext | None = None
        if parts.scheme == "https":
            self._tls = client_context(ca)
            self._tls.set_alpn_protocols(["http/1.1"])
        self._connect_timeout = connect_timeout
        self._max_idle = max_idle
        self._loop = asyncio.get_running_loop()
        self._requests: Deadlines[ApiRequest] = Deadlines(self._passed)
        self._outgoing: list[ApiRequest] = []
        self._idle: Deadlines[Connection] = Deadlines(Connection.abort)
        """Unused connections, the most recently used last. Some may be closed already."""
        self._drained: asyncio.Future[None] | None = None
        self._encoded: tuple[Mapping[str, str], bytes] = ({}, b"")

    def close(self) -> None:
        """Close all connections; requests in progress fail. Wait for them with `drain`."""
        for request in list(self._requests):
            self._stop(request, TransportError("stopping", "the server is stopping"))
        self._requests.close()
        for connection in self._idle:
            connection.abort()
        self._idle.close()
        super().close()

    async def drain(self, timeout: float) -> None:
        """Wait until no request is in progress, at most ``timeout`` seconds."""
        if self._requests:
            self._drained = self._loop.create_future()
            await asyncio.wait([self._drained], timeout=timeout)

    def fetch(  # type: ignore[override]
        self, request: ApiRequest, raise_error: bool = False
    ) -> asyncio.Future[ApiResponse]:
        """The response, whatever its status; the future raises TransportError if there is none.

        Cancelling the future does not stop a request that was sent. Raises ValueError for a header with a
        line break.
        """
        assert not raise_error
        request.data = self._bytes(request)
        request.future = self._loop.create_future()
        request.call.under_way = True
        self._requests.add(request, request.deadline)
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(request)
        return request.future

    def _flush(self) -> None:
        """Send the requests of a turn one after another, so that the peer wakes once for all of them."""
        outgoing, self._outgoing = self._outgoing, []
        for request in outgoing:
            if request.call.under_way:  # it may have been stopped meanwhile
                self._send(request)

    def _send(self, request: ApiRequest) -> None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_stale():
                self._send_over(connection, request)
                return
            connection.abort()
        self.resend(request)

    def _send_over(self, connection: Connection, request: ApiRequest) -> None:
        if request.future.cancelled():  # nobody wants it any more, and nothing has been sent
            self.ended(connection, request, TransportError("stopping", "the call was cancelled"))
            return
        request.stop = connection.abort
        connection.send(request)

    # Callbacks of connections

    def ended(self, connection: Connection, request: ApiRequest, result: Result) -> None:
        """See Owner."""
        if connection.is_open:
            self._idle.add(connection, self._loop.time() + self._max_idle)
        self._end(request, result)

    def resend(self, request: ApiRequest) -> None:
        """See Owner."""
        request.stop = self._loop.create_task(self._connect(request)).cancel

    # Requests

    def _end(self, request: ApiRequest, result: Result) -> None:
        """Pass the result to the caller, unless it was cancelled."""
        self._requests.remove(request)
        if not request.future.done():
            if isinstance(result, TransportError):
                request.future.set_exception(result)
            else:
                request.future.set_result(result)
        call = request.call
        call.under_way = False
        if call.on_end is not None:
            call.on_end()
        if self._drained is not None and not self._requests and not self._drained.done():
            self._drained.set_result(None)

    def _passed(self, request: ApiRequest) -> None:
        self._stop(request, TransportError("timeout", "there was no response in time"))

    def _stop(self, request: ApiRequest, error: TransportError) -> None:
        if request.stop is not None:
            request.stop()
        self._end(request, error)

    async def _connect(self, request: ApiRequest) -> None:
        """Open a connection and send the request over it."""
        try:
            async with asyncio.timeout(self._connect_timeout):
                connection = await self._open()
        except TimeoutError:
            self._end(request, TransportError("timeout", f"no connection in {self._connect_timeout:g} s"))
        except ssl.SSLCertVerificationError as error:
            self._end(request, TransportError("untrusted", error.verify_message))
        except ssl.SSLError as error:
            self._end(request, TransportError("no_tls", error.reason or str(error)))
        except (socket.gaierror, UnicodeError) as error:
            self._end(request, TransportError("unresolved", str(error)))
        except (OSError, RuntimeError) as error:  # uvloop raises the latter, too
            self._end(request, TransportError("refused", str(error)))
        else:
            self._send_over(connection, request)

    async def _open(self) -> Connection:
        addresses = await self._loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        connected = await start_connection(addresses, happy_eyeballs_delay=HAPPY_EYEBALLS)
        _, connection = await self._loop.create_connection(
            lambda: Connection(self),
            sock=connected,
            ssl=self._tls,
            server_hostname=self._host if self._tls else None,
        )
        return connection

    def _bytes(self, request: ApiRequest) -> bytes:
        mapping, headers = self._encoded
        if request.headers is not mapping:
            headers = _encode({"Host": self._authority, **request.headers})
            self._encoded = request.headers, headers
        key, target, body = request.call.key, request.target.encode("ascii"), request.call.body
        if key is not None:
            headers += _encode({"Idempotency-Key": key})
        if body is None:
            return b"GET %b HTTP/1.1\r\n%b\r\n" % (target, headers)
        return b"POST %b HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (target, headers, len(body), body)


def _encode(headers: Mapping[str, str]) -> bytes:
    lines = []
    for name, value in headers.items():
        line = f"{name}: {value}"
        if "\r" in line or "\n" in line:
            raise ValueError(f"the header {name!r} has a line break")
        lines.append(f"{line}\r\n")
    return "".join(lines).encode("latin1")


def _ascii(host: str) -> str:
    return host if host.isascii() else host.encode("idna").decode()
