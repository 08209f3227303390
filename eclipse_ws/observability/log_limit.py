"""Limits the log: lines that strangers can cause must neither fill a disk nor hide important ones.

Every rate is a token bucket, stored as the time at which it will be full again, as in `limits`. Times are
seconds of a monotonic clock.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple


class Bucket(NamedTuple):
    """A token bucket: ``burst`` tokens, refilled at ``rate`` a second."""

    rate: float
    burst: float


LINES: Final = Bucket(5, 50)
"""Lines of one kind: one event of one logger."""
FAILURES: Final = Bucket(1, 10)
"""The same for errors, and for lines with a traceback."""
LINE_BYTES: Final = Bucket(6_000, 100_000)
"""Bytes of all lines that are not failures."""
FAILURE_BYTES: Final = Bucket(3_000, 100_000)
"""Bytes of all failures: separate, so that a flood of ordinary lines never hides an error."""
MAX_KINDS: Final = 500
"""Kinds that are distinguished; all further ones count as one."""
MAX_SUMMARY: Final = 20
"""Kinds that a summary names."""
KIND_LENGTH: Final = 100
"""Leading characters of an event that identify its kind: the rest may differ each time."""
SILENT: Final = 10.0
"""Seconds without a line of its kind after which one always passes, whatever the other kinds do."""
SUMMARY_SECONDS: Final = 10.0
"""Seconds between two summaries of suppressed lines."""


class _Kind:
    """One kind of line: when its bucket is full, when a line last passed, unreported suppressed lines."""

    __slots__ = ("full", "last", "name", "suppressed")

    def __init__(self, name: str) -> None:
        self.name = name
        self.full = 0.0
        self.last = -math.inf
        self.suppressed = 0


class LogLimit:
    """Decides which lines are written, and counts the others.

    A line that passes reports how many of its kind were suppressed before it; `summary` reports the rest.
    Not thread-safe: the handler's lock protects it.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._kinds: dict[tuple[str, str, bool], _Kind] = {}
        self._full = {False: 0.0, True: 0.0}  # for all lines, and for all failures
        self._suppressed = False
        self._next_summary = 0.0

    def passes(self, record: logging.LogRecord) -> bool:
        """Whether to write the line; if so, ``record.fields`` counts the suppressed ones of its kind."""
        failure = _is_failure(record)
        kind = self._kind(record, failure)
        rate, burst = FAILURES if failure else LINES
        now = self._clock()
        full = max(kind.full, now)
        # One line of a kind that was silent for a while always passes: the rare line matters.
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
        """Charge the byte budget for a written line."""
        failure = _is_failure(record)
        rate = (FAILURE_BYTES if failure else LINE_BYTES).rate
        self._full[failure] = max(self._full[failure], self._clock()) + length / rate

    def summary(self, *, last: bool = False) -> dict[str, int]:
        """Suppressed lines that were not reported, by kind; empty if it is not yet time for a summary.

        ``last``: this is the last summary, so it is always time.
        """
        now = self._clock()
        if not self._suppressed or (now < self._next_summary and not last):
            return {}
        self._next_summary = now + SUMMARY_SECONDS
        self._suppressed = False
        unreported = sorted(
            (kind for kind in self._kinds.values() if kind.suppressed),
            key=lambda kind: kind.suppressed,
            reverse=True,
        )
        counts: dict[str, int] = {}
        for number, kind in enumerate(unreported):
            name = kind.name if number < MAX_SUMMARY else "others"
            counts[name] = counts.get(name, 0) + kind.suppressed
            kind.suppressed = 0
        silent = [key for key, kind in self._kinds.items() if max(kind.full, kind.last + SILENT) <= now]
        for key in silent:
            del self._kinds[key]
        return counts

    def _crowded(self, failure: bool, now: float) -> bool:
        rate, burst = FAILURE_BYTES if failure else LINE_BYTES
        return self._full[failure] - now > burst / rate

    def _kind(self, record: logging.LogRecord, failure: bool) -> _Kind:
        message: Any = record.msg
        event = message.get("event") if isinstance(message, dict) else message
        # The first line only: asyncio's second one names a task, which differs each time.
        text = event[:KIND_LENGTH].partition("\n")[0] if isinstance(event, str) else type(event).__name__
        key = (record.name, text, failure)
        kind = self._kinds.get(key)
        if kind is None:
            name = f"{record.name}: {text}"
            if len(self._kinds) >= MAX_KINDS:
                key, name = ("", "", failure), "others"
                kind = self._kinds.get(key)
            if kind is None:
                kind = self._kinds[key] = _Kind(name)
        return kind


def _is_failure(record: logging.LogRecord) -> bool:
    if record.levelno >= logging.ERROR or record.exc_info:
        return True
    return isinstance(record.msg, dict) and bool(record.msg.get("exc_info"))
