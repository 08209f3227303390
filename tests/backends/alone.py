"""Redis backends without delivery above them: what they report is recorded, and nothing is repeated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import redis.asyncio

from eclipse_ws.backends.base import Position
from eclipse_ws.backends.redis import RedisBackend
from tests.backends.harness import until
from tests.conftest import make_settings
from tests.servers import RedisServer


class Told:
    """A listener that records its calls."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.received: list[tuple[str, bytes]] = []
        self.notes: list[bytes] = []
        self.states: list[str] = []

    def deliver(self, chat_id: str, event: Any) -> None:
        """See `Listener`."""
        self.events.append(event)

    def receive(self, chat_id: str, raw: bytes) -> None:
        """See `Listener`."""
        self.received.append((chat_id, raw))

    def notice(self, note: bytes) -> None:
        """See `Listener`."""
        self.notes.append(note)

    def lost(self) -> None:
        """See `Listener`."""
        self.states.append("lost")

    def restored(self) -> None:
        """See `Listener`."""
        self.states.append("restored")


class Alone:
    """Backends on one server, and the application's own client."""

    def __init__(self, url: str, **given: Any) -> None:
        self.url = url
        self.given = given
        self.client: Any = redis.asyncio.Redis.from_url(url, socket_timeout=10, protocol=2)
        self.backends: list[RedisBackend] = []

    async def start(self, **given: Any) -> tuple[RedisBackend, Told]:
        """One more backend, started, and its listener."""
        settings = make_settings(backend="redis", **{"redis_url": self.url, **self.given, **given})
        backend, told = RedisBackend(settings), Told()
        self.backends.append(backend)
        await backend.start(told)
        return backend, told

    async def kill(self, backend: RedisBackend, role: str = "subscriber") -> None:
        """Cut one of a backend's connections, as a network would."""
        writer = getattr(backend._connections, role)._connection._writer
        host, port = writer.get_extra_info("sockname")[:2]
        assert await self.client.client_kill_filter(addr=f"{host}:{port}") == 1

    async def close(self) -> None:
        """Close all, and check that no task is left."""
        for backend in self.backends:
            await backend.close()
        await self.client.aclose()
        await until(lambda: len(asyncio.all_tasks()) == 1, "the end of all tasks")


@asynccontextmanager
async def alone(server: RedisServer, **given: Any) -> AsyncIterator[Alone]:
    """Backends on a server, all closed in the end."""
    made = Alone(server.url, **given)
    try:
        yield made
    finally:
        await made.close()


async def until_up(backend: RedisBackend) -> None:
    """Wait until a backend is up."""
    await until(lambda: backend.health.state == "up", "the backend")


async def position(backend: RedisBackend, chat: str) -> Position:
    """Where a chat is, as a subscription reports it."""
    return (await backend.subscribe(chat)).position


def guards(backend: RedisBackend, chat: str) -> tuple[str, str]:
    """The key of a chat's guards, and the field of this backend's own."""
    return f"eclipse:{{{chat}}}:meta", f"guard:{backend.address}"
