"""What the application answers with 200, as our types; what differs from the contract is taken as it can be.

Once the application has said that it saved a message, strictness would only hide the message from its chat.
So its answer needs an id, and everything else is made good: a number for an id or a date, a `sender` that is
null, a field that is missing. Ids become text, as everywhere on the wire; `parse_event` does the same with
what the application publishes of the same message, so that both stay one event.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, Final

import msgspec

from eclipse_ws.application.base import ApiError
from eclipse_ws.protocol import Message, Sender, User, bounded, timestamp

_NotEmpty = Annotated[str, msgspec.Meta(min_length=1)]
_Moment = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-9:]{8}\.[0-9]{3}Z\Z")]
_FINER_THAN_SECONDS: Final = 1e11
"""A number of seconds since 1970 that is larger (the year 5138) counts milliseconds, or something finer."""


class AnsweredMessage(Message):
    """A message as the application answers it, with its chat if the application names it."""

    chatId: Any = None  # noqa: N815 - the application's own spelling; the contract doesn't know it


class _RightSender(Sender, forbid_unknown_fields=True):
    id: _NotEmpty


class _RightMessage(AnsweredMessage):
    id: _NotEmpty
    role: _NotEmpty
    createdAt: _Moment  # noqa: N815
    sender: _RightSender


class _Right(msgspec.Struct):
    """The contract's answer, to the letter."""

    success: bool
    message: _RightMessage


class _Saved(msgspec.Struct):
    """Any answer: no types, which would refuse all of it for one field."""

    success: Any = None
    message: Any = None


class _Person(msgspec.Struct):
    id: Any = None
    name: Any = None
    email: Any = None
    image: Any = None
    avatar: Any = None


_decode_right = bounded(msgspec.json.Decoder(_Right).decode)
_decode_saved = bounded(msgspec.json.Decoder(_Saved).decode)
_decode_person = bounded(msgspec.json.Decoder(_Person).decode)


def decode_message(body: bytes, user_id: str, content: str, role: str) -> AnsweredMessage:
    """The saved message; what its answer leaves out is as it was sent.

    Raises ApiError if the application says that it did not save it, and msgspec.DecodeError for an answer
    that is no JSON object, or has no message with an id.
    """
    try:
        right = _decode_right(body)  # the usual answer, in half of the time
        if right.success:
            return right.message
    except msgspec.ValidationError:
        pass
    saved = _decode_saved(body)
    if saved.success in (False, "false"):  # 0 is False
        raise ApiError("api_rejected", "POST message: the answer says success: false", retryable=False)
    message = saved.message if isinstance(saved.message, dict) else {}
    ident = _text(message.get("id"))
    if ident is None:
        raise msgspec.ValidationError("success without a message that has an id")
    said, sender = message.get("content"), message.get("sender")
    who = sender if isinstance(sender, dict) else {}
    return AnsweredMessage(
        ident,
        said if isinstance(said, str) else content,
        _text(message.get("role")) or role,
        _timestamp(message.get("createdAt")),
        Sender(
            _text(who.get("id")) or user_id,
            _text(who.get("name")),
            _text(who.get("email")),
            # Messages call a user's picture `avatar`, users call it `image`; an application may mix them up.
            _text(who.get("avatar")) or _text(who.get("image")),
        ),
        message.get("chatId"),
    )


def decode_user(body: bytes, user_id: str) -> User:
    """The user who was asked for. Raises msgspec.DecodeError for an answer that tells of nobody."""
    who = _decode_person(body)
    ident, name, email = _text(who.id), _text(who.name), _text(who.email)
    if not (ident or name or email):
        raise msgspec.ValidationError("neither an id nor a name nor an e-mail address")
    return User(ident or user_id, name, email, _text(who.image) or _text(who.avatar))


def _text(value: Any) -> str | None:
    """Text, or a whole number as text; None for anything else, and for the empty text."""
    if isinstance(value, str):
        return value or None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _timestamp(value: Any) -> str:
    """A moment as ISO 8601, UTC, milliseconds, ``Z``; now if it can't be read, as it was saved just now.

    A number is seconds since 1970, or milliseconds (or finer), as its size tells. A text may be such a
    number, ISO 8601, or what HTTP and JavaScript write; without a zone it is UTC.
    """
    try:
        if isinstance(value, str):
            value = _number(value) or _date(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            while value >= _FINER_THAN_SECONDS:
                value /= 1000
            value = datetime.fromtimestamp(value, UTC) if value > 0 else None
        if isinstance(value, datetime):
            return timestamp(value.astimezone(UTC) if value.tzinfo else value)
    except (ValueError, OverflowError, OSError):
        pass
    return timestamp()


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d{9,19}(\.\d+)?", text, re.ASCII) else None


def _date(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return parsedate_to_datetime(re.sub(r"\bGMT(?=[+-])", "", text[:100]))
