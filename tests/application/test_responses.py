"""Which responses of the application the client reads, against servers of bare bytes."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
import zlib

import pytest

from eclipse_ws.application.connection import MAX_HEAD
from eclipse_ws.application.http import HttpApi
from tests.application.conftest import CONTENT, failure, make_settings, send
from tests.application.raw_server import BODY, OK, SIZED, Peer, raw_server, talking


def chunked(body: bytes, size: int) -> bytes:
    """A chunked body."""
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


CHUNKED = b"%bTransfer-Encoding: chunked\r\n\r\n%b" % (OK, chunked(BODY, 7))
ZIPPED = gzip.compress(BODY)


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        (SIZED, True),
        (CHUNKED, True),
        (CHUNKED.removesuffix(b"\r\n") + b"Date: a trailer\r\n\r\n", True),
        (b"HTTP/1.1 103 Early Hints\r\nContent-Length: 9\r\n\r\nHTTP/1.1 102 Wait\r\n\r\n" + SIZED, True),
        (SIZED.replace(b"Content-Length", b"content-LENGTH"), True),
        (b"%bContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b" % (OK, len(ZIPPED), ZIPPED), True),
        (SIZED.replace(b"Content-Length", b"Connection: close\r\nContent-Length"), False),
        (SIZED.replace(b"HTTP/1.1", b"HTTP/1.0"), False),
        (SIZED.replace(b"HTTP/1.1 200 OK", b"HTTP/1.0 200 OK\r\nConnection: keep-alive"), True),
        (SIZED.replace(b"200 OK", b"200"), True),
        (SIZED.replace(b"\r\n", b"\n"), True),
        (SIZED + b"HTTP", False),
    ],
)
@pytest.mark.parametrize("pieces", ["whole", "bytes"])
async def test_valid_responses(answer: bytes, kept: bool, pieces: str) -> None:
    """Each is read, in one piece or byte by byte, and the connection is kept if it can be."""
    given = answer if pieces == "whole" else [answer[at : at + 1] for at in range(len(answer))]
    peer = Peer(given)
    async with talking(peer) as api:
        for _ in range(2):
            assert (await send(api)).content == CONTENT
    assert len(peer.requests) == (1 if kept else 2)


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n" + BODY, ""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "api_bad_answer"),
        (SIZED[:-1], "api_connection_lost"),
        (CHUNKED[:-5], "api_connection_lost"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "api_connection_lost"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n", "api_connection_lost"),
        (b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", "api_bad_answer"),
        (b"HTTP/2.0 200 OK\r\n\r\n", "api_bad_answer"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "api_bad_answer"),
        (b"GET / HTTP/1.1\r\n\r\n", "api_bad_answer"),
        (SIZED.replace(b"\r\n\r\n", b"\r\nContent-Length: 7\r\n\r\n"), "api_bad_answer"),
        (SIZED.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n"), "api_bad_answer"),
        (b"%bTransfer-Encoding: chunked\r\n\r\nzz\r\n" % OK, "api_bad_answer"),
        (b"%bContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nplain" % OK, "api_bad_answer"),
        (b"%bContent-Encoding: gzip\r\nContent-Length: 20\r\n\r\n%b" % (OK, ZIPPED[:20]), "api_bad_answer"),
        (OK + b"X: y\r\n" * 20_000, "api_bad_answer"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n" * 4_000, "api_bad_answer"),
        (OK + b"X: " + b"y" * (MAX_HEAD + 9), "api_bad_answer"),
        (b"%bTransfer-Encoding: chunked\r\n\r\n%b" % (OK, chunked(b"x" * 3_000_000, 9999)), "api_bad_answer"),
        (b"%bContent-Length: 999999999\r\n\r\n%b" % (OK, b"x" * 3_000_000), "api_bad_answer"),
    ],
)
async def test_responses_whose_connection_ends(answer: bytes, code: str) -> None:
    """A close ends a body of unknown length; anything else that is not a whole response is an error."""
    async with talking(Peer(answer, closes=True)) as api:
        if code:
            error = await failure(send(api))
            assert (error.code, error.outcome_unknown) == (code, True)
        else:
            assert (await send(api)).content == CONTENT


@pytest.mark.gen_test
@pytest.mark.parametrize("name", ["Set-Cookie", "set-cookie"])
async def test_several_cookies(name: str) -> None:
    """Each Set-Cookie line is read, except one that is not text."""
    head = b"%b%b: AWSALB=1\r\n%b: GCLB=2, 3\r\nSet-Cookie: route=a\x01b\r\n" % (OK, *[name.encode()] * 2)
    peer = Peer(SIZED.replace(OK, head), SIZED)
    async with talking(peer) as api:
        for _ in range(2):
            await send(api)
    assert b"\r\nCookie: AWSALB=1; GCLB=2, 3\r\n" in peer.requests[0][1]
    assert b"route" not in peer.requests[0][1]


@pytest.mark.gen_test
async def test_an_answer_before_the_whole_request() -> None:
    """A server may refuse a body before it has read it."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        await reader.read()

    async with raw_server(refuse) as url:
        api = HttpApi(make_settings(next_api_url=url))
        await api.start()
        error = await failure(api.send_message("chat-1", "u", "x" * 250_000, "USER"))
        await api.close()
    assert (error.code, error.outcome_unknown) == ("api_rejected", False)


@pytest.mark.gen_test(timeout=20)
async def test_a_small_response_that_becomes_large() -> None:
    """What exceeds the limit is not decompressed."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = bytes(1 << 20)
    bomb = b"".join(squeeze.compress(zeros) for _ in range(200)) + squeeze.flush()
    head = b"%bContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % (OK, len(bomb))
    async with talking(Peer(head + bomb)) as api:
        tracemalloc.start()
        error = await failure(send(api))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert error.code == "api_bad_answer"
    assert peak < 20_000_000
