"""Runs scenarios: a cluster each, several side by side, and a verdict for each."""

from __future__ import annotations

import asyncio
import logging
import random
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.chaos.agent import ghosts, judge_seats, seat_agents, seated
from tests.chaos.client import Client
from tests.chaos.cluster import HISTORY_SECONDS, Cluster
from tests.chaos.judge import Verdict, judge, missing
from tests.chaos.postgres_cluster import PostgresCluster
from tests.chaos.redis_cluster import RedisCluster
from tests.chaos.scenarios import publish
from tests.chaos.sentinel_cluster import SentinelCluster
from tests.chaos.slot_cluster import SlotCluster
from tests.chaos.stage import Plan, Stage
from tests.chaos.workers import with_workers

log = logging.getLogger("chaos")

TICK = 0.1
GREETED_SECONDS = 10.0
SETTLE_SECONDS = 45.0
"""Longer than the longest wait between two attempts of a message, half a minute."""
LEFT_SECONDS = 12.0
REMAINS_SECONDS = HISTORY_SECONDS + 15.0
LONG_SECONDS = 30.0
"""Runs from this length on also wait until everybody knows who is there."""
PRESENCE_SECONDS = 25.0
"""Longer than a killed node's users may seem to be there."""
RATE = 0.5
"""Messages a second of each client."""


def cluster_of(plan: Plan, backend: str, folder: Path, server: str) -> Cluster:
    """What the plan runs on."""
    cluster: Cluster
    if backend == "postgres":
        cluster = PostgresCluster(folder)
    elif plan.topology == "sentinels":
        cluster = SentinelCluster(folder, server, *plan.redis)
    elif plan.topology == "cluster":
        cluster = SlotCluster(folder, server, *plan.redis)
    else:
        cluster = RedisCluster(folder, server, *plan.redis)
    return with_workers(cluster) if plan.workers else cluster


async def run_scenario(
    plan: Plan, cluster: Cluster, seconds: float, *, chats: int, members: int, seed: int
) -> tuple[Verdict, asyncio.Task[Verdict]]:
    """Run one scenario. Gives its verdict, and a task that ends with what had to be waited for added to it:
    the history's lifetime, after which nothing of it may be left.
    """
    verdict = Verdict(
        plan.name, backend=cluster.backend, resumes=not plan.unresumed, repeats=bool(plan.repeats)
    )
    clients: list[Client] = []
    ticking: asyncio.Task[None] | None = None
    try:
        await cluster.start()
        tasks = {node.name: await node.tasks() for node in cluster.nodes}
        chance = random.Random(seed)
        by_chat = {
            f"{plan.name.replace(' ', '-')}-{number}": [
                Client(
                    cluster,
                    f"{plan.name.replace(' ', '-')}-{number}",
                    number * members + member,
                    RATE,
                    chance,
                )
                for member in range(members)
            ]
            for number in range(chats)
        }
        agents = seat_agents(cluster, by_chat, RATE, chance)
        clients = [client for each in by_chat.values() for client in each]
        ticking = asyncio.create_task(tick([*clients, *agents]))
        await until(lambda: all(client.settled for client in clients), GREETED_SECONDS)
        began = time.monotonic()
        try:
            stage = Stage(cluster, clients, seconds, chance)
            publishing = [publish(stage)] if plan.publishes else []
            await asyncio.gather(plan.run(stage), *publishing)
        except Exception as error:
            verdict.faults += 1
            verdict.say(f"the scenario itself failed: {error!r}")
        verdict.seconds = round(time.monotonic() - began, 1)
        for client in clients:
            client.rate = 0
        await until(
            lambda: all(c.settled for c in clients) and not missing(cluster.application, by_chat),
            SETTLE_SECONDS,
        )
        judge(verdict, cluster.application, by_chat, await cluster.places(by_chat))
        is_long = seconds >= LONG_SECONDS
        if is_long:
            await until(lambda: not any(ghosts(*each) for each in seated(by_chat)), PRESENCE_SECONDS)
        judge_seats(verdict, by_chat, presence=is_long)
        if verdict.missed_targets:
            write_down(cluster.folder, clients)
            (cluster.folder / "evidence.txt").write_text("\n".join(verdict.evidence))
        ticking.cancel()
        for client in clients:
            client.close()
        left = await until_empty(cluster.leftovers, LEFT_SECONDS)
        verdict.left += len(left)
        for sentence in left:
            verdict.say(sentence)
    except BaseException:
        if ticking is not None:
            ticking.cancel()
        for client in clients:
            client.close()
        await cluster.stop()
        raise
    return verdict, asyncio.create_task(_finish(cluster, verdict, tasks))


async def _finish(cluster: Cluster, verdict: Verdict, tasks: dict[str, list[str]]) -> Verdict:
    try:
        remains = await until_empty(lambda: cluster.remains(tasks), REMAINS_SECONDS, every=1.0)
        verdict.left += len(remains)
        for sentence in remains:
            verdict.say(sentence)
        for node in cluster.nodes:
            log = node.log.read_text(errors="replace")
            # Only the lines themselves, not the counts of suppressed ones of their kind.
            found = log.count("Traceback (most recent call last)") + log.count(r"never retrieved\n")
            found -= sum(map(log.count, cluster.harmless))
            verdict.tracebacks += found
            if found:
                verdict.say(f"{found} tracebacks in {node.log}")
    finally:
        await cluster.stop()
    return verdict


async def tick(clients: Sequence[Client]) -> None:
    """Have all clients, those that come later too, do what is due; ends when it is cancelled."""
    before = time.monotonic()
    while True:
        now = time.monotonic()
        stood_still, before = now - before - 2 * TICK, now
        for client in clients:
            try:
                if stood_still > 0:
                    client.forgive(stood_still)
                client.tick(now)
            except Exception:
                log.exception("client %s of %s", client.number, client.chat)
        await asyncio.sleep(TICK)


async def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait for the condition; whether it became true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(TICK)
    return True


async def until_empty(look, seconds: float, every: float = 0.3) -> list[str]:  # type: ignore[no-untyped-def]
    """Check again until nothing is found, or the time is over; what is found then."""
    deadline = time.monotonic() + seconds
    while True:
        found: list[str] = await look()
        if not found or time.monotonic() > deadline:
            return found
        await asyncio.sleep(every)


def write_down(folder: Path, clients: Sequence[Client]) -> None:
    """Save what every client saw, one line per event, for debugging."""
    with (folder / "clients.log").open("w") as log:
        for client in clients:
            for visit in client.visits:
                log.write(
                    f"{client.chat} {client.number} {visit.began:.3f} {visit.greeted:.3f} {visit.ended:.3f} "
                    f"node={visit.node} after={visit.after} recovered={visit.recovered} at={visit.cursor} "
                    f"close={visit.close}\n"
                )
                for at, key, resent in visit.sent:
                    log.write(f"    {at:.3f} sent {key}{', again' if resent else ''}\n")
                for got in visit.received:
                    log.write(f"    {got.at:.3f} {got.cursor} {got.name}\n")
            for trouble in client.troubles:
                log.write(f"    {trouble.at:.3f} error {trouble.code} {trouble.key}\n")


async def run_lanes(
    plans: list[Plan],
    folder: Path,
    server: str,
    seconds: float,
    *,
    lanes: int,
    backend: str = "redis",
    chats: int = 100,
    members: int = 2,
    seed: int = 1,
    tell: Callable[[Verdict], None] = lambda verdict: None,
) -> list[Verdict]:
    """Run all plans on a backend, ``lanes`` at once; ``server`` says which program runs as Redis.

    ``tell`` is called with each verdict when it is complete.
    """
    # Each client is a socket here and one on a node, which inherits the limit.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    waiting = list(plans)
    finishing: list[asyncio.Task[Verdict]] = []
    verdicts: dict[str, Verdict] = {}

    def done(task: asyncio.Task[Verdict]) -> None:
        if not task.cancelled() and task.exception() is None:
            tell(task.result())

    async def lane() -> None:
        while waiting:
            plan = waiting.pop(0)
            own = folder / plan.name.replace(" ", "-")
            cluster = await asyncio.to_thread(cluster_of, plan, backend, own, server)
            verdict, finish = await run_scenario(
                plan,
                cluster,
                seconds,
                chats=chats,
                members=members,
                seed=seed,
            )
            verdicts[plan.name] = verdict
            finish.add_done_callback(done)
            finishing.append(finish)

    await asyncio.gather(*(lane() for _ in range(lanes)))
    await asyncio.gather(*finishing)
    return [verdicts[plan.name] for plan in plans]
