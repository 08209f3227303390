"""What others on the same Redis can do to a node: little, and nothing that grows."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis.asyncio

from eclipse_ws.delivery import cluster, handover
from eclipse_ws.server.server import Server
from tests.client import Client, running, until
from tests.servers import RedisServer

gen_test = pytest.mark.gen_test(timeout=30)
Expect = Callable[..., None]


@contextlib.asynccontextmanager
async def on_redis(redis_server: RedisServer, **given: object) -> AsyncIterator[tuple[Server, Any]]:
    """A server on a Redis, which is up, and a peer's connection to the same."""
    async with running(backend="redis", redis_url=redis_server.url, **given) as server:
        await until(lambda: server.delivery.health.state == "up")
        peer = redis.asyncio.Redis.from_url(redis_server.url, protocol=2)
        try:
            yield server, peer
        finally:
            await peer.aclose()


def heard(server: Server) -> int:
    """How many chats the server has subscribed."""
    return len(server.delivery._subscriptions)  # type: ignore[attr-defined]


async def note(peer: Any, **fields: object) -> None:
    """Publish a note to all nodes, as a node does."""
    await peer.publish("eclipse:nodes", json.dumps({"id": "1", "sender": "peer:1", **fields}))


@gen_test
async def test_a_peer_cannot_make_a_node_subscribe_without_bound(
    redis_server: RedisServer, expect_log: Expect
) -> None:
    """Notes are limited in size and in chats, and so is what a node takes over that nobody has joined."""
    expect_log("malformed note", "chats not taken over")
    async with on_redis(redis_server, max_sessions=300) as (server, peer):
        await note(peer, take_over=[f"c{number}" for number in range(200_000)])
        await note(peer, take_over=[f"c{number}" for number in range(cluster.MAX_CHATS + 1)])
        await note(peer, take_over=["x" * 257])
        await note(peer, take_over=["x\n"])
        await note(peer, take_over=[""])
        await note(peer, question="x" * cluster.MAX_NOTE)
        await server.delivery.ask("is all of that heard?")
        assert heard(server) == 0
        for turn in range(10):
            await note(peer, take_over=[f"c{turn} {number}" for number in range(cluster.MAX_CHATS)])
        await until(lambda: not server.delivery._handover._taking)  # type: ignore[attr-defined]
        assert heard(server) == 600
        async with (
            await Client.join(server.port, "c0 7") as joined,
            await Client.join(server.port, "other") as other,
        ):
            for client in (joined, other):
                await client.say(type="message", content="hello", role="USER")
                assert (await client.next("message"))["data"]["content"] == "hello"
            await note(peer, take_over=["one more for the one that was joined", "and another"])
            await until(lambda: heard(server) == 602)


@gen_test
async def test_work_for_peers_is_bounded(
    redis_server: RedisServer, expect_log: Expect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only so many notes that request work are processed at once."""
    expect_log("malformed note")
    monkeypatch.setattr(handover, "MAX_TAKING", 5)
    async with on_redis(redis_server) as (server, peer):
        backend: Any = server.backend
        backend._subscriptions.confirm = lambda channel: None  # no chat is ever heard: all work waits
        for number in range(20):
            await note(peer, take_over=[f"c{number}"])
        await server.delivery.ask("is all of that heard?")
        assert len(server.delivery._handover._taking) == 5


@gen_test
async def test_answers_are_bounded(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers to a question are bounded in number and size, whatever their source."""
    monkeypatch.setattr(cluster, "MAX_ANSWERS", 10)
    monkeypatch.setattr(cluster, "MAX_ANSWER_BYTES", 10_000)
    async with on_redis(redis_server, redis_timeout=0.5) as (server, peer):
        channel = peer.pubsub()
        await channel.subscribe("eclipse:nodes")
        for size, most in ((10, 10), (3000, 4)):
            asked = asyncio.create_task(server.delivery.ask("?"))
            while (message := await channel.get_message(timeout=5))["type"] != "message":
                continue
            question = json.loads(message["data"])
            for _ in range(50):
                reply = json.dumps({"id": question["id"], "answer": "x" * size})
                await peer.publish(f"eclipse:node:{question['sender']}", reply)
            kept = (await asked).values.count("x" * size)
            assert 1 <= kept <= most
        await channel.aclose()


@gen_test
async def test_chat_names_that_look_like_keys(redis_server: RedisServer) -> None:
    """Chats whose names contain braces, or parts of others' keys, share nothing with each other."""
    chats = (
        "k",
        "{k}",
        "k}",
        "{k",
        "%7Bk%7D",
        "k%7D",
        "k}:attempt:x",
        "k%7D:attempt:x",
        "k}:meta",
        "k}:seen:0",
    )
    keys = ("x", "x}:meta", "x}:events", "x}:seen:0", "x:attempt:x", "0")
    async with on_redis(redis_server) as (server, peer):
        answered = set()
        for chat in chats:
            async with await Client.join(server.port, chat) as client:
                for number, key in enumerate(keys):
                    await client.say(
                        type="message", content=f"{chat} {key}", role="USER", clientMessageId=key
                    )
                    answers = [await client.receive() for _ in range(2)]
                    (ack,) = (each for each in answers if each["type"] == "ack")
                    (message,) = (each for each in answers if each["type"] == "message")
                    assert message["data"]["content"] == f"{chat} {key}"
                    assert ack["delivery"] == "published"
                    assert ack["cursor"].endswith(f".{number + 1}")
                    answered.add(ack["id"])
        assert len(answered) == len(chats) * len(keys)
        for chat in chats:
            async with await Client.join(server.port, chat, cursor=f"{chat}") as client:
                assert client.connected["cursor"].endswith(f".{len(keys)}")
        assert await peer.exists("eclipse:{k}:meta", "eclipse:{k}:events") == 2
        assert len(await peer.keys("eclipse:{k}:attempt:*")) == len(keys)
        await peer.flushdb()


@gen_test
async def test_the_origin_of_typing_is_not_sent_to_clients(redis_server: RedisServer) -> None:
    """The session that types is named on Redis, so that its own node skips it, and nowhere else."""
    async with (
        on_redis(redis_server) as (server, peer),
        await Client.join(server.port) as one,
        await Client.join(server.port, user="u2") as other,
    ):
        async with peer.pubsub() as subscriber:
            await subscriber.subscribe("chat:c1")
            assert (await subscriber.get_message(timeout=10))["type"] == "subscribe"
            await one.say(type="typing", isTyping=True)
            assert set(await other.next("typing")) == {"type", "data", "timestamp"}
            published = await subscriber.get_message(timeout=10)
        event = json.loads(published["data"])
        assert event["origin"] == one.connected["sessionId"]
        await peer.publish("chat:c1", json.dumps({**event, "origin": "of-another-node", "cursor": "e.1"}))
        for client in (one, other):
            assert set(await client.next("typing")) == {"type", "data", "timestamp"}
        await one.quiet()
