"""`python -m tests.attacks.kills`: sockets killed at random in every phase of a connection's life.

A phase brings one connection to a point and leaves it there; then the socket is closed, reset, or half
closed, at once or a moment later. When all are gone the server must hold what it held before: no task, no
descriptor, no session, no entry in any table.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import random
import socket
import ssl
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import structlog

from eclipse_ws.server.server import Server
from tests.client import leaving_nothing, running, token, until
from tests.conftest import SECRET
from tests.websocket.peer import CLOSE, CONTINUATION, KEY, TEXT, client_frame, close_frame

AT_ONCE: Final = 40
"""Connections that are open at the same time."""
LATEST: Final = 0.004
"""Seconds from the end of a phase to the kill, at most."""
ADDRESS: Final = "X-Client-Address"
ADDRESS_OF_ALL: Final = "203.0.113.7"
MESSAGE: Final = b'{"type":"message","content":"hello","role":"USER","clientMessageId":"%d"}'
SETTINGS: Final[dict[str, Any]] = {
    "client_address_header": ADDRESS,
    "max_sessions_per_address": 1_000_000,
    "server.server.CLOSE_TIMEOUT": 0.3,
    "server.listener.HANDSHAKE_TIMEOUT": 2,
    "server.listener.IDLE_TIMEOUT": 0.5,
    "history_seconds": 1,
    "command_rate": 10,
}

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def _head(line: str, *more: str) -> bytes:
    return "\r\n".join((line, "Host: 127.0.0.1", f"{ADDRESS}: {ADDRESS_OF_ALL}", *more, "", "")).encode()


def _upgrade(number: int, jwt: str | None = None) -> bytes:
    jwt = token(f"k{number % 7}", f"u{number}") if jwt is None else jwt
    return _head(
        f"GET /ws?token={jwt} HTTP/1.1",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {KEY}",
    )


def _post(*more: str) -> bytes:
    return _head("POST /api/chats/c/events HTTP/1.1", f"X-Internal-Secret: {SECRET}", *more)


async def _greeted(stream: Stream, number: int) -> None:
    reader, writer = stream
    writer.write(_upgrade(number))
    await reader.readuntil(b'"connected"')


def _sends(*parts: bytes) -> Callable[[Stream, int], Awaitable[None]]:
    async def phase(stream: Stream, _: int) -> None:
        stream[1].write(b"".join(parts))

    return phase


def _upgrades(*parts: bytes) -> Callable[[Stream, int], Awaitable[None]]:
    """The upgrade and what follows it in one write; nothing is read."""

    async def phase(stream: Stream, number: int) -> None:
        stream[1].write(_upgrade(number) + b"".join(parts))

    return phase


def _says(*parts: bytes) -> Callable[[Stream, int], Awaitable[None]]:
    """What a greeted session sends."""

    async def phase(stream: Stream, number: int) -> None:
        await _greeted(stream, number)
        stream[1].write(b"".join(parts))

    return phase


async def _answered_upgrade(stream: Stream, number: int) -> None:
    stream[1].write(_upgrade(number))
    await stream[0].readuntil(b"\r\n\r\n")


async def _message(stream: Stream, number: int) -> None:
    await _greeted(stream, number)
    stream[1].write(client_frame(TEXT, MESSAGE % number))


async def _refused_token(stream: Stream, number: int) -> None:
    stream[1].write(_upgrade(number, "x"))
    await stream[0].readuntil(b"\x88")


async def _closed_by_us(stream: Stream, number: int) -> None:
    await _greeted(stream, number)
    stream[1].write(client_frame(TEXT, b"x", mask=None))
    await stream[0].readuntil(b"\x88")


PHASES: Final[dict[str, Callable[[Stream, int], Awaitable[None]]]] = {
    "connected": _sends(),
    "half a request line": _sends(b"GET /he"),
    "half of the headers": _sends(_head("GET /health HTTP/1.1")[:-20]),
    "half a body": _sends(_post("Content-Length: 100"), b'{"type":'),
    "half a chunk": _sends(_post("Transfer-Encoding: chunked"), b"40\r\n{"),
    "a body without the secret": _sends(
        _head("POST /api/chats/c/events HTTP/1.1", "Content-Length: 100"), b'{"type":'
    ),
    "an answer that is not read": _sends(_head("GET /health HTTP/1.1")),
    "answers that are not read": _sends(_head("GET /widget.js HTTP/1.1") * 30),
    "a publish in progress": _sends(_post("Content-Length: 16"), b'{"type":"note"}\n'),
    "half an upgrade": _sends(_upgrade(0, "x")[:90]),
    "an upgrade": _upgrades(),
    "an upgrade and a command": _upgrades(client_frame(TEXT, MESSAGE % 1)),
    "an upgrade and a close": _upgrades(close_frame(1000)),
    "an upgrade that is answered": _answered_upgrade,
    "greeted": _says(),
    "half a frame": _says(client_frame(TEXT, b"x" * 100)[:50]),
    "half a message": _says(client_frame(TEXT, b"x", fin=False), client_frame(CONTINUATION, b"y", fin=False)),
    "a command in progress": _message,
    "a flood": _says(client_frame(TEXT, b'{"type":"ping"}') * 200),
    "refused": _refused_token,
    "closed by the server": _closed_by_us,
    "closed by the client": _says(close_frame(1000)),
    "closed, and on": _says(close_frame(1000), client_frame(TEXT, b"x") * 50),
    "closed badly": _says(client_frame(CLOSE, b"\x03")),
}


async def _kill(stream: Stream, chance: random.Random) -> str:
    """End the connection in one of three ways; its name."""
    writer = stream[1]
    await asyncio.sleep(chance.choice((0, chance.uniform(0, LATEST))))
    way = chance.choice(("closed", "reset", "half closed"))
    raw = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        if raw is None:  # the server was first
            way = "gone"
        elif way == "reset":
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif way == "half closed" and writer.can_write_eof():
            writer.write_eof()
            await asyncio.sleep(LATEST)
    writer.transport.abort()
    return way


async def _life(
    port: int, number: int, name: str, context: ssl.SSLContext | None, chance: random.Random
) -> str:
    hostname = "localhost" if context else None
    try:
        stream = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=hostname)
    except OSError:
        return "refused"
    try:
        async with asyncio.timeout(5):
            await PHASES[name](stream, number)
    except (OSError, EOFError):
        return await _kill(stream, chance)
    except TimeoutError:
        stream[1].transport.abort()
        raise AssertionError(f"the phase {name!r} was not reached in 5 s") from None
    return await _kill(stream, chance)


async def _hello(port: int, chance: random.Random) -> str:
    """A TLS handshake that ends after a few bytes."""
    stream = await asyncio.open_connection("127.0.0.1", port)
    stream[1].write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[: chance.randrange(1, 12)])
    return await _kill(stream, chance)


async def kill(
    count: int,
    seed: int,
    tls: tuple[Path, Path, Path] | None = None,
    say: Callable[[int], None] | None = None,
) -> Counter[str]:
    """Kill so many sockets of one server, and hold that nothing of them is left; how often in which way.

    ``tls``: the paths of a certificate, its key, and the authority to trust.
    """
    given = dict(SETTINGS)
    context = None
    if tls is not None:
        given |= {"tls_cert": str(tls[0]), "tls_key": str(tls[1])}
        context = ssl.create_default_context(cafile=str(tls[2]))
    chance, ways = random.Random(seed), Counter[str]()
    names = [*PHASES, *(["half a TLS handshake"] if tls else [])]
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            name = chance.choice(names)
            if name in PHASES:
                way = await _life(server.port, number, name, context, chance)
            else:
                way = await _hello(server.port, chance)
            ways[way] += 1
            if say is not None:
                say(number)

    async with running(**given) as server:
        async with leaving_nothing(server), asyncio.TaskGroup() as group:
            for _ in range(min(AT_ONCE, count)):
                group.create_task(worker())
        await until(lambda: not any(tables(server).values()), "empty tables")
    assert ways["refused"] == 0, ways
    return ways


def tables(server: Server) -> dict[str, int]:
    """The server's tables of sockets and sessions, by name."""
    node = server.node
    return {
        "sessions": node.sessions,
        "commands in progress": node.under_way,
        "sessions by address": sum(map(node.addresses.sessions, [ADDRESS_OF_ALL])),
        "HTTP connections": sum(len(listener.connections) for listener in server._listeners),
        "accepted sockets": sum(len(listener._accepted) for listener in server._listeners),
        "sockets": node.wire_stats.sockets,
    }


def main() -> int:
    """Kill 10,000 sockets, half of them over TLS."""
    from benchmarks.attack.sockets import certificate

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000, help="sockets (10000)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="to repeat a run")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    print(f"seed {options.seed}", flush=True)

    def say(number: int) -> None:
        if number % 1000 == 999:
            print(f"{number + 1:6} killed", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        for tls in (None, certificate(Path(folder))):
            ways = asyncio.run(kill(options.count // 2, options.seed, tls, say))
            print(f"{'over TLS' if tls else 'plain'}: {dict(ways)}, nothing left", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
