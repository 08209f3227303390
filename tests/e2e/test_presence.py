"""Presence over real sockets, and over real nodes on Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import redis.asyncio

from eclipse_ws.server.server import Server
from tests import needs
from tests.client import Client, http, running, token, until
from tests.conftest import SECRET
from tests.e2e.process import program
from tests.servers import RedisServer

pytestmark = pytest.mark.slow
gen_test = pytest.mark.gen_test(timeout=60)
WITH_SECRET = {"X-Internal-Secret": SECRET}
WATCHING = "&events=presence"
QUICK_PRESENCE: dict[str, object] = {
    "delivery.presence_view.GRACE": 1.0,
    "delivery.presence.TICK": 0.1,
    "delivery.presence.SILENCE": 2.0,
    "delivery.presence.PATIENCE": 0.5,
    "delivery.presence_view.PAUSE": 0.2,
}


async def watching(port: int, chat: str = "c1", user: str = "u1", **given: object) -> Client:
    """A session that has asked for presence."""
    return await Client.open(port, f"token={token(chat, user, **given)}{WATCHING}", greet=True)


async def presence(client: Client) -> dict[str, Any]:
    """The next event, which is about presence."""
    event = await client.next("presence")
    assert event["timestamp"]
    data: dict[str, Any] = event["data"]
    return data


def named(data: dict[str, Any]) -> dict[str, str]:
    """The users of a list, and their roles."""
    assert data["count"] == len(data["users"])
    return {user["userId"]: user["role"] for user in data["users"]}


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Redis on which nobody else is."""
    started = RedisServer(needs.server()).start()
    yield started
    started.stop()


def on(server: RedisServer, **given: object) -> dict[str, Any]:
    """Settings of a node on it."""
    return {"backend": "redis", "redis_url": server.url, "app_publishes_over_http": True, **given}


async def until_known(*servers: Server) -> None:
    """Wait until the nodes know each other."""
    for each in servers:
        peers = each.delivery.presence._peers
        await until(
            lambda peers=peers: sum(not peer.is_suspect for peer in peers.values()) == len(servers) - 1,
            "the nodes know each other",
        )


# -- one node -------------------------------------------------------------------------------------


@gen_test
async def test_who_comes_and_goes() -> None:
    """A list with oneself after `connected`; then who comes, and who goes."""
    async with running(**QUICK_PRESENCE) as server:
        before = time.time()
        async with await watching(server.port) as client:
            data = await presence(client)
            assert named(data) == {"u1": "user"}
            assert abs(datetime.fromisoformat(data["users"][0]["since"]).timestamp() - before) < 5
            async with await Client.join(server.port, "c1", "u2"):
                data = await presence(client)
                assert data.pop("since") > ""
                assert data == {"userId": "u2", "role": "user", "online": True}
                async with await watching(server.port, user="u3") as third:
                    assert named(await presence(third)) == {"u1": "user", "u2": "user", "u3": "user"}
                    assert (await presence(client))["userId"] == "u3"
            gone = [await presence(client) for _ in range(2)]
            assert sorted(data["userId"] for data in gone) == ["u2", "u3"]
            assert all(data == {**data, "role": "user", "online": False} for data in gone)
            await client.quiet()


@gen_test
async def test_who_has_not_asked_is_told_nothing() -> None:
    """Sessions without `events=presence` get no such event, and cost nothing while nobody watches."""
    async with running() as server:
        with patch.object(server.hub._watchers, "users", side_effect=AssertionError):
            async with (
                await Client.join(server.port) as old,
                await Client.open(
                    server.port, f"token={token(user='u2')}&events=x,Presence", greet=True
                ) as other,
            ):
                async with await Client.join(server.port, user="u3"):
                    pass
                await old.quiet()
                await other.quiet()
        known = server.delivery.presence
        assert not (known._views or known._mine or known._due)
        async with await watching(server.port) as client, await Client.join(server.port, user="u2") as old:
            await presence(client)
            assert (await presence(client))["userId"] == "u2"
            await old.quiet()
        assert not (known._views or known._mine)


@gen_test
async def test_a_reload_is_not_seen() -> None:
    """A client that is back at once, and one with two tabs that closes one, have not gone."""
    async with running(**QUICK_PRESENCE) as server, await watching(server.port) as client:
        await presence(client)
        async with await Client.join(server.port, user="u2"):
            since = (await presence(client))["since"]
        async with await Client.join(server.port, user="u2"):
            async with await Client.join(server.port, user="u2"):
                pass
            await asyncio.sleep(1.5)
            await client.quiet()
            roster = server.delivery.presence.roster("c1")
            assert roster is not None
            assert {user_id for user_id, _ in roster.users} == {"u1", "u2"}
            async with await watching(server.port, user="u3") as third:
                users = (await presence(third))["users"]
                assert next(user["since"] for user in users if user["userId"] == "u2") == since


@gen_test
@pytest.mark.parametrize(
    ("claims", "before", "command", "after"),
    [
        ({}, "user", {"type": "message", "role": "USER"}, None),
        ({}, "user", {"type": "message", "role": "AGENT"}, "agent"),
        ({}, "user", {"type": "message", "role": "ASSISTANT"}, "assistant"),
        ({}, "user", {"type": "agent_joined"}, "agent"),
        ({"roles": ["AGENT", "USER"]}, "agent", {"type": "message", "role": "USER"}, None),
        ({"roles": ["AGENT", "ASSISTANT"]}, "assistant", {"type": "message", "role": "AGENT"}, None),
        ({"roles": []}, "user", {"type": "message", "role": "AGENT"}, None),
        ({"roles": ["AGENT"], "isAuthenticated": False}, "user", {"type": "typing"}, None),
    ],
)
async def test_roles(
    claims: dict[str, Any], before: str, command: dict[str, Any], after: str | None, expect_log: Any
) -> None:
    """The claim decides; without it a user who has spoken as an agent is one from then on."""
    expect_log("agent not found", optional=True)
    async with (
        running() as server,
        await watching(server.port) as client,
        await Client.open(server.port, f"token={token(user='u2', **claims)}") as other,
    ):
        await presence(client)
        data = await presence(client)
        assert (data["userId"], data["role"]) == ("u2", before)
        await other.say(content="hello", **command)
        await other.say(content="again", **command)
        if after is not None:
            data = await presence(client)
            assert (data["userId"], data["role"], data["online"]) == ("u2", after, True)
        await other.seek("connected")
        await other.say(type="ping")
        await other.seek("pong")
        await client.say(type="ping")
        await client.seek("pong")
        assert all(event["type"] != "presence" for event in client.skipped)


@gen_test
async def test_a_refresh_with_another_role() -> None:
    """The new token's roles count from then on."""
    async with (
        running() as server,
        await watching(server.port) as client,
        await Client.join(server.port, user="u2") as other,
    ):
        await presence(client)
        await presence(client)
        await other.say(type="refresh", token=token(user="u2", roles=["AGENT"]))
        data = await presence(client)
        assert (data["userId"], data["role"]) == ("u2", "agent")


@gen_test
async def test_several_chats_on_one_session() -> None:
    """Each chat that is joined begins with its list, after what was missed; one that is left is silent."""
    opens = {"chatId": None, "chatIds": ["a", "b"]}
    async with running(**QUICK_PRESENCE) as server, await Client.join(server.port, "a", "visitor"):
        began = time.time()
        await asyncio.sleep(0.2)
        async with await watching(server.port, user="agent", roles=["AGENT"], **opens) as client:
            await client.say(type="join", chats=[{"chatId": "a", "cursor": "x.1"}, {"chatId": "b"}])
            events = [await client.receive() for _ in range(4)]
            for chat, users in (("a", {"visitor": "user", "agent": "agent"}), ("b", {"agent": "agent"})):
                joined, shown = [event for event in events if event["chatId"] == chat]
                assert (joined["type"], shown["type"]) == ("joined", "presence")
                assert named(shown["data"]) == users
            data = next(event["data"] for event in events if event.get("data") and event["chatId"] == "b")
            assert datetime.fromisoformat(data["users"][0]["since"]).timestamp() > began + 0.1
            await client.say(type="join", chatId="a")
            assert "data" not in await client.next("joined")
            await client.say(type="leave", chatId="a")
            await client.next("left")
            assert server.delivery.presence.chats == 1
            async with (
                await Client.join(server.port, "a", "other"),
                await Client.join(server.port, "b", "other"),
            ):
                event = await client.next("presence")
                assert (event["chatId"], event["data"]["userId"]) == ("b", "other")
            await client.quiet()


@gen_test
async def test_a_crowd() -> None:
    """More than a hundred users are counted, at most once a second, until they are fewer again."""
    async with (
        running(**QUICK_PRESENCE, max_sessions_per_address=500) as server,
        await watching(server.port) as client,
    ):
        await presence(client)
        crowd = [await Client.join(server.port, user=f"v{number}") for number in range(110)]
        heard = []
        while not heard or heard[-1].get("count") != 111:
            heard.append(await presence(client))
        changes = [data for data in heard if "userId" in data]
        assert [data["userId"] for data in changes] == [f"v{number}" for number in range(99)]
        assert all(set(data) == {"count"} for data in heard[99:])
        async with await watching(server.port, user="late") as late:
            data = await presence(late)
            assert (data["count"], len(data["users"])) >= (111, 100)
            assert [user["userId"] for user in data["users"]] == ["u1", *(f"v{n}" for n in range(99))]
        await asyncio.gather(*(each.close() for each in crowd[:60]))
        while "users" not in (data := await presence(client)):
            assert set(data) == {"count"}
        assert set(named(data)) <= {"u1", "late", *(f"v{number}" for number in range(110))}
        await asyncio.gather(*(each.close() for each in crowd[60:]))


# -- the route ------------------------------------------------------------------------------------


@gen_test
async def test_the_route(server: RedisServer) -> None:
    """The application is told who is in a chat on all nodes, with how many sessions; nobody has to watch."""
    async with running(**on(server)) as one, running(**on(server)) as other:
        async with (
            await Client.join(one.port, "a", "u1"),
            await Client.join(one.port, "a", "u1"),
            await Client.join(other.port, "a", "u1"),
            await Client.open(other.port, f"token={token('a', 'u2', roles=['AGENT'])}", greet=True),
        ):
            answer = await http(one.port, "/api/chats/a/presence", headers=WITH_SECRET)
            assert answer.status == 200
            body = answer.json
            assert body["count"] == 2
            assert [(user["userId"], user["role"], user["sessions"]) for user in body["users"]] == [
                ("u1", "user", 3),
                ("u2", "agent", 1),
            ]
            assert body["users"][0]["since"] <= body["users"][1]["since"]
            answer = await http(one.port, "/api/chats/b/presence", headers=WITH_SECRET)
            assert answer.json == {"users": [], "count": 0}
        assert (await http(one.port, "/api/chats/a/presence")).status == 401
        assert (await http(one.port, "/api/chats/a%00/presence", headers=WITH_SECRET)).status == 400
        assert (await http(one.port, "/api/chats/a/presence", "POST", {}, headers=WITH_SECRET)).status == 405


# -- several nodes --------------------------------------------------------------------------------


@gen_test
async def test_two_nodes(server: RedisServer) -> None:
    """Who is on another node is in the list; who comes there is told, and who moves to this one is not."""
    async with running(**on(server), **QUICK_PRESENCE) as one, running(**on(server)) as other:
        await until_known(one, other)
        async with (
            await Client.join(other.port, user="u2") as there,
            await watching(one.port) as client,
        ):
            assert named(await presence(client)) == {"u1": "user", "u2": "user"}
            async with await Client.join(other.port, user="u3"):
                assert (await presence(client))["userId"] == "u3"
            assert await presence(client) == {"userId": "u3", "role": "user", "online": False}
            await there.close()
            async with await Client.join(one.port, user="u2"):
                await asyncio.sleep(1.5)
                await client.quiet()


@gen_test
async def test_a_killed_node(server: RedisServer, tmp_path: Path) -> None:
    """Its users are gone after a while, but one who is back on another node is never seen to go."""
    given = on(server, redis_ping_interval=0.5)
    async with (
        running(**given, **QUICK_PRESENCE) as one,
        program(tmp_path, **given) as killed,
        await watching(one.port) as client,
    ):
        await presence(client)
        async with (
            await Client.join(killed.port, user="u2"),
            await Client.join(killed.port, user="u3"),
        ):
            assert {(await presence(client))["userId"] for _ in range(2)} == {"u2", "u3"}
            await asyncio.sleep(3)  # its heartbeats show that it lives
            await client.quiet()
            killed.kill()
        async with await Client.join(one.port, user="u2"):
            assert await presence(client) == {"userId": "u3", "role": "user", "online": False}
            await asyncio.sleep(1.5)
            await client.quiet()


@gen_test
async def test_a_drain(server: RedisServer) -> None:
    """Whoever moves to another node within the grace is not seen to go."""
    async with running(**on(server), **QUICK_PRESENCE) as one, running(**on(server)) as other:
        await until_known(one, other)
        async with await watching(one.port) as client:
            await presence(client)
            moving = [await Client.join(other.port, user=f"m{number}") for number in range(5)]
            assert {(await presence(client))["userId"] for _ in moving} == {f"m{n}" for n in range(5)}
            await other.drain()
            moved = [await Client.join(one.port, user=f"m{number}") for number in range(5)]
            await other.stop()
            await asyncio.sleep(1.5)
            await client.quiet()
            await asyncio.gather(*(each.close() for each in [*moving, *moved]))


@gen_test
async def test_an_outage_of_redis(server: RedisServer, expect_log: Any) -> None:
    """Nobody is seen to go while Redis is away; afterwards who has really gone is."""
    expect_log("Redis|delivering locally|not every node", optional=True)
    given = {**on(server, redis_ping_interval=0.5, redis_timeout=0.5), **QUICK_PRESENCE}
    async with running(**given) as one, running(**given) as other:
        await until_known(one, other)
        async with (
            await Client.join(other.port, user="u2") as u2,
            await Client.join(other.port, user="u3"),
            await watching(one.port) as client,
        ):
            await presence(client)
            server.freeze()
            await until(lambda: one.delivery.health.state == "down")
            await u2.close()
            await asyncio.sleep(3)
            await client.quiet()
            server.thaw()
            assert await presence(client) == {"userId": "u2", "role": "user", "online": False}
            await asyncio.sleep(3)
            await client.quiet()


@gen_test
async def test_chats_that_nobody_watches_cost_no_command(server: RedisServer) -> None:
    """Sessions that come and go in them cause no note, and idle nodes that watch no further command."""
    async with running(**on(server)) as one, running(**on(server)) as other:
        await until_known(one, other)

        async def visits() -> None:
            for number in range(20):
                node = (one, other)[number % 2]
                await (await Client.join(node.port, "quiet", f"u{number}")).close()

        await visits()
        notes = [node.delivery.presence.notes_sent for node in (one, other)]
        client = redis.asyncio.Redis.from_url(server.url, protocol=2)
        await client.config_resetstat()
        await visits()
        stats = await client.info("commandstats")
        assert "cmdstat_publish" not in stats or stats["cmdstat_publish"]["calls"] <= 2  # of heartbeats
        assert [node.delivery.presence.notes_sent for node in (one, other)] == notes
        async with await watching(one.port) as watcher, await Client.join(other.port, user="u2"):
            await presence(watcher)
            await presence(watcher)
            sent = [node.delivery.presence.notes_sent for node in (one, other)]
            await asyncio.sleep(2.5)
            assert [node.delivery.presence.notes_sent for node in (one, other)] == sent
            for node in (one, other):
                assert b'"presence"' in node.backend.beacon
        await client.aclose()
