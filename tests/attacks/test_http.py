"""HTTP beside the sessions: unread answers, too many connections and requests, bodies, file descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import socket
import ssl
import struct
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sized
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPHeaders
from tornado.iostream import IOStream

from eclipse_ws.security import limits
from eclipse_ws.security.limits import PUBLIC_CONNECTIONS, PUBLIC_REQUESTS, Rate
from eclipse_ws.server.acceptor import _Accepted
from eclipse_ws.server.connections import Connections
from eclipse_ws.server.listener import CHUNK, MAX_HEADER_BYTES
from eclipse_ws.server.pacing import EVENTS, MAX_PER_TURN, OLDEST, PacedLoop
from eclipse_ws.server.server import Server
from tests.attacks.test_tls import Authority
from tests.attacks.test_tls import join as join_tls
from tests.client import UPGRADE, Client, exchange, http, read_answer, running, token, until
from tests.conftest import SECRET

FLY = {"client_address_header": "Fly-Client-IP"}
OURS = {"X-Internal-Secret": SECRET}
KEY = SECRET.encode()
EVENT = {"type": "note", "data": {"id": "1"}}
WIDGET = b"GET /widget.js HTTP/1.1\r\nHost: x\r\n\r\n"
QUICKLY: dict[str, Any] = {"server.listener.HANDSHAKE_TIMEOUT": 0.3, "server.sweeper.INTERVAL": 0.05}


async def deaf(port: int, said: bytes) -> socket.socket:
    """A peer that sends something and reads nothing: its own buffer is as small as possible."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(peer, ("127.0.0.1", port))
    await loop.sock_sendall(peer, said)
    return peer


def narrow(server: Server) -> None:
    """Let the system buffer little of what the server sends to peers that connect from now on."""
    for listening in server._http._sockets.values():
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)


@asynccontextmanager
async def raw(port: int, said: bytes) -> AsyncIterator[asyncio.StreamReader]:
    """A stream on which something was sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(said)
    try:
        yield reader
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def open_connections(server: Server) -> Connections:
    """The table of the public port."""
    return server._http.connections


def held_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Serve nobody until the gate allows it; then the ports of the peers served, in order."""
    listener, served = server._http, list[int]()
    begin = listener._begin

    def serve(accepted: _Accepted, connection: Any = None) -> None:
        served.append(accepted.address[1])
        begin(accepted, connection)

    monkeypatch.setattr(listener, "_begin", serve)
    monkeypatch.setattr(type(listener.gate), "allowed", 0)
    return served


def one_of(table: Sized) -> bool:
    """Whether there is one."""
    return len(table) == 1


def slow(address: str, length: int = 10) -> bytes:
    """A request from an address whose body does not come."""
    return b"POST /nope HTTP/1.1\r\nHost: x\r\nFly-Client-IP: %b\r\nContent-Length: %d\r\n\r\n" % (
        address.encode(),
        length,
    )


# -- connections --------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_unread_answers_harm_nobody() -> None:
    """Many peers send endless requests and read nothing: sessions work, and all peers are closed in time."""
    async with (
        running(**{"server.file_descriptors.HTTP_CONNECTIONS": 20}, **QUICKLY) as server,
        await Client.join(server.port) as member,
    ):
        narrow(server)
        peers = [await deaf(server.port, WIDGET * 200) for _ in range(60)]
        refused = server.node.limits.refused
        await until(lambda: refused["max_handshakes"] + refused["answer_timeout"] >= 40)
        assert len(open_connections(server)) <= 20
        async with asyncio.timeout(5), await Client.join(server.port, user="u2") as newcomer:
            await member.say(type="message", content="still here", role="USER")
            assert (await newcomer.next("message"))["data"]["content"] == "still here"
        await until(lambda: not len(open_connections(server)))
        assert server.node.limits.refused["answer_timeout"] > 0
        for peer in peers:
            peer.close()


@pytest.mark.gen_test
async def test_a_peer_that_reads_no_answer_is_closed_first() -> None:
    """Of too many connections one with an unread answer is closed, then an idle one, then a new one."""
    async with (
        running(
            **{"server.file_descriptors.HTTP_CONNECTIONS": 3}, **{"server.sweeper.INTERVAL": 60}
        ) as server,
        contextlib.AsyncExitStack() as stack,
    ):
        narrow(server)
        table = open_connections(server)
        await stack.enter_async_context(raw(server.port, b"GET"))
        idle = await stack.enter_async_context(raw(server.port, b"GET /nope HTTP/1.1\r\nHost: x\r\n\r\n"))
        await idle.readuntil(b"\r\n\r\n")
        await until(lambda: len(table.idle) == 1)
        peer = await deaf(server.port, WIDGET * 5)
        await until(lambda: any(each.unsent for each in table.handling))
        left: list[tuple[int, int, int]] = []
        for _ in range(3):
            await stack.enter_async_context(raw(server.port, b"GET"))
            await until(lambda: len(table.receiving) == len(left) + 2 or len(left) == 2)
            left.append((len(table.sending), len(table.idle), len(table.receiving)))
        assert left == [(0, 1, 2), (0, 0, 3), (0, 0, 3)]
        peer.close()


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /nope HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET /api/chats/c/events HTTP/1.1\r\nHost: x\r\nX-Internal-Secret: %b\r\n\r\n" % KEY, 405),
    ],
    ids=["a stranger", "who shows the secret"],
)
async def test_the_idle_timeout_begins_after_the_first_request(request_: bytes, status: int) -> None:
    """The first request may take its time, TLS and all; after it the connection ends when it is idle, even
    one that has sent the secret, or that goes on with half a request.
    """
    timeouts = {
        "server.listener.IDLE_TIMEOUT": 0.1,
        "server.sweeper.INTERVAL": 0.05,
        "server.listener.HANDSHAKE_TIMEOUT": 5,
    }
    async with running(**timeouts) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.sleep(0.4)
        writer.write(request_)
        assert (await read_answer(reader)).status == status
        writer.write(request_[:9])
        began = time.monotonic()
        assert await asyncio.wait_for(reader.read(), 5) == b""
        assert time.monotonic() - began < 3
        assert not len(open_connections(server))
        assert server.node.limits.refused["handshake_timeout"] == 0
        assert server.node.limits.refused["answer_timeout"] == 0
        writer.close()


@pytest.mark.gen_test
async def test_an_answer_read_byte_by_byte_is_cut_off() -> None:
    """A peer that takes longer than the handshake's timeout to read an answer is closed."""
    async with running(**QUICKLY) as server:
        narrow(server)
        peer = await deaf(server.port, WIDGET * 200)
        loop = asyncio.get_running_loop()
        while len(open_connections(server)) or not server.node.limits.refused["answer_timeout"]:
            with contextlib.suppress(ConnectionError):
                await loop.sock_recv(peer, 1)
            await asyncio.sleep(0.01)
        peer.close()


@pytest.mark.gen_test
async def test_a_session_is_not_in_the_table_of_connections(tmp_path: Path) -> None:
    """A connection leaves the table as it becomes a session, with TLS too; half a TLS handshake is in it."""
    authority = Authority(tmp_path)
    async with running() as plain, running(**authority.settings, **QUICKLY) as secure:
        async with await Client.join(plain.port) as one, raw(plain.port, b"") as other:
            await until(lambda: len(open_connections(plain)) == 1)
            await one.quiet()
            del other
        async with await join_tls(secure.port, authority.context()) as one:
            assert not len(open_connections(secure))
            async with raw(secure.port, b"\x16\x03\x01") as half:
                await until(lambda: len(open_connections(secure)) == 1)
                with contextlib.suppress(ConnectionError):
                    assert await half.read() == b""
            await one.quiet()
            assert secure.node.limits.refused["handshake_timeout"] == 1
        await until(lambda: not len(open_connections(plain)))
        assert not plain._http._open
        assert not secure._http._open


@pytest.mark.gen_test
async def test_an_unread_answer_to_an_upgrade(monkeypatch: pytest.MonkeyPatch) -> None:
    """A 101 that can't leave behind unread answers is closed like any unread answer."""
    _hold_101(monkeypatch, lambda: True)
    async with running(**QUICKLY) as server, raw(server.port, _upgrade()) as reader:
        await until(lambda: len(open_connections(server).sending) == 1)
        assert server.node.sessions == 1
        assert await reader.read() == b""
        await until(lambda: not server.node.sessions)
        await until(lambda: not server._http._open)
        assert not len(open_connections(server))
        assert server.node.limits.refused["answer_timeout"] == 1


@pytest.mark.gen_test
async def test_a_late_answer_to_an_upgrade(monkeypatch: pytest.MonkeyPatch) -> None:
    """A 101 that has to wait for its peer becomes a session all the same."""
    held = [True]
    _hold_101(monkeypatch, lambda: held[0])
    async with running() as server:
        async with raw(server.port, _upgrade()) as reader:
            await until(lambda: server.node.sessions == 1)
            await asyncio.sleep(0.02)
            held[0] = False
            said = await reader.readuntil(b"\r\n\r\n")
            assert said.startswith(b"HTTP/1.1 101")
            assert b'"connected"' in await reader.readuntil(b"}")
            assert not len(open_connections(server))
        await until(lambda: not server.node.sessions)
        await until(lambda: not server._http._open)
        assert not len(open_connections(server))


def _hold_101(monkeypatch: pytest.MonkeyPatch, full: Callable[[], bool]) -> None:
    """Let the system take no 101 for as long as ``full`` says so."""
    write = IOStream.write_to_fd

    def write_to_fd(stream: IOStream, data: memoryview) -> int:
        if bytes(data[:12]) == b"HTTP/1.1 101" and full():
            raise BlockingIOError
        return write(stream, data)

    monkeypatch.setattr(IOStream, "write_to_fd", write_to_fd)


def _upgrade() -> bytes:
    """An upgrade that Tornado reads, because a header comes twice."""
    lines = [
        f"GET /ws?token={token()} HTTP/1.1",
        "Host: x",
        "X: 1",
        "X: 2",
        *(f"{k}: {v}" for k, v in UPGRADE.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


@pytest.mark.gen_test
async def test_connections_of_one_address_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond an address's share its oldest connection is closed; other addresses notice nothing."""
    monkeypatch.setattr("eclipse_ws.server.connections.PUBLIC_CONNECTIONS", 3)
    async with running(**FLY) as server, contextlib.AsyncExitStack() as stack:
        other = await stack.enter_async_context(raw(server.port, slow("8.8.8.8")))
        mine = []
        for _ in range(4):
            mine.append(await stack.enter_async_context(raw(server.port, slow("93.184.216.34"))))
            await asyncio.sleep(0.01)
        assert await mine[0].read() == b""
        await until(lambda: server.node.limits.refused["connections_per_address"] == 1)
        assert len(open_connections(server)) == 4
        assert not mine[1].at_eof()
        assert not other.at_eof()


@pytest.mark.gen_test
async def test_a_proxys_connections_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections of a proxy, known or not, are not limited by its address: it carries everybody."""
    monkeypatch.setattr("eclipse_ws.server.connections.PUBLIC_CONNECTIONS", 1)
    for given in ({}, FLY):
        async with running(**given) as server, contextlib.AsyncExitStack() as stack:
            for _ in range(5):
                await stack.enter_async_context(raw(server.port, b""))
            await until(lambda: len(open_connections(server)) == 5)


@pytest.mark.gen_test
async def test_calls_of_the_application_are_never_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of strangers doesn't close a connection that has sent the secret; they get no connection."""
    async with running(**{"server.file_descriptors.HTTP_CONNECTIONS": 1}) as server:
        gate, publish = asyncio.Event(), server.delivery.publish

        async def waiting(*given: Any) -> Any:
            await gate.wait()
            return await publish(*given)

        monkeypatch.setattr(server.delivery, "publish", waiting)
        call = asyncio.create_task(http(server.port, "/api/chats/c1/events", "POST", EVENT, headers=OURS))
        await until(lambda: len(open_connections(server).trusted) == 1)
        for _ in range(5):
            async with raw(server.port, WIDGET) as stranger:
                with contextlib.suppress(ConnectionError):
                    assert await stranger.read() == b""
        gate.set()
        assert (await call).status == 202
        await until(lambda: not len(open_connections(server)))
        assert (await http(server.port, "/health")).status == 200


@pytest.mark.gen_test
async def test_a_handler_that_never_ends_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a handler waits for is bounded elsewhere; if that fails, its connection is closed at last."""
    async with running() as server:
        monkeypatch.setattr(server.delivery, "publish", lambda *_: asyncio.Event().wait())
        call = asyncio.create_task(http(server.port, "/api/chats/c1/events", "POST", EVENT, headers=OURS))
        await until(lambda: len(open_connections(server).trusted) == 1)
        server._http.sweep(time.monotonic() + 80)
        assert len(open_connections(server)) == 1
        server._http.sweep(time.monotonic() + 86)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await call
        assert not len(open_connections(server))
        for task in asyncio.all_tasks():
            if "_execute" in repr(task):
                task.cancel()


@pytest.mark.gen_test
async def test_answers_have_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """If unread answers have too many bytes in total, the longest are dropped."""
    monkeypatch.setattr("eclipse_ws.server.connections.NODE_ANSWER_BYTES", 60_000)
    async with running() as server:
        narrow(server)
        peers = [await deaf(server.port, WIDGET * 5) for _ in range(3)]
        await until(lambda: sum(each.unsent > 0 for each in open_connections(server).handling) == 3)
        server._http.sweep(time.monotonic())
        left = [connection.unsent for connection in open_connections(server).sending]
        assert 0 < sum(left) <= 60_000
        assert server.node.limits.refused["node_answer_bytes"] == 3 - len(left)
        for peer in peers:
            peer.close()


@pytest.mark.gen_test
async def test_a_history_has_a_maximum_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer with a chat's history has the latest messages that fit."""
    monkeypatch.setattr("eclipse_ws.application.embedded_routes.MAX_HISTORY", 10)
    async with running() as server, await Client.join(server.port) as client:
        for content in ("aaaa", "bbbb", "cccccc"):
            await client.say(type="message", content=content, role="USER")
            await client.next("message")
        messages = (await http(server.port, "/api/chats/c1/messages")).json["messages"]
        assert [message["content"] for message in messages] == ["bbbb", "cccccc"]


@pytest.mark.gen_test
async def test_requests_of_strangers_are_not_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much a peer sends, a connection buffers its headers and one read, also during an answer."""
    async with running(**FLY) as server:
        monkeypatch.setattr(server.api, "history", lambda *_: asyncio.Event().wait())
        for said, phase in (
            (b"GET /api/chats/c1/messages HTTP/1.1\r\nHost: x\r\n\r\n" + b"x" * 500_000, "handling"),
            (slow("8.8.8.8", 200_000) + b"x" * 199_999, "receiving"),
        ):
            async with raw(server.port, said):
                table = getattr(open_connections(server), phase)
                await until(partial(one_of, table))
                await asyncio.sleep(0.02)
                (connection,) = table
                assert connection.stream._read_buffer_size <= MAX_HEADER_BYTES + CHUNK
        for task in asyncio.all_tasks():
            if "_execute" in repr(task):
                task.cancel()


# -- requests -----------------------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Three requests of an address, or of a connection that many may share, and hardly any more."""
    monkeypatch.setattr(limits, "_REQUESTS", Rate.of(0.001, 3))
    monkeypatch.setattr("eclipse_ws.server.connections._SHARED_RATE", Rate.of(0.001, 3))
    return iter(())


@pytest.mark.gen_test
@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("path", ["/health", "/metrics", "/widget.js", "/nope", "/ws", "/"])
async def test_requests_of_one_address_are_limited(path: str) -> None:
    """An address that exceeds its rate gets 429 and is closed; others, and those with the secret, are not."""
    async with running(**FLY) as server, await Client.join(server.port) as neighbour:
        mine = {"Fly-Client-IP": "93.184.216.34"}
        for _ in range(3):
            assert (await http(server.port, path, headers=mine)).status != 429
        answer = await http(server.port, path, headers=mine)
        assert (answer.status, answer.json["limit"]) == (429, "http_rate")
        assert int(answer.headers["retry-after"]) > 0
        assert answer.headers["connection"] == "close"
        assert answer.headers["content-type"] == "application/json; charset=UTF-8"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert (await http(server.port, path, headers={"Fly-Client-IP": "8.8.8.8"})).status != 429
        for _ in range(5):
            call = await http(server.port, "/api/chats/c1/events", "POST", EVENT, headers=mine | OURS)
            assert call.status == 202
        guess = await http(server.port, "/api/chats/c1/events", "POST", EVENT, headers=mine)
        assert guess.json["limit"] == "http_rate"
        async with await Client.join(server.port, user="u2", additional_headers=mine) as session:
            await session.quiet()
        there = {"Fly-Client-IP": "8.8.4.4"}
        for _ in range(5):  # what becomes a session is charged elsewhere
            await (await Client.join(server.port, additional_headers=there)).close()
        assert (await http(server.port, path, headers=there)).status != 429
        assert server.node.limits.refused["http_rate"] == 2
        await neighbour.next("note")
        await neighbour.quiet()


@pytest.mark.gen_test
@pytest.mark.usefixtures("few")
async def test_requests_of_a_shared_address_are_limited_by_connection() -> None:
    """If an address may be shared, each connection has its own rate: pipelining ends in one 429."""
    async with running() as server, raw(server.port, WIDGET * 10) as reader:
        said = await reader.read()
        assert said.count(b"HTTP/1.1 200") == 3
        assert said.count(b"HTTP/1.1 429") == 1
        for _ in range(5):
            assert (await http(server.port, "/health")).status == 200


@pytest.mark.gen_test
@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    "headers", [{"Sec-WebSocket-Version": "12"}, {"Origin": "https://evil.example"}, {"Host": ""}]
)
async def test_failed_upgrades_count_as_requests(headers: dict[str, str]) -> None:
    """A client that only sends upgrades that fail runs into the same limit."""
    asked = {"Host": "x", **UPGRADE, **headers}
    lines = ["GET /ws HTTP/1.1", *(f"{name}: {value}" for name, value in asked.items())]
    async with (
        running() as server,
        raw(server.port, ("\r\n".join(lines) + "\r\n\r\n").encode() * 10) as reader,
    ):
        said = await reader.read()
        assert said.count(b"HTTP/1.1 4") == 4
        assert said.count(b"HTTP/1.1 429") == 1
        async with await Client.join(server.port) as client:
            await client.quiet()


def test_an_office_is_not_limited() -> None:
    """Two hundred people behind one address may open two pages each at once, and continue."""
    assert PUBLIC_CONNECTIONS >= 400
    assert PUBLIC_REQUESTS[0] >= 20
    assert PUBLIC_REQUESTS[1] >= 400


@pytest.mark.gen_test
async def test_a_request_waits_at_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request is not processed before its turn, and not at all if it was cut off while waiting."""
    async with running() as server:
        turns: list[asyncio.Future[None]] = []

        def enter(_address: object) -> asyncio.Future[None]:
            turns.append(asyncio.get_running_loop().create_future())
            return turns[-1]

        asked: list[int] = []

        def health() -> dict[str, object]:
            asked.append(1)
            return {}

        monkeypatch.setattr(server.node, "health", health)
        monkeypatch.setattr(server._http.gate, "enter", enter)
        calls = [asyncio.create_task(http(server.port, "/health")) for _ in range(2)]
        await until(lambda: len(turns) == 2)
        assert not asked
        table = open_connections(server)
        table.cut(next(iter(table.handling)), "max_handshakes")
        for turn in turns:
            turn.set_result(None)
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert len(asked) == 1
        assert [end.status for end in ends if not isinstance(end, BaseException)] == [200]


@pytest.mark.gen_test
async def test_the_application_does_not_wait_at_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many strangers wait for their turn, a request with the secret is answered at once."""
    async with running() as server:
        turn = asyncio.get_running_loop().create_future()
        monkeypatch.setattr(server._http.gate, "enter", lambda _: turn)
        async with raw(server.port, WIDGET) as stranger:
            await until(lambda: len(open_connections(server).handling) == 1)
            async with asyncio.timeout(5):
                call = await http(server.port, "/api/chats/c1/events", "POST", EVENT, headers=OURS)
            assert call.status == 202
            assert len(open_connections(server).handling) == 1
            turn.set_result(None)
            assert (await stranger.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")


@pytest.mark.gen_test
async def test_the_application_does_not_wait_for_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection whose latest request had the secret is read at once; without it, it takes turns again."""
    body = json.dumps(EVENT).encode()
    lines = b"POST /api/chats/c1/events HTTP/1.1", b"Host: x", b"X-Internal-Secret: %b", b"Content-Length: %d"
    ours = b"\r\n".join((*lines, b"", b"%b")) % (SECRET.encode(), len(body), body)
    stranger = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    async with running() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)

        async def ask(request: bytes) -> int:
            writer.write(request)
            async with asyncio.timeout(0.5):
                return (await read_answer(reader)).status

        assert await ask(stranger) == 200
        assert await ask(ours) == 202
        monkeypatch.setattr(PacedLoop, "_serve", lambda _: None)
        assert await ask(ours) == 202
        assert await ask(stranger) == 200
        with pytest.raises(TimeoutError):
            await ask(ours)
        writer.close()


@pytest.mark.gen_test
async def test_a_closed_connection_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many pipelined requests, none is read after the first refused one, or once the peer is gone."""
    read = [0]
    parse = HTTP1Connection._parse_headers

    def count(request: HTTP1Connection, data: bytes) -> tuple[str, HTTPHeaders]:
        read[0] += 1
        return parse(request, data)

    monkeypatch.setattr(HTTP1Connection, "_parse_headers", count)
    monkeypatch.setattr(limits, "_REQUESTS", Rate.of(0.001, 3))
    async with running(client_address_header="Fly-Client-IP") as server:
        request = b"GET /health HTTP/1.1\r\nHost: x\r\nFly-Client-IP: 93.184.216.34\r\n\r\n"
        async with raw(server.port, request * 200) as peer:
            answers = await peer.read()
        assert [answers.count(status) for status in (b"HTTP/1.1 200", b"HTTP/1.1 429")] == [3, 1]
        await until(lambda: not len(open_connections(server)))
        await asyncio.sleep(0.05)
    assert read[0] == 4


@pytest.mark.gen_test
async def test_a_reset_connection_leaves_no_garbage() -> None:
    """A reset connection's objects are freed at once: hundreds would keep the garbage collector busy."""
    async with running() as server:
        narrow(server)
        for _ in range(3):
            peer = await deaf(server.port, WIDGET * 20)
            await until(lambda: any(each.unsent for each in server._http._open.values()))
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            gc.collect()
            gc.disable()
            try:
                peer.close()
                await until(lambda: not len(open_connections(server)))
                await asyncio.sleep(0.01)
                gc.set_debug(gc.DEBUG_SAVEALL)
                gc.collect()
                assert not [each for each in gc.garbage if isinstance(each, IOStream)]
            finally:
                gc.set_debug(0)
                gc.garbage.clear()
                gc.enable()


@pytest.mark.gen_test
async def test_streams_of_strangers_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many connections are readable, few of them are served in a turn of the loop."""
    turns, served = [0], list[int]()
    serve = PacedLoop._handle

    def count(loop: PacedLoop, stream: Any) -> None:
        served.append(turns[0])
        serve(loop, stream)

    async def tick() -> None:
        while True:
            turns[0] += 1
            await asyncio.sleep(0)

    async with running() as server:
        monkeypatch.setattr(PacedLoop, "_handle", count)
        peers = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(60)]
        await until(lambda: len(open_connections(server)) == 60)
        ticking = asyncio.create_task(tick())
        for peer in peers:  # all of them in one turn
            peer.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        for peer in peers:
            peer.setblocking(False)
            async with asyncio.timeout(5):
                answer = await asyncio.get_running_loop().sock_recv(peer, 65536)
            assert answer.startswith(b"HTTP/1.1 200")
            peer.close()
        ticking.cancel()
        per_turn = Counter(served)
    assert sum(per_turn.values()) >= 60
    assert max(per_turn.values()) <= EVENTS * MAX_PER_TURN


@pytest.mark.gen_test
async def test_a_newcomer_does_not_wait_behind_a_crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those who were accepted the addresses take turns, of one address the newest comes first, at times
    the oldest; no more wait than may.
    """
    async with (
        running(**{"server.file_descriptors.HTTP_CONNECTIONS": 40}) as server,
        contextlib.AsyncExitStack() as stack,
    ):
        listener, served = server._http, held_up(server, monkeypatch)
        peers = [
            socket.create_connection(("127.0.0.1", server.port), source_address=(address, 0))
            for address in ["127.0.0.1"] * 39 + ["127.0.0.2"] + ["127.0.0.1"] * 20
        ]
        for peer in peers:
            stack.callback(peer.close)
        await until(lambda: len(listener._accepted) == 40)
        assert not served
        monkeypatch.setattr(type(listener.gate), "allowed", 1)
        await until(lambda: len(served) >= OLDEST)
        ports = [peer.getsockname()[1] for peer in peers]
        assert served[:2] == [ports[38], ports[39]]
        assert min(map(ports.index, served[: OLDEST - 1])) > 39 - OLDEST
        assert served[OLDEST - 1] == ports[0]
        monkeypatch.undo()
        await until(lambda: len(open_connections(server)) == 40)
        await until(lambda: not listener._accepted)
        listener._accepted.add("127.0.0.1", _Accepted(0.0, socket.socket(), None))
        listener.sweep(time.monotonic())
        assert not listener._accepted
        assert server.node.limits.refused["handshake_timeout"] == 1


@pytest.mark.gen_test
async def test_a_newcomer_does_not_wait_behind_a_crowd_of_its_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a proxy, too, the addresses take turns: those that its header names."""
    async with running(client_address_header="Fly-Client-IP") as server, contextlib.AsyncExitStack() as stack:
        listener, served = server._http, held_up(server, monkeypatch)
        peers = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(41)]
        addresses = [b"8.8.8.8"] * 20 + [b"9.9.9.9"] + [b"8.8.8.8"] * 20
        for peer, address in zip(peers, addresses, strict=True):
            stack.callback(peer.close)
            peer.sendall(b"GET /widget.js HTTP/1.1\r\nHost: x\r\nFly-Client-IP: %b\r\n\r\n" % address)
        await until(lambda: len(listener._accepted) == 41)
        monkeypatch.setattr(type(listener.gate), "allowed", 1)
        await until(lambda: len(served) >= 2)
        assert served[:2] == [peers[40].getsockname()[1], peers[20].getsockname()[1]]
        monkeypatch.undo()
        for peer in peers:  # bodies that were checked are read all the same
            peer.setblocking(False)
            assert await asyncio.get_running_loop().sock_recv(peer, 12) == b"HTTP/1.1 200"


@pytest.mark.gen_test
async def test_a_stop_closes_waiting_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that stops while accepted sockets wait closes them, and logs nothing."""
    async with running() as server:
        monkeypatch.setattr(type(server._http.gate), "allowed", 0)
        peers = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(5)]
        await until(lambda: len(server._http._accepted) == 5)
    await asyncio.sleep(0)  # what was arranged for the next turn
    assert not server._http._accepted
    for peer in peers:
        assert peer.recv(1) == b""
        peer.close()


@pytest.mark.gen_test
async def test_pipelines_wait_for_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many requests that came at once are all answered, and no upgrade is kept out meanwhile."""
    monkeypatch.setattr("eclipse_ws.server.pacing.MAX_PER_TURN", 1)
    async with running() as server, contextlib.AsyncExitStack() as stack:
        readers = [
            await stack.enter_async_context(raw(server.port, WIDGET * 5 + b"GET /nope HTTP/1.0\r\n\r\n"))
            for _ in range(10)
        ]
        async with await Client.join(server.port) as client:
            await client.quiet()
        for reader in readers:
            assert (await reader.read()).count(b"HTTP/1.1 200") == 5


# -- bodies -------------------------------------------------------------------------------------


@pytest.mark.gen_test
@pytest.mark.parametrize("path", ["/api/chats/c1/events", "/api/chats/c1/messages/send"])
async def test_the_secret_is_checked_before_the_body(path: str) -> None:
    """Without it the answer comes before the body, none of which is kept; no 100 asks for it."""
    async with running(**{"config.settings.Settings.max_event": 1 << 20}) as server:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {1 << 20}\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head.encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 401")
        answer = b'{"error": "X-Internal-Secret is missing or wrong"}'
        assert await reader.readexactly(len(answer)) == answer
        writer.write(b"x" * 1000)
        await writer.drain()
        await asyncio.sleep(0.01)
        assert server._http.body_bytes == 0
        writer.write(b"x" * ((1 << 20) - 1000))
        assert await reader.read() == b""
        writer.close()


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("request_line", "status"),
    [("POST /nope", 411), ("GET /health", 411), ("POST /api/chats/c1/events", 401)],
)
async def test_chunks_of_strangers_are_not_read(request_line: str, status: int) -> None:
    """A chunked body, which is costly to read, is refused unread, and its sender can read why."""
    head = f"{request_line} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    async with running() as server, raw(server.port, head + b"1\r\nx\r\n" * 200_000) as reader:
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 %d" % status)
        (connection,) = open_connections(server).sending
        assert connection.stream._read_buffer_size <= CHUNK
        with contextlib.suppress(ConnectionError):
            await reader.read()
        await until(lambda: not len(open_connections(server)))


@pytest.mark.gen_test
async def test_a_refused_body_is_not_read_forever() -> None:
    """After a refusal only as many bytes are dropped as a body may have."""
    head = b"POST /api/chats/c1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with running(**{"config.settings.Settings.max_event": 65536}) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 401")
        with pytest.raises(ConnectionError):
            for _ in range(1000):
                writer.write(b"2000\r\n" + b"x" * 8192 + b"\r\n")
                await writer.drain()
        writer.transport.abort()


@pytest.mark.gen_test
@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/health", 200), ("POST", "/nope", 404)])
async def test_a_body_that_no_route_uses_is_not_kept(method: str, path: str, status: int) -> None:
    """It is read and dropped; the answer is the same as without it."""
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\n".encode()
    async with running() as server, raw(server.port, head + b"x" * 9999) as reader:
        await until(lambda: len(open_connections(server).receiving) == 1)
        await asyncio.sleep(0.01)
        assert server._http.body_bytes == 0
        del reader
        answer = await exchange(server.port, head + b"x" * 10000)
        assert answer.status == status


@pytest.mark.gen_test
async def test_bodies_have_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """All bodies together are bounded: the sender of one too many must retry, and its bytes are freed."""
    monkeypatch.setattr("eclipse_ws.server.listener.NODE_BODY_BYTES", 3000)
    head = f"POST /api/chats/c1/events HTTP/1.1\r\nHost: x\r\nX-Internal-Secret: {SECRET}\r\n".encode()
    half = head + b"Content-Length: 2001\r\n\r\n" + b"x" * 2000
    async with running() as server:
        async with raw(server.port, half) as reader:
            await until(lambda: server._http.body_bytes == 2000)
            answer = await exchange(server.port, half)
            assert (answer.status, answer.json["limit"]) == (503, "node_body_bytes")
            assert "retry-after" in answer.headers
            assert server._http.body_bytes == 2000
            assert not reader.at_eof()
        await until(lambda: server._http.body_bytes == 0)
        assert (await http(server.port, "/api/chats/c1/events", "POST", EVENT, headers=OURS)).status == 202
        assert server.node.limits.refused["node_body_bytes"] == 1


# -- the metrics --------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_metrics_of_production_are_not_public() -> None:
    """On the public port of production they need the secret, in either form; wrong ones are guesses."""
    async with running(profile="prod", **{"security.limits.GUESSES_PER_MINUTE": 3}, **FLY) as server:
        mine = {"Fly-Client-IP": "93.184.216.34"}
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {SECRET}"}):
            assert (await http(server.port, "/metrics", headers=mine | headers)).status == 401
        assert (await http(server.port, "/metrics", headers=mine)).status == 429
        for headers in (OURS, {"Authorization": f"Bearer {SECRET}"}):
            answer = await http(server.port, "/metrics", headers=headers)
            assert (answer.status, answer.headers["content-type"][:10]) == (200, "text/plain")
        assert (await http(server.port, "/health", headers=mine)).status == 200


@pytest.mark.gen_test
@pytest.mark.parametrize("port", ["admin_port", "metrics_port"])
async def test_metrics_of_production_on_their_own_port(port: str) -> None:
    """There they need no secret."""
    async with running(profile="prod", **{port: 0}) as server:
        assert (await http(getattr(server, port), "/metrics")).status == 200


# -- files --------------------------------------------------------------------------------------

NO_FILES = """
import asyncio, resource, sys, time
from tests.client import running
from tests.conftest import make_settings
from eclipse_ws.observability.logging import configure_logging

async def main():
    configure_logging(make_settings(), sys.stderr)
    async with running() as server:
        taken = open("/dev/null").fileno() + 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken + 15, 4096))
        began = time.process_time(), time.monotonic()
        print(server.port, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        used = time.process_time() - began[0]
        refused = server.node.limits.refused["file_limit"]
        print(used / (time.monotonic() - began[1]), refused, len(server._http.connections), flush=True)

asyncio.run(main())
"""


@pytest.mark.gen_test
async def test_accepting_pauses_without_file_descriptors() -> None:
    """Clients that connect without a free descriptor are closed at once, with one log line."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", NO_FILES, stdin=-1, stdout=-1, stderr=-1, cwd=Path(__file__).parents[2]
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        port = int(await process.stdout.readline())
        streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(40)]
        ends = [asyncio.create_task(reader.read()) for reader, _ in streams]
        await until(lambda: sum(end.done() for end in ends) >= 20)
        held = [writer for (_, writer), end in zip(streams, ends, strict=True) if not end.done()]
        assert len(held) > 5
        await asyncio.sleep(0.5)
        for _, writer in streams:
            writer.close()
        await asyncio.wait(ends)
        answer = None
        while answer is None:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                answer = await http(port, "/health")
        assert answer.status == 200
        said, log = await process.communicate(b"\n")
        load, refused, left = map(float, said.split())
        assert refused >= 20
        assert left <= 1
        assert log.count(b"accept paused") == 1
        assert b"Traceback" not in log
        assert load < 0.7, "accepting spins"
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
            await process.wait()


@pytest.mark.gen_test
async def test_errors_of_accept(monkeypatch: pytest.MonkeyPatch, expect_log: Any) -> None:
    """A socket that is already gone is skipped; any other error is one log line and a pause, not a loop."""
    expect_log("accept paused")
    async with running() as server:
        (listening,) = server._http._sockets.values()
        raised = [OSError(71, "Protocol error"), OSError(1, "Operation not permitted"), BlockingIOError()] * 2

        class Broken:
            def accept(self) -> Any:
                if raised:
                    raise raised.pop(0)
                return listening.accept()

            def fileno(self) -> int:
                return listening.fileno()

            def __getattr__(self, name: str) -> Any:
                return getattr(listening, name)

        monkeypatch.setattr("eclipse_ws.server.acceptor.ACCEPT_PAUSE", 0.01)
        server._http._accept(Broken(), 0)  # type: ignore[arg-type]
        assert len(raised) == 3  # the third was met by the one who turned others away
        answer = await http(server.port, "/health")
        assert answer.status == 200


@pytest.mark.gen_test
async def test_a_peer_that_leaves_before_tls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An error while a connection is set up affects only that connection."""
    authority = Authority(tmp_path)

    def broken(*_: object, **__: object) -> None:
        raise OSError(107, "Transport endpoint is not connected")

    async with running(**authority.settings) as server:
        with monkeypatch.context() as patch:
            patch.setattr("tornado.tcpserver.ssl_wrap_socket", broken)
            with pytest.raises((OSError, ssl.SSLError)):
                await asyncio.open_connection("127.0.0.1", server.port, ssl=authority.context())
        async with await join_tls(server.port, authority.context()) as client:
            await client.quiet()


@pytest.mark.gen_test
async def test_a_listener_leaves_no_file_descriptor() -> None:
    """The descriptor kept in reserve is closed with the others."""
    async with running() as server:
        reserve = server._http._reserve
        os.fstat(reserve)
    with pytest.raises(OSError):
        os.fstat(reserve)
