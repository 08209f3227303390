"""Tornado's curl client, cut down to what calls to one JSON API need."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Any, Final

import pycurl
from tornado.curl_httpclient import CurlAsyncHTTPClient
from tornado.httpclient import HTTPRequest
from tornado.httputil import HTTPHeaders

_GO_ON: Final[int] = pycurl.PREREQFUNC_OK
_ABORT: Final[int] = pycurl.PREREQFUNC_ABORT
_PROTOCOLS: Final[int] = pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS
_READ: Final = frozenset({b"content-type", b"retry-after", b"set-cookie"})


class Sending:
    """One request on its way through libcurl: whether any of it was sent, and, if ``once``, that it is sent
    once.

    ``what`` names the call in details, ``changes`` is False for a GET, ``missing`` is the code of a 404.
    """

    __slots__ = ("changes", "fresh", "missing", "once", "sent", "stale", "what")

    def __init__(self, what: str, missing: str, *, changes: bool, once: bool) -> None:
        self.what = what
        self.missing = missing
        self.changes = changes
        self.once = once
        self.sent = False
        self.stale = False  # stopped before it was sent, because the kept connection was already closed
        self.fresh = False  # on its second way, over a connection of its own


class ApiRequest(HTTPRequest):
    """An HTTPRequest that knows its Sending."""

    def __init__(self, url: str, sending: Sending, **kwargs: Any) -> None:
        super().__init__(url, **kwargs)
        self.sending = sending


class ApiClient(CurlAsyncHTTPClient):
    """The same client with a set-up of its own: for ApiRequests, a third less time per call, and nothing
    logged.

    Tornado's set-up covers every option of HTTPRequest, reads every header of an answer, and at level debug
    writes requests to the log as they are, secrets included. This one takes of a request its URL, method
    (GET or POST), headers, body and timeouts, and keeps the three headers of an answer that are looked at.
    Redirects are never followed, and no proxy is taken from the environment. ``max_idle`` is how many
    seconds a connection is kept unused.

    A kept connection can be lost, and libcurl has an answer to that which a POST can't live with: it sends
    again, though the other side may have handled the request before it died. Here a ``once`` request that
    was begun is never begun again. But a connection that the other side had closed before is found out
    before anything is sent (libcurl itself looks only after a second of idleness), and the request goes
    over a new one.

    It overrides what Tornado calls by a leading underscore: the package's range of Tornado versions is
    narrow for this too, and the tests of HttpApi run against it.
    """

    def initialize(self, max_idle: float = 4, **kwargs: Any) -> None:  # type: ignore[override]
        """Set up as Tornado does."""
        super().initialize(**kwargs)
        # Whole seconds is what libcurl takes. Servers close idle connections, Node's after 5 s.
        self._max_idle = max(1, int(max_idle))
        self._kept: dict[int, int] = {}  # idle connections: local port -> file descriptor; may be out of date
        self._max_kept = 4 * len(self._curls)

    def _curl_setup_request(
        self, curl: pycurl.Curl, request: HTTPRequest, buffer: BytesIO, headers: HTTPHeaders
    ) -> None:
        request = getattr(request, "request", request)  # without the proxy that adds defaults, which costs
        assert isinstance(request, ApiRequest)
        lines = [b"Expect:"]
        for name, value in request.headers.get_all():
            line = f"{name}: {value}".encode("latin1")
            if b"\r" in line or b"\n" in line:
                raise ValueError(f"the header {name!r} has a line break")
            lines.append(line)
        setopt = curl.setopt
        setopt(pycurl.URL, request.url)
        setopt(pycurl.HTTPHEADER, lines)
        setopt(pycurl.HEADERFUNCTION, _header_reader(headers))
        setopt(pycurl.WRITEFUNCTION, self._body_reader(curl, buffer))
        setopt(pycurl.PREREQFUNCTION, partial(self._begin, request.sending))
        setopt(pycurl.CONNECTTIMEOUT_MS, int(1000 * (request.connect_timeout or 1)))
        setopt(pycurl.TIMEOUT_MS, max(1, int(1000 * (request.request_timeout or 1))))
        setopt(pycurl.MAXAGE_CONN, self._max_idle)
        setopt(pycurl.PROTOCOLS, _PROTOCOLS)
        setopt(pycurl.ENCODING, "gzip,deflate")
        # A proxy from the environment would see the secret without a setting of ours saying so.
        setopt(pycurl.PROXY, "")
        setopt(pycurl.NOSIGNAL, 1)
        setopt(pycurl.PATH_AS_IS, 1)
        # One request at a time per connection, so that a lost connection concerns one request.
        setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        if request.method == "POST":
            setopt(pycurl.POSTFIELDS, request.body or b"")

    def _begin(self, sending: Sending, _remote: str, _local: str, _remote_port: int, local_port: int) -> int:
        """libcurl has a connection, and nothing of the request is sent yet: may it begin?"""
        if sending.sent and sending.once:
            return _ABORT
        if not sending.fresh and self._closed_by_peer(local_port):
            sending.stale = True
            return _ABORT
        sending.sent = True
        return _GO_ON

    def _finish(
        self, curl: pycurl.Curl, curl_error: int | None = None, curl_message: str | None = None
    ) -> None:
        sending = curl.info["request"].request.sending
        if sending.stale and not sending.fresh:
            sending.fresh = True
            self._multi.remove_handle(curl)
            curl.setopt(pycurl.FRESH_CONNECT, 1)
            self._multi.add_handle(curl)
            return
        super()._finish(curl, curl_error, curl_message)

    def _handle_socket(self, event: int, fd: int, multi: pycurl.CurlMulti, data: Any) -> None:
        if event == pycurl.POLL_REMOVE:
            # From here on it is idle, or about to be closed.
            if len(self._kept) > self._max_kept:
                self._kept.clear()
            self._kept[_local_port(fd)] = fd
        super()._handle_socket(event, fd, multi, data)

    def _closed_by_peer(self, local_port: int) -> bool:
        fd = self._kept.get(local_port)
        if fd is None or _local_port(fd) != local_port:
            return False
        poll = select.poll()
        poll.register(fd, select.POLLRDHUP)
        return bool(poll.poll(0))

    def _body_reader(self, curl: pycurl.Curl, buffer: BytesIO) -> Callable[[bytes], int]:
        left = self.max_body_size

        def read(chunk: bytes) -> int:
            nonlocal left
            left -= len(chunk)
            if left < 0:
                curl.info["body_too_large"] = True  # Tornado's way to say why
                return 0
            return buffer.write(chunk)

        return read

    def _set_timeout(self, msecs: int) -> None:
        # As Tornado's, but straight on asyncio, because libcurl asks three times per request; and -1 means
        # "none".
        if self._timeout is not None:
            self._timeout.cancel()
        self._timeout: asyncio.TimerHandle | None = None
        if msecs >= 0:
            loop = self.io_loop.asyncio_loop  # type: ignore[attr-defined]  # every IOLoop is one of asyncio's
            self._timeout = loop.call_later(msecs / 1000, self._handle_timeout)


def _header_reader(headers: HTTPHeaders) -> Callable[[bytes], None]:
    def read(line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name.lower() in _READ:
            text = value.strip().decode("latin1")
            if text.isprintable():
                headers.add(name.decode(), text)
        elif line.startswith(b"HTTP/"):
            headers.clear()  # those of an interim answer (RFC 9110 section 15.2)

    return read


def _local_port(fd: int) -> int:
    """The local port of a TCP socket that is libcurl's; 0 if it is none: libcurl's wake-up, or closed by
    now.
    """
    try:
        # The family is given only to spare asking for it: the address comes in its own.
        borrowed = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=fd)
    except OSError:
        return 0
    try:
        return int(borrowed.getsockname()[1])
    except (OSError, IndexError, ValueError):
        return 0
    finally:
        borrowed.detach()
