"""Chats that change nodes: another node hears them before theirs stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import patch

import msgspec
import pytest

from eclipse_ws.backends.redis.names import Names
from tests.backends.harness import Cluster, event, fresh_chat, until
from tests.servers import RedisServer

gen_test = pytest.mark.gen_test(timeout=60)


@asynccontextmanager
async def on(server: RedisServer, **given: Any) -> AsyncIterator[Cluster]:
    """Nodes on one Redis, with nothing left behind."""
    cluster = Cluster("redis", server, **given)
    try:
        yield cluster
    finally:
        await cluster.close()


@gen_test
async def test_a_chat_outlives_its_only_node(redis_server: RedisServer) -> None:
    """After a hand-over the epoch continues: earlier and later events can be resumed elsewhere."""
    async with on(redis_server) as cluster:
        chat = fresh_chat()
        one = await cluster.node(chat)
        other = await cluster.node()
        await one.delivery.publish(chat, event("m1"))
        await one.until_heard(chat, "m1")
        at = one.delivery.position(chat)
        assert await one.delivery.hand_over() == 1
        await one.delivery.close()
        await cluster.raw(chat, event("m2").body)  # nobody has joined yet, and it is heard all the same
        await until(
            lambda: other.delivery.position(chat) is not None and other.delivery.position(chat).offset == 2
        )
        await other.delivery.subscribe(chat)
        assert other.delivery.position(chat).epoch == at.epoch
        assert [e.identity for e in await other.delivery.resume(chat, at)] == ["message:m2"]
        assert not other.heard.interrupts


@gen_test
async def test_without_a_hand_over_a_new_epoch_begins(redis_server: RedisServer) -> None:
    """Without a guard a chat can't be resumed."""
    async with on(redis_server) as cluster:
        chat = fresh_chat()
        one = await cluster.node(chat)
        other = await cluster.node()
        await one.delivery.publish(chat, event("m1"))
        await one.until_heard(chat, "m1")
        at = one.delivery.position(chat)
        await one.delivery.close()
        await other.delivery.subscribe(chat)
        assert other.delivery.position(chat).epoch != at.epoch


@gen_test
async def test_chats_are_spread_over_the_others(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of several nodes takes a part, in pieces; one that leaves itself takes none."""
    monkeypatch.setattr("eclipse_ws.delivery.handover.BATCH", 10)
    async with on(redis_server) as cluster:
        chats = [fresh_chat() for _ in range(40)]
        one = await cluster.node(*chats)
        two, three, leaving = await cluster.nodes(3)
        await leaving.delivery.hand_over()
        assert await one.delivery.hand_over() == 40
        taken = [set(node.delivery._subscriptions) for node in (two, three, leaving)]
        assert taken[0] | taken[1] == set(chats)
        assert len(taken[0]) == len(taken[1]) == 20
        assert not taken[2]


@gen_test
async def test_a_second_hand_over_includes_only_new_chats(redis_server: RedisServer) -> None:
    """The second call hands over a chat that was joined in between, and not the first ones again."""
    async with on(redis_server) as cluster:
        first, second = fresh_chat(), fresh_chat()
        one = await cluster.node(first)
        other = await cluster.node()
        assert await one.delivery.hand_over() == 1
        await one.delivery.subscribe(second)
        assert await one.delivery.hand_over() == 2
        assert set(other.delivery._subscriptions) == {first, second}


@gen_test
async def test_chats_taken_over_linger(redis_server: RedisServer) -> None:
    """A chat that nobody joins is unsubscribed after the history's lifetime; one with members stays."""
    async with on(redis_server, history_seconds=1) as cluster:
        gone, kept = fresh_chat(), fresh_chat()
        one = await cluster.node(gone, kept)
        other = await cluster.node(kept)
        assert await one.delivery.hand_over() == 2
        await until(lambda: other.delivery.position(gone) is None, "the chat to be let go")
        assert other.delivery.position(kept) is not None


@gen_test
async def test_a_single_node_and_one_without_redis(
    own_server: Callable[..., RedisServer], expect_log: Callable[..., None]
) -> None:
    """A single node knows that nobody takes its chats; one without Redis doesn't know."""
    expect_log("Redis connection lost", optional=True)
    server = own_server()
    cluster = Cluster("redis", server)
    one = await cluster.node(fresh_chat())
    assert await one.delivery.hand_over() is None
    server.kill()
    await until(lambda: one.delivery.health.state != "up")
    assert await one.delivery.hand_over() == 0
    await cluster.close()


@gen_test
@patch("eclipse_ws.delivery.handover.TIMEOUT", 0.3)
async def test_a_taker_that_does_not_answer(
    redis_server: RedisServer, expect_log: Callable[..., None]
) -> None:
    """A node that accepts and falls silent costs the configured time, and nothing more."""
    expect_log("not every node has answered")
    async with on(redis_server) as cluster:
        chat = fresh_chat()
        one = await cluster.node(chat)
        other = await cluster.node()
        stuck = asyncio.Event()

        async def never(chat_ids: list[str]) -> list[str]:
            await stuck.wait()
            return []

        other.delivery._handover.take_over = never
        assert await one.delivery.hand_over() == 0


@gen_test
@patch("eclipse_ws.delivery.handover.TIMEOUT", 0.3)
async def test_a_chat_that_can_not_be_joined_in_time(redis_server: RedisServer) -> None:
    """A chat that the taker doesn't hear yet is not counted as handed over."""
    async with on(redis_server) as cluster:
        chat, fine = fresh_chat(), fresh_chat()
        one = await cluster.node(chat, fine)
        other = await cluster.node()
        subscriptions = other.delivery._subscriptions
        subscribe = subscriptions.resubscribe
        subscriptions.resubscribe = lambda made: None if made.chat_id == chat else subscribe(made)
        assert await one.delivery.hand_over() == 1
        assert one.delivery._handover._handed_over == {fine}


@gen_test
async def test_a_node_of_an_earlier_version_takes_nothing(redis_server: RedisServer) -> None:
    """A node without hand-overs answers null to the question, and is given nothing."""
    async with on(redis_server) as cluster:
        one = await cluster.node(fresh_chat())
        pubsub = cluster.client.pubsub()
        await pubsub.subscribe(Names().all_nodes)

        async def answer() -> None:
            async for message in pubsub.listen():
                if message["type"] == "message":
                    note = msgspec.json.decode(message["data"])
                    reply = msgspec.json.encode({"id": note["id"]})
                    await cluster.client.publish("eclipse:node:" + note["sender"], reply)
                    return

        answering = asyncio.create_task(answer())
        assert await one.delivery.hand_over() is None
        await answering
        await pubsub.aclose()


@gen_test
async def test_the_memory_backend_hands_nothing_over() -> None:
    """The in-memory backend fulfils the contract by doing nothing."""
    cluster = Cluster("memory", None)
    one = await cluster.node(fresh_chat())
    assert await one.delivery.hand_over() is None
    await cluster.close()
