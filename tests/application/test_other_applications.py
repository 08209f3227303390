"""Applications whose answers have other forms: what the members of a chat see of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from eclipse_ws.server.server import Server
from tests.application.stub import BYPASS, SECRET, Stub, number_of
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
    """If ids and dates are numbers, a message reaches its chat, and its sender gets the ack."""
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


@gen_test
async def test_an_unknown_user(expect_log: Any) -> None:
    """Its sender learns at once that a message can't be saved, and the chat goes on; a visitor is known."""
    expect_log("message not saved")
    async with site() as (server, stub):
        stub.users = frozenset({"u2"})
        async with (
            await Client.join(server.port, user="smoke-0") as stranger,
            await Client.join(server.port, user="u2") as known,
            await Client.join(server.port, user="anon_1_x") as visitor,
        ):
            await stranger.say(**message("nobody's"))
            error = await stranger.next("error")
            assert (error["code"], error["retryable"]) == ("api_error", False)
            for client, content in ((known, "one"), (visitor, "two")):
                await client.say(**message(content))
                assert (await stranger.next("message"))["data"]["content"] == content
        assert [saved["content"] for saved in stub.saved] == ["one", "two"]


@gen_test
async def test_an_application_behind_redirects_and_protection() -> None:
    """Behind deployment protection, a base path and slashes, messages arrive."""
    async with site(api_headers=f"{BYPASS}: let-me-through") as (server, stub):
        stub.base_path, stub.trailing_slash, stub.bypass = "/support", True, "let-me-through"
        async with await Client.join(server.port) as one, await Client.join(server.port, user="u2") as two:
            for content in ("first", "second"):
                await one.say(**message(content))
                assert (await two.next("message"))["data"]["content"] == content
        asked = [uri for _, uri, _ in stub.requests]
        there = "/support/api/chats/c1/messages/send/"
        assert asked == ["/api/chats/c1/messages/send", there, there]
