"""The load test's client: sessions on a server, and what it takes to open one."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from eclipse_ws.commands.bench_report import Outcome
from eclipse_ws.commands.tokens import mint

CONNECTING = 100  # concurrent handshakes
CONNECT_TIMEOUT = 10.0  # s for one
MAX_FRAME = 1 << 22  # bytes of one event


Progress = Callable[[str, int, int], None]
"""Called with a stage, how much of it is done, and its total."""


class BenchError(Exception):
    """The measurement failed; the text says why, and how to fix it."""


class Session(asyncio.Protocol):
    """A minimal WebSocket client; Tornado's would need ten times the memory and time."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None
        self.chat_id = self.user_id = ""
        self.request = b""
        self.asked = 0.0
        """When the request was sent."""
        self._buffer = b""
        self._upgraded = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the upgrade request."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.asked = time.perf_counter()
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        """Take the answer to the upgrade, then frames."""
        self._buffer += data
        if not self._upgraded:
            head, separator, rest = self._buffer.partition(b"\r\n\r\n")
            if not separator:
                return
            if b" 101 " not in head.split(b"\r\n")[0]:
                status = head.split(b" ", 2)[1:2] or [b"?"]
                self.end(f"HTTP {status[0].decode('latin-1')[:20]}")
                return
            self._upgraded, self._buffer = True, rest
        for opcode, payload in self._frames():
            if opcode == 1:
                self._on_event(payload)
            elif opcode == 9:
                self.write(10, payload)
            elif opcode == 8:
                code = int.from_bytes(payload[:2], "big")
                self.end(f"{code} {payload[2:].decode('utf-8', 'replace')}".strip())

    def _frames(self) -> Iterator[tuple[int, bytes]]:
        """The complete frames so far; a server never masks, and ours never fragments."""
        buffer, start = self._buffer, 0
        while len(buffer) - start >= 2:
            length, head = buffer[start + 1] & 127, 2
            if length >= 126:
                head = 4 if length == 126 else 10
                if len(buffer) - start < head:
                    break
                length = int.from_bytes(buffer[start + 2 : start + head], "big")
            if length > MAX_FRAME:
                self.end("event too long")
                return
            if len(buffer) - start < head + length:
                break
            yield buffer[start] & 15, buffer[start + head : start + head + length]
            start += head + length
        self._buffer = buffer[start:]

    def _on_event(self, event: bytes) -> None:
        if not self.ready.done():
            if b'"connected"' in event:
                self.ready.set_result(None)
            return
        if b'"type":"error"' in event:
            self.outcome.errors[str(decoded(event).get("code", "unknown"))] += 1
        else:
            self.on_event(event)

    def on_event(self, event: bytes) -> None:
        """Take an event that is not an error, after the greeting."""

    def write(self, opcode: int, payload: bytes) -> None:
        """Send one frame, masked as RFC 6455 section 5.3 requires."""
        if self.transport is None:
            return
        mask = os.urandom(4)
        size = len(payload)
        key = (mask * (size // 4 + 1))[:size]
        masked = (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")
        length = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
        self.transport.write(bytes((0x80 | opcode,)) + length + mask + masked)

    def end(self, reason: str | None = None) -> None:
        """Close the connection; a reason counts as a refusal by the server."""
        if self.transport is None:
            return
        if reason is not None:
            self.outcome.refused[reason] += 1
        else:
            self.write(8, b"\x03\xe8")
        self.transport.close()
        self.transport = None
        if not self.ready.done():
            self.ready.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count an end that nobody announced."""
        if self.transport is not None:
            self.end("connection lost")


class Target:
    """The server under test, and what its tokens are minted with. ``url`` has the scheme ws or wss."""

    def __init__(self, url: str, secret: str, claims: Mapping[str, str], outcome: Outcome) -> None:
        self.url = url
        self.outcome = outcome
        self._secret, self._claims = secret, claims
        address = urlsplit(url)
        secure = address.scheme == "wss"
        self._path, self._netloc = address.path or "/ws", address.netloc
        self._host, self._port = address.hostname or "", address.port or (443 if secure else 80)
        self._context = ssl.create_default_context() if secure else None
        self._gate = asyncio.Semaphore(CONNECTING)

    async def connect(self, session: Session, chat_id: str, user_id: str, more: str = "") -> bool:
        """Open a user's session in a chat, and wait for its greeting. ``more`` is appended to the query.

        Returns whether it came; if not, the outcome has why.
        """
        token = mint(self._secret, chat_id, user_id, True, more=self._claims)
        session.chat_id, session.user_id = chat_id, user_id
        session.request = (
            f"GET {self._path}?token={quote(token)}{more} HTTP/1.1\r\nHost: {self._netloc}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n\r\n"
        ).encode()
        refused = self.outcome.refused
        async with self._gate:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    await asyncio.get_running_loop().create_connection(
                        lambda: session, self._host, self._port, ssl=self._context
                    )
                    await session.ready
            except TimeoutError:
                session.end()
                refused[f"no answer within {CONNECT_TIMEOUT:g} s"] += 1
            except OSError as error:
                refused[error.strerror or str(error) or type(error).__name__] += 1
            except asyncio.CancelledError:
                if not session.ready.cancelled():  # otherwise it was refused, which is counted
                    raise
            else:
                return True
        return False

    def refusal(self) -> BenchError:
        """The error if no session was accepted."""
        why = "; ".join(f"{reason} ({count})" for reason, count in self.outcome.refused.most_common(3))
        return BenchError(
            f"No session was accepted at {self.url}: {why}. "
            "Fix: check that a server runs there, and that JWT_SECRET is the server's own."
        )


def decoded(event: bytes) -> dict[str, Any]:
    """The event, which is empty if it is not a JSON object."""
    try:
        found = json.loads(event)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
