"""What the tests of failovers share: nodes on several Redis servers, and where they are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar, Final

from eclipse_ws.protocol import Cursor
from tests.backends.harness import Cluster, Node, event, until
from tests.sentinels import ask
from tests.servers import RedisServer

Expect = Callable[..., None]
OUTAGE: Final = (
    "Redis connection lost|event not published|Redis unavailable|chat not subscribed|history not read"
    "|Redis refuses"
)
OVER_HTTP: Final[dict[str, Any]] = {"app_publishes_over_http": True, "redis_timeout": 1}


class FailoverCluster(Cluster):
    """Nodes on several servers, one of which may be lost."""

    topology: ClassVar[str]

    def __init__(self, servers: Any) -> None:
        super().__init__("redis", servers)

    async def close(self) -> None:
        """Close all."""
        self.kind = self.topology  # a failover may leave keys and subscriptions on former primaries
        await super().close()

    async def until_lost(self, *nodes: Node) -> None:
        """Wait until these nodes have noticed that a primary is gone."""
        await until(lambda: all(node.backend.health.state == "down" for node in nodes), "an outage")

    async def until_up(self, *nodes: Node) -> None:
        """Wait until these nodes are up again, which takes a failover."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + 20
        while any(node.delivery.health.state != "up" for node in nodes):
            assert loop.time() < deadline, "the nodes do not come back"
            await asyncio.sleep(0.01)


async def replicated(server: RedisServer, replicas: int = 1) -> None:
    """Wait until so many replicas have all that this server has now.

    The command ``WAIT`` says so of what its own connection has written, and the nodes have other ones.
    """
    written = ask(server.port, "INFO", "replication")["master_repl_offset"]

    def have() -> int:
        info = ask(server.port, "INFO", "replication")
        return sum(info[f"slave{at}"]["offset"] >= written for at in range(info["connected_slaves"]))

    await until(lambda: have() >= replicas, "all of it on the replicas")


async def publish(node: Node, chat: str, *numbers: int) -> list[str]:
    """Publish these events; how each was delivered."""
    return [(await node.delivery.publish(chat, event(number))).delivery for number in numbers]


def positions(chat: str, *nodes: Node) -> set[Cursor | None]:
    """Where these nodes are."""
    return {node.delivery.position(chat) for node in nodes}


def is_renewed(before: Cursor | None, now: set[Cursor | None]) -> bool:
    """Whether all nodes are at one position of an epoch that began after this one."""
    (after, *others) = now
    return before is not None and after is not None and not others and after.epoch != before.epoch
