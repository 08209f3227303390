"""The queue of what Redis has not been told yet."""

from __future__ import annotations

import pytest

from eclipse_ws.backends.base import Key
from eclipse_ws.backends.redis.outage import Outage, Owed
from tests.backends.harness import event


def owed(number: int, chat: str = "chat") -> Owed:
    """One event that is owed."""
    return Owed(chat, event(number))


def test_paid_in_order() -> None:
    """What is owed comes oldest first, and stays until it is paid."""
    outage = Outage(10)
    things = [owed(number) for number in range(5)]
    assert all(outage.owe(thing) for thing in things)
    assert outage.first(3) == things[:3]
    assert outage.first(3) == things[:3]
    outage.paid(2)
    assert outage.first(10) == things[2:]
    outage.paid(3)
    assert len(outage) == 0
    assert outage.first(1) == []


def test_a_full_queue() -> None:
    """What doesn't fit is refused, and room makes it take again."""
    outage = Outage(2)
    assert [outage.owe(owed(number)) for number in range(4)] == [True, True, False, False]
    outage.paid(1)
    assert outage.owe(owed(9))


def test_overflow_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long events fill the queue by their bytes, except for one alone; what settles an attempt has none."""
    size = owed(1).size
    monkeypatch.setattr("eclipse_ws.backends.redis.outage.MAX_BYTES", 2 * size)
    outage = Outage(10)
    assert [outage.owe(owed(n)) for n in (1, 2, 3)] == [True, True, False]
    assert outage.owe(Owed("chat", None, Key("key", ""), "released"))
    outage.paid(1)
    assert [outage.owe(owed(n)) for n in (4, 5)] == [True, False]
    outage.paid(3)
    monkeypatch.setattr("eclipse_ws.backends.redis.outage.MAX_BYTES", size - 1)
    assert [outage.owe(owed(n)) for n in (6, 7)] == [True, False]
