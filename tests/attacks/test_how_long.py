"""How long and how large: the times of a connection, each from its own beginning, and exact bounds."""

from __future__ import annotations

import asyncio
import time

import pytest

from eclipse_ws.server.connections import CUTS_PER_TURN
from tests.attacks.test_http import FLY, deaf, narrow, open_connections, raw, slow
from tests.client import exchange, http, running, until
from tests.server.test_connections import (
    ASKED,
    CALL,
    HISTORY,
    NOTE,
    PUBLISH,
    QUIET,
    TIMEOUT,
    TRUSTED,
    connect,
    is_open,
    refused,
    unanswered,
)

HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n"


def header_of(length: int) -> bytes:
    """A request whose headers are so many bytes long."""
    return HEALTH + b"X: " + b"x" * (length - len(HEALTH) - 7) + b"\r\n\r\n"


@pytest.mark.gen_test
@pytest.mark.parametrize("most", [2048, 65536])
async def test_headers_have_a_maximum_length(most: int) -> None:
    """Headers of exactly the maximum are answered; one byte more closes the connection."""
    async with running(**{"server.listener.MAX_HEADER_BYTES": most}) as server:
        assert len(header_of(most)) == most
        assert (await exchange(server.port, header_of(most))).status == 200
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await exchange(server.port, header_of(most + 1))
        await until(lambda: refused(server, "max_header_bytes") == [1])


@pytest.mark.gen_test
async def test_headers_have_a_maximum_of_lines() -> None:
    """A request of 128 lines, with its first and the empty one, is answered; one of 129 is not."""
    async with running() as server:
        for lines, status in ((128, 200), (129, 400)):
            assert (await exchange(server.port, HEALTH + b"a:b\r\n" * (lines - 3) + b"\r\n")).status == status


@pytest.mark.gen_test
@pytest.mark.parametrize("most", [2000, 100_000])
async def test_chunked_bodies_have_a_maximum_length(most: int) -> None:
    """A chunked body may have ``max_body`` bytes, and not one more."""
    async with running(**{"config.settings.Settings.max_event": most}) as server:
        for more, status in ((0, 202), (1, 413)):
            body = NOTE + b" " * (most - len(NOTE) + more)
            chunks = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in (body[:999], body[999:]))
            head = TRUSTED.rpartition(b"Content")[0] + b"Transfer-Encoding: chunked\r\n\r\n"
            assert (await exchange(server.port, head + chunks + b"0\r\n\r\n")).status == status


@pytest.mark.gen_test
async def test_a_refused_head_has_no_body() -> None:
    """The answer to HEAD has the length that another method's would have, and nothing after its headers."""
    async with running() as server:
        answers = []
        for method in (b"HEAD", b"POST"):
            call = CALL.replace(b"POST", method) + b"Content-Length: 0\r\n\r\n"
            async with raw(server.port, call) as reader:
                answers.append(await reader.read())
        (head, nothing), (other, body) = (each.split(b"\r\n\r\n") for each in answers)
        assert head == other
        assert head.startswith(b"HTTP/1.1 401 ")
        assert (nothing, body[:1]) == (b"", b"{")


# -- times --------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_headers_and_body_share_one_timeout() -> None:
    """The timeout of a first request starts with its connection, and not again with its body."""
    async with running(**QUIET, **FLY) as server:
        peer = connect(server)
        await until(lambda: len(open_connections(server)) == 1)
        began = time.monotonic()
        await asyncio.sleep(0.02)
        peer.send(slow("8.8.8.8"))
        await until(lambda: open_connections(server).addresses == 1)
        server._http.sweep(began + TIMEOUT - 10)
        assert is_open(peer)
        server._http.sweep(began + TIMEOUT)
        assert not is_open(peer)
        assert refused(server, "handshake_timeout", "answer_timeout") == [1, 0]
        peer.close()


@pytest.mark.gen_test
async def test_a_later_body_has_the_timeout_of_a_request() -> None:
    """The idle timeout of a connection does not apply to the body of a later request."""
    async with running(**QUIET, **FLY) as server:
        peer = connect(server, ASKED)
        await until(lambda: len(open_connections(server).idle) == 1)
        server._http.sweep(time.monotonic() + 65)
        assert is_open(peer)
        peer.send(slow("8.8.8.8"))
        await until(lambda: open_connections(server).addresses == 1)
        server._http.sweep(time.monotonic() + TIMEOUT - 10)
        assert is_open(peer)
        server._http.sweep(time.monotonic() + TIMEOUT)
        assert not is_open(peer)
        assert refused(server, "handshake_timeout", "answer_timeout") == [1, 0]
        peer.close()


@pytest.mark.gen_test
async def test_an_idle_connection_is_closed_silently() -> None:
    """A connection between two requests is closed after ``idle_timeout``; that counts as no refusal."""
    async with running(**{**QUIET, "server.listener.IDLE_TIMEOUT": 17}) as server:
        before = server.node.limits.refused.copy()
        for said in (ASKED, PUBLISH):
            peer = connect(server, said)
            table = open_connections(server)
            await until(lambda table=table: any(each.headless for each in [*table.idle, *table.trusted]))
            server._http.sweep(time.monotonic() + 7)
            assert is_open(peer)
            server._http.sweep(time.monotonic() + 17)
            assert not is_open(peer)
            peer.close()
        assert server.node.limits.refused == before


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "said",
    [
        HISTORY,
        HISTORY[:-2] + b"Content-Length: 5\r\n\r\nxxxxx",
        PUBLISH,
    ],
    ids=["no body", "a body", "the application"],
)
async def test_a_handler_has_its_own_timeout(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a request is answered its connection stays, until the handler's timeout."""
    async with running(**QUIET, **FLY) as server, unanswered(server, monkeypatch):
        peer, table = connect(server, said), open_connections(server)
        await until(lambda: any("_execute" in repr(task) for task in asyncio.all_tasks()))
        server._http.sweep(time.monotonic() + TIMEOUT + 65)
        assert is_open(peer)
        server._http.sweep(time.monotonic() + TIMEOUT + 75)
        assert not is_open(peer)
        assert len(table) == 0
        assert refused(server, "handshake_timeout", "answer_timeout") == [0, 1]
        peer.close()


@pytest.mark.gen_test
async def test_overdue_connections_are_closed_in_parts() -> None:
    """One sweep closes all overdue connections, a few in each turn, and no others."""
    count = 3 * CUTS_PER_TURN + 1
    async with running(**QUIET) as server:
        crowd = [connect(server, b"GET") for _ in range(count)]
        await until(lambda: len(open_connections(server)) == count)
        idle = connect(server, ASKED)
        await until(lambda: len(open_connections(server).idle) == 1)
        server._http.sweep(time.monotonic() + TIMEOUT)
        assert len(open_connections(server)) == count + 1 - CUTS_PER_TURN
        await until(lambda: len(open_connections(server)) == 1)
        assert is_open(idle)
        assert refused(server, "handshake_timeout") == [count]
        for peer in (idle, *crowd):
            peer.close()


# -- connections that have sent the secret ------------------------------------------------------


@pytest.mark.gen_test
async def test_the_secret_protects_only_its_own_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that sends a request without the secret, after one with it, gives way like any other."""
    async with (
        running(**{"server.file_descriptors.HTTP_CONNECTIONS": 1}, **QUIET) as server,
        unanswered(server, monkeypatch),
    ):
        peer = connect(server, TRUSTED + b"1\r\n\r\n{")
        peer.send(HISTORY)
        await until(lambda: len(open_connections(server).handling) == 1)
        assert (await http(server.port, "/health")).status == 200
        assert not is_open(peer)
        assert refused(server, "max_handshakes") == [1]
        peer.close()


@pytest.mark.gen_test
async def test_an_answer_to_the_application_must_be_read_in_time() -> None:
    """An unread answer closes its connection after the same time, with the secret or without."""
    async with running(**QUIET) as server:
        narrow(server)
        peer, table = await deaf(server.port, PUBLISH * 300), open_connections(server)
        await until(lambda: any(each.unsent for each in table.trusted))
        await until(lambda: server._http.sweep(time.monotonic() + TIMEOUT) or not len(table))
        assert refused(server, "answer_timeout", "handshake_timeout") == [1, 0]
        peer.close()
