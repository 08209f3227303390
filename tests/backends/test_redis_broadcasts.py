"""Ephemeral events on a real Redis: those of one turn share a command, and nothing else changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from eclipse_ws.backends.redis import RedisBackend
from eclipse_ws.backends.redis.broadcasts import MOST
from eclipse_ws.protocol import Event, parse_event, typing_event
from tests.backends.alone import Told, alone
from tests.backends.harness import event, fresh_chat, until
from tests.servers import RedisServer

gen_test = pytest.mark.gen_test(timeout=30)
Servers = Callable[..., RedisServer]


def typings(count: int) -> list[Event]:
    """Events of different sessions."""
    return [typing_event(f"user {number}", True, f"session-{number}") for number in range(count)]


def broadcast(backend: RedisBackend, chat: str, events: list[Event]) -> None:
    """Broadcast all of them in one turn of the loop."""
    for each in events:
        backend.broadcast(chat, each)


async def calls(made: Any, command: str) -> int:
    """How often Redis has run a command."""
    return int((await made.client.info("commandstats")).get(f"cmdstat_{command}", {}).get("calls", 0))


def heard(told: Told) -> list[Event]:
    """All that a node has heard, in order, if all of it was its own or none was."""
    return [*told.events, *(parse_event(raw) for _, raw in told.received)]


@gen_test
async def test_a_turn_shares_commands(own_server: Servers, chat: str) -> None:
    """All nodes hear the same events in the same order; the one that sent them need not parse them."""
    async with alone(own_server(), redis_ping_interval=60) as made:
        (one, own), (other, others) = await made.start(), await made.start()
        for backend in (one, other):
            await backend.subscribe(chat)
        scripts, publishes = await calls(made, "evalsha"), await calls(made, "publish")
        sent = typings(2 * MOST + 50)
        broadcast(one, chat, sent)
        await until(lambda: len(heard(own)) == len(heard(others)) == len(sent))
        assert heard(own) == heard(others) == sent
        assert (len(own.received), len(others.events)) == (0, 0)
        assert await calls(made, "evalsha") - scripts == 3
        assert await calls(made, "publish") - publishes == len(sent), "by the scripts"
        broadcast(one, chat, sent[:1])
        await until(lambda: len(heard(others)) == len(sent) + 1)
        assert await calls(made, "evalsha") - scripts == 3, "one event needs no script"
        assert one.broadcasts_dropped == 0


@gen_test
async def test_they_stay_in_order_with_other_commands(redis_server: RedisServer, chat: str) -> None:
    """A user who stops typing, sends, and types again is seen doing so."""
    async with alone(redis_server) as made:
        (one, _), (other, others) = await made.start(), await made.start()
        await other.subscribe(chat)
        before, after = typings(4)[:2], typings(4)[2:]
        broadcast(one, chat, before)
        appended = one._connections.commands.call("PUBLISH", f"chat:{chat}", event(1).body)
        broadcast(one, chat, after)
        await appended
        await until(lambda: len(others.received) == 5)
        assert heard(others) == [*before, event(1), *after]


@gen_test
async def test_a_redis_that_has_lost_its_scripts(redis_server: RedisServer, chat: str) -> None:
    """It gets the script again, with the events that it was called for."""
    async with alone(redis_server) as made:
        backend, told = await made.start()
        await backend.subscribe(chat)
        await made.client.script_flush()
        broadcast(backend, chat, typings(3))
        await until(lambda: len(heard(told)) == 3)
        assert [each.origin for each in heard(told)] == [f"session-{number}" for number in range(3)]
        assert backend.broadcasts_dropped == 0


@gen_test
async def test_refused_channels(own_server: Servers, chat: str) -> None:
    """Events that Redis refuses are counted, and those beside them arrive."""
    server = own_server()
    async with alone(server) as made:
        backend, told = await made.start()
        await backend.subscribe(chat)
        rules = ("resetchannels", f"&chat:{chat}", "&eclipse:*")
        await made.client.execute_command("ACL", "SETUSER", "default", *rules)
        (first, second, third), closed = typings(3), fresh_chat()
        backend.broadcast(chat, first)
        backend.broadcast(closed, second)
        backend.broadcast(closed, third)
        backend.broadcast(chat, first)
        await until(lambda: len(heard(told)) == 2)
        await until(lambda: backend.broadcasts_dropped == 2)
        backend.broadcast(closed, second)
        await until(lambda: backend.broadcasts_dropped == 3)
        assert backend.health.state == "up"


@gen_test
async def test_a_connection_that_breaks_first(
    redis_server: RedisServer, chat: str, expect_log: Callable[..., None]
) -> None:
    """What waits for a write that doesn't come is counted: three from before the break, and two after it."""
    expect_log("Redis connection lost", optional=True)
    async with alone(redis_server) as made:
        backend, _ = await made.start()
        broadcast(backend, chat, typings(3))
        backend._connections.commands.close("broken")
        broadcast(backend, chat, typings(2))
        await asyncio.sleep(0)
        assert backend.broadcasts_dropped == 5
