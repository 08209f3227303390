"""What a peer may send besides its messages: a token bucket in units of one frame, stored as one float.

The bucket holds `Params.frame_burst` units and refills at `Params.frame_rate` units a second. A socket stores
only the time at which its bucket is full again, which is in the past for a peer that sends nothing unusual.
Messages are charged by the handler; here they only earn.
"""

from typing import Final

from eclipse_ws.websocket.params import Params

BYTES_PER_UNIT: Final = 512
"""Bytes that earn one unit, or cost one after our close."""
BYTES_PER_READ: Final = 64
"""A read of this many bytes is free, even if it completes no frame: no network makes smaller segments."""


def charged(full_at: float, now: float, units: float, params: Params) -> float:
    """When the allowance is full again after a charge of `units`; negative units are earned."""
    return max(full_at, now) + units / params.frame_rate


def is_overdrawn(full_at: float, now: float, params: Params) -> bool:
    """Whether the peer has exceeded its allowance."""
    return full_at - now > params.frame_burst / params.frame_rate


def read_cost(frames: int | None, size: int) -> float:
    """Units for parsing `size` bytes with `frames` control frames and fragments while the socket is open.

    None means that the bytes completed no frame at all. Bytes earn units, because they become messages, or a
    message that is too big.
    """
    if frames is None:
        frames = size < BYTES_PER_READ
    return frames - size / BYTES_PER_UNIT


def late_read_cost(size: int) -> float:
    """Units for a read of `size` bytes after our close, when nothing the peer sends is useful."""
    return 1 + size / BYTES_PER_UNIT
