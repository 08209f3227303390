"""What `benchmarks.reports` counts: reports that have to come once, metrics, and Redis commands."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final

from tornado.httpclient import AsyncHTTPClient

from benchmarks.drain import SECRET, Node
from benchmarks.presence import Stage
from benchmarks.processes import CannotRunError
from benchmarks.redis_commands import Commands
from benchmarks.reports_parts import User

TOLD: Final = 30.0  # s
JOINS: Final = 100.0
"""Joins a second, where they are counted."""


class Tally:
    """What had to be told once, and how often it was."""

    def __init__(self) -> None:
        self._once = self._missing = self._late = self._often = self._others = 0
        self._took: list[float] = []

    def add(self, expected: set[str], told: list[tuple[str, float]]) -> None:
        """Count: what had to be told, and what was after how many seconds."""
        counts, took = Counter(name for name, _ in told), dict(reversed(told))
        for name in expected:
            late = name in took and took[name] > TOLD
            self._late += late
            self._missing += name not in took
            self._often += counts[name] > 1
            self._once += counts[name] == 1 and not late
            self._took += [took[name]] if name in took else []
        self._others += sum(counts[name] for name in counts.keys() - expected)

    @property
    def is_met(self) -> bool:
        """Whether all were told once, in time, and no others."""
        return self._once == len(self._took) and not self._missing and not self._others

    def __str__(self) -> str:
        took = self._took or [0.0]
        return (
            f"{self._once} once in {TOLD:.0f} s, {self._late} late, {self._missing} never, "
            f"{self._often} more often, {self._others} others; "
            f"median {statistics.median(took):.1f} s, slowest {max(took):.1f} s"
        )


async def metric(node: Node, name: str) -> float:
    """A node's metric without labels. Raises CannotRunError if it has none."""
    answer = await AsyncHTTPClient().fetch(
        f"http://127.0.0.1:{node.port}/metrics", headers={"X-Internal-Secret": SECRET}
    )
    for text in answer.body.decode().splitlines():
        if text.startswith(f"{name} "):
            return float(text.split()[1])
    raise CannotRunError(f"the server has no metric {name}")


async def join_all(stage: Stage, users: Sequence[User], seconds: float) -> tuple[float, float]:
    """Connect all, those of a chat to one node.

    Returns the Redis commands a second of the idle nodes afterwards, and how many commands 1,000 joins took.
    """
    await asyncio.sleep(8)  # until a node reports
    async with Commands(stage.redis_port) as commands:
        began, joining = time.monotonic(), []
        for number, user in enumerate(users):
            node = stage.nodes[number // 2 % len(stage.nodes)]
            joining.append(asyncio.create_task(user.return_to(node, 0)))
            await asyncio.sleep(1 / JOINS)
        await asyncio.gather(*joining)
        await asyncio.sleep(5)
        joins, took = commands.count, time.monotonic() - began
    idle = await stage.commands(seconds)
    return idle, (joins - idle * took) / len(users) * 1000
