"""The slots in front of the client."""

from __future__ import annotations

import asyncio

import pytest

from eclipse_ws.api.base import ApiError, ApiStats
from eclipse_ws.api.slots import Slots


def soon() -> float:
    """A deadline that is far away."""
    return asyncio.get_running_loop().time() + 60


@pytest.mark.gen_test
async def test_first_come_first_served() -> None:
    """Slots go to those who wait in the order in which they came."""
    slots = Slots(1, 10, ApiStats())
    assert slots.take()
    assert not slots.take()
    served: list[int] = []

    async def wait(n: int) -> None:
        await slots.wait(soon())
        served.append(n)
        slots.release()

    waits = [asyncio.ensure_future(wait(n)) for n in range(5)]
    await asyncio.sleep(0)
    slots.release()
    await asyncio.gather(*waits)
    assert served == list(range(5))
    assert slots.take()


@pytest.mark.gen_test
async def test_slot_of_one_who_leaves_as_it_comes() -> None:
    """A slot that is handed over in the moment of a cancellation is not lost."""
    stats = ApiStats()
    slots = Slots(1, 10, stats)
    slots.take()
    wait = asyncio.ensure_future(slots.wait(soon()))
    await asyncio.sleep(0)
    slots.release()
    wait.cancel()
    with pytest.raises(asyncio.CancelledError):
        await wait
    assert (stats.active, stats.waiting) == (0, 0)
    assert slots.take()


@pytest.mark.gen_test
async def test_who_left_is_passed_over() -> None:
    """A slot goes past those who were cancelled in the same turn, to the next one."""
    slots = Slots(1, 10, ApiStats())
    slots.take()
    first, second = (asyncio.ensure_future(slots.wait(soon())) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    slots.release()
    await second
    assert first.cancelled()
    assert not slots.take()


@pytest.mark.gen_test
async def test_clear() -> None:
    """All who wait are sent away with the reason."""
    slots = Slots(1, 10, ApiStats())
    slots.take()
    waits = [asyncio.ensure_future(slots.wait(soon())) for _ in range(2)]
    await asyncio.sleep(0)
    waits[0].cancel()
    slots.clear("stopping")
    with pytest.raises(asyncio.CancelledError):
        await waits[0]
    with pytest.raises(ApiError, match="stopping"):
        await waits[1]
