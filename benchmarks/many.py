"""100,000 sessions in one process, all idle but for those that exchange 1,000 messages a second.

Each load generator process has at most as many sessions as file descriptors, and a client address of its
own in 127.0.0.0/8, because one address has ports for some 28,000.
"""

from __future__ import annotations

import contextlib

from benchmarks.loads import Load, idle, run
from benchmarks.measuring import Measured, check, others, room_for
from benchmarks.servers import Server

SESSIONS = 100_000
SPARE = 200
"""File descriptors of a process beside those of its sessions."""
ADDRESS = 20_000
"""Sessions for which the generator takes one address."""


def many(server: Server, seconds: float, sessions: int = SESSIONS) -> Measured:
    """Memory, and latency among the last of them. Raises CannotRunError if there is no room for them."""
    room_for(sessions)
    loads = shares(sessions, ADDRESS - SPARE)
    with server.start(1) as running, contextlib.ExitStack() as stack:
        before = running.memory()
        for load in loads[:-1]:
            stack.enter_context(idle(server, running, load))
        last = loads[-1]
        phases = [f"rate:1000:{max(5.0, 2 * seconds)}"]
        results = run(server, running, Load(last.chats, 2, phases, None, last.first, last.options))
    check(results)
    rate = results[1]
    return {
        "many MB": rate["memory_after"] / 1e6,
        "many p99": rate["latency_us"]["p99"] / 1e3,
        "many KB": (rate["memory_after"] - before) / 1024 / sessions,
        "many lost": max(0, rate["others_expected"] - rate["deliveries"]),
    }, others(results)


def shares(sessions: int, most: int) -> list[Load]:
    """The generators' shares of the sessions, in chats of two, each with its first chat and address."""
    chats, most = sessions // 2, most // 2
    return [
        Load(min(most, chats - first), 2, [], None, first, ["--from", str(1 + number)])
        for number, first in enumerate(range(0, chats, most))
    ]
