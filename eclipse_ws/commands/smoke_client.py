"""One client of the smoke test: joins, speaks, waits for what should come, and can be cut off."""

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
"""Seconds that each thing may take."""


class MissedError(Exception):
    """What was waited for did not come; the text says what came.

    ``word`` is what the server answered instead: an error's code, a close code, or an HTTP status.
    """

    def __init__(self, text: str, word: int | str | None = None) -> None:
        super().__init__(text)
        self.word = word


class Client:
    """One session."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self._url, self._headers = url, headers
        self._socket: WebSocketClientConnection | None = None
        self.greeting: dict[str, Any] = {}
        self.cursor: str | None = None
        self.seen: deque[dict[str, Any]] = deque(maxlen=1000)

    async def join(self, token: str, cursor: str | None = None) -> Client:
        """Connect, and wait for the greeting."""
        query = urlencode({"token": token} | ({"cursor": cursor} if cursor else {}))
        request = HTTPRequest(
            f"{self._url}/?{query}", headers=self._headers, connect_timeout=WAIT, request_timeout=WAIT
        )
        self.close()
        self._socket = await websocket_connect(request)
        if self._socket.protocol is not None:
            # Else a command may wait here until the one before is acknowledged, as if the server were slow.
            self._socket.protocol.set_nodelay(True)
        self.greeting = await self.until(lambda event: event.get("type") == "connected", "connected")
        return self

    @property
    def _connected(self) -> WebSocketClientConnection:
        if self._socket is None:
            raise MissedError("there is no session")
        return self._socket

    async def say(self, **command: Any) -> None:
        """Send one command."""
        await self._connected.write_message(json.dumps(command))

    async def until(
        self, wanted: Callable[[dict[str, Any]], bool], what: str, wait: float = WAIT
    ) -> dict[str, Any]:
        """The next event that is wanted. Raises MissedError."""
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
            raise MissedError(f"no {what}, but what is no JSON") from None

    async def ended(self, wait: float) -> int | None:
        """The close code; what comes before is noted. Raises MissedError."""
        socket = self._connected
        try:
            await self.until(lambda _: False, "end", wait)
        except MissedError:
            if socket.close_code is None:
                raise
        return socket.close_code

    def cut(self) -> None:
        """Lose the connection, without a word."""
        protocol: Any = self._connected.protocol
        if protocol is not None:
            protocol.stream.close()

    def close(self) -> None:
        """Leave. Idempotent."""
        if self._socket is not None:
            self._socket.close()
