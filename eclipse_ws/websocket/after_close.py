"""What a peer sends after our close frame: everything except its own close frame is discarded."""

from typing import Final

from eclipse_ws.websocket import frames
from eclipse_ws.websocket.counters import Stats

LATE_FRAMES: Final = 64
"""Frames of one read that are searched for the peer's close frame."""


def discard(inbound: frames.Inbound, stats: Stats) -> int | None:
    """Parse and discard frames. Returns their number, at most `LATE_FRAMES` + 1, or None at a close frame.

    Raises Violation.
    """
    discarded = 0
    while discarded <= LATE_FRAMES:
        event = inbound.next()
        if event is None:
            break
        stats.frames_in += 1
        if event.opcode == frames.CLOSE:
            return None
        discarded += 1
    return discarded
