"""What a crowd can't get by its number: penalties, places, and the parts of a chat that all share."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from eclipse_ws.protocol import parse_event
from eclipse_ws.server.server import Server
from eclipse_ws.sessions import replay
from eclipse_ws.websocket import WireHandler
from tests.client import UPGRADE, Client, leaving_nothing, running, token, until
from tests.servers import RedisServer

FLOODING: dict[str, Any] = {"command_rate": 0.001, "security.limits.RATE_PATIENCE": 1}
FLY = {"client_address_header": "Fly-Client-IP"}
HERE: dict[str, Any]
THERE: dict[str, Any]
HERE, THERE = ({"additional_headers": {"Fly-Client-IP": ip}} for ip in ("93.184.216.34", "8.8.8.8"))
numbers: Iterator[int] = iter(range(10**9))


async def visitor(server: Server, chat: str = "c1", *, greet: bool = True, **options: Any) -> Client:
    """A visitor's session; each has a user id of its own, as the application makes them."""
    made = token(chat, f"anon_{next(numbers)}", isAuthenticated=False)
    return await Client.open(server.port, f"token={made}", greet=greet, max_queue=None, **options)


async def flood(client: Client) -> None:
    """Send commands until the session is closed for it."""
    for _ in range(3):
        await client.say(type="ping")
    await client.next("pong")
    await client.next("error")
    assert (await client.ended())[0] == 4009


# -- penalties ----------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_a_visitor_who_floods_waits_despite_a_new_token() -> None:
    """The next token, and its new user id, don't help; the neighbour in the office and the agent come in."""
    async with running(**FLOODING, **FLY) as server:
        await flood(await visitor(server, **HERE))
        again = await visitor(server, greet=False, **HERE)
        assert await again.ended() == (4009, "Rate limit exceeded: rate_penalty")
        for client in (
            await visitor(server, "c2", **HERE),
            await visitor(server, **THERE),
            await Client.join(server.port, user="agent", **HERE),
        ):
            await client.close()
        await until(lambda: server.node.sessions == 0)


@pytest.mark.gen_test
async def test_a_visitor_who_floods_behind_a_proxy() -> None:
    """If addresses can't be distinguished the chat's visitors wait; its agent and other chats don't."""
    async with running(**FLOODING) as server:
        await flood(await visitor(server))
        again = await visitor(server, greet=False)
        assert await again.ended() == (4009, "Rate limit exceeded: rate_penalty")
        for client in (await visitor(server, "c2"), await Client.join(server.port, user="agent")):
            await client.close()


@pytest.mark.gen_test
async def test_one_flooder_does_not_shut_an_office_out() -> None:
    """If all sessions of a visitor in a chat are closed for flooding, that counts as one flooder."""
    async with running(**FLOODING, **FLY) as server:
        for client in [await visitor(server, **HERE) for _ in range(15)]:
            await flood(client)
        await (await visitor(server, "c2", **HERE)).close()


@pytest.mark.gen_test
async def test_an_address_that_floods_chat_after_chat_is_shut_out() -> None:
    """Its visitors wait in every chat; its accounts, and other addresses, don't."""
    async with running(**FLOODING, **FLY) as server:
        for number in range(10):
            await flood(await visitor(server, f"c{number}", **HERE))
        again = await visitor(server, "another", greet=False, **HERE)
        assert await again.ended() == (4009, "Rate limit exceeded: rate_penalty")
        await (await Client.join(server.port, **HERE)).close()
        await (await visitor(server, "another", **THERE)).close()


# -- places -------------------------------------------------------------------------------------


@contextmanager
def joining_is_slow(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[asyncio.Event]:
    """Joining a chat takes until the event is set, as with a backend that is far away."""
    gate, subscribe = asyncio.Event(), server.delivery.subscribe

    async def waiting(chat_id: str) -> None:
        await gate.wait()
        await subscribe(chat_id)

    with monkeypatch.context() as patched:
        patched.setattr(server.delivery, "subscribe", waiting)
        yield gate


@pytest.mark.gen_test
async def test_many_at_once_do_not_overfill_a_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Joining sessions count: of forty at once ten get in, and one that leaves while joining makes room."""
    async with running(max_sessions_per_chat=10) as server:
        with joining_is_slow(server, monkeypatch) as gate:
            crowd = [await Client.open(server.port, f"token={token(user=f'u{n}')}") for n in range(40)]
            for client in crowd[10:]:
                assert await client.ended() == (4009, "Rate limit exceeded: max_sessions_per_chat")
            crowd[0].socket.transport.abort()
            gate.set()
        for client in crowd[1:10]:
            await client.next("connected")
        await until(lambda: server.hub.size("c1") == 9)
        async with await Client.join(server.port):
            assert server.hub.size("c1") == 10
        for client in crowd[1:10]:
            await client.close()


@pytest.mark.gen_test
async def test_many_at_once_over_redis(redis_server: RedisServer) -> None:
    """Over Redis, where joining takes a while by itself, no more than ten of eighty get in either."""
    async with running(backend="redis", redis_url=redis_server.url, max_sessions_per_chat=10) as server:
        opening = (Client.open(server.port, f"token={token('full', f'u{n}')}") for n in range(80))
        crowd = await asyncio.gather(*opening)
        await until(lambda: server.node.limits.refused["max_sessions_per_chat"] == 70)
        await until(lambda: server.hub.sessions == 10)
        assert server.hub.size("full") == 10
        await asyncio.gather(*(client.close() for client in crowd))


async def refusals(openings: list[Any]) -> tuple[list[Client], list[int]]:
    """Those of many upgrades that were let in, and the status of the others."""
    results = await asyncio.gather(*openings, return_exceptions=True)
    refused = [each.response.status_code for each in results if isinstance(each, InvalidStatus)]
    return [each for each in results if isinstance(each, Client)], refused


@pytest.mark.gen_test
@pytest.mark.parametrize(("limit", "status"), [("max_sessions", 503), ("max_sessions_per_address", 429)])
async def test_many_upgrades_at_once(limit: str, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A free place is taken at once when it is found: of forty upgrades exactly five succeed."""
    async with running(**{limit: 5}) as server:

        async def slow(self: Any, *args: Any, **kwargs: Any) -> None:
            await asyncio.sleep(0.05)
            await upgrade(self, *args, **kwargs)

        upgrade = WireHandler.get
        monkeypatch.setattr(WireHandler, "get", slow)
        joined, refused = await refusals([Client.join(server.port, f"c{n}") for n in range(40)])
        assert (len(joined), refused) == (5, [status] * 35)
        assert server.node.sessions == 5
        for client in joined:
            await client.close()
        await until(lambda: server.node.sessions == 0)
        assert server.node.addresses.sessions("127.0.0.1") == 0


def reset(bare: socket.socket) -> None:
    """End a connection as a killed process with unread data does."""
    bare.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    bare.close()


def upgrade_request(query: str = "", **changed: str) -> bytes:
    """An upgrade as bytes; a header that is empty is left out."""
    headers = {"Host": "x", **UPGRADE, **changed}
    lines = [f"GET /ws?{query} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items() if value)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


@pytest.mark.gen_test
@pytest.mark.parametrize("compression", [False, True])
async def test_every_end_of_an_upgrade_releases_its_place(
    compression: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused, broken, reset at any moment, or ended while joining: nothing stays counted."""
    async with running(max_sessions_per_address=1000, compression=compression) as server:
        offer = {"Sec-WebSocket-Extensions": "permessage-deflate"} if compression else {}
        good = upgrade_request(f"token={token()}", **offer)
        requests = [
            good,
            upgrade_request("token=bad", **offer),
            upgrade_request(**offer),
            upgrade_request(f"token={token()}", **{"Sec-WebSocket-Key": "short"}, **offer),
            upgrade_request(f"token={token()}", **{"Sec-WebSocket-Key": ""}, **offer),
            upgrade_request(f"token={token()}", Connection="close", **offer),
            upgrade_request(f"token={token()}", Host="", **offer),
            good.replace(b"HTTP/1.1", b"HTTP/1.0"),
            good + b"\xff" * 100,
        ]
        with joining_is_slow(server, monkeypatch) as gate:
            for turns in (0, 1, 2, 3, 5, 20):
                for request in requests:
                    bare = socket.create_connection(("127.0.0.1", server.port))
                    bare.sendall(request)
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    reset(bare)
            gate.set()
            await until(lambda: server.node.sessions == server.node.addresses.sessions("127.0.0.1") == 0)
        assert server.hub.chats == 0
        assert not server.node.addresses._sessions
        async with await Client.join(server.port) as client:
            await client.quiet()
            assert server.node.sessions == server.node.addresses.sessions("127.0.0.1") == 1


@pytest.mark.gen_test
async def test_a_refused_session_takes_no_place() -> None:
    """Sockets that linger after being refused with a close code don't fill the node."""
    async with running(max_sessions=1, **{"server.server.CLOSE_TIMEOUT": 5}) as server:
        lingering = []
        for query in ("token=bad", ""):
            bare = socket.create_connection(("127.0.0.1", server.port))
            bare.sendall(upgrade_request(query))
            lingering.append(bare)
        await until(lambda: server.node.limits.refused["token"] == 2)
        async with await Client.join(server.port) as client:
            assert server.node.sessions == 1
            await client.quiet()
        for bare in lingering:
            bare.close()


# -- a chat's parts -----------------------------------------------------------------------------

ALL_RATES: dict[str, Any] = {
    "command_rate": 10,
    "message_rate": 0.1,
    "security.limits.BURST_SECONDS": 200,
    "security.senders.MESSAGE_BYTES": 1000,
}


async def accepted(clients: list[Client], content: str = "x") -> int:
    """How many messages of a chat's clients are saved, of three each; then they leave."""
    for _ in range(3):
        for client in clients:
            await client.say(
                type="message", content=content, role="USER", clientMessageId=f"k{next(numbers)}"
            )
    saved = 0
    for client in clients:
        answers = 0
        while answers < 3:
            event = await client.receive()
            answers += event["type"] in ("ack", "error")
            saved += event["type"] == "ack"
            if event["type"] == "error":
                assert event["code"] == "rate_limited"
                assert event["retryAfter"] > 0
        await client.close()
    return saved


@pytest.mark.gen_test
async def test_sessions_of_one_visitor_share_a_budget() -> None:
    """Ten sessions of a visitor save no more than one would; the agent, and another chat, have their own."""
    async with running(**ALL_RATES, **FLY) as server:
        agent = await Client.join(server.port, user="agent", **HERE)
        crowd = [await visitor(server, **HERE) for _ in range(10)]
        assert await accepted(crowd) == 20
        assert await accepted([agent]) == 3
        assert await accepted([await visitor(server, "c2", **HERE)]) == 3
        assert await accepted([await visitor(server, **THERE)]) == 3
        assert server.node.limits.refused["message_rate"] > 0


@pytest.mark.gen_test
async def test_sessions_of_one_account_share_a_budget() -> None:
    """So do an account's tabs; another account in the same chat has its own budget."""
    async with running(**ALL_RATES) as server:
        crowd = [await Client.join(server.port, max_queue=None) for _ in range(10)]
        assert await accepted(crowd) == 20
        assert await accepted([await Client.join(server.port, user="u2")]) == 3


@pytest.mark.gen_test
async def test_long_messages_have_a_budget_in_bytes() -> None:
    """A visitor's long messages fill no history with megabytes; a short one of the agent's passes."""
    async with running(**ALL_RATES, **FLY) as server:
        agent = await Client.join(server.port, user="agent", **HERE)
        crowd = [await visitor(server, **HERE) for _ in range(6)]
        assert await accepted(crowd, "x" * 65536) == 8
        assert await accepted([agent]) == 3
        assert server.node.limits.refused["message_bytes"] > 0


@pytest.mark.gen_test
async def test_refused_messages_cost_nothing() -> None:
    """Messages that are too long or have a wrong role don't use up a visitor's budget."""
    async with running(**{**ALL_RATES, "command_rate": 0, "max_content": 10}) as server:
        one, other = await visitor(server), await visitor(server)
        for number in range(30):
            content, role = ("x", "AGENT") if number % 2 else ("x" * 11, "USER")
            await one.say(type="message", content=content, role=role)
            assert (await one.next("error"))["code"] in ("forbidden", "content_too_long")
        assert await accepted([other]) == 3
        await one.close()


@pytest.mark.gen_test
async def test_typing_of_a_crowd_is_bounded() -> None:
    """A crowd that types within each session's limits is bounded in deliveries; two people never notice."""
    async with running(command_rate=10, **{"sessions.node.TYPING_RECEIVERS": 10}, **FLY) as server:
        crowd = [await visitor(server, **HERE) for _ in range(30)]
        before = server.hub.deliveries
        for _ in range(10):
            for client in crowd:
                await client.say(type="typing", isTyping=True)
        for client in crowd:
            await client.say(type="ping")
            await client.seek("pong")
        assert server.hub.deliveries - before <= 600
        assert server.hub.fan_out_dropped > 250
        assert server.node.commands.handled["typing"] < 50  # other nodes don't hear the rest either
        one, two = await visitor(server, "c2"), await Client.join(server.port, "c2")
        for _ in range(20):
            await one.say(type="typing", isTyping=True)
            await two.next("typing")
        await crowd[0].say(type="message", content="kept", role="USER")
        assert (await crowd[1].seek("message"))["data"]["content"] == "kept"
        for client in (*crowd, one, two):
            await client.close()


# -- replays ------------------------------------------------------------------------------------


LONG: dict[str, Any] = {"history_events": 500, "config.settings.KEPT_EVENT": 1 << 15}


async def long_history(server: Server) -> str:
    """Seven megabytes in a chat; the cursor from before them."""
    member = await Client.join(server.port)
    cursor = str(member.connected["cursor"])
    await member.close()
    for number in range(450):
        body = json.dumps({"type": "x", "data": {"id": number}, "content": "x" * 16000}).encode()
        await server.delivery.publish("c1", parse_event(body))
    return cursor


@pytest.mark.gen_test
@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_a_long_history_is_resumed_by_an_agent(compression: str | None) -> None:
    """Seven megabytes reach a client whose queue has one, all and in order, and then what is live."""
    settings = {**LONG, "queue_bytes": 1 << 20, "compression": compression is not None}
    async with running(**settings) as server:
        cursor = await long_history(server)
        agent = await Client.join(
            server.port, user="agent", cursor=cursor, compression=compression, max_queue=4
        )
        assert agent.connected["recovered"] is True
        live = json.dumps({"type": "x", "data": {"id": "live"}}).encode()
        await server.delivery.publish("c1", parse_event(live))
        found = [(await agent.next("x"))["data"]["id"] for _ in range(451)]
        assert found == [*range(450), "live"]
        await agent.quiet()
        await agent.close()


async def deaf(server: Server, cursor: str) -> socket.socket:
    """A client that has requested what it missed, and reads none of it."""
    bare = socket.socket()
    bare.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    bare.connect(("127.0.0.1", server.port))
    bare.sendall(upgrade_request(f"token={token()}&cursor={cursor}"))
    await until(lambda: any(session.wire.queued for session in server.hub.members()))
    (session,) = server.hub.members()
    assert session.wire.queued <= server.settings.queue_bytes
    return bare


@pytest.mark.gen_test
@pytest.mark.parametrize("leaves", [False, True])
async def test_a_long_history_for_a_client_that_does_not_read(
    leaves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that requests a long history and reads none of it gets a bounded queue, and is closed."""
    monkeypatch.setattr(replay, "PATIENCE", 10 if leaves else 0.1)
    async with running(**LONG, queue_bytes=65536, **{"server.server.CLOSE_TIMEOUT": 0.1}) as server:
        cursor = await long_history(server)
        async with leaving_nothing(server):
            bare = await deaf(server, cursor)
            if leaves:
                reset(bare)
            await until(lambda: server.node.sessions == 0)
            bare.close()


@pytest.mark.gen_test
async def test_a_stop_during_a_long_replay() -> None:
    """A stopping server also closes sessions whose replay is in progress."""
    async with running(**LONG, queue_bytes=65536, **{"server.server.CLOSE_TIMEOUT": 0.1}) as server:
        bare = await deaf(server, await long_history(server))
        await server.stop()
        await until(lambda: server.node.sessions == 0)
        assert server.hub.chats == 0
        bare.close()
