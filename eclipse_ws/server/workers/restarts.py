"""When a worker that has ended is started again, and when the supervisor gives up."""

from __future__ import annotations

from typing import Final

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
"""Seconds before the second restart in a row, and at most; each wait is twice as long as the one before."""
LIVED: Final = 60.0
"""Seconds after which the end of a worker is not counted as another one in a row."""
FAILED_STARTS: Final = 5
"""Starts in a row that may fail while no worker is ready."""


class Restarts:
    """Counts how workers end."""

    def __init__(self) -> None:
        self._in_a_row: dict[int, int] = {}
        self._failed = 0

    def ready(self) -> None:
        """A worker is ready: the starts that failed before don't matter any more."""
        self._failed = 0

    def wait(self, number: int, lived: float) -> float:
        """Seconds until a worker that lived for so many seconds is started again: none the first time."""
        before = 0 if lived >= LIVED else self._in_a_row.get(number, 0)
        self._in_a_row[number] = before + 1
        return min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(before - 1, 16)) if before else 0.0

    def hopeless(self, *, any_ready: bool) -> bool:
        """Whether to give up after one more start that failed; never while a worker is ready."""
        self._failed += 1
        return self._failed >= FAILED_STARTS and not any_ready
