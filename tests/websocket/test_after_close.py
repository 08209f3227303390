"""How frames that arrive after our close are handled."""

import pytest

from eclipse_ws.websocket import frames
from eclipse_ws.websocket.after_close import LATE_FRAMES, discard
from eclipse_ws.websocket.counters import Stats


def masked(opcode: int, payload: bytes = b"") -> bytes:
    """A client's frame; its mask is zero."""
    return bytes((0x80 | opcode, 0x80 | len(payload))) + bytes(4) + payload


@pytest.mark.parametrize("before", [0, 1, LATE_FRAMES])
def test_a_close_frame_is_found(before: int) -> None:
    """The peer's close frame is recognized, up to a number of frames after ours."""
    inbound = frames.Inbound(100)
    inbound.receive(masked(frames.PING) * before + masked(frames.CLOSE) + masked(frames.PING))
    assert discard(inbound, Stats()) is None


def test_other_frames_are_discarded() -> None:
    """Without a close frame in them they are counted, and not searched forever."""
    inbound = frames.Inbound(100)
    inbound.receive(masked(frames.TEXT, b"hello") * 3)
    assert discard(inbound, Stats()) == 3
    inbound.receive(masked(frames.PING) * 200)
    stats = Stats()
    assert discard(inbound, stats) == stats.frames_in == LATE_FRAMES + 1
