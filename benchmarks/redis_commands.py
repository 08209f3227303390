"""Counts the commands that a Redis server gets."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

LONGEST: Final = 1 << 26
"""Bytes of a command in the server's account of them."""


class Commands:
    """Counts them while it is open, by MONITOR; what a script calls isn't counted::

    async with Commands(port) as commands:
        ...
        print(commands.count)
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.count = 0

    async def __aenter__(self) -> Commands:
        reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=LONGEST)
        self._writer.write(b"MONITOR\r\n")
        await reader.readline()
        self._reading = asyncio.create_task(self._read(reader))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reading
        self._writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while said := await reader.readline():
            self.count += b" lua]" not in said.partition(b'"')[0]


async def memory(port: int) -> int:
    """Bytes of the server's data."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"INFO memory\r\n")
    text = await reader.readuntil(b"used_memory_dataset:")
    value = await reader.readline() if text else b"0"
    writer.close()
    return int(value)
