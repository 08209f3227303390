"""The scenarios of Redis."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.chaos.redis_cluster import RedisCluster
from tests.chaos.scenarios import kick, one_after_the_other, restart_backend
from tests.chaos.sentinel_cluster import SentinelCluster
from tests.chaos.slot_cluster import SlotCluster
from tests.chaos.stage import Stage


async def _command(stage: Stage, *words: str | int) -> Any:
    assert isinstance(stage.cluster, RedisCluster)
    return await stage.cluster.command(*words)


async def redis_restarted(stage: Stage) -> None:
    """Redis is killed, and comes back after a while: empty, or with the data of its append-only file."""
    await restart_backend(stage, stage.cluster.crash, stage.away)


async def redis_paused(stage: Stage) -> None:
    """Redis holds all commands back for three seconds (CLIENT PAUSE)."""

    async def once() -> None:
        await _command(stage, "CLIENT", "PAUSE", int(stage.away * 1000), "ALL")
        await asyncio.sleep(stage.away)

    await stage.again_and_again(once)


async def redis_flushed(stage: Stage) -> None:
    """Everything in Redis is deleted (FLUSHALL, SCRIPT FLUSH)."""

    async def once() -> None:
        await _command(stage, "FLUSHALL")
        await _command(stage, "SCRIPT", "FLUSH")

    await stage.again_and_again(once, every=4)


async def redis_kicks(stage: Stage) -> None:
    """Redis closes one subscriber's connection, all command connections, all subscribers' (CLIENT KILL)."""
    await kick(stage)


async def redis_primary_lost(stage: Stage) -> None:
    """The primary is killed, and a replica promoted; three seconds later the lost server is back."""

    async def once() -> None:
        assert isinstance(stage.cluster, (SentinelCluster, SlotCluster))
        lost = await asyncio.to_thread(stage.cluster.lose_primary)
        await asyncio.sleep(stage.away)
        await asyncio.to_thread(lost.start)

    await stage.again_and_again(once, every=20)


async def redis_resharded(stage: Stage) -> None:
    """The slots of some chats move to another primary."""
    chats = sorted({client.chat for client in stage.clients})

    async def once() -> None:
        assert isinstance(stage.cluster, SlotCluster)
        await asyncio.to_thread(stage.cluster.reshard, stage.chance.sample(chats, len(chats) // 5))

    await stage.again_and_again(once, every=6)


async def redis_mixed(stage: Stage) -> None:
    """All of these, one after the other, while clients are cut."""
    await one_after_the_other(stage, redis_kicks, redis_flushed, redis_restarted)
