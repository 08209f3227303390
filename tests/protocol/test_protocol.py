"""Commands, events, cursors and close codes, as they stand on the wire."""

from __future__ import annotations

import contextlib
import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eclipse_ws import protocol
from eclipse_ws.protocol import (
    CommandError,
    Cursor,
    Event,
    MalformedEventError,
    Message,
    Receipt,
    Sender,
    User,
    decode_command,
    parse_event,
)
from tests.nested import DEEPEST, TOO_DEEP, nested

settings.register_profile("tests", deadline=None)  # a busy machine is not an error
settings.load_profile("tests")

STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
TYPES = st.sampled_from(["message", "typing", "agent_joined", "ping", "refresh", "read", "presence", "x"])
CURSORS = st.builds(Cursor, st.text("0123456789abcdef", min_size=1, max_size=30), st.integers(0, 10**15))


def refusal(frame: str | bytes) -> dict[str, Any]:
    """The error for an invalid command, without its time."""
    with pytest.raises(CommandError) as caught:
        decode_command(frame)
    event: dict[str, Any] = json.loads(caught.value.encode())
    assert event.pop("type") == "error"
    assert STAMP.fullmatch(event.pop("timestamp"))
    return event


# -- commands -----------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["USER", "ASSISTANT", "AGENT"])
def test_message_command(role: str) -> None:
    """A message has content, one of three roles, and perhaps a key."""
    frame = json.dumps({"type": "message", "content": " hi ", "role": role})
    assert decode_command(frame) == protocol.SendMessage(" hi ", role)  # type: ignore[arg-type]
    keyed = json.dumps({"type": "message", "content": "x", "role": role, "clientMessageId": "k" * 64})
    assert decode_command(keyed) == protocol.SendMessage("x", role, "k" * 64)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("frame", "command"),
    [
        ('{"type":"typing","isTyping":true}', protocol.Typing(True)),
        ('{"type":"typing","isTyping":false,"more":[1]}', protocol.Typing(False)),
        ('{"type":"ping"}', protocol.Ping()),
        ('{"type":"agent_joined"}', protocol.AgentJoined()),
        ('{"type":"agent_joined","agentId":7,"agentName":{"a":1}}', protocol.AgentJoined()),
        ('{"type":"refresh","token":"a.b.c"}', protocol.Refresh("a.b.c")),
        (
            '{"type":"message","content":"x","role":"USER","clientMessageId":null}',
            protocol.SendMessage("x", "USER"),
        ),
        (b'{"type":"ping"}', protocol.Ping()),
    ],
)
def test_other_commands(frame: str | bytes, command: object) -> None:
    """Each command reads what it needs and ignores the rest, from text and from binary frames."""
    assert decode_command(frame) == command


@pytest.mark.parametrize("value", ["1", '"true"', "null", "[]", "{}"])
def test_typing_without_a_boolean_is_ignored(value: str) -> None:
    """Anything but a boolean isTyping is silently ignored."""
    assert decode_command(f'{{"type":"typing","isTyping":{value}}}') is None
    assert decode_command('{"type":"typing"}') is None


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"content": "x"},
        {"role": "USER"},
        {"content": "", "role": "USER"},
        {"content": " \t\n", "role": "USER"},
        {"content": None, "role": "USER"},
        {"content": 5, "role": "USER"},
        {"content": ["x"], "role": "USER"},
        {"content": "x", "role": "user"},
        {"content": "x", "role": "SYSTEM"},
        {"content": "x", "role": 1},
        {"content": "x", "role": ["USER"]},
        {"content": "x", "role": {}},
    ],
)
def test_missing_content_or_role(fields: dict[str, object]) -> None:
    """A message without valid content and role gets the documented error, under its key if it has one."""
    expected = {"error": "Missing content or role", "code": "missing_content_or_role", "retryable": False}
    assert refusal(json.dumps({"type": "message", **fields})) == expected
    keyed = refusal(json.dumps({"type": "message", **fields, "clientMessageId": "k"}))
    assert keyed == {**expected, "clientMessageId": "k"}
    assert refusal(json.dumps({"type": "message", **fields, "clientMessageId": 5})) == expected


@pytest.mark.parametrize("key", ["", "k" * 65, 5, [], {}, True])
def test_invalid_client_message_id(key: object) -> None:
    """A key other than a string of 1 to 64 characters is refused: its sender would never get an ack."""
    told = refusal(json.dumps({"type": "message", "content": "x", "role": "USER", "clientMessageId": key}))
    assert told["code"] == "invalid_client_message_id"
    assert "1 to 64" in told["error"]


@pytest.mark.parametrize("resend", ["yes", 1, None, {}])
def test_invalid_resend(resend: object) -> None:
    """The field for a resend is true or false; anything else is refused under its key."""
    fields = {"content": "x", "role": "USER", "clientMessageId": "k", "resend": resend}
    told = refusal(json.dumps({"type": "message", **fields}))
    assert (told["code"], told["clientMessageId"]) == ("invalid_resend", "k")


@pytest.mark.parametrize(
    ("content", "read"),
    [
        (r"a\ud800b", "a\ufffdb"),
        (r"\uDC00", "\ufffd"),
        (r"\ud800\ud83d\ude00", "\ufffd\U0001f600"),
        (r"\udc00\ud800", "\ufffd\ufffd"),
        (r"\ud83d\ude00", "\U0001f600"),
        (r"\\ud800 \udfff", r"\ud800" + " \ufffd"),
        (r"\\\ud800", "\\\ufffd"),
        (r"\ud800A\n\ud83d", "\ufffdA\n\ufffd"),
    ],
)
@pytest.mark.parametrize("kind", [str, str.encode])
def test_half_of_a_pair_is_repaired(content: str, read: str, kind: Any) -> None:
    """Half of a surrogate pair in JSON becomes U+FFFD, and the rest of the message stays as it is."""
    text = f'{{"type":"message","content":"{content}","role":"USER","clientMessageId":"k"}}'
    assert decode_command(kind(text)) == protocol.SendMessage(read, "USER", "k")
    wrong = f'{{"type":"message","content":"{content}","role":"x","clientMessageId":"\\ud800"}}'
    assert refusal(kind(wrong))["clientMessageId"] == "\ufffd"


def test_nul_in_content() -> None:
    """NUL is refused by name, under the message's key, and for good."""
    text = json.dumps({"type": "message", "content": "a\0b", "role": "USER", "clientMessageId": "k"})
    assert refusal(text) == {
        "error": "Invalid content: it must not contain NUL (U+0000)",
        "code": "invalid_content",
        "retryable": False,
        "clientMessageId": "k",
    }


@pytest.mark.parametrize("fields", [{}, {"type": 5}, {"type": "massage"}, {"type": "message"}])
def test_errors_have_the_commands_key_if_it_is_valid(fields: dict[str, object]) -> None:
    """Whatever is wrong with a command, its sender learns which one it was."""
    assert refusal(json.dumps({**fields, "clientMessageId": "k"}))["clientMessageId"] == "k"
    assert "clientMessageId" not in refusal(json.dumps({**fields, "clientMessageId": 5}))


@pytest.mark.parametrize("body", [r'{"type":"note","data":{"text":"\ud800"}}', r'{"type":"\ud800","data":1}'])
def test_half_of_a_pair_in_an_event(body: str) -> None:
    """An event from outside is repaired, so that no recipient fails on it."""
    event = protocol.parse_event(body.encode())
    assert event.body == body.replace(r"\ud800", r"\ufffd").encode()


@pytest.mark.parametrize("kind", ["", "x", "MESSAGE", "message ", "pong", "connected", "\x00", "x" * 9999])
def test_unknown_type(kind: str) -> None:
    """An unknown type gets the documented error."""
    expected = {"error": "Unknown message type", "code": "unknown_type", "retryable": False}
    assert refusal(json.dumps({"type": kind})) == expected


@pytest.mark.parametrize(
    "frame",
    [
        "",
        " ",
        "hello",
        "{",
        '{"type":"ping"',
        '{"type":"ping"} x',
        "[]",
        '["ping"]',
        "5",
        '"ping"',
        "null",
        "true",
        "{}",
        '{"content":"x"}',
        '{"type":null}',
        '{"type":5}',
        '{"type":["ping"]}',
        '{"type":{}}',
        "[" * 10_000,
        nested(10_000),
        *(f'{{"type":"ping","x":{nested(levels)}}}' for levels in TOO_DEEP),
        *(b'{"type":"message","content":%b}' % nested(levels).encode() for levels in TOO_DEEP),
        '{"a":' * 10_000 + "1" + "}" * 10_000,
        '{"type":"message","content":"\ud800","role":"USER"}',
        b"",
        b"\xff\xfe",
        b'{"type":"\xff"}',
        b'{"type":"message","content":"\xed\xa0\x80","role":"USER"}',
        "NaN",
        "1e999",
        "﻿{}",
    ],
)
def test_malformed(frame: str | bytes) -> None:
    """Input that is not JSON, not an object, or has no type gets the documented error, however odd it is."""
    expected = {"error": "Failed to process message", "code": "malformed", "retryable": False}
    assert refusal(frame) == expected


@pytest.mark.parametrize("kind", [str, str.encode])
def test_deepest_command(kind: Any) -> None:
    """A command may have unknown fields, as deep as the limit; a deeper one gets an error that says so."""
    assert decode_command(kind(f'{{"type":"ping","x":{nested(DEEPEST)}}}')) == protocol.Ping()
    assert refusal(kind(f'{{"type":"dance","x":{nested(DEEPEST)}}}'))["code"] == "unknown_type"


def test_refresh_without_a_token() -> None:
    """A refresh must have a token."""
    told = refusal('{"type":"refresh"}')
    assert (told["code"], told["error"]) == ("missing_token", "Missing token")
    assert refusal('{"type":"refresh","token":5}')["code"] == "missing_token"


@given(st.text() | st.binary())
def test_any_frame_is_a_command_or_a_command_error(frame: str | bytes) -> None:
    """Whatever a client sends, decoding it raises nothing but CommandError."""
    try:
        decode_command(frame)
    except CommandError as error:
        json.loads(error.encode())


@given(
    st.dictionaries(st.sampled_from(["content", "role", "isTyping", "token", "clientMessageId"]), JSON), TYPES
)
def test_any_object_is_a_command_or_a_command_error(fields: dict[str, object], kind: str) -> None:
    """Whatever types the fields of a command have, decoding it raises nothing but CommandError."""
    frame = json.dumps({**fields, "type": kind})
    try:
        command = decode_command(frame)
    except CommandError as error:
        json.loads(error.encode())
    else:
        assert command is not None or kind == "typing"


def test_error_event() -> None:
    """An error has only the applicable fields, the delay in seconds with three digits."""
    error = CommandError("No", "no", retryable=True, retry_after=1.23456, client_message_id="k")
    event = json.loads(error.encode())
    assert STAMP.fullmatch(event.pop("timestamp"))
    assert event == {
        "type": "error",
        "error": "No",
        "code": "no",
        "retryable": True,
        "retryAfter": 1.235,
        "clientMessageId": "k",
    }


# -- cursors ------------------------------------------------------------------------------------


@given(CURSORS)
def test_cursor_roundtrip(cursor: Cursor) -> None:
    """A cursor reads back as what was written."""
    assert Cursor.parse(str(cursor)) == cursor


@given(st.text())
def test_a_cursor_that_parses_is_written_the_same(text: str) -> None:
    """No two texts are the same cursor, and no text makes parsing raise."""
    cursor = Cursor.parse(text)
    assert cursor is None or str(cursor) == text


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            ".",
            "e",
            "e.",
            ".1",
            "e.-1",
            "e.+1",
            "e.01",
            "e. 1",
            "e.1 ",
            "e.1.",
            "e.x",
            "e.١",
            "é.1",
            "e e.1",
        ),
        *("e\x00.1", "a.b.1", "{x}.1", "e" * 63 + ".1", "e." + "9" * 99),
    ],
)
def test_invalid_cursors(text: str) -> None:
    """Text that this server can't have written is not a cursor."""
    assert Cursor.parse(text) is None


# -- events -------------------------------------------------------------------------------------


def test_kept_event_of_the_application() -> None:
    """An event without a cursor is kept unchanged, identified by its type and id."""
    raw = b' {"type":"message","data":{"id":"m1","content":"x"},"extra":1}\n'
    event = parse_event(raw)
    assert event == Event("message", raw.strip(), "message:m1")
    assert event.kept
    assert protocol.saved_id(event) == "m1"


@pytest.mark.parametrize(
    ("body", "identity"),
    [
        ({"type": "message_updated", "data": {"id": "m1", "updatedAt": "t"}}, "message_updated:m1:t"),
        ({"type": "message_updated", "data": {"id": 7, "updatedAt": 8}}, "message_updated:7:8"),
        ({"type": "x", "data": {"id": "m1"}}, "x:m1"),
    ],
)
def test_identity(body: dict[str, object], identity: str) -> None:
    """An event is identified by its type, its data's id, and the time of its last change."""
    assert parse_event(json.dumps(body).encode()).identity == identity


@pytest.mark.parametrize("data", [{}, {"id": ""}, {"id": None}, {"id": [1]}, {"id": 1.5}, None, [], "x", 5])
def test_identity_without_an_id(data: object) -> None:
    """Without a usable id the payload identifies an event."""
    first = parse_event(json.dumps({"type": "x", "data": data, "n": 1}).encode())
    same = parse_event(json.dumps({"type": "x", "data": data, "n": 1}).encode())
    other = parse_event(json.dumps({"type": "x", "data": data, "n": 2}).encode())
    assert first.identity == same.identity != other.identity
    assert first.identity.startswith("x#")


@pytest.mark.parametrize("kind", ["message", "message_updated", "message_deleted"])
def test_ids_of_messages_become_text(kind: str) -> None:
    """A message that is published under a number, and its sender, have the ids that an answer gives them."""
    raw = (
        b'{"type":"%b","data":{"sender":{"name":"N","id":-7},"id":12345678901234567890,"x":1.50}}'
        % kind.encode()
    )
    event = parse_event(raw)
    assert event.body == raw.replace(b"-7", b'"-7"').replace(
        b"12345678901234567890", b'"12345678901234567890"'
    )
    assert event.identity == f"{kind}:12345678901234567890"
    assert parse_event(event.body) == event
    sequenced = event.sequenced(Cursor("e", 1))
    assert parse_event(sequenced.body) == sequenced


@pytest.mark.parametrize("sender", [b"null", b"7", b'"u"', b"[]", b'{"id":"u"}', b'{"id":7.5}', b"{}"])
def test_a_sender_without_a_number_is_unchanged(sender: bytes) -> None:
    """A message's sender whose id is not a number is not changed."""
    event = parse_event(b'{"type":"message","data":{"id":1,"sender":%b}}' % sender)
    assert event.body == b'{"type":"message","data":{"id":"1","sender":%b}}' % sender


def test_numbers_of_other_events_are_unchanged() -> None:
    """An event of a type that is not known is passed on as it is, also under a number."""
    raw = b'{"type":"ticket","data":{"id":1,"sender":{"id":2}}}'
    assert parse_event(raw) == Event("ticket", raw, "ticket:1")


@pytest.mark.parametrize(
    ("body", "identity"),
    [
        ({"type": "note", "data": {"text": "a"}}, "note#e31c8dee42cb4f2ec839e53843536397"),
        ({"type": "t" * 40, "data": {"id": "i" * 600}}, "t" * 32 + "#71773fa57be05901a71797a8b408896f"),
    ],
)
def test_digests_of_identities_are_stable(body: dict[str, object], identity: str) -> None:
    """A node of the next version recognizes an event that one of this version has published."""
    assert parse_event(json.dumps(body, separators=(",", ":")).encode()).identity == identity


def test_identity_is_bounded() -> None:
    """A huge id or type gives no huge name, and events are still distinguished."""
    names = {
        parse_event(json.dumps({"type": "t" * 9999, "data": {"id": "i" * length}}).encode()).identity
        for length in (9998, 9999)
    }
    assert len(names) == 2
    assert all(len(name) < 80 for name in names)


def test_saved_id_of_other_events() -> None:
    """Only the event `message` has the id of a saved message."""
    assert protocol.saved_id(parse_event(b'{"type":"message_updated","data":{"id":"m"}}')) == ""


def test_sequenced_event() -> None:
    """A sequenced event says its cursor at the top level, and reads back as the same event."""
    event = parse_event(b'{"type":"message","data":{"id":"m1"}}').sequenced(Cursor("e", 3))
    assert json.loads(event.body) == {"type": "message", "data": {"id": "m1"}, "cursor": "e.3"}
    assert event.cursor == Cursor("e", 3)
    assert parse_event(event.body) == event


@pytest.mark.parametrize(
    "raw",
    [
        b'{"type":"x"}',
        b'{"type":"x","data":{"text":"a"}}',
        b' { "type" : "x" , "data" : { "id" : null } } \n',
        b'{"type":"message","data":{"content":"no id"}}',
        b'{"type":"message","data":null,"timestamp":"t"}',
        b'{"type":"x","cursor":null,"data":[1]}',
        b'{"type":"x","data":{"cursor":"e.1"}}',
        b'{"type":"x","text":"}"}',
        b'{"type":"x","data":"\\ud800"}',
    ],
)
@pytest.mark.parametrize("cursor", [Cursor("e", 1), Cursor("f" * 30, 10**15)])
def test_an_event_without_an_id_keeps_its_identity(raw: bytes, cursor: Cursor) -> None:
    """The payload without the cursor names it: before it is sequenced, after, and as other nodes read it."""
    event = parse_event(raw)
    sequenced = event.sequenced(cursor)
    assert sequenced.identity == event.identity
    assert parse_event(sequenced.body) == sequenced
    assert parse_event(b"\n" + sequenced.body + b" ") == sequenced


def test_ephemeral_event_crosses_nodes_with_its_origin() -> None:
    """The origin travels beside an ephemeral event and is not in what clients get."""
    event = protocol.typing_event("u1", True, "s1")
    assert not event.kept
    assert (event.identity, event.cursor, event.origin) == ("", None, "s1")
    assert b"s1" not in event.body
    assert parse_event(protocol.with_origin(event)) == event
    assert parse_event(event.body) == Event("typing", event.body)
    body = json.loads(event.body)
    assert STAMP.fullmatch(body.pop("timestamp"))
    assert body == {"type": "typing", "data": {"userId": "u1", "isTyping": True}}


@pytest.mark.parametrize("origin", [5, ["x"], {"a": 1}, "x" * 999])
def test_origin_of_any_kind(origin: object) -> None:
    """An origin that no node wrote is truncated and harmless."""
    event = parse_event(json.dumps({"type": "typing", "origin": origin, "data": None}).encode())
    assert json.loads(event.body) == {"type": "typing", "data": None}
    assert len(event.origin) <= 64


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"x",
        b"[]",
        b"5",
        b"null",
        b"{}",
        b'{"type":5}',
        b'{"type":null}',
        b'{"type":"x"',
        b'{"type":"x"}}',
    ]
    + [b'{"type":"\xff"}', b"\xff", b"\x00", b'{"type":"x"}\x00', b"[" * 10_000]
    + [b'{"type":"x","data":%b}' % nested(levels).encode() for levels in TOO_DEEP]
    + [b'{"type":"typing","origin":"s","data":%b}' % nested(levels).encode() for levels in TOO_DEEP]
    + [
        b'{"type":"x","cursor":%b}' % cursor for cursor in (b"5", b"[]", b'""', b'"x"', b'"e.-1"', b'"a.b.1"')
    ],
)
def test_malformed_event(raw: bytes) -> None:
    """Input that is not an event, or has an invalid cursor, is refused with a reason that may be logged."""
    with pytest.raises(MalformedEventError) as caught:
        parse_event(raw)
    assert 5 < len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        (b'{"type":"x","cursor":5}', True),
        (b'{"type":"x","cursor":"none of ours"}', True),
        (b'{"type":"typing","cursor":5}', False),
        (b'{"type":"x","data":"\xff"}', True),
        (b' {"type" : "message","data":"\xff"}', True),
        (b'{"type":"typing","data":"\xff"}', False),
        (b'{"type":"presence","x":{"type":"message"},"data":"\xff"}', True),
        (b'["type","message","\xff"]', False),
        (b'"{\xff","type":"message"', False),
        (b"\xff", False),
        (b'{"type":"x","data":%b}' % nested(TOO_DEEP[0]).encode(), True),
        (b'{"type":"read","data":%b}' % nested(TOO_DEEP[0]).encode(), False),
        (b"[" * 10_000, False),
        (b'{"type":5}', False),
        (b"no event", False),
    ],
)
def test_whether_a_malformed_event_is_a_gap(raw: bytes, kept: bool) -> None:
    """It may have been an event that its chat keeps, so that there is a gap, or surely was not."""
    with pytest.raises(MalformedEventError) as caught:
        parse_event(raw)
    assert caught.value.kept is kept


@given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes_are_an_event_or_malformed(raw: bytes) -> None:
    """Whatever arrives on a channel, parsing it raises nothing but MalformedEventError."""
    with contextlib.suppress(MalformedEventError):
        parse_event(raw)


@settings(max_examples=200)
@given(
    st.dictionaries(st.sampled_from(["data", "cursor", "origin", "timestamp", "z"]), JSON),
    TYPES,
    CURSORS,
)
def test_any_object_is_an_event_or_malformed(fields: dict[str, Any], kind: str, cursor: Cursor) -> None:
    """An event that parses stays valid JSON and itself through sequencing and through crossing nodes."""
    raw = json.dumps({**fields, "type": kind}).encode()
    try:
        event = parse_event(raw)
    except MalformedEventError:
        assert fields.get("cursor") is not None
        return
    if event.kept:
        if event.cursor is None:
            sequenced = event.sequenced(cursor)
            assert (sequenced.type, sequenced.cursor) == (kind, cursor)
            assert sequenced.identity == event.identity
            assert parse_event(sequenced.body) == sequenced
        assert 0 < len(event.identity) <= 160
    else:
        again = parse_event(protocol.with_origin(event))
        assert (again.type, again.origin) == (event.type, event.origin)
        same = {name: value for name, value in json.loads(event.body).items() if name != "origin"}
        assert json.loads(again.body) == same


@pytest.mark.parametrize(
    ("raw", "body", "origin"),
    [
        (b'{"type":"typing","cursor":null,"z":1}', b'{"type":"typing","z":1}', ""),
        (b'{"type":"typing","origin":null}', b'{"type":"typing"}', ""),
        (b'{"type":"typing","origin":null,"cursor":"e.1"}', b'{"type":"typing"}', ""),
        (b'{"type":"typing","origin":"s","cursor":null}', b'{"type":"typing"}', "s"),
        (b'{"type":"x","cursor":null,"data":{"id":1}}', b'{"type":"x","data":{"id":1}}', ""),
    ],
)
def test_null_is_not_a_cursor_or_an_origin(raw: bytes, body: bytes, origin: str) -> None:
    """A field of ours that is null is not passed on: clients on every node see the same event."""
    event = parse_event(raw)
    assert (event.body, event.origin, event.cursor) == (body, origin, None)


@pytest.mark.parametrize("kind", ["message", "typing"])
def test_deepest_event(kind: str) -> None:
    """An event as deep as the limit stays one through sequencing and through crossing nodes."""
    members = f'"data":{{"id":{nested(DEEPEST - 1)}}},"x":{nested(DEEPEST)}'
    event = parse_event(f'{{"type":"{kind}","origin":"s",{members}}}'.encode())
    assert (event.type, event.origin) == (kind, "" if event.kept else "s")
    crossed = event.sequenced(Cursor("e", 1)).body if event.kept else protocol.with_origin(event)
    again = parse_event(crossed)
    assert (again.type, again.identity) == (kind, event.identity)


MESSAGE = Message(
    "m1", "hi\x00", "AGENT", "2026-01-02T03:04:05.006Z", Sender("u1", "Ada", None, "http://a/b")
)


def test_message_event() -> None:
    """A saved message has its role in lower case and the API's time; absent names are null."""
    event = protocol.message_event(MESSAGE)
    body = json.loads(event.body)
    assert STAMP.fullmatch(body.pop("timestamp"))
    assert body == {
        "type": "message",
        "data": {
            "id": "m1",
            "content": "hi\x00",
            "role": "agent",
            "timestamp": "2026-01-02T03:04:05.006Z",
            "sender": {"id": "u1", "name": "Ada", "email": None, "avatar": "http://a/b"},
        },
    }
    assert event.identity == "message:m1"


@pytest.mark.parametrize(
    ("user", "name"),
    [
        (User("a", "Ada", "a@x", None), "Ada"),
        (User("a", None, "a@x", None), "a@x"),
        (User("a", "", "a@x", None), "a@x"),
        (User("a", None, None, None), "Agent"),
        (User("a", "", "", None), "Agent"),
    ],
)
def test_agent_joined_event(user: User, name: str) -> None:
    """An agent is named by name, else e-mail, else "Agent"."""
    event = protocol.agent_joined_event(user)
    body = json.loads(event.body)
    assert body["data"] == {"agentId": "a", "agentName": name, "timestamp": body["timestamp"]}
    assert event.kept


def test_two_visits_of_an_agent_are_two_events() -> None:
    """Returning is a new event: without an id its time distinguishes it from the first."""
    one, two = (
        parse_event(json.dumps({"type": "agent_joined", "data": {"agentId": "a"}, "timestamp": t}).encode())
        for t in ("1", "2")
    )
    assert one.identity != two.identity


# -- events for one session ---------------------------------------------------------------------


def test_connected_event() -> None:
    """The greeting has no null fields."""
    plain = json.loads(protocol.connected("c", "s", None, None, None))
    assert STAMP.fullmatch(plain.pop("timestamp"))
    assert plain == {"type": "connected", "chatId": "c", "sessionId": "s"}
    expiry = datetime(2026, 1, 2, 3, 4, 5, 6789, UTC)
    full = json.loads(protocol.connected("c", "s", Cursor("e", 1), expiry, False))
    full.pop("timestamp")
    assert full == {
        "type": "connected",
        "chatId": "c",
        "sessionId": "s",
        "cursor": "e.1",
        "recovered": False,
        "expiresAt": "2026-01-02T03:04:05.006Z",
    }


def test_ack_and_pong() -> None:
    """An ack has the saved id, the cursor and how far the event came; a pong has nothing."""
    acked = json.loads(protocol.ack("k", Receipt("m1", None, "local")))
    assert STAMP.fullmatch(acked.pop("timestamp"))
    assert acked == {"type": "ack", "clientMessageId": "k", "id": "m1", "cursor": None, "delivery": "local"}
    pong = json.loads(protocol.pong())
    assert STAMP.fullmatch(pong.pop("timestamp"))
    assert pong == {"type": "pong"}


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b'{"type":"x"}', {"type": "x", "chatId": 'a"b'}),
        (b'{"type":"x","chatId":"z"}', {"type": "x", "chatId": 'a"b'}),
        (b'{"type":"x","data":{"chatId":"z"}}', {"type": "x", "data": {"chatId": "z"}, "chatId": 'a"b'}),
        (b'{"chatId":{"chatId":1},"type":"x","n":1.50}', {"type": "x", "n": 1.5, "chatId": 'a"b'}),
    ],
)
def test_an_event_with_its_chat(body: bytes, named: dict[str, object]) -> None:
    """The top level has one `chatId`, which is the chat's; everything else is unchanged."""
    pairs: list[list[str]] = []

    def note(members: list[tuple[str, object]]) -> dict[str, object]:
        pairs.append([name for name, _ in members])
        return dict(members)

    assert json.loads(protocol.with_chat_id(body, 'a"b'), object_pairs_hook=note) == named
    assert pairs[-1].count("chatId") == 1


def test_timestamp() -> None:
    """A moment is written in UTC with milliseconds and a Z, also at a whole second."""
    assert protocol.timestamp(datetime(2026, 1, 2, 3, 4, 5, 0, UTC)) == "2026-01-02T03:04:05.000Z"
    assert STAMP.fullmatch(protocol.timestamp())


def test_an_ephemeral_event_has_no_cursor_even_if_published_with_one() -> None:
    """A cursor that somebody gives a typing event is not passed on: a client would resume from it."""
    event = protocol.parse_event(b'{"type":"typing","data":{"userId":"u"},"cursor":"e.7"}')
    assert event.cursor is None
    assert b"cursor" not in event.body
    assert event.origin == ""


@pytest.mark.parametrize(
    ("now", "shown"),
    [
        (1767323045.0, "2026-01-02T03:04:05.000Z"),
        (1767323045.9999998, "2026-01-02T03:04:05.999Z"),
        (1767323046.0005, "2026-01-02T03:04:06.000Z"),
        (1767323045.25, "2026-01-02T03:04:05.250Z"),
    ],
)
def test_a_timestamp_of_now(now: float, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Now is written as a given moment is, from one second to the next and back."""
    monkeypatch.setattr("eclipse_ws.protocol.events.time.time", lambda: now)
    assert protocol.timestamp() == shown


@given(st.text(), st.booleans())
def test_typing_is_json_for_any_user(user_id: str, is_typing: bool) -> None:
    """The user's id is escaped as JSON, so that no id can change the event."""
    try:
        user_id.encode()
    except UnicodeEncodeError:
        return
    body = json.loads(protocol.typing_event(user_id, is_typing, "s").body)
    assert STAMP.fullmatch(body.pop("timestamp"))
    assert body == {"type": "typing", "data": {"userId": user_id, "isTyping": is_typing}}
