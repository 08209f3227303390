"""A `Socket` with another layer: TLS in this process below its frames, compression inside them, or both.

Everything else is the same: the event poll, the share of a turn, the bounds, the allowance and the pings.
"""

import contextlib
import socket as sockets
import ssl
from collections.abc import Sequence
from typing import Final

from eclipse_ws.websocket import frames
from eclipse_ws.websocket.allowance import BYTES_PER_READ
from eclipse_ws.websocket.backlog import Backlog, Frame
from eclipse_ws.websocket.callbacks import Handler
from eclipse_ws.websocket.deflate import Deflate, deflated, inflated
from eclipse_ws.websocket.event_poll import EventPoll
from eclipse_ws.websocket.socket import Socket

RECORD_BYTES: Final = 16384
"""Maximum payload of a TLS record. OpenSSL reads one record at a time, so the socket stays readable."""


class LayeredSocket(Socket):
    """See the module. `tls` has the descriptor `fd` and has completed its handshake; the socket closes it."""

    __slots__ = ("_deflate", "_pieces", "_tls")

    def __init__(
        self,
        handler: Handler,
        poll: EventPoll,
        fd: int,
        deflate: Deflate | None,
        tls: ssl.SSLSocket | None = None,
    ) -> None:
        super().__init__(handler, poll, fd)
        self._deflate = deflate
        self._tls = tls
        self._pieces = 0
        """Reads since the last data that returned only a piece of a TLS record."""

    # Receiving

    def _parser(self) -> frames.Inbound:
        return frames.Inbound(self.poll.params.max_message, None if self._deflate is None else inflated)

    def _read(self) -> bytes:
        tls = self._tls
        if tls is None:
            return super()._read()
        try:
            data = tls.recv(RECORD_BYTES)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            self._pieces += 1
            self._charge(1)  # a piece of a record, or an empty record
            raise BlockingIOError from None
        if self._pieces:
            self._charge(-min(self._pieces, len(data) / BYTES_PER_READ))
            self._pieces = 0
        return data

    # Sending

    def put(self, batch: Sequence[bytes], soft: int, data: bytes) -> None:
        """See Socket."""
        if self._deflate is not None:
            batch = self._deflated(batch)
            data = b"".join(batch)
        if self._tls is None:
            super().put(batch, soft, data)
            return
        try:
            size = self._write(data)
        except BlockingIOError:
            out = self.out = Backlog()
            out.push((data,), 0, 0)
            self.poll.stats.frames_out += len(batch) - 1 + out.pin()
            self._watch()
            self._limit(out)
            return
        except OSError:
            self._lose()
            return
        stats = self.poll.stats
        stats.sends += 1
        stats.bytes_out += size
        stats.frames_out += len(batch)

    def take(self, batch: Sequence[bytes], soft: int) -> None:
        """See Socket."""
        if self._deflate is not None and isinstance(self.out, Backlog):
            batch = self._deflated(batch)
        super().take(batch, soft)

    def writable(self) -> None:
        """See Socket."""
        if self._tls is not None and isinstance(self.out, Backlog):
            self.poll.stats.frames_out += self.out.pin()
        super().writable()

    def _write(self, data: Frame) -> int:
        if self._tls is None:
            return super()._write(data)
        try:
            return self._tls.send(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None

    def _deflated(self, batch: Sequence[bytes]) -> list[bytes]:
        assert self._deflate is not None
        return [deflated(frame, *self._deflate[1:]) for frame in batch]

    # Closing

    def _half_close(self) -> None:
        tls = self._tls
        if tls is None:
            super()._half_close()
            return
        with contextlib.suppress(OSError, ValueError):
            tls.unwrap()  # sends close_notify, and doesn't wait for the peer's
        with contextlib.suppress(OSError):
            tls.shutdown(sockets.SHUT_WR)

    def _close_fd(self) -> None:
        if self._tls is None:
            super()._close_fd()
            return
        self._tls.close()
        self._tls = None
        self._fd = -1
