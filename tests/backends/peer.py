"""A stand-in for Redis, which does with a connection what a test says."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from eclipse_ws.backends.redis.connection import CommandConnection, SubscriberConnection, connection
from tests.backends.harness import until

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Peer:
    """Greets as Redis does, then does with the connection what a test says."""

    def __init__(self, talk: Talk, *, greet: bool = True, tls: ssl.SSLContext | None = None) -> None:
        self._talk = talk
        self._greet = greet
        self._tls = tls
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None
        self.port = 0

    async def __aenter__(self) -> Peer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()
        await self._server.wait_closed()
        await until(lambda: len(asyncio.all_tasks()) == 1, "the end of all tasks")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            if self._greet:
                for _ in range(3):  # CLIENT SETNAME, and twice CLIENT SETINFO
                    await command(reader)
                    writer.write(b"+OK\r\n")
            await self._talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass

    def commands(self, timeout: float = 0.3) -> CommandConnection:
        """A connection to this peer, for commands."""
        return CommandConnection(connection(f"redis://127.0.0.1:{self.port}", timeout), timeout)

    def subscriber(self, on_push: Any, on_refused: Any = None) -> SubscriberConnection:
        """A connection to this peer, for subscriptions."""
        made = connection(f"redis://127.0.0.1:{self.port}", 0.3)
        return SubscriberConnection(made, 0.3, on_push, on_refused)


async def command(reader: asyncio.StreamReader) -> list[bytes]:
    """Read one command."""
    words = []
    for _ in range(int((await reader.readuntil(b"\r\n"))[1:])):
        size = int((await reader.readuntil(b"\r\n"))[1:])
        words.append((await reader.readexactly(size + 2))[:-2])
    return words


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read everything and answer nothing."""
    while await reader.read(65536):
        pass


async def run(current: CommandConnection | SubscriberConnection) -> asyncio.Task[str]:
    """Connect, and let it run."""
    await current.connect()
    return asyncio.create_task(current.run())
