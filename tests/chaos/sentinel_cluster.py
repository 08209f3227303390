"""The cluster on a primary with replicas and sentinels, which fails over."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import redis.asyncio.sentinel

from tests.chaos.cluster import Cluster
from tests.chaos.redis_cluster import CLIENT, RedisApplication, RedisCluster
from tests.provider import Provider
from tests.sentinels import SERVICE, Sentinels
from tests.servers import RedisServer


class SentinelApplication(RedisApplication):
    """It asks the sentinels where it has to publish, each time: redis-py's own pool for sentinels leaves
    connections to a lost primary open.
    """

    def __init__(self, ports: list[int]) -> None:
        super().__init__(ports[0])
        self._sentinels = redis.asyncio.sentinel.Sentinel(
            [("127.0.0.1", port) for port in ports], sentinel_kwargs=CLIENT, **CLIENT
        )

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[redis.asyncio.Redis]:
        """See `RedisApplication`."""
        host, port = await self._sentinels.discover_master(SERVICE)
        async with redis.asyncio.Redis(host=host, port=port, **CLIENT) as client:
            yield client

    async def stop(self) -> None:
        """Close the connections to the sentinels, too."""
        await super().stop()
        for sentinel in self._sentinels.sentinels:
            await sentinel.aclose()


class SentinelCluster(RedisCluster):
    """Two nodes, which reach the first sentinel through their proxies, and everything else without one."""

    links = range(1)

    def __init__(self, folder: Path, binary: str, *redis_options: str) -> None:
        self.sentinels = Sentinels(binary, *redis_options)
        ports = [each.port for each in self.sentinels.sentinels]
        Cluster.__init__(self, folder, [Provider(ports[0]), Provider(ports[0])], SentinelApplication(ports))

    @property
    def redis(self) -> RedisServer:  # type: ignore[override]
        """The primary of the moment."""
        return self.sentinels.primary

    def start_server(self) -> None:
        """Start all of them."""
        self.sentinels.start()

    def lose_primary(self) -> RedisServer:
        """Kill the primary, and wait until there is another. Returns the lost one."""
        lost = self.sentinels.primary
        lost.kill()
        self.sentinels.until_another(lost)
        return lost

    def remove_server(self) -> None:
        """Kill all of them, and remove their files."""
        self.sentinels.stop()

    def reach(self, proxy: Provider) -> dict[str, str]:
        """Settings of a node whose first sentinel is behind this proxy."""
        first = self.sentinels.sentinels[0].port
        return {"REDIS_URL": self.sentinels.url.replace(f":{first}", f":{proxy.port}")}
