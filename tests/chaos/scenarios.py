"""The scenarios: what goes wrong while clients chat. Each runs for its time, and repairs what it broke."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.application.stub import Fault
from tests.chaos.client import Client
from tests.chaos.cluster import Cluster

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
        """How long something is away in this run: shorter where the whole run is."""
        return min(AWAY, self.seconds / 2)

    async def again_and_again(self, once: Callable[[], Awaitable[None]], every: float = 8.0) -> None:
        """Do something at a third of the first interval, and then as often as there is time for it."""
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
    """A scenario, what it says of itself, and what Redis is started with."""

    name: str
    run: Scenario
    redis: tuple[str, ...] = ()
    unresumed: str = ""
    """Why ``recovered: false`` can't be avoided here; "" where it has to be."""
    unknowns: str = ""
    """Why ``outcome_unknown`` can't be avoided here; "" where it has to be."""
    publishes: bool = True
    """Whether the application publishes raw events besides."""


async def calm(stage: Stage) -> None:
    """Nothing goes wrong."""
    await stage.rest()


async def cuts(stage: Stage) -> None:
    """Clients lose their connection: by RST, by FIN, by a black hole, half-open."""
    ways = ("rst", "fin", "black hole", "half-open")
    while stage.left > 0:
        for client in stage.chance.sample(stage.clients, max(1, len(stage.clients) // 40)):
            client.leave(stage.chance.choice(ways))
        await stage.pause(0.25)


async def terminated(stage: Stage) -> None:
    """A node gets SIGTERM, drains, and is started again; then the other one."""
    await _restart(stage, signal.SIGTERM)


async def killed(stage: Stage) -> None:
    """A node gets SIGKILL and is started again; then the other one."""
    await _restart(stage, signal.SIGKILL)


async def _restart(stage: Stage, number: signal.Signals) -> None:
    turn = 0

    async def once() -> None:
        nonlocal turn
        node = stage.cluster.nodes[turn % 2]
        turn += 1
        await node.end(number)
        await asyncio.sleep(0.2)
        await node.start()

    await stage.again_and_again(once)


async def stopped(stage: Stage) -> None:
    """A node gets SIGSTOP, and continues after three seconds; then the other one, for twice as long."""
    turn = 0

    async def once() -> None:
        nonlocal turn
        node = stage.cluster.nodes[turn % 2]
        turn += 1
        node.send(signal.SIGSTOP)
        try:
            await asyncio.sleep(stage.away * (2 - turn % 2))
        finally:
            node.send(signal.SIGCONT)

    await stage.again_and_again(once)


async def redis_restarted(stage: Stage) -> None:
    """Redis is killed, and comes back after a while: empty, or with the data of its append-only file."""

    async def once() -> None:
        stage.cluster.redis.kill()
        await asyncio.sleep(stage.away)
        await asyncio.to_thread(stage.cluster.redis.start)

    await stage.again_and_again(once, every=10)


async def redis_frozen(stage: Stage) -> None:
    """Redis gets SIGSTOP, and continues after three seconds."""

    async def once() -> None:
        stage.cluster.redis.freeze()
        try:
            await asyncio.sleep(stage.away)
        finally:
            stage.cluster.redis.thaw()

    await stage.again_and_again(once)


async def redis_paused(stage: Stage) -> None:
    """Redis holds all commands back for three seconds (CLIENT PAUSE)."""

    async def once() -> None:
        await stage.cluster.command("CLIENT", "PAUSE", int(stage.away * 1000), "ALL")
        await asyncio.sleep(stage.away)

    await stage.again_and_again(once)


async def redis_flushed(stage: Stage) -> None:
    """Everything in Redis is deleted (FLUSHALL, SCRIPT FLUSH)."""

    async def once() -> None:
        await stage.cluster.command("FLUSHALL")
        await stage.cluster.command("SCRIPT", "FLUSH")

    await stage.again_and_again(once, every=4)


async def redis_slow(stage: Stage) -> None:
    """The latency between Redis and each node is 20 to 200 ms, each way."""
    try:
        while stage.left > 0:
            for proxy in stage.cluster.proxies:
                proxy.delay = stage.chance.uniform(0.02, 0.2)
            await stage.pause(1.0)
    finally:
        for proxy in stage.cluster.proxies:
            proxy.delay = 0.0


async def redis_kicks(stage: Stage) -> None:
    """Redis closes one subscriber's connection, all command connections, all subscribers' (CLIENT KILL)."""
    kinds = ["one", "normal", "one", "pubsub"]

    async def once() -> None:
        kinds.append(kinds.pop(0))
        kind = kinds[-1]
        if kind == "one":
            listed = str(await stage.cluster.command("CLIENT", "LIST", "TYPE", "pubsub")).split("\n")
            addresses = [line.split("addr=", 1)[1].split(" ")[0] for line in listed if "addr=" in line]
            if addresses:
                await stage.cluster.command("CLIENT", "KILL", "ADDR", stage.chance.choice(addresses))
        else:
            await stage.cluster.command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

    await stage.again_and_again(once, every=2)


async def black_hole(stage: Stage) -> None:
    """Nothing gets through between one node and Redis; then it arrives late, or the connections are lost."""
    turn = 0

    async def once() -> None:
        nonlocal turn
        proxy = stage.cluster.proxies[turn % 2]
        turn += 1
        proxy.block()
        try:
            await asyncio.sleep(stage.away * (1.5 if turn % 3 else 0.5))
        finally:
            proxy.unblock(resume=stage.chance.random() < 0.5)

    await stage.again_and_again(once)


async def api_fails(stage: Stage) -> None:
    """The chat API answers 500 and 503, for some requests and for all."""
    faults = [
        Fault("status", times=20),
        Fault("status", status=503, body="busy", headers={"Retry-After": "1"}, times=40),
        Fault("status", status=502, body="<html>", times=10),
        Fault("status"),
    ]
    await _fail(stage, faults)


async def api_hangs(stage: Stage) -> None:
    """The chat API doesn't respond, whether it has saved or not; or responds too late."""
    faults = [
        Fault("hang", times=10),
        Fault("hang", saves=True, times=10),
        Fault(delay=1.0, times=100),
        Fault(delay=3.5, times=20),
    ]
    await _fail(stage, faults)


async def api_breaks_off(stage: Stage) -> None:
    """The chat API saves and then resets, closes, truncates its response, fails, or responds twice."""
    faults = [
        Fault("reset", saves=True, times=10),
        Fault("twice", times=40),
        Fault("truncate", saves=True, times=10),
        Fault("close", saves=True, times=10),
        Fault("status", status=502, body="<html>", saves=True, times=10),
        Fault("reset", times=10),
    ]
    await _fail(stage, faults)


async def _fail(stage: Stage, faults: list[Fault]) -> None:
    turn = 0
    try:
        while stage.left > 0:
            fault = faults[turn % len(faults)]
            stage.cluster.application.fault = Fault(**vars(fault))
            turn += 1
            await stage.pause(min(2.0, stage.seconds / 5))
            stage.cluster.application.fault = Fault()
            await stage.pause(min(1.0, stage.seconds / 10))
    finally:
        stage.cluster.application.fault = Fault()
        stage.cluster.application.released.set()


async def application_publishes(stage: Stage) -> None:
    """The application publishes more than ever, while clients are cut."""
    await asyncio.gather(publish(stage, 0.01), cuts(stage))


async def publish(stage: Stage, every: float = 0.05) -> None:
    """Have the application publish saved messages itself, write, and change what was written."""
    application = stage.cluster.application
    application.publishes = True
    chats = sorted({client.chat for client in stage.clients})
    number = 0
    try:
        while stage.left > 0:
            await stage.pause(every)
            number += 1
            chat = stage.chance.choice(chats)
            ids = application.saved_in.get(chat)
            if ids and number % 3 == 0:
                await application.update(chat, ids[-1])
            else:
                await application.say(chat, number)
    finally:
        application.publishes = False


async def mixed(stage: Stage) -> None:
    """All of these, one after the other, while clients are cut."""

    async def faults() -> None:
        kinds = [killed, redis_kicks, black_hole, terminated, redis_flushed, stopped, api_breaks_off]
        kinds += [redis_frozen, api_fails, redis_slow, redis_restarted]
        stage.chance.shuffle(kinds)
        for kind in kinds:
            if stage.left <= 1:
                break
            part = min(stage.left, max(5.0, stage.seconds / len(kinds)))
            await kind(Stage(stage.cluster, stage.clients, part, stage.chance))
        await stage.rest()

    await asyncio.gather(faults(), cuts(stage))


UNGUARDED = (
    "a killed node no longer guards its chats: a chat whose members were all on it has no reliable history"
)
EMPTIED = "Redis lost its data, so nobody knows what was missed"
DEAF = "raw events published while no node was subscribed to the chat would be lost unnoticed"
POST_LOST = "the API's response was lost, and the API ignores the key"

PLANS = [
    Plan("calm", calm, publishes=False),
    Plan("clients cut", cuts, publishes=False),
    Plan("node terminated", terminated, unresumed=UNGUARDED),
    Plan("node killed", killed, unresumed=UNGUARDED, unknowns="the node took the answer along"),
    Plan(
        "node stopped", stopped, unresumed=UNGUARDED, unknowns="the API's answer came while it could not read"
    ),
    Plan("redis restarted empty", redis_restarted, unresumed=EMPTIED),
    Plan("redis restarted", redis_restarted, ("--appendonly", "yes"), unresumed=DEAF),
    Plan("redis frozen", redis_frozen, unresumed=DEAF),
    Plan("redis paused", redis_paused, unresumed=DEAF),
    Plan("redis flushed", redis_flushed, unresumed=EMPTIED),
    Plan("redis slow", redis_slow),
    Plan("redis kicks", redis_kicks, unresumed=DEAF),
    Plan("black hole to redis", black_hole, unresumed=DEAF),
    Plan("api fails", api_fails, unknowns=POST_LOST),
    Plan("api hangs", api_hangs, unknowns=POST_LOST),
    Plan("api breaks off", api_breaks_off, unknowns=POST_LOST),
    Plan("application publishes", application_publishes, publishes=False),
    Plan("mixed", mixed, unresumed="all of these", unknowns="all of these"),
]
