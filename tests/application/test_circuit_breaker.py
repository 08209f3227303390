"""The circuit breaker, with a fake clock."""

from __future__ import annotations

import logging

from tornado.testing import ExpectLog

from eclipse_ws.application.circuit_breaker import CircuitBreaker


class Clock:
    """A clock that tests set."""

    now = 100.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def opened(clock: Clock, chance: float = 0.5) -> CircuitBreaker:
    """A breaker that three failures have just opened, for ten seconds."""
    breaker = CircuitBreaker("api", 3, 10, clock, lambda: chance)
    with ExpectLog(
        "eclipse_ws.application", ".*'failures': 3, 'why': 'why'.*circuit opened", level=logging.WARNING
    ):
        for who in "xyz":
            ticket = breaker.enter(who)
            assert ticket is not None
            breaker.failure(ticket, "why", who)
    assert breaker.state == "open"
    return breaker


def test_only_consecutive_failures_count() -> None:
    """A success resets the count of failures."""
    breaker = CircuitBreaker("api", 3, 10, Clock())
    for _ in range(5):
        ticket = breaker.enter("a")
        assert ticket is not None
        breaker.failure(ticket, "why", "a")
        breaker.failure(ticket, "why", "b")
        breaker.success(ticket)
        breaker.failure(ticket, "why", "c")
        breaker.success(ticket)
    assert (breaker.state, breaker.opened, breaker.retry_after) == ("closed", 0, 0)


def test_failures_must_come_from_several_callers() -> None:
    """Failures of two callers never open the circuit; a third caller's failure does."""
    breaker = CircuitBreaker("api", 3, 10, Clock())
    for who in "ab" * 50:
        ticket = breaker.enter(who)
        assert ticket is not None
        breaker.failure(ticket, "why", who)
    assert (breaker.state, breaker.opened) == ("closed", 0)
    ticket = breaker.enter("c")
    assert ticket is not None
    with ExpectLog("eclipse_ws.application", ".*'failures': 101,.*circuit opened", level=logging.WARNING):
        breaker.failure(ticket, "why", "c")
    assert breaker.state == "open"


def test_open_rejects_calls_until_the_period_ends() -> None:
    """While it is open, no call passes, and retry_after says for how long."""
    clock = Clock()
    breaker = opened(clock)
    assert breaker.enter("a") is None
    assert breaker.retry_after == 10
    clock.now += 9.5
    assert breaker.enter("a") is None
    assert breaker.retry_after == 1  # never less: by then a probe's result is known
    assert (breaker.refused, breaker.opened) == (2, 1)


def test_one_probe_at_a_time() -> None:
    """After the open period one call passes, and no other until it has ended."""
    clock = Clock()
    breaker = opened(clock)
    clock.now += 10
    probe = breaker.enter("a")
    assert probe is not None
    assert breaker.enter("a") is None
    assert breaker.state == "probing"
    with ExpectLog("eclipse_ws.application", ".*'seconds': 10.0, .*circuit closed", level=logging.INFO):
        breaker.success(probe)
    assert breaker.state == "closed"
    assert breaker.enter("a") is not None


def test_failed_probe_opens_again_without_a_log_line() -> None:
    """A probe that fails starts another open period; the log has one line for the whole outage."""
    clock = Clock()
    breaker = opened(clock)
    clock.now += 10
    probe = breaker.enter("a")
    assert probe is not None
    breaker.failure(probe, "why", "a")
    assert (breaker.state, breaker.opened) == ("open", 1)
    clock.now += 9.9
    assert breaker.enter("b") is None
    clock.now += 0.1
    assert breaker.enter("b") is not None


def test_failed_prober_lets_others_probe() -> None:
    """A request that always fails does not keep the circuit open: another caller probes next."""
    clock = Clock()
    breaker = opened(clock)
    clock.now += 10
    probe = breaker.enter("a")
    assert probe is not None
    breaker.failure(probe, "why", "a")
    clock.now += 10
    assert breaker.enter("a") is None
    probe = breaker.enter("b")
    assert probe is not None
    with ExpectLog("eclipse_ws.application", ".*circuit closed", level=logging.INFO):
        breaker.success(probe)


def test_single_caller_may_probe_again() -> None:
    """If nobody else calls, the same caller probes again after twice the time."""
    clock = Clock()
    breaker = opened(clock)
    clock.now += 10
    probe = breaker.enter("a")
    assert probe is not None
    breaker.failure(probe, "why", "a")
    clock.now += 20
    assert breaker.enter("a") is not None


def test_abandoned_probe_lets_another_probe() -> None:
    """A cancelled probe lets another one through."""
    clock = Clock()
    breaker = opened(clock)
    clock.now += 10
    probe = breaker.enter("a")
    assert probe is not None
    breaker.abandon(probe)
    assert breaker.enter("a") is not None
    breaker.abandon(probe)
    assert breaker.state == "probing"


def test_results_from_before_a_change_are_ignored() -> None:
    """Calls in progress when the circuit opened neither close it nor open it again."""
    clock = Clock()
    breaker = CircuitBreaker("api", 1, 10, clock, lambda: 0.5)
    early, late = breaker.enter("a"), breaker.enter("a")
    assert early is not None
    assert late is not None
    with ExpectLog("eclipse_ws.application", ".*circuit opened"):
        breaker.failure(early, "why", "a")
    breaker.success(late)
    assert breaker.state == "open"
    clock.now += 10
    probe = breaker.enter("a")
    assert probe is not None
    breaker.failure(late, "why", "a")
    assert breaker.state == "probing"
    breaker.abandon(late)
    breaker.success(late)
    assert breaker.state == "probing"


def test_jitter() -> None:
    """Open periods vary by up to a fifth, so that nodes do not probe in step."""
    assert opened(Clock(), 0.0).retry_after == 8
    assert opened(Clock(), 1.0).retry_after == 12
