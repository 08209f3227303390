"""How much is logged: what strangers can cause must neither fill a disk nor hide what matters.

Every rate is a bucket, written as the time at which it will be full again, as in `limits`. Times are
seconds of a monotonic clock.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple


class Bucket(NamedTuple):
    """What fits in, and how much of it a second flows out."""

    rate: float
    burst: float


LINES: Final = Bucket(5, 50)
"""Lines of one kind: one event of one logger."""
FAILURES: Final = Bucket(1, 10)
"""The same of errors, and of lines with a traceback."""
LINE_BYTES: Final = Bucket(6_000, 100_000)
"""Bytes of all lines together that are no failures."""
FAILURE_BYTES: Final = Bucket(3_000, 100_000)
"""Bytes of all failures together: apart, so that no flood of ordinary lines hides an error."""
MOST_KINDS: Final = 500
"""Kinds that are told apart; all further ones count as one."""
MOST_TOLD: Final = 20
"""Kinds that one summary names."""
LONGEST_KIND: Final = 100
"""Characters of an event that make its kind: whatever it is followed by may be different each time."""
SILENT: Final = 10.0
"""Seconds without a line of its kind after which one is written, however much others say."""
SUMMARY_SECONDS: Final = 10.0
"""Seconds between two summaries of what was suppressed."""


class _Kind:
    """One kind of line: when its bucket will be full, when one last passed, how many are untold."""

    __slots__ = ("full", "last", "name", "suppressed")

    def __init__(self, name: str) -> None:
        self.name = name
        self.full = 0.0
        self.last = -math.inf
        self.suppressed = 0


class LogLimit:
    """Decides which lines are written, and counts the others.

    A line that passes tells how many of its kind were suppressed before it; `summary` tells of those that
    no line has told of. Not thread-safe: a handler's lock is around it.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._kinds: dict[tuple[str, str, bool], _Kind] = {}
        self._full = {False: 0.0, True: 0.0}  # of all lines, and of all failures
        self._suppressed = False
        self._next_summary = 0.0

    def passes(self, record: logging.LogRecord) -> bool:
        """Whether the line is written; if so, ``record.fields`` say how many of its kind were not."""
        failure = _is_failure(record)
        kind = self._kind(record, failure)
        rate, burst = FAILURES if failure else LINES
        now = self._clock()
        full = max(kind.full, now)
        # Of a kind that was silent for a while one line always passes: among many, the rare one matters.
        crowded = self._crowded(failure, now) and now - kind.last < SILENT
        if crowded or full - now > (burst - 0.5) / rate:  # not -1: sums of floats are a little off
            kind.suppressed += 1
            self._suppressed = True
            return False
        kind.full, kind.last = full + 1 / rate, now
        if kind.suppressed:
            record.fields = {"suppressed": kind.suppressed}
            kind.suppressed = 0
        return True

    def charge(self, record: logging.LogRecord, length: int) -> None:
        """Take the bytes of a line that was written from what all lines may have."""
        failure = _is_failure(record)
        rate = (FAILURE_BYTES if failure else LINE_BYTES).rate
        self._full[failure] = max(self._full[failure], self._clock()) + length / rate

    def summary(self, *, last: bool = False) -> dict[str, int]:
        """How many lines of each kind were suppressed and not told of, if it is time to say so.

        ``last``: there is no later time.
        """
        now = self._clock()
        if not self._suppressed or (now < self._next_summary and not last):
            return {}
        self._next_summary = now + SUMMARY_SECONDS
        self._suppressed = False
        untold = sorted(
            (kind for kind in self._kinds.values() if kind.suppressed),
            key=lambda kind: kind.suppressed,
            reverse=True,
        )
        told: dict[str, int] = {}
        for number, kind in enumerate(untold):
            name = kind.name if number < MOST_TOLD else "others"
            told[name] = told.get(name, 0) + kind.suppressed
            kind.suppressed = 0
        silent = [key for key, kind in self._kinds.items() if max(kind.full, kind.last + SILENT) <= now]
        for key in silent:
            del self._kinds[key]
        return told

    def _crowded(self, failure: bool, now: float) -> bool:
        rate, burst = FAILURE_BYTES if failure else LINE_BYTES
        return self._full[failure] - now > burst / rate

    def _kind(self, record: logging.LogRecord, failure: bool) -> _Kind:
        message: Any = record.msg
        event = message.get("event") if isinstance(message, dict) else message
        # Not beyond the first line: asyncio's second one names a task, each time another.
        text = event[:LONGEST_KIND].partition("\n")[0] if isinstance(event, str) else type(event).__name__
        key = (record.name, text, failure)
        kind = self._kinds.get(key)
        if kind is None:
            name = f"{record.name}: {text}"
            if len(self._kinds) >= MOST_KINDS:
                key, name = ("", "", failure), "others"
                kind = self._kinds.get(key)
            if kind is None:
                kind = self._kinds[key] = _Kind(name)
        return kind


def _is_failure(record: logging.LogRecord) -> bool:
    if record.levelno >= logging.ERROR or record.exc_info:
        return True
    return isinstance(record.msg, dict) and bool(record.msg.get("exc_info"))
