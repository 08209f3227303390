"""What a failed attempt costs a message, as in ``web/src/client/tries.ts``, and the wait after it."""

from __future__ import annotations

import random
import re

MOST_TRIES = 6
"""A message has failed when its attempts have cost this much."""
MOST_WAIT = 600.0
RETRY_AFTER = 2.0
"""Seconds, where the error names none."""
OF_ALL = re.compile("unavailable|busy|timeout|limited|ended")
"""Errors that say little about the message: they are about the whole application, or about this session."""


def close_cost(code: int) -> float:
    """What it costs the message in progress that the socket was closed with this code."""
    if code == 1006:
        return 0.5
    return 0 if code < 1002 or code == 1012 or code > 4000 else 2


def error_cost(code: str) -> float:
    """What an error with this code costs."""
    return 0.125 if OF_ALL.search(code) else 1


def wait(tries: float, retry_after: float | None, chance: random.Random) -> float:
    """Seconds until the next message may be sent, after an error which brought the cost up to ``tries``."""
    asked = RETRY_AFTER if retry_after is None else retry_after
    return min(MOST_WAIT, max(asked, 2**tries - 1)) + chance.uniform(0, 0.5)
