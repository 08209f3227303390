"""Messages between the supervisor and a worker."""

from __future__ import annotations

import asyncio
import socket

import pytest

from eclipse_ws.server.workers import channel as module
from eclipse_ws.server.workers.channel import Channel, first_message, packed


@pytest.mark.gen_test
async def test_messages_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """They arrive whole and in order, until the other end is closed."""
    monkeypatch.setattr(module, "FLUSH_TIME", 0.05)
    ours, theirs = map(Channel.open, socket.socketpair())
    one, two = await asyncio.gather(ours, theirs)
    for number in range(100):
        one.send({"number": number, "text": "x" * number * 100})
    await one.flush()  # which does not wait for long
    one.close()
    found = [message async for message in two.messages()]
    assert [message["number"] for message in found] == list(range(100))
    assert len(found[99]["text"]) == 9900
    two.send({"to": "nobody"})
    two.close()
    one.send({"after": "the end"})


@pytest.mark.gen_test
async def test_unread_messages_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the other end doesn't read takes bounded memory, and later messages arrive again."""
    monkeypatch.setattr(module, "MAX_UNREAD", 100_000)
    one, two = await asyncio.gather(*map(Channel.open, socket.socketpair()))
    for number in range(5000):
        one.send({"number": number, "text": "x" * 1000})
    assert one._writer.transport.get_write_buffer_size() < 200_000
    reading = two.messages()
    last = 0
    while last == (await anext(reading))["number"]:
        last += 1
        if last == 100:
            break
    one.send({"number": -1})
    one.close()
    assert [message async for message in reading][-1] == {"number": -1}
    two.close()


@pytest.mark.gen_test
async def test_a_message_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the messages."""
    one, two = await asyncio.gather(*map(Channel.open, socket.socketpair()))
    monkeypatch.setattr(module, "MAX_MESSAGE", 10)
    one.send({"text": "too long"})
    assert [message async for message in two.messages()] == []
    one.close()
    two.close()


def test_the_first_message() -> None:
    """It is read without a loop, in pieces; None if the other end is closed."""
    one, two = socket.socketpair()
    with one, two:
        text = packed({"number": 1}) + packed({"number": 2})
        one.sendall(text[:3])
        one.sendall(text[3:])
        assert first_message(two) == {"number": 1}
        assert first_message(two) == {"number": 2}
        one.close()
        assert first_message(two) is None
