"""The server's side: the events that it makes, and what it tells one session (section 3)."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec

from eclipse_ws.protocol.events import Cursor, Event, identity, parse_event, timestamp

_encode = msgspec.json.Encoder().encode


class Sender(msgspec.Struct):
    """Who wrote a message, as the chat API names them."""

    id: str
    name: str | None = None
    email: str | None = None
    avatar: str | None = None


class Message(msgspec.Struct):
    """Chat content that the chat API has saved; ``role`` and ``createdAt`` are as it answered them."""

    id: str
    content: str
    role: str
    createdAt: str  # noqa: N815 - the application's own spelling
    sender: Sender


class User(msgspec.Struct):
    """A user as the chat API knows them."""

    id: str
    name: str | None = None
    email: str | None = None
    image: str | None = None


def message_event(message: Message) -> Event:
    """The event that tells a chat of a saved message."""
    sender = message.sender
    body = {
        "type": "message",
        "data": {
            "id": message.id,
            "content": message.content,
            "role": message.role.lower(),
            "timestamp": message.createdAt,
            "sender": {
                "id": sender.id,
                "name": sender.name,
                "email": sender.email,
                "avatar": sender.avatar,
            },
        },
        "timestamp": timestamp(),
    }
    return Event("message", _encode(body), identity("message", message.id))


def agent_joined_event(user: User) -> Event:
    """The event that tells a chat that an agent has come; the name falls back to the e-mail, then "Agent"."""
    now = timestamp()
    data = {"agentId": user.id, "agentName": user.name or user.email or "Agent", "timestamp": now}
    return parse_event(_encode({"type": "agent_joined", "data": data, "timestamp": now}))


def typing_event(user_id: str, is_typing: bool, origin: str) -> Event:
    """The ephemeral event that somebody types or has stopped; the session ``origin`` doesn't get it."""
    # Put together by hand: no other event is as frequent.
    body = b'{"type":"typing","data":{"userId":%b,"isTyping":%b},"timestamp":"%b"}' % (
        _encode(user_id),
        b"true" if is_typing else b"false",
        timestamp().encode(),
    )
    return Event("typing", body, origin=origin)


def connected(
    chat_id: str,
    session_id: str,
    cursor: Cursor | str | None,
    expires_at: datetime | None,
    recovered: bool | None,
) -> bytes:
    """The first event of a session; ``recovered`` is None where the client gave no cursor."""
    body: dict[str, Any] = {"type": "connected", "chatId": chat_id, "sessionId": session_id}
    if cursor is not None:
        body["cursor"] = str(cursor)
    if recovered is not None:
        body["recovered"] = recovered
    if expires_at is not None:
        body["expiresAt"] = timestamp(expires_at)
    body["timestamp"] = timestamp()
    return _encode(body)


def refreshed(expires_at: datetime | None) -> bytes:
    """The answer to the command ``refresh``: until when the session lives now."""
    body: dict[str, Any] = {"type": "refreshed"}
    if expires_at is not None:
        body["expiresAt"] = timestamp(expires_at)
    body["timestamp"] = timestamp()
    return _encode(body)


def pong() -> bytes:
    """The answer to the command ``ping``."""
    return _encode({"type": "pong", "timestamp": timestamp()})


class Receipt(msgspec.Struct, frozen=True):
    """What became of a kept event: ``published`` with its cursor, or ``local`` while the backend is away.

    ``id`` is the saved message's, "" for other events.
    """

    id: str
    cursor: str | None
    delivery: Literal["published", "local"]


def ack(client_message_id: str, receipt: Receipt) -> bytes:
    """Tell a sender that its message is saved, and how far it has come."""
    return _encode(
        {
            "type": "ack",
            "clientMessageId": client_message_id,
            "id": receipt.id,
            "cursor": receipt.cursor,
            "delivery": receipt.delivery,
            "timestamp": timestamp(),
        }
    )
