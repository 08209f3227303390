"""What the embedded API publishes into the agents' inbox, as the real application would."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

import msgspec
import structlog

from eclipse_ws.application.embedded_chats import Change, ChatSummary

log = structlog.get_logger("eclipse_ws.application")

INBOX: Final = "inbox:support"
"""The chat whose members are the agents, and whose events say what happened to the other chats."""
MAX_EVENTS: Final = 1000
"""Events that wait to be published; the oldest are dropped."""
LAST_EVENTS: Final = 1.0
"""Seconds in which the remaining ones are published at the end."""

Publish = Callable[[str, bytes], Awaitable[object]]
"""Publishes an event, given as JSON, to a chat."""
_encode = msgspec.json.Encoder().encode


class Inbox:
    """Publishes the changes of chats, one after the other, so that their order is the database's.

    A failure is logged, and concerns nobody else: a list that was loaded again is complete.
    """

    def __init__(self, publish: Publish) -> None:
        self._publish = publish
        self._events: deque[bytes] = deque()
        self._publishing: asyncio.Task[None] | None = None

    def put(self, change: Change, chat: ChatSummary) -> None:
        """Publish a change of a chat, soon."""
        if len(self._events) >= MAX_EVENTS:
            self._events.popleft()
            log.warning("inbox event dropped", why=f"{MAX_EVENTS} are waiting")
        self._events.append(event(change, chat))
        if self._publishing is None:
            self._publishing = asyncio.create_task(self._publish_all())

    async def _publish_all(self) -> None:
        try:
            while self._events:
                try:
                    await self._publish(INBOX, self._events.popleft())
                except Exception:
                    log.exception("inbox event not published")
        finally:
            self._publishing = None

    async def close(self) -> None:
        """Publish what waits, as far as that is possible within LAST_EVENTS."""
        publishing = self._publishing
        if publishing is not None:
            await asyncio.wait([publishing], timeout=LAST_EVENTS)
            publishing.cancel()
            with suppress(asyncio.CancelledError):
                await publishing


def event(change: Change, chat: ChatSummary) -> bytes:
    """The inbox's event: all that a list needs for its line, so that nobody has to ask again."""
    fields = msgspec.structs.asdict(chat)
    data = {**fields, "id": f"{change}_{secrets.token_hex(12)}", "chatId": fields.pop("id")}
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return _encode({"type": change, "data": data, "timestamp": now})
