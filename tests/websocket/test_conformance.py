"""RFC 6455, section by section, on real sockets against the echo handler."""

import asyncio
import struct

import pytest

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
    serving,
    upgrade,
)

pytestmark = pytest.mark.usefixtures("both_ways")

FIN = 0x80


async def answer(*sent: bytes, trickle: bool = False) -> tuple[int | None, str]:
    """How the server ends a session in which a client said this."""
    async with serving() as server:
        peer = await Peer.open(server.port)
        for data in sent:
            if trickle:
                await peer.trickle(data)
            else:
                peer.send(data)
        return await peer.closed()


# Section 4.2: the opening handshake


@pytest.mark.gen_test
async def test_4_2_2_the_accept_key_of_the_rfc() -> None:
    """The RFC's own example key has the RFC's own answer."""
    async with serving() as server:
        peer = await Peer.open(server.port, sec_websocket_key="dGhlIHNhbXBsZSBub25jZQ==")
        assert b"Sec-Websocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in peer.head
        peer.drop()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec_WebSocket_Key": None}, b"400"),
        ({"Sec_WebSocket_Key": "AAAA"}, b"400"),
        ({"Sec_WebSocket_Key": "A" * 24}, b"400"),
        ({"Sec_WebSocket_Key": "not base64 at all!!!!!!!"}, b"400"),
        ({"Sec_WebSocket_Version": "8"}, b"426"),
        ({"Sec_WebSocket_Version": None}, b"426"),
        ({"Upgrade": "h2c"}, b"400"),
        ({"Connection": "keep-alive"}, b"400"),
        ({"Host": ""}, b"400"),
        ({"Origin": "http://elsewhere.example"}, b"403"),
        ({"version": "HTTP/1.0"}, b"400"),
    ],
)
@pytest.mark.gen_test
async def test_4_2_1_a_bad_upgrade_is_refused(headers: dict[str, str], status: bytes) -> None:
    """An incomplete upgrade gets an HTTP status, and no session begins."""
    async with serving() as server:
        peer = await Peer.connect(server.port)
        peer.send(upgrade(**headers))
        assert (await peer.handshake()).split(b" ", 2)[1] == status
        if status == b"426":
            assert b"Sec-Websocket-Version: 13" in peer.head
        assert server.sessions == []
        peer.drop()


# Section 5.1 and 5.2: framing


@pytest.mark.gen_test
async def test_5_1_unmasked_frames_are_refused() -> None:
    """A client must mask."""
    assert (await answer(client_frame(TEXT, b"hi", mask=None)))[0] == 1002


@pytest.mark.parametrize("rsv", range(1, 8))
@pytest.mark.gen_test
async def test_5_2_reserved_bits_are_refused(rsv: int) -> None:
    """Without an extension no reserved bit means anything, in data frames and in control frames."""
    assert (await answer(client_frame(TEXT, b"hi", rsv=rsv)))[0] == 1002
    assert (await answer(client_frame(PING, rsv=rsv)))[0] == 1002


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
@pytest.mark.gen_test
async def test_5_2_unknown_opcodes_are_refused(opcode: int) -> None:
    """An opcode that nobody has defined fails the session; what came before it was handled."""
    async with serving() as server:
        peer = await Peer.open(server.port)
        peer.send(client_frame(TEXT, b"before") + client_frame(opcode, b"x"))
        assert await peer.text() == "before"
        assert (await peer.closed())[0] == 1002


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 128, 65535, 65536])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.gen_test
async def test_5_2_lengths(size: int, opcode: int) -> None:
    """Every form of the length, in both kinds of message, there and back."""
    async with serving(wire_max_message=65536) as server:
        peer = await Peer.open(server.port)
        peer.send(client_frame(opcode, b"*" * size))
        assert await peer.frame() == (FIN | opcode, b"*" * size)
        peer.drop()


@pytest.mark.parametrize(
    "length", [struct.pack("!BH", 126, 2), struct.pack("!BQ", 127, 2), struct.pack("!BQ", 127, 1 << 63 | 2)]
)
@pytest.mark.gen_test
async def test_5_2_lengths_must_be_minimal(length: bytes) -> None:
    """A length in a longer form than it needs, or with the highest bit, is refused."""
    assert (await answer(client_frame(TEXT, b"hi", length=length)))[0] == 1002


@pytest.mark.parametrize("length", [struct.pack("!BQ", 127, (1 << 63) - 1), struct.pack("!BQ", 127, 65537)])
@pytest.mark.gen_test
async def test_10_4_a_huge_length_is_refused_before_its_payload(length: bytes) -> None:
    """The size is held against the limit as soon as it is known."""
    assert (await answer(client_frame(BINARY, length=length)))[0] == 1009


@pytest.mark.gen_test
async def test_10_4_fragments_are_limited_in_sum() -> None:
    """Small pieces don't get past the limit."""
    start = client_frame(TEXT, b"x" * 65000, fin=False)
    assert (await answer(start, client_frame(CONTINUATION, b"x" * 537)))[0] == 1009


@pytest.mark.gen_test
async def test_5_2_a_frame_byte_by_byte() -> None:
    """Frames that come one byte at a time are whole in the end."""
    async with serving() as server:
        peer = await Peer.open(server.port)
        await peer.trickle(client_frame(TEXT, "grüße €".encode()) + client_frame(BINARY, b"x" * 200))
        assert await peer.text() == "grüße €"
        assert await peer.frame() == (FIN | BINARY, b"x" * 200)
        peer.drop()


# Section 5.4: fragments


@pytest.mark.gen_test
async def test_5_4_a_message_in_fragments_with_a_ping_within() -> None:
    """A control frame within a message is answered at once, and the message is whole."""
    async with serving() as server:
        peer = await Peer.open(server.port)
        peer.send(client_frame(TEXT, b"one ", fin=False) + client_frame(PING, b"now"))
        assert await peer.frame() == (FIN | PONG, b"now")
        peer.send(client_frame(CONTINUATION, fin=False) + client_frame(CONTINUATION, b"two"))
        assert await peer.text() == "one two"
        peer.drop()


@pytest.mark.parametrize(
    "sent",
    [
        client_frame(CONTINUATION, b"x"),
        client_frame(CONTINUATION, b"x", fin=False),
        client_frame(TEXT, b"a") + client_frame(CONTINUATION, b"b"),
    ],
)
@pytest.mark.gen_test
async def test_5_4_a_continuation_needs_a_message(sent: bytes) -> None:
    """There is nothing to continue before a message has begun, or after it has ended."""
    async with serving() as server:
        peer = await Peer.open(server.port)
        peer.send(sent)
        if sent[0] & 0xF == TEXT:
            assert await peer.text() == "a"
        assert (await peer.closed())[0] == 1002


@pytest.mark.parametrize("fin", [True, False])
@pytest.mark.gen_test
async def test_5_4_messages_do_not_interleave(fin: bool) -> None:
    """A new message can't begin within a fragmented one."""
    assert (await answer(client_frame(TEXT, b"a", fin=False), client_frame(BINARY, b"b", fin=fin)))[0] == 1002


# Section 5.5: control frames


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
@pytest.mark.gen_test
async def test_5_5_control_frames_are_small_and_whole(opcode: int) -> None:
    """A control frame of more than 125 bytes, or in fragments, is refused."""
    assert (await answer(client_frame(opcode, b"x" * 126)))[0] == 1002
    assert (await answer(client_frame(opcode, fin=False)))[0] == 1002


@pytest.mark.parametrize("payload", [b"", b"hello", b"\x00\xff\xfe", b"x" * 125])
@pytest.mark.gen_test
async def test_5_5_3_a_pong_repeats_its_ping(payload: bytes) -> None:
    """A ping's payload, of any bytes, comes back."""
    async with serving() as server:
        peer = await Peer.open(server.port)
        peer.send(client_frame(PING, payload))
        assert await peer.frame() == (FIN | PONG, payload)
        peer.drop()


@pytest.mark.gen_test
async def test_5_5_3_many_pings() -> None:
    """Pings in one write are answered in order, where they may be so many."""
    async with serving(wire_frame_burst=2000) as server:
        peer = await Peer.open(server.port)
        peer.send(b"".join(client_frame(PING, b"%d" % number) for number in range(1000)))
        for number in range(1000):
            assert await peer.frame() == (FIN | PONG, b"%d" % number)
        peer.drop()


@pytest.mark.gen_test
async def test_5_5_3_unsolicited_pongs_are_ignored() -> None:
    """An unsolicited pong is not an error."""
    async with serving() as server:
        peer = await Peer.open(server.port)
        peer.send(client_frame(PONG, b"hello") + client_frame(TEXT, b"on"))
        assert await peer.text() == "on"
        peer.drop()


# Section 5.5.1 and 7: closing


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]
)
@pytest.mark.gen_test
async def test_7_4_valid_close_codes_are_repeated(code: int) -> None:
    """The answer to a close carries its code, and the handler learns code and reason."""
    async with serving() as server:
        peer = await Peer.open(server.port)
        peer.send(close_frame(code, b"because"))
        assert await peer.closed() == (code, "")
        assert await server.sessions[0].ended() == (code, "because")


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
@pytest.mark.gen_test
async def test_7_4_invalid_close_codes_are_refused(code: int) -> None:
    """A code that is reserved, unknown or out of range is a protocol error."""
    assert (await answer(close_frame(code)))[0] == 1002
    assert (await answer(close_frame(code, b"reason")))[0] == 1002


@pytest.mark.gen_test
async def test_7_1_5_a_close_without_a_code() -> None:
    """An empty close is answered by an empty close; the handler sees 1005."""
    async with serving() as server:
        peer = await Peer.open(server.port)
        peer.send(close_frame())
        assert await peer.closed() == (None, "")
        assert await server.sessions[0].ended() == (1005, "")


@pytest.mark.gen_test
async def test_5_5_1_half_a_close_code_is_refused() -> None:
    """A payload of one byte is not a valid code."""
    assert (await answer(client_frame(CLOSE, b"\x03")))[0] == 1002


@pytest.mark.gen_test
async def test_5_5_1_a_reason_is_utf8() -> None:
    """A reason that is not UTF-8 is refused; the longest valid one is accepted."""
    assert (await answer(close_frame(1000, b"\xce\xba\xff")))[0] == 1007
    assert (await answer(close_frame(1000, b"x" * 123)))[0] == 1000


@pytest.mark.gen_test
async def test_5_5_1_nothing_after_a_close_is_heard() -> None:
    """Frames behind a close frame change nothing."""
    async with serving() as server:
        peer = await Peer.open(server.port)
        peer.send(close_frame(1000) + client_frame(TEXT, b"late") + b"\xff\xff\xff")
        assert await peer.closed() == (1000, "")
        await server.sessions[0].ended()
        assert "late" not in server.sessions[0].events


@pytest.mark.gen_test
async def test_7_1_5_no_close_frame() -> None:
    """A peer that just leaves, or resets, is 1006 to the handler."""
    async with serving() as server:
        for leave in (Peer.drop, Peer.reset):
            peer = await Peer.open(server.port)
            peer.send(client_frame(TEXT, b"half a frame")[:5])
            leave(peer)
        for session in server.sessions:
            assert await session.ended() == (1006, "")


@pytest.mark.gen_test
async def test_7_1_6_what_was_sent_before_a_close_arrives_before_it() -> None:
    """Messages that the handler has sent are not overtaken by its close, nor is anything sent after it."""

    class Ends(Recorder):
        def on_message(self, message: str | bytes) -> None:
            self.write_message("last words")
            self.close(4001, "enough")
            self.wire.send(b"\x81\x02no")

    async with serving(Ends) as server:
        peer = await Peer.open(server.port)
        peer.send(client_frame(TEXT, b"go"))
        assert await peer.text() == "last words"
        first, payload = await peer.frame()
        assert (first, payload) == (FIN | CLOSE, struct.pack("!H", 4001) + b"enough")
        peer.send(close_frame(4001))
        await peer.gone()
        assert await server.sessions[0].ended() == (4001, "enough")


@pytest.mark.gen_test
async def test_7_1_1_the_server_does_not_reset() -> None:
    """A client that still talks when it is refused can read why, because the server only half closes."""
    async with serving() as server:
        peer = await Peer.open(server.port)
        peer.send(client_frame(TEXT, b"x", mask=None))
        first, payload = await peer.frame()
        assert (first, payload[:2]) == (FIN | CLOSE, struct.pack("!H", 1002))
        for _ in range(5):
            peer.send(client_frame(TEXT, b"and another thing"))
            await peer.writer.drain()
            await asyncio.sleep(0)
        assert await peer.reader.read() == b""
        peer.drop()
        assert (await server.sessions[0].ended())[0] == 1002


# Section 8.1: UTF-8


@pytest.mark.parametrize(
    "bad",
    [
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
        b"\xf4\x90\x80\x80",
        b"\xf8\x88",
        b"\xc0\xaf",
    ],
)
@pytest.mark.gen_test
async def test_8_1_bad_text_is_refused(bad: bytes) -> None:
    """Surrogates, code points beyond the last, overlong forms and stray bytes fail the session with 1007."""
    assert (await answer(client_frame(TEXT, bad)))[0] == 1007
    assert (await answer(client_frame(TEXT, bad), trickle=True))[0] == 1007
    assert (await answer(client_frame(TEXT, bad[:2], fin=False), client_frame(CONTINUATION, bad[2:])))[
        0
    ] == 1007


@pytest.mark.gen_test
async def test_8_1_bad_text_fails_fast() -> None:
    """The session is failed by the bad byte, not by the end of its frame or of its message."""
    assert (await answer(client_frame(TEXT, b"\xce\xba\xff", fin=False)))[0] == 1007
    start = client_frame(TEXT, b"ok \xf4\x90" + b"." * 1000)
    assert (await answer(start[:20]))[0] == 1007


@pytest.mark.parametrize("text", ["", "κόσμε", "\U0010ffff", "\x00", "\ufffe", "￿𐀀"])
@pytest.mark.gen_test
async def test_8_1_good_text_passes(text: str) -> None:
    """Every valid text passes, noncharacters and NUL included."""
    async with serving() as server:
        peer = await Peer.open(server.port)
        peer.send(client_frame(TEXT, text.encode()))
        assert await peer.text() == text
        peer.drop()
