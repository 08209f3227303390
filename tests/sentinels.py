"""A primary with two replicas, and three sentinels that watch it, all real and on loopback."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from tests.servers import RedisServer, ServerProcess, lasting_port, server_binary

SERVICE = "chats"
DOWN_AFTER = 2000
"""Milliseconds without an answer until a sentinel thinks that a server is down. It asks once a second: with
no more than that, it may take a new primary for lost right after a failover, and replace it, too.
"""
CONFIGURATION = """
port {port}
bind 127.0.0.1
dir {folder}
sentinel monitor {service} 127.0.0.1 {primary} 2
sentinel down-after-milliseconds {service} {down_after}
sentinel failover-timeout {service} 4000
sentinel parallel-syncs {service} 2
"""
REPLICA = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")


class Sentinel(ServerProcess):
    """One sentinel, which is the same program as its servers."""

    def __init__(self, server: str, primary: int, *lines: str) -> None:
        self.port = lasting_port()
        self.folder = tempfile.mkdtemp(prefix="eclipse-sentinel-")
        self._binary = server_binary(server)
        self._file = Path(self.folder) / "sentinel.conf"
        text = CONFIGURATION.format(
            port=self.port, folder=self.folder, service=SERVICE, primary=primary, down_after=DOWN_AFTER
        )
        self._file.write_text(text + "\n".join(lines) + "\n")

    def start(self) -> None:
        """Start it, for the first time or again."""
        command = [self._binary, str(self._file), "--sentinel"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Sentinels:
    """The servers and their sentinels. Raises NoServerError."""

    def __init__(self, server: str, *options: str) -> None:
        first = RedisServer(server, lasting_port(), *REPLICA, *options)
        following = ("--replicaof", f"127.0.0.1 {first.port}", *REPLICA, *options)
        self.servers = [first, *(RedisServer(server, lasting_port(), *following) for _ in range(2))]
        self.sentinels = [Sentinel(server, first.port) for _ in range(3)]
        self._primary = first

    @property
    def url(self) -> str:
        """Its address for REDIS_URL."""
        return f"redis+sentinel://{','.join(f'127.0.0.1:{each.port}' for each in self.sentinels)}/{SERVICE}"

    def start(self) -> Sentinels:
        """Start all, and wait until each sentinel knows the replicas and the other sentinels."""
        for server in self.servers:
            server.start()
        for sentinel in self.sentinels:
            sentinel.start()
        self.until(self._is_complete)
        return self

    def _is_complete(self) -> bool:
        for sentinel in self.sentinels:
            words = ask(sentinel.port, "SENTINEL", "MASTER", SERVICE) or []
            about = dict(zip(words[::2], words[1::2], strict=True))
            if (about.get("num-slaves"), about.get("num-other-sentinels")) != ("2", "2"):
                return False
        return all(
            ask(server.port, "INFO", "replication")["master_link_status"] == "up"
            for server in self.servers[1:]
        )

    @property
    def primary(self) -> RedisServer:
        """The server that most sentinels name; the latest, if none answers."""
        ports = [
            int(named[1])
            for each in self.sentinels
            if (named := ask(each.port, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE))
        ]
        if ports:
            port = max(ports, key=ports.count)
            self._primary = next(server for server in self.servers if server.port == port)
        return self._primary

    def until_another(self, than: RedisServer) -> RedisServer:
        """Wait until another server is the primary, and says so itself."""
        self.until(lambda: self.primary is not than and ask(self.primary.port, "ROLE")[0] == "master")
        return self.primary

    def fail_over(self) -> RedisServer:
        """Have the sentinels promote a replica of a primary that is well."""
        before = self.primary
        assert ask(self.sentinels[0].port, "SENTINEL", "FAILOVER", SERVICE) is not None
        return self.until_another(before)

    def until(self, condition: Callable[[], bool], seconds: float = 30.0) -> None:
        """Wait for a condition."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise RuntimeError("the sentinels did not come to agree in time")
            time.sleep(0.05)

    def stop(self) -> None:
        """End all, and remove their folders."""
        for each in (*self.sentinels, *self.servers):
            if isinstance(each, RedisServer) and each.process is not None:
                each.thaw()
            each.stop()


def ask(port: int, *words: str) -> Any:
    """Put a command to a server of loopback; None if it gives no answer."""
    with redis.Redis(port=port, protocol=2, decode_responses=True, socket_timeout=2) as client:
        try:
            return client.execute_command(*words)
        except (TimeoutError, redis.RedisError, OSError):
            return None
