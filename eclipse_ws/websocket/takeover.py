"""From an HTTP request to the socket beneath it: what an upgrade must be, and the takeover."""

import base64
import binascii
import contextlib
import socket as sockets
from typing import cast

from tornado.concurrent import Future
from tornado.httputil import HTTPServerRequest
from tornado.iostream import IOStream, SSLIOStream, StreamClosedError


def listed(header: str) -> list[str]:
    """The values of a header that is a list."""
    return [name.strip() for name in header.split(",")] if header else []


def fault(request: HTTPServerRequest) -> str | None:
    """Why an upgrade that Tornado accepts is refused, or None."""
    if request.version == "HTTP/1.0":
        return "An upgrade needs HTTP/1.1."
    if not request.headers.get("Host"):
        return "Host header is missing."
    try:
        key = base64.b64decode(request.headers.get("Sec-WebSocket-Key", "").strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != 16:
        return "Sec-WebSocket-Key must be 16 bytes in base64."
    return None


def take_over(stream: IOStream) -> tuple[sockets.socket, bytes]:
    """Take over a stream's socket and close the stream. Returns it with the bytes that the stream has read.

    Raises StreamClosedError if the peer has left, OSError if no file descriptor is free.
    """
    # Partial, and as large as the buffer can be: done at once unless the buffer is empty.
    reading = cast("Future[bytes]", stream.read_bytes(stream.max_buffer_size, partial=True))
    rest = reading.result() if reading.done() else b""
    if stream.socket is None:
        raise StreamClosedError
    if isinstance(stream, SSLIOStream):
        taken: sockets.socket = stream.socket
        stream.close_fd = _keep_open  # type: ignore[method-assign]
    else:
        taken = stream.socket.dup()
    stream.close()
    set_no_delay(taken)
    return taken, rest


def set_no_delay(taken: sockets.socket) -> None:
    """Switch Nagle's algorithm off: each turn's frames are written in one call."""
    if taken.family != sockets.AF_UNIX:
        with contextlib.suppress(OSError):  # macOS refuses this once the peer has left
            taken.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)


def _keep_open() -> None:
    """Replaces `close_fd` for a TLS socket, which has the session's keys and can't be duplicated."""
