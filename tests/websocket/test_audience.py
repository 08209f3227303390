"""Audiences: order, joining and leaving within a turn, and what a stuck member costs the others (nothing)."""

import asyncio
import contextlib
import gc
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eclipse_ws.websocket import Audience, text_frame
from tests.websocket.peer import Peer, Recorder, run, serving, stats, until

END = text_frame(b"end")


@contextlib.asynccontextmanager
async def members(count: int, **bounds: Any) -> AsyncIterator[tuple[list[Any], list[Peer]]]:
    """That many sockets, and their peers."""
    async with serving(Recorder, **bounds) as server:
        peers = [await Peer.open(server.port) for _ in range(count)]
        yield [session.wire for session in server.sessions], peers


async def heard(socket: Any, peer: Peer) -> list[str]:
    """Everything that a peer has received so far."""
    socket.send(END)
    seen = []
    while (text := await peer.text()) != "end":
        seen.append(text)
    return seen


def frame(number: int) -> bytes:
    """A distinguishable frame."""
    return text_frame(b"%d" % number)


@pytest.mark.gen_test
async def test_one_turns_frames_leave_in_one_call_per_member() -> None:
    """Several frames to several members cost one system call a member."""
    async with members(3) as (sockets, peers):
        audience = Audience()
        for socket in sockets:
            audience.add(socket)
        before = stats.sends, stats.frames_out
        for number in range(5):
            audience.send(frame(number))
        await asyncio.sleep(0)
        assert (stats.sends - before[0], stats.frames_out - before[1]) == (3, 15)
        for socket, peer in zip(sockets, peers, strict=True):
            assert await heard(socket, peer) == ["0", "1", "2", "3", "4"]


@pytest.mark.gen_test
async def test_a_newcomer_gets_no_earlier_frames() -> None:
    """A member that joins within a turn gets what is sent later; one that leaves, what was sent before."""
    async with members(2) as ((first, second), (one, two)):
        audience = Audience()
        audience.add(first)
        audience.send(frame(0))
        audience.add(second)
        audience.send(frame(1))
        audience.discard(first)
        audience.send(frame(2))
        audience.add(first)
        audience.send(frame(3))
        assert await heard(first, one) == ["0", "1", "3"]
        assert await heard(second, two) == ["1", "2", "3"]


@pytest.mark.gen_test
async def test_own_frames_keep_their_place() -> None:
    """What a socket is sent itself keeps its place among the audience's frames, still in one call."""
    async with members(2) as ((first, second), (one, two)):
        audience = Audience()
        audience.add(first)
        audience.add(second)
        before = stats.sends
        first.send(frame(0))
        audience.send(frame(1))
        first.send(frame(2))
        audience.send(frame(3))
        await asyncio.sleep(0)
        assert stats.sends == before + 2
        assert await heard(first, one) == ["0", "1", "2", "3"]
        assert await heard(second, two) == ["1", "3"]


@pytest.mark.gen_test
async def test_a_skipped_member() -> None:
    """A skipped member gets everything but that frame."""
    async with members(2) as ((first, second), (one, two)):
        audience = Audience()
        audience.add(first)
        audience.add(second)
        audience.send(frame(0))
        audience.send(frame(1), skip=first)
        audience.send(frame(2), skip=second)
        audience.send(frame(3), skip=first)
        audience.send(frame(4))
        assert await heard(first, one) == ["0", "2", "4"]
        assert await heard(second, two) == ["0", "1", "3", "4"]


@pytest.mark.gen_test
async def test_a_socket_in_two_audiences() -> None:
    """A socket may be in several audiences; each one's order holds."""
    async with members(1) as ((socket,), (peer,)):
        left, right = Audience(), Audience()
        left.add(socket)
        right.add(socket)
        for number in range(6):
            (left if number % 2 else right).send(frame(number))
        seen = await heard(socket, peer)
        assert [text for text in seen if int(text) % 2] == ["1", "3", "5"]
        assert [text for text in seen if not int(text) % 2] == ["0", "2", "4"]
        left.discard(socket)
        left.send(frame(7))
        right.send(frame(8))
        assert await heard(socket, peer) == ["8"]


@pytest.mark.gen_test
async def test_a_socket_in_many_audiences() -> None:
    """Its own frames keep their place among those of all its audiences, which it may leave in any order."""
    async with members(1) as (sockets, peers):
        (socket,) = sockets
        audiences = [Audience() for _ in range(50)]
        for audience in audiences:
            audience.add(socket)
        audiences[40].send(frame(1))
        socket.send(frame(2))
        audiences[7].send(frame(3))
        audiences[40].send(frame(4))
        socket.send(frame(5))
        assert await heard(socket, peers[0]) in (["1", "2", "3", "4", "5"], ["1", "2", "4", "3", "5"])
        for audience in (audiences[0], audiences[49], audiences[20]):
            audience.discard(socket)
        assert list(socket.audiences) == [*audiences[1:20], *audiences[21:49]]
        socket.close()
        assert socket.audiences == ()
        assert not any(socket in audience for audience in audiences)


@pytest.mark.gen_test
async def test_frames_of_gathering_audiences_leave_in_one_call() -> None:
    """A socket writes what it gets from many audiences in one turn with one system call."""
    async with members(2) as (sockets, peers):
        audiences = [Audience(gathers=True) for _ in range(20)]
        for audience in audiences:
            for socket in sockets:
                audience.add(socket)
        before = stats.sends, stats.frames_out
        for number, audience in enumerate(audiences):
            audience.send(frame(number))
        await asyncio.sleep(0)
        assert (stats.sends - before[0], stats.frames_out - before[1]) == (2, 40)
        for socket, peer in zip(sockets, peers, strict=True):
            assert await heard(socket, peer) == [str(number) for number in range(20)]


@pytest.mark.gen_test
async def test_a_closed_socket_leaves_its_audiences() -> None:
    """It gets what was sent before, leaves every audience, and can't come back."""
    async with members(2) as ((first, second), (one, two)):
        audience = Audience()
        audience.add(first)
        audience.add(second)
        audience.add(first)
        assert len(audience) == 2
        assert set(audience) == {first, second}
        audience.send(frame(0))
        first.close(1001)
        assert first not in audience
        audience.send(frame(1))
        audience.add(first)
        assert len(audience) == 1
        assert await one.text() == "0"
        assert (await one.frame())[0] == 0x88
        assert await heard(second, two) == ["0", "1"]
        two.reset()
        await until(lambda: not len(audience))
        audience.send(frame(2))
        audience.discard(second)


@pytest.mark.gen_test
async def test_a_stuck_member_is_dropped_and_the_others_are_served() -> None:
    """A member that does not read is closed when its queue is full; the others get every frame."""
    async with serving(wire_queue_bytes=100_000) as server:
        await Peer.open(server.port, window=4096)
        quick = await Peer.open(server.port)
        audience = Audience()
        for session in server.sessions:
            audience.add(session.wire)
        closed, sent = stats.closed_slow, 0
        while len(audience) == 2:
            for _ in range(20):
                audience.send(text_frame(b"x" * 20_000))
            sent += 20
            for _ in range(20):
                assert len(await quick.text()) == 20_000
        assert stats.closed_slow == closed + 1
        assert server.sessions[0].wire.is_closing
        assert server.sessions[1].wire in audience


@pytest.mark.gen_test
async def test_a_stuck_member_loses_only_droppable_frames() -> None:
    """A full queue costs a member the droppable frames, and it stays; the other frames arrive."""
    async with serving(wire_queue_bytes=200_000) as server:
        peer = await Peer.open(server.port, window=4096)
        socket = server.sessions[0].wire
        audience = Audience()
        audience.add(socket)
        audience.send(frame(0))
        while not socket.queued:
            audience.send(text_frame(b"x" * 20_000), droppable=True)
            await asyncio.sleep(0)
        audience.send(frame(1))
        dropped = stats.dropped
        for _ in range(10):
            for _ in range(10):
                audience.send(text_frame(b"x" * 20_000), droppable=True)
            await asyncio.sleep(0)
        audience.send(frame(2))
        assert stats.dropped > dropped
        assert [text for text in await heard(socket, peer) if len(text) < 10] == ["0", "1", "2"]


@pytest.mark.gen_test
async def test_large_amounts_are_sent_before_the_turn_ends() -> None:
    """What an audience holds for a turn's end is bounded; each frame says how many members get it."""
    async with members(1) as ((socket,), (peer,)):
        audience = Audience()
        audience.add(socket)
        for number in range(12):
            assert audience.send(text_frame(b"%02d" % number + b"." * 50_000), skip=None) == 1
            assert sum(map(len, audience.frames)) < 400_000
        assert [text[:2] for text in await heard(socket, peer)] == [f"{number:02d}" for number in range(12)]


def test_an_audience_without_members() -> None:
    """Sending to nobody does nothing."""
    audience = Audience()
    assert audience.send(frame(0)) == 0
    audience.flush()
    assert len(audience) == 0
    assert audience.frames == []


@pytest.mark.gen_test
async def test_an_empty_audience_is_freed_at_once() -> None:
    """Without members nothing refers to an audience, not even itself."""
    async with members(1) as ((socket,), _):
        audience = Audience()
        audience.add(socket)
        audience.send(frame(0))
        await asyncio.sleep(0)
        audience.discard(socket)
        ref = weakref.ref(audience)
        gc.disable()
        try:
            del audience
            assert ref() is None
        finally:
            gc.enable()


steps = st.lists(
    st.tuples(
        st.sampled_from(["send", "send", "skip", "own", "add", "discard", "turn"]),
        st.integers(0, 2),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(steps)
def test_any_sequence_keeps_the_order(script: list[tuple[str, int]]) -> None:
    """Whatever joins, leaves and is sent in a turn, each socket gets what a simple model says."""
    run(play(script))


async def play(script: list[tuple[str, int]]) -> None:
    """Run the steps on an audience and on a model of it."""
    async with members(3) as (sockets, peers):
        audience, inside = Audience(), set[int]()
        expected: list[list[str]] = [[], [], []]
        for number, (step, who) in enumerate(script):
            if step in {"send", "skip"}:
                skip = who if step == "skip" else None
                audience.send(frame(number), skip=None if skip is None else sockets[skip])
                for index in inside - {skip}:
                    expected[index].append(str(number))
            elif step == "own":
                sockets[who].send(frame(number))
                expected[who].append(str(number))
            elif step == "add":
                audience.add(sockets[who])
                inside.add(who)
            elif step == "discard":
                audience.discard(sockets[who])
                inside.discard(who)
            else:
                await asyncio.sleep(0)
        for socket, peer, texts in zip(sockets, peers, expected, strict=True):
            assert await heard(socket, peer) == texts
