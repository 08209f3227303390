"""Garbage collection that never walks all sessions while their messages wait.

Python's collector walks everything that has survived: with thousands of sessions that takes a tenth of a
second. Here it walks only what was made lately. What survives two rounds is frozen, that is, never walked
again. Reference counts free sessions when they end; cycles among what was frozen are collected only while
there are no sessions.
"""

from __future__ import annotations

import gc
import time
from typing import Any, Final

YOUNG: Final = 1_000
"""New objects after which the collector walks them: a fraction of a millisecond."""
ROUNDS: Final = 4
"""Such collections after which it walks their survivors once more, which are then frozen."""
NEVER: Final = 1_000_000
FULL_INTERVAL: Final = 3600.0
"""Minimum seconds between two collections of everything."""


class Collector:
    """Python's collector, which all servers of a process share."""

    def __init__(self) -> None:
        self._servers = 0
        self._before = gc.get_threshold()
        self._full = 0.0
        """When everything was collected last."""

    def start(self) -> None:
        """Collect in this way from now on: a server has started."""
        self._servers += 1
        if self._servers == 1:
            self._before = gc.get_threshold()
            gc.callbacks.append(_freeze_survivors)
            gc.set_threshold(YOUNG, ROUNDS, NEVER)
        self._collect(time.monotonic())

    def stop(self) -> None:
        """A server has stopped; after the last one the collector is as it was."""
        self._servers -= 1
        if not self._servers:
            gc.callbacks.remove(_freeze_survivors)
            gc.set_threshold(*self._before)
        gc.unfreeze()

    def collect_everything(self, now: float) -> None:
        """Collect what was frozen, too, at most once an hour; for a node without sessions."""
        if now - self._full >= FULL_INTERVAL:
            gc.unfreeze()
            self._collect(now)

    def _collect(self, now: float) -> None:
        self._full = now
        gc.collect()
        gc.freeze()


def _freeze_survivors(phase: str, info: dict[str, Any]) -> None:
    if phase == "stop" and info["generation"] == 1:
        gc.freeze()


collector: Final = Collector()
