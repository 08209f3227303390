"""The allowance for everything other than messages."""

import pytest

from eclipse_ws.websocket.allowance import charged, is_overdrawn, late_read_cost, read_cost
from eclipse_ws.websocket.params import Params

PARAMS = Params(frame_rate=10.0, frame_burst=20.0)


def test_a_burst_is_allowed_and_refills() -> None:
    """The whole burst may be spent at once; a second later its rate may be spent again."""
    full_at = charged(0.0, 100.0, 20, PARAMS)
    assert not is_overdrawn(full_at, 100.0, PARAMS)
    assert is_overdrawn(charged(full_at, 100.0, 1, PARAMS), 100.0, PARAMS)
    assert not is_overdrawn(charged(full_at, 101.0, 10, PARAMS), 101.0, PARAMS)
    assert is_overdrawn(charged(full_at, 101.0, 11, PARAMS), 101.0, PARAMS)


def test_a_full_allowance_stays_full() -> None:
    """Units earned beyond what was spent are not saved up for later."""
    full_at = charged(0.0, 100.0, -1000, PARAMS)
    assert is_overdrawn(charged(full_at, 100.0, 21, PARAMS), 100.0, PARAMS)


@pytest.mark.parametrize(
    ("count", "size", "cost"), [(None, 63, 1), (None, 64, 0), (0, 1024, 0), (3, 18, 3), (1, 512, 1)]
)
def test_costs(count: int | None, size: int, cost: int) -> None:
    """Frames cost; so does a small read without a complete one; bytes earn, and cost after our close."""
    assert read_cost(count, size) == cost - size / 512
    assert late_read_cost(size) == 1 + size / 512
