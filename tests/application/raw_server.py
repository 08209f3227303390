"""Servers of bare bytes, for what no real server answers."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from typing import Any

from eclipse_ws.application.http import HttpApi
from tests.application.conftest import CONTENT, make_settings

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


BODY = json.dumps(
    {
        "success": True,
        "message": {
            "id": "m",
            "content": CONTENT,
            "role": "USER",
            "createdAt": "2026-01-01T00:00:00.000Z",
            "sender": {"id": "u"},
        },
    }
).encode()
OK = b"HTTP/1.1 200 OK\r\n"
SIZED = b"%bContent-Length: %d\r\n\r\n%b" % (OK, len(BODY), BODY)


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """One request, head and body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head)
    return head + (await reader.readexactly(int(length[1])) if length else b"")


class Peer:
    """Answers each request with the next of its answers, in the given pieces; then closes, if it is told to.

    ``requests`` has what came, by connection.
    """

    def __init__(self, *answers: list[bytes] | bytes, closes: bool = False) -> None:
        self._answers = list(answers)
        self._closes = closes
        self.requests: list[list[bytes]] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection."""
        mine: list[bytes] = []
        self.requests.append(mine)
        while True:
            mine.append(await read_request(reader))
            answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
            for piece in [answer] if isinstance(answer, bytes) else answer:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if self._closes:
                return


@asynccontextmanager
async def talking(peer: Peer, **fields: Any) -> AsyncIterator[HttpApi]:
    """An HttpApi whose application is this peer."""
    async with raw_server(peer) as url:
        api = HttpApi(make_settings(next_api_url=url, **fields))
        await api.start()
        try:
            yield api
        finally:
            await api.close()
