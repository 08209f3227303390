"""Many deadlines, one timer."""

from __future__ import annotations

import asyncio

import pytest

from eclipse_ws.application.deadlines import GRAIN, Deadlines


@pytest.mark.gen_test
async def test_what_is_not_removed_in_time() -> None:
    """It is reported once, the earliest first, whatever the order in which it was added."""
    passed: list[str] = []
    deadlines: Deadlines[str] = Deadlines(passed.append)
    now = asyncio.get_running_loop().time()
    for name, after in (("late", 0.06), ("removed", 0.02), ("early", 0.02), ("later", 9)):
        deadlines.add(name, now + after)
    deadlines.remove("removed")
    deadlines.remove("never added")
    assert list(deadlines) == ["late", "early", "later"]
    await asyncio.sleep(0.04)
    assert passed == ["early"]
    await asyncio.sleep(0.04 + GRAIN)
    assert passed == ["early", "late"]
    assert len(deadlines) == 1
    deadlines.close()
    assert len(deadlines) == 0


@pytest.mark.gen_test
async def test_a_deadline_that_is_added_and_removed_by_another() -> None:
    """What `on_passed` adds is watched, too; what it removes is not reported."""
    passed: list[int] = []

    def on_passed(number: int) -> None:
        passed.append(number)
        deadlines.remove(2)
        if number == 1:
            deadlines.add(3, asyncio.get_running_loop().time() + 0.01)

    deadlines: Deadlines[int] = Deadlines(on_passed)
    for number in (1, 2):
        deadlines.add(number, asyncio.get_running_loop().time())
    await asyncio.sleep(0.05)
    assert passed == [1, 3]


@pytest.mark.gen_test
async def test_many_in_a_row_cost_few_checks() -> None:
    """A thousand deadlines within a tenth of a second are checked about ten times."""
    checks: list[float] = []
    passed: list[int] = []

    def on_passed(number: int) -> None:
        passed.append(number)
        if not checks or asyncio.get_running_loop().time() - checks[-1] > GRAIN / 4:
            checks.append(asyncio.get_running_loop().time())

    deadlines: Deadlines[int] = Deadlines(on_passed)
    now = asyncio.get_running_loop().time()
    for number in range(1000):
        deadlines.add(number, now + number / 10_000)
    await asyncio.sleep(0.2)
    assert passed == list(range(1000))
    assert len(checks) <= 12
