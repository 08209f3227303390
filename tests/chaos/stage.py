"""The parts of scenarios: what they work on, how they repeat a fault, and how a plan describes one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.chaos.client import Client
from tests.chaos.cluster import Cluster

BACKENDS = ("redis", "postgres")
AWAY = 3.0
"""Seconds for which something is away."""


@dataclass
class Stage:
    """What a scenario works on: the cluster, the clients, and for how long."""

    cluster: Cluster
    clients: list[Client]
    seconds: float
    chance: random.Random

    def __post_init__(self) -> None:
        self.until = asyncio.get_running_loop().time() + self.seconds

    @property
    def left(self) -> float:
        """Seconds left."""
        return self.until - asyncio.get_running_loop().time()

    async def pause(self, seconds: float) -> None:
        """Wait, but not beyond the end."""
        await asyncio.sleep(max(0.0, min(seconds, self.left)))

    async def rest(self) -> None:
        """Wait for the end."""
        await self.pause(self.left)

    @property
    def away(self) -> float:
        """How long something is unavailable in this run: shorter if the whole run is."""
        return min(AWAY, self.seconds / 2)

    @property
    def outage(self) -> float:
        """The same for a backend that doesn't answer."""
        return min(self.cluster.outage, self.seconds / 2)

    async def again_and_again(self, once: Callable[[], Awaitable[None]], every: float = 8.0) -> None:
        """Do something after a third of the first interval, and then as often as there is time."""
        every = min(every, self.seconds)
        await self.pause(every / 4)
        while self.left > 0:
            before = self.left
            await once()
            if self.left < self.away + every / 2:
                break
            await self.pause(every - (before - self.left))
        await self.rest()


Scenario = Callable[[Stage], Awaitable[None]]


@dataclass(frozen=True)
class Plan:
    """A scenario, what it says of itself, and what its cluster is made of.

    Names are unique within a backend.
    """

    name: str
    run: Scenario
    backends: tuple[str, ...] = BACKENDS
    """Those that it applies to."""
    redis: tuple[str, ...] = ()
    """What Redis is started with."""
    topology: str = ""
    """Of Redis: one server, ``sentinels``, or a ``cluster``."""
    unresumed: str = ""
    """Why ``recovered: false`` can't be avoided here; "" where it has to be."""
    unknowns: str = ""
    """Why ``outcome_unknown`` can't be avoided here; "" where it has to be."""
    repeats: str = ""
    """Why up to one message in a thousand may be saved twice here; "" where none may."""
    workers: bool = False
    """Whether each node is a machine of several workers."""
    publishes: bool = True
    """Whether the application publishes events besides."""
