"""Messages between the supervisor and a worker: JSON objects over a socket pair, each after its length.

When one of the two processes ends, in whatever way, the other one reads the end of the stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

MAX_MESSAGE: Final = 1 << 24
"""Bytes of one message; the longest have the metrics of a worker, some ten thousand."""
MAX_UNREAD: Final = 1 << 22
"""Bytes that the other process may leave unread; further messages are dropped."""
FLUSH_TIME: Final = 1.0
"""Seconds that the other process has to read the last messages."""
_LENGTH: Final = struct.Struct("!I")

Message = dict[str, Any]


class Channel:
    """One end of the pair, on the running loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, end: socket.socket) -> Channel:
        """Take over one end of a pair."""
        return cls(*await asyncio.open_unix_connection(sock=end))

    def send(self, message: Message) -> None:
        """Send a message, unless the other process doesn't read or has ended."""
        transport = self._writer.transport
        if not transport.is_closing() and transport.get_write_buffer_size() <= MAX_UNREAD:
            self._writer.write(packed(message))

    async def messages(self) -> AsyncIterator[Message]:
        """The other process's messages, until it ends."""
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
                if length > MAX_MESSAGE:
                    return
                yield msgspec.json.decode(await self._reader.readexactly(length))

    async def flush(self) -> None:
        """Wait until the other process has been sent everything, or has ended; for a bounded time."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(FLUSH_TIME):
                await self._writer.drain()

    def close(self) -> None:
        """Close this end, after what was sent."""
        self._writer.close()


def packed(message: Message) -> bytes:
    """A message as it is sent."""
    text = msgspec.json.encode(message)
    return _LENGTH.pack(len(text)) + text


def first_message(end: socket.socket) -> Message | None:
    """The first message, without a loop; None if the other process has ended."""
    with end.makefile("rb", buffering=0) as stream:
        (length,) = _LENGTH.unpack(_exactly(stream, _LENGTH.size) or bytes(_LENGTH.size))
        message: Message | None = msgspec.json.decode(_exactly(stream, length)) if length else None
    return message


def _exactly(stream: Any, size: int) -> bytes:
    found = b""
    while len(found) < size and (more := stream.read(size - len(found))):
        found += more
    return found
