"""Server to client: the events that it creates, and frames for one session (section 3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final, Literal

import msgspec

from eclipse_ws.protocol import schema
from eclipse_ws.protocol.commands import Role
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


PresentRole = Literal["user", "agent", "assistant"]
"""A user's role as others see it: in lower case, as in messages."""
SHOWN: Final[Mapping[Role, PresentRole]] = {"USER": "user", "AGENT": "agent", "ASSISTANT": "assistant"}


def presence_list_event(users: Iterable[tuple[str, PresentRole, float]], count: int) -> Event:
    """Who is in a chat: users, their role, and since when (seconds since 1970), and how many there are."""
    named = [schema.PresentUser(user_id, role, moment(since)) for user_id, role, since in users]
    return _presence(schema.PresenceData(users=named, count=count))


def presence_event(user_id: str, role: PresentRole, since: float | None) -> Event:
    """A user is in a chat, since when (seconds since 1970), or is no longer (None)."""
    at = None if since is None else moment(since)
    return _presence(schema.PresenceData(user_id=user_id, role=role, online=since is not None, since=at))


def presence_count_event(count: int) -> Event:
    """How many users are in a chat that is a crowd."""
    return _presence(schema.PresenceData(count=count))


def _presence(data: schema.PresenceData) -> Event:
    return Event("presence", schema.PresenceEvent(data, timestamp()).encode())


def read_event(user_id: str, role: PresentRole, message_id: str) -> Event:
    """A user has read up to a message."""
    return _read(schema.ReadData(user_id=user_id, role=role, message_id=message_id))


def read_positions_event(positions: Iterable[tuple[str, PresentRole, str]]) -> Event:
    """Up to which messages users have read: each user's id, role and message."""
    return _read(schema.ReadData(positions=[schema.ReadPositionData(*each) for each in positions]))


def _read(data: schema.ReadData) -> Event:
    return Event("read", schema.ReadEvent(data, timestamp()).encode())


def moment(seconds: float) -> str:
    """Seconds since 1970 as a timestamp."""
    return timestamp(datetime.fromtimestamp(seconds, UTC))


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
