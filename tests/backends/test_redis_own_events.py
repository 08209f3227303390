"""What a node hears of its own events, on a real Redis: it is what parsing them would give."""

from __future__ import annotations

import asyncio

import pytest

from eclipse_ws.backends.redis.own_events import REMEMBERED, SMALL, OwnEvents
from eclipse_ws.protocol import Event, Message, Sender, message_event, parse_event, typing_event
from tests.backends.alone import alone
from tests.backends.harness import until
from tests.servers import RedisServer

gen_test = pytest.mark.gen_test(timeout=30)


def message(number: int, content: str) -> Event:
    """A saved message."""
    sender = Sender("u", "Zoë", None, None)
    return message_event(Message(f"m{number}", content, "USER", "2026-01-01T00:00:00.000Z", sender))


@gen_test
async def test_an_appended_event_need_not_be_parsed(redis_server: RedisServer, chat: str) -> None:
    """The node that appended it gets the same event as every other node, with the cursor."""
    contents = ("plain", '","cursor":"e.7"}', "x" * SMALL, 'quotes " and \\ and \u2028')
    async with alone(redis_server) as made:
        (one, own), (other, others) = await made.start(), await made.start()
        for backend in (one, other):
            await backend.subscribe(chat)
        for number, content in enumerate(contents):
            cursor, new = await one.append(chat, message(number, content))
            assert new
            assert (cursor.offset, cursor.epoch != "") == (number + 1, True)
        await until(lambda: len(own.events) + len(own.received) == len(others.received) == len(contents))
        parsed = [parse_event(raw) for _, raw in others.received]
        assert own.events == [parsed[0], parsed[1], parsed[3]]
        assert [parse_event(raw) for _, raw in own.received] == [parsed[2]], "it is large"
        assert [each.cursor and each.cursor.offset for each in parsed] == [1, 2, 3, 4]


@gen_test
async def test_an_event_that_was_appended_before(redis_server: RedisServer, chat: str) -> None:
    """It isn't published again; when the application publishes its text, it is parsed as ever."""
    async with alone(redis_server) as made:
        backend, told = await made.start()
        await backend.subscribe(chat)
        first, _ = await backend.append(chat, message(1, "once"))
        assert await backend.append(chat, message(1, "once")) == (first, False)
        body = message(1, "once").body
        await made.client.publish(f"chat:{chat}", body)
        await made.client.publish(f"chat:{chat}", body[:-1] + b',"cursor":"no cursor"}')
        await until(lambda: len(told.received) == 2)
        assert len(told.events) == 1
        await asyncio.sleep(0)
        assert [raw for _, raw in told.received] == [body, body[:-1] + b',"cursor":"no cursor"}']


def test_what_is_never_heard_is_forgotten() -> None:
    """The memory is bounded, in number and in bytes."""
    own = OwnEvents()
    for number in range(REMEMBERED + 10):
        own.append(message(number, "hello"))
    assert len(own) == 10
    own.append(message(0, "x" * SMALL))
    own.broadcast(typing_event("u" * SMALL, True, ""))
    assert len(own) == 10
