"""What a peer costs beside its messages: how much each kind of socket tolerates, before and after a close."""

import asyncio
import contextlib
import os
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from eclipse_ws.websocket.socket import OPEN, READS_AHEAD, STOPPED
from tests.websocket.lines import KINDS, Counts, line
from tests.websocket.peer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Peer,
    client_frame,
    close_frame,
    serving,
    stats,
    until,
)

FIN = 0x80
pytestmark = pytest.mark.slow  # ten seconds, all of them together
FLOOD = (1008, "Too many frames that are not messages")
LARGE = client_frame(BINARY, b"x" * 60_000)


async def say_until_closed(peer: Peer, session: Any, pieces: Callable[[int], bytes]) -> int:
    """Say one piece after the other, each in a packet of its own, until there is an end; how many were."""
    for number in range(5000):
        peer.send(pieces(number))
        for _ in range(3):
            await asyncio.sleep(0)
        if session.wire.is_closing:
            return number
    return 5000


def one_byte_at_a_time(number: int) -> bytes:
    """The pieces of a message that never ends."""
    return LARGE[number : number + 1]


FLOODS = {
    "pings": lambda _: client_frame(PING, b"?"),
    "pongs": lambda _: client_frame(PONG),
    "fragments": lambda number: client_frame(CONTINUATION if number else TEXT, fin=False),
    "bytes": one_byte_at_a_time,
    "many": lambda _: client_frame(PING) * 100,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flood", FLOODS)
@pytest.mark.gen_test
async def test_a_flood_beside_messages_is_closed(flood: str, kind: str, sides: Any) -> None:
    """Pings, pongs, empty fragments and single bytes pass up to the burst; then the close says why."""
    bounds = {"wire_frame_rate": 1, "wire_frame_burst": 100, "wire_close_timeout": 0.3}
    async with line(kind, sides, **bounds) as here:
        peer, session = await here.open()
        before = stats.frames_in
        said = await say_until_closed(peer, session, FLOODS[flood])
        assert said < 200
        assert stats.frames_in - before < 350  # the burst, and another one after the close
        assert session.floods == 1
        while (frame := await peer.frame())[0] != FIN | CLOSE:
            assert frame[0] == FIN | PONG
        assert frame[1] == FLOOD[0].to_bytes(2, "big") + FLOOD[1].encode()
        peer.send(close_frame(FLOOD[0]))
        assert await session.ended() == FLOOD


@pytest.mark.gen_test
async def test_pieces_of_tls_records_are_charged(sides: Any) -> None:
    """A TLS record that arrives byte by byte costs as much as such a frame; in larger pieces it is free."""
    async with line("tls", sides, wire_frame_rate=1, wire_frame_burst=20) as here:
        relay = await Relay.to(here.server.port)
        here.server.port = relay.port
        peer, session = await here.open()
        relay.step = 1400
        for number in range(10):
            peer.send(client_frame(TEXT, b"x" * 15_000))
            await until(lambda number=number: len(session.events) == number + 2)
        assert session.floods == 0
        relay.step = 1
        peer.send(client_frame(TEXT, b"y"))
        await until(lambda: session.floods)
        await relay.stop()


@pytest.mark.gen_test
async def test_a_small_tls_record_earns_little(sides: Any) -> None:
    """A record with few bytes does not offset the pieces in which it came: many of them are a flood."""
    async with line("tls", sides, wire_frame_rate=0.001, wire_frame_burst=20) as here:
        relay = await Relay.to(here.server.port)
        here.server.port = relay.port
        peer, session = await here.open()
        relay.step = 10
        for number in range(40):
            peer.send(client_frame(TEXT, b"y"))
            await until(lambda number=number: len(session.events) == number + 2 or session.floods)
        assert session.floods == 1
        await relay.stop()


class Relay:
    """Forwards what a client sends in pieces of `step` bytes, each in a packet of its own."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.port = 0
        self.step = 1 << 16
        self.tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def to(cls, port: int) -> "Relay":
        """Listen for clients of that port."""
        relay = cls(port)
        relay.server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
        relay.port = relay.server.sockets[0].getsockname()[1]
        return relay

    server: asyncio.Server

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client."""
        there, back = await asyncio.open_connection("127.0.0.1", self.target)
        self.tasks.append(asyncio.ensure_future(self.pump(there, writer, cut=False)))
        await self.pump(reader, back, cut=True)

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cut: bool) -> None:
        """One direction, until one of its ends is gone."""
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                while data:
                    step = self.step if cut else len(data)
                    writer.write(data[:step])
                    data = data[step:]
                    for _ in range(3):
                        await asyncio.sleep(0)
        writer.close()

    async def stop(self) -> None:
        """Stop forwarding."""
        while Peer.alive:
            await Peer.alive.pop().forget()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.server.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.gen_test
async def test_an_honest_mixture_is_never_closed(kind: str, sides: Any) -> None:
    """Messages of 64 KiB in fragments or small reads, pings, and pongs to our pings pass."""
    bounds = {
        "wire_frame_rate": 0.001,
        "wire_frame_burst": 50,
        "wire_ping_interval": 0.005,
        "wire_ping_timeout": 0,
    }
    async with line(kind, sides, **bounds) as here:
        peer, session = await here.open()
        text = b"0123456789abcdef" * 4096
        fragments = [text[at : at + 1024] for at in range(0, len(text), 1024)]
        whole = client_frame(TEXT, text)
        for turn in range(3):
            for number, part in enumerate(fragments):
                opcode = CONTINUATION if number else TEXT
                peer.send(client_frame(opcode, part, fin=number == len(fragments) - 1))
            for at in range(0, len(whole), 1400):
                peer.send(whole[at : at + 1400])
                for _ in range(3):
                    await asyncio.sleep(0)
            peer.send(client_frame(PING))
            for _ in range(40):
                peer.send(client_frame(TEXT, b"x"))
            await until(lambda turn=turn: len(session.events) == (turn + 1) * 42 + 1)
        for _ in range(60):  # more than the burst, which hardly refills
            while (await peer.frame())[0] != FIN | PING:
                pass
            peer.send(client_frame(PONG))
        peer.send(client_frame(TEXT, b"end"))
        await until(lambda: session.events[-1] == "end")
        assert session.floods == 0
        assert session.wire._state == OPEN


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.gen_test
async def test_small_segments_are_not_a_flood(kind: str, sides: Any) -> None:
    """Messages of 60 KB pass, one after the other, also where a network makes segments of 100 bytes."""
    async with line(kind, sides, wire_frame_rate=0.001, wire_frame_burst=170) as here:
        relay = await Relay.to(here.server.port)
        here.server.port = relay.port
        peer, session = await here.open()
        relay.step = 100
        for turn in range(2):
            peer.send(LARGE)
            await until(lambda turn=turn: len(session.events) == turn + 2 or session.floods)
        assert session.floods == 0
        await relay.stop()


@pytest.mark.gen_test
async def test_a_well_behaved_socket_has_no_bucket() -> None:
    """Whole messages and the pongs to our pings leave no state."""
    async with serving(Counts, wire_ping_interval=0.2) as server:
        peer = await Peer.open(server.port)
        for _ in range(3):
            assert await peer.frame() == (FIN | PING, b"")
            peer.send(client_frame(PONG) + client_frame(TEXT, b"x"))
        await until(lambda: len(server.sessions[0].events) == 4)
        assert server.sessions[0].wire._full_at == 0


@pytest.mark.parametrize("pings", [0, 1, 5])
@pytest.mark.gen_test
async def test_a_pong_is_free_for_each_ping(pings: int) -> None:
    """As many pongs as we have sent pings are free; each unsolicited one costs."""
    async with serving(Counts, wire_frame_rate=0.001, wire_frame_burst=20, wire_ping_interval=0) as server:
        peer = await Peer.open(server.port)
        session = server.sessions[0]
        for _ in range(pings):
            session.ping()
            assert await peer.frame() == (FIN | PING, b"")
        peer.send(client_frame(PONG) * (pings + 20) + client_frame(TEXT, b"borne"))
        await until(lambda: session.events[-1] == "borne")
        assert session.floods == 0
        peer.send(client_frame(PONG))
        await until(lambda: session.floods)


@pytest.mark.gen_test
async def test_small_reads_wait_for_a_message_in_progress() -> None:
    """During a message a bounded number of small reads waits, and beyond that the peer has to wait; all of it
    is handled, and nobody is taken for a flooder."""

    class Slow(Counts):
        def initialize(self) -> None:
            super().initialize()
            self.gate = asyncio.Event()

        async def on_message(self, message: str | bytes) -> None:
            self.events.append(message)
            await self.gate.wait()

    async with serving(Slow, wire_frame_rate=0.001, wire_frame_burst=20) as server:
        peer = await Peer.open(server.port)
        session = server.sessions[0]
        for number in range(300):
            peer.send(client_frame(TEXT, b"%d" % number))
            for _ in range(3):
                await asyncio.sleep(0)
        assert session.wire._inbound.reads <= READS_AHEAD + 1
        assert session.wire._intake
        session.gate.set()
        await until(lambda: len(session.events) == 301)
        assert session.events[1:] == [str(number) for number in range(300)]
        assert session.floods == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.gen_test
async def test_a_flooder_that_answers_our_close_is_heard(kind: str, sides: Any) -> None:
    """Its flood before the close does not count after it: its answer ends the session."""
    async with line(kind, sides, wire_frame_burst=100, wire_close_timeout=60) as here:
        peer, session = await here.open()
        for _ in range(110):
            peer.send(client_frame(PONG))
            for _ in range(3):
                await asyncio.sleep(0)
        assert (await peer.frame())[0] == FIN | CLOSE
        peer.send(close_frame(1008))
        assert await session.ended() == FLOOD


# After a close


AFTER = {
    "messages": lambda _: client_frame(TEXT, b"spam") * 1000,
    "frames": lambda _: client_frame(PING),
    "bytes": one_byte_at_a_time,
    "large": lambda _: LARGE,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flood", AFTER)
@pytest.mark.gen_test
async def test_a_flood_after_our_close_is_not_read(flood: str, kind: str, sides: Any) -> None:
    """However a peer goes on after our close, it is read from a bounded number of times; it still gets the
    close frame, and the close timeout ends it."""
    async with line(kind, sides, wire_close_timeout=0.3, wire_frame_burst=100) as here:
        peer, session = await here.open()
        session.close(4009, "go")
        wire = session.wire
        number, begun = 0, stats.frames_in
        while wire._intake != STOPPED:
            peer.send(AFTER[flood](number))
            for _ in range(3):
                await asyncio.sleep(0)
            number += 1
            assert number < 500, "it is read on"
        read, frames = stats.bytes_in, stats.frames_in
        assert frames - begun < 120
        for more in range(50):
            peer.send(AFTER[flood](number + more))
            await asyncio.sleep(0)
        assert (await peer.frame())[1] == (4009).to_bytes(2, "big") + b"go"
        assert (await session.ended()) == (4009, "go")
        assert (stats.bytes_in, stats.frames_in) == (read, frames)


@pytest.mark.gen_test
async def test_a_flood_does_not_shorten_the_close_timeout() -> None:
    """A flood after our close does not shorten the time in which the close frame can be read."""
    async with serving(Counts, wire_close_timeout=10) as server:
        peer = await Peer.open(server.port)
        session = server.sessions[0]
        wire, loop = session.wire, asyncio.get_running_loop()
        session.close(4009)
        due = wire.poll.closing[wire]
        peer.send(client_frame(TEXT, b"spam") * 50_000)
        await until(lambda: wire._intake == STOPPED)
        wire.poll._end_overdue()
        assert wire.poll.closing[wire] == due > loop.time() + 5
        assert (await peer.frame())[1] == (4009).to_bytes(2, "big")


@pytest.mark.gen_test
async def test_a_message_that_ends_after_a_flood_does_not_resume_reading() -> None:
    """The message that was in progress at our close ends, with a flood behind it that is found then: nothing
    is read after that, whatever made the socket wait before."""

    class Slow(Counts):
        def initialize(self) -> None:
            super().initialize()
            self.gate = asyncio.Event()

        async def on_message(self, message: str | bytes) -> None:
            await self.gate.wait()

    async with serving(Slow, wire_close_timeout=0.3, wire_read_bytes=1000) as server:
        peer = await Peer.open(server.port)
        session = server.sessions[0]
        peer.send(client_frame(TEXT, b"x"))
        await until(lambda: session.wire._busy is not None)
        peer.send(client_frame(TEXT, b"spam") * 500_000)
        await until(lambda: session.wire._intake)
        session.close(4009)
        read = stats.bytes_in
        session.gate.set()
        assert (await session.ended())[0] == 4009
        assert stats.bytes_in == read


@pytest.mark.parametrize("kind", ["plain", "deflate"])  # a peer can't stay when TLS has said goodbye
@pytest.mark.gen_test
async def test_a_flood_after_the_peers_own_close_is_not_read(kind: str, sides: Any) -> None:
    """Bytes after the peer's close frame are discarded, for a bounded time."""
    async with line(kind, sides, wire_close_timeout=0.3, wire_frame_burst=100) as here:
        peer, session = await here.open()
        wire = session.wire
        peer.send(close_frame(1000))
        assert (await peer.frame())[0] == FIN | CLOSE
        raw = peer.writer.get_extra_info("socket")
        before = stats.bytes_in
        for _ in range(300):
            with contextlib.suppress(OSError):
                os.write(raw.fileno(), b"x")
            for _ in range(3):
                await asyncio.sleep(0)
            if wire._intake == STOPPED:
                break
        assert wire._intake == STOPPED
        assert stats.bytes_in - before <= 110
        assert await session.ended() == (1000, "")


# The others


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.gen_test
async def test_buffered_frames_do_not_block_other_sockets(kind: str, sides: Any) -> None:
    """However many frames came in one read, only a share of them is handled in one turn of the loop."""
    turns: list[int] = []
    loop = asyncio.get_running_loop()

    async with line(kind, sides, wire_messages_per_turn=8, wire_frame_burst=1e6) as here:
        peer, session = await here.open()
        handled: dict[str, int] = {"frames": 0}

        def turn() -> None:
            turns.append(stats.frames_in - handled["frames"])
            handled["frames"] = stats.frames_in
            if not session.over.is_set():
                loop.call_soon(turn)

        handled["frames"] = stats.frames_in
        loop.call_soon(turn)
        peer.send(client_frame(PING) * 2000 + client_frame(TEXT, b"") * 2000 + client_frame(TEXT, b"last"))
        await until(lambda: session.events[-1] == "last")
        session.wire.abort()
        await session.ended()
        assert sum(turns) == 4001
        assert max(turns) <= 16  # a read and a leftover may meet in a turn


@pytest.mark.gen_test
async def test_large_messages_have_a_smaller_share(sides: Any) -> None:
    """Sixteen messages that are small only on the wire are not handled in one turn."""
    async with line("deflate", sides) as here:
        peer, session = await here.open()
        deflate = zlib.compressobj(wbits=-15)
        small = (deflate.compress(b"x" * 60_000) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]
        before = len(session.events)
        peer.send(client_frame(TEXT, small, rsv=4) * 16)
        await until(lambda: len(session.events) > before)
        assert len(session.events) - before <= 2
        await until(lambda: len(session.events) == before + 16)
