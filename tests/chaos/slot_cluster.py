"""The cluster on a Redis that is a cluster itself, whose primaries fail and whose slots move."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import redis
from redis.crc import key_slot

from tests.chaos.application import name_of
from tests.chaos.cluster import Cluster
from tests.chaos.redis_cluster import LIFETIMES, RedisApplication, RedisCluster
from tests.clusters import RedisCluster as Servers
from tests.provider import Provider
from tests.sentinels import ask
from tests.servers import RedisServer


class SlotCluster(RedisCluster):
    """Two nodes, which reach one server through their proxies first, and all of them without one."""

    links = range(1)

    def __init__(self, folder: Path, binary: str, *redis_options: str) -> None:
        self.servers = Servers(binary, *redis_options)
        ports = [server.port for server in self.servers.servers]
        # The application publishes on a replica of the last primary, which no scenario ends.
        Cluster.__init__(self, folder, [Provider(ports[0]), Provider(ports[0])], RedisApplication(ports[5]))
        self._turn = 0

    def start_server(self) -> None:
        """Start all of them."""
        self.servers.start()

    def remove_server(self) -> None:
        """Kill all of them, and remove their files."""
        self.servers.stop()

    def reach(self, proxy: Provider) -> dict[str, str]:
        """Settings of a node that asks through this proxy first."""
        return {"REDIS_URL": self.servers.url.replace("//", f"//127.0.0.1:{proxy.port},")}

    def lose_primary(self) -> RedisServer:
        """Kill one of the first two primaries or its successor. Returns it once there is another."""
        pair = self.servers.servers[self._turn % 2 :: 3]
        self._turn += 1
        lost = next(server for server in pair if ask(server.port, "ROLE")[0] == "master")
        replica = self.servers.replica_of(lost)
        lost.kill()
        self.servers.until_promoted(replica)
        return lost

    def reshard(self, chats: Iterable[str]) -> None:
        """Move the slots of these chats to another primary."""
        for chat in chats:
            owner = self.servers.owner_of(chat).port
            ports = [each[0] for each in self.servers.shards().values() if each[0] != owner]
            to = next(
                server for server in self.servers.servers if server.port == ports[self._turn % len(ports)]
            )
            self.servers.move(key_slot(f"{{{chat}}}".encode()), to)
        self._turn += 1

    async def places(self, chats: Iterable[str]) -> dict[str, str]:
        """The kept events' names by cursor, as the primaries have them now."""
        return await asyncio.to_thread(self._places, chats)

    def _places(self, chats: Iterable[str]) -> dict[str, str]:
        found = {}
        for chat in chats:
            with redis.Redis(port=self.servers.owner_of(chat).port, protocol=2) as client:
                history: Any = client.xrange(f"eclipse:{{{chat}}}:events")
            for _, fields in history:
                event = json.loads(fields[b"e"])
                found[event["cursor"]] = name_of(event)
        return found

    async def kept_too_long(self) -> list[str]:
        """Subscriptions and keys, of the primaries."""
        return await asyncio.to_thread(self._kept_too_long)

    def _kept_too_long(self) -> list[str]:
        found = []
        for server in self.servers.servers:
            if (ask(server.port, "ROLE") or [""])[0] != "master":
                continue
            if channels := ask(server.port, "PUBSUB", "CHANNELS", "chat:*"):
                found.append(f"{len(channels)} chats still subscribed, such as {channels[0]}")
            answer = ask(server.port, "EVAL", LIFETIMES, "0")
            for name, left in zip(answer[::2], answer[1::2], strict=True):
                if left == -1:
                    found.append(f"the key {name} never expires")
                elif not name.startswith("eclipse:node:") and not name.endswith((":meta", ":marks")):
                    found.append(f"the key {name} is still there, for {left} s more")
        return found
