"""The servers of a contest: how a node is started, what its clients do, and how a message is published."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import centrifugo
from benchmarks.contests.base import Client
from benchmarks.contests.clients import CHAT, CentrifugoClient, EclipseClient, SocketIOClient
from benchmarks.processes import SERVER_CORE, Process, command
from benchmarks.servers import INTERNAL_SECRET, JWT_SECRET, PEERS, environment, install_peers

DRAIN = "15"
"""What the profile `prod` has; `bench` would close all sessions at once."""
NOWHERE = 9
"""The chat API's port; the contests don't save anything."""


@dataclass(frozen=True)
class Contestant:
    """One server."""

    name: str
    start: Callable[[int, Path, str], Process]
    """A node, by its port, a folder for its files, and the URL of Redis; "": in memory."""
    client: type[Client]
    request: Callable[[int], tuple[str, dict[str, str], object]]
    """Path, header and body that publish a message with a number."""

    async def publish(self, port: int, number: int) -> bool:
        """Publish a message on a node; whether it was confirmed."""
        path, header, content = self.request(number)
        body = json.dumps(content).encode()
        lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Connection: close"]
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in header.items()]
        try:
            async with asyncio.timeout(10):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write("\r\n".join([*lines, "", ""]).encode() + body)
                answer = await reader.read()
                writer.close()
        except (OSError, TimeoutError):
            return False
        return answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 202")) and b'"error"' not in answer


def _ours(port: int, folder: Path, redis_url: str) -> Process:
    argv = [*command(), "run", "--profile", "bench", "--port", str(port)]
    env = environment(NOWHERE) | {"REDIS_URL": redis_url, "ECLIPSE_DRAIN_SECONDS": DRAIN}
    return Process(argv, port, SERVER_CORE, env, folder)


def _our_request(number: int) -> tuple[str, dict[str, str], object]:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    event = {"type": "tick", "data": {"id": f"t{number}", "n": number}, "timestamp": now}
    return f"/api/chats/{CHAT}/events", {"X-Internal-Secret": INTERNAL_SECRET}, event


def _centrifugo_request(number: int) -> tuple[str, dict[str, str], object]:
    publication = {"channel": f"chat:{CHAT}", "data": {"n": number}}
    return "/api/publish", {"X-API-Key": INTERNAL_SECRET}, publication


def _socketio(port: int, folder: Path, redis_url: str) -> Process:
    env = {"JWT_SECRET": JWT_SECRET, "INTERNAL_API_SECRET": INTERNAL_SECRET, "NODE_ENV": "production"}
    env |= {"PORT": str(port), "REDIS_URL": redis_url}
    return Process([install_peers(), str(PEERS / "recovery.mjs")], port, SERVER_CORE, env)


def _socketio_request(number: int) -> tuple[str, dict[str, str], object]:
    return "/publish", {"X-Internal-Secret": INTERNAL_SECRET}, {"n": number}


CONTESTANTS = (
    Contestant("eclipse-ws", _ours, EclipseClient, _our_request),
    Contestant(
        "Centrifugo, history and recovery",
        lambda port, folder, redis_url: centrifugo.start(port, folder, redis_url, history=True),
        CentrifugoClient,
        _centrifugo_request,
    ),
    Contestant("Socket.IO, connection state recovery", _socketio, SocketIOClient, _socketio_request),
)
