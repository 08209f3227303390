"""Applications that say the same in other ways: what the members of a chat see of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from eclipse_ws.server import Server
from tests.api.stub import SECRET, Stub, number_of
from tests.client import Client, running
from tests.servers import RedisServer

gen_test = pytest.mark.gen_test(timeout=30)


@asynccontextmanager
async def site(redis_url: str = "", **given: Any) -> AsyncIterator[tuple[Server, Stub]]:
    """A server, and an application in front of which it stands; both publish on the same Redis, if any."""
    stub = Stub(redis_url=redis_url)
    await stub.start()
    backend = {"backend": "redis", "redis_url": redis_url} if redis_url else {}
    try:
        fields = {"api": "http", "next_api_url": stub.url, "internal_api_secret": SECRET, **backend, **given}
        async with running(**fields) as server:
            yield server, stub
    finally:
        await stub.stop()


def message(content: str) -> dict[str, object]:
    """A message under a key."""
    return {"type": "message", "content": content, "role": "USER", "clientMessageId": f"key of {content}"}


@gen_test
async def test_numbers_and_no_sender() -> None:
    """Where ids and dates are numbers, a message reaches its chat, and its sender hears so."""
    async with site() as (server, stub):
        stub.numbers, stub.names_sender = True, False
        async with await Client.join(server.port) as one, await Client.join(server.port, user="u2") as two:
            await one.say(**message("hello"))
            event = await two.next("message")
            ack = await one.seek("ack")
        assert (event["data"]["id"], ack["id"]) == ("1", "1")
        assert event["data"]["content"] == "hello"
        assert event["data"]["timestamp"].startswith("20")
        assert event["data"]["timestamp"].endswith("Z")
        assert event["data"]["sender"] == {"id": "u1", "name": None, "email": None, "avatar": None}


@gen_test
async def test_an_agent_whose_id_is_a_number() -> None:
    """An agent whom such an application knows by a number is announced."""
    async with site() as (server, stub), await Client.join(server.port, user="7") as agent:
        stub.numbers = True
        await agent.say(type="agent_joined")
        joined = await agent.next("agent_joined")
        assert joined["data"]["agentId"] == "7"
        assert joined["data"]["agentName"] == "Name of 7"


@gen_test
async def test_published_and_answered_with_a_number(redis_server: RedisServer) -> None:
    """What the application publishes itself under a number, and answers so, is one event with one id."""
    async with site(redis_server.url) as (server, stub):
        stub.numbers = True
        async with await Client.join(server.port) as one, await Client.join(server.port, user="u2") as two:
            acks, seen = [], []
            for content in ("first", "second", "third"):
                await one.say(**message(content))
                acks.append((await one.seek("ack"))["id"])
            seen = [(await two.next("message"))["data"] for _ in acks]
        assert acks == ["1", "2", "3"]
        assert [(data["id"], data["content"]) for data in seen] == [
            ("1", "first"),
            ("2", "second"),
            ("3", "third"),
        ]
        assert {data["sender"]["id"] for data in seen} == {str(number_of("u1"))}
