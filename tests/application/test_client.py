"""What the client sends, and which connections it keeps, against servers of bare bytes."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
import trustme
import uvloop

from eclipse_ws.application.call import Call
from eclipse_ws.application.client import ApiClient
from eclipse_ws.application.http import HttpApi
from eclipse_ws.application.redirects import Route
from eclipse_ws.application.response import TransportError
from tests.application.conftest import CONTENT, failure, make_settings, send
from tests.application.raw_server import OK, SIZED, Peer, deaf_server, raw_server, read_request, talking

# -- requests -------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_the_bytes_of_a_request() -> None:
    """A POST has its length, a GET no body; both name the host."""
    peer = Peer(SIZED, b'%bContent-Length: 10\r\n\r\n{"id":"u"}' % OK)
    async with talking(peer) as api:
        await send(api, key="k-1")
        await api.user("u")
    post, get = peer.requests[0]
    head, _, body = post.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /api/chats/chat-1/messages/send HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"\r\nIdempotency-Key: k-1\r\n" in head
    assert head.endswith(b"\r\nContent-Length: %d" % len(body))
    assert json.loads(body)["content"] == CONTENT
    assert get.startswith(b"GET /api/users/u HTTP/1.1\r\nHost: 127.0.0.1:")
    assert get.endswith(b"\r\n\r\n")
    assert b"Content-Length" not in get


@pytest.mark.gen_test
async def test_a_base_path_with_other_letters() -> None:
    """It is percent-encoded, unless it is already."""
    peer = Peer(SIZED)
    async with raw_server(peer) as url:
        api = HttpApi(make_settings(next_api_url=f"{url}/ü%20b/"))
        await api.start()
        await send(api)
        await api.close()
    assert peer.requests[0][0].startswith(b"POST /%C3%BC%20b/api/chats/")


# -- connections ----------------------------------------------------------------------------------


@pytest.mark.gen_test
@patch("eclipse_ws.application.http.MAX_IDLE", 0.1)
async def test_an_unused_connection_is_closed() -> None:
    """After a while, before the server does it; one that is used stays open."""
    peer = Peer(SIZED)
    async with talking(peer) as api:
        for _ in range(8):
            await send(api)
            await asyncio.sleep(0.03)
        assert len(peer.requests) == 1
        await asyncio.sleep(0.2)
        await send(api)
        assert len(peer.requests) == 2


@pytest.mark.gen_test
async def test_the_last_used_connection_is_used_first() -> None:
    """So those that a burst has opened are closed again when it is over."""
    peer = Peer(SIZED)
    async with talking(peer) as api:
        await asyncio.gather(*(send(api) for _ in range(3)))
        for _ in range(5):
            await send(api)
    assert sorted(len(requests) for requests in peer.requests) == [1, 1, 6]


@pytest.mark.gen_test
async def test_a_connection_that_the_server_closes_before_the_loop_looks() -> None:
    """A server's close that has arrived, but that the event loop hasn't reported, costs no message."""
    answered = threading.Event()
    connections = []

    def serve(listening: socket.socket) -> None:
        for _ in range(2):
            connection, _ = listening.accept()
            connections.append(connection)
            received = b""
            while CONTENT.encode() not in received:
                received += connection.recv(65536)
            connection.sendall(SIZED)
            answered.wait(5)
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        api = HttpApi(make_settings(next_api_url=f"http://127.0.0.1:{listening.getsockname()[1]}"))
        await api.start()
        thread = threading.Thread(target=serve, args=[listening])
        thread.start()
        await send(api)
        answered.set()
        time.sleep(0.1)  # noqa: ASYNC251 - the loop must not run until the close has arrived
        assert (await send(api)).content == CONTENT
        await api.close()
        thread.join()
    assert len(connections) == 2


@pytest.mark.gen_test
async def test_bytes_that_nobody_asked_for() -> None:
    """A server may say that it closes an idle connection (408): nothing is sent over it any more."""
    connections: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(0)
        while True:
            await read_request(reader)
            connections[-1] += 1
            writer.write(SIZED)
            await asyncio.sleep(0.02)
            writer.write(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")

    async with raw_server(serve) as url:
        api = HttpApi(make_settings(next_api_url=url))
        await api.start()
        for _ in range(3):
            assert (await send(api)).content == CONTENT
            await asyncio.sleep(0.05)
        await api.close()
    assert connections == [1, 1, 1]


@pytest.mark.gen_test
async def test_a_client_that_is_closed_in_the_turn_of_a_request() -> None:
    """Nothing is sent afterwards, and no connection is opened."""
    peer = Peer(SIZED)
    async with raw_server(peer) as url:
        client = ApiClient(origin=url, max_body_size=1000, connect_timeout=1, max_idle=1)
        call = Call("GET user", "user_not_found", Route(url), "/api/users/u", {})
        future = client.fetch(call.request(asyncio.get_running_loop().time() + 1))
        client.close()
        with pytest.raises(TransportError) as caught:
            await future
        await asyncio.sleep(0.05)
    assert (caught.value.reason, call.sent, call.under_way) == ("stopping", False, False)
    assert peer.requests == []


@pytest.mark.gen_test
async def test_a_lookup_is_sent_again_once() -> None:
    """A GET whose kept connection is lost goes over a new one; if that is lost, over no other."""
    seen: list[int] = []
    user = b'%bContent-Length: 10\r\n\r\n{"id":"u"}' % OK

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(seen)
        seen.append(0)
        while True:
            await read_request(reader)
            seen[number] += 1
            if seen[number] == 2 or number == 2:
                return  # closes: at the second request of a connection, and at the first of the third
            writer.write(user)

    async with raw_server(serve) as url:
        api = HttpApi(make_settings(next_api_url=url))
        await api.start()
        for _ in range(2):
            assert (await api.user("u")).id == "u"
        assert seen == [2, 1]
        assert (await failure(api.user("u"))).code == "api_connection_lost"
        assert seen == [2, 2, 1]
        await api.close()


@pytest.mark.gen_test
async def test_a_call_that_is_cancelled_before_it_is_sent() -> None:
    """It is not sent, its slot is free again, and the connection carries the next call."""
    peer = Peer(SIZED)
    async with talking(peer) as api:
        for is_connected in (False, True):
            call = asyncio.ensure_future(send(api))
            await asyncio.sleep(0)  # it has begun, and nothing is sent before the loop's next turn
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            while api.stats.active:  # noqa: ASYNC110 - what is awaited is a counter
                await asyncio.sleep(0.001)
            if not is_connected:
                await send(api)
        await send(api)
    assert [len(requests) for requests in peer.requests] == [2]


@pytest.mark.gen_test
async def test_requests_of_one_turn(io_loop: Any) -> None:
    """More at once than there are connections, from one turn of the loop: none is lost, each is sent once."""
    peer = Peer(SIZED)
    async with talking(peer, api_max_connections=7) as api:
        for _ in range(3):
            await asyncio.gather(*(send(api) for _ in range(40)))
    assert sum(map(len, peer.requests)) == 120
    assert len(peer.requests) == 7


@pytest.mark.gen_test(timeout=10)
async def test_a_host_whose_first_address_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next address is tried soon after; nobody waits for the first one's timeout."""
    peer = Peer(SIZED)
    with deaf_server("127.0.0.2") as silent:
        async with talking(peer) as api:
            port = int(api._send.address.origin.rpartition(":")[2])
            addresses = ("127.0.0.2", silent), ("127.0.0.1", port)
            found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: found)
            began = asyncio.get_running_loop().time()
            await send(api)
            assert 0.2 < asyncio.get_running_loop().time() - began < 2


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("name", "tls", "said"),
    [("127.0.0.1", True, ""), ("example.org", True, "IP address mismatch"), ("127.0.0.1", False, "")],
)
async def test_tls(authority: trustme.CA, trusted: str, name: str, tls: bool, said: str) -> None:
    """Messages share a connection; with a certificate for another host, or none, nothing is sent."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    peer = Peer(SIZED, SIZED, [SIZED[at : at + 9] for at in range(0, len(SIZED), 9)])
    async with raw_server(peer, ssl=context if tls else None) as url:
        api = HttpApi(
            make_settings(next_api_url=url.replace("http:", "https:"), api_ca=trusted, api_timeout=1)
        )
        await api.start()
        if said or not tls:
            error = await failure(send(api))
            assert error.code in ("api_unavailable", "api_timeout")
            assert not error.outcome_unknown
            assert said in str(error)
        else:
            for _ in range(4):
                assert (await send(api)).content == CONTENT
            assert [len(requests) for requests in peer.requests] == [4]
        await api.close()


def test_on_uvloop() -> None:
    """The other event loop does the same."""

    async def main() -> None:
        peer = Peer(SIZED)
        async with talking(peer) as api:
            await asyncio.gather(*(send(api) for _ in range(20)))
            for _ in range(5):
                await send(api)
        assert sum(map(len, peer.requests)) == 25

    uvloop.run(main())


@pytest.mark.gen_test
@pytest.mark.parametrize("wait", [lambda: asyncio.sleep(0), lambda: asyncio.sleep(0.02)])
async def test_a_close_of_the_server_while_calls_connect(wait: Callable[[], Any]) -> None:
    """Calls that have not been sent when the client closes are certain not to have been."""
    peer = Peer(SIZED)
    async with raw_server(peer) as url:
        api = HttpApi(make_settings(next_api_url=url.replace("127.0.0.1", "localhost")))
        await api.start()
        calls = [asyncio.ensure_future(send(api)) for _ in range(5)]
        await wait()
        await api.close()
        for done in await asyncio.gather(*calls, return_exceptions=True):
            assert getattr(done, "content", CONTENT) == CONTENT
            assert getattr(done, "outcome_unknown", False) is False
