"""One libcurl handle: it is configured for each request, and collects the response."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any, Final

import pycurl
from tornado.httpclient import HTTPRequest, HTTPResponse
from tornado.httputil import HTTPHeaders

from eclipse_ws.config.key_material import authorities

_GO_ON: Final[int] = pycurl.PREREQFUNC_OK
_ABORT: Final[int] = pycurl.PREREQFUNC_ABORT
_PROTOCOLS: Final[int] = pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS
_READ: Final = frozenset({b"content-type", b"date", b"location", b"retry-after", b"set-cookie"})


class Transfer:
    """One request in libcurl: whether any of it was sent. If ``once``, it is sent at most once.

    ``what`` names the call in error details, ``changes`` is False for a GET, ``missing`` is the code of a
    404.
    """

    __slots__ = ("changes", "fresh", "missing", "once", "sent", "stale", "what")

    def __init__(self, what: str, missing: str, *, changes: bool, once: bool) -> None:
        self.what = what
        self.missing = missing
        self.changes = changes
        self.once = once
        self.sent = False
        self.stale = False  # stopped before it was sent, because the idle connection was already closed
        self.fresh = False  # on its second try, over a new connection

    def redirected(self) -> None:
        """Allow one more send: a redirect says that nothing was done, and where to ask instead."""
        self.sent = self.stale = self.fresh = False


class ApiRequest(HTTPRequest):
    """An HTTPRequest with its Transfer."""

    def __init__(self, url: str, transfer: Transfer, **kwargs: Any) -> None:
        super().__init__(url, **kwargs)
        self.transfer = transfer


class CurlHandle:
    """Carries requests one after another; the options that they share are set once.

    It wraps a ``pycurl.Curl`` rather than subclassing it, because attributes of a subclass are slow to read.

    ``max_body`` bounds a response's decoded bytes, ``max_idle`` is how many seconds an unused connection is
    kept, ``is_closed`` says whether the peer closed the connection with this local port, ``ca`` is the PEM
    file of the trusted authorities, instead of the system's.
    """

    __slots__ = (
        "_body",
        "_headers",
        "_is_closed",
        "_left",
        "_lines",
        "_max_body",
        "_method",
        "_setopt",
        "_timeouts",
        "curl",
        "future",
        "request",
        "too_large",
        "transfer",
    )

    def __init__(self, max_body: int, max_idle: int, is_closed: Callable[[int], bool], ca: str = "") -> None:
        self.curl = pycurl.Curl()
        self._max_body = max_body
        self._is_closed = is_closed
        self._left = 0  # bytes that the response may still have
        self._lines: list[bytes] = []
        self._body = BytesIO()
        self._headers: Mapping[str, str] = {}
        """The ones that are set in libcurl."""
        self._method = ""
        self._timeouts = (0, 0)
        self.too_large = False
        self.request: ApiRequest
        self.transfer: Transfer
        self.future: asyncio.Future[HTTPResponse]
        self._setopt = setopt = self.curl.setopt
        setopt(pycurl.HEADERFUNCTION, self._read_header)
        setopt(pycurl.WRITEFUNCTION, self._read_body)
        setopt(pycurl.PREREQFUNCTION, self._begin)
        setopt(pycurl.MAXAGE_CONN, max_idle)
        setopt(pycurl.PROTOCOLS, _PROTOCOLS)
        setopt(pycurl.ENCODING, "gzip,deflate")
        # A proxy from the environment would see the secret although no setting of ours names it.
        setopt(pycurl.PROXY, "")
        # The authorities that the rest of this process trusts: libcurl itself ignores SSL_CERT_FILE.
        trusted = authorities(ca)
        for option, path in zip((pycurl.CAINFO, pycurl.CAPATH), trusted, strict=True):
            if path is not None:
                setopt(option, path)
            elif any(trusted):
                self.curl.unsetopt(option)
        setopt(pycurl.NOSIGNAL, 1)
        setopt(pycurl.PATH_AS_IS, 1)
        # One request at a time per connection, so that a lost connection affects one request.
        setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)

    def prepare(self, request: ApiRequest, future: asyncio.Future[HTTPResponse]) -> None:
        """Configure the next request, a GET or a POST, whose response goes to ``future``.

        Raises ValueError for a header with a line break. The headers must not be changed afterwards:
        consecutive requests with the same mapping reuse what is set in libcurl.
        """
        setopt = self._setopt
        if request.headers is not self._headers:
            setopt(pycurl.HTTPHEADER, _encoded(request.headers))
            self._headers = request.headers
        setopt(pycurl.URL, request.url)
        timeouts = int(1000 * (request.connect_timeout or 1)), int(1000 * (request.request_timeout or 1))
        if timeouts != self._timeouts:
            setopt(pycurl.CONNECTTIMEOUT_MS, timeouts[0])
            setopt(pycurl.TIMEOUT_MS, max(1, timeouts[1]))
            self._timeouts = timeouts
        if request.method == "POST":
            setopt(pycurl.POSTFIELDS, request.body or b"")
        elif request.method != self._method:
            setopt(pycurl.HTTPGET, 1)
        self._method = request.method
        self._left = self._max_body
        self.request, self.transfer, self.future = request, request.transfer, future

    def retry(self) -> None:
        """Prepare the same request for a new connection."""
        self.transfer.fresh = True
        self._setopt(pycurl.FRESH_CONNECT, 1)

    def response(self) -> HTTPResponse:
        """The response that was received."""
        headers = HTTPHeaders()
        for line in self._lines:
            name, _, value = line.partition(b":")
            if name.lower() in _READ:
                text = value.strip().decode("latin1")
                if text.isprintable():
                    headers.add(name.decode(), text)
        self._body.seek(0)
        return HTTPResponse(self.request, self.curl.getinfo(pycurl.RESPONSE_CODE), headers, self._body)

    def release(self) -> None:
        """Drop the finished request."""
        if self.transfer.fresh:
            self._setopt(pycurl.FRESH_CONNECT, 0)
        self._lines = []
        self._body = BytesIO()
        self.too_large = False
        del self.request, self.transfer, self.future

    # Callbacks of libcurl

    def _begin(self, _remote: str, _local: str, _remote_port: int, local_port: int) -> int:
        """Whether to send the request: the connection is ready, and nothing has been sent yet."""
        transfer = self.transfer
        if transfer.sent and transfer.once:
            return _ABORT
        if not transfer.fresh and self._is_closed(local_port):
            transfer.stale = True
            return _ABORT
        transfer.sent = True
        return _GO_ON

    def _read_header(self, line: bytes) -> None:
        if line.startswith(b"HTTP/"):
            self._lines = []  # the lines before belong to an interim response (RFC 9110 section 15.2)
        else:
            self._lines.append(line)

    def _read_body(self, chunk: bytes) -> int:
        self._left -= len(chunk)
        if self._left < 0:
            self.too_large = True
            return 0
        return self._body.write(chunk)


def _encoded(headers: Mapping[str, str]) -> list[bytes]:
    lines = [b"Expect:"]
    for name, value in headers.items():
        line = f"{name}: {value}".encode("latin1")
        if b"\r" in line or b"\n" in line:
            raise ValueError(f"the header {name!r} has a line break")
        lines.append(line)
    return lines
