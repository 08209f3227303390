"""Commands, events, cursors and close codes: what goes over a session's socket and over a chat's channel.

Pure: bytes in, values out, no I/O. Sections are those of ``docs/protocol.md``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from enum import Enum
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec

Role = Literal["USER", "ASSISTANT", "AGENT"]
ROLES: Final = ("USER", "ASSISTANT", "AGENT")
EPHEMERAL_TYPES: Final = frozenset({"typing", "presence", "read"})
"""Events of these types have no cursor, are not kept, and may be lost; every other type is kept."""

MAX_CURSOR: Final = 64
"""Longest cursor that is looked at, in characters; a longer one is no cursor of ours."""
_MAX_IDENTITY = 160
_encode = msgspec.json.Encoder().encode


# -- what the chat API says ---------------------------------------------------------------------


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


# -- close codes --------------------------------------------------------------------------------


class CloseCode(Enum):
    """Why a session was ended: the code, the reason that it reads, and what it should do (section 1)."""

    NORMAL = (1000, "", "as it likes")
    GOING_AWAY = (1001, "", "as it likes")
    TOO_BIG = (1009, "Message too big", "fix and reconnect")
    RESTARTING = (1012, "Server restarting", "reconnect after a random delay")
    INTERNAL_ERROR = (4000, "Internal server error", "reconnect with backoff")
    MISSING_TOKEN = (4001, "Missing authentication token", "get a token")
    TOKEN_EXPIRED = (4002, "Token expired", "get a new token, reconnect")
    INVALID_TOKEN = (4002, "Invalid token", "get a new token, reconnect")
    INVALID_CLAIMS = (
        4002,
        "Invalid token payload: missing userId or chatId",
        "get a new token, reconnect",
    )
    KICKED = (4003, "Disconnected by the application", "stop")
    TOO_SLOW = (4008, "Too slow: outgoing queue is full", "reconnect with its cursor")
    RATE_LIMITED = (4009, "Rate limit exceeded", "back off, reconnect")
    RESUME_NEEDED = (
        4010,
        "Resume needed: this node missed events of the chat",
        "reconnect with its cursor",
    )

    def __init__(self, code: int, reason: str, advice: str) -> None:
        self.code = code
        self.reason = reason
        self.advice = advice


# -- cursors ------------------------------------------------------------------------------------


class Cursor(NamedTuple):
    """A position in a chat's kept events: the ``offset``-th event (from 1) of the epoch ``epoch``.

    Offset 0 is the position before an epoch's first event. Clients see it as an opaque string.
    """

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Cursor | None:
        """Read ``<epoch>.<offset>``; None for whatever this server can't have written."""
        if len(text) > MAX_CURSOR:
            return None
        epoch, dot, digits = text.rpartition(".")
        if not (dot and epoch.isascii() and epoch.isalnum() and digits.isascii() and digits.isdecimal()):
            return None
        offset = int(digits)
        return cls(epoch, offset) if str(offset) == digits else None


# -- events -------------------------------------------------------------------------------------


class Event(msgspec.Struct, frozen=True):
    """Server to client, and what backends carry. ``body`` is the JSON text exactly as clients get it.

    ``identity`` names the event across the paths that it takes ("" for ephemeral ones); ``cursor`` is
    None until a backend has sequenced it; ``origin`` is the id of the session that must not get it.
    """

    type: str
    body: bytes
    identity: str = ""
    cursor: Cursor | None = None
    origin: str = ""

    @property
    def kept(self) -> bool:
        """Whether the chat's history keeps this event, so that it can be resumed."""
        return self.type not in EPHEMERAL_TYPES

    def sequenced(self, cursor: Cursor) -> Event:
        """This event at the given place in its chat's order, its body saying so."""
        return Event(self.type, with_cursor(self.body, cursor), self.identity, cursor)


def with_cursor(body: bytes, cursor: Cursor) -> bytes:
    """Add the top-level field ``cursor`` to the JSON text of a non-empty object."""
    return b'%b,"cursor":"%b"}' % (body[:-1], str(cursor).encode())


class _Identified(msgspec.Struct):
    id: str | int | None = None
    updatedAt: str | int | float | None = None  # noqa: N815


class _Published(msgspec.Struct):
    type: str
    data: msgspec.Raw = msgspec.Raw(b"null")
    cursor: Any = None
    origin: Any = None


_decode_published = msgspec.json.Decoder(_Published).decode
_decode_identified = msgspec.json.Decoder(_Identified).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class MalformedEventError(ValueError):
    """What arrived from outside is no event: not UTF-8, not a JSON object, or without a string ``type``."""


def parse_event(raw: bytes) -> Event:
    """Read an event that somebody published to a chat: the application, an old server, or a node of ours.

    An event of the application has no cursor yet. Raises MalformedEventError, whose text is fit for a log.
    """
    try:
        raw.decode()  # a text frame that is not UTF-8 would end every session that gets it
        fields = _decode_published(raw)
    except UnicodeDecodeError as error:
        raise MalformedEventError(f"not UTF-8: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise MalformedEventError("not an event: nested too deeply") from None
    except msgspec.MsgspecError as error:
        raise MalformedEventError(
            f"not an event, which is a JSON object with a string `type`: {error}"
        ) from None
    body = raw.strip()
    cursor = None
    if fields.cursor is not None:
        cursor = Cursor.parse(fields.cursor) if isinstance(fields.cursor, str) else None
        if cursor is None:
            raise MalformedEventError("its cursor is none of ours")
    if fields.type in EPHEMERAL_TYPES:
        if fields.origin is None:
            return Event(fields.type, body)
        members = _decode_object(body)
        members.pop("origin")
        return Event(fields.type, _encode(members), origin=str(fields.origin)[:64])
    return Event(fields.type, body, _identity(fields, body), cursor)


def _identity(fields: _Published, body: bytes) -> str:
    """Name an event: type and ``data.id`` (and ``data.updatedAt``), else its payload (section 4.1)."""
    try:
        data = _decode_identified(fields.data)
    except (msgspec.MsgspecError, RecursionError):
        data = _Identified()
    if data.id is None or data.id == "":
        return f"{fields.type[:32]}#{hashlib.blake2b(body, digest_size=16).hexdigest()}"
    name = f"{fields.type}:{data.id}" + ("" if data.updatedAt is None else f":{data.updatedAt}")
    if len(name) > _MAX_IDENTITY:
        return f"{fields.type[:32]}#{hashlib.blake2b(name.encode(), digest_size=16).hexdigest()}"
    return name


def saved_id(event: Event) -> str:
    """The id of the saved message that an event tells of; "" for other events."""
    return event.identity.removeprefix("message:") if event.identity.startswith("message:") else ""


def timestamp(at: datetime | None = None) -> str:
    """ISO 8601, UTC, milliseconds, ``Z``: now, or the given moment."""
    return (at or datetime.now(UTC)).isoformat(timespec="milliseconds")[:23] + "Z"


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
    return parse_event(_encode(body))


def agent_joined_event(user: User) -> Event:
    """The event that tells a chat that an agent has come; the name falls back to the e-mail, then "Agent"."""
    now = timestamp()
    data = {"agentId": user.id, "agentName": user.name or user.email or "Agent", "timestamp": now}
    return parse_event(_encode({"type": "agent_joined", "data": data, "timestamp": now}))


def typing_event(user_id: str, is_typing: bool, origin: str) -> Event:
    """The ephemeral event that somebody types or has stopped; the session ``origin`` doesn't get it."""
    data = {"userId": user_id, "isTyping": is_typing}
    body = _encode({"type": "typing", "data": data, "timestamp": timestamp()})
    return Event("typing", body, origin=origin)


def with_origin(event: Event) -> bytes:
    """An ephemeral event's JSON text with the field ``origin``, as it crosses nodes."""
    return b'%b,"origin":%b}' % (event.body[:-1], _encode(event.origin))


# -- what one session gets ----------------------------------------------------------------------


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


class CommandError(Exception):
    """A command that is refused or has failed: what the client is told, never why in detail.

    ``text`` is the contract's wording, ``code`` stable and snake_case, ``retry_after`` in seconds.
    """

    def __init__(
        self,
        text: str,
        code: str,
        *,
        retryable: bool = False,
        retry_after: float | None = None,
        client_message_id: str | None = None,
    ) -> None:
        super().__init__(f"{text} ({code})")
        self.text = text
        self.code = code
        self.retryable = retryable
        self.retry_after = retry_after
        self.client_message_id = client_message_id

    def encode(self) -> bytes:
        """The error event."""
        body: dict[str, Any] = {
            "type": "error",
            "error": self.text,
            "code": self.code,
            "retryable": self.retryable,
        }
        if self.retry_after is not None:
            body["retryAfter"] = round(self.retry_after, 3)
        if self.client_message_id is not None:
            body["clientMessageId"] = self.client_message_id
        body["timestamp"] = timestamp()
        return _encode(body)


# -- commands -----------------------------------------------------------------------------------

_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class SendMessage(msgspec.Struct, tag="message", rename="camel"):
    """Say something: saved by the chat API, then an event for everybody in the chat."""

    content: str
    role: Role
    client_message_id: _Id | None = None


class Typing(msgspec.Struct, tag="typing", rename="camel"):
    """The user types, or has stopped."""

    is_typing: bool


class AgentJoined(msgspec.Struct, tag="agent_joined"):
    """An agent has come; whatever the client says of itself is ignored."""


class Ping(msgspec.Struct, tag="ping"):
    """An application-level ping, for clients that can't see the protocol's own."""


class Refresh(msgspec.Struct, tag="refresh"):
    """A new token for the same user and chat extends the session."""

    token: str


Command = SendMessage | Typing | AgentJoined | Ping | Refresh
_decode_command: Callable[[str | bytes], Command] = msgspec.json.Decoder(Command).decode
_decode_any = msgspec.json.Decoder().decode


def decode_command(text: str | bytes) -> Command | None:
    """Read one frame of a client; None for what the contract ignores in silence.

    Raises CommandError with the contract's wording (section 2) for everything else that is no command.
    """
    try:
        command = _decode_command(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        _explain(text)
        return None
    if type(command) is SendMessage and not command.content.strip():
        raise _missing(command.client_message_id)
    return command


def _explain(text: str | bytes) -> None:
    """Say what is wrong with a frame that is no valid command (the slow path)."""
    malformed = CommandError("Failed to process message", "malformed")
    try:
        fields = _decode_any(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        raise malformed from None
    if not isinstance(fields, dict) or not isinstance(fields.get("type"), str):
        raise malformed
    match fields["type"]:
        case "typing":
            return
        case "message":
            content, key = fields.get("content"), fields.get("clientMessageId")
            valid_key = isinstance(key, str) and 1 <= len(key) <= 64
            if not isinstance(content, str) or not content.strip() or fields.get("role") not in ROLES:
                raise _missing(key if valid_key else None)
            raise CommandError(
                "Invalid clientMessageId: expected a string of 1 to 64 characters",
                "invalid_client_message_id",
            )
        case "refresh":
            raise CommandError("Missing token", "missing_token")
        case _:
            raise CommandError("Unknown message type", "unknown_type")


def _missing(client_message_id: str | None) -> CommandError:
    return CommandError(
        "Missing content or role", "missing_content_or_role", client_message_id=client_message_id
    )
