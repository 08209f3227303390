"""What a case runs on: two nodes and the provider's Redis; in some cases an old service or a replica."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import redis.asyncio

from tests.chaos.cluster import NodeProcess, lasting_port
from tests.chaos.redis_cluster import RedisApplication, RedisCluster
from tests.provider import Provider
from tests.servers import RedisServer

PROFILE = Path(__file__).parent / "fleet.toml"
HISTORY_SECONDS = 300
"""The default, which fleet.toml leaves as it is."""


class Node(NodeProcess):
    """One of ours."""

    def command(self) -> list[str]:
        """What is run, after Python itself."""
        return ["-m", "eclipse_ws", "run", "--profile", str(PROFILE)]


class OldService(NodeProcess):
    """The old service beside them."""

    def command(self) -> list[str]:
        """What is run, after Python itself."""
        return ["-m", "tests.fleet.old_service"]


class Fleet(RedisCluster):
    """Two nodes with ``settings`` beside their profile, and whatever else the case needs.

    Each node reaches Redis through a provider of its own; the application and the old service share one.
    After `fail_over`, ``redis`` is the one that was the replica.
    """

    node_process = Node

    def __init__(
        self, folder: Path, server: str, settings: dict[str, str], *, old: bool, replica: bool
    ) -> None:
        super().__init__(folder, server)
        self.settings = settings
        self.others = Provider(self.redis.port)
        self.others.port = lasting_port()
        self.application = RedisApplication(self.others.port)
        self.old: NodeProcess | None = None
        self.replica: RedisServer | None = None
        self._has_old = old
        self._kept: list[tuple[Any, int, Any]] = []
        if replica:
            at_once = ("--repl-diskless-sync-delay", "0")
            self.redis.options = at_once
            primary = ("--replicaof", "127.0.0.1", str(self.redis.port))
            self.replica = RedisServer(server, lasting_port(), *primary, *at_once)

    def environment(self, proxy: Provider) -> dict[str, str]:
        """What a node behind this proxy is started with."""
        return {**super().environment(proxy), **self.settings}

    async def start_neighbours(self) -> None:
        """Start the providers' Redis, with a replica that has caught up, and the application."""
        await self.others.start()
        await super().start_neighbours()
        if self.replica is not None:
            await asyncio.to_thread(self.replica.start)
            await self._until_linked(self.replica)

    async def start_nodes(self) -> None:
        """Start the nodes, and the old service."""
        starting = [super().start_nodes()]
        if self._has_old:
            self.old = OldService("old", self.folder, super().environment(self.others))
            starting.append(self.old.start())
        await asyncio.gather(*starting)

    async def stop(self) -> None:
        """End every process of it."""
        if self.old is not None:
            self.old.kill()
        await super().stop()
        await self.others.stop()
        if self.replica is not None:
            self.replica.stop()

    @property
    def providers(self) -> list[Provider]:
        """Everybody's way to Redis."""
        return [*self.proxies, self.others]

    async def fail_over(self) -> None:
        """Make the replica the primary, and the primary its replica; the name points to the new one."""
        assert self.replica is not None
        await self.command("FAILOVER", "TO", "127.0.0.1", self.replica.port)
        await self._switch()

    async def fail_over_behind(self, seconds: float) -> None:
        """Make the replica the primary, which has not got what was written for so many seconds."""
        assert self.replica is not None
        demoted = self.redis
        await self.command_to(self.replica, "REPLICAOF", "NO", "ONE")
        await asyncio.sleep(seconds)
        await self.command_to(demoted, "REPLICAOF", "127.0.0.1", self.replica.port)
        await self._switch()

    async def snapshot(self) -> None:
        """Keep what Redis holds, for `restart` and `restore`."""
        await self.command("SAVE")
        async with redis.asyncio.Redis(port=self.redis.port, protocol=2) as client:
            kept = [(name, await client.pttl(name), await client.dump(name)) for name in await client.keys()]
        self._kept = [each for each in kept if each[2] is not None]  # what has not expired meanwhile

    async def restart(self) -> None:
        """Kill Redis, and start it with what was kept."""
        self.redis.kill()
        await asyncio.to_thread(self.redis.start)

    async def restore(self) -> None:
        """Replace what Redis holds by the snapshot, while all connections stay open."""
        async with (
            redis.asyncio.Redis(port=self.redis.port, protocol=2) as client,
            client.pipeline(transaction=True) as pipeline,
        ):
            pipeline.flushall()
            for name, lifetime, value in self._kept:
                pipeline.restore(name, max(0, lifetime), value)
            await pipeline.execute()

    async def _switch(self) -> None:
        assert self.replica is not None
        self.redis, self.replica = self.replica, self.redis
        for provider in self.providers:
            provider.target = self.redis.port
        # The application publishes by HTTP, and each call finds the primary. What it published on a
        # connection to the replica would be lost without an error.
        self.others.cut()
        await self._until_linked(self.replica)

    async def _until_linked(self, replica: RedisServer) -> None:
        async with redis.asyncio.Redis(port=replica.port, protocol=2, decode_responses=True) as client:
            async with asyncio.timeout(20):
                while True:
                    answer: dict[str, Any] = await client.info("replication")
                    if answer.get("role") == "slave" and answer.get("master_link_status") == "up":
                        return
                    await asyncio.sleep(0.02)
