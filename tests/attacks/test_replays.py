"""Replays under fire: whatever ends its connections, who resumes gets the chat's history, each event once.

Readers with small buffers, some of them slow, are cut off, kicked, interrupted and sent away at random while
events of all sizes are published, and come back with their cursor, over Redis to either node.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from eclipse_ws.protocol import CloseCode, Cursor, parse_event
from eclipse_ws.server.server import Server
from eclipse_ws.sessions import replay
from tests.client import running, token, until
from tests.servers import RedisServer

SMALL: dict[str, Any] = {"queue_bytes": 16384, "history_events": 5000, "config.settings.KEPT_EVENT": 1 << 14}
ACTS = 300


class Reader:
    """A client that comes back with its cursor after every end, and notes what it gets."""

    def __init__(self, chat: str, servers: Sequence[Server], chance: random.Random, pause: float) -> None:
        self.chat, self.servers, self.chance, self.pause = chat, servers, chance, pause
        self.cursor = ""
        self.had: list[str] = []
        self.resumed = 0
        self.socket: ClientConnection | None = None

    async def run(self) -> None:
        """Connect, again and again."""
        while True:
            with suppress(ConnectionClosed, OSError, EOFError):
                await self._visit()
            self.socket = None
            await asyncio.sleep(0.01)

    async def _visit(self) -> None:
        port = self.chance.choice(self.servers).port
        narrow = socket.socket()
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        narrow.setblocking(False)
        await asyncio.get_running_loop().sock_connect(narrow, ("127.0.0.1", port))
        uri = f"ws://127.0.0.1:{port}/ws?token={token(self.chat)}"
        uri += f"&cursor={quote(self.cursor)}" if self.cursor else ""
        options: dict[str, Any] = {"max_queue": 1, "ping_interval": None, "close_timeout": 0.2}
        async with connect(uri, sock=narrow, compression=None, proxy=None, **options) as self.socket:
            async for text in self.socket:
                event = json.loads(text)
                if event["type"] == "connected" and self.cursor:
                    assert event["recovered"] is True, event
                    self.resumed += 1
                if event["type"] == "message":
                    self.had.append(event["data"]["id"])
                self.cursor = event["cursor"]
                if self.pause and self.chance.random() < 0.3:
                    await asyncio.sleep(self.pause)


async def battle(servers: Sequence[Server], seed: int) -> None:
    """Run the readers through it, and compare what they received with the history."""
    chance = random.Random(seed)
    chat = f"battle-{chance.random()}"
    for server in servers:
        for listening in server._http._sockets.values():
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # its sockets inherit it
    readers = [Reader(chat, servers, chance, pause) for pause in (0, 0, 0.002, 0.02)]
    running_ = [asyncio.create_task(reader.run()) for reader in readers]
    try:
        await until(lambda: all(reader.cursor for reader in readers))
        published: list[str] = []
        for _ in range(ACTS):
            await act(chance, chat, servers, readers, published)
        for reader in readers:
            reader.pause = 0
        await until(lambda: all(len(reader.had) >= len(published) for reader in readers), "all of it")
        delivery = servers[0].delivery
        end = delivery.position(chat)
        assert end is not None
        kept = await delivery.resume(chat, Cursor(end.epoch, 0))
        assert kept is not None
        assert [json.loads(event.body)["data"]["id"] for event in kept] == published
        for reader in readers:
            assert reader.had == published
            assert reader.resumed
        assert not any(task.done() for task in running_)
    finally:
        for task in running_:
            task.cancel()
        outcomes = await asyncio.gather(*running_, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes), outcomes
    for server in servers:
        await until(lambda server=server: not (server.node.sessions or server.hub.chats), "nobody")  # type: ignore[misc]
        assert (server.hub.sessions, server.hub._replaying) == (0, 0)


async def act(
    chance: random.Random,
    chat: str,
    servers: Sequence[Server],
    readers: Sequence[Reader],
    published: list[str],
) -> None:
    """One thing that happens: mostly an event."""
    server, what = chance.choice(servers), chance.random()
    if what < 0.75:
        number, size = str(len(published)), chance.choice([10, 200, 3000, 9000])
        body = {"type": "message", "data": {"id": number, "content": "x" * size}}
        await server.delivery.publish(chat, parse_event(json.dumps(body).encode()))
        published.append(number)
    elif what < 0.8:
        reader = chance.choice(readers)
        if reader.socket is not None:
            reader.socket.transport.abort()
    elif what < 0.84:
        for session in list(server.hub.members())[:1]:
            session.end(chance.choice([CloseCode.KICKED, CloseCode.TOO_SLOW]))
    elif what < 0.86:
        server.hub.interrupt(chat)
    elif what < 0.87:
        for each in server._sessions():
            each.retire()
    else:
        await asyncio.sleep(chance.choice([0, 0.001, 0.03]))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.gen_test(timeout=30)
async def test_a_resumed_client_has_everything_once(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On one node."""
    monkeypatch.setattr(replay, "PATIENCE", 0.3)
    async with running(**SMALL) as server:
        await battle([server], seed)


@pytest.mark.gen_test(timeout=30)
async def test_a_client_resumed_elsewhere_has_everything_once(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On two nodes."""
    monkeypatch.setattr(replay, "PATIENCE", 0.3)
    given = {**SMALL, "backend": "redis", "redis_url": redis_server.url}
    async with running(**given) as one, running(**given) as other:
        await battle([one, other], 7)
