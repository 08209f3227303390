"""The slots in front of the client."""

from __future__ import annotations

import asyncio

import pytest

from eclipse_ws.application.base import ApiError, ApiStats, Share
from eclipse_ws.application.concurrency_limiter import Slots


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
async def test_who_left_is_forgotten() -> None:
    """Callers that are cancelled hold nothing, also while no slot is ever free."""
    slots = Slots(1, 10, ApiStats())
    slots.take()
    waits = [asyncio.ensure_future(slots.wait(soon())) for _ in range(5)]
    await asyncio.sleep(0)
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
    assert not slots._queues


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


class Crowd:
    """Callers on so many slots and places; ``served`` has the names in the order of their turns."""

    def __init__(self, limit: int, waiting: int) -> None:
        self.stats = ApiStats()
        self.slots = Slots(limit, waiting, self.stats)
        self.served: list[str] = []
        self.waits: list[asyncio.Task[None]] = []

    def take(self, who: str, address: str | None = None) -> bool:
        """Take a slot for good, if there is one."""
        return self.slots.take(Share(who, address))

    async def wait(self, who: str, address: str | None = None, times: int = 1, length: int = 0) -> None:
        """Begin to wait, so many times, with calls of so many bytes."""

        async def turn() -> None:
            await self.slots.wait(soon(), Share(who, address), length)
            self.served.append(who)

        self.waits += [asyncio.ensure_future(turn()) for _ in range(times)]
        await asyncio.sleep(0)

    async def end(self) -> None:
        """Send everybody away, and see that nothing is left."""
        self.slots.clear("the end")
        await asyncio.gather(*self.waits, return_exceptions=True)
        assert self.stats.waiting == 0
        assert self.slots._queues == {}
        assert (self.slots._waiting._held, self.slots._taken) == ({}, 0)


@pytest.mark.gen_test
async def test_slots_go_round() -> None:
    """Who has many calls waiting has one turn in each round, and its own calls keep their order."""
    here = Crowd(1, 100)
    here.take("someone")
    await here.wait("a", times=5)
    await here.wait("b", times=2)
    await here.wait("c")
    for who in ("someone", *"abcabaa"):
        here.slots.release(Share(who))
        await asyncio.sleep(0)
    assert "".join(here.served) == "abcabaaa"
    await here.end()


@pytest.mark.gen_test
async def test_long_calls_take_several_places() -> None:
    """What waits is bounded in bytes: of long calls fewer wait than of short ones, also of one user."""
    here = Crowd(1, 100)
    here.take("someone")
    await here.wait("a", times=10, length=4 * 65536)
    assert here.stats.waiting == 2
    for number in range(30):
        await here.wait(f"u{number}", length=4 * 65536)
    assert here.stats.waiting == 20
    here.slots.release(Share("someone"))
    await here.wait("b", times=10)
    assert here.stats.waiting == 24
    await here.end()


@pytest.mark.gen_test
async def test_one_has_a_part_of_the_queue() -> None:
    """One user has a tenth of the places, and an address a quarter, whoever its users are."""
    here = Crowd(1, 200)
    here.take("someone")
    await here.wait("a", "1.1.1.1", times=25)
    assert here.stats.waiting == 20
    refused = here.waits[20:]
    for wait in refused:
        with pytest.raises(ApiError) as caught:
            await wait
        assert (caught.value.code, caught.value.retryable, caught.value.retry_after) == ("api_busy", True, 1)
    for number in range(100):
        await here.wait(f"b{number}", "1.1.1.1")
    assert here.stats.waiting == 50
    await here.wait("c", "2.2.2.2")
    await here.wait("d")
    assert here.stats.waiting == 52
    await here.end()


@pytest.mark.gen_test
async def test_the_last_slots_are_for_others() -> None:
    """One user can't take the last tenth of the slots, however long its calls take; others can."""
    here = Crowd(50, 100)
    assert [here.take("a") for _ in range(50)] == [True] * 45 + [False] * 5
    await here.wait("a")
    assert all(here.take(who) for who in "bcdef")
    assert not here.take("g")
    for who in "bc":
        here.slots.release(Share(who))
        await asyncio.sleep(0)
    assert here.served == []
    for _ in range(4):
        here.slots.release(Share("a"))
    await asyncio.sleep(0)
    assert here.served == ["a"]
    await here.end()


@pytest.mark.gen_test
async def test_one_has_a_part_of_the_slots_while_others_wait() -> None:
    """A slot that is free goes to whoever has less than its part; an address has its part, too."""
    here = Crowd(20, 100)
    for number in range(18):
        assert here.take(f"a{number}", "1.1.1.1")
    assert not here.take("a18", "1.1.1.1")
    for number in range(3):
        await here.wait(f"b{number}", "1.1.1.1")
    assert here.take("c", "2.2.2.2")
    assert here.take("d", "2.2.2.2")
    await here.wait("e", "2.2.2.2", times=2)
    here.slots.release(Share("a0", "1.1.1.1"))
    here.slots.release(Share("a1", "1.1.1.1"))
    await asyncio.sleep(0)
    assert here.served == ["e", "e"]
    await here.end()
