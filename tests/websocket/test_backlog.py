"""The queue of bytes that the kernel does not take."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eclipse_ws.websocket import backlog
from eclipse_ws.websocket.backlog import Backlog, count_started


@given(st.lists(st.binary(min_size=1, max_size=9), min_size=1), st.lists(st.integers(1, 30)))
def test_nothing_is_lost_or_reordered(frames: list[bytes], takes: list[int]) -> None:
    """Whatever the kernel takes at a time, it gets every byte once and in order."""
    queue, out, through = Backlog(), b"", 0
    queue.push(frames, 0, 0)
    for take in [*takes, *[1000] * len(frames)]:
        if queue.size:
            part = queue.chunk()[:take]
            out += part
            through += queue.advance(len(part))
    assert out == b"".join(frames)
    assert through == len(frames)
    assert queue.size == 0


def test_only_droppable_frames_are_dropped() -> None:
    """Dropping keeps the rest in order, and keeps what has left in part even if it was droppable."""
    queue = Backlog()
    assert queue.push([b"aaaa", b"b", b"c", b"dd"], 0b0101, 100) == 0
    queue.advance(1)
    assert queue.drop() == 1
    assert queue.chunk() == b"aaabdd"
    assert queue.size == 6


def test_droppable_frames_have_less_room() -> None:
    """A droppable frame beyond the room is not taken; one that is not droppable always is."""
    queue = Backlog()
    assert queue.push([b"aaaa", b"bbbb", b"cc", b"dd"], 0b1110, 8) == 2
    assert queue.push([b"e"], 0b1, 8) == 1
    assert queue.push([b"ffff"], 0, 8) == 0
    assert queue.chunk() == b"aaaabbbbffff"


def test_clearing_keeps_a_frame_that_has_begun() -> None:
    """A partially sent frame is finished even when everything else is discarded."""
    queue = Backlog()
    queue.push([b"aaaa", b"bbbb"], 0, 0)
    queue.advance(2)
    queue.clear()
    assert queue.chunk() == b"aa"
    queue.advance(2)
    queue.push([b"cc"], 0, 0)
    queue.clear()
    assert queue.size == 0
    assert not queue.frames


def test_the_rest_of_a_frame_is_shared_and_then_copied() -> None:
    """A large frame that many sockets have begun is there once, until most of it has left a socket."""
    frame = b"x" * 1000
    queue = Backlog()
    queue.push([frame], 0, 0)
    for taken in (100, 399):
        queue.advance(taken)
        rest = queue.chunk()
        assert isinstance(rest, memoryview)
        assert rest.obj is frame
    assert rest == b"x" * 501
    queue.advance(2)
    assert queue.chunk() == b"x" * 499
    assert isinstance(queue.chunk(), bytes)
    queue.advance(1)
    assert isinstance(queue.chunk(), memoryview)
    assert queue.advance(498) == 1


def test_a_chunk_is_bounded() -> None:
    """However much waits, one call gets a bounded chunk of it, or one frame."""
    queue = Backlog()
    queue.push([b"x" * 1000] * 1000, 0, 0)
    assert backlog.CHUNK <= len(queue.chunk()) < backlog.CHUNK + 1000
    queue.clear()
    queue.push([b"y" * 2 * backlog.CHUNK, b"z"], 0, 0)
    assert queue.chunk() == b"y" * 2 * backlog.CHUNK


def test_a_pinned_chunk_leaves_whole() -> None:
    """A chunk that TLS was offered can't be dropped or cleared, and comes first, unchanged."""
    queue = Backlog()
    queue.push([b"aaaa", b"bb", b"c"], 0b010, 100)
    assert queue.pin() == 2
    queue.push([b"dd"], 0b1, 100)
    assert queue.drop() == 1
    queue.clear()
    assert queue.chunk() == b"aaaabbc"
    assert queue.advance(7) == 1
    assert queue.size == 0


@pytest.mark.parametrize(("size", "count"), [(0, 0), (1, 1), (3, 1), (4, 2), (6, 2)])
def test_started_frames(size: int, count: int) -> None:
    """A frame has started when its first byte has left."""
    assert count_started([b"abc", b"def"], size) == count
