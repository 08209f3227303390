"""The cluster on Redis, to which the application publishes raw events."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import redis.asyncio
from redis.exceptions import RedisError

from tests.chaos.application import PATIENCE, Application, name_of
from tests.chaos.cluster import Cluster
from tests.provider import Provider
from tests.servers import RedisServer, lasting_port

LIFETIMES = """
local found = {}
for _, name in ipairs(redis.call('KEYS', '*')) do
  found[#found + 1] = name
  found[#found + 1] = redis.call('TTL', name)
end
return found
"""
CLIENT: dict[str, Any] = {"socket_timeout": PATIENCE, "socket_connect_timeout": PATIENCE, "protocol": 2}
"""Options of the application's connections."""
KICKS = ("normal", "one", "pubsub", "one")
"""Whose connections Redis closes: all for commands, one subscriber's, all subscribers'."""


class RedisApplication(Application):
    """It publishes with PUBLISH."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._client = redis.asyncio.Redis(port=port, **CLIENT)

    async def stop(self) -> None:
        """Stop listening, and close the connection to Redis."""
        await super().stop()
        await self._client.aclose()

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[redis.asyncio.Redis]:
        """The server on which an event has to be published."""
        yield self._client

    async def hand_over(self, chat: str, event: dict[str, Any]) -> bool:
        """Publish an event; whether Redis has confirmed it."""
        try:
            async with self.connected() as client:
                await client.publish(f"chat:{chat}", json.dumps(event))
        except (RedisError, OSError):
            return False
        return True


class RedisCluster(Cluster):
    """Two nodes on a Redis or Valkey."""

    backend = "redis"
    server_name = "Redis"
    outage = 3.0
    links = range(2, 3)

    def __init__(self, folder: Path, binary: str, *redis_options: str) -> None:
        self.redis = RedisServer(binary, lasting_port(), *redis_options)
        port = self.redis.port
        super().__init__(folder, [Provider(port), Provider(port)], RedisApplication(port))

    def start_server(self) -> None:
        """Start it, for the first time or again."""
        self.redis.start()

    def crash(self) -> None:
        """Kill it."""
        self.redis.kill()

    def freeze(self) -> None:
        """Suspend it."""
        self.redis.freeze()

    def thaw(self) -> None:
        """Resume it."""
        self.redis.thaw()

    async def kick(self, turn: int, chance: random.Random) -> None:
        """Make it close connections."""
        kind = KICKS[turn % len(KICKS)]
        if kind == "one":
            listed = str(await self.command("CLIENT", "LIST", "TYPE", "pubsub")).split("\n")
            addresses = [line.split("addr=", 1)[1].split(" ")[0] for line in listed if "addr=" in line]
            if addresses:
                await self.command("CLIENT", "KILL", "ADDR", chance.choice(addresses))
        else:
            await self.command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

    def remove_server(self) -> None:
        """Kill it, and remove its files."""
        self.redis.stop()

    def reach(self, proxy: Provider) -> dict[str, str]:
        """Settings of a node that reaches it through this proxy."""
        return {"REDIS_URL": proxy.url}

    async def command(self, *words: str | int) -> Any:
        """Put one command to Redis itself, past the proxies."""
        return await self.command_to(self.redis, *words)

    async def command_to(self, server: RedisServer, *words: str | int) -> Any:
        """Put one command to this server."""
        async with redis.asyncio.Redis(port=server.port, protocol=2, decode_responses=True) as client:
            return await client.execute_command(*words)  # type: ignore[no-untyped-call]

    async def places(self, chats: Iterable[str]) -> dict[str, str]:
        """The kept events' names by cursor, as Redis has them now."""
        found = {}
        async with redis.asyncio.Redis(port=self.redis.port, protocol=2) as client:
            pipeline = client.pipeline(transaction=False)
            for chat in chats:
                pipeline.xrange(f"eclipse:{{{chat}}}:events")
            histories = await pipeline.execute()
        for _, fields in (entry for entries in histories for entry in entries):
            event = json.loads(fields[b"e"])
            found[event["cursor"]] = name_of(event)
        return found

    async def kept_too_long(self) -> list[str]:
        """Subscriptions and keys."""
        found = []
        channels = [name for name in await self.command("PUBSUB", "CHANNELS", "chat:*")]
        if channels:
            found.append(f"{len(channels)} chats still subscribed, such as {channels[0]}")
        answer = await self.command("EVAL", LIFETIMES, 0)
        for name, left in zip(answer[::2], answer[1::2], strict=True):
            if left == -1:
                found.append(f"the key {name} never expires")
            elif not name.startswith("eclipse:node:") and not name.endswith((":meta", ":marks")):
                found.append(f"the key {name} is still there, for {left} s more")
        return found
