"""The circuit breaker, with a clock that is set by hand."""

from __future__ import annotations

import logging

from tornado.testing import ExpectLog

from eclipse_ws.api.breaker import Breaker


class Clock:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def opened(clock: Clock, chance: float = 0.5) -> Breaker:
    """A breaker that three failures have just opened, for ten seconds."""
    breaker = Breaker("It", 3, 10, clock, lambda: chance)
    with ExpectLog(
        "eclipse_ws.api", "It is down: 3 failures in a row, the last: why.*", level=logging.WARNING
    ):
        for _ in range(3):
            ticket = breaker.enter()
            assert ticket is not None
            breaker.failure(ticket, "why")
    assert breaker.state == "open"
    return breaker


def test_failures_have_to_be_in_a_row() -> None:
    """A success in between begins the count anew."""
    breaker = Breaker("It", 3, 10, Clock())
    for _ in range(5):
        ticket = breaker.enter()
        assert ticket is not None
        breaker.failure(ticket, "why")
        breaker.failure(ticket, "why")
        breaker.success(ticket)
    assert (breaker.state, breaker.opened, breaker.retry_after) == ("closed", 0, 0)


def test_open_refuses_until_its_time() -> None:
    """Open, nothing passes, and retry_after says for how long."""
    clock = Clock()
    breaker = opened(clock)
    assert breaker.enter() is None
    assert breaker.retry_after == 10
    clock.now += 9.5
    assert breaker.enter() is None
    assert breaker.retry_after == 1  # never less: by then a probe's result is known
    assert (breaker.refused, breaker.opened) == (2, 1)


def test_one_probe_at_a_time() -> None:
    """After its time one call passes, the next ones do not until it has ended."""
    clock = Clock()
    breaker = opened(clock)
    clock.now += 10
    probe = breaker.enter()
    assert probe is not None
    assert breaker.enter() is None
    assert breaker.state == "probing"
    with ExpectLog("eclipse_ws.api", "It is back after 10.0 s", level=logging.INFO):
        breaker.success(probe)
    assert breaker.state == "closed"
    assert breaker.enter() is not None


def test_failed_probe_opens_again_without_a_word() -> None:
    """A probe that fails starts another open period; the log has one line for the whole outage."""
    clock = Clock()
    breaker = opened(clock)
    clock.now += 10
    probe = breaker.enter()
    assert probe is not None
    breaker.failure(probe, "why")
    assert (breaker.state, breaker.opened) == ("open", 1)
    clock.now += 9.9
    assert breaker.enter() is None
    clock.now += 0.1
    assert breaker.enter() is not None


def test_abandoned_probe_frees_its_place() -> None:
    """A probe that nobody waits for any more lets another one through."""
    clock = Clock()
    breaker = opened(clock)
    clock.now += 10
    probe = breaker.enter()
    assert probe is not None
    breaker.abandon(probe)
    assert breaker.enter() is not None
    breaker.abandon(probe)
    assert breaker.state == "probing"


def test_results_from_before_count_nothing() -> None:
    """Calls that were under way when the circuit opened neither close it nor open it again."""
    clock = Clock()
    breaker = Breaker("It", 1, 10, clock, lambda: 0.5)
    early, late = breaker.enter(), breaker.enter()
    assert early is not None
    assert late is not None
    with ExpectLog("eclipse_ws.api", "It is down.*"):
        breaker.failure(early, "why")
    breaker.success(late)
    assert breaker.state == "open"
    clock.now += 10
    probe = breaker.enter()
    assert probe is not None
    breaker.failure(late, "why")
    assert breaker.state == "probing"
    breaker.abandon(late)
    breaker.success(late)
    assert breaker.state == "probing"


def test_jitter() -> None:
    """Open periods differ by up to a fifth, so that nodes do not probe in step."""
    assert opened(Clock(), 0.0).retry_after == 8
    assert opened(Clock(), 1.0).retry_after == 12
