"""Upgrades that arrive whole, and the same ones in pieces: Tornado reads those, and the answers are equal."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator
from typing import Any

import pytest

from eclipse_ws.server.acceptor import Acceptor
from eclipse_ws.server.server import Server
from tests.client import running, token
from tests.websocket.peer import KEY, TEXT, client_frame, upgrade

WAIT = 5.0
VARIES = re.compile(
    rb'Date: [^\r]*|"(?:connectionId|timestamp|cursor|expiresAt|sessionId|resumed)":(?:"[^"]*"|\w+)',
    re.DOTALL,
)
"""What differs from one session to the next."""
TOKEN = token()


def asked(query: str = f"token={TOKEN}", path: str = "/ws", **headers: str | None) -> bytes:
    """A request for an upgrade with these headers."""
    return upgrade(f"{path}?{query}" if query else path, **headers)


async def answer(server: Server, *pieces: bytes, pause: float = 0.03) -> bytes:
    """The first response, with the greeting or the close frame behind it, except for what varies."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    for piece in pieces:
        writer.write(piece)
        await asyncio.sleep(pause if len(pieces) > 1 else 0)
    said = b""
    with contextlib.suppress(ConnectionError):
        while not is_complete(said) and (more := await asyncio.wait_for(reader.read(65536), WAIT)):
            said += more
    writer.close()
    return VARIES.sub(b"~", said)


def is_complete(said: bytes) -> bool:
    """Whether a response has ended, or a session has been greeted or closed."""
    head, _, rest = said.partition(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 101 "):
        return b'"connected"' in rest or rest[:1] in (b"\x88", b"\xc1")
    length = re.search(rb"Content-Length: (\d+)", head)
    return length is not None and len(rest) >= int(length[1])


@pytest.fixture
def by_tornado(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The sockets that were given to Tornado."""
    given: list[Any] = []
    handle = Acceptor._handle_connection

    def note(self: Acceptor, connection: Any, address: Any) -> None:
        given.append(address)
        handle(self, connection, address)

    monkeypatch.setattr(Acceptor, "_handle_connection", note)
    yield given


PLAIN = {
    "a session": asked(),
    "at /": asked(path="/"),
    "our subprotocol": asked(sec_websocket_protocol="eclipse.v1, other"),
    "a token in the subprotocol": asked("", sec_websocket_protocol=f"eclipse.v1, bearer.{TOKEN}"),
    "a token in a header": asked("", authorization=f"Bearer {TOKEN}"),
    "a browser's": asked(
        origin="http://localhost:3000",
        user_agent="Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140",
        accept_encoding="gzip, deflate, br, zstd",
        accept_language="ar,en;q=0.9",
        cache_control="no-cache",
        pragma="no-cache",
        sec_fetch_site="cross-site",
        sec_websocket_extensions="permessage-deflate; client_max_window_bits",
    ),
    "Connection with two values": asked(connection="keep-alive, Upgrade"),
    "WebSocket in capitals": asked(upgrade="WEBSOCKET", connection="upgrade"),
    "spaces around values": asked(x_more="  a value \t", host="localhost "),
    "an escaped query": asked(f"token={TOKEN}&x=%20%ff+&&=&y"),
    "no token": asked(""),
    "a bad token": asked("token=x"),
    "a cursor": asked(f"token={TOKEN}&cursor=abc.1"),
}
"""Those that need no Tornado."""

ODD = {
    "an upgrade of HTTP/1.0": upgrade(f"/ws?token={TOKEN}", "HTTP/1.0"),
    "an upgrade of HTTP/1.2": upgrade(f"/ws?token={TOKEN}", "HTTP/1.2"),
    "an upgrade of HTTP/2": upgrade(f"/ws?token={TOKEN}", "HTTP/2.0"),
    "no host": asked(host=None),
    "an empty host": asked(host=""),
    "a host with a space": asked(host="a b"),
    "two hosts": asked(host="a, b"),
    "a path of nothing": asked(path="/nope"),
    "an absolute URI": asked(path="http://localhost/ws"),
    "a fragment": asked(f"token={TOKEN}#x"),
    "a wrong version": asked(sec_websocket_version="8"),
    "no version": asked(sec_websocket_version=None),
    "a short key": asked(sec_websocket_key="c2hvcnQ="),
    "no key": asked(sec_websocket_key=None),
    "a key with bits left over": asked(sec_websocket_key=KEY[:21] + "x=="),
    "another upgrade": asked(upgrade="h2c"),
    "two upgrades": asked(upgrade="websocket, h2c"),
    "no Connection": asked(connection=None),
    "Connection: close": asked(connection="close"),
    "a foreign page": asked(origin="https://evil.example"),
    "an origin that is not a URL": asked(origin="http://["),
    "a browser without an origin": asked(sec_fetch_site="cross-site"),
    "a header twice": asked().replace(b"upgrade:", b"x: 1\r\nx: 2\r\nupgrade:"),
    "a version twice": asked().replace(b"upgrade:", b"Sec-WebSocket-Version: 13\r\nupgrade:"),
    "a host twice": asked().replace(b"upgrade:", b"host: other\r\nupgrade:"),
    "a folded header": asked().replace(b"upgrade:", b"x: 1\r\n  2\r\nupgrade:"),
    "a space before the colon": asked().replace(b"upgrade:", b"x : 1\r\nupgrade:"),
    "a header without a name": asked().replace(b"upgrade:", b": 1\r\nupgrade:"),
    "a header in UTF-8": asked(x_name="é"),
    "a zero byte": asked(x_name="a\0b"),
    "bare line feeds": asked().replace(b"\r\n", b"\n"),
    "a line feed in front": b"\r\n" + asked(),
    "POST": asked().replace(b"GET", b"POST"),
    "lower case": asked().replace(b"GET", b"get"),
    "no upgrade": b"GET /ws HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "an empty body": asked(content_length="0"),
    "a chunked body": asked(transfer_encoding="chunked") + b"0\r\n\r\n",
    "a long token": asked("token=" + "x" * 12_000),
    "16 KB of headers": asked(x_long="x" * 16_384),
    "many headers": asked().replace(
        b"upgrade:", b"".join(b"x%d: 1\r\n" % n for n in range(100)) + b"upgrade:"
    ),
    "too many headers": asked().replace(
        b"upgrade:", b"".join(b"x%d: 1\r\n" % n for n in range(140)) + b"upgrade:"
    ),
    "many arguments": asked("&".join(f"x{n}=1" for n in range(50)) + f"&token={TOKEN}"),
    "a frame behind it": asked() + client_frame(TEXT, b'{"type":"ping"}'),
    "two requests": asked() + asked(),
}
"""Those that Tornado reads, however they arrive."""


@pytest.mark.gen_test
@pytest.mark.parametrize("request_bytes", PLAIN.values(), ids=PLAIN.keys())
async def test_a_plain_upgrade(request_bytes: bytes, by_tornado: list[Any]) -> None:
    """Whole, it becomes a session without Tornado; in two pieces, with it; the client can't tell."""
    async with running() as server:
        whole = await answer(server, request_bytes)
        assert not by_tornado
        pieces = await answer(server, request_bytes[:40], request_bytes[40:])
        assert len(by_tornado) == 1
        assert whole == pieces
        assert whole.startswith(b"HTTP/1.1 101 ")


@pytest.mark.gen_test
@pytest.mark.parametrize("request_bytes", ODD.values(), ids=ODD.keys())
async def test_an_odd_upgrade(request_bytes: bytes, by_tornado: list[Any]) -> None:
    """Tornado reads it, whether it arrives whole or in two pieces, and says the same."""
    async with running() as server:
        whole = await answer(server, request_bytes)
        pieces = await answer(server, request_bytes[:40], request_bytes[40:])
        assert len(by_tornado) == 2
        assert whole == pieces


@pytest.mark.gen_test
async def test_an_upgrade_split_at_every_byte() -> None:
    """Wherever an upgrade is cut, the session begins; byte by byte, too."""
    said = asked()
    async with running(max_sessions_per_address=10_000) as server:
        whole = await answer(server, said)
        assert await answer(server, *(said[n : n + 1] for n in range(len(said))), pause=0) == whole
        cuts = range(1, len(said))
        answers = await asyncio.gather(*(answer(server, said[:n], said[n:]) for n in cuts))
        assert set(answers) == {whole}


REFUSED: dict[str, tuple[dict[str, Any], bytes]] = {
    "max_sessions": ({"max_sessions": 1}, b"HTTP/1.1 503"),
    "max_sessions_per_address": ({"max_sessions_per_address": 1}, b"HTTP/1.1 429"),
}


@pytest.mark.gen_test
@pytest.mark.parametrize("limit", REFUSED)
async def test_a_refusal_is_counted_once(limit: str, by_tornado: list[Any]) -> None:
    """A plain upgrade that exceeds a limit gets Tornado's answer, and counts as one refusal."""
    settings, status = REFUSED[limit]
    async with running(**settings) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(asked())
        await asyncio.wait_for(reader.readuntil(b"connected"), WAIT)
        assert by_tornado == []
        said = await answer(server, asked())
        assert said.startswith(status)
        assert len(by_tornado) == 1
        assert server.node.limits.refused[limit] == server.node.counts.upgrades_refused[limit] == 1
        assert server.node.sessions == 1
        writer.close()


@pytest.mark.gen_test
async def test_a_drain_refuses_plain_upgrades() -> None:
    """While the server drains, a plain upgrade gets 503."""
    async with running() as server:
        server.node.draining = True
        assert (await answer(server, asked())).startswith(b"HTTP/1.1 503 ")


@pytest.mark.gen_test
async def test_compression_is_left_to_tornado(by_tornado: list[Any]) -> None:
    """A server that compresses negotiates that in Tornado's handshake."""
    async with running(compression=True) as server:
        said = await answer(server, asked(sec_websocket_extensions="permessage-deflate"))
        assert b"permessage-deflate" in said
        assert len(by_tornado) == 1


@pytest.mark.gen_test
async def test_the_response_and_the_greeting_are_one_write() -> None:
    """A new session costs one write, and counts as one frame."""
    async with running() as server:
        stats = server.node.wire_stats
        said = await answer(server, asked())
        assert said.count(b"connected") == 1
        assert (stats.sends, stats.frames_out) == (1, 1)
