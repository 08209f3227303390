"""The concurrency limiter."""

from __future__ import annotations

import asyncio

import pytest

from eclipse_ws.application.base import ApiError, ApiStats, Share
from eclipse_ws.application.concurrency_limiter import ConcurrencyLimiter


def soon() -> float:
    """A deadline that is far away."""
    return asyncio.get_running_loop().time() + 60


@pytest.mark.gen_test
async def test_first_come_first_served() -> None:
    """Places are granted in order of arrival."""
    limiter = ConcurrencyLimiter(1, 10, ApiStats())
    assert limiter.take()
    assert not limiter.take()
    served: list[int] = []

    async def wait(n: int) -> None:
        await limiter.wait(soon())
        served.append(n)
        limiter.release()

    waits = [asyncio.ensure_future(wait(n)) for n in range(5)]
    await asyncio.sleep(0)
    limiter.release()
    await asyncio.gather(*waits)
    assert served == list(range(5))
    assert limiter.take()


@pytest.mark.gen_test
async def test_slot_granted_at_cancellation_is_released() -> None:
    """A slot that is granted in the moment of a cancellation is not lost."""
    stats = ApiStats()
    limiter = ConcurrencyLimiter(1, 10, stats)
    limiter.take()
    wait = asyncio.ensure_future(limiter.wait(soon()))
    await asyncio.sleep(0)
    limiter.release()
    wait.cancel()
    with pytest.raises(asyncio.CancelledError):
        await wait
    assert (stats.active, stats.waiting) == (0, 0)
    assert limiter.take()


@pytest.mark.gen_test
async def test_cancelled_call_is_skipped() -> None:
    """A slot skips calls that were cancelled in the same turn, and goes to the next one."""
    limiter = ConcurrencyLimiter(1, 10, ApiStats())
    limiter.take()
    first, second = (asyncio.ensure_future(limiter.wait(soon())) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    limiter.release()
    await second
    assert first.cancelled()
    assert not limiter.take()


@pytest.mark.gen_test
async def test_cancelled_calls_are_removed() -> None:
    """Cancelled calls leave nothing in the queue, even while no slot is ever free."""
    limiter = ConcurrencyLimiter(1, 10, ApiStats())
    limiter.take()
    waits = [asyncio.ensure_future(limiter.wait(soon())) for _ in range(5)]
    await asyncio.sleep(0)
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
    assert not limiter._queues


@pytest.mark.gen_test
async def test_calls_whose_deadline_passes_are_removed() -> None:
    """They fail in time, and leave nothing in the queue, even while no slot is ever free."""
    stats = ApiStats()
    limiter = ConcurrencyLimiter(1, 10, stats)
    limiter.take()
    now = asyncio.get_running_loop().time()
    later = asyncio.ensure_future(limiter.wait(now + 60))
    waits = [limiter.wait(now + 0.02 + number / 1000) for number in range(5)]
    for failed in await asyncio.gather(*waits, return_exceptions=True):
        assert isinstance(failed, ApiError)
        assert failed.code == "api_unavailable"
    assert 0.02 <= asyncio.get_running_loop().time() - now < 1
    assert (len(limiter._queues[""]), stats.waiting) == (1, 1)
    limiter.release()
    await later
    assert not limiter._queues


@pytest.mark.gen_test
async def test_clear() -> None:
    """clear() fails all waiting calls with the reason."""
    limiter = ConcurrencyLimiter(1, 10, ApiStats())
    limiter.take()
    waits = [asyncio.ensure_future(limiter.wait(soon())) for _ in range(2)]
    await asyncio.sleep(0)
    waits[0].cancel()
    limiter.clear("stopping")
    with pytest.raises(asyncio.CancelledError):
        await waits[0]
    with pytest.raises(ApiError, match="stopping"):
        await waits[1]


class Crowd:
    """Callers of a limiter with ``limit`` slots and ``waiting`` places; ``served`` names them in order."""

    def __init__(self, limit: int, waiting: int) -> None:
        self.stats = ApiStats()
        self.limiter = ConcurrencyLimiter(limit, waiting, self.stats)
        self.served: list[str] = []
        self.waits: list[asyncio.Task[None]] = []

    def take(self, who: str, address: str | None = None) -> bool:
        """Take a slot and keep it, if one is free."""
        return self.limiter.take(Share(who, address))

    async def wait(self, who: str, address: str | None = None, times: int = 1, length: int = 0) -> None:
        """Begin to wait ``times`` times, with calls of ``length`` bytes."""

        async def turn() -> None:
            await self.limiter.wait(soon(), Share(who, address), length)
            self.served.append(who)

        self.waits += [asyncio.ensure_future(turn()) for _ in range(times)]
        await asyncio.sleep(0)

    async def end(self) -> None:
        """Fail all waiting calls, and check that nothing is left."""
        self.limiter.clear("the end")
        await asyncio.gather(*self.waits, return_exceptions=True)
        assert self.stats.waiting == 0
        assert self.limiter._queues == {}
        assert (self.limiter._waiting._held, self.limiter._taken) == ({}, 0)


@pytest.mark.gen_test
async def test_slots_are_granted_round_robin() -> None:
    """A caller with many waiting calls gets one turn a round, and its calls keep their order."""
    here = Crowd(1, 100)
    here.take("someone")
    await here.wait("a", times=5)
    await here.wait("b", times=2)
    await here.wait("c")
    for who in ("someone", *"abcabaa"):
        here.limiter.release(Share(who))
        await asyncio.sleep(0)
    assert "".join(here.served) == "abcabaaa"
    await here.end()


@pytest.mark.gen_test
async def test_long_calls_take_several_places() -> None:
    """The queue is bounded in bytes: fewer long calls than short ones may wait, in total and of one user."""
    here = Crowd(1, 100)
    here.take("someone")
    await here.wait("a", times=10, length=4 * 65536)
    assert here.stats.waiting == 2
    for number in range(30):
        await here.wait(f"u{number}", length=4 * 65536)
    assert here.stats.waiting == 20
    here.limiter.release(Share("someone"))
    await here.wait("b", times=10)
    assert here.stats.waiting == 24
    await here.end()


@pytest.mark.gen_test
async def test_quota_of_the_queue() -> None:
    """One user gets a tenth of the places, and all users of one address a quarter."""
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
async def test_last_slots_are_reserved() -> None:
    """One user can't take the last tenth of the slots, however long its calls take; others can."""
    here = Crowd(50, 100)
    assert [here.take("a") for _ in range(50)] == [True] * 45 + [False] * 5
    await here.wait("a")
    assert all(here.take(who) for who in "bcdef")
    assert not here.take("g")
    for who in "bc":
        here.limiter.release(Share(who))
        await asyncio.sleep(0)
    assert here.served == []
    for _ in range(4):
        here.limiter.release(Share("a"))
    await asyncio.sleep(0)
    assert here.served == ["a"]
    await here.end()


@pytest.mark.gen_test
async def test_quota_of_the_slots_while_others_wait() -> None:
    """A free slot goes to a caller below its quota; an address has a quota, too."""
    here = Crowd(20, 100)
    for number in range(18):
        assert here.take(f"a{number}", "1.1.1.1")
    assert not here.take("a18", "1.1.1.1")
    for number in range(3):
        await here.wait(f"b{number}", "1.1.1.1")
    assert here.take("c", "2.2.2.2")
    assert here.take("d", "2.2.2.2")
    await here.wait("e", "2.2.2.2", times=2)
    here.limiter.release(Share("a0", "1.1.1.1"))
    here.limiter.release(Share("a1", "1.1.1.1"))
    await asyncio.sleep(0)
    assert here.served == ["e", "e"]
    await here.end()
