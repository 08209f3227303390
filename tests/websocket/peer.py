"""A client that sends exactly what it is told to, byte by byte, and a server for it."""

import asyncio
import base64
import contextlib
import socket
import struct
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, ClassVar, Self, TypeVar

import psutil
import pytest
from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream
from tornado.testing import bind_unused_port
from tornado.web import Application

from eclipse_ws.websocket import Stats, WireHandler, opening

T = TypeVar("T")
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
KEY = base64.b64encode(b"sixteen bytes it").decode()
WAIT = 10.0
"""Seconds after which something that must happen counts as missing."""
stats = Stats()
"""What the sockets of all tests count."""


def client_frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = b"\x37\xfa\x21\x3d",
    length: bytes | None = None,
) -> bytes:
    """A client's frame, wrong in any requested way; `length` is the length in its header."""
    if length is None:
        if len(payload) < 126:
            length = bytes((len(payload),))
        elif len(payload) < 65536:
            length = struct.pack("!BH", 126, len(payload))
        else:
            length = struct.pack("!BQ", 127, len(payload))
    first = bytes(((0x80 if fin else 0) | rsv << 4 | opcode,))
    if mask is None:
        return first + length + payload
    masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    return first + bytes((length[0] | 0x80,)) + length[1:] + mask + masked


def close_frame(code: int | None = None, reason: bytes = b"") -> bytes:
    """A client's close frame."""
    return client_frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason)


class Peer:
    """One end of a socket. `frame` reads what came, `send` says anything at all."""

    alive: ClassVar[list["Peer"]] = []
    """Those of the running test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.alive.append(self)
        self.reader = reader
        self.writer = writer
        self.head = b""

    @classmethod
    async def connect(cls, port: int, *, window: int = 0, ssl: Any = None) -> Self:
        """Connect; `window` is the kernel's receive buffer in bytes, 0 the usual one."""
        raw = socket.socket()
        if window:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", port))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        limit = 1 << 16 if window else 1 << 24
        hostname = "localhost" if ssl else None
        reader, writer = await asyncio.open_connection(
            sock=raw, ssl=ssl, server_hostname=hostname, limit=limit
        )
        return cls(reader, writer)

    @classmethod
    async def open(
        cls,
        port: int,
        path: str = "/",
        *,
        then: bytes = b"",
        window: int = 0,
        ssl: Any = None,
        **headers: str,
    ) -> Self:
        """Connect and upgrade; `then` goes out in the same write as the upgrade."""
        peer = await cls.connect(port, window=window, ssl=ssl)
        peer.send(upgrade(path, **headers) + then)
        await peer.handshake()
        assert b" 101 " in peer.head, peer.head
        return peer

    async def handshake(self) -> bytes:
        """Read the answer to an upgrade, headers and all."""
        async with asyncio.timeout(WAIT):
            self.head = await self.reader.readuntil(b"\r\n\r\n")
        return self.head

    def send(self, data: bytes) -> None:
        """Write these bytes."""
        self.writer.write(data)

    async def trickle(self, data: bytes) -> None:
        """Write these bytes one by one, each in a packet of its own."""
        for index in range(len(data)):
            self.writer.write(data[index : index + 1])
            await asyncio.sleep(0)

    async def frame(self) -> tuple[int, bytes]:
        """The next frame: its first byte and its payload."""
        async with asyncio.timeout(WAIT):
            first, size = await self.reader.readexactly(2)
            assert size < 128, "a server's frame is masked"
            if size == 126:
                size = int.from_bytes(await self.reader.readexactly(2), "big")
            elif size == 127:
                size = int.from_bytes(await self.reader.readexactly(8), "big")
            return first, await self.reader.readexactly(size)

    async def text(self) -> str:
        """The next frame, which must be a text."""
        first, payload = await self.frame()
        assert first == 0x80 | TEXT, (first, payload)
        return payload.decode()

    async def closed(self) -> tuple[int | None, str]:
        """The code and reason of the next frame, which must be a close; then the end of the stream."""
        first, payload = await self.frame()
        assert first == 0x80 | CLOSE, (first, payload)
        await self.gone()
        if not payload:
            return None, ""
        return int.from_bytes(payload[:2], "big"), payload[2:].decode()

    async def gone(self) -> None:
        """Check that nothing more comes."""
        async with asyncio.timeout(WAIT):
            with contextlib.suppress(ConnectionError):
                rest = await self.reader.read()
                assert rest == b"", rest
        self.drop()

    def drop(self) -> None:
        """Close without a close frame."""
        self.writer.close()

    async def forget(self) -> None:
        """Close at once, and wait until that is done."""
        # Python 3.11.2 (Debian 12) finds nothing to abort in a TLS transport that was closed twice.
        with contextlib.suppress(AttributeError):
            self.writer.transport.abort()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    def reset(self) -> None:
        """Reset, so that the server's next call fails."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def upgrade(path: str = "/", version: str = "HTTP/1.1", **headers: str | None) -> bytes:
    """An upgrade request; a header given as None is left out, and `_` in a name stands for `-`."""
    wanted: dict[str, str | None] = {
        "host": "localhost",
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-key": KEY,
        "sec-websocket-version": "13",
    }
    wanted |= {name.replace("_", "-").lower(): value for name, value in headers.items()}
    lines = [
        f"GET {path} {version}",
        *(f"{name}: {value}" for name, value in wanted.items() if value is not None),
    ]
    return "\r\n".join([*lines, "", ""]).encode()


class Recorder(WireHandler):
    """Echoes, and keeps what happened to it; `sessions` are those of the server under test, oldest first."""

    sessions: list["Recorder"]

    def initialize(self) -> None:
        """Start empty."""
        self.events: list[Any] = []
        self.over = asyncio.Event()

    def open(self, *args: str, **kwargs: str) -> Any:
        """Be known to the test."""
        self.sessions.append(self)
        self.events.append("open")

    def on_message(self, message: str | bytes) -> Any:
        """Keep and echo."""
        self.events.append(message)
        self.write_message(message, binary=isinstance(message, bytes))

    def on_close(self) -> None:
        """Keep what the session ended with."""
        self.events.append(("closed", self.close_code, self.close_reason))
        self.over.set()

    async def ended(self) -> tuple[int | None, str | None]:
        """Wait for on_close(); the code and the reason that it saw."""
        async with asyncio.timeout(WAIT):
            await self.over.wait()
        assert sum(isinstance(event, tuple) for event in self.events) == 1, self.events
        return self.close_code, self.close_reason


async def until(condition: Callable[[], Any]) -> None:
    """Let the loop run until a condition holds, which must happen."""
    async with asyncio.timeout(WAIT):
        while not condition():  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(0)


class Clock:
    """The running loop's clock, which a test may move forward rather than wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        real, self._ahead = loop.time, 0.0
        monkeypatch.setattr(loop, "time", lambda: real() + self._ahead)

    async def skip(self, seconds: float) -> None:
        """Put it forward, and let what is due happen. A test may skip less than a minute: its own bound."""
        self._ahead += seconds
        for _ in range(3):
            await asyncio.sleep(0)


class Served:
    """A server that runs."""

    def __init__(self, port: int, sessions: list[Any]) -> None:
        self.port = port
        self.sessions = sessions

    async def first(self) -> Any:
        """The first session, as soon as there is one."""
        await until(lambda: bool(self.sessions))
        return self.sessions[0]


class WholeUpgrades(HTTPServer):
    """A server that gives a plain upgrade that came whole to the handler, and everything else to Tornado."""

    handler: type[WireHandler]
    taken = 0
    """How many upgrades it has given to the handler, over all tests."""

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        """Look at what the peer has sent as soon as there is anything."""
        raw = stream.socket.dup()
        stream.close()
        loop = asyncio.get_running_loop()
        loop.add_reader(raw, self._look, raw, address)

    def _look(self, raw: socket.socket, address: Any) -> None:
        asyncio.get_running_loop().remove_reader(raw)
        head = b""
        with contextlib.suppress(OSError):
            head = raw.recv(65536, socket.MSG_PEEK)
        request = opening.parse(head, address[0])
        application = self.request_callback
        assert isinstance(application, Application)
        handler = None if request is None else self.handler.for_upgrade(application, request)
        if handler is None:
            super().handle_stream(IOStream(raw), address)
            return
        raw.recv(len(head))
        handler.take(raw)
        WholeUpgrades.taken += 1


ways: list[type[HTTPServer]] = [HTTPServer]
"""The server that `serving` starts: the last one."""


@contextlib.asynccontextmanager
async def serving(
    handler: type[Recorder] = Recorder, *, ssl: Any = None, **settings: Any
) -> AsyncIterator[Served]:
    """Serve a handler on every path; afterwards end what is still open, and check that nothing is left."""
    asyncio.get_running_loop().slow_callback_duration = WAIT  # a busy machine is not an error
    sessions: list[Any] = []
    kind = type(handler.__name__, (handler,), {"sessions": sessions})
    listening, port = bind_unused_port()
    settings.setdefault("wire_stats", stats)
    application = Application([("/.*", kind)], log_function=lambda _: None, **settings)
    server = HTTPServer(application, ssl_options=ssl)
    if ssl is None and kind.get_compression_options is WireHandler.get_compression_options:
        server = ways[-1](application)
        server.handler = kind  # type: ignore[attr-defined]
    server.add_socket(listening)
    try:
        yield Served(port, sessions)
    finally:
        server.stop()
        while Peer.alive:
            await Peer.alive.pop().forget()
        for session in sessions:
            if not session.over.is_set():
                session.wire.abort()
                await session.ended()
        await server.close_all_connections()
        for _ in range(3):  # what was cancelled has to notice
            await asyncio.sleep(0)
    assert stats.sockets == 0


def open_descriptors() -> int:
    """How many files this process has open."""
    return int(psutil.Process().num_fds())


def run(coroutine: Coroutine[Any, Any, T], debug: bool = False) -> T:
    """Run a coroutine on a new loop, without changing the other tests' loop."""
    with asyncio.Runner(debug=debug, loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(coroutine)


async def one_session(server: Any, number: int, ssl: Any = None) -> weakref.ref[Any]:
    """Open and close one, in a way that depends on the number; its socket, weakly."""
    peer = await Peer.open(server.port, ssl=ssl)
    session = server.sessions.pop()
    ref = weakref.ref(session.wire)
    if number % 4 == 0:
        peer.send(close_frame(1000))
        await peer.closed()
    elif number % 4 == 1:
        peer.drop()
    elif number % 4 == 2:
        peer.reset()
    else:
        session.close(1001)
        await peer.frame()
        peer.send(close_frame(1001))
        await peer.gone()
    await session.ended()
    await Peer.alive.pop().forget()
    return ref
