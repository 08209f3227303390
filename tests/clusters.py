"""A cluster of three primaries with a replica each, real and on loopback."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from redis.crc import key_slot

from tests.sentinels import REPLICA, ask
from tests.servers import RedisServer, lasting_port

SLOTS = 16384
NODE_TIMEOUT = 1000
"""Milliseconds without an answer until a server thinks that another one is down."""
OPTIONS = (
    *("--cluster-enabled", "yes"),
    *("--cluster-node-timeout", str(NODE_TIMEOUT)),
    *("--cluster-replica-validity-factor", "0"),
    *("--cluster-allow-replica-migration", "no"),
    *REPLICA,
)


class RedisCluster:
    """Six servers: the first three begin as primaries. Raises NoServerError."""

    def __init__(self, server: str, *options: str) -> None:
        self.servers = [
            RedisServer(server, lasting_port(), *OPTIONS, "--cluster-port", str(lasting_port()), *options)
            for _ in range(6)
        ]

    @property
    def url(self) -> str:
        """Its address for REDIS_URL: some of the servers suffice."""
        places = ",".join(f"127.0.0.1:{server.port}" for server in self.servers[:3])
        return f"redis+cluster://{places}"

    def start(self) -> RedisCluster:
        """Start all, and wait until each of them sees a working cluster with three replicas."""
        for server in self.servers:
            server.start()
        for at, server in enumerate(self.servers):
            ask(server.port, "CLUSTER", "SET-CONFIG-EPOCH", str(at + 1))
            if at < 3:
                first, last = at * SLOTS // 3, (at + 1) * SLOTS // 3 - 1
                ask(server.port, "CLUSTER", "ADDSLOTSRANGE", str(first), str(last))
            bus = server.options[server.options.index("--cluster-port") + 1]
            ask(self.servers[0].port, "CLUSTER", "MEET", "127.0.0.1", str(server.port), bus)
        self.until(lambda: all(info(server)["cluster_known_nodes"] == "6" for server in self.servers))
        for at, server in enumerate(self.servers[3:]):
            primary = ask(self.servers[at].port, "CLUSTER", "MYID")
            self.until(
                lambda server=server, primary=primary: bool(ask(server.port, "CLUSTER", "REPLICATE", primary))
            )
        self.until(self.is_whole)
        return self

    def is_whole(self) -> bool:
        """Whether every server that runs sees a working cluster, and a replica of every primary."""
        running = [server for server in self.servers if server.process is not None]
        return all(
            info(server).get("cluster_state") == "ok"
            and replication(server)
            and all(len(ports) > 1 for ports in seen_by(server).values())
            for server in running
        )

    def shards(self) -> dict[tuple[int, int], list[int]]:
        """The ports of each range of slots, the primary's first.

        Each primary is asked for its own slots: the others may not have heard of the last changes yet.
        """
        running = [server for server in self.servers if server.process is not None]
        return {
            slots: ports
            for server in running
            for slots, ports in seen_by(server).items()
            if ports[0] == server.port
        }

    def owner(self, key: str) -> RedisServer:
        """The primary that has this key."""
        slot = key_slot(key.encode())
        port = next(ports[0] for (first, last), ports in self.shards().items() if first <= slot <= last)
        return next(server for server in self.servers if server.port == port)

    def owner_of(self, chat: str) -> RedisServer:
        """The primary that has this chat."""
        return self.owner(f"eclipse:{{{chat}}}")

    def replica_of(self, primary: RedisServer) -> RedisServer:
        """The replica of a primary."""
        port = next(ports[1] for ports in self.shards().values() if ports[0] == primary.port)
        return next(server for server in self.servers if server.port == port)

    def until_promoted(self, replica: RedisServer) -> None:
        """Wait until a replica is a primary, and all servers that run know it."""

        def known() -> bool:
            running = [server for server in self.servers if server.process is not None]
            return all(
                any(port == replica.port for port in primaries(server))
                and info(server).get("cluster_state") == "ok"
                for server in running
            )

        self.until(known)

    def move(self, slot: int, to: RedisServer) -> None:
        """Move a slot with its keys, as ``redis-cli --cluster reshard`` does."""
        port = next(ports[0] for (first, last), ports in self.shards().items() if first <= slot <= last)
        self.begin_move(slot, to)
        while keys := ask(port, "CLUSTER", "GETKEYSINSLOT", str(slot), "100"):
            ask(port, "MIGRATE", "127.0.0.1", str(to.port), "", "0", "5000", "REPLACE", "KEYS", *keys)
        self.end_move(slot, to)

    def begin_move(self, slot: int, to: RedisServer) -> None:
        """Have both primaries know that a slot is about to move."""
        port = next(ports[0] for (first, last), ports in self.shards().items() if first <= slot <= last)
        source, target = ask(port, "CLUSTER", "MYID"), ask(to.port, "CLUSTER", "MYID")
        ask(to.port, "CLUSTER", "SETSLOT", str(slot), "IMPORTING", source)
        ask(port, "CLUSTER", "SETSLOT", str(slot), "MIGRATING", target)

    def end_move(self, slot: int, to: RedisServer) -> None:
        """Give the slot to its new primary."""
        target = ask(to.port, "CLUSTER", "MYID")
        ports = [ports[0] for ports in self.shards().values()]
        for port in [to.port, *(each for each in dict.fromkeys(ports) if each != to.port)]:
            ask(port, "CLUSTER", "SETSLOT", str(slot), "NODE", target)

    def until(self, condition: Callable[[], Any], seconds: float = 30.0) -> None:
        """Wait for a condition."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise RuntimeError("the cluster did not come to agree in time")
            time.sleep(0.05)

    def stop(self) -> None:
        """End all, and remove their folders."""
        for server in self.servers:
            if server.process is not None:
                server.thaw()
            server.stop()


def info(server: RedisServer) -> dict[str, str]:
    """What a server says of its cluster."""
    answer = ask(server.port, "CLUSTER", "INFO") or ""
    if isinstance(answer, dict):
        return answer
    return dict(line.split(":", 1) for line in answer.split() if ":" in line)


def replication(server: RedisServer) -> bool:
    """Whether a replica has the data of its primary; a primary has it."""
    about = ask(server.port, "INFO", "replication") or {}
    return about.get("role") == "master" or about.get("master_link_status") == "up"


def primaries(server: RedisServer) -> list[int]:
    """The ports of the primaries with slots that a server knows."""
    return [ports[0] for ports in seen_by(server).values()]


def seen_by(server: RedisServer) -> dict[tuple[int, int], list[int]]:
    """The ports of each range of slots, the primary's first; empty if the server gives no answer."""
    answer = ask(server.port, "CLUSTER", "SLOTS") or []
    if isinstance(answer, dict):
        return {
            slots: [about["primary"][1], *(each[1] for each in about["replicas"])]
            for slots, about in answer.items()
        }
    return {(each[0], each[1]): [node[1] for node in each[2:]] for each in answer}
