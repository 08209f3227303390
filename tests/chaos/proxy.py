"""A TCP proxy between a node and Redis that can be slow, swallow everything, or break off."""

from __future__ import annotations

import asyncio
import contextlib

CHUNK = 65536


class Proxy:
    """Forwards to ``target`` on loopback. ``delay`` (s) is added to each direction; see `block`."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.delay = 0.0
        self.port = 0
        self._open = asyncio.Event()
        self._open.set()
        self._server: asyncio.Server | None = None
        self._pairs: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen on a free port of loopback."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and end every connection."""
        if self._server is not None:
            self._server.close()
        self.cut()
        await asyncio.gather(*self._pairs, return_exceptions=True)

    def block(self) -> None:
        """Turn into a black hole: connections stand, new ones are accepted, not a byte gets through."""
        self._open.clear()

    def unblock(self, *, resume: bool) -> None:
        """End the black hole: what was held up arrives late (``resume``), or its connections are lost."""
        if not resume:
            self.cut()
        self._open.set()

    def cut(self) -> None:
        """End every connection."""
        for pair in self._pairs:
            pair.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pairs.add(task)
        far: asyncio.StreamWriter | None = None
        try:
            await self._open.wait()
            far_reader, far = await asyncio.open_connection("127.0.0.1", self.target)
            ways = [
                asyncio.create_task(self._forward(reader, far)),
                asyncio.create_task(self._forward(far_reader, writer)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # both ends learn of it by losing their connections
        finally:
            self._pairs.discard(task)
            for each in (writer, far):
                if each is not None:
                    each.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                if self.delay:
                    await asyncio.sleep(self.delay)
                if not self._open.is_set():
                    await self._open.wait()
                writer.write(data)
                await writer.drain()
