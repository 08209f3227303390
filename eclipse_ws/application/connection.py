"""One persistent HTTP/1.1 connection to the application, which carries one request at a time."""

from __future__ import annotations

import asyncio
import select
import zlib
from typing import Final, Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from eclipse_ws.application.call import ApiRequest
from eclipse_ws.application.response import ApiResponse, Headers, Result, TransportError

MAX_HEAD: Final = 65536
"""Bytes that a response may have before its body, interim responses included."""

_READ: Final = {
    name.lower().encode(): name
    for name in (
        "Content-Encoding",
        "Content-Length",
        "Content-Type",
        "Date",
        "Location",
        "Retry-After",
        "Set-Cookie",
        "Transfer-Encoding",
    )
}
_GZIP: Final = 16 + zlib.MAX_WBITS


class Owner(Protocol):
    """The client that a connection belongs to."""

    max_body_size: int

    def ended(self, connection: Connection, request: ApiRequest, result: Result) -> None:
        """The request has ended."""

    def resend(self, request: ApiRequest) -> None:
        """Send the request over a new connection: this one was closed without a response."""


class Connection(asyncio.Protocol):
    """Sends one request after another, and parses the responses with llhttp.

    When the connection is lost before anything of a response has arrived, the peer may have closed it for
    its idleness in the moment of the request. Then the request is sent again over a new one, but only if it
    was not the connection's first, and never a ``once`` request: the peer may have handled it before.
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._transport: asyncio.Transport
        self._poll = select.poll()
        self._parser = HttpResponseParser(self)
        # As lenient as browsers: a header with a control character, a line that ends with LF alone.
        self._parser.set_dangerous_leniencies(lenient_headers=True, lenient_optional_cr_before_lf=True)
        self.request: ApiRequest | None = None
        self.is_open = False
        self._served = 0
        self._reset()

    def _reset(self) -> None:
        """Get ready for the next response."""
        self._headers = Headers()
        self._body = bytearray()
        self._code = 0
        self._head = 0  # bytes received before the body
        self._has_head = self._is_complete = self._is_kept = self._is_stray = False

    def send(self, request: ApiRequest) -> None:
        """Send a request; `Owner.ended` gets its response."""
        self.request = request
        request.call.sent = True
        self._transport.write(request.data)

    def is_stale(self) -> bool:
        """Whether the peer has closed an idle connection, or sent what nobody asked for.

        The event loop may not have reported it yet. A TLS peer sends close_notify before it closes, so
        anything to read counts: at worst this costs a new connection.
        """
        return not self.is_open or bool(self._poll.poll(0))

    def abort(self) -> None:
        """Close the connection at once, whatever is in progress; its owner has ended the request."""
        self.request = None
        self.is_open = False
        self._transport.abort()

    # Callbacks of the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass
        self.is_open = True
        self._poll.register(
            transport.get_extra_info("socket").fileno(), select.POLLIN | getattr(select, "POLLRDHUP", 0)
        )

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self.request is None:
            self.abort()  # nobody asked for it
            return
        if not self._has_head:
            self._head += len(data)
        problem = ""
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            problem = str(error) or "it switches protocols"
            self._is_stray = True
        if self._is_complete:
            self._finish(keep=self._is_kept and not self._is_stray)
        elif problem:
            self._fail(TransportError("bad_response", f"the response is not valid HTTP/1.1: {problem}"))
        elif len(self._body) > self._owner.max_body_size:
            self._fail(self._too_large())
        elif not self._has_head and self._head > MAX_HEAD:
            what = f"the response has more than {MAX_HEAD} bytes of headers"
            self._fail(TransportError("bad_response", what))

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio.Protocol."""
        self.is_open = False
        request = self.request
        if request is not None:
            if self._has_head and not self._headers.keys() & {"Content-Length", "Transfer-Encoding"}:
                self._finish(keep=False)  # the end of the connection is the end of the body
            elif self._served and not self._head and not request.call.once:
                self.request = None
                self._owner.resend(request)
            else:
                cause = error or "closed by the peer"
                self._fail(TransportError("lost", f"the connection was lost ({cause})"))

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        """See httptools."""
        self._is_stray = self._is_complete

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools."""
        if (usual := _READ.get(name.lower())) is not None and not self._is_complete:
            text = value.decode("latin1")
            if text.isprintable():
                before = self._headers.get(usual)
                self._headers[usual] = text if before is None else f"{before}\n{text}"

    def on_headers_complete(self) -> None:
        """See httptools."""
        if not self._is_complete:
            self._has_head = True
            self._code = self._parser.get_status_code()

    def on_body(self, chunk: bytes) -> None:
        """See httptools."""
        if not self._is_complete:
            self._body += chunk

    def on_message_complete(self) -> None:
        """See httptools."""
        if self._code < 200:
            # The headers belong to an interim response (RFC 9110 section 15.2).
            self._headers.clear()
            self._has_head = False
        else:
            self._is_complete = True
            self._is_kept = self._parser.should_keep_alive()

    # The end of a request

    def _finish(self, *, keep: bool) -> None:
        request = self.request
        assert request is not None
        code, headers, body = self._code, self._headers, bytes(self._body)
        if headers.get("Content-Encoding", "").lower() in ("gzip", "x-gzip"):
            try:
                # It may be a small part of what it becomes.
                body = zlib.decompressobj(_GZIP).decompress(body, self._owner.max_body_size + 1)
            except zlib.error as error:
                self._fail(TransportError("bad_response", f"the response can't be decompressed: {error}"))
                return
        if len(body) > self._owner.max_body_size:
            self._fail(self._too_large())
            return
        self.request = None
        self._served += 1
        self._reset()
        if not keep:
            self.abort()
        self._owner.ended(self, request, ApiResponse(code, headers, body))

    def _fail(self, error: TransportError) -> None:
        request = self.request
        assert request is not None
        self.abort()
        self._owner.ended(self, request, error)

    def _too_large(self) -> TransportError:
        return TransportError(
            "bad_response", f"the response is larger than {self._owner.max_body_size} bytes"
        )
