"""Connections that come and go: what is kept of them, how they are counted, and for how long."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import product
from typing import Any

import pytest

from eclipse_ws.security import client_address
from eclipse_ws.server.server import Server
from tests.attacks.test_http import (
    EVENT,
    FLY,
    KEY,
    OURS,
    WIDGET,
    deaf,
    narrow,
    open_connections,
    slow,
)
from tests.attacks.test_sharing import reset, upgrade_request
from tests.client import http, read_answer, running, token, until

ASKED = b"GET /nope HTTP/1.1\r\nHost: x\r\nFly-Client-IP: 8.8.8.8\r\n\r\n"
HISTORY = b"GET /api/chats/c1/messages HTTP/1.1\r\nHost: x\r\nFly-Client-IP: 8.8.8.8\r\n\r\n"
CALL = b"POST /api/chats/c1/events HTTP/1.1\r\nHost: x\r\nFly-Client-IP: 8.8.8.8\r\n"
TRUSTED = CALL + b"X-Internal-Secret: %b\r\nContent-Length: " % KEY
NOTE = json.dumps(EVENT).encode()
PUBLISH = TRUSTED + b"%d\r\n\r\n%b" % (len(NOTE), NOTE)
TIMEOUT = 50.0
QUIET: dict[str, Any] = {
    "server.listener.HANDSHAKE_TIMEOUT": TIMEOUT,
    "server.listener.IDLE_TIMEOUT": 75,
    "server.sweeper.INTERVAL": 60,
}
"""Settings of a server that sweeps when its test says so."""


def refused(server: Server, *names: str) -> list[int]:
    """How often these limits have refused something."""
    return [server.node.limits.refused[name] for name in names]


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sockets' own addresses are the clients', as with public ones."""
    monkeypatch.setattr(client_address, "_network", lambda text: (text, True))


@asynccontextmanager
async def unanswered(server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """No handler ends inside: those of the history wait, and so do those of an event."""
    monkeypatch.setattr(server.api, "history", lambda *_: asyncio.Event().wait())
    monkeypatch.setattr(server.delivery, "publish", lambda *_: asyncio.Event().wait())
    try:
        yield
    finally:
        for task in asyncio.all_tasks():
            if "_execute" in repr(task):
                task.cancel()


def connect(server: Server, said: bytes = b"", address: str = "127.0.0.1") -> socket.socket:
    """A peer at this address that has sent something."""
    peer = socket.create_connection(("127.0.0.1", server.port), source_address=(address, 0))
    peer.sendall(said)
    peer.setblocking(False)
    return peer


def is_open(peer: socket.socket) -> bool:
    """Whether the server has not closed the connection; what it has said is read."""
    try:
        while peer.recv(65536):
            pass
    except BlockingIOError:
        return True
    except ConnectionError:
        pass
    return False


# -- what is kept -------------------------------------------------------------------------------

SAID = {
    "nothing": b"",
    "half of its headers": CALL,
    "a request": ASKED,
    "a request that shows the secret": PUBLISH,
    "many requests": WIDGET * 20,
    "a request and half of the next": ASKED + b"GET",
    "half of a body": slow("8.8.8.8"),
    "half of a body behind the secret": TRUSTED + b"10\r\n\r\n{",
    "a wrong secret": CALL + b"Content-Length: 10\r\n\r\n",
    "a body that is too large": TRUSTED + b"9999999\r\n\r\n",
    "chunks that nobody takes": ASKED[:-2] + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
    "headers that are too large": CALL + b"X: " + b"x" * 20_000 + b"\r\n\r\n",
    "no HTTP": b"\x00\xff\r\n\r\n",
    "an upgrade without a token": upgrade_request(),
    "an upgrade from a strange page": upgrade_request(Origin="https://evil.example"),
    "a session": upgrade_request(f"token={token()}"),
}


@pytest.mark.gen_test
@pytest.mark.parametrize("said", SAID.values(), ids=SAID.keys())
async def test_a_closed_connection_leaves_nothing(said: bytes) -> None:
    """After a peer has left in any way, no table has an entry for it, and no byte is counted."""
    async with running(**FLY) as server:
        for turns, leave in product((0, 2, 100), (socket.socket.close, reset)):
            peers = [connect(server, said) for _ in range(3)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for peer in peers:
                leave(peer)
            assert (await http(server.port, "/health")).status == 200  # those before it have been accepted
            await until(lambda: server._http.held == server.node.sessions == 0)
        assert server._http.body_bytes == server.node.http_connections() == 0


@pytest.mark.gen_test
@pytest.mark.usefixtures("direct")
async def test_addresses_without_connections_are_forgotten() -> None:
    """A connection's address is kept for as long as there is one of its connections."""
    async with running() as server:
        peers = [connect(server, address=f"127.0.0.{number}") for number in (1, 1, 2, 3)]
        await until(lambda: open_connections(server).addresses == 3)
        for peer, left in zip(peers, (3, 2, 1, 0), strict=True):
            peer.close()
            await until(lambda left=left: open_connections(server).addresses == left)


@pytest.mark.gen_test
async def test_connections_that_are_cut_off_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept of connections that were closed by a limit or a timeout, in any state."""
    async with (
        running(**{"server.file_descriptors.HTTP_CONNECTIONS": 4}, **QUIET, **FLY) as server,
        unanswered(server, monkeypatch),
    ):
        narrow(server)
        states = [ASKED, slow("8.8.8.8"), CALL, b"", HISTORY, TRUSTED + b"9\r\n\r\n{"]
        peers = [connect(server, said) for said in states] + [await deaf(server.port, WIDGET * 5)]
        await until(lambda: refused(server, "max_handshakes") == [3])
        server._http.sweep(time.monotonic() + 1000)
        await until(lambda: server._http.held == 0)
        assert server._http.body_bytes == 0
        for peer in peers:
            peer.close()


@pytest.mark.gen_test
async def test_bodies_of_one_connection_are_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body is held until the next request; however many came, the budget of all bodies stays the same."""
    monkeypatch.setattr("eclipse_ws.server.listener.NODE_BODY_BYTES", len(NOTE) + 10)
    async with running() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for _ in range(5):
            writer.write(PUBLISH)
            assert (await read_answer(reader)).status == 202
        await until(lambda: server._http.body_bytes == 0)
        answer = await http(server.port, "/api/chats/c1/events", "POST", b" " * len(NOTE) * 2, headers=OURS)
        assert (answer.status, answer.json["limit"]) == (503, "node_body_bytes")
        writer.close()


# -- what is counted ----------------------------------------------------------------------------


@pytest.fixture
def share(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """How many connections an address may have."""
    monkeypatch.setattr("eclipse_ws.server.connections.PUBLIC_CONNECTIONS", 2)
    return iter((2,))


@pytest.mark.gen_test
@pytest.mark.usefixtures("direct", "share")
async def test_silent_connections_are_counted_by_their_sockets_address() -> None:
    """Silent connections of an address are limited: the oldest is closed; other addresses keep theirs."""
    async with running(**QUIET) as server:
        other = connect(server, address="127.0.0.2")
        mine = []
        for number in range(1, 4):
            mine.append(connect(server))
            await until(lambda number=number: len(open_connections(server)) == min(number, 2) + 1)
        await until(lambda: not is_open(mine[0]))
        assert refused(server, "connections_per_address") == [1]
        assert [is_open(peer) for peer in (other, *mine)] == [True, False, True, True]
        for peer in (other, *mine):
            peer.close()


@pytest.mark.gen_test
@pytest.mark.usefixtures("share")
async def test_idle_connections_of_a_proxy_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two requests a proxy's connection is not counted under the client that it served last."""
    async with running(**QUIET, **FLY) as server, unanswered(server, monkeypatch):
        idle = [connect(server, ASKED) for _ in range(2)]
        await until(lambda: len(open_connections(server).idle) == 2)
        mine = [connect(server, slow("8.8.8.8")) for _ in range(2)]
        await until(lambda: open_connections(server).addresses == 1)
        await until(lambda: len(open_connections(server)) == 4)
        await asyncio.sleep(0.01)
        assert all(map(is_open, (*idle, *mine)))
        assert refused(server, "connections_per_address") == [0]
        for peer in (*idle, *mine):
            peer.close()


@pytest.mark.gen_test
@pytest.mark.usefixtures("share")
async def test_a_request_that_is_answered_goes_after_those_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond an address's share the oldest that arrives is closed, or the oldest of all if none does."""
    async with running(**QUIET, **FLY) as server, unanswered(server, monkeypatch):
        working = open_connections(server).handling
        peers = [connect(server, HISTORY)]
        await until(lambda: len(working) == 1)
        peers.append(connect(server, slow("8.8.8.8")))
        await until(lambda: len(open_connections(server)) == 2)
        peers.append(connect(server, HISTORY))
        await until(lambda: len(working) == 2)
        await until(lambda: not is_open(peers[1]))
        peers.append(connect(server, HISTORY))
        await until(lambda: not is_open(peers[0]))
        assert [is_open(peer) for peer in peers] == [False, False, True, True]
        assert refused(server, "connections_per_address") == [2]
        for peer in peers:
            peer.close()


@pytest.mark.gen_test
@pytest.mark.usefixtures("direct", "share")
async def test_calls_of_the_application_are_not_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many calls come from an address, none is closed, and strangers from there have their share."""
    async with running(**QUIET) as server, unanswered(server, monkeypatch):
        calls = []
        for number in range(1, 6):
            calls.append(connect(server, PUBLISH))
            await until(lambda number=number: len(open_connections(server).trusted) == number)
        strangers = [connect(server) for _ in range(2)]
        await until(lambda: len(open_connections(server)) == 7)
        assert open_connections(server).addresses == 1
        assert all(map(is_open, (*calls, *strangers)))
        assert refused(server, "connections_per_address") == [0]
        for peer in (*calls, *strangers):
            peer.close()


@pytest.mark.gen_test
@pytest.mark.usefixtures("direct", "share")
async def test_idle_connections_of_the_application_stay() -> None:
    """A stranger at the application's address closes none of the connections that wait for its next call."""
    async with running(**QUIET) as server:
        table = open_connections(server)
        calls = [connect(server, PUBLISH) for _ in range(3)]
        await until(lambda: [each.headless for each in table.trusted] == [True] * 3)
        strangers = [connect(server) for _ in range(2)]
        await until(lambda: refused(server, "connections_per_address") == [1])
        assert all(map(is_open, calls))
        assert sum(map(is_open, strangers)) == 1
        for peer in (*calls, *strangers):
            peer.close()
