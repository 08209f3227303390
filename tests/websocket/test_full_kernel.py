"""A full kernel buffer: which frames are dropped, which never are, and what is counted."""

import asyncio
import itertools
import os
from typing import Any

import pytest

from eclipse_ws.websocket import Audience, queued_bytes, text_frame
from tests.websocket.lines import KINDS, line
from tests.websocket.peer import Peer, close_frame, serving, stats, until

FIN = 0x80


class Kernel:
    """Takes `room` bytes more of what is written to any socket, or everything if that is None."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room: int | None = None
        self._write = os.write
        monkeypatch.setattr(os, "write", self.write)

    def write(self, fd: int, data: Any) -> int:
        """Instead of os.write."""
        if self.room is None:
            return self._write(fd, data)
        if not self.room:
            raise BlockingIOError
        size = self._write(fd, data[: self.room])
        self.room -= size
        return size


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """A kernel that takes everything until it is told otherwise."""
    return Kernel(monkeypatch)


async def heard(peer: Peer) -> list[str]:
    """The texts up to "end"."""
    seen = []
    while (text := await peer.text()) != "end":
        seen.append(text)
    return seen


SORTS = list(itertools.product(["own", "audience"], [False, True]))


@pytest.mark.parametrize("first", ["own", "audience"])
@pytest.mark.gen_test
async def test_a_full_queue_drops_only_droppable_frames(first: str, kernel: Kernel) -> None:
    """Of own frames and an audience's, in any mixture, in the turn in which the queue fills and in the next
    one, a queue that is half full loses those that may be dropped and no other; the order stays.
    """
    async with serving(wire_queue_bytes=1000) as server:
        peer = await Peer.open(server.port)
        wire, audience = server.sessions[0].wire, Audience()
        audience.add(wire)

        def send(text: str, way: str, droppable: bool) -> None:
            frame = text_frame(text.encode())
            if way == "own":
                wire.send(frame, droppable)
            else:
                audience.send(frame, droppable=droppable)

        for script in itertools.product(SORTS, repeat=3):
            kernel.room, kept, dropped = 0, ["x" * 598], stats.dropped
            send("x" * 598, first, droppable=False)
            for turn in range(2):
                for number, (way, droppable) in enumerate(script):
                    send(f"{turn}{number}", way, droppable)
                    if not droppable:
                        kept.append(f"{turn}{number}")
                await asyncio.sleep(0)
            assert stats.dropped - dropped == 7 - len(kept)
            assert (
                wire.queued == queued_bytes() == sum(len(text) + (4 if len(text) > 9 else 2) for text in kept)
            )
            kernel.room = None
            await until(lambda: not wire.queued)
            wire.send(text_frame(b"end"))
            assert await heard(peer) == kept


@pytest.mark.parametrize("taken", [0, 1, 2, 59, 60, 61, 62, 89])
@pytest.mark.gen_test
async def test_a_frame_that_the_kernel_has_begun_with_is_not_dropped(taken: int, kernel: Kernel) -> None:
    """However little the kernel took of a droppable frame, its rest follows; one of which it took nothing is
    dropped where there is no room for it.
    """
    async with serving(wire_queue_bytes=100) as server:
        peer = await Peer.open(server.port)
        wire = server.sessions[0].wire
        for droppable in (False, True):  # the first frame
            kernel.room = taken
            kept = ["a" * 58, "b" * 28] if taken > 60 else ["a" * 58]
            if droppable and not taken:
                kept = ["b" * 28]
            wire.send(text_frame(b"a" * 58), droppable)
            wire.send(text_frame(b"b" * 28), droppable=True)
            await asyncio.sleep(0)
            kernel.room = None
            await until(lambda: not wire.queued)
            wire.send(text_frame(b"end"))
            assert await heard(peer) == kept


@pytest.mark.parametrize("turns", [1, 2])
@pytest.mark.gen_test
async def test_a_queue_may_hold_exactly_its_bound(turns: int, kernel: Kernel) -> None:
    """A queue may hold exactly its bound, what may be dropped included, and not a byte more."""
    async with serving(wire_queue_bytes=120) as server:
        peer = await Peer.open(server.port)
        wire = server.sessions[0].wire
        kernel.room = 0
        for droppable in (True, False):
            wire.send(text_frame(b"x" * 58), droppable)
            if turns == 2:
                await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (wire.queued, wire.is_closing) == (120, False)
        wire.send(text_frame(b""))
        assert (wire.queued, wire.is_closing) == (62, False)
        wire.send(text_frame(b"x" * 56))
        assert (wire.queued, wire.is_closing) == (120, False)
        wire.send(text_frame(b""))
        assert wire.is_closing
        kernel.room = None
        assert (await peer.frame())[1][:2] == (1008).to_bytes(2, "big")
        peer.send(close_frame(1008))
        await peer.gone()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.gen_test
async def test_sent_frames_are_counted_once(kind: str, sides: Any) -> None:
    """Every frame and every byte of the frames counts once, whether they leave at once or wait for the peer,
    and what waits counts as queued until then.
    """
    frames = [text_frame(os.urandom(size).hex().encode()) for size in (5, 500, 25_000, 100_000)]
    async with line(kind, sides, wire_queue_bytes=1 << 30) as here:
        peer, session = await here.open(window=4096)
        session.wire.send(text_frame(b"hello"))
        assert await peer.text() == "hello"
        before = stats.frames_out, stats.bytes_out
        sent, size = 0, 0
        while session.wire.queued < 500_000:
            for frame in frames:
                session.wire.send(frame)
            sent += len(frames)
            await asyncio.sleep(0)
        assert stats.frames_out - before[0] < sent
        for _ in range(sent):
            payload = (await peer.frame())[1]
            size += len(payload) + (2 if len(payload) < 126 else 4 if len(payload) < 65536 else 10)
        assert (stats.frames_out - before[0], stats.bytes_out - before[1]) == (sent, size)
        assert session.wire.queued == queued_bytes() == 0
