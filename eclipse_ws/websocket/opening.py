"""The opening handshake (RFC 6455 section 4.2) of an upgrade that has arrived whole, without an HTTP server.

Nearly every client sends its upgrade in one piece, and a crowd that reconnects sends thousands of them: a
parser for the plain ones costs a twentieth of the objects of an HTTP server. What it does not know to be a
plain, valid upgrade it leaves to the HTTP server, whose answer counts.
"""

from __future__ import annotations

import re
import time
from functools import lru_cache
from typing import Final, overload

from tornado.escape import parse_qs_bytes
from tornado.httputil import format_timestamp
from tornado.websocket import WebSocketProtocol13

HEADER_LINES: Final = 64
"""Maximum header lines of a plain upgrade."""
QUERY_ARGUMENTS: Final = 32
"""Maximum arguments in the query of a plain upgrade."""

_HEAD: Final = re.compile(
    rb"GET (/[!-\"$->@-~]*)(\?[!-\"$-~]*)? HTTP/1\.1\r\n((?:[0-9A-Za-z-]+:[\t -~]*\r\n)+)\r\n"
)
_HOST: Final = re.compile(r"(?:[0-9A-Za-z._-]+|\[[0-9a-fA-F:.]+\])(?::[0-9]{1,5})?")
_KEY: Final = re.compile(r"[0-9A-Za-z+/]{21}[AQgw]==")
"""16 bytes in base64."""
_UNUSUAL: Final = frozenset(("content-length", "transfer-encoding", "expect", "sec-websocket-origin"))
"""Headers whose requests an HTTP server has to look at."""


class Headers(dict[str, str]):
    """Headers by their names in lower case; `get` ignores the case, as Tornado's does."""

    @overload  # type: ignore[override]
    def get(self, name: str) -> str | None: ...
    @overload
    def get(self, name: str, default: str) -> str: ...
    def get(self, name: str, default: str | None = None) -> str | None:
        """The value of a header."""
        return super().get(name.lower(), default)


class Request:
    """The part of Tornado's `HTTPServerRequest` that a handler of an upgrade may use."""

    __slots__ = ("_began", "headers", "path", "query_arguments", "remote_ip", "uri")
    method = "GET"
    version = "HTTP/1.1"
    protocol = "http"

    def __init__(self, path: str, query: str, headers: Headers, remote_ip: str) -> None:
        self.uri = path + query
        self.path = path
        self.query_arguments = parse_qs_bytes(
            query[1:], keep_blank_values=True, max_num_fields=QUERY_ARGUMENTS
        )
        self.headers = headers
        self.remote_ip = remote_ip
        self._began = time.time()

    def request_time(self) -> float:
        """Seconds since it was parsed."""
        return time.time() - self._began


def parse(head: bytes, remote_ip: str) -> Request | None:
    """The request of a plain upgrade; None if it is another one, or incomplete, or more follows it.

    Plain: a GET of HTTP/1.1 without a body, in printable ASCII, no header twice, version 13, a valid key.
    """
    found = _HEAD.fullmatch(head)
    if found is None:
        return None
    lines = found[3].decode("ascii").split("\r\n")[:-1]
    headers = Headers()
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip("\t ")
    if (
        len(headers) != len(lines)
        or len(lines) > HEADER_LINES
        or headers.get("upgrade", "").lower() != "websocket"
        or headers.get("sec-websocket-version") != "13"
        or "upgrade" not in map(str.strip, headers.get("connection", "").lower().split(","))
        or _KEY.fullmatch(headers.get("sec-websocket-key", "")) is None
        or _HOST.fullmatch(headers.get("host", "")) is None
        or not _UNUSUAL.isdisjoint(headers)
    ):
        return None
    try:
        return Request(found[1].decode("ascii"), (found[2] or b"").decode("ascii"), headers, remote_ip)
    except ValueError:  # too many arguments
        return None


def response(request: Request, subprotocol: str | None) -> bytes:
    """The response that accepts an upgrade: the same bytes as `handler.Upgrade` has Tornado write."""
    chosen = "" if subprotocol is None else f"Sec-Websocket-Protocol: {subprotocol}\r\n"
    accept = WebSocketProtocol13.compute_accept_value(request.headers["sec-websocket-key"])
    return (
        f"HTTP/1.1 101 Switching Protocols\r\nDate: {_date(int(time.time()))}\r\n{chosen}"
        f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-Websocket-Accept: {accept}\r\n\r\n"
    ).encode("ascii")


@lru_cache(1)
def _date(now: int) -> str:
    return format_timestamp(now)
