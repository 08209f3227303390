"""A client's side of a WebSocket for loads of thousands: as little of it as a server in good order needs."""

from __future__ import annotations

import asyncio
from typing import Any, Final

HEAD: Final = (
    "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: c2l4dGVlbiBieXRlcyBpdA==\r\n\r\n"
)


class WebSocket(asyncio.Protocol):
    """One connection after the other; `begin` comes before each."""

    transport: Any = None
    """None while there is no connection; a subclass sets it so in `connection_lost`."""

    def begin(self) -> None:
        """Forget what the last connection has left."""
        self._buffer, self._is_upgraded = b"", False

    # What a subclass says and does.

    def path(self) -> str:
        """The request target."""
        raise NotImplementedError

    def upgraded(self) -> None:
        """Send what comes first."""

    def hear(self, text: bytes) -> None:
        """Take a text message."""
        raise NotImplementedError

    def closing(self, code: int) -> None:
        """Note the code of the server's close frame."""

    # What all have in common.

    def send(self, payload: bytes, first: int = 0x81) -> None:
        """Send a frame."""
        size = len(payload)
        head = bytes([first, 0x80 | size]) if size < 126 else bytes([first, 0xFE]) + size.to_bytes(2, "big")
        self.transport.write(head + b"\0\0\0\0" + payload)  # a mask of zeros is a valid one

    def connection_made(self, transport: Any) -> None:
        """Ask for the upgrade."""
        self.transport = transport
        transport.write(HEAD.format(path=self.path()).encode())

    def data_received(self, data: bytes) -> None:
        """Take whole frames."""
        buffer = self._buffer + data if self._buffer else data
        if not self._is_upgraded:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                self._buffer = buffer
                return
            if not buffer.startswith(b"HTTP/1.1 101"):
                self.transport.close()
                return
            self._is_upgraded, buffer = True, buffer[end + 4 :]
            self.upgraded()
        at = 0
        while len(buffer) - at >= 2:
            size, begin = buffer[at + 1], at + 2
            if size == 126:
                size, begin = int.from_bytes(buffer[at + 2 : at + 4], "big"), at + 4
            elif size == 127:
                size, begin = int.from_bytes(buffer[at + 2 : at + 10], "big"), at + 10
            if len(buffer) < begin + size:
                break
            self._take(buffer[at] & 0x0F, buffer[begin : begin + size])
            at = begin + size
        self._buffer = buffer[at:]

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == 1:
            self.hear(payload)
        elif opcode == 9:
            self.send(payload, 0x8A)
        elif opcode == 8:
            self.closing(int.from_bytes(payload[:2], "big"))
            self.send(payload[:2], 0x88)
            self.transport.close()
