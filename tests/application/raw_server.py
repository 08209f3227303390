"""Servers of bare bytes, for what no real server answers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from typing import Any

Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def raw_server(handle: Handle, **options: Any) -> AsyncIterator[str]:
    """A server of bare bytes, which closes when ``handle`` is done; yields its URL."""
    tasks: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await handle(reader, writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.ensure_future(serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, **options)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        # What the client connected last is in the kernel's queue; a few turns of the loop accept it.
        for _ in range(10):
            await asyncio.sleep(0)
        server.close()
        await asyncio.gather(*tasks)


@contextmanager
def deaf_server(host: str) -> Iterator[int]:
    """A port whose queue of connections is full: who connects gets no answer. Yields its number."""
    with ExitStack() as opened:
        listening = opened.enter_context(socket.socket())
        listening.bind((host, 0))
        listening.listen(0)
        for _ in range(3):
            filler = opened.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listening.getsockname())
        yield listening.getsockname()[1]
