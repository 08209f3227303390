"""Steps of the smoke test: several chats on one session, who is in a chat, and what was read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from eclipse_ws.commands.report import Finding
from eclipse_ws.commands.smoke_client import Client, MissedError

KINDS: Final = "presence,read"
UNKNOWN: Final = ("unknown_type", "Unknown message type")
"""What servers without `join` call it: earlier versions by a code, the previous service by a text."""


async def several_chats(client: Client, chat_id: str) -> Finding | str:
    """Join a further chat, which the session's token opens, and leave it again."""
    await client.send(type="join", chatId=chat_id)
    try:
        await client.until(_is_about("joined", chat_id), "joined")
    except MissedError as error:
        if error.code in UNKNOWN:
            return Finding("several chats", "skipped", "this version has no `join` yet")
        raise
    await client.send(type="leave", chatId=chat_id)
    await client.until(_is_about("left", chat_id), "left")
    return "a session joins a further chat, and leaves it"


async def presence(watcher: Client, users: int) -> str:
    """Wait for the list of who is in the chat, in a session that has just asked for it."""
    listed = await watcher.until(_is_about("presence"), "presence")
    count = len(listed["data"].get("users", ()))
    if count < users:
        raise MissedError(f"{count} users are listed, not {users}")
    return f"a session that asks for it sees {count} users in the chat"


async def read(reader: Client, watcher: Client, message_id: str) -> str:
    """Read a message in one session, and hear of it in another that has asked for it."""
    await reader.send(type="read", messageId=message_id)

    def has_read(event: dict[str, Any]) -> bool:
        return event.get("type") == "read" and event["data"].get("messageId") == message_id

    await watcher.until(has_read, "read")
    return "is told what was read"


def _is_about(kind: str, chat_id: str | None = None) -> Callable[[dict[str, Any]], bool]:
    return lambda event: event.get("type") == kind and chat_id in (None, event.get("chatId"))
