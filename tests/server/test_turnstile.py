"""Which worker accepts next."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from eclipse_ws.server.turnstile import AHEAD, AT_ONCE, AWAY, MANY, Table, Turnstile


class Workers:
    """Some workers and their table."""

    def __init__(self, number: int) -> None:
        self.descriptor = Table.make(number)
        self.held = [0] * number
        self.tables = [Table(self.descriptor, number) for _ in range(number)]
        self.turnstiles = [
            Turnstile(table, index, lambda index=index: self.held[index])  # type: ignore[misc]
            for index, table in enumerate(self.tables)
        ]

    def hold(self, *counts: int) -> None:
        """Let each have so many connections."""
        self.held[:] = counts
        for turnstile in self.turnstiles:
            turnstile.publish()

    def close(self) -> None:
        """Release the memory."""
        for table in self.tables:
            table.close()
        os.close(self.descriptor)


@pytest.fixture
def workers() -> Iterator[Workers]:
    """Three workers."""
    made = Workers(3)
    yield made
    made.close()


def test_a_worker_without_others_accepts(workers: Workers) -> None:
    """At first all are away."""
    assert list(workers.tables[0].cells) == [AWAY] * 3
    workers.held[0] = 1000
    assert workers.turnstiles[0].room() == MANY
    assert list(workers.tables[2].cells) == [1000, AWAY, AWAY]


def test_the_one_with_the_fewest_goes_first(workers: Workers) -> None:
    """Equal ones may accept a few; one that is ahead by that many lets the others go first."""
    workers.hold(10, 10, 10)
    assert [each.room() for each in workers.turnstiles] == [AHEAD] * 3
    workers.hold(10 + AHEAD, 10, 11)
    assert [each.room() for each in workers.turnstiles] == [0, AHEAD + 1, AHEAD - 1]


def test_a_stuck_worker_keeps_nobody_from_accepting(workers: Workers) -> None:
    """One that doesn't accept in its turn is passed over; one that does has its turn again."""
    workers.hold(50, 0, 60)
    assert workers.turnstiles[0].room() == 0
    assert workers.turnstiles[0].room() == AT_ONCE
    workers.hold(50, 1, 60)
    assert workers.turnstiles[0].room() == 0
    workers.hold(50, 1, 70)  # what a worker with more does is of no interest
    assert workers.turnstiles[0].room() == AT_ONCE


def test_a_worker_that_is_leaving(workers: Workers) -> None:
    """It accepts only if all are leaving, and the others don't wait for it."""
    workers.hold(0, 50, 50)
    workers.turnstiles[0].leaving = True
    assert workers.turnstiles[0].room() == 0
    assert workers.turnstiles[0].room() == 0
    assert workers.turnstiles[1].room() == AHEAD
    for turnstile in workers.turnstiles:
        turnstile.leaving = True
        turnstile.publish()
    assert [each.room() for each in workers.turnstiles] == [MANY] * 3


def test_memory_without_memfd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no memfd, a file without a name is the memory."""
    monkeypatch.delattr(os, "memfd_create", raising=False)
    workers = Workers(2)
    try:
        workers.hold(1, 2)
        assert list(workers.tables[0].cells) == [1, 2]
    finally:
        workers.close()
