"""A stand-in for a Redis provider: a proxy that refuses, fails over, delays, drops everything, or cuts."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

CHUNK = 65536
SETUP = frozenset([b"AUTH", b"HELLO", b"CLIENT", b"SELECT"])
"""What clients say before their first command."""
SUBSCRIBING = frozenset([b"SUBSCRIBE", b"PSUBSCRIBE", b"SSUBSCRIBE"])


def end_of(data: bytes, at: int = 0) -> int:
    """Where the RESP value at ``at``, a command or an answer, ends; -1 if part of it is missing."""
    line = data.find(b"\r\n", at)
    if line < 0:
        return -1
    kind, end = data[at : at + 1], line + 2
    if kind in b"$=!":
        size = int(data[at + 1 : line])
        end += size + 2 if size >= 0 else 0  # a null has the size -1, and nothing follows
        return end if end <= len(data) else -1
    if kind in b"*~>%":
        for _ in range(int(data[at + 1 : line]) * (2 if kind == b"%" else 1)):
            if (end := end_of(data, end)) < 0:
                return -1
    return end


def words_of(command: bytes) -> list[bytes]:
    """The words of one command."""
    words, at = [], command.index(b"\r\n") + 2
    while at < len(command):
        end = end_of(command, at)
        words.append(command[command.index(b"\r\n", at) + 2 : end - 2])
        at = end
    return words


def put(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Write, unless the connection has ended: asyncio would log each further write."""
    if not writer.is_closing():
        writer.write(data)


class _Client:
    """One client's connection: what it is refused waits until Redis has answered what came before."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.subscribed = False  # then Redis speaks unasked, and nothing waits for it
        self._due: deque[bytes | None] = deque()  # an answer of our own, or None: Redis's next one

    def forwarded(self) -> None:
        """Note that Redis has been asked something."""
        if not self.subscribed:
            self._due.append(None)

    def refuse(self, error: bytes) -> None:
        """Answer for Redis."""
        if self.subscribed:
            put(self.writer, error)
        else:
            self._due.append(error)
            self._flush()

    def answer(self, value: bytes) -> None:
        """Pass an answer of Redis's on."""
        if self._due:
            self._due.popleft()
        put(self.writer, value)
        self._flush()

    def _flush(self) -> None:
        while self._due and (ours := self._due[0]) is not None:
            self._due.popleft()
            put(self.writer, ours)


class Provider:
    """Forwards to the Redis on the port ``target`` of loopback, whose address clients know as this one's.

    A new ``target`` is for new connections: those that stand stay where they are, as when a name
    points to another server after a failover. ``delay`` (s) is added in each direction.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.delay = 0.0
        self.port = 0
        self.refused = 0
        """How many commands were refused."""
        self.accepted = 0
        """How many connections were opened."""
        self._error = b""
        self._only: frozenset[bytes] = frozenset()
        self._setup = False
        self._full = b""
        self._open = asyncio.Event()
        self._open.set()
        self._server: asyncio.Server | None = None
        self._pairs: set[asyncio.Task[None]] = set()

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._pairs)

    @property
    def url(self) -> str:
        """Its address for REDIS_URL."""
        return f"redis://127.0.0.1:{self.port}"

    async def start(self) -> Provider:
        """Listen on a free port of loopback."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """Stop listening and end every connection."""
        if self._server is not None:
            self._server.close()
        self.cut()
        await asyncio.gather(*self._pairs, return_exceptions=True)

    def refuse(self, error: str, *only: str, setup: bool = False) -> None:
        """Answer commands with this error, such as ``ERR max requests limit exceeded``, until `accept`.

        All of them, or ``only`` those of these names; those of `SETUP` if they are named, or with ``setup``.
        """
        self._error = b"-%b\r\n" % error.encode()
        self._only = frozenset(name.upper().encode() for name in only)
        self._setup = setup

    def turn_away(self, error: str) -> None:
        """Answer new connections with this error, and close them, until `accept`."""
        self._full = b"-%b\r\n" % error.encode()

    def accept(self) -> None:
        """End what `refuse` and `turn_away` began."""
        self._error = self._full = b""

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
        self.accepted += 1
        if self._full:
            writer.write(self._full)
            writer.close()
            return
        self._pairs.add(task)
        far: asyncio.StreamWriter | None = None
        try:
            await self._open.wait()
            far_reader, far = await asyncio.open_connection("127.0.0.1", self.target)
            client = _Client(writer)
            ways = [
                asyncio.create_task(self._ask(reader, far, client)),
                asyncio.create_task(self._answer(far_reader, client)),
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

    async def _ask(self, reader: asyncio.StreamReader, far: asyncio.StreamWriter, client: _Client) -> None:
        rest = b""
        with contextlib.suppress(OSError):
            while data := await self._read(reader):
                data, at = rest + data, 0
                while (end := end_of(data, at)) >= 0:
                    command = data[at:end]
                    name = words_of(command)[0].upper()
                    if self._refuses(name):
                        self.refused += 1
                        client.refuse(self._error)
                    else:
                        client.subscribed |= name in SUBSCRIBING
                        client.forwarded()
                        put(far, command)
                    at = end
                rest = data[at:]
                await far.drain()

    async def _answer(self, reader: asyncio.StreamReader, client: _Client) -> None:
        rest = b""
        with contextlib.suppress(OSError):
            while data := await self._read(reader):
                data, at = rest + data, 0
                while (end := end_of(data, at)) >= 0:
                    client.answer(data[at:end])
                    at = end
                rest = data[at:]
                await client.writer.drain()

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        data = await reader.read(CHUNK)
        if data and self.delay:
            await asyncio.sleep(self.delay)
        if data and not self._open.is_set():
            await self._open.wait()
        return data

    def _refuses(self, name: bytes) -> bool:
        if not self._error or (name in SETUP and not self._setup and name not in self._only):
            return False
        return not self._only or name in self._only


class Pipe(Provider):
    """The same for any protocol: it knows no commands, and can't refuse any."""

    async def _ask(self, reader: asyncio.StreamReader, far: asyncio.StreamWriter, client: _Client) -> None:
        await self._copy(reader, far)

    async def _answer(self, reader: asyncio.StreamReader, client: _Client) -> None:
        await self._copy(reader, client.writer)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await self._read(reader):
                put(writer, data)
                await writer.drain()
