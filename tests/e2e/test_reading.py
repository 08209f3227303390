"""Read positions and bans over real sockets, and over real nodes on Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest

from eclipse_ws.backends.base import Unavailable
from eclipse_ws.delivery.cluster import Answers
from eclipse_ws.protocol import CommandError, Cursor, Read
from eclipse_ws.security.limits import Rate
from eclipse_ws.server.server import Server
from eclipse_ws.sessions.readers import Readers
from tests.client import Client, http, running, token, until
from tests.conftest import SECRET
from tests.e2e.test_presence import on
from tests.e2e.test_presence import server as server  # noqa: PLC0414 - a fixture
from tests.servers import RedisServer

gen_test = pytest.mark.gen_test(timeout=60)
WITH_SECRET = {"X-Internal-Secret": SECRET}
AT_ONCE: dict[str, object] = {"sessions.readers.INTERVAL": 0.001}


async def reading(port: int, user: str = "u1", more: str = "", **given: object) -> Client:
    """A session that has asked for read positions, after the first of them."""
    return await Client.open(port, f"token={token('c1', user, **given)}&events=read{more}", greet=True)


async def positions(client: Client) -> dict[str, tuple[str, str]]:
    """The role and the message of each user that the next event names."""
    event = await client.next("read")
    assert event["timestamp"]
    named = event["data"].get("positions", [event["data"]])
    return {each["userId"]: (each["role"], each["messageId"]) for each in named}


async def publish(port: int, *numbers: str) -> None:
    """Messages, from the application."""
    for number in numbers:
        event = {"type": "message", "data": {"id": number, "content": "x"}}
        await http(port, "/api/chats/c1/events", "POST", event, headers=WITH_SECRET)


async def told(client: Client) -> str:
    """Why the next command was refused."""
    return str((await client.next("error"))["code"])


# -- one node -------------------------------------------------------------------------------------


@gen_test
async def test_who_asks_is_told_who_has_read() -> None:
    """First all positions, then each later one; who hasn't asked gets neither."""
    async with running(**AT_ONCE) as server:
        await publish(server.port, "m1", "m2")
        plain = await Client.join(server.port, "c1", "u0")
        agent = await reading(server.port, "a1", roles=["ASSISTANT", "USER"])
        assert await positions(agent) == {}
        await publish(server.port, "m3")
        await agent.next("message")
        await agent.say(type="read", messageId="m3")
        assert await positions(agent) == {"a1": ("assistant", "m3")}
        visitor = await reading(server.port, "u1")
        assert await positions(visitor) == {"a1": ("assistant", "m3")}
        cursor = visitor.connected["cursor"]
        await visitor.say(type="read", messageId="m1", cursor=cursor)
        for client in (agent, visitor):
            assert await positions(client) == {"u1": ("user", "m1")}
        await plain.next("message")
        await plain.quiet()
        for client in (plain, agent, visitor):
            await client.close()


@gen_test
async def test_a_position_never_goes_back() -> None:
    """An earlier message, another session of the user, and a session that resumes change nothing."""
    async with running(**AT_ONCE) as server:
        await publish(server.port, "m0")
        first = await reading(server.port, "u1")
        await publish(server.port, "m1", "m2", "m3")
        cursors = [(await first.seek("message"))["cursor"] for _ in range(3)]
        await first.say(type="read", messageId="m2")
        assert await positions(first) == {"u1": ("user", "m2")}
        await first.close()
        again = await reading(server.port, "u1", f"&cursor={cursors[0]}")
        assert again.connected["recovered"] is True
        assert [(await again.next("message"))["data"]["id"] for _ in range(2)] == ["m2", "m3"]
        assert await positions(again) == {"u1": ("user", "m2")}
        for number in ("m1", "m2"):
            await again.say(type="read", messageId=number)
        await again.say(type="read", messageId="m9", cursor=cursors[0])
        await again.quiet()
        await again.say(type="read", messageId="m3")
        assert await positions(again) == {"u1": ("user", "m3")}
        await again.close()


@gen_test
async def test_what_can_not_be_read() -> None:
    """Unknown messages, cursors that prove nothing and invalid fields are answered, and end nothing."""
    async with running(**AT_ONCE) as server:
        await publish(server.port, "m1")
        client = await reading(server.port)
        await client.next("read")
        epoch = Cursor.parse(client.connected["cursor"]).epoch  # type: ignore[union-attr]
        for given in ({}, {"cursor": "x"}, {"cursor": f"{epoch}.2"}, {"cursor": f"{epoch}.0"}):
            await client.say(type="read", messageId="foreign", **given)
            assert await told(client) == "unknown_message"
        for message_id in (None, "", "x" * 257, 1.5, ["m1"], "a\0b"):
            await client.say(type="read", messageId=message_id)
            assert await told(client) == "invalid_message_id"
        await client.say(type="read", messageId="m1", cursor=5)
        assert await told(client) == "invalid_cursor"
        await client.say(type="read", messageId="m1", chatId="other")
        assert await told(client) == "not_joined"
        await client.say(type="read", messageId=7, cursor=f"{epoch}.1")
        assert await positions(client) == {"u1": ("user", "7")}
        await client.close()


@gen_test
async def test_several_chats() -> None:
    """Each joined chat begins with its positions, after what was missed, and names itself."""
    async with running(**AT_ONCE) as server:
        await publish(server.port, "m1")
        other = await reading(server.port, "u2")
        await other.next("read")
        await other.say(type="read", messageId="m1", cursor=other.connected["cursor"])
        await other.next("read")
        query = f"token={token('', 'a1', chatId=None, chatIds=['c1', 'c2'])}&events=read"
        agent = await Client.open(server.port, query, greet=True)
        await agent.say(type="join", chats=[{"chatId": "c1"}, {"chatId": "c2"}])
        heard = [await agent.receive() for _ in range(4)]
        assert sorted((each["type"], each["chatId"]) for each in heard) == [
            (kind, chat) for kind in ("joined", "read") for chat in ("c1", "c2")
        ]
        first = {each["chatId"]: each["data"]["positions"] for each in heard if each["type"] == "read"}
        assert first == {"c1": [{"userId": "u2", "role": "user", "messageId": "m1"}], "c2": []}
        await agent.say(type="read", messageId="m1", cursor=other.connected["cursor"], chatId="c1")
        assert (await agent.next("read"))["chatId"] == "c1"
        assert await positions(other) == {"a1": ("user", "m1")}
        await agent.say(type="read", messageId="m1")
        assert await told(agent) == "not_joined"
        await agent.close()
        await other.close()


@gen_test
async def test_while_the_backend_is_unavailable() -> None:
    """A read is answered with an error that may be retried."""
    async with running(**AT_ONCE) as server:
        await publish(server.port, "m1")
        client = await reading(server.port)
        await client.next("read")

        async def refuse(*_: Any) -> bool:
            raise Unavailable

        with patch.object(server.backend, "mark", refuse):
            await client.say(type="read", messageId="m1", cursor=client.connected["cursor"])
            error = await client.next("error")
            assert (error["code"], error["retryable"]) == ("unavailable", True)
            later = await ban(server, time.time() + 60)
            assert (later.status, later.headers["retry-after"]) == (503, "1")
        await client.say(type="ping")
        await client.next("pong")
        await client.close()


# -- at most one a second -------------------------------------------------------------------------


class _Marks:
    """Marks that take everything."""

    def __init__(self) -> None:
        self.noted: list[tuple[str, str, int]] = []
        self.error: Exception | None = None

    def cursor_of(self, chat_id: str, message_id: str, given: Cursor | None) -> Cursor:
        """The number of the message is its place."""
        return Cursor("e", int(message_id))

    def is_later(self, chat_id: str, user_id: str, cursor: Cursor) -> bool:
        """Every one is."""
        return True

    async def read(self, chat_id: str, position: Any, cursor: Cursor) -> bool:
        """Keep it."""
        if self.error is not None:
            raise self.error
        self.noted.append((chat_id, position.user_id, cursor.offset))
        return True


class _Session:
    """A session of a user."""

    role = "user"

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self.errors: list[str] = []

    def refuse_command(self, error: CommandError, chat_id: str = "") -> None:
        """Keep its code."""
        self.errors.append(error.code)


async def turn() -> None:
    """Let everything that is begun get as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


@gen_test
async def test_one_position_a_second() -> None:
    """The first position of a user is told at once, then the latest of each second, whatever the order."""
    marks: Any = _Marks()
    timers: list[Callable[[], None]] = []
    readers = Readers(marks, lambda _, call: timers.append(call))
    one: Any = _Session("u1")
    for number in (1, 2, 5, 4):
        readers.note(one, "c1", Read(str(number)))
    await turn()
    assert marks.noted == [("c1", "u1", 1)]
    readers.note(one, "c2", Read("1"))
    readers.note(_Session("u2"), "c1", Read("1"))  # type: ignore[arg-type]
    await turn()
    assert marks.noted[1:] == [("c2", "u1", 1), ("c1", "u2", 1)]
    for _ in range(2):
        due, timers[:] = list(timers), []
        for call in due:
            call()
        await turn()
    assert marks.noted[3:] == [("c1", "u1", 5)]
    assert len(readers) == 0
    assert timers == []
    readers.note(one, "c1", Read("6"))
    readers.note(one, "c1", Read("7"))
    await turn()
    await readers.close()
    timers.pop()()
    await turn()
    assert marks.noted[4:] == [("c1", "u1", 6)]


@gen_test
async def test_a_position_that_waits_may_fail(expect_log: Callable[..., None]) -> None:
    """Whose command it was is told."""
    expect_log("read position not noted")
    marks: Any = _Marks()
    readers, session = Readers(marks, lambda *_: None), _Session("u1")
    for number, error in enumerate((Unavailable(), RuntimeError("x"))):
        marks.error = error
        readers.note(session, f"c{number}", Read("1"))  # type: ignore[arg-type]
        await turn()
    assert session.errors == ["unavailable", "internal_error"]
    await readers.close()


@gen_test
async def test_a_crowd_that_reads_is_bounded() -> None:
    """The positions of a crowd share the chat's bound with its typing: those beyond it are kept, not told."""
    async with running(**AT_ONCE) as server:
        await publish(server.port, "m1")
        watcher = await reading(server.port, "u0")
        await watcher.next("read")
        server.hub.fan_out = Rate.of(0.001, 3)
        crowd = [await Client.join(server.port, "c1", f"u{number}") for number in range(1, 11)]
        for client in crowd:
            await client.say(type="read", messageId="m1", cursor=client.connected["cursor"])
        await until(lambda: len(server.delivery.marks.positions("c1")) == 10)
        told_of = 10 - server.hub.fan_out_dropped
        assert 1 <= told_of <= 4
        for _ in range(told_of):
            await watcher.next("read")
        await watcher.quiet()
        for client in (watcher, *crowd):
            await client.close()


# -- bans -----------------------------------------------------------------------------------------


async def ban(server: Server, until: float, user: str = "u1", **more: object) -> Any:
    """The application bans a user."""
    body = {"userId": user, "until": until, **more}
    return await http(server.port, "/api/chats/c1/disconnect", "POST", body, headers=WITH_SECRET)


@gen_test
async def test_a_banned_user_is_refused() -> None:
    """At once and at each connect, with the application's words; others and other chats are not."""
    async with running() as server:
        client = await Client.join(server.port, "c1", "u1")
        other = await Client.join(server.port, "c1", "u2")
        answer = await ban(server, time.time() + 60, reason="be nice")
        assert (answer.status, answer.json) == (200, {"disconnected": 1})
        assert await client.ended() == (4003, "be nice")
        refused = await Client.open(server.port, f"token={token('c1', 'u1')}")
        assert await refused.ended() == (4003, "be nice")
        elsewhere = await Client.join(server.port, "c2", "u1")
        await elsewhere.say(type="join", chatId="c1", token=token("c1", "u1"))
        assert await told(elsewhere) == "banned"
        await elsewhere.say(type="ping")
        await elsewhere.next("pong")
        await other.quiet()
        page = (await http(server.port, "/metrics")).body.decode()
        assert 'eclipse_upgrades_refused_total{reason="banned"} 1.0' in page
        assert (await ban(server, 0)).json == {"disconnected": 0}
        back = await Client.join(server.port, "c1", "u1")
        for each in (other, elsewhere, back):
            await each.close()


@gen_test
async def test_a_ban_ends_by_itself() -> None:
    """Once its time has come the user is let in."""
    async with running() as server:
        await ban(server, time.time() + 60)
        refused = await Client.open(server.port, f"token={token('c1', 'u1')}")
        assert (await refused.ended())[0] == 4003
        with patch.object(server.delivery.marks, "_clock", lambda: time.time() + 61):
            await (await Client.join(server.port, "c1", "u1")).close()


@gen_test
async def test_whom_to_ban() -> None:
    """A ban needs a user and a time; nobody is disconnected by one that can't be made."""
    async with running() as server:
        client = await Client.join(server.port, "c1", "u1")
        for body in (
            {"until": time.time() + 60},
            {"userId": "", "until": time.time() + 60},
            {"userId": "u1", "until": time.time() + 367 * 86400},
            {"userId": "u1", "until": "tomorrow"},
        ):
            answer = await http(server.port, "/api/chats/c1/disconnect", "POST", body, headers=WITH_SECRET)
            assert answer.status == 400
        with patch("eclipse_ws.backends.marks.MAX_MARKS", 1):
            for user, status in (("u7", 200), ("u8", 200), ("u1", 409)):
                assert (await ban(server, time.time() + 60, user)).status == status
        await client.quiet()
        await client.close()


# -- several nodes --------------------------------------------------------------------------------


@gen_test
async def test_positions_over_two_nodes(server: RedisServer) -> None:
    """A position is told and kept on every node, at once, after a resume, and never goes back there."""
    async with running(**on(server), **AT_ONCE) as one, running(**on(server)) as other:
        await publish(one.port, "m0")
        visitor = await reading(one.port, "u1")
        agent = await reading(other.port, "a1", roles=["AGENT"])
        for client in (visitor, agent):
            assert await positions(client) == {}
        await publish(one.port, "m1", "m2")
        cursors = [[(await client.next("message"))["cursor"] for _ in "12"] for client in (visitor, agent)]
        await agent.say(type="read", messageId="m2")
        for client in (visitor, agent):
            assert await positions(client) == {"a1": ("agent", "m2")}
        await agent.close()
        agent = await reading(one.port, "a1", f"&cursor={cursors[1][0]}", roles=["AGENT"])
        assert (await agent.next("message"))["data"]["id"] == "m2"
        assert await positions(agent) == {"a1": ("agent", "m2")}
        await agent.say(type="read", messageId="m1")
        await agent.say(type="read", messageId="m2")
        await visitor.say(type="read", messageId="m1")
        for client in (visitor, agent):
            assert await positions(client) == {"u1": ("user", "m1")}
        third = await reading(other.port, "u3")
        assert await positions(third) == {"a1": ("agent", "m2"), "u1": ("user", "m1")}
        for client in (visitor, agent, third):
            await client.close()


@gen_test
async def test_a_new_epoch(server: RedisServer) -> None:
    """Positions outlive the epoch; then the first one of the new epoch counts."""
    async with running(**on(server), **AT_ONCE) as node:
        await publish(node.port, "m1", "m2")
        client = await reading(node.port)
        await client.next("read")
        await client.say(type="read", messageId="m2", cursor=client.connected["cursor"])
        assert await positions(client) == {"u1": ("user", "m2")}
        node.delivery._subscriptions.renew("c1")
        assert (await client.ended())[0] == 4010
        client = await reading(node.port, more=f"&cursor={client.connected['cursor']}")
        assert client.connected["recovered"] is False
        assert await positions(client) == {"u1": ("user", "m2")}
        await client.say(type="read", messageId="m2")
        assert await told(client) == "unknown_message"
        await publish(node.port, "m3")
        await client.next("message")
        await client.say(type="read", messageId="m3")
        assert await positions(client) == {"u1": ("user", "m3")}
        await client.close()


@gen_test
async def test_bans_over_two_nodes(server: RedisServer) -> None:
    """A user who is banned over one node is disconnected and refused on every node."""
    async with running(**on(server)) as one, running(**on(server)) as other:
        client = await Client.join(other.port, "c1", "u1")
        assert (await ban(one, time.time() + 60)).json == {"disconnected": 1}
        assert (await client.ended())[0] == 4003
        for node in (one, other):
            refused = await Client.open(node.port, f"token={token('c1', 'u1')}")
            assert await refused.ended() == (4003, "Disconnected by the application")


@gen_test
async def test_who_came_just_before_the_ban() -> None:
    """A user whom a node let in before it knew of the ban is ended soon."""
    async with running(**{"sessions.hub.BAN_PAUSE": 0.01}) as server:
        client = await Client.join(server.port, "c1", "u1")
        both = await Client.join(server.port, "c2", "u1")
        await both.say(type="join", chatId="c1", token=token("c1", "u1"))
        await both.next("joined")
        with patch.object(server.delivery, "ask", no_answers):
            await ban(server, time.time() + 60, reason="why")
        assert await client.ended() == (4003, "why")
        left = await both.next("left")
        assert (left["chatId"], left["code"], left["reason"]) == ("c1", 4003, "why")
        await both.close()
        await until(lambda: server.hub.sessions == 0)


async def no_answers(question: Any) -> Any:
    """Nobody is asked."""

    return Answers([], True)
