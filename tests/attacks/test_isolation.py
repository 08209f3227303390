"""Isolation: nothing that one user or chat does to keys, the circuit or the calls affects anybody else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from eclipse_ws.server.server import Server
from tests.application.stub import SECRET as API_SECRET
from tests.application.stub import Fault, Stub
from tests.client import Client, http, running, token, until
from tests.servers import RedisServer

gen_test = pytest.mark.gen_test(timeout=30)
OURS = {"X-Internal-Secret": API_SECRET}


@asynccontextmanager
async def site(**given: Any) -> AsyncIterator[tuple[Server, Stub]]:
    """A server, and the application that it calls."""
    stub = Stub()
    await stub.start()
    try:
        fields = {"api": "http", "next_api_url": stub.url, "internal_api_secret": API_SECRET, **given}
        async with running(**fields) as server:
            yield server, stub
    finally:
        await stub.stop()


async def visitor(server: Server, chat: str, user: str) -> Client:
    """A visitor without an account in a chat."""
    return await Client.open(server.port, f"token={token(chat, user, isAuthenticated=False)}", greet=True)


def message(content: str, key: str | None = None, role: str = "USER") -> dict[str, object]:
    """A message, under a key or none."""
    named = {} if key is None else {"clientMessageId": key}
    return {"type": "message", "content": content, "role": role, **named}


# -- keys ---------------------------------------------------------------------------------------


@gen_test
async def test_nobody_takes_anothers_key() -> None:
    """A message whose key another user of the chat has used before is saved, delivered and acknowledged."""
    async with (
        site() as (server, stub),
        await Client.join(server.port, user="thief") as thief,
        await Client.join(server.port, user="u1") as user,
        await visitor(server, "c1", "anon_1") as stranger,
    ):
        for client, words in ((thief, "first"), (user, "second"), (stranger, "third")):
            await client.say(**message(words, "k1"))
            assert (await client.seek("ack"))["clientMessageId"] == "k1"
        assert [each["content"] for each in stub.saved] == ["first", "second", "third"]
        keys = [each["key"] for each in stub.saved]
        assert len(set(keys)) == 3
        assert "k1" not in keys


@gen_test
async def test_keys_of_chats_are_separate() -> None:
    """The application sees a different key for each chat, so it may store all of them in one place."""
    async with site() as (server, stub):
        for chat in ("c1", "c2"):
            async with await Client.join(server.port, chat) as client:
                await client.say(**message("hello", "k1"))
                await client.seek("ack")
        assert len({each["key"] for each in stub.saved}) == 2


@gen_test
async def test_a_visitor_keeps_its_keys() -> None:
    """A visitor whose next token has another user id gets the ack of its message, and saves it once."""
    async with site() as (server, stub):
        acks = []
        for user in ("anon_1", "anon_2"):
            async with await visitor(server, "c1", user) as client:
                await client.say(**message("hello", "k1"))
                acks.append(await client.seek("ack"))
        assert acks[0]["id"] == acks[1]["id"]
        assert len(stub.saved) == 1


@gen_test
@pytest.mark.parametrize("key", ["http:x", "x", "application"])
async def test_a_client_can_not_take_the_applications_key(key: str) -> None:
    """A client's key never equals one of the application's."""
    async with site() as (server, _), await Client.join(server.port) as client:
        await client.say(**message("hello", key))
        await client.seek("ack")
        headers = {**OURS, "Idempotency-Key": "x"}
        path = "/api/chats/c1/events"
        answer = await http(server.port, path, "POST", {"type": "note"}, headers=headers)
        assert answer.status == 202
        await client.seek("note")


@gen_test
async def test_a_key_reused_on_another_node(redis_server: RedisServer) -> None:
    """Other content under the same key is refused on every node, also while the first is being saved."""
    shared = {"backend": "redis", "redis_url": redis_server.url}
    chat = f"reused-{redis_server.port}"
    async with (
        site(**shared) as (one, stub),
        running(**shared, api="http", next_api_url=stub.url, internal_api_secret=API_SECRET) as other,
        await Client.join(one.port, chat) as first,
        await Client.join(other.port, chat) as second,
    ):
        stub.fault = Fault(delay=0.2, times=1)
        await first.say(**message("hello", "k1"))
        await until(lambda: stub.requests)
        for given in (message("bye", "k1"), message("hello", "k1", "AGENT")):
            await second.say(**given)
            error = await second.seek("error")
            assert (error["code"], error["retryable"]) == ("key_reused", False)
            assert error["clientMessageId"] == "k1"
        assert not stub.saved
        ack = await first.seek("ack")
        await second.say(**message("hello", "k1"))
        assert (await second.seek("ack"))["id"] == ack["id"]
        await second.say(**message("bye", "k1"))
        assert (await second.seek("error"))["code"] == "key_reused"
        assert [each["content"] for each in stub.saved] == ["hello"]
        heard = [event["data"]["content"] for event in second.skipped if event["type"] == "message"]
        assert heard == ["hello"]


@gen_test
@pytest.mark.parametrize("named", [True, False], ids=["named", "known"])
async def test_an_answer_about_another_chat_is_not_published(named: bool, expect_log: Any) -> None:
    """If the application answers with another chat's message, nobody here receives it."""
    expect_log("api_bad_answer.*message not saved.*'level': 'error'")
    words = "my card is 4111"
    private = {"id": "m9", "content": words, "role": "USER", "createdAt": "t", "sender": {"id": "u9"}}
    answer = {"success": True, "message": {**private, **({"chatId": "c9"} if named else {})}}
    async with (
        site() as (server, stub),
        await Client.join(server.port, "c9", user="u9") as stranger,
        await Client.join(server.port, user="u1") as client,
        await Client.join(server.port, user="u2") as neighbour,
    ):
        stub.fault = Fault("status", 200, json.dumps(answer))
        await stranger.say(**message(words, "k1"))
        await stranger.seek("ack")
        await client.say(**message("hello", "k1"))
        error = await client.next("error")
        assert (error["code"], error["retryable"]) == ("outcome_unknown", False)
        await neighbour.quiet()


# -- the circuit --------------------------------------------------------------------------------


@gen_test
async def test_failures_of_one_chat_do_not_affect_others(expect_log: Any) -> None:
    """Repeated failures of the application in one chat are final there, and change nothing elsewhere."""
    expect_log("message not saved")
    async with (
        site() as (server, stub),
        await Client.join(server.port, "c1", "deleted_1") as deleted,
        await Client.join(server.port, "c2") as neighbour,
    ):
        for number in range(10):
            await deleted.say(**message("hello", f"k{number}"))
            error = await deleted.next("error")
            assert (error["code"], error["retryable"]) == ("api_error", False)
            assert error["clientMessageId"] == f"k{number}"
        await deleted.say(**message("a\0b", "nul"))
        error = await deleted.next("error")
        assert (error["code"], error["retryable"]) == ("invalid_content", False)
        assert error["clientMessageId"] == "nul"
        assert len(stub.requests) == 10
        await neighbour.say(**message("hello", "k1"))
        await neighbour.seek("ack")


@gen_test
async def test_one_user_does_not_open_the_circuit(expect_log: Any) -> None:
    """One user's messages that make the application hang, in however many chats, block nobody else."""
    expect_log("message not saved")
    async with site(api_timeout=0.1) as (server, stub), await Client.join(server.port, "c9", "u9") as other:
        stub.fault = Fault("hang", times=8)
        clients = [await Client.join(server.port, f"c{number}", "hostile") for number in range(8)]
        for client in clients:
            await client.say(**message("hang", "k1"))
        for client in clients:
            assert (await client.next("error"))["code"] == "outcome_unknown"
            await client.close()
        await other.say(**message("hello", "k1"))
        await other.seek("ack")
        stub.released.set()


# -- calls to the application -------------------------------------------------------------------


@gen_test
@pytest.mark.parametrize(
    ("chat", "user", "known", "count"),
    [("c1", "u1", True, 25), ("c1", "anon_{}", False, 25), ("c1-{}", "anon_{}", False, 40)],
    ids=["user", "visitors' chat", "address"],
)
async def test_one_sender_does_not_take_all_the_calls(
    chat: str, user: str, known: bool, count: int, expect_log: Any
) -> None:
    """However many sessions a user has, a chat's visitors have, or an address has in chats of their own, the
    calls of others are made at once, and six too many are told to wait.
    """
    expect_log("message not saved")
    expect_log("circuit opened", optional=True)  # at the end, when what hangs is cut off
    given = {"api_max_connections": 10, "api_max_waiting": 100, "client_address_header": "Fly-Client-IP"}
    async with site(**given) as (server, stub):

        async def join(chat: str, user: str, known: bool, address: str) -> Client:
            made = token(chat, user, isAuthenticated=known)
            headers = {"Fly-Client-IP": address}
            return await Client.open(server.port, f"token={made}", greet=True, additional_headers=headers)

        neighbour = await join("c2", "u2", True, "192.0.2.2")
        sessions = [await join(chat.format(n), user.format(n), known, "192.0.2.1") for n in range(count)]
        stub.fault = Fault("hang", times=9)
        for number, session in enumerate(sessions):
            await session.say(**message("mine", f"k{number}"))
        errors = [asyncio.ensure_future(session.next("error")) for session in sessions]
        await until(lambda: sum(error.done() for error in errors) == 6 and len(stub.requests) == 9)
        for error in errors:
            if error.done():
                told = error.result()
                assert (told["code"], told["retryable"], told["retryAfter"]) == ("api_busy", True, 1)
        await neighbour.say(**message("hello", "k1"))
        await neighbour.seek("ack")
        for error in errors:
            error.cancel()
        await asyncio.gather(*errors, return_exceptions=True)
        stub.released.set()
        await asyncio.gather(*(session.close() for session in (neighbour, *sessions)))


# -- cookies ------------------------------------------------------------------------------------


@gen_test
async def test_a_cookie_of_the_application_is_not_shared() -> None:
    """A cookie that the application sets in one user's call is not sent with another's."""
    async with (
        site() as (server, stub),
        await Client.join(server.port, "c1", "u1") as one,
        await Client.join(server.port, "c2", "u2") as two,
    ):
        cookies = {"Set-Cookie": "session=u1; Path=/"}
        saved = {"id": "m1", "content": "hello", "role": "USER", "createdAt": "t", "sender": {"id": "u1"}}
        answer = json.dumps({"success": True, "message": saved})
        stub.fault = Fault("status", 200, answer, cookies, times=1)
        for client in (one, two):
            await client.say(**message("hello", "k1"))
            await client.seek("ack")
        assert [headers.get("Cookie") for _, _, headers in stub.requests] == [None, None]
