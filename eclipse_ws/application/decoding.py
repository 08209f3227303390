"""Decodes the application's 200 responses, and tolerates deviations from the contract.

Once the application has confirmed that it saved a message, strictness would only hide the message from its
chat. So a response needs an id, and everything else is repaired: a number for an id or a date, a `sender`
that is null, a missing field. Ids become text, as everywhere on the wire; `parse_event` does the same with
what the application publishes about the same message, so that both are one event.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, Final

import msgspec

from eclipse_ws.application.base import ApiError
from eclipse_ws.protocol import Message, Sender, User, bounded, timestamp

_NonEmpty = Annotated[str, msgspec.Meta(min_length=1)]
_Timestamp = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-9:]{8}\.[0-9]{3}Z\Z")]
_MAX_SECONDS: Final = 1e11
"""A larger timestamp (after the year 5138) is in milliseconds, or a finer unit."""


class ApplicationMessage(Message):
    """A message in a response of the application, with its chat if the response names it."""

    chatId: Any = None  # noqa: N815 - the application's own spelling; not in the contract


class _StrictSender(Sender, forbid_unknown_fields=True):
    id: _NonEmpty


class _StrictMessage(ApplicationMessage):
    id: _NonEmpty
    role: _NonEmpty
    createdAt: _Timestamp  # noqa: N815
    sender: _StrictSender


class _StrictAnswer(msgspec.Struct):
    """A response exactly as in the contract."""

    success: bool
    message: _StrictMessage


class _LenientAnswer(msgspec.Struct):
    """Any response: without types, which would reject all of it for one field."""

    success: Any = None
    message: Any = None


class _LenientUser(msgspec.Struct):
    id: Any = None
    name: Any = None
    email: Any = None
    image: Any = None
    avatar: Any = None


_decode_strict = bounded(msgspec.json.Decoder(_StrictAnswer).decode)
_decode_lenient = bounded(msgspec.json.Decoder(_LenientAnswer).decode)
_decode_user = bounded(msgspec.json.Decoder(_LenientUser).decode)


def decode_message(body: bytes, user_id: str, content: str, role: str) -> ApplicationMessage:
    """The saved message; fields that the response lacks are taken from the request.

    Raises ApiError if the response says that the message was not saved, and msgspec.DecodeError if it is not
    a JSON object, or has no message with an id.
    """
    try:
        strict = _decode_strict(body)  # the usual response, in half the time
        if strict.success:
            return strict.message
    except msgspec.ValidationError:
        pass
    saved = _decode_lenient(body)
    if saved.success in (False, "false"):  # 0 is False
        raise ApiError("api_rejected", "POST message: the response says success: false", retryable=False)
    message = saved.message if isinstance(saved.message, dict) else {}
    ident = _text(message.get("id"))
    if ident is None:
        raise msgspec.ValidationError("success, but no message with an id")
    text, found = message.get("content"), message.get("sender")
    sender = found if isinstance(found, dict) else {}
    return ApplicationMessage(
        ident,
        text if isinstance(text, str) else content,
        _text(message.get("role")) or role,
        _timestamp(message.get("createdAt")),
        Sender(
            _text(sender.get("id")) or user_id,
            _text(sender.get("name")),
            _text(sender.get("email")),
            # Messages call a user's picture `avatar`, users call it `image`; an application may mix them up.
            _text(sender.get("avatar")) or _text(sender.get("image")),
        ),
        message.get("chatId"),
    )


def decode_user(body: bytes, user_id: str) -> User:
    """The requested user. Raises msgspec.DecodeError for a response that describes no user."""
    user = _decode_user(body)
    ident, name, email = _text(user.id), _text(user.name), _text(user.email)
    if not (ident or name or email):
        raise msgspec.ValidationError("no id, no name and no e-mail address")
    return User(ident or user_id, name, email, _text(user.image) or _text(user.avatar))


def _text(value: Any) -> str | None:
    """Text, or a whole number as text; None for anything else, and for the empty text."""
    if isinstance(value, str):
        return value or None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _timestamp(value: Any) -> str:
    """A timestamp as ISO 8601, UTC, milliseconds, ``Z``; now if it can't be parsed, as it was saved just now.

    A number is seconds since 1970, or milliseconds (or finer), depending on its size. A text may be such a
    number, ISO 8601, or a date as HTTP and JavaScript write it; without a zone it is UTC.
    """
    try:
        if isinstance(value, str):
            value = _number(value) or _date(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            while value >= _MAX_SECONDS:
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
