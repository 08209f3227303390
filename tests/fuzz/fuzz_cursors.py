"""Fuzzes cursors and published events: `python -m tests.fuzz.fuzz_cursors --seconds 60`.

A cursor that parses is written as it was read. What parses as an event is JSON, has a string type, and stays
itself when it is sequenced and crosses to another node.
"""

from __future__ import annotations

import json
from collections.abc import Hashable

from eclipse_ws.protocol import Cursor, MalformedEventError, parse_event
from tests.fuzz.loop import main

SEEDS = [
    b"e1.0",
    b"0123abcd.42",
    b"e.9223372036854775807",
    b'{"type":"message","data":{"id":"m1","content":"x"},"timestamp":"t"}',
    b'{"type":"message_updated","data":{"id":"m1","updatedAt":5},"cursor":"e1.5"}',
    b'{"type":"typing","data":{"userId":"u"},"origin":"s1"}',
    b'{"type":"unknown","data":[1,2,{"id":null}]}',
    b'  {"type":"x"}\n',
]
WORDS = [
    b".",
    b"..",
    b"e",
    b"00",
    b"-1",
    b"+1",
    b"1" * 65,
    "\u0661".encode(),
    b'"cursor":',
    b'"origin":',
    b'"type":"',
    b'"data":',
    b'"id":',
    b'"updatedAt":',
    b"null",
    b"{}",
    b"\xed\xa0\x80",
    b"[" * 600,
    b"1e400",
    b",",
    b"}",
]
AT = Cursor("fresh", 7)


def check(data: bytes) -> Hashable:
    """Check what must hold for every input."""
    text = data.decode("utf-8", "replace")
    cursor = Cursor.parse(text)
    if cursor is not None:
        assert str(cursor) == text
        assert Cursor.parse(str(cursor)) == cursor
        assert cursor.offset >= 0
    try:
        event = parse_event(data)
    except MalformedEventError as error:
        assert len(str(error)) < 300, "the log is told more than it needs"
        return cursor is None, str(error)[:24]
    body = json.loads(event.body)
    assert isinstance(body["type"], str)
    assert event.body.decode().strip() == event.body.decode()
    if event.kept and event.cursor is None:
        sequenced = event.sequenced(AT)
        again = parse_event(sequenced.body)
        assert (again.cursor, again.identity, again.type) == (AT, event.identity, event.type)
        assert json.loads(sequenced.body)["cursor"] == str(AT)
    return cursor is None, event.kept, event.cursor is None, event.origin == "", event.type[:8]


if __name__ == "__main__":
    main(check, SEEDS, WORDS, __doc__)
