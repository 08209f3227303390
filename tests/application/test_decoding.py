"""The application's answers, from the contract's form to equivalent ones."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest

from eclipse_ws.application.base import ApiError
from eclipse_ws.application.decoding import decode_message, decode_user
from eclipse_ws.protocol import Message, Sender, User

RIGHT: dict[str, Any] = {
    "id": "m",
    "content": "hello",
    "role": "USER",
    "createdAt": "2026-01-31T10:20:30.456Z",
    "sender": {"id": "s", "name": "N", "email": "e", "avatar": "a"},
}
NOW = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def answered(success: Any = True, **fields: Any) -> Message:
    """The decoded response with these fields changed; ``...`` removes one."""
    message = {name: value for name, value in {**RIGHT, **fields}.items() if value is not ...}
    answer = {"message": message} if success is ... else {"success": success, "message": message}
    return decode_message(json.dumps(answer).encode(), "sent-by", "what was sent", "AGENT")


def test_the_contracts_answer() -> None:
    """A response exactly as in the contract is decoded unchanged."""
    message = answered()
    assert msgspec.to_builtins(message) == {**RIGHT, "chatId": None}
    assert msgspec.to_builtins(answered(new=1)) == msgspec.to_builtins(answered(success="true"))


@pytest.mark.parametrize(
    ("given", "text"), [(1, "1"), (2**53 + 1, "9007199254740993"), (-3, "-3"), ("07", "07")]
)
def test_ids_become_text(given: Any, text: str) -> None:
    """Numeric ids of messages, senders and users become text."""
    message = answered(id=given, sender={"id": given})
    assert (message.id, message.sender.id) == (text, text)
    assert decode_user(json.dumps({"id": given}).encode(), "asked").id == text


@pytest.mark.parametrize("given", [..., None, "", True, 1.5, [], {"$oid": "1"}])
def test_a_message_needs_an_id(given: Any) -> None:
    """A message without an id is rejected."""
    with pytest.raises(msgspec.DecodeError):
        answered(id=given)


@pytest.mark.parametrize(
    ("given", "iso"),
    [
        (1769854830456, "2026-01-31T10:20:30.456Z"),
        (1769854830, "2026-01-31T10:20:30.000Z"),
        (1769854830.456, "2026-01-31T10:20:30.456Z"),
        (1769854830456789, "2026-01-31T10:20:30.456Z"),
        ("1769854830456", "2026-01-31T10:20:30.456Z"),
        ("2026-01-31T10:20:30Z", "2026-01-31T10:20:30.000Z"),
        ("2026-01-31T12:20:30.456789+02:00", "2026-01-31T10:20:30.456Z"),
        ("2026-01-31 10:20:30.456", "2026-01-31T10:20:30.456Z"),
        ("2026-01-31 10:20:30+00", "2026-01-31T10:20:30.000Z"),
        ("Sat, 31 Jan 2026 10:20:30 GMT", "2026-01-31T10:20:30.000Z"),
        ("Sat Jan 31 2026 12:20:30 GMT+0200 (Eastern European Time)", "2026-01-31T10:20:30.000Z"),
    ],
)
def test_dates_are_converted_to_the_contracts_form(given: Any, iso: str) -> None:
    """Numbers and the usual texts become ISO 8601 in UTC with milliseconds."""
    assert answered(createdAt=given).createdAt == iso


@pytest.mark.parametrize(
    "given", [..., None, "", "just now", 0, -1, True, 1e300, "9" * 400, {}, "0001-01-01T00:00+05:00"]
)
def test_an_invalid_date_becomes_the_current_time(given: Any) -> None:
    """An invalid date is replaced by the current time."""
    assert NOW.fullmatch(answered(createdAt=given).createdAt)


@pytest.mark.parametrize("given", [..., None, "x", [], {}, {"id": None, "name": None}])
def test_a_missing_sender_is_the_user_who_sent_it(given: Any) -> None:
    """Without a sender the message is from the user who sent it, without a name."""
    assert answered(sender=given).sender == Sender("sent-by")


@pytest.mark.parametrize(
    ("given", "sender"),
    [
        ({"name": "N"}, Sender("sent-by", "N")),
        ({"id": "s", "image": "i"}, Sender("s", None, None, "i")),
        ({"id": 7, "image": "i"}, Sender("7", None, None, "i")),
        ({"id": "s", "name": 7, "email": {}, "avatar": False}, Sender("s", "7")),
        ({"id": "s", "name": ["N"], "email": "e", "role": "ADMIN"}, Sender("s", None, "e")),
    ],
)
def test_a_part_of_a_sender(given: Any, sender: Sender) -> None:
    """The valid fields of a sender are used."""
    assert answered(sender=given).sender == sender


@pytest.mark.parametrize("given", [..., None, ["hello"], {"text": "hello"}, 5])
def test_missing_content_is_the_sent_content(given: Any) -> None:
    """Without content the message has the sent content."""
    assert answered(content=given).content == "what was sent"


@pytest.mark.parametrize("given", [..., None, "", []])
def test_a_missing_role_is_the_sent_role(given: Any) -> None:
    """Without a role the message has the sent role."""
    assert answered(role=given, id=1).role == "AGENT"
    assert answered(role="agent", id=1).role == "agent"


@pytest.mark.parametrize("given", [..., None, True, "true", "yes", 1])
def test_success(given: Any) -> None:
    """A message with an id is a success, unless the response says otherwise."""
    assert answered(success=given).id == "m"


@pytest.mark.parametrize("given", [False, "false", 0])
def test_no_success(given: Any) -> None:
    """success: false is final: the message was not saved."""
    with pytest.raises(ApiError) as caught:
        answered(success=given)
    assert (caught.value.code, caught.value.outcome_unknown) == ("api_rejected", False)


@pytest.mark.parametrize(
    ("given", "user"),
    [
        ({"id": "u", "name": "N", "email": "e", "image": "i"}, User("u", "N", "e", "i")),
        ({"id": 7, "name": None, "email": None, "image": None}, User("7")),
        ({"id": "u", "name": 7, "email": [], "avatar": "a"}, User("u", "7", None, "a")),
        ({"name": "N"}, User("asked", "N")),
        ({"id": None, "email": "e"}, User("asked", None, "e")),
        ({"id": "", "email": "e"}, User("asked", None, "e")),
    ],
)
def test_a_user(given: Any, user: User) -> None:
    """The valid fields of a user are used; the id defaults to the requested one."""
    assert decode_user(json.dumps(given).encode(), "asked") == user


@pytest.mark.parametrize(
    "given", [{}, {"error": "no"}, {"id": None}, {"user": {"id": "u"}}, [], "u", 7, None]
)
def test_no_user(given: Any) -> None:
    """A response without any user is rejected."""
    with pytest.raises(msgspec.DecodeError):
        decode_user(json.dumps(given).encode(), "asked")
