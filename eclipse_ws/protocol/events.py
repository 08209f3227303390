"""Events and cursors: what a chat's channel carries and backends keep (sections 3 to 5)."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import msgspec

from eclipse_ws.protocol.depth import TooDeepError, bounded
from eclipse_ws.protocol.unicode import well_formed

EPHEMERAL_TYPES: Final = frozenset({"typing", "presence", "read"})
"""Events of these types have no cursor, are not kept, and may be lost; every other type is kept."""

MESSAGE_TYPES: Final = frozenset({"message", "message_updated", "message_deleted"})
"""Events about a message, whose id is ``data.id``: text, even if it was published as a number."""

MAX_CURSOR: Final = 64
"""Maximum length of a cursor, in characters; a longer one is not ours and isn't parsed."""
_MAX_IDENTITY = 512
_encode = msgspec.json.Encoder().encode


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
        """Parse ``<epoch>.<offset>``; None for text that this server can't have written."""
        if len(text) > MAX_CURSOR:
            return None
        epoch, dot, digits = text.rpartition(".")
        if not (dot and epoch.isascii() and epoch.isalnum() and digits.isascii() and digits.isdecimal()):
            return None
        offset = int(digits)
        return cls(epoch, offset) if str(offset) == digits else None


class Event(msgspec.Struct, frozen=True):
    """Server to client, and what backends carry. ``body`` is the JSON text exactly as clients receive it.

    ``identity`` identifies the event whichever path it takes ("" for ephemeral ones); ``cursor`` is
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
        """This event at the given position of its chat, with the cursor in its body."""
        return Event(self.type, with_cursor(self.body, cursor), self.identity, cursor)


def with_cursor(body: bytes, cursor: Cursor) -> bytes:
    """Add the top-level field ``cursor`` to the JSON text of a non-empty object."""
    return b'%b,"cursor":"%b"}' % (body[:-1], str(cursor).encode())


def with_chat_id(body: bytes, chat_id: str) -> bytes:
    """Add the top-level field ``chatId`` to the JSON text of an event, or replace it."""
    if b'"chatId"' in body:
        members = _decode_object(body)
        if members.pop("chatId", None) is not None:
            body = _encode(members)
    return b'%b,"chatId":%b}' % (body[:-1], _encode(chat_id))


def without_cursor(body: bytes, cursor: Cursor | None) -> bytes:
    """Undo `with_cursor`: the JSON text from before the event was sequenced."""
    added = b',"cursor":"%b"}' % str(cursor).encode()
    return body.removesuffix(added) + b"}" if cursor is not None and body.endswith(added) else body


class _Identified(msgspec.Struct):
    id: str | int | None = None
    updatedAt: str | int | float | None = None  # noqa: N815


class _Published(msgspec.Struct):
    type: str
    data: msgspec.Raw = msgspec.Raw(b"null")
    cursor: Any = msgspec.UNSET
    origin: Any = msgspec.UNSET


_decode_published = bounded(msgspec.json.Decoder(_Published).decode)
_decode_identified = msgspec.json.Decoder(_Identified).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


_TYPE = re.compile(rb'"type"\s*:\s*"([^"\\]*)"')
_EPHEMERAL = frozenset(name.encode() for name in EPHEMERAL_TYPES)


class MalformedEventError(ValueError):
    """Input that is not an event: not UTF-8, not a JSON object, or without a string ``type``.

    ``kept``: it may have been an event that its chat keeps, so dropping it leaves a gap.
    """

    def __init__(self, text: str, *, kept: bool = False) -> None:
        super().__init__(text)
        self.kept = kept


def may_be_kept(raw: bytes) -> bool:
    """Whether unreadable input may be an event that its chat keeps: an object with such a ``type``."""
    return raw.lstrip()[:1] == b"{" and any(found[1] not in _EPHEMERAL for found in _TYPE.finditer(raw))


def parse_event(raw: bytes) -> Event:
    """Parse an event published to a chat by the application, an old server, or one of our nodes.

    An event from the application has no cursor yet. Raises MalformedEventError, whose text may be logged.
    """
    try:
        raw.decode()  # a text frame that is not UTF-8 would end every session that gets it
        fields = _decode_published(raw)
    except UnicodeDecodeError as error:
        text = f"not UTF-8: {error.reason} at byte {error.start}"
        raise MalformedEventError(text, kept=may_be_kept(raw)) from None
    except TooDeepError as error:
        raise MalformedEventError(f"not an event: {error}", kept=may_be_kept(raw)) from None
    except msgspec.MsgspecError as error:
        raise MalformedEventError(
            f"not an event, which is a JSON object with a string `type`: {error}"
        ) from None
    body = well_formed(raw.strip())
    cursor = None
    if fields.cursor is None:
        # Removed, because a cursor is added later, and JSON must not have the same name twice.
        members = _decode_object(body)
        del members["cursor"]
        body = _encode(members)
    elif fields.cursor is not msgspec.UNSET:
        cursor = Cursor.parse(fields.cursor) if isinstance(fields.cursor, str) else None
        if cursor is None:
            raise MalformedEventError("its cursor is none of ours", kept=fields.type not in EPHEMERAL_TYPES)
    if fields.type in EPHEMERAL_TYPES:
        if fields.origin is msgspec.UNSET and cursor is None:
            return Event(fields.type, body)
        # Clients get neither: they can't resume from the cursor of an event that isn't kept.
        members = _decode_object(body)
        members.pop("cursor", None)
        members.pop("origin", None)
        origin = "" if fields.origin in (None, msgspec.UNSET) else str(fields.origin)[:64]
        return Event(fields.type, _encode(members), origin=origin)
    data = _identified(fields)
    if type(data.id) is int and fields.type in MESSAGE_TYPES:
        body = _with_text_ids(body)
    return Event(fields.type, body, _identity(fields.type, data, without_cursor(body, cursor)), cursor)


def parse_events(bodies: Iterable[bytes] | None) -> list[Event] | None:
    """Read the events of a history; None if there is none, or if any of its events is malformed."""
    try:
        return None if bodies is None else [parse_event(body) for body in bodies]
    except MalformedEventError:
        return None  # kept by a server with wider limits


def _identified(fields: _Published) -> _Identified:
    try:
        return _decode_identified(fields.data)
    except msgspec.MsgspecError:
        return _Identified()


def _identity(kind: str, data: _Identified, body: bytes) -> str:
    """An event's identity: type and ``data.id`` (and ``data.updatedAt``), else its payload (section 4.1)."""
    if data.id is None or data.id == "":
        return f"{kind[:32]}#{hashlib.blake2b(body, digest_size=16).hexdigest()}"
    return identity(kind, data.id, None if kind == "message_deleted" else data.updatedAt)  # it happens once


def _with_text_ids(body: bytes) -> bytes:
    """The event with its numeric ``data.id`` and ``data.sender.id`` converted to text.

    A client sees the same id whether a message was published by the application, with numeric ids, or
    returned by it and published by us. A user's id is text in tokens, too.
    """
    members = _decode_object(body)
    data = _decode_object(members["data"])
    _quote_id(data)
    with suppress(msgspec.ValidationError):  # a sender that is not an object stays as it is
        sender = _decode_object(data.get("sender", b"null"))
        _quote_id(sender)
        data["sender"] = msgspec.Raw(_encode(sender))
    members["data"] = msgspec.Raw(_encode(data))
    return _encode(members)


def _quote_id(members: dict[str, msgspec.Raw]) -> None:
    number = bytes(members.get("id", b""))
    if number.removeprefix(b"-").isdigit():
        members["id"] = msgspec.Raw(b'"%b"' % number)


def identity(kind: str, data_id: str | int, updated_at: str | int | float | None = None) -> str:
    """The identity of an event of type ``kind``, from its ``data.id`` and ``data.updatedAt``."""
    name = f"{kind}:{data_id}" if updated_at is None else f"{kind}:{data_id}:{updated_at}"
    if len(name) > _MAX_IDENTITY:
        return f"{kind[:32]}#{hashlib.blake2b(name.encode(), digest_size=16).hexdigest()}"
    return name


def saved_id(event: Event) -> str:
    """The id of the message that a ``message`` event contains; "" for other events."""
    return event.identity.removeprefix("message:") if event.identity.startswith("message:") else ""


def untimed(event: Event) -> bytes:
    """An event's JSON text without its top-level ``timestamp``, which may differ in a retry."""
    members = _decode_object(event.body)
    members.pop("timestamp", None)
    return _encode(members)


def with_origin(event: Event) -> bytes:
    """An ephemeral event's JSON text with the field ``origin``, as sent between nodes."""
    return b'%b,"origin":%b}' % (event.body[:-1], _encode(event.origin))


def timestamp(at: datetime | None = None) -> str:
    """ISO 8601, UTC, milliseconds, ``Z``: now, or the given moment."""
    if at is not None:
        return at.isoformat(timespec="milliseconds")[:23] + "Z"
    # Every event has one, and the calendar costs more than everything else: only milliseconds are recomputed.
    global _second, _until_second  # noqa: PLW0603
    now = time.time()
    second = int(now)
    if second != _second:
        _until_second = datetime.fromtimestamp(second, UTC).isoformat()[:19]
        _second = second
    return f"{_until_second}.{int((now - second) * 1000):03d}Z"


_second = -1
_until_second = ""
"""The timestamp of that second, to the second."""
