"""Lean clients of each server, which come back and recover as its documentation says."""

from __future__ import annotations

import random
import time
from typing import Any, Final
from urllib.parse import quote

import msgspec

from benchmarks import centrifugo
from benchmarks.contests.base import Client
from benchmarks.servers import with_token

CHAT: Final = "contest"
_encode = msgspec.json.Encoder().encode


class _Number(msgspec.Struct):
    n: int = 0


class _Event(msgspec.Struct):
    type: str
    cursor: str = ""
    recovered: bool | None = None
    data: _Number = msgspec.field(default_factory=_Number)


class EclipseClient(Client):
    """Ours: the cursor of the last frame, and the waits of the client that the server delivers."""

    SPREAD = 20.0
    _decode = msgspec.json.Decoder(_Event).decode
    _cursor = ""

    def path(self) -> str:
        """The token, and the cursor."""
        cursor = f"&cursor={quote(self._cursor)}" if self._cursor else ""
        return with_token(CHAT, f"u{self.number}") + cursor

    def hear(self, text: bytes) -> None:
        """Keep each cursor."""
        event = self._decode(text)
        if event.cursor:
            self._cursor = event.cursor
        if event.type == "connected":
            self.greeted(event.recovered)
        elif event.type == "tick":
            self.message(event.data.n)

    def delay(self, attempt: int, code: int) -> float:
        """At random in the time of the outage, or after a restart in 20 s."""
        if code == 1012:
            return random.uniform(0, self.SPREAD)
        outage = time.monotonic() - self._lost if self._lost else 0.0
        return random.uniform(0, min(20.0, max(0.5, outage)))


class CentrifugoClient(Client):
    """Centrifugo: the position of a server-side subscription, and its SDK's backoff."""

    _channel = f"chat:{CHAT}"
    _epoch = ""
    _offset = 0

    def path(self) -> str:
        """Its endpoint."""
        return centrifugo.PATH

    def upgraded(self) -> None:
        """Connect with the token, and recover from the last position."""
        connect: dict[str, Any] = {"token": centrifugo.token(CHAT, f"u{self.number}")}
        if self._epoch:
            position = {"recover": True, "epoch": self._epoch, "offset": self._offset}
            connect["subs"] = {self._channel: position}
        self.send(_encode({"id": 1, "connect": connect}))

    def hear(self, text: bytes) -> None:
        """Lines: pings, the reply to `connect`, and publications."""
        for line in text.split(b"\n"):
            if line == b"{}":
                self.send(b"{}")
            elif line:
                reply = msgspec.json.decode(line)
                if "connect" in reply:
                    self._connected(reply["connect"]["subs"][self._channel])
                elif pub := reply.get("push", {}).get("pub"):
                    self._publication(pub)

    def _connected(self, sub: dict[str, Any]) -> None:
        is_recovered = sub.get("recovered", False) if self._epoch else None
        if not is_recovered:
            self._offset = sub.get("offset", 0)
        self._epoch = sub["epoch"]
        self.greeted(is_recovered)
        for pub in sub.get("publications", ()):
            self._publication(pub)

    def _publication(self, pub: dict[str, Any]) -> None:
        self._offset = pub["offset"]
        self.message(pub["data"]["n"])

    def delay(self, attempt: int, code: int) -> float:
        """Full jitter: 0.5 s, and at random up to that doubled with each attempt, at most 20 s."""
        return min(20.0, 0.5 + random.uniform(0, min(20.0, 0.5 * 2**attempt)))


class SocketIOClient(Client):
    """Socket.IO: the private id and the last offset, and its client's backoff."""

    _session = _private = _last = ""

    def path(self) -> str:
        """WebSocket alone, with the token."""
        return f"/socket.io/?EIO=4&transport=websocket&{with_token(CHAT, f'u{self.number}')[2:]}"

    def upgraded(self) -> None:
        """Ask for the namespace, and for the state of the last connection."""
        state = {"pid": self._private, "offset": self._last} if self._private and self._last else {}
        self.send(b"40" + (_encode(state) if state else b""))

    def hear(self, text: bytes) -> None:
        """Pings, the namespace's greeting, events with an offset."""
        if text == b"2":
            self.send(b"3")
        elif text.startswith(b"40"):
            greeting = msgspec.json.decode(text[2:])
            is_recovered = greeting["sid"] == self._session if self._session else None
            self._session, self._private = greeting["sid"], greeting.get("pid", "")
            self.greeted(is_recovered)
        elif text.startswith(b"42"):
            _, data, *offset = msgspec.json.decode(text[2:])
            if offset:
                self._last = offset[0]
            self.message(data["n"])

    def delay(self, attempt: int, code: int) -> float:
        """1 s, doubled with each attempt, at most 5 s, give or take half of it."""
        return min(5.0, 2.0**attempt * random.uniform(0.5, 1.5))
