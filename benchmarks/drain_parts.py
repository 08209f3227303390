"""What `benchmarks/drain.py` puts on two nodes: lean clients that keep the contract, and an application."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any, Final
from urllib.parse import quote

import msgspec

from benchmarks.websocket import WebSocket

RECONNECT: Final = 2.0
"""Seconds within which a client comes back, at random, when it was told 1012."""
_encode = msgspec.json.Encoder().encode


class _Data(msgspec.Struct):
    id: str = ""


class _Event(msgspec.Struct):
    type: str
    cursor: str | None = None
    id: str = ""
    code: str = ""
    clientMessageId: str = ""  # noqa: N815 - the contract's spelling
    recovered: bool | None = None
    retryable: bool = False
    retryAfter: float = 0.0  # noqa: N815
    data: _Data = msgspec.field(default_factory=_Data)


_decode = msgspec.json.Decoder(_Event).decode


class Application(asyncio.Protocol):
    """The chat API on kept connections: saves whatever is posted, and remembers it by chat."""

    saved: dict[str, list[str]]
    by_key: dict[str, list[str]]
    connections: set[Application]

    @classmethod
    async def start(cls, port: int = 0) -> tuple[asyncio.Server, type[Application]]:
        """Listen on loopback; what is saved is in the class that is returned."""
        made = type("Saved", (cls,), {"saved": {}, "by_key": {}, "connections": set()})
        loop = asyncio.get_running_loop()
        return await loop.create_server(made, "127.0.0.1", port, backlog=1024), made

    def connection_made(self, transport: Any) -> None:
        """A connection of a node."""
        self.transport, self.buffer = transport, b""
        self.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        self.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        """Answer every whole request."""
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].decode()
            fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:])
            size = int(fields.get("content-length", 0))
            if len(self.buffer) < end + 4 + size:
                return
            body, self.buffer = self.buffer[end + 4 : end + 4 + size], self.buffer[end + 4 + size :]
            draft = msgspec.json.decode(body)
            chat = head.split("/", 4)[3]
            message_id = f"m-{chat}-{len(self.saved.setdefault(chat, []))}"
            self.saved[chat].append(message_id)
            self.by_key.setdefault(draft["content"], []).append(message_id)
            message = {
                "id": message_id,
                "content": draft["content"],
                "role": draft["role"],
                "createdAt": "2026-01-01T00:00:00.000Z",
                "sender": {"id": draft["userId"], "name": None, "email": None, "avatar": None},
            }
            answer = _encode({"success": True, "message": message})
            self.transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                % (len(answer), answer)
            )


class Client(WebSocket):
    """One member of a chat: sends, sends again what got no answer, comes back with its cursor, reloads."""

    def __init__(self, fleet: Any, chat: str, token: str) -> None:
        self.fleet, self.chat, self.token = fleet, chat, token
        self.cursor: str | None = None
        self.heard: set[str] = set()
        self.loaded: set[str] = set()
        self.duplicates = 0
        self.outbox: dict[str, None] = {}  # in order; the first is in progress, the others wait
        self._flying = ""
        self.acked: dict[str, str] = {}
        self.unknown: set[str] = set()
        self.errors: list[str] = []
        self.false = 0
        self.closes: list[tuple[float, int]] = []
        self.recovered = self.lost = 0
        self.open = self.joining = False
        self.node: Any = None

    async def connect(self, delay: float = 0.0) -> None:
        """Come (back) to a node that accepts, however often it takes."""
        if self.joining:
            return
        self.joining = True
        await asyncio.sleep(delay)
        while not self.fleet.over:
            self.node = self.fleet.pick()
            self.begin()
            self._refused = asyncio.get_running_loop().create_future()
            try:
                await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self.node.port)
                async with asyncio.timeout(20):
                    if await self._refused:
                        break
            except (OSError, TimeoutError):
                if self.transport is not None:
                    self.transport.abort()
            await asyncio.sleep(random.uniform(0.1, 0.6))
        self.joining = False

    @property
    def gone(self) -> bool:
        """Whether it has no connection at all."""
        return self.transport is None

    def say(self, key: str) -> None:
        """Send a message now, or as soon as there is a session."""
        self.outbox[key] = None
        self._next()

    def _next(self) -> None:
        if not self.open or self._flying or not self.outbox:
            return
        self._flying = key = next(iter(self.outbox))
        command = {"type": "message", "content": key, "role": "USER", "clientMessageId": key}
        self.send(_encode(command))

    def path(self) -> str:
        """See WebSocket."""
        cursor = f"&cursor={quote(self.cursor)}" if self.cursor else ""
        return f"/ws?token={self.token}{cursor}"

    def closing(self, code: int) -> None:
        """See WebSocket."""
        self.closes.append((time.monotonic(), code))

    def hear(self, text: bytes) -> None:
        """See WebSocket."""
        self._hear(_decode(text))

    def _hear(self, event: _Event) -> None:
        if event.cursor and event.type != "ack":
            self.cursor = event.cursor
        if event.type == "message":
            # What it has loaded may come as well: a message is saved a moment before it is published.
            self.duplicates += event.data.id in self.heard
            self.heard.add(event.data.id)
        elif event.type == "connected":
            if event.recovered:
                self.recovered += 1
            elif event.recovered is False:
                self.lost += 1
                self.loaded.update(self.fleet.saved.get(self.chat, ()))  # the contract: load the chat
            self.open = True
            if not self._refused.done():
                self._refused.set_result(True)
            self._flying = ""
            self._next()
        elif event.type == "ack":
            self.acked[event.clientMessageId] = event.id
            self._settled(event.clientMessageId)
        elif event.type == "error":
            key = event.clientMessageId
            if event.code == "outcome_unknown":
                self.unknown.add(key)
                self._settled(key)
            else:
                self.errors.append(event.code)
                self.false += key in self.fleet.by_key  # it was saved, and the sender is told that it failed
                pause = max(event.retryAfter, 0.5) * random.uniform(1, 2)
                asyncio.get_running_loop().call_later(pause, self._again, key)

    def _settled(self, key: str) -> None:
        self.outbox.pop(key, None)
        if self._flying == key:
            self._flying = ""
        self._next()

    def _again(self, key: str) -> None:
        if self._flying == key:
            self._flying = ""
            self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        """Come back, after a while."""
        was_open, self.open, self.transport = self.open, False, None
        if not self._refused.done():
            self._refused.set_result(False)
        elif was_open and not self.fleet.over:
            self.fleet.spawn(self.connect(random.uniform(0, RECONNECT)))
