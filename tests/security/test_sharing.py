"""What a crowd can't get by being a crowd: penalties, places, and the parts of a chat that all share."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from eclipse_ws.server import Server
from tests.client import UPGRADE, Client, running, token, until

FLOODING: dict[str, Any] = {"command_rate": 0.001, "command_burst": 1, "rate_patience": 1}
FLY = {"client_address_header": "Fly-Client-IP"}
HERE, THERE = ({"additional_headers": {"Fly-Client-IP": ip}} for ip in ("93.184.216.34", "8.8.8.8"))
numbers: Iterator[int] = iter(range(10**9))


async def visitor(server: Server, chat: str = "c1", *, greet: bool = True, **options: Any) -> Client:
    """A visitor's session; each has a user id of its own, as the application makes them."""
    made = token(chat, f"anon_{next(numbers)}", isAuthenticated=False)
    return await Client.open(server.port, f"token={made}", greet=greet, **options)


async def flood(client: Client) -> None:
    """Give commands until the session is closed for it."""
    for _ in range(3):
        await client.say(type="ping")
    await client.next("pong")
    await client.next("error")
    assert (await client.ended())[0] == 4009


# -- penalties ----------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_a_visitor_who_floods_waits_with_a_new_token_too() -> None:
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
    """Where addresses can't be told apart the chat's visitors wait; its agent and other chats don't."""
    async with running(**FLOODING) as server:
        await flood(await visitor(server))
        again = await visitor(server, greet=False)
        assert await again.ended() == (4009, "Rate limit exceeded: rate_penalty")
        for client in (await visitor(server, "c2"), await Client.join(server.port, user="agent")):
            await client.close()


@pytest.mark.gen_test
async def test_one_flooder_does_not_shut_an_office_out() -> None:
    """A visitor's sessions in a chat are all closed for flooding: that is one flooder."""
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
    gate, subscribe = asyncio.Event(), server.backend.subscribe

    async def waiting(chat_id: str) -> None:
        await gate.wait()
        await subscribe(chat_id)

    with monkeypatch.context() as patched:
        patched.setattr(server.backend, "subscribe", waiting)
        yield gate


@pytest.mark.gen_test
async def test_many_at_once_do_not_overfill_a_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who are joining count: of forty at once ten come in, and who leaves while joining makes room."""
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


async def refusals(openings: list[Any]) -> tuple[list[Client], list[int]]:
    """Those of many upgrades that were let in, and the status of the others."""
    results = await asyncio.gather(*openings, return_exceptions=True)
    refused = [each.response.status_code for each in results if isinstance(each, InvalidStatus)]
    return [each for each in results if isinstance(each, Client)], refused


@pytest.mark.gen_test
@pytest.mark.parametrize(("limit", "status"), [("max_sessions", 503), ("max_sessions_per_address", 429)])
async def test_many_upgrades_at_once(limit: str, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place is taken when it is found free: of forty upgrades at once exactly five pass."""
    async with running(**{limit: 5}) as server:

        async def slow(self: Any, *args: Any, **kwargs: Any) -> None:
            await asyncio.sleep(0.05)
            await upgrade(self, *args, **kwargs)

        from eclipse_ws.wire import WireHandler

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
async def test_no_way_out_of_an_upgrade_keeps_a_place(
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
async def test_who_is_refused_takes_no_place() -> None:
    """Sockets that were refused by a close code and linger don't fill the node."""
    async with running(max_sessions=1, close_timeout=5) as server:
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
