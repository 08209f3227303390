"""The circuit breaker, with a clock that is set by hand."""

from __future__ import annotations

import logging

from tornado.testing import ExpectLog

from eclipse_ws.application.circuit_breaker import Breaker


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
        for who in "xyz":
            ticket = breaker.enter(who)
            assert ticket is not None
            breaker.failure(ticket, "why", who)
    assert breaker.state == "open"
    return breaker


def test_failures_have_to_be_in_a_row() -> None:
    """A success in between begins the count anew."""
    breaker = Breaker("It", 3, 10, Clock())
    for _ in range(5):
        ticket = breaker.enter("a")
        assert ticket is not None
        breaker.failure(ticket, "why", "a")
        breaker.failure(ticket, "why", "b")
        breaker.success(ticket)
        breaker.failure(ticket, "why", "c")
        breaker.success(ticket)
    assert (breaker.state, breaker.opened, breaker.retry_after) == ("closed", 0, 0)


def test_failures_have_to_be_of_several() -> None:
    """However often the calls of two fail, that says nothing about the rest; a third one's failure does."""
    breaker = Breaker("It", 3, 10, Clock())
    for who in "ab" * 50:
        ticket = breaker.enter(who)
        assert ticket is not None
        breaker.failure(ticket, "why", who)
    assert (breaker.state, breaker.opened) == ("closed", 0)
    ticket = breaker.enter("c")
    assert ticket is not None
    with ExpectLog("eclipse_ws.api", "It is down: 101 failures in a row.*", level=logging.WARNING):
        breaker.failure(ticket, "why", "c")
    assert breaker.state == "open"


def test_open_refuses_until_its_time() -> None:
    """Open, nothing passes, and retry_after says for how long."""
    clock = Clock()
    breaker = opened(clock)
    assert breaker.enter("a") is None
    assert breaker.retry_after == 10
    clock.now += 9.5
    assert breaker.enter("a") is None
    assert breaker.retry_after == 1  # never less: by then a probe's result is known
    assert (breaker.refused, breaker.opened) == (2, 1)


def test_one_probe_at_a_time() -> None:
    """After its time one call passes, the next ones do not until it has ended."""
    clock = Clock()
    breaker = opened(clock)
    clock.now += 10
    probe = breaker.enter("a")
    assert probe is not None
    assert breaker.enter("a") is None
    assert breaker.state == "probing"
    with ExpectLog("eclipse_ws.api", "It is back after 10.0 s", level=logging.INFO):
        breaker.success(probe)
    assert breaker.state == "closed"
    assert breaker.enter("a") is not None


def test_failed_probe_opens_again_without_a_word() -> None:
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


def test_who_probed_in_vain_lets_others_probe() -> None:
    """A request that always fails does not keep the circuit open: the next probe is somebody else's."""
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
    with ExpectLog("eclipse_ws.api", "It is back.*", level=logging.INFO):
        breaker.success(probe)


def test_who_is_alone_may_probe_again() -> None:
    """Where nobody else calls, the same one probes again after twice the time."""
    clock = Clock()
    breaker = opened(clock)
    clock.now += 10
    probe = breaker.enter("a")
    assert probe is not None
    breaker.failure(probe, "why", "a")
    clock.now += 20
    assert breaker.enter("a") is not None


def test_abandoned_probe_frees_its_place() -> None:
    """A probe that nobody waits for any more lets another one through."""
    clock = Clock()
    breaker = opened(clock)
    clock.now += 10
    probe = breaker.enter("a")
    assert probe is not None
    breaker.abandon(probe)
    assert breaker.enter("a") is not None
    breaker.abandon(probe)
    assert breaker.state == "probing"


def test_results_from_before_count_nothing() -> None:
    """Calls that were under way when the circuit opened neither close it nor open it again."""
    clock = Clock()
    breaker = Breaker("It", 1, 10, clock, lambda: 0.5)
    early, late = breaker.enter("a"), breaker.enter("a")
    assert early is not None
    assert late is not None
    with ExpectLog("eclipse_ws.api", "It is down.*"):
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
    """Open periods differ by up to a fifth, so that nodes do not probe in step."""
    assert opened(Clock(), 0.0).retry_after == 8
    assert opened(Clock(), 1.0).retry_after == 12
