"""The two contests: `jitter` cuts every client's connection again and again, `deploy` restarts a node."""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contests.base import Client, Contest
from benchmarks.contests.contestants import Contestant
from benchmarks.processes import CannotRunError, Process, redis
from tests.servers import free_port

PAUSE = 0.5
"""Seconds from one broadcast to the next."""
PERIOD = 15.0
"""Seconds from one cut of a client to the next."""
LEAD = 2.0
"""Seconds of broadcasts before the first cut."""
HANDSHAKES = 64
"""At a time while the clients come at the beginning."""
ARRIVAL, SETTLE = 120.0, 10.0
"""Seconds for all clients to come, and seconds after the last broadcast, in which it may still arrive."""
BACK_WITHIN = 60.0
"""Seconds from the node's signal in which a client has to be back, and in which broadcasts go on."""
Values = dict[str, float]


@dataclass
class Crowd:
    """The clients of a contest, connected."""

    contest: Contest
    contestant: Contestant
    clients: list[Client]
    refused: int = 0
    stall: float = 0.0
    """The longest time for which this program itself was late, in seconds."""

    async def broadcast(self, port: int, until: Callable[[], bool]) -> None:
        """Publish a message every `PAUSE` until it is time to stop."""
        number, due = 0, time.monotonic()
        while not until():
            if await self.contestant.publish(port, number):
                self.contest.published.append(number)
            else:
                self.refused += 1
            number += 1
            due += PAUSE
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def watch(self) -> None:
        """Measure how late this program is."""
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.01)
            self.stall = max(self.stall, time.monotonic() - began - 0.01)

    def values(self) -> Values:
        """What both contests count."""
        wanted = set(self.contest.published)
        missed = sum(len(wanted - client.heard) for client in self.clients)
        replays = sorted(took for client in self.clients for took in client.replays)
        return {
            "messages": len(wanted),
            "not published": self.refused,
            "delivered": 1 - missed / max(1, len(wanted) * len(self.clients)),
            "missed": missed,
            "duplicates": sum(client.duplicates for client in self.clients),
            "not recovered": sum(client.unrecovered for client in self.clients),
            "replays": len(replays),
            "replay p50": 1000 * percentile(replays, 0.5),
            "replay p99": 1000 * percentile(replays, 0.99),
            "stall": 1000 * self.stall,
        }


def percentile(ordered: list[float], share: float) -> float:
    """Of values in order; 0 without any."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


@contextlib.asynccontextmanager
async def crowd(contestant: Contestant, ports: list[int], count: int) -> AsyncIterator[Crowd]:
    """So many clients, all connected. Raises CannotRunError if one can't connect."""
    contest = Contest(ports)
    made = Crowd(contest, contestant, [contestant.client(contest, number) for number in range(count)])
    gate = asyncio.Semaphore(HANDSHAKES)
    tasks = [asyncio.create_task(client.run(gate)) for client in made.clients]
    tasks.append(asyncio.create_task(made.watch()))
    try:
        deadline = time.monotonic() + ARRIVAL
        while not all(client.is_up for client in made.clients):
            if time.monotonic() > deadline:
                raise CannotRunError(
                    f"{sum(not client.is_up for client in made.clients)} clients could not connect"
                )
            await asyncio.sleep(0.1)
        made.stall = 0.0
        yield made
    finally:
        contest.over.set()
        for task in tasks:
            task.cancel()
        for client in made.clients:
            client.leave()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    errors = [error for error in ended if isinstance(error, Exception)]
    if errors:
        raise errors[0]


async def jitter(contestant: Contestant, clients: int, seconds: float) -> Values:
    """Two broadcasts a second for so long, while each client is cut off every `PERIOD` for two seconds."""
    with tempfile.TemporaryDirectory() as folder:
        node = contestant.start(free_port(), Path(folder), "")
        try:
            async with crowd(contestant, [node.port], clients) as made:
                end = time.monotonic() + seconds
                cutting = [asyncio.create_task(_cut(client, end)) for client in made.clients]
                await made.broadcast(node.port, lambda: time.monotonic() >= end)
                await asyncio.gather(*cutting)
                await asyncio.sleep(SETTLE)
                cuts = sum(client.cuts for client in made.clients)
                dropped = sum(client.dropped for client in made.clients)
                return {"clients": clients, "cuts": cuts, "dropped": dropped, **made.values()}
        finally:
            node.stop()


async def _cut(client: Client, end: float) -> None:
    # After the first messages: without one Socket.IO's clients have no offset to recover from.
    await asyncio.sleep(LEAD + random.uniform(0, PERIOD))
    while time.monotonic() < end:
        client.cut()
        await asyncio.sleep(PERIOD)


async def deploy(contestant: Contestant, clients: int, seconds: float) -> Values:
    """Restart the node that all clients are on; another one shares its Redis, takes over, and publishes."""
    with tempfile.TemporaryDirectory() as name, redis() as url:
        folder = Path(name)
        nodes = [contestant.start(free_port(), folder, url) for _ in range(2)]
        restarted, other = nodes
        try:
            async with crowd(contestant, [restarted.port], clients) as made:
                end = time.monotonic() + seconds + BACK_WITHIN
                broadcasting = asyncio.create_task(
                    made.broadcast(other.port, lambda: time.monotonic() >= end)
                )
                await asyncio.sleep(seconds)
                made.contest.ports[:] = [other.port]  # as the proxy sees in its health check
                began = time.monotonic()
                await asyncio.to_thread(restarted.stop, BACK_WITHIN)
                stopped = time.monotonic() - began
                again = await asyncio.to_thread(contestant.start, restarted.port, folder, url)
                nodes.append(again)
                made.contest.ports.append(again.port)
                await asyncio.sleep(max(0.0, began + BACK_WITHIN - time.monotonic()))
                back = sum(client.is_up for client in made.clients)
                await broadcasting
                await asyncio.sleep(SETTLE)
                downs = sorted(down for client in made.clients for down in client.downs)
                return {
                    "clients": clients,
                    "back": back / clients,
                    "stopped": stopped,
                    "down p50": statistics.median(downs) if downs else 0.0,
                    "down p99": percentile(downs, 0.99),
                    "down max": max(downs, default=0.0),
                    "ended": len(downs),
                    **made.values(),
                }
        finally:
            _stop(nodes[1:])


def _stop(nodes: list[Process]) -> None:
    for node in nodes:
        node.stop(1)
