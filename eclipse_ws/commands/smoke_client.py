"""A client of the smoke test: it joins, sends, waits for events, and can lose its connection."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlencode

from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from eclipse_ws.protocol import decode_json

WAIT: Final = 5.0
"""Timeout of each step, in seconds."""


class MissedError(Exception):
    """An expected event did not arrive; the text says what came instead.

    ``code`` is an error's code, a close code, or an HTTP status.
    """

    def __init__(self, text: str, code: int | str | None = None) -> None:
        super().__init__(text)
        self.code = code


class Client:
    """One session."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self._url, self._headers = url, headers
        self._socket: WebSocketClientConnection | None = None
        self.greeting: dict[str, Any] = {}
        self.cursor: str | None = None
        self.seen: deque[dict[str, Any]] = deque(maxlen=1000)

    async def join(self, token: str, cursor: str | None = None, events: str | None = None) -> Client:
        """Connect, and wait for the greeting. ``events``: types of events to ask for."""
        optional = {"cursor": cursor, "events": events}
        query = urlencode({"token": token} | {name: value for name, value in optional.items() if value})
        request = HTTPRequest(
            f"{self._url}/?{query}", headers=self._headers, connect_timeout=WAIT, request_timeout=WAIT
        )
        self.close()
        self._socket = await websocket_connect(request)
        if self._socket.protocol is not None:
            # Otherwise Nagle's algorithm delays a command until the one before is acknowledged.
            self._socket.protocol.set_nodelay(True)
        self.greeting = await self.until(lambda event: event.get("type") == "connected", "connected")
        return self

    @property
    def _connected(self) -> WebSocketClientConnection:
        if self._socket is None:
            raise MissedError("not connected")
        return self._socket

    async def send(self, **command: Any) -> None:
        """Send one command."""
        await self._connected.write_message(json.dumps(command))

    async def until(
        self, wanted: Callable[[dict[str, Any]], bool], what: str, wait: float = WAIT
    ) -> dict[str, Any]:
        """The next event that matches. Raises MissedError."""
        socket = self._connected
        try:
            async with asyncio.timeout(wait):
                while True:
                    text = await socket.read_message()
                    if text is None:
                        code = socket.close_code
                        raise MissedError(
                            f"no {what}: the server closed with {code} {socket.close_reason or ''}", code
                        )
                    event = decode_json(text)
                    if not isinstance(event, dict):
                        raise MissedError(f"no {what}, but {text[:80]!r}")
                    self.cursor = event.get("cursor") or self.cursor
                    self.seen.append(event)
                    if event.get("type") == "error" and what != "error":
                        word = str(event.get("code") or event.get("error"))
                        raise MissedError(f"no {what}, but the error {word}", word)
                    if wanted(event):
                        return event
        except TimeoutError:
            raise MissedError(f"no {what} within {wait:g} s") from None
        except ValueError:
            raise MissedError(f"no {what}, but invalid JSON") from None

    async def ended(self, wait: float) -> int | None:
        """Wait for the close, and return its code; events before it are recorded. Raises MissedError."""
        socket = self._connected
        try:
            await self.until(lambda _: False, "end", wait)
        except MissedError:
            if socket.close_code is None:
                raise
        return socket.close_code

    def cut(self) -> None:
        """Drop the connection without a close frame."""
        protocol: Any = self._connected.protocol
        if protocol is not None:
            protocol.stream.close()

    def close(self) -> None:
        """Close the connection. Idempotent."""
        if self._socket is not None:
            self._socket.close()
