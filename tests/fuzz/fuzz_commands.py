"""Fuzzes what a session is told: `python -m tests.fuzz.fuzz_commands --seconds 60`.

Whatever a frame holds, it is a command, nothing, or a CommandError whose frame is JSON with a code; what an
unknown user may do with it does not depend on what it says about itself.
"""

from __future__ import annotations

import json
from collections.abc import Hashable

from eclipse_ws.protocol import CommandError, SendMessage, decode_command
from eclipse_ws.security.jwt import Claims
from eclipse_ws.sessions.commands import ROWS
from tests.fuzz.loop import main

VISITOR, AGENT = Claims("u", "c"), Claims("u", "c", True)
NOBODY = Claims("u", "c", True, None, ())
SEEDS = [
    b'{"type":"message","content":"hello","role":"USER","clientMessageId":"k1"}',
    b'{"type":"message","content":"\\ud83d\\ude00\\u0000","role":"AGENT"}',
    b'{"type":"typing","isTyping":true}',
    b'{"type":"agent_joined","agentId":"a","agentName":"b"}',
    b'{"type":"ping"}',
    b'{"type":"read","messageId":"m1","cursor":"e1.5","chatId":"c"}',
    b'{"type":"dance"}',
    b'{"type":"refresh","token":"a.b.c"}',
    b'[[[[{"type":null}]]]]',
]
WORDS = [
    *(b'"%b"' % word for word in b"type content role USER ASSISTANT AGENT clientMessageId isTyping".split()),
    b"true",
    b"null",
    b"1e999",
    b"-0",
    b"{}",
    b"[]",
    b"\\u0000",
    b"\\ud800",
    b"\xed\xa0\x80",
    b"[" * 600,
    b'{"type":',
    b'"message"',
    b'"typing"',
    b'"refresh"',
    b'"read"',
    b'"messageId":',
    b'"token":',
    b"99999999999999999999",
    b'"' + b"x" * 65 + b'"',
]


def check(data: bytes) -> Hashable:
    """Check what must hold for every input, as bytes and, if it is one, as text."""
    outcome = told(data)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return outcome
    assert told(text) == outcome, "text and bytes are told differently"
    return outcome


def told(message: str | bytes) -> Hashable:
    """The result of a frame."""
    try:
        command = decode_command(message)
    except CommandError as error:
        answer = json.loads(error.encode())
        assert answer["type"] == "error"
        assert isinstance(answer["code"], str)
        assert len(answer["error"]) < 200, "an answer repeats what it was told"
        return answer["code"], "clientMessageId" in answer
    if command is None:
        return None
    row = ROWS[type(command)]
    tag = row.name
    if isinstance(command, SendMessage):
        assert command.content.strip()
        assert row.permits(VISITOR, command) is (command.role == "USER")
        assert not row.permits(NOBODY, command)
        assert command.client_message_id is None or 1 <= len(command.client_message_id) <= 64
        command.content.encode()  # what the chat API and the log get has to be encodable
        return tag, command.role, command.client_message_id is None
    assert row.permits(VISITOR, command) is (tag != "agent_joined")
    assert row.permits(AGENT, command)
    return tag


if __name__ == "__main__":
    main(check, SEEDS, WORDS, __doc__)
