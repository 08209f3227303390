"""What the server sends, as types from which frames are encoded and the API documents are generated.

Typing events are built by hand; tests check every frame and response of a running server against these types,
and allow no additional field.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Timestamp = str
"""ISO 8601, UTC, milliseconds, ``Z``."""


_encode = msgspec.json.Encoder().encode


class _Frame(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, rename="camel"):
    def encode(self) -> bytes:
        """The frame as JSON text; optional fields that are None are left out."""
        return _encode(self)


class Connected(_Frame, tag="connected", kw_only=True):
    """The first event of a session. ``recovered`` is present only if the client gave a cursor, ``chatId``
    only if the token names a chat to begin in.
    """

    chat_id: str | None = None
    session_id: str
    cursor: str | None = None
    recovered: bool | None = None
    expires_at: Timestamp | None = None
    timestamp: Timestamp


class Joined(_Frame, tag="joined", kw_only=True):
    """The session is in this chat from now on. ``recovered`` is present only if the client gave a cursor."""

    chat_id: str
    cursor: str | None = None
    recovered: bool | None = None
    timestamp: Timestamp


class Left(_Frame, tag="left", kw_only=True):
    """The session is no longer in this chat. If it didn't ask for that, ``code`` and ``reason`` are those
    with which the server would have closed a session in one chat.
    """

    chat_id: str
    code: int | None = None
    reason: str | None = None
    timestamp: Timestamp


class SenderData(msgspec.Struct, forbid_unknown_fields=True):
    """Who wrote a message."""

    id: str
    name: str | None
    email: str | None
    avatar: str | None


class MessageData(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, rename="camel"):
    """A saved message; ``timestamp`` is when it was saved, ``updatedAt`` is present only in an update."""

    id: str
    content: str
    role: str
    timestamp: str
    sender: SenderData
    updated_at: str | None = None


class MessageEvent(_Frame, tag="message"):
    """A message was saved. ``chatId`` is present, in every event about a chat, once the session has used
    ``join``.
    """

    data: MessageData
    timestamp: Timestamp
    cursor: str | None = None
    chat_id: str | None = None


class MessageUpdated(_Frame, tag="message_updated"):
    """The application has changed a message."""

    data: MessageData
    timestamp: Timestamp
    cursor: str | None = None
    chat_id: str | None = None


class DeletedData(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """Which message was deleted, and when."""

    id: str
    deleted_at: Timestamp


class MessageDeleted(_Frame, tag="message_deleted"):
    """The application has deleted a message: in a replay it has the place of each event with the content."""

    data: DeletedData
    timestamp: Timestamp
    cursor: str | None = None


class TypingData(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """Who is typing or has stopped."""

    user_id: str
    is_typing: bool


class TypingEvent(_Frame, tag="typing"):
    """Somebody else is typing or has stopped. Never kept, may be lost."""

    data: TypingData
    timestamp: Timestamp
    chat_id: str | None = None


class PresentUser(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """A user who is in the chat, and since when."""

    user_id: str
    role: Literal["user", "agent", "assistant"]
    since: Timestamp


class PresenceData(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, rename="camel"):
    """The list: ``users``, of whom those who came first are named, and their ``count``. A change:
    ``userId``, ``role``, ``online`` and, if that is true, ``since``. In a crowd: only ``count``.
    """

    users: list[PresentUser] | None = None
    count: int | None = None
    user_id: str | None = None
    role: Literal["user", "agent", "assistant"] | None = None
    online: bool | None = None
    since: Timestamp | None = None


class PresenceEvent(_Frame, tag="presence"):
    """Who is in the chat, or how that has changed; for sessions that have asked for it. Never kept."""

    data: PresenceData
    timestamp: Timestamp
    chat_id: str | None = None


class ReadPositionData(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """Up to which message a user has read."""

    user_id: str
    role: Literal["user", "agent", "assistant"]
    message_id: str


class ReadData(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, rename="camel"):
    """First ``positions``: all that are known. Then, for each later one, ``userId``, ``role`` and
    ``messageId``.
    """

    positions: list[ReadPositionData] | None = None
    user_id: str | None = None
    role: Literal["user", "agent", "assistant"] | None = None
    message_id: str | None = None


class ReadEvent(_Frame, tag="read"):
    """Who has read how far; for sessions that have asked for it. Never kept."""

    data: ReadData
    timestamp: Timestamp
    chat_id: str | None = None


class AgentData(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """The agent, as the chat API names them."""

    agent_id: str
    agent_name: str
    timestamp: Timestamp


class AgentJoinedEvent(_Frame, tag="agent_joined"):
    """An agent has joined the chat."""

    data: AgentData
    timestamp: Timestamp
    cursor: str | None = None
    chat_id: str | None = None


class Pong(_Frame, tag="pong"):
    """The answer to a ping."""

    timestamp: Timestamp


class Refreshed(_Frame, tag="refreshed", kw_only=True):
    """The answer to a refresh."""

    expires_at: Timestamp | None = None
    timestamp: Timestamp


class Ack(_Frame, tag="ack"):
    """A message with a ``clientMessageId`` is saved; ``local``: other nodes get it when Redis is back."""

    client_message_id: str
    id: str
    cursor: str | None
    delivery: Literal["published", "local"]
    timestamp: Timestamp
    chat_id: str | None = None


class Error(_Frame, tag="error", kw_only=True):
    """A command was refused or failed. ``retryAfter`` is in seconds."""

    error: str
    code: str
    retryable: bool
    retry_after: float | None = None
    client_message_id: str | None = None
    chat_id: str | None = None
    timestamp: Timestamp


ServerFrame = (
    Connected
    | Joined
    | Left
    | MessageEvent
    | MessageUpdated
    | MessageDeleted
    | TypingEvent
    | PresenceEvent
    | ReadEvent
    | AgentJoinedEvent
    | Pong
    | Refreshed
    | Ack
    | Error
)
"""Every frame that this server creates; other types come from the application and are forwarded unchanged."""


class _Body(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, rename="camel"):
    def fields(self) -> dict[str, Any]:
        """The body as dicts, lists, texts and numbers; optional fields that are None are left out."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return fields


class LargeChat(_Body):
    """One of the largest chats; ``chatId`` is its beginning followed by "..."."""

    chat_id: str
    count: int


class Connections(_Body):
    """Sessions on this node."""

    total: int
    by_chat: list[LargeChat]
    chats: int


class Memory(_Body):
    """Memory in bytes and in percent."""

    used: int
    total: int
    percentage: int


class BackendHealth(_Body):
    """The backend; ``latency`` is in seconds."""

    name: str
    state: Literal["connecting", "up", "down"]
    latency: float | None
    queued: int


class HealthDocument(_Body):
    """A node's health; ``uptime`` is in seconds."""

    status: Literal["healthy", "degraded", "draining"]
    uptime: float
    connections: Connections
    memory: Memory
    timestamp: Timestamp
    backend: BackendHealth
    api: Literal["up", "down"]
    version: str
    machine: str
    region: str


class Published(_Body):
    """The event's cursor; null for an ephemeral event."""

    cursor: str | None
    delivery: Literal["published", "local"] | None = None


class Disconnected(_Body):
    """Number of sessions that were ended."""

    disconnected: int


class PresentSessions(_Body):
    """A user who is in the chat: since when, and with how many sessions."""

    user_id: str
    role: Literal["user", "agent", "assistant"]
    since: Timestamp
    sessions: int


class ChatPresence(_Body):
    """The users in a chat on all nodes, and their count. Of each node at most 100 are named: those who have
    been there longest.
    """

    users: list[PresentSessions]
    count: int


class DisconnectRequest(msgspec.Struct, rename="camel"):
    """Whom to disconnect: one user of the chat, or all; ``reason`` is sent in the close frame.

    ``until``, in seconds since 1970: the user is refused in this chat until then; in the past: no longer.
    """

    user_id: str | None = None
    reason: str | None = None
    until: float | None = None


class EventRequest(msgspec.Struct):
    """An event without a cursor; further fields are forwarded."""

    type: str
    data: Any = None


class ErrorBody(_Body):
    """What went wrong, which limit was exceeded, if any, and a code if a program would react to it."""

    error: str
    limit: str | None = None
    code: Literal["key_reused"] | None = None
