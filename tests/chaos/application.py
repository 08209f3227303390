"""The application: the stand-in for its chat API, which also publishes events and shows what was saved."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from typing import Any

from tests.application.stub import Stub, event_of, person

PATIENCE = 1.0
"""Seconds that the application waits until an event of its own is published."""


def name_of(event: dict[str, Any]) -> str:
    """What an event is called in the evidence: its type and id, with the time of its change."""
    data = event["data"]
    if event["type"] == "agent_joined":
        return f"agent_joined:{data['agentId']}:{data['timestamp']}"
    updated = f":{data['updatedAt']}" if "updatedAt" in data else ""
    return f"{event['type']}:{data['id']}{updated}"


class Application(Stub, ABC):
    """Saves, and publishes events on its own where ``publishes`` says so.

    ``saved_at`` is when each message was saved (monotonic seconds). ``heard`` are the ids of events that
    were confirmed to it; of the others nobody knows, the application least of all.
    """

    def __init__(self) -> None:
        super().__init__()
        self.publishes = False
        self.saved_at: dict[str, float] = {}
        self.saved_in: dict[str, list[str]] = {}
        self.heard: set[str] = set()
        self.updates: dict[str, str] = {}
        self._publishing: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        """Stop listening, and cancel publishing."""
        await super().stop()
        await asyncio.gather(*self._publishing, return_exceptions=True)

    @abstractmethod
    async def hand_over(self, chat: str, event: dict[str, Any]) -> bool:
        """Publish an event; whether that was confirmed."""

    async def save(self, chat: str, draft: dict[str, Any], key: str | None) -> dict[str, Any]:
        """Save a message; publish it too, before or after the answer, as the application does."""
        answer = await super().save(chat, draft, key)
        message = answer["message"]
        # Under the clientMessageId, which is in the content too: the key that comes here is a hash, if any.
        self.saved[-1]["key"] = draft["content"].split()[1]
        self._note(chat, message)
        if self.publishes:
            publishing = self._publish_soon(chat, str(message["id"]), event_of(message))
            if len(self.saved) % 2:
                await publishing
        return answer

    async def say(self, chat: str, number: int) -> None:
        """Write in the application's own pages: no node hears of it in another way."""
        draft = {"content": f"from the application, {number}", "role": "AGENT", "userId": "desk"}
        answer = await super().save(chat, draft, None)
        message = answer["message"]
        self._note(chat, message)
        await self._publish_soon(chat, str(message["id"]), event_of(message))

    async def update(self, chat: str, message_id: str) -> None:
        """Change a message in the application's own pages."""
        updated = f"{time.monotonic():.6f}"
        data = {
            "id": message_id,
            "content": "changed",
            "role": "agent",
            "updatedAt": updated,
            "timestamp": updated,
            "sender": person("desk", "avatar"),
        }
        event = {"type": "message_updated", "data": data, "timestamp": updated}
        await self._publish_update(chat, f"message_updated:{message_id}:{updated}", event)

    async def join(self, chat: str) -> None:
        """Assign the chat to an agent."""
        now = f"{time.monotonic():.6f}"
        data = {"agentId": "desk", "agentName": "Name of desk", "timestamp": now}
        event = {"type": "agent_joined", "data": data, "timestamp": now}
        await self._publish_update(chat, f"agent_joined:desk:{now}", event)

    async def _publish_update(self, chat: str, name: str, event: dict[str, Any]) -> None:
        self.updates[name] = chat
        self.saved_at[name] = time.monotonic()
        await self._publish_soon(chat, name, event)

    def _note(self, chat: str, message: dict[str, Any]) -> None:
        self.saved[-1]["id"] = message_id = str(message["id"])  # which may be a number in the answer
        self.saved_at[message_id] = time.monotonic()
        self.saved_in.setdefault(chat, []).append(message_id)

    def _publish_soon(self, chat: str, name: str, event: dict[str, Any]) -> asyncio.Task[None]:
        task = asyncio.create_task(self._publish(chat, name, event))
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)
        return task

    async def _publish(self, chat: str, name: str, event: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(PATIENCE):  # with its tries to connect again
                confirmed = await self.hand_over(chat, event)
        except TimeoutError:
            return
        if confirmed:
            self.heard.add(name)
