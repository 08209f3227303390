"""A circuit breaker: after consecutive failures, calls fail at once until a probe succeeds."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final, Literal

import structlog

log = structlog.get_logger("eclipse_ws.application")

JITTER: Final = 0.2
"""Open periods vary by up to this fraction, so that nodes do not probe in step."""
MIN_CALLERS: Final = 3
"""Distinct users or chats that failures must come from before the circuit opens."""


class Streak:
    """Consecutive failures, and whether they came from at least ``min_callers`` users or chats.

    A single user may keep sending a request that always fails.
    """

    __slots__ = ("_callers", "_min_callers", "length")

    def __init__(self, min_callers: int = MIN_CALLERS) -> None:
        self.length = 0
        self._min_callers = min_callers
        self._callers: set[str] = set()

    def add(self, who: str) -> None:
        """Count a failure."""
        self.length += 1
        if not self.is_widespread:
            self._callers.add(who)

    def clear(self) -> None:
        """Reset after a success."""
        self.length = 0
        self._callers.clear()

    @property
    def is_widespread(self) -> bool:
        """Whether enough distinct users or chats had a failure."""
        return len(self._callers) >= self._min_callers


class CircuitBreaker:
    """Lets calls to ``name`` through while it works. Pure except for its two log lines; not thread-safe.

    Closed, it counts consecutive failures. After ``failures`` of them, from MIN_CALLERS users or chats, it
    opens: no call passes for ``seconds`` (give or take JITTER). If only one user or chat calls at all, it
    stays closed, and each call fails by itself. After that period, one call at a time passes as a probe: its
    success closes the circuit, its failure starts another open period, which is twice as long for the caller
    whose probe failed. A call that ``enter`` let through is ended by exactly one of ``success``, ``failure``
    and ``abandon``, with the ticket that ``enter`` returned: results of calls from before a change of state
    are ignored.
    """

    def __init__(
        self,
        name: str,
        failures: int,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.state: Literal["closed", "open", "probing"] = "closed"
        self.opened = 0  # times that the circuit went from closed to open
        self.refused = 0  # calls that did not pass
        self._name = name
        self._limit = failures
        self._seconds = seconds
        self._clock = clock
        self._chance = chance
        self._streak = Streak(min(failures, MIN_CALLERS))
        self._ticket = 0
        self._probe_at = 0.0
        self._prober = ""  # the caller of the last failed probe
        self._since = 0.0

    def enter(self, who: str) -> int | None:
        """Begin a call of a user or chat: a ticket, or None while calls have to fail at once."""
        if self.state == "closed":
            return self._ticket
        if self.state == "open":
            # A request that always fails must not be every probe.
            extra = self._seconds if who == self._prober else 0.0
            if self._clock() >= self._probe_at + extra:
                self.state = "probing"
                self._ticket += 1
                return self._ticket
        self.refused += 1
        return None

    @property
    def retry_after(self) -> float:
        """Seconds until the next call may pass; 0 while the circuit is closed."""
        if self.state == "closed":
            return 0.0
        # While a probe is in progress, a short wait shows its result.
        return round(max(self._probe_at - self._clock(), min(1.0, self._seconds)), 3)

    def success(self, ticket: int) -> None:
        """The call got a response; a rejection of this one request counts as a response."""
        if ticket != self._ticket:
            return
        self._streak.clear()
        if self.state == "probing":
            self.state = "closed"
            self._prober = ""
            self._ticket += 1
            log.info("circuit closed", to=self._name, seconds=round(self._clock() - self._since, 1))

    def failure(self, ticket: int, why: str, who: str) -> None:
        """The call of a user or chat got no response, or one from something in front of the other side."""
        if ticket != self._ticket:
            return
        if self.state == "probing":
            self._prober = who
            self._open()
            return
        self._streak.add(who)
        if self._streak.length >= self._limit and self._streak.is_widespread:
            failures = self._streak.length
            self._since = self._clock()
            self.opened += 1
            self._open()
            log.warning(
                "circuit opened", to=self._name, failures=failures, why=why, probe_seconds=self._seconds
            )

    def abandon(self, ticket: int) -> None:
        """The call ended without a result: it was cancelled, or never made."""
        if ticket == self._ticket and self.state == "probing":
            # The next call may probe at once: this probe cost the other side nothing that we know of.
            self.state = "open"
            self._ticket += 1

    def _open(self) -> None:
        self.state = "open"
        self._streak.clear()
        self._ticket += 1
        self._probe_at = self._clock() + self._seconds * (1 + JITTER * (2 * self._chance() - 1))
