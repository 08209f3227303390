"""TLS in this process and compressed sessions: the same socket with one more layer."""

import asyncio
import gc
import itertools
import random
import socket
import ssl
import zlib
from typing import Any

import pytest
import trustme
from websockets.asyncio.client import connect

from eclipse_ws.websocket import Audience, text_frame
from eclipse_ws.websocket.deflate import accepted_offer, deflated
from eclipse_ws.websocket.layered import LayeredSocket
from tests.websocket.peer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Peer,
    Recorder,
    client_frame,
    close_frame,
    one_session,
    open_descriptors,
    serving,
    stats,
    until,
    upgrade,
)

FIN = 0x80
ONE = client_frame(TEXT, b"1")
BIG = text_frame(b"x" * 50_000)
OFFER = {"Sec_WebSocket_Extensions": "permessage-deflate; client_max_window_bits"}


class Deflates(Recorder):
    """Compresses if the client wants it."""

    def get_compression_options(self) -> dict[str, Any] | None:
        """Yes, with the usual level."""
        return {}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """The issuer of the server's certificate."""
    return trustme.CA()


@pytest.fixture
def server_side(authority: trustme.CA) -> ssl.SSLContext:
    """The server's side of TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    return context


@pytest.fixture
def client_side(authority: trustme.CA) -> ssl.SSLContext:
    """The client's side of TLS."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_offers() -> None:
    """The first acceptable offer is accepted, always without context takeover."""
    base = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    assert accepted_offer("") is None
    assert accepted_offer("x-webkit-deflate-frame") is None
    assert accepted_offer("permessage-deflate") == base
    assert accepted_offer("Permessage-Deflate; client_max_window_bits") == base
    assert accepted_offer("permessage-deflate; client_max_window_bits=8; server_no_context_takeover") == base
    assert (
        accepted_offer('permessage-deflate; server_max_window_bits="10"')
        == f"{base}; server_max_window_bits=10"
    )
    for bad in (
        "server_max_window_bits=8",
        "server_max_window_bits=16",
        "server_max_window_bits",
        "client_max_window_bits=7",
        "server_no_context_takeover=1",
        "unheard_of",
        "client_max_window_bits; client_max_window_bits",
    ):
        assert accepted_offer(f"permessage-deflate; {bad}") is None
        assert accepted_offer(f"permessage-deflate; {bad}, permessage-deflate") == base


@pytest.mark.parametrize("size", [64, 200, 70_000])
def test_a_frame_is_compressed_once_for_all(size: int) -> None:
    """A compressed frame decompresses to its payload, and comes from the cache the second time."""
    frame = text_frame(b"a" * size)
    compressed = deflated(frame, 6, 8, 15)
    assert compressed[0] == 0xC1
    header = 4 if compressed[1] == 126 else 2
    assert zlib.decompressobj(-15).decompress(compressed[header:] + b"\x00\x00\xff\xff") == b"a" * size
    assert deflated(frame, 6, 8, 15) is compressed
    assert len(compressed) < len(frame)


def test_small_and_control_frames_are_not_compressed() -> None:
    """What is too small to gain, and what must not be compressed, goes out as it is."""
    assert deflated(text_frame(b"a" * 63), 6, 8, 15) == text_frame(b"a" * 63)
    assert deflated(b"\x89\x64" + b"x" * 100, 6, 8, 15) == b"\x89\x64" + b"x" * 100


@pytest.mark.gen_test
async def test_a_compressed_session() -> None:
    """Messages are compressed both ways, without context takeover, and audiences mix with plain members."""
    async with serving(Deflates) as server:
        url = f"ws://127.0.0.1:{server.port}/"
        async with connect(url) as client, connect(url, compression=None) as plain:
            answer = client.response.headers["Sec-WebSocket-Extensions"]
            assert "server_no_context_takeover" in answer
            assert "client_no_context_takeover" in answer
            assert "Sec-WebSocket-Extensions" not in plain.response.headers
            for size in (0, 10, 1000, 60_000):
                await client.send("x" * size)
                assert await client.recv() == "x" * size
                await client.send(b"y" * size)
                assert await client.recv() == b"y" * size
            audience = Audience()
            for session in server.sessions:
                audience.add(session.wire)
            before = stats.bytes_out
            for _ in range(3):
                audience.send(text_frame(b"z" * 10_000))
            for peer in (client, plain):
                for _ in range(3):
                    assert await peer.recv() == "z" * 10_000
            assert stats.bytes_out - before < 3 * 10_000 + 1000
            assert isinstance(server.sessions[0].wire, LayeredSocket)
            assert not isinstance(server.sessions[1].wire, LayeredSocket)
        assert await server.sessions[0].ended() == (1000, "")
        assert await server.sessions[1].ended() == (1000, "")


@pytest.mark.gen_test
async def test_a_smaller_window() -> None:
    """A client that asks for a small window gets messages compressed within it."""
    async with serving(Deflates) as server:
        peer = await Peer.open(
            server.port, sec_websocket_extensions="permessage-deflate; server_max_window_bits=9"
        )
        assert b"server_max_window_bits=9" in peer.head
        server.sessions[0].write_message("y" * 5000)
        first, payload = await peer.frame()
        assert first == 0xC1
        assert zlib.decompressobj(-9).decompress(payload + b"\x00\x00\xff\xff") == b"y" * 5000


@pytest.mark.gen_test
async def test_what_does_not_decompress_ends_the_session() -> None:
    """Noise that claims to be compressed ends its session with 1007, counted and without a log line."""
    async with serving(Deflates) as server:
        peer = await Peer.open(server.port, **OFFER)
        before = stats.protocol_errors
        peer.send(client_frame(TEXT, b"\xff\xff\xff\xff\xff", rsv=4))
        assert (await peer.closed())[0] == 1007
        await server.sessions[0].ended()
        assert stats.protocol_errors == before + 1


@pytest.mark.gen_test
async def test_an_invalid_close_code_is_not_repeated() -> None:
    """A code that must not be sent is answered with 1002."""
    async with serving(Deflates) as server:
        peer = await Peer.open(server.port, **OFFER)
        peer.send(close_frame(1005))
        assert (await peer.closed())[0] == 1002
        await server.sessions[0].ended()


@pytest.mark.gen_test
async def test_a_message_too_big_for_a_compressed_session() -> None:
    """It ends with the same words as elsewhere, and counts once; a peer's own 1009 does not count."""
    async with serving(Deflates, wire_max_message=1024) as server:
        before = stats.too_big
        peer = await Peer.open(server.port, **OFFER)
        peer.send(client_frame(TEXT, b"x" * 1025))
        assert await peer.closed() == (1009, "Message too big: more than 1024 bytes")
        assert stats.too_big == before + 1
        peer = await Peer.open(server.port, **OFFER)
        peer.send(close_frame(1009))
        assert (await peer.closed())[0] == 1009
        assert stats.too_big == before + 1


@pytest.mark.gen_test
async def test_our_close_of_a_compressed_session() -> None:
    """Our code and reason go out after what was sent before, and on_close() has them."""
    async with serving(Deflates) as server:
        peer = await Peer.open(server.port, **OFFER)
        session = server.sessions[0]
        session.write_message("last words")
        session.close(4003, "€" * 60)
        session.close(1000)
        session.wire.send(BIG)
        assert await peer.text() == "last words"
        first, payload = await peer.frame()
        assert (first, payload[:2]) == (FIN | CLOSE, (4003).to_bytes(2, "big"))
        assert payload[2:].decode() == "€" * 41
        peer.send(client_frame(TEXT, b"late"))
        peer.send(close_frame(4003))
        await peer.gone()
        assert (await session.ended())[0] == 4003
        assert "late" not in session.events


@pytest.mark.gen_test
async def test_a_close_without_a_code_in_a_compressed_session() -> None:
    """A close without a code has no code here as well."""
    async with serving(Deflates) as server:
        peer = await Peer.open(server.port, **OFFER)
        server.sessions[0].close()
        assert await peer.frame() == (FIN | CLOSE, b"")
        peer.send(close_frame())
        await peer.gone()
        assert await server.sessions[0].ended() == (1005, "")


@pytest.mark.gen_test
async def test_a_peer_that_never_answers_our_close() -> None:
    """The close timeout is the same as elsewhere."""
    async with serving(Deflates, wire_close_timeout=0.05) as server:
        peer = await Peer.open(server.port, **OFFER)
        server.sessions[0].close(1001)
        await peer.frame()
        assert (await server.sessions[0].ended())[0] == 1001


@pytest.mark.gen_test
async def test_pings_and_pongs() -> None:
    """Control frames pass in both directions, and the clock pings."""

    class Pongs(Deflates):
        def on_pong(self, data: bytes) -> None:
            self.events.append(data)

        def on_ping(self, data: bytes) -> None:
            self.events.append(data)

    async with serving(Pongs, wire_ping_interval=0.05) as server:
        peer = await Peer.open(server.port, **OFFER)
        assert await peer.frame() == (FIN | PING, b"")
        peer.send(client_frame(PONG, b"") + client_frame(PING, b"me"))
        assert await peer.frame() == (FIN | PONG, b"me")
        await until(lambda: server.sessions[0].events == ["open", b"", b"me"])


@pytest.mark.gen_test
async def test_failures_of_a_compressed_session(expect_log: Any) -> None:
    """An exception in on_message(), at once or later, ends with the same code as elsewhere."""

    class Fails(Deflates):
        def on_message(self, message: str | bytes) -> Any:
            if message == "now":
                raise ZeroDivisionError
            return self.later()

        async def later(self) -> None:
            await asyncio.sleep(0)
            raise ZeroDivisionError

    expect_log("Uncaught exception")
    async with serving(Fails) as server:
        for message in (b"now", b"later"):
            peer = await Peer.open(server.port, **OFFER)
            peer.send(client_frame(TEXT, message))
            assert (await peer.frame())[1] == (1011).to_bytes(2, "big") + b"Internal error"
            peer.send(close_frame(1011))
            await peer.gone()
            assert (await server.sessions[-1].ended())[0] == 1011


@pytest.mark.gen_test
async def test_a_failing_open(expect_log: Any) -> None:
    """An open() that raises is logged and closes with 1011, as elsewhere."""

    class Fails(Deflates):
        def open(self, *args: str, **kwargs: str) -> None:
            super().open()
            raise ZeroDivisionError

    expect_log("Uncaught exception")
    async with serving(Fails) as server:
        peer = await Peer.open(server.port, **OFFER)
        assert (await peer.frame())[1] == (1011).to_bytes(2, "big") + b"Internal error"
        peer.send(close_frame(1011))
        await peer.gone()
        assert (await server.sessions[0].ended())[0] == 1011


@pytest.mark.gen_test
async def test_a_bad_upgrade_is_refused() -> None:
    """An upgrade without a key is refused here too, and leaves nothing."""
    async with serving(Deflates) as server:
        peer = await Peer.connect(server.port)
        peer.send(upgrade(sec_websocket_key=None, **OFFER))
        assert b" 400 " in await peer.handshake()
        assert server.sessions == []


@pytest.mark.gen_test
async def test_a_session_over_tls(server_side: ssl.SSLContext, client_side: ssl.SSLContext) -> None:
    """TLS in this process carries the same session: messages, a subprotocol, a close."""

    class Chooses(Recorder):
        def select_subprotocol(self, subprotocols: list[str]) -> str | None:
            return subprotocols[0] if subprotocols else None

    async with serving(Chooses, ssl=server_side) as server:
        peer = await Peer.open(
            server.port, ssl=client_side, sec_websocket_protocol="a", then=client_frame(TEXT, b"1")
        )
        assert await peer.text() == "1"
        assert server.sessions[0].selected_subprotocol == "a"
        peer.send(client_frame(TEXT, b"2" * 50_000))
        assert await peer.text() == "2" * 50_000
        peer.send(close_frame(1000, b"bye"))
        assert (await peer.frame())[1] == (1000).to_bytes(2, "big")
        assert await server.sessions[0].ended() == (1000, "bye")


@pytest.mark.gen_test(timeout=20)
async def test_a_slow_reader_over_tls(server_side: ssl.SSLContext, client_side: ssl.SSLContext) -> None:
    """Bytes that the peer does not take wait; droppable frames go first; then it ends with 1008."""
    async with serving(ssl=server_side, wire_queue_bytes=1 << 20) as server:
        peer = await Peer.open(server.port, ssl=client_side, window=4096)
        session = server.sessions[0]
        wire = session.wire
        while not wire.queued:
            wire.send(BIG)
            await asyncio.sleep(0)
        wire.send(text_frame(b"kept"))
        dropped = stats.dropped
        for _ in range(50):
            wire.send(BIG, droppable=True)
        assert stats.dropped > dropped
        while (text := await peer.text()) != "kept":
            assert text.startswith("x")
        while not wire.queued:
            wire.send(BIG)
            await asyncio.sleep(0)
        for number in range(10):
            wire.send(text_frame(b"%d" % number + b"." * 50_000))
        numbers = [text[0] for _ in range(10) if (text := await first_without(peer, "x"))]
        assert numbers == [str(number) for number in range(10)]
        closed = stats.closed_slow
        while not wire.is_closing:
            wire.send(BIG)
            await asyncio.sleep(0)
        assert stats.closed_slow == closed + 1
        while (frame := await peer.frame())[0] != FIN | CLOSE:
            assert frame[1].startswith(b"x")
        assert frame[1][:2] == (1008).to_bytes(2, "big")
        peer.send(close_frame(1008))
        assert (await session.ended())[0] == 1008


async def first_without(peer: Peer, start: str) -> str:
    """The next text that does not begin so."""
    while (text := await peer.text()).startswith(start):
        pass
    return text


@pytest.mark.gen_test
async def test_a_peer_that_resets_over_tls(server_side: ssl.SSLContext, client_side: ssl.SSLContext) -> None:
    """A reset while frames wait is found out, and what is sent then is nothing."""
    async with serving(ssl=server_side) as server:
        peer = await Peer.open(server.port, ssl=client_side, window=4096)
        session = server.sessions[0]
        wire = session.wire
        while not wire.queued:
            wire.send(BIG)
            await asyncio.sleep(0)
        peer.reset()
        assert (await session.ended())[0] == 1006
        wire.send(BIG)
        wire.close()
        assert wire.queued == 0


def pack(data: bytes, final: bool = False) -> bytes:
    """A message's payload, compressed; `final` ends the stream, which is allowed as well."""
    deflate = zlib.compressobj(wbits=-15)
    if final:
        return deflate.compress(data) + deflate.flush() + b"\x00"
    return (deflate.compress(data) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]


@pytest.mark.gen_test
async def test_compressed_messages_in_every_form() -> None:
    """In one frame, in fragments with a ping between them, byte by byte, with a final block, or as is."""
    async with serving(Deflates, wire_frame_burst=1000) as server:
        peer = await Peer.open(server.port, **OFFER)
        packed = pack(b"hello " * 100)
        for data in (
            client_frame(TEXT, packed, rsv=4),
            client_frame(TEXT, packed[:5], rsv=4, fin=False)
            + client_frame(PING)
            + client_frame(CONTINUATION, packed[5:]),
            client_frame(TEXT, pack(b"hello " * 100, final=True), rsv=4),
            client_frame(TEXT, b"hello " * 100),
        ):
            peer.send(data)
            await peer.trickle(data)
        for _ in range(8):
            while (frame := await peer.frame())[0] == FIN | PONG:
                pass
            assert frame[0] == 0xC1
            assert zlib.decompressobj(-15).decompress(frame[1]) == b"hello " * 100


NOISE = random.Random(0).randbytes(1024)
VIOLATIONS = [
    (client_frame(TEXT, b"x", mask=None), 1002),
    (client_frame(TEXT, b"x", rsv=2), 1002),
    (client_frame(PING, rsv=4), 1002),
    (client_frame(TEXT, pack(b"a"), fin=False, rsv=4) + client_frame(CONTINUATION, rsv=4), 1002),
    (client_frame(TEXT, b"a", fin=False) + client_frame(TEXT, b"b"), 1002),
    (client_frame(TEXT, b"\xff"), 1007),
    (client_frame(TEXT, pack(b"\xff"), rsv=4), 1007),
    (client_frame(TEXT, b"\xff\xff", rsv=4), 1007),
    (client_frame(BINARY, b"x" * 1025), 1009),
    (client_frame(BINARY, pack(b"x" * 1025), rsv=4), 1009),
    (client_frame(BINARY, pack(b"x" * 50_000_000), rsv=4), 1009),
    (client_frame(BINARY, length=b"\x7f" + (1 << 40).to_bytes(8, "big"), rsv=4), 1009),
]


@pytest.mark.parametrize(("data", "code"), VIOLATIONS)
@pytest.mark.gen_test
async def test_violations_end_with_their_code_over_tls_and_compressed(
    data: bytes, code: int, server_side: ssl.SSLContext, client_side: ssl.SSLContext
) -> None:
    """A protocol violation ends with the same code as elsewhere, not with a dropped connection."""
    async with serving(Deflates, ssl=server_side, wire_max_message=1024) as server:
        peer = await Peer.open(server.port, ssl=client_side, **OFFER)
        peer.send(client_frame(BINARY, pack(NOISE), rsv=4))  # larger than the limit, but not its message
        assert len(pack(NOISE)) > 1024
        while (frame := await peer.frame())[0] & 0xF != BINARY:
            pass
        peer.send(data)
        while (frame := await peer.frame())[0] != FIN | CLOSE:
            pass
        assert int.from_bytes(frame[1][:2], "big") == code
        assert (await server.sessions[0].ended())[0] == code


@pytest.mark.gen_test
async def test_reserved_bits_without_compression(
    server_side: ssl.SSLContext, client_side: ssl.SSLContext
) -> None:
    """A compressed message from a peer without negotiated compression is a protocol error."""
    async with serving(Deflates, ssl=server_side) as server:
        peer = await Peer.open(server.port, ssl=client_side)
        peer.send(client_frame(TEXT, pack(b"x"), rsv=4))
        assert (await peer.closed())[0] == 1002


@pytest.mark.gen_test
async def test_a_slow_reader_of_a_compressed_session() -> None:
    """The waiting frames are compressed, too, and complete."""
    async with serving(Deflates, wire_queue_bytes=1 << 30) as server:
        peer = await Peer.open(server.port, window=4096, **OFFER)
        wire = server.sessions[0].wire
        texts = [f"{number:04d}".encode() + NOISE.hex().encode() * 25 for number in range(300)]
        for text in texts:
            wire.send(text_frame(text))
            if wire.queued:
                await asyncio.sleep(0)
        assert wire.queued < sum(map(len, texts)) / 2
        for text in texts:
            first, payload = await peer.frame()
            assert first == 0xC1
            assert zlib.decompressobj(-15).decompress(payload) == text


@pytest.mark.gen_test
async def test_tls_gets_the_same_bytes_again(
    server_side: ssl.SSLContext, client_side: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offered bytes may be encrypted already: none are dropped, and the next offer begins with them."""
    offers: list[bytes] = []
    write = LayeredSocket._write

    def refuse(self: LayeredSocket, data: bytes) -> int:
        offers.append(data)
        raise BlockingIOError

    async with serving(ssl=server_side, wire_queue_bytes=450, wire_close_timeout=0.3) as server:
        peer = await Peer.open(server.port, ssl=client_side)
        wire = server.sessions[0].wire
        monkeypatch.setattr(LayeredSocket, "_write", refuse)
        wire.send(text_frame(b"a" * 98), droppable=True)
        await asyncio.sleep(0)
        wire.send(text_frame(b"b" * 48), droppable=True)
        wire.writable()
        wire.send(text_frame(b"c" * 38), droppable=True)
        for letter in (b"d", b"e", b"f"):
            wire.send(text_frame(letter * 98))
        assert (wire.queued, wire.is_closing) == (450, False), "the third is dropped, the second can't be"
        wire.writable()
        wire.send(text_frame(b"g" * 98))
        assert wire.is_closing  # with 1008, and the queue let go
        wire.writable()
        monkeypatch.setattr(LayeredSocket, "_write", write)
        for before, after in itertools.pairwise(offers):
            assert after.startswith(before)
        for letter in "abdef":
            assert set(await peer.text()) == {letter}
        assert (await peer.closed())[0] == 1008


@pytest.mark.gen_test
async def test_tls_sends_close_notify(server_side: ssl.SSLContext, client_side: ssl.SSLContext) -> None:
    """The end of a session ends its TLS: a peer can distinguish it from a cut connection."""

    def visit(port: int) -> bytes:
        with (
            socket.create_connection(("127.0.0.1", port)) as raw,
            client_side.wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=False) as tls,
        ):
            tls.sendall(upgrade() + close_frame(1000))
            received = b""
            while data := tls.recv(4096):
                received += data
            return received

    async with serving(ssl=server_side) as server:
        assert (await asyncio.to_thread(visit, server.port)).endswith(b"\x88\x02\x03\xe8")
        assert await server.sessions[0].ended() == (1000, "")


@pytest.mark.gen_test
async def test_sessions_over_tls_leave_nothing(
    server_side: ssl.SSLContext, client_side: ssl.SSLContext
) -> None:
    """However they end, their descriptors, tasks and objects are freed without the garbage collector."""
    async with serving(ssl=server_side) as server:
        await one_session(server, 0, client_side)
        gc.collect()
        files, tasks = open_descriptors(), len(asyncio.all_tasks())
        gc.disable()
        try:
            refs = [await one_session(server, number, client_side) for number in range(40)]
            await until(lambda: open_descriptors() <= files)
            assert sum(ref() is not None for ref in refs) <= 1
        finally:
            gc.enable()
        assert len(asyncio.all_tasks()) <= tasks
