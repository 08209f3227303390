"""Server to client: the events that it creates, and frames for one session (section 3)."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from eclipse_ws.protocol import schema
from eclipse_ws.protocol.events import Cursor, Event, identity, parse_event, timestamp

_encode = msgspec.json.Encoder().encode


class Sender(msgspec.Struct):
    """Who wrote a message, as the chat API names them."""

    id: str
    name: str | None = None
    email: str | None = None
    avatar: str | None = None


class Message(msgspec.Struct):
    """Chat content that the chat API has saved; ``role`` and ``createdAt`` are as it returned them."""

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
    """The event for a saved message."""
    by = message.sender
    sender = schema.SenderData(by.id, by.name, by.email, by.avatar)
    data = schema.MessageData(message.id, message.content, message.role.lower(), message.createdAt, sender)
    body = schema.MessageEvent(data, timestamp()).encode()
    return Event("message", body, identity("message", message.id))


def agent_joined_event(user: User) -> Event:
    """The event for an agent who has joined; the name falls back to the e-mail address, then to "Agent"."""
    now = timestamp()
    data = schema.AgentData(user.id, user.name or user.email or "Agent", now)
    return parse_event(schema.AgentJoinedEvent(data, now).encode())


def typing_event(user_id: str, is_typing: bool, origin: str) -> Event:
    """The ephemeral event that a user is typing or has stopped; the session ``origin`` doesn't get it."""
    # Formatted by hand: no other event is as frequent.
    body = b'{"type":"typing","data":{"userId":%b,"isTyping":%b},"timestamp":"%b"}' % (
        _encode(user_id),
        b"true" if is_typing else b"false",
        timestamp().encode(),
    )
    return Event("typing", body, origin=origin)


def connected(
    chat_id: str | None,
    session_id: str,
    cursor: Cursor | str | None,
    expires_at: datetime | None,
    recovered: bool | None,
) -> bytes:
    """The first event of a session; ``recovered`` is None if the client gave no cursor.

    ``chat_id`` is None if the token names no chat to begin in.
    """
    return schema.Connected(
        chat_id=chat_id,
        session_id=session_id,
        cursor=None if cursor is None else str(cursor),
        recovered=recovered,
        expires_at=None if expires_at is None else timestamp(expires_at),
        timestamp=timestamp(),
    ).encode()


def joined(chat_id: str, cursor: Cursor | None, recovered: bool | None = None) -> bytes:
    """The first event of a chat that a session has joined; ``recovered`` is None without a cursor."""
    return schema.Joined(
        chat_id=chat_id,
        cursor=None if cursor is None else str(cursor),
        recovered=recovered,
        timestamp=timestamp(),
    ).encode()


def left(chat_id: str, code: int | None = None, reason: str | None = None) -> bytes:
    """The last event of a chat for a session; ``code`` and ``reason`` if it didn't ask to leave."""
    return schema.Left(chat_id=chat_id, code=code, reason=reason, timestamp=timestamp()).encode()


def refreshed(expires_at: datetime | None) -> bytes:
    """The answer to the command ``refresh``: the session's new expiry."""
    until = None if expires_at is None else timestamp(expires_at)
    return schema.Refreshed(expires_at=until, timestamp=timestamp()).encode()


def pong() -> bytes:
    """The answer to the command ``ping``."""
    return schema.Pong(timestamp()).encode()


class Receipt(msgspec.Struct, frozen=True):
    """The outcome of a kept event: ``published`` with its cursor, or ``local`` if the backend is unavailable.

    ``id`` is the saved message's; "" for other events.
    """

    id: str
    cursor: str | None
    delivery: Literal["published", "local"]


def ack(client_message_id: str, receipt: Receipt) -> bytes:
    """The acknowledgement of a saved message, and how it was delivered."""
    return schema.Ack(client_message_id, receipt.id, receipt.cursor, receipt.delivery, timestamp()).encode()
