"""Which worker accepts next: the one with the fewest connections.

The workers of a machine share their listening sockets, and the system wakes all of them for a connection.
If that were all, the one that wakes first would take most of them, and a restarted worker would stay empty
for as long as the others' sessions last. So each writes down how many connections it has, in memory that all
of them share, and one that has more than another lets that one go first, for a few milliseconds.
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
from collections.abc import Callable
from typing import Final

AWAY: Final = -1
"""In the table: a worker that accepts nothing."""
AHEAD: Final = 4
"""Connections more than another worker's that a worker accepts before it lets that one go first."""
GIVEN_WAY: Final = 0.01
"""Seconds for which it does: a worker that is stuck may not keep the others from accepting for longer."""
AT_ONCE: Final = 8
"""Connections that it accepts when it has let others go first, and none of them has accepted one."""
CELL: Final = 8
"""Bytes of a number in the table."""
MANY: Final = 1 << 20
"""More connections than a listener accepts at once."""


class Table:
    """Each worker's number of connections, in shared memory: `AWAY` for one that accepts nothing."""

    def __init__(self, descriptor: int, workers: int) -> None:
        """Map the memory behind a file descriptor, which has room for so many workers."""
        self._memory = mmap.mmap(descriptor, workers * CELL)
        self.cells = memoryview(self._memory).cast("q")

    @staticmethod
    def make(workers: int) -> int:
        """A file descriptor of new memory for so many workers, all of them away."""
        if hasattr(os, "memfd_create"):  # without a writable file system
            descriptor = os.memfd_create("eclipse-workers", os.MFD_CLOEXEC)
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.pwrite(descriptor, AWAY.to_bytes(CELL, sys.byteorder, signed=True) * workers, 0)
        return descriptor

    def close(self) -> None:
        """Unmap the memory."""
        self.cells.release()
        self._memory.close()


class Turnstile:
    """One worker's view of the table."""

    def __init__(self, table: Table, number: int, held: Callable[[], int]) -> None:
        """``held`` counts this worker's connections; ``number`` is its place in the table, from 0 on."""
        self._cells = table.cells
        self._number = number
        self._held = held
        self._given: list[int] | None = None
        self.leaving = False
        """Whether this worker is stopping: it accepts only if no other one does."""

    def publish(self) -> int:
        """Write down how many connections this worker has now. Returns it."""
        held = self._held()
        self._cells[self._number] = AWAY if self.leaving else held
        return held

    @property
    def alone(self) -> bool:
        """Whether no other worker accepts."""
        return all(count == AWAY for number, count in enumerate(self._cells) if number != self._number)

    def room(self) -> int:
        """How many connections this worker may accept now; 0 to let another one go first.

        It lets the others go first once: if none of those with fewer connections has accepted one until it
        asks again, it accepts.
        """
        held = self.publish()
        others = [count for number, count in enumerate(self._cells) if number != self._number]
        accepting = [count for count in others if count != AWAY]
        if not accepting:
            return MANY
        if self.leaving:
            return 0
        room = min(accepting) + AHEAD - held
        if room > 0:
            self._given = None
            return room
        behind = [count if count < held else AWAY for count in others]
        stuck, self._given = behind == self._given, behind
        return AT_ONCE if stuck else 0
