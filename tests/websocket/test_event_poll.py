"""The clock of all sockets, and what remains without any."""

import asyncio
import gc
import itertools
import os
import random
import socket
import time
import weakref
from typing import Any, ClassVar

import pytest
from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream
from tornado.web import Application

from eclipse_ws.websocket import Stats, event_poll, text_frame
from tests.websocket.lines import KINDS, line
from tests.websocket.peer import (
    PING,
    PONG,
    TEXT,
    Clock,
    Peer,
    Recorder,
    client_frame,
    run,
    serving,
    stats,
    until,
    upgrade,
)

FIN = 0x80
NOISE = text_frame(random.Random(0).randbytes(25_000).hex().encode())


@pytest.mark.gen_test
async def test_a_peer_that_answers_pings_stays() -> None:
    """Pings come at the interval, and a peer that sends anything after one is alive."""
    async with serving(wire_ping_interval=0.05, wire_ping_timeout=0.05) as server:
        peer = await Peer.open(server.port)
        for number in range(6):
            assert await peer.frame() == (FIN | PING, b"")
            peer.send(client_frame(PONG) if number % 2 else client_frame(PONG, b"x")[:3])
            if not number % 2:
                peer.send(client_frame(PONG, b"x")[3:])
        assert not server.sessions[0].wire.is_closing


@pytest.mark.gen_test
async def test_a_peer_that_is_silent_after_a_ping_is_lost() -> None:
    """A ping without any byte within the timeout ends the session with 1006 and without a close frame."""
    async with serving(wire_ping_interval=0.1, wire_ping_timeout=0.05) as server:
        peer = await Peer.open(server.port)
        assert await peer.frame() == (FIN | PING, b"")
        await peer.gone()
        assert await server.sessions[0].ended() == (1006, "")


@pytest.mark.gen_test
async def test_without_a_timeout_silence_is_allowed() -> None:
    """With a timeout of 0 pings are sent, and no answer is required."""
    async with serving(wire_ping_interval=0.02, wire_ping_timeout=0) as server:
        peer = await Peer.open(server.port)
        for _ in range(5):
            assert await peer.frame() == (FIN | PING, b"")


@pytest.mark.gen_test
async def test_no_pings_and_a_close_timeout() -> None:
    """An interval of 0 sends no pings, and the clock still ends handshakes that take too long."""
    async with serving(wire_ping_interval=0, wire_close_timeout=0.05) as server:
        peer = await Peer.open(server.port)
        server.sessions[0].close(1001)
        assert (await peer.frame())[0] == 0x88
        assert (await server.sessions[0].ended())[0] == 1001


@pytest.mark.gen_test
async def test_a_peer_that_we_do_not_read_from_is_not_dead() -> None:
    """A peer that floods while a message is in progress, and so is not read from, is not considered dead."""

    class Slow(Recorder):
        def initialize(self) -> None:
            super().initialize()
            self.gate = asyncio.Semaphore(0)

        async def on_message(self, message: str | bytes) -> None:
            await self.gate.acquire()

    bounds = {"wire_ping_interval": 0.02, "wire_ping_timeout": 0.02, "wire_read_bytes": 1000}
    async with serving(Slow, **bounds) as server:
        peer = await Peer.open(server.port)
        session = server.sessions[0]
        peer.send(client_frame(2, b"x" * 1000) * 500)
        await until(lambda: session.wire._intake)
        for _ in range(5):
            assert await peer.frame() == (FIN | PING, b"")
        assert not session.wire.is_closing


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.gen_test
async def test_a_peer_that_drains_its_backlog_is_not_dead(
    kind: str, sides: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow phone that takes what waits for it, and says nothing, stays for as long as it takes something;
    when it takes nothing any more it is let go.
    """
    clock = Clock(monkeypatch)
    bounds = {"wire_ping_interval": 1, "wire_ping_timeout": 1, "wire_queue_bytes": 1 << 30}
    async with line(kind, sides, **bounds) as here:
        peer, session = await here.open(window=4096)

        async def next_quarter() -> None:
            while session.wire.queued < 1 << 20:
                session.wire.send(NOISE)
                await asyncio.sleep(0)
            await clock.skip(0.25)

        for _ in range(16):
            await next_quarter()
            assert not session.wire.is_lost
            taken = stats.bytes_out
            while stats.bytes_out == taken:
                await peer.frame()
        for _ in range(12):
            if not session.wire.is_lost:
                await next_quarter()
        assert await session.ended() == (1006, "")


@pytest.mark.gen_test
async def test_pings_are_spread_over_the_time_between_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many sockets few are pinged at once, all within the interval, and each once."""
    monkeypatch.setattr(event_poll, "PINGS", 2)
    async with serving(wire_ping_interval=0.6, wire_ping_timeout=0.6) as server:
        peers = [await Peer.open(server.port) for _ in range(9)]
        loop, times = asyncio.get_running_loop(), dict[int, float]()

        async def pinged(number: int, peer: Peer) -> None:
            assert await peer.frame() == (FIN | PING, b"")
            times[number] = loop.time()

        async with asyncio.timeout(5):
            await asyncio.gather(*(pinged(number, peer) for number, peer in enumerate(peers)))
        gaps = [later - time for time, later in itertools.pairwise(sorted(times.values()))]
        assert len([gap for gap in gaps if gap > 0.02]) >= 4
        assert not [session for session in server.sessions if session.wire.is_closing]


@pytest.mark.gen_test
async def test_a_frame_does_not_wait_for_all_messages_of_its_turn() -> None:
    """If many sockets are ready and their messages take long, frames leave before the last is read."""
    sends: list[int] = []

    class Busy(Recorder):
        def on_message(self, message: str | bytes) -> None:
            time.sleep(2 * event_poll.FRAME_WAIT)
            sends.append(stats.sends)
            super().on_message(message)

    async with serving(Busy) as server:
        peers = [await Peer.open(server.port) for _ in range(6)]
        for peer in peers:
            peer.send(client_frame(TEXT, b"x"))
        time.sleep(0.01)  # noqa: ASYNC251 - so that all of them are ready in the same turn
        for peer in peers:
            assert await peer.text() == "x"
    assert sends == list(range(sends[0], sends[0] + 6))


@pytest.mark.gen_test
async def test_nothing_is_left_without_sockets() -> None:
    """With the last socket the epoll, its file and its timer go; the next socket brings new ones."""
    for _ in range(2):
        async with serving() as server:
            peer = await Peer.open(server.port)
            assert len(event_poll._polls) == 1
            assert event_poll.queued_bytes() == 0
            peer.drop()
            await server.sessions[0].ended()
        assert event_poll._polls == {}


@pytest.mark.gen_test
async def test_pinged_sockets_are_freed_at_once() -> None:
    """The last socket and its poll are freed without the garbage collector, although they had been pinged."""
    gc.collect()
    gc.disable()
    try:
        async with serving(wire_ping_interval=0.02, wire_ping_timeout=0.02) as server:
            peer = await Peer.open(server.port)
            session = server.sessions[0]
            refs = [weakref.ref(session.wire), weakref.ref(session.wire.poll)]
            assert await peer.frame() == (FIN | PING, b"")
            peer.drop()
            await session.ended()
            await until(lambda: not [ref for ref in refs if ref() is not None])
    finally:
        gc.enable()


def test_a_loop_that_was_closed_with_sockets_open() -> None:
    """The first socket of another loop closes what a closed loop has left open."""
    ours, theirs = socket.socketpair()

    async def leave_open() -> int:
        kind = type("Left", (Recorder,), {"sessions": []})
        server = HTTPServer(Application([("/.*", kind)], wire_stats=stats))
        ours.setblocking(False)
        server.handle_stream(IOStream(ours), ("127.0.0.1", 0))
        theirs.send(upgrade())
        await until(lambda: kind.sessions)
        await asyncio.sleep(0)
        wire = kind.sessions[0].wire
        return int(wire._fd)

    async def next_one() -> None:
        async with serving() as server:
            await Peer.open(server.port)
            assert len(event_poll._polls) == 1

    descriptor = run(leave_open())
    with theirs:
        assert theirs.recv(9) == b"HTTP/1.1 "
        assert stats.sockets == 1
        run(next_one())
        theirs.setblocking(False)
        while theirs.recv(4096):
            pass
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


@pytest.mark.gen_test
async def test_one_turn_serves_many_sockets_with_few_calls() -> None:
    """What arrives for many sockets at once is answered at the end of the same turn, once to each."""
    async with serving() as server:
        peers = [await Peer.open(server.port) for _ in range(20)]
        before = stats.sends
        for peer in peers:
            peer.send(client_frame(1, b"a") + client_frame(1, b"b"))
        for peer in peers:
            assert [await peer.text(), await peer.text()] == ["a", "b"]
        assert stats.sends - before <= 40


def test_counters_begin_at_zero() -> None:
    """A process that has done nothing has counted nothing."""
    fresh = Stats()
    assert {name: getattr(fresh, name) for name in Stats.__slots__} == dict.fromkeys(Stats.__slots__, 0)


def test_a_text_frame_is_the_same_for_everybody() -> None:
    """A server's frame has no mask, so it is encoded once."""
    assert text_frame(b"hi") == b"\x81\x02hi"


class Awaiting(Recorder):
    """Waits for `released` at the message "wait"; notes the turn of the loop in which any other came."""

    released: ClassVar[asyncio.Future[None]]
    turn: ClassVar[int] = 0
    came: ClassVar[list[int]]

    def on_message(self, message: str | bytes) -> Any:
        """Note it, or wait."""
        if message == "wait":
            return self._wait()
        self.came.append(self.turn)
        return None

    async def _wait(self) -> None:
        self.events.append("waits")
        await self.released

    @classmethod
    async def count_turns(cls) -> None:
        """Count until the test ends."""
        cls.released, cls.came = asyncio.get_running_loop().create_future(), []
        while True:
            cls.turn += 1
            await asyncio.sleep(0)


@pytest.mark.gen_test
@pytest.mark.parametrize("waits", [False, True], ids=["that is ready", "that waited for the same"])
@pytest.mark.parametrize(("seconds", "turns"), [(0.0, 8), (60.0, 1)], ids=["slow", "quick"])
async def test_a_crowd_shares_turns(
    waits: bool, seconds: float, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a crowd as much is handled in a turn of the loop as there is time for, and none is forgotten."""
    monkeypatch.setattr(event_poll, "SLOW_TURN", seconds)
    monkeypatch.setattr(event_poll, "LEFT_OVER", seconds)
    async with serving(Awaiting) as server:
        counting = asyncio.create_task(Awaiting.count_turns())
        peers = [await Peer.open(server.port) for _ in range(8)]
        await until(lambda: len(server.sessions) == 8)
        for peer in peers:
            peer.send((client_frame(TEXT, b"wait") if waits else b"") + client_frame(TEXT, b"next"))
        if waits:
            await until(lambda: sum("waits" in session.events for session in server.sessions) == 8)
            assert not Awaiting.came
            Awaiting.released.set_result(None)
        await until(lambda: len(Awaiting.came) == 8)
        assert len(set(Awaiting.came)) == turns
        counting.cancel()
