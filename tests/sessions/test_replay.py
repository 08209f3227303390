"""A replay: what fits, what a piece has, and how long its client may take."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from eclipse_ws.protocol import Cursor
from eclipse_ws.sessions import replay as replay_module
from eclipse_ws.sessions.replay import PART, Replay
from eclipse_ws.websocket.params import Params
from tests.backends.harness import event
from tests.sessions.test_hub import EventPoll, Session, gen_test

START = Cursor("e", 0)


def make(count: int, room: int) -> tuple[Replay, Session, int]:
    """A replay of so many events to a client that reads nothing, its session, and each event's size.

    ``room``: so many of them are a piece.
    """
    events = [event(number).sequenced(Cursor("e", number)) for number in range(1, count + 1)]
    size = len(event(1).sequenced(Cursor("e", 1)).body)
    poll = EventPoll()
    poll.params = Params(queue_bytes=PART * size * room)
    session = Session(poll, "one")
    session.wire.reads = False
    missed = [(event.body, event.cursor) for event in events]
    return Replay(session.wire, START, missed), session, size


def test_what_fits() -> None:
    """As many bytes as a piece has, with what waits in the queue already."""
    replay, session, size = make(3, room=3)
    assert replay.size == 3 * size
    assert replay.fits()
    session.wire.queued = 1
    assert not replay.fits()
    replay.send()
    assert (replay.size, replay.cursor, len(session.got)) == (0, Cursor("e", 3), 3)


def test_a_piece_fills_the_room_and_no_more() -> None:
    """To the last byte. An event that exceeds the room is sent alone; without events nothing is sent."""
    replay, session, size = make(5, room=3)
    session.wire.send = lambda frame: (session.wire.frames.append(frame), add(session, size))[0]
    replay.send_piece()
    assert (len(session.got), replay.cursor, replay.size) == (3, Cursor("e", 3), 2 * size)
    replay.send_piece()
    assert (len(session.got), replay.cursor) == (4, Cursor("e", 4))
    session.wire.read()
    replay.send_piece()
    replay.send_piece()
    assert (len(session.got), replay.cursor, replay.size) == (5, Cursor("e", 5), 0)


def add(session: Session, size: int) -> None:
    """A frame waits to be read; of its head's bytes the test wants nothing."""
    session.wire.queued += size


@gen_test
@pytest.mark.parametrize("end", ["is_closing", "is_lost"])
async def test_a_client_that_has_left_is_not_waited_for(end: str) -> None:
    """A socket that closes or is lost reads nothing more, even if nothing waits for it."""
    replay, session, _ = make(1, room=2)
    setattr(session.wire, end, True)
    assert not await replay.drained()


@gen_test
async def test_the_next_piece_waits_for_half_of_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next piece is sent when half of the room is free; a client that takes too long gets none."""
    monkeypatch.setattr(replay_module, "LOOK", 0.001)
    replay, session, size = make(5, room=4)
    session.wire.queued = 2 * size + 1
    draining: Any = asyncio.ensure_future(replay.drained())
    await asyncio.sleep(0.01)
    assert not draining.done()
    session.wire.queued -= 1
    assert await draining
    monkeypatch.setattr(replay_module, "PATIENCE", 0.01)
    session.wire.queued += 1
    assert not await replay.drained()
