"""A handler that still works on earlier messages while it gets the next ones."""

import asyncio
from typing import Any

import pytest

from eclipse_ws.websocket import Socket
from eclipse_ws.websocket.handler import CLOSED
from tests.websocket.peer import CLOSE, TEXT, Peer, Recorder, client_frame, close_frame, serving, until

FIN = 0x80
TWO = client_frame(TEXT, b"x") + client_frame(TEXT, b"y")


class Works(Recorder):
    """Takes every message at once, and is done with all of them when its gate opens."""

    def initialize(self) -> None:
        """Begin with a closed gate."""
        super().initialize()
        self.gate = asyncio.Event()

    def on_message(self, message: str | bytes) -> None:
        """Keep it."""
        self.events.append(message)
        if self.under_way is None:
            self.under_way = asyncio.ensure_future(self._work())

    async def _work(self) -> None:
        await self.gate.wait()
        self.events.append("done")
        self.under_way = None


async def working(server: Any, peer: Peer, last: bytes = b"") -> Any:
    """The peer's session, working on two messages."""
    peer.send(TWO + last)
    session = server.sessions[-1]
    await until(lambda: session.events == ["open", "x", "y"])
    return session


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("last", "code"),
    [(close_frame(1001, b"bye"), 1001), (client_frame(3, b""), 1002)],
    ids=["close", "violation"],
)
async def test_the_last_frame_waits(last: bytes, code: int) -> None:
    """A close frame, or a protocol violation, is answered after the messages before it are done."""
    async with serving(Works) as server:
        peer = await Peer.open(server.port)
        session = await working(server, peer, last)
        await until(lambda: session.wire._busy is not None)
        assert not session.wire.is_closing
        session.gate.set()
        first, payload = await peer.frame()
        assert (first, payload[:2]) == (FIN | CLOSE, code.to_bytes(2, "big"))
        assert (await session.ended())[0] == code
        assert session.events[3] == "done"


@pytest.mark.gen_test
async def test_our_own_close_does_not_wait() -> None:
    """We may close at once; the peer's close that came before ours then ends the session with our code."""
    async with serving(Works) as server:
        peer = await Peer.open(server.port)
        session = await working(server, peer, close_frame(1001))
        await until(lambda: session.wire._busy is not None)
        session.close(4003, "out")
        assert (await peer.frame())[1] == (4003).to_bytes(2, "big") + b"out"
        session.gate.set()
        assert await session.ended() == (4003, "out")


@pytest.mark.gen_test
@pytest.mark.parametrize("way", ["drop", "reset", "close"])
async def test_a_lost_peer_is_kept_until_all_is_done(way: str) -> None:
    """However the peer goes, its session is over when its messages are done."""
    async with serving(Works) as server:
        peer = await Peer.open(server.port)
        session = await working(server, peer)
        if way == "close":
            peer.send(close_frame(1000))
        if way == "reset":
            peer.reset()
        else:
            peer.drop()
        await until(lambda: session.wire.is_lost)
        assert not session.over.is_set()
        session.gate.set()
        await session.ended()
        assert session.events[3] == "done"


@pytest.mark.gen_test
async def test_unread_messages_of_a_lost_peer_are_handled() -> None:
    """What waits for room in the handler when the peer is lost is handled before its session is over."""

    class Full(Works):
        room: "asyncio.Future[None] | None" = None

        def on_message(self, message: str | bytes) -> Any:
            super().on_message(message)
            if message == "y":
                self.room = asyncio.get_running_loop().create_future()
            return self.room

    async with serving(Full) as server:
        peer = await Peer.open(server.port)
        session = await working(server, peer, client_frame(TEXT, b"z"))
        peer.drop()
        await until(lambda: session.wire.is_lost)
        session.room.set_result(None)
        await until(lambda: session.events == ["open", "x", "y", "z"])
        assert not session.over.is_set()
        session.gate.set()
        await session.ended()


@pytest.mark.gen_test
async def test_a_peer_that_is_found_dead() -> None:
    """A peer that answers no ping is lost like any other: its messages are done first."""
    async with serving(Works, wire_ping_interval=0.02, wire_ping_timeout=0.02) as server:
        peer = await Peer.open(server.port)
        session = await working(server, peer)
        await until(lambda: session.wire.is_lost)
        assert not session.over.is_set()
        session.gate.set()
        assert (await session.ended())[0] == 1006
        assert session.events[3] == "done"


@pytest.mark.gen_test
async def test_messages_kept_by_the_handler_are_counted() -> None:
    """Kept messages count together with unfinished ones; a closed socket has none."""

    class Keeps(Works):
        @property
        def held(self) -> int:
            """As many bytes as there were messages."""
            return 100 * (len(self.events) - 1)

    async with serving(Keeps) as server:
        peer = await Peer.open(server.port)
        session = await working(server, peer)
        wire: Socket = session.wire
        assert wire.held == 200
        peer.send(client_frame(TEXT, b"z" * 50)[:-10])
        await until(lambda: wire.held > 200)
        assert wire.held - 200 in range(40, 60)
        session.gate.set()
        wire.abort()
        await session.ended()
        assert session.wire is CLOSED
        assert (wire.held, session.wire.held) == (0, 0)
