"""A peer that is not read because enough of its messages wait already."""

import asyncio
from typing import Any

import pytest

from tests.websocket.lines import KINDS, Deflates, line
from tests.websocket.peer import TEXT, Peer, client_frame, close_frame, stats, until

MESSAGE = client_frame(TEXT, b"x" * 992)
"""A thousand bytes."""


class Slow(Deflates):
    """Takes a message when it is told to."""

    def initialize(self) -> None:
        """Begin with a closed gate."""
        super().initialize()
        self.gate = asyncio.Event()

    async def on_message(self, message: str | bytes) -> None:
        """Wait at the gate, keep it."""
        await self.gate.wait()
        self.events.append(message)


async def say(peer: Peer, *reads: bytes) -> None:
    """Say this, so that each piece is a read of its own, and until all of it is read."""
    for data in reads:
        before = stats.bytes_in
        peer.send(data)
        await until(lambda: stats.bytes_in - before == len(data))  # noqa: B023 - it is awaited here


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.gen_test
async def test_a_paused_peer_that_leaves_is_noticed_at_once(kind: str, sides: Any) -> None:
    """A peer that has said too much and then closes is answered behind its last message, and its leaving is
    noticed at once, not when the close timeout is over.
    """
    async with line(kind, sides, Slow, wire_read_bytes=1000, wire_close_timeout=300) as here:
        peer, session = await here.open()
        wire = session.wire
        await say(peer, MESSAGE, MESSAGE * 2 + close_frame(1001))
        session.gate.set()
        assert await peer.closed() == (1001, "")
        assert await session.ended() == (1001, "")
        assert session.events[1:-1] == ["x" * 992] * 3
        await until(lambda: wire.is_lost)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.gen_test
async def test_a_paused_peer_is_read_again(kind: str, sides: Any) -> None:
    """As often as a peer sends too much, it is read again when that is done, and all is in order."""

    class Opens(Slow):
        async def on_message(self, message: str | bytes) -> None:
            await super().on_message(message)
            if str(message).endswith("shut"):
                self.gate.clear()

    async with line(kind, sides, Opens, wire_read_bytes=1000) as here:
        peer, session = await here.open()
        said = []
        for turn in range(4):
            texts = [f"{turn} {number} " + "." * 500 for number in range(5)] + [f"{turn} shut"]
            said += texts
            first, *rest = (client_frame(TEXT, text.encode()) for text in texts)
            await say(peer, first, b"".join(rest))
            session.gate.set()
            await until(lambda: session.events[1:] == said)  # noqa: B023 - it is awaited here
        peer.send(close_frame(1000))
        assert await peer.closed() == (1000, "")


@pytest.mark.gen_test
async def test_a_paused_peer_that_floods_after_its_close(sides: Any) -> None:
    """What a paused peer sends after its close frame is discarded, and is not an error."""
    async with line("plain", sides, Slow, wire_read_bytes=1000, wire_frame_burst=20) as here:
        peer, session = await here.open()
        await say(peer, MESSAGE, MESSAGE * 2 + close_frame(1001))
        session.gate.set()
        assert (await peer.frame())[1] == (1001).to_bytes(2, "big")
        peer.send(MESSAGE * 100)
        assert await session.ended() == (1001, "")
        peer.drop()
        await until(lambda: session.wire.is_lost)


@pytest.mark.gen_test
async def test_a_peer_that_was_not_read_from_and_resets(sides: Any) -> None:
    """A reset of a paused peer is noticed at once; what was read before is handled, and no more is read."""
    async with line("plain", sides, Slow, wire_read_bytes=1000) as here:
        peer, session = await here.open()
        await say(peer, MESSAGE, MESSAGE * 2)
        peer.send(MESSAGE * 3)
        peer.reset()
        await until(lambda: session.wire.is_lost)
        session.gate.set()
        assert await session.ended() == (1006, "")
        assert session.events[1:-1] == ["x" * 992] * 3
