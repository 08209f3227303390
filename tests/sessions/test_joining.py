"""Several chats on one session, over a real socket: joining, leaving, losing them, and what others notice."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import pytest

from eclipse_ws.backends.base import BackendError
from eclipse_ws.protocol import MAX_CHATS, ChatToJoin, CloseCode
from eclipse_ws.security.limits import Rate
from eclipse_ws.sessions.session import ChatSession
from tests.client import Client, http, running, token, until
from tests.conftest import SECRET

WITH_SECRET = {"X-Internal-Secret": SECRET}
OTHER_SECRET = "another-secret-of-thirty-two-bytes"


def opening(*chats: str, user: str = "agent", **given: object) -> str:
    """A token that opens these chats, and begins in none."""
    return token(user=user, chatId=None, chatIds=list(chats), **given)


async def agent(port: int, *chats: str, extra: str = "", **given: object) -> Client:
    """A session that begins in no chat, and may join these."""
    return await Client.open(port, f"token={opening(*chats, **given)}{extra}", greet=True)


async def answers(client: Client, count: int) -> dict[str, dict[str, Any]]:
    """The next answers to a `join` or `leave`, by chat."""
    found = [await client.receive() for _ in range(count)]
    return {event["chatId"]: event for event in found}


async def publish(port: int, chat: str, text: str, **more: object) -> None:
    """Publish a kept event as the application does."""
    event = {"type": "note", "data": {"id": text}, **more}
    answer = await http(port, f"/api/chats/{chat}/events", "POST", event, headers=WITH_SECRET)
    assert answer.status == 202


@pytest.mark.gen_test
async def test_a_session_without_a_chat() -> None:
    """A token with only `chatIds` begins in none: it is greeted, may join, and counts as a session."""
    async with running() as server, await agent(server.port, "a", "b") as client:
        assert "chatId" not in client.connected
        assert "cursor" not in client.connected
        assert client.connected["sessionId"]
        assert (server.hub.sessions, server.hub.chats) == (1, 0)
        await client.say(type="message", content="hi", role="USER", clientMessageId="k")
        error = await client.next("error")
        assert (error["code"], error["clientMessageId"]) == ("not_joined", "k")
        await client.say(type="join", chatId="a")
        joined = await client.next("joined")
        assert joined["chatId"] == "a"
        assert joined["cursor"]
        assert "recovered" not in joined
        await publish(server.port, "a", "1")
        assert (await client.next("note"))["chatId"] == "a"


@pytest.mark.gen_test
async def test_events_name_their_chat_from_the_first_join_on() -> None:
    """Before, and to others, no event has a `chatId`; afterwards each has one, also acks and errors."""
    async with (
        running() as server,
        await Client.open(server.port, f"token={token('a', 'agent', chatIds=['b'])}", greet=True) as client,
        await Client.join(server.port, "a", "visitor") as visitor,
    ):
        await publish(server.port, "a", "1")
        for each in (client, visitor):
            assert "chatId" not in await each.next("note")
        await client.say(type="join", chatId="b")
        assert (await client.next("joined"))["chatId"] == "b"
        for chat in ("a", "b"):
            await publish(server.port, chat, "2")
            assert (await client.next("note"))["chatId"] == chat
        await client.say(type="message", content="hi", role="USER", clientMessageId="k", chatId="b")
        assert (await client.next("message"))["chatId"] == "b"
        assert (await client.next("ack"))["chatId"] == "b"
        await client.say(type="message", content="hello", role="USER", clientMessageId="k2")
        assert (await client.next("message"))["chatId"] == "a"
        assert (await client.next("ack"))["chatId"] == "a"
        await client.say(type="message", content=" ", role="USER", clientMessageId="k3", chatId="b")
        error = await client.next("error")
        assert (error["code"], error["chatId"]) == ("missing_content_or_role", "b")
        await visitor.say(type="typing", isTyping=True)
        assert (await client.next("typing"))["chatId"] == "a"
        assert "chatId" not in await visitor.next("note")
        assert "chatId" not in await visitor.next("message")
        await visitor.quiet()


@pytest.mark.gen_test
async def test_an_event_with_a_chat_id_of_its_own() -> None:
    """A session that has joined sees the chat's id at the top level, others what the application wrote."""
    async with (
        running() as server,
        await agent(server.port, "a") as client,
        await Client.join(server.port, "a", "visitor") as visitor,
    ):
        await client.say(type="join", chatId="a")
        await client.next("joined")
        await publish(server.port, "a", "1", chatId="elsewhere")
        text = await client.socket.recv()
        assert str(text).count('"chatId"') == 1
        assert json.loads(text)["chatId"] == "a"
        assert (await visitor.next("note"))["chatId"] == "elsewhere"


@pytest.mark.gen_test
async def test_resuming_many_chats_in_one_frame() -> None:
    """Each chat has its own cursor: what each has missed comes after its `joined`, in order."""
    chats = [f"c{number}" for number in range(200)]
    async with running() as server:
        async with await agent(server.port, *chats) as client:
            await client.say(type="join", chats=[{"chatId": chat} for chat in chats])
            first = await answers(client, 200)
            assert {event["type"] for event in first.values()} == {"joined"}
        for chat in chats[::2]:
            for text in ("1", "2"):
                await publish(server.port, chat, text)
        async with await agent(server.port, *chats) as client:
            wanted = [{"chatId": chat, "cursor": first[chat]["cursor"]} for chat in chats]
            wanted[0]["cursor"] = "another.7"
            await client.say(type="join", chats=wanted)
            heard: dict[str, list[str]] = {chat: [] for chat in chats}
            for _ in range(200 + 2 * 99):
                event = await client.receive()
                shown = str(event["recovered"]) if event["type"] == "joined" else event["data"]["id"]
                heard[event["chatId"]].append(shown)
            await client.quiet()
        assert heard["c0"] == ["False"]
        for number in range(1, 200):
            assert heard[f"c{number}"] == (["True"] if number % 2 else ["True", "1", "2"])


@pytest.mark.gen_test
async def test_joining_twice() -> None:
    """The second answer has the current cursor; nothing comes again, and each event comes once."""
    async with running() as server, await agent(server.port, "a") as client:
        await client.say(type="join", chatId="a")
        first = await client.next("joined")
        await publish(server.port, "a", "1")
        event = await client.next("note")
        await client.say(type="join", chats=[{"chatId": "a", "cursor": first["cursor"]}, {"chatId": "a"}])
        again = await client.next("joined")
        assert again["cursor"] == event["cursor"]
        assert "recovered" not in again
        await publish(server.port, "a", "2")
        await client.next("note")
        await client.quiet()


@pytest.mark.gen_test
async def test_leaving() -> None:
    """What is left is quiet, the rest goes on; a chat that the session isn't in is an error."""
    async with running() as server, await agent(server.port, "a", "b") as client:
        await client.say(type="join", chats=[{"chatId": "a"}, {"chatId": "b"}])
        await answers(client, 2)
        await client.say(type="leave", chats=[{"chatId": "a"}, {"chatId": "z"}])
        left, error = await client.next("left"), await client.next("error")
        assert left["chatId"] == "a"
        assert "code" not in left
        assert (error["code"], error["chatId"]) == ("not_joined", "z")
        await publish(server.port, "a", "1")
        await publish(server.port, "b", "2")
        assert (await client.next("note"))["chatId"] == "b"
        await client.say(type="message", content="hi", role="USER", chatId="a")
        assert (await client.next("error"))["code"] == "not_joined"
        assert server.hub.chats == 1
        await client.say(type="join", chatId="a", cursor=left.get("cursor"))
        assert (await client.next("joined"))["chatId"] == "a"


@pytest.mark.gen_test
async def test_leaving_the_chat_of_the_token() -> None:
    """A session may leave the chat that it began in; commands without a chat are about none then."""
    async with running() as server, await Client.join(server.port, "a") as client:
        await client.say(type="leave", chatId="a")
        assert (await client.next("left"))["chatId"] == "a"
        await client.say(type="typing", isTyping=True)
        assert (await client.next("error"))["code"] == "not_joined"
        await client.say(type="join", chatId="a")
        await client.next("joined")
        await client.say(type="message", content="hi", role="USER")
        assert (await client.next("message"))["chatId"] == "a"


@pytest.mark.gen_test
async def test_a_join_and_a_leave_in_one_go() -> None:
    """Commands behind a `join` wait for it: what the client asked for last holds."""
    async with running() as server, await agent(server.port, "a") as client:
        for _ in range(3):
            await client.say(type="join", chatId="a")
            await client.say(type="leave", chatId="a")
        kinds = [(await client.receive())["type"] for _ in range(6)]
        assert kinds == ["joined", "left"] * 3
        await until(lambda: server.hub.chats == 0)


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"chatId": "z"}, "forbidden"),
        ({"chatId": ""}, "invalid_chat_id"),
        ({"chatId": "x" * 257}, "invalid_chat_id"),
        ({"chatId": "a\n"}, "invalid_chat_id"),
        ({"chatId": 7}, "invalid_chats"),
        ({}, "invalid_chats"),
        ({"chats": []}, "invalid_chats"),
        ({"chats": [{"cursor": "e.1"}]}, "invalid_chats"),
        ({"chats": "a"}, "invalid_chats"),
        ({"chats": [{"chatId": "a"}] * (MAX_CHATS + 1)}, "too_many_chats"),
        ({"chatId": "z", "token": "nonsense"}, "invalid_token"),
        ({"chatId": "z", "token": token("z", "somebody")}, "forbidden"),
        ({"chatId": "z", "token": token("y", "agent")}, "forbidden"),
        ({"chatId": "z", "token": token("z", "agent", secret=OTHER_SECRET)}, "invalid_token"),
        ({"chatId": "z", "token": token("z", "agent", exp=1)}, "token_expired"),
    ],
)
async def test_what_is_refused(wrong: dict[str, object], code: str) -> None:
    """Each refusal says why, concerns no other chat, and ends nothing."""
    async with running() as server, await agent(server.port, "a") as client:
        await client.say(type="join", chatId="a")
        await client.next("joined")
        await client.say(type="join", **wrong)
        error = await client.next("error")
        assert (error["code"], error["retryable"]) == (code, False)
        if code not in {"invalid_chat_id", "invalid_chats", "too_many_chats"}:
            assert error["chatId"] == "z"
        await publish(server.port, "a", "1")
        await client.next("note")
        assert server.hub.chats == 1


@pytest.mark.gen_test
async def test_one_refusal_among_many() -> None:
    """The other chats of the frame are joined."""
    async with running() as server, await agent(server.port, "a", "b") as client:
        await client.say(type="join", chats=[{"chatId": chat} for chat in ("a", "z", "b")])
        found = await answers(client, 3)
        assert [found[chat]["type"] for chat in ("a", "z", "b")] == ["joined", "error", "joined"]


@pytest.mark.gen_test
async def test_the_most_chats_of_a_session() -> None:
    """A frame that would exceed the limit joins none of its chats; one that fits joins all."""
    chats = [f"c{number}" for number in range(MAX_CHATS)]
    async with running() as server:
        big = opening(*chats)
        async with await agent(server.port) as client:
            wanted = [{"chatId": chat} for chat in chats]
            await client.say(type="join", chats=wanted[:-1], token=big)
            assert len(await answers(client, MAX_CHATS - 1)) == MAX_CHATS - 1
            two = [{"chatId": "x"}, {"chatId": "y"}]
            await client.say(type="join", chats=two, token=opening("x", "y"))
            error = await client.next("error")
            assert error["code"] == "too_many_chats"
            assert str(MAX_CHATS - 1) in error["error"]
            await client.say(type="join", chats=[*wanted[:3], wanted[-1]], token=big)
            assert len(await answers(client, 4)) == 4
            assert server.hub.chats == MAX_CHATS
        await until(lambda: server.hub.chats == 0)


@pytest.mark.gen_test
async def test_a_full_chat() -> None:
    """A chat without room is refused for now; a session in it may join it again."""
    async with (
        running(max_sessions_per_chat=1) as server,
        await agent(server.port, "a") as one,
        await agent(server.port, "a", "b", user="two") as two,
    ):
        await one.say(type="join", chatId="a")
        await one.next("joined")
        await two.say(type="join", chats=[{"chatId": "a"}, {"chatId": "b"}])
        found = await answers(two, 2)
        assert found["a"]["code"] == "chat_full"
        assert found["a"]["retryable"]
        assert found["a"]["retryAfter"] > 0
        assert found["b"]["type"] == "joined"
        await one.say(type="join", chatId="a")
        await one.next("joined")
        await one.say(type="leave", chatId="a")
        await one.next("left")
        await two.say(type="join", chatId="a")
        await two.next("joined")


@pytest.mark.gen_test
async def test_a_chat_that_the_backend_refuses(expect_log: Any) -> None:
    """The error may pass, concerns this chat only, and the session can try again."""
    expect_log("chat not joined")
    async with running() as server, await agent(server.port, "a", "b") as client:
        subscribe = server.node.delivery.subscribe

        async def fail(chat_id: str) -> None:
            if chat_id == "a":
                raise BackendError("no")
            await subscribe(chat_id)

        with patch.object(server.node.delivery, "subscribe", fail):
            await client.say(type="join", chats=[{"chatId": "a"}, {"chatId": "b"}])
            found = await answers(client, 2)
        assert (found["a"]["code"], found["a"]["retryable"]) == ("internal_error", True)
        assert found["b"]["type"] == "joined"
        await client.say(type="join", chatId="a")
        await client.next("joined")


@pytest.mark.gen_test
async def test_a_session_that_ends_while_it_joins() -> None:
    """Nothing of it stays, and nothing is sent to it or said of it."""
    async with running() as server:
        delivery, gate, asked = server.node.delivery, asyncio.Event(), asyncio.Event()
        resume = delivery.resume

        async def wait(*args: Any) -> Any:
            missed = await resume(*args)
            asked.set()
            await gate.wait()
            return missed

        async with await agent(server.port, "a") as client:
            await client.say(type="join", chatId="a")
            joined = await client.next("joined")
            await client.say(type="leave", chatId="a")
            await client.next("left")
            await publish(server.port, "a", "missed")
            with patch.object(delivery, "resume", wait):
                await client.say(type="join", chatId="a", cursor=joined["cursor"])
                await asked.wait()
                session = next(iter(server.hub.members()))
                session.end(CloseCode.RESTARTING)
                await until(lambda: session.wire.is_lost)
                gate.set()
                await until(lambda: not server.hub.chats)
        assert (server.hub.sessions, server.node.counts.errors) == (0, 0)


@pytest.mark.gen_test
async def test_joining_has_a_rate() -> None:
    """A session that joins and leaves all the time has to wait; what it is in goes on."""
    slow: dict[str, Any] = {"command_rate": 100, "security.limits._JOINS": Rate.of(1, 3)}
    async with running(**slow) as server:
        async with await agent(server.port, "a", "b", "c") as client:
            for chat in "abc":
                await client.say(type="join", chatId=chat)
                await client.next("joined")
            await client.say(type="join", chatId="a")
            error = await client.next("error")
            assert error["code"] == "rate_limited"
            assert error["retryAfter"] > 0
            assert server.hub.chats == 3
        assert server.node.limits.refused["join_rate"] == 1


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("command", "named"),
    [
        ({"type": "message", "content": "x", "role": "USER", "clientMessageId": "k", "chatId": "b"}, "b"),
        ({"type": "message", "content": "x", "role": "USER", "clientMessageId": "k"}, "a"),
        ({"type": "message", "content": "", "role": "USER", "clientMessageId": "k", "chatId": "b"}, "b"),
        ({"type": "read", "messageId": "m", "chatId": "b"}, "b"),
        ({"type": "message", "content": "x", "role": "USER", "chatId": "other"}, "other"),
        ({"type": "join", "chatId": "b"}, None),
        ({"type": "ping"}, None),
        ({"type": "nonsense"}, None),
    ],
)
async def test_a_command_beyond_the_rate_names_its_chat(command: dict[str, Any], named: str | None) -> None:
    """Or the client couldn't tell whose message it is that has to wait."""
    given: dict[str, Any] = {"command_rate": 0.001, "security.limits.BURST_SECONDS": 1000}
    async with running(**given) as server, await Client.join(server.port, "a") as client:
        await client.say(type="join", chatId="b", token=token("b"))
        await client.next("joined")
        await client.say(**command)
        error = await client.next("error")
        assert error["code"] == "rate_limited"
        assert error.get("chatId") == named
        assert error.get("clientMessageId") == command.get("clientMessageId")


# -- tokens -------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_a_token_that_comes_along() -> None:
    """A further token of the same user opens its chats for this session, each chat its own or all one."""
    async with running() as server, await Client.join(server.port, "a", "agent") as client:
        wanted = [{"chatId": "b", "token": token("b", "agent")}, {"chatId": "c"}, {"chatId": "d"}]
        await client.say(type="join", chats=wanted, token=opening("c", "d"))
        found = await answers(client, 3)
        assert {event["type"] for event in found.values()} == {"joined"}


@pytest.mark.gen_test
async def test_a_token_that_came_along_ends() -> None:
    """Its chat is left with 4002 after the grace period; the session and its other chats go on."""
    settings: dict[str, Any] = {"expiry_grace": 0, "server.sweeper.INTERVAL": 0.05}
    async with running(**settings) as server, await Client.join(server.port, "a", "agent") as client:
        short = token("b", "agent", exp=time.time() + 1)
        await client.say(type="join", chatId="b", token=short)
        await client.next("joined")
        longer = [{"chatId": "c", "token": token("c", "agent", exp=time.time() + 1)}]
        await client.say(type="join", chats=longer)
        await client.next("joined")
        await client.say(type="join", chatId="c", token=token("c", "agent"))
        await client.next("joined")
        left = await client.next("left")
        assert (left["chatId"], left["code"], left["reason"]) == ("b", 4002, "Token expired")
        await client.say(type="join", chatId="b")
        assert (await client.next("error"))["code"] == "forbidden"
        await publish(server.port, "c", "1")
        assert (await client.next("note"))["chatId"] == "c"


@pytest.mark.gen_test
async def test_a_refresh_that_loses_a_chat() -> None:
    """The chats that the new token doesn't open are left with 4002; what it opens, or another one, stays."""
    never_swept: dict[str, Any] = {"server.sweeper.INTERVAL": 3600}  # it would find them, too
    async with running(**never_swept) as server, await agent(server.port, "a", "b") as client:
        chats = [{"chatId": "a"}, {"chatId": "b"}, {"chatId": "c", "token": token("c", "agent")}]
        await client.say(type="join", chats=chats)
        await answers(client, 3)
        await client.say(type="refresh", token=opening("b", "d"))
        await client.next("refreshed")
        left = await client.next("left")
        assert (left["chatId"], left["code"]) == ("a", 4002)
        for chat in "abc":
            await publish(server.port, chat, "1")
        heard = [(await client.next("note"))["chatId"] for _ in "bc"]
        assert heard == ["b", "c"]
        await client.say(type="join", chatId="d")
        await client.next("joined")
        await client.say(type="refresh", token=token("a", "agent"))
        assert (await client.next("error"))["code"] == "forbidden"


@pytest.mark.gen_test
async def test_a_key_that_is_removed() -> None:
    """A token that came along is checked again when the keys have changed."""
    settings: dict[str, Any] = {"jwt_previous_secrets": OTHER_SECRET, "server.sweeper.INTERVAL": 0.05}
    async with running(**settings) as server, await Client.join(server.port, "a", "agent") as client:
        await client.say(type="join", chatId="b", token=token("b", "agent", secret=OTHER_SECRET))
        await client.next("joined")
        server.node.reload(
            server.node.settings.model_copy(
                update={"jwt_previous_secrets": type(server.node.settings.jwt_previous_secrets)("")}
            )
        )
        left = await client.next("left")
        assert (left["chatId"], left["code"]) == ("b", 4002)
        await client.quiet()


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "chat_ids", ["a", 7, {"a": 1}, ["a", 7], ["a", ""], ["a\n"], ["x" * 257], ["a"] * (MAX_CHATS + 1)]
)
async def test_invalid_chat_ids(chat_ids: object) -> None:
    """A claim that isn't a list of ids is refused, even beside a valid `chatId`."""
    async with running() as server:
        for chat in ("a", None):
            async with await Client.open(server.port, f"token={token(chatId=chat, chatIds=chat_ids)}") as one:
                code, reason = await one.ended()
                assert (code, reason) == (4002, "Invalid token payload: missing userId or chatId")


@pytest.mark.gen_test
@pytest.mark.parametrize("chat_id", ["", 7, " "])
async def test_an_invalid_chat_id_beside_chat_ids(chat_id: object) -> None:
    """Only a token without any `chatId` begins in none."""
    async with running() as server:
        query = f"token={token(chatId=chat_id, chatIds=['a'])}"
        async with await Client.open(server.port, query) as client:
            assert (await client.ended())[0] == 4002


# -- the fate of one chat -----------------------------------------------------------------------


@pytest.mark.gen_test
async def test_disconnected_from_one_chat() -> None:
    """The application's disconnect ends one chat of the session, with its reason; the others go on."""
    async with (
        running() as server,
        await agent(server.port, "a", "b") as client,
        await Client.join(server.port, "a", "agent") as single,
    ):
        await client.say(type="join", chats=[{"chatId": "a"}, {"chatId": "b"}])
        await answers(client, 2)
        body = {"userId": "agent", "reason": "Transferred"}
        answer = await http(server.port, "/api/chats/a/disconnect", "POST", body, headers=WITH_SECRET)
        assert answer.json == {"disconnected": 2}
        left = await client.next("left")
        assert (left["chatId"], left["code"], left["reason"]) == ("a", 4003, "Transferred")
        assert await single.ended() == (4003, "Transferred")
        await publish(server.port, "b", "1")
        assert (await client.next("note"))["chatId"] == "b"


@pytest.mark.gen_test
async def test_one_chat_has_to_be_resumed() -> None:
    """What would be 4010 is told for this chat; joined again with its cursor, it goes on without a loss."""
    async with running() as server, await agent(server.port, "a", "b") as client:
        await client.say(type="join", chats=[{"chatId": "a"}, {"chatId": "b"}])
        cursor = (await answers(client, 2))["a"]["cursor"]
        server.hub.interrupt("a")
        left = await client.next("left")
        assert (left["chatId"], left["code"]) == ("a", 4010)
        await publish(server.port, "a", "1")
        await client.say(type="join", chatId="a", cursor=cursor)
        assert (await client.next("joined"))["recovered"] is True
        assert (await client.next("note"))["data"]["id"] == "1"
        await publish(server.port, "b", "2")
        assert (await client.next("note"))["chatId"] == "b"


@pytest.mark.gen_test
async def test_a_client_that_goes_while_it_joins() -> None:
    """Nothing of it stays behind."""
    async with running() as server:
        gate = asyncio.Event()
        subscribe = server.node.delivery.subscribe

        async def wait(chat_id: str) -> None:
            await gate.wait()
            await subscribe(chat_id)

        with patch.object(server.node.delivery, "subscribe", wait):
            client = await agent(server.port, "a", "b", "c")
            await client.say(type="join", chats=[{"chatId": chat} for chat in "abc"])
            await until(lambda: server.hub.chats == 3)
            client.socket.transport.abort()
            await asyncio.sleep(0.05)
            gate.set()
        await until(lambda: server.hub.chats == 0)
        assert server.hub.sessions == 0


@pytest.mark.gen_test
async def test_a_client_that_has_gone_before_it_joins() -> None:
    """A session that has ended joins nothing: nobody would ever take it out again."""
    async with running() as server:
        client = await agent(server.port, "a", "b")
        (session,) = server.hub.members()
        assert isinstance(session, ChatSession)
        client.socket.transport.abort()
        await until(lambda: server.hub.sessions == 0)
        await session.join([ChatToJoin("a"), ChatToJoin("b")])
        assert server.hub.chats == 0


# -- typing -------------------------------------------------------------------------------------


async def typing(client: Client) -> tuple[str, bool]:
    """The next event, which tells who types."""
    event = await client.next("typing")
    return event["data"]["userId"], event["data"]["isTyping"]


@pytest.mark.gen_test
@pytest.mark.parametrize("how", ["leave", "close", "abort"])
async def test_typing_ends_with_the_session(how: str) -> None:
    """Who leaves, closes or vanishes no longer types; the others are told once."""
    async with (
        running() as server,
        await agent(server.port, "a") as client,
        await Client.join(server.port, "a", "visitor") as visitor,
    ):
        await client.say(type="join", chatId="a")
        await client.next("joined")
        await client.say(type="typing", isTyping=True, chatId="a")
        assert await typing(visitor) == ("agent", True)
        if how == "leave":
            await client.say(type="leave", chatId="a")
        elif how == "close":
            await client.close()
        else:
            client.socket.transport.abort()
        assert await typing(visitor) == ("agent", False)
        await client.close()
        await visitor.quiet()
        assert not server.node.commands.typists


@pytest.mark.gen_test
async def test_typing_ends_by_itself() -> None:
    """Who says nothing for a while has stopped; who says it again goes on; nobody is told twice."""
    shorter: Sequence[tuple[str, float]] = (
        ("sessions.typists.PATIENCE", 0.3),
        ("server.sweeper.INTERVAL", 0.02),
    )
    async with (
        running(**dict(shorter)) as server,
        await Client.join(server.port, "a", "one") as one,
        await Client.join(server.port, "a", "two") as two,
    ):
        await one.say(type="typing", isTyping=True)
        assert await typing(two) == ("one", True)
        assert await typing(two) == ("one", False)
        await one.say(type="typing", isTyping=True)
        await one.say(type="typing", isTyping=False)
        assert await typing(two) == ("one", True)
        assert await typing(two) == ("one", False)
        await asyncio.sleep(0.4)
        await two.quiet()
        await one.quiet()


# -- what is asked for --------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_events_that_have_to_be_asked_for() -> None:
    """`presence` and `read` from any publisher reach only sessions that asked for this type."""
    async with (
        running() as server,
        await Client.join(server.port, "a", "old") as old,
        await Client.open(
            server.port, f"token={token('a', 'new')}&events=read,%20nonsense", greet=True
        ) as new,
    ):
        for kind in ("presence", "read"):
            event = {"type": kind, "data": {}}
            answer = await http(server.port, "/api/chats/a/events", "POST", event, headers=WITH_SECRET)
            assert answer.status == 202
        assert (await new.next("read"))["data"] == {"positions": []}
        assert (await new.next("read"))["data"] == {}
        await new.quiet()
        await old.quiet()
