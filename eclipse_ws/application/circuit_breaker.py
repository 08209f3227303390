"""A circuit breaker: after failures in a row calls fail at once, until a probe finds the other side back."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import Final, Literal

log = logging.getLogger("eclipse_ws.api")

JITTER: Final = 0.2
"""An open period is longer or shorter by up to this part, so that nodes do not probe in step."""
SEVERAL: Final = 3
"""Different users or chats that failures must come from before they say anything about the other side."""


class Streak:
    """Failures in a row, and whether they came from several users or chats (``several`` of them).

    One alone may send what always fails.
    """

    __slots__ = ("_from", "_several", "length")

    def __init__(self, several: int = SEVERAL) -> None:
        self.length = 0
        self._several = several
        self._from: set[str] = set()

    def add(self, who: str) -> None:
        """Note one more failure."""
        self.length += 1
        if not self.is_of_several:
            self._from.add(who)

    def clear(self) -> None:
        """Note a success."""
        self.length = 0
        self._from.clear()

    @property
    def is_of_several(self) -> bool:
        """Whether enough different users or chats had a failure."""
        return len(self._from) >= self._several


class Breaker:
    """Lets calls through while the other side works. Pure but for its two log lines; not for threads.

    Closed, it counts failures in a row. After ``failures`` of them, from SEVERAL users or chats, it is
    open: nothing passes for ``seconds`` (give or take JITTER). Where only one user or chat calls at all, it
    stays closed, and each call fails by itself. Open, one call at a time passes as a probe: its success
    closes the circuit, its failure starts another open period, which is twice as long for whoever probed
    in vain. A call that ``enter`` let through is ended by exactly one of ``success``, ``failure`` and
    ``abandon``, with the ticket that ``enter`` gave: results of calls from before a change of state count
    nothing.
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
        self.refused = 0  # calls that were not let through
        self._name = name
        self._limit = failures
        self._seconds = seconds
        self._clock = clock
        self._chance = chance
        self._streak = Streak(min(failures, SEVERAL))
        self._ticket = 0
        self._probe_at = 0.0
        self._prober = ""  # who probed in vain last
        self._since = 0.0

    def enter(self, who: str) -> int | None:
        """Ask to call for a user or chat: a ticket, or None while calls have to fail at once."""
        if self.state == "closed":
            return self._ticket
        if self.state == "open":
            # A request that always fails must not be the one by which everybody is judged again and again.
            waits = self._seconds if who == self._prober else 0.0
            if self._clock() >= self._probe_at + waits:
                self.state = "probing"
                self._ticket += 1
                return self._ticket
        self.refused += 1
        return None

    @property
    def retry_after(self) -> float:
        """Seconds until asking again makes sense; 0 while the circuit is closed."""
        if self.state == "closed":
            return 0.0
        # While a probe is under way nobody knows: a short wait shows what it found.
        return round(max(self._probe_at - self._clock(), min(1.0, self._seconds)), 3)

    def success(self, ticket: int) -> None:
        """The call was answered; a refusal of that one request is an answer too."""
        if ticket != self._ticket:
            return
        self._streak.clear()
        if self.state == "probing":
            self.state = "closed"
            self._prober = ""
            self._ticket += 1
            log.info("%s is back after %.1f s", self._name, self._clock() - self._since)

    def failure(self, ticket: int, why: str, who: str) -> None:
        """The call of a user or chat was not answered, or by something that is not the other side."""
        if ticket != self._ticket:
            return
        if self.state == "probing":
            self._prober = who
            self._open()
            return
        self._streak.add(who)
        if self._streak.length >= self._limit and self._streak.is_of_several:
            failures = self._streak.length
            self._since = self._clock()
            self.opened += 1
            self._open()
            log.warning(
                "%s is down: %d failures in a row, the last: %s. Calls fail at once; one is let through "
                "every %g s until it is back",
                self._name,
                failures,
                why,
                self._seconds,
            )

    def abandon(self, ticket: int) -> None:
        """The call ended without saying anything about the other side: its caller went away, or it was
        never made.
        """
        if ticket == self._ticket and self.state == "probing":
            # The next caller may probe at once: this probe cost the other side nothing that we know of.
            self.state = "open"
            self._ticket += 1

    def _open(self) -> None:
        self.state = "open"
        self._streak.clear()
        self._ticket += 1
        self._probe_at = self._clock() + self._seconds * (1 + JITTER * (2 * self._chance() - 1))
