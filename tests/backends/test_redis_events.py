"""Events on a real Redis, without delivery above the backend: kept, heard, read."""

from __future__ import annotations

import asyncio

import pytest

from eclipse_ws.backends.base import Position
from eclipse_ws.protocol import Cursor
from tests.backends.alone import alone, guards, position
from tests.backends.harness import event, number_of, typing, until
from tests.servers import RedisServer

gen_test = pytest.mark.gen_test(timeout=30)


@gen_test
async def test_appending(redis_server: RedisServer, chat: str) -> None:
    """Events are numbered without gaps, heard by those that are subscribed, and once per identity."""
    async with alone(redis_server) as made:
        (one, heard), (other, unheard) = await made.start(), await made.start()
        at = (await one.subscribe(chat)).position
        assert at == Position(Cursor(at.cursor.epoch, 0), "")
        for number in (1, 2, 3):
            expected = Cursor(at.cursor.epoch, number)
            assert await other.append(chat, event(number)) == (expected, True)
        assert await one.append(chat, event(2)) == (Cursor(at.cursor.epoch, 2), False)
        await until(lambda: len(heard.received) == 3)
        wanted = [event(n).sequenced(Cursor(at.cursor.epoch, n)).body for n in (1, 2, 3)]
        assert heard.received == [(chat, raw) for raw in wanted]
        assert not unheard.received
        assert not heard.events


@gen_test
async def test_appending_where_redis_went_back_in_time(redis_server: RedisServer, chat: str) -> None:
    """A node that knows a later position than Redis begins a new epoch."""
    async with alone(redis_server) as made:
        backend, _ = await made.start()
        epoch = (await position(backend, chat)).cursor.epoch
        cursor, _ = await backend.append(chat, event(1), known=Cursor(epoch, 0))
        assert cursor == (epoch, 1)
        cursor, fresh = await backend.append(chat, event(2), known=Cursor(epoch, 5))
        assert fresh
        assert cursor.epoch != epoch
        assert cursor.offset == 1
        # Who begins an epoch of a chat that it hears guards it.
        assert await made.client.hexists(*guards(backend, chat))


@gen_test
async def test_reading(redis_server: RedisServer, chat: str) -> None:
    """What is kept after a cursor is read in order, whole or not at all."""
    async with alone(redis_server, history_events=3) as made:
        backend, _ = await made.start()
        epoch = (await position(backend, chat)).cursor.epoch
        for number in range(1, 6):
            await backend.append(chat, event(number))
        read = await backend.read(chat, Cursor(epoch, 2))
        assert read is not None
        assert [number_of(each) for each in read] == ["3", "4", "5"]
        assert [each.cursor for each in read] == [Cursor(epoch, n) for n in (3, 4, 5)]
        assert await backend.read(chat, Cursor(epoch, 5)) == []
        for missing in (Cursor(epoch, 1), Cursor(epoch, 6), Cursor("other", 2)):
            assert await backend.read(chat, missing) is None
        assert await backend.read(chat, Cursor(epoch, 5), Cursor(epoch, 6)) is None  # Redis has lost one
        assert await backend.read(chat, Cursor(epoch, 5), Cursor("other", 6)) == []
        await made.client.xadd(f"eclipse:{{{chat}}}:events", {"e": "{}"}, id="6-0")
        await made.client.hset(f"eclipse:{{{chat}}}:meta", "offset", 6)
        assert await backend.read(chat, Cursor(epoch, 4)) is None  # one of them is malformed


@gen_test
async def test_broadcasting(redis_server: RedisServer, chat: str) -> None:
    """Ephemeral events arrive unchanged, with their origin, at every node that hears the chat."""
    async with alone(redis_server) as made:
        (one, heard), (other, _) = await made.start(), await made.start()
        await one.subscribe(chat)
        other.broadcast(chat, typing("session"))
        one.broadcast(chat, typing())
        await until(lambda: heard.received and heard.events)
        assert heard.received == [(chat, typing().body[:-1] + b',"origin":"session"}')]
        assert heard.events == [typing()], "what a node has sent itself is not parsed again"
        assert one.broadcasts_dropped == other.broadcasts_dropped == 0


@gen_test
async def test_events_of_other_chats_are_not_heard(redis_server: RedisServer, chat: str) -> None:
    """No event of a chat arrives before it is subscribed, nor after it is unsubscribed."""
    async with alone(redis_server) as made:
        backend, heard = await made.start()
        await backend.append(chat, event(1))
        await backend.subscribe(chat)
        await backend.append(chat, event(2))
        await until(lambda: heard.events)
        meta, guard = guards(backend, chat)
        assert await made.client.hexists(meta, guard)
        await backend.unsubscribe([chat, "unknown"])
        assert not await made.client.hexists(meta, guard)
        while (await made.client.pubsub_numsub(f"chat:{chat}"))[0][1]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await backend.append(chat, event(3))
        await backend.send(b"{}")
        await until(lambda: heard.notes)
        assert [number_of(each) for each in heard.events] == ["2"]
        assert not heard.received


@gen_test
async def test_notes(redis_server: RedisServer) -> None:
    """A note reaches all nodes, or the one at an address; the sender learns how many hear it."""
    async with alone(redis_server) as made:
        (one, told), (other, others) = await made.start(), await made.start()
        assert await one.send(b'{"a":1}') == 2
        assert await one.send(b'{"b":1}', other.address) == 1
        assert await other.send(b'{"c":1}', one.address) == 1
        assert await one.send(b"{}", "nobody:1") == 0
        await until(lambda: len(told.notes) == len(others.notes) == 2)
        assert told.notes == [b'{"a":1}', b'{"c":1}']
        assert others.notes == [b'{"a":1}', b'{"b":1}']
        await made.client.publish("eclipse:nodes", b"beat:x")  # from outside: no heartbeat of its own
        await until(lambda: len(told.notes) == 3)
