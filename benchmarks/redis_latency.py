"""How long an event takes from its publishing on one node to a member's socket on another, through Redis.

``python benchmarks/redis_latency.py [--rate 1000] [--chats 1000] [--seconds 10]``

Three processes beside Redis: a publisher (the Redis backend of a node, without sessions), a whole server,
and this one, which holds a session in each chat. The time is taken just before `append` is called, and when
the member's bytes have been read; all processes share the machine's monotonic clock.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jwt

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from eclipse_ws.backends.base import NullListener  # noqa: E402
from eclipse_ws.backends.redis import RedisBackend  # noqa: E402
from eclipse_ws.config.settings import Settings  # noqa: E402
from eclipse_ws.protocol import parse_event  # noqa: E402
from tests.servers import SERVERS, RedisServer, default_server, free_port  # noqa: E402

SECRET = "a-secret-of-the-benchmarks-which-is-long-enough"
MARK = b'"at":'
CONTENT = "x" * 60
WARM_UP = 2.0


def _settings(url: str) -> Settings:
    values: dict[str, Any] = {"redis_url": url}
    return Settings(**values)


async def publish(redis_url: str, chats: int, rate: float, seconds: float) -> None:
    """Publish ``rate`` events a second, evenly, over the chats in turn."""
    backend = RedisBackend(_settings(redis_url))
    await backend.start(NullListener())
    loop = asyncio.get_running_loop()
    began, number, under_way = loop.time(), 0, set()
    while (now := loop.time()) - began < seconds:
        due = int((now - began) * rate)
        while number < due:
            number += 1
            data = {"id": f"m{number}", "content": CONTENT, "role": "user", "at": time.monotonic_ns()}
            event = parse_event(json.dumps({"type": "message", "data": data}).encode())
            task = asyncio.ensure_future(backend.append(f"chat-{number % chats}", event))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.sleep(0.0005)
    await asyncio.gather(*under_way)
    await backend.close()
    print(f"published {number}")


class Member(asyncio.Protocol):
    """One session, which notes when events come; it reads the server's unmasked frames as they are."""

    def __init__(self, path: str, waits: list[tuple[int, int]], greeted: asyncio.Semaphore) -> None:
        self._path = path
        self._waits = waits
        self._greeted = greeted

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        request = (
            f"GET {self._path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        assert isinstance(transport, asyncio.Transport)
        transport.write(request.encode())

    def data_received(self, data: bytes) -> None:
        """Take the time of every event in it."""
        now = time.monotonic_ns()
        at = data.find(MARK)
        while at >= 0:
            end = data.find(b"}", at)
            self._waits.append((now, int(data[at + len(MARK) : end])))
            at = data.find(MARK, end)
        if b'"connected"' in data:
            self._greeted.release()


async def measure(given: argparse.Namespace) -> None:
    """Start all, hold the sessions, and print what came."""
    redis = RedisServer(given.server).start()
    port = free_port()
    environment = {
        **os.environ,
        "REDIS_URL": redis.url,
        "PORT": str(port),
        "JWT_SECRET": SECRET,
        "LOG_LEVEL": "warning",
    }
    server = subprocess.Popen(
        [sys.executable, "-m", "eclipse_ws", "run", "--profile", "test", "--backend", "redis"],
        env={**environment, "PYTHONPATH": str(ROOT)},
        cwd=redis.folder,
    )
    try:
        waits: list[tuple[int, int]] = []
        greeted = asyncio.Semaphore(0)
        await _accepts(port)
        for number in range(given.chats):
            claims = {"userId": f"u{number}", "chatId": f"chat-{number}", "exp": int(time.time()) + 600}
            path = "/?" + urlencode({"token": jwt.encode(claims, SECRET, algorithm="HS256")})
            loop = asyncio.get_running_loop()
            await loop.create_connection(
                lambda path=path: Member(path, waits, greeted),  # type: ignore[misc]
                "127.0.0.1",
                port,
            )
            await greeted.acquire()
        words = ["--publish", redis.url, "--chats", given.chats, "--rate", given.rate]
        words += ["--seconds", given.seconds + WARM_UP]
        publisher = await asyncio.create_subprocess_exec(
            sys.executable, __file__, *map(str, words), stdout=asyncio.subprocess.PIPE
        )
        said, _ = await publisher.communicate()
        await asyncio.sleep(0.5)
        report(given, waits, int(said.split()[-1]))
    finally:
        server.terminate()
        server.wait()
        redis.stop()


async def _accepts(port: int) -> None:
    for _ in range(200):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        except OSError:
            await asyncio.sleep(0.05)
    raise SystemExit("the server did not start")


def report(given: argparse.Namespace, waits: list[tuple[int, int]], published: int) -> None:
    """Print one line of JSON: milliseconds, without the first seconds."""
    if not waits:
        raise SystemExit("nothing arrived")
    first = min(sent for _, sent in waits) + WARM_UP * 1e9
    spans = sorted((now - sent) / 1e6 for now, sent in waits if sent >= first)
    line = {
        "server": given.server,
        "rate": given.rate,
        "chats": given.chats,
        "published": published,
        "arrived": len(waits),
        "measured": len(spans),
        **{f"p{at:g}_ms": round(spans[int(len(spans) * at / 100)], 3) for at in (50, 90, 99, 99.9)},
        "max_ms": round(spans[-1], 3),
    }
    print(json.dumps(line))


def main() -> None:
    """Measure, or publish for the one that measures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=1000, help="events a second")
    parser.add_argument("--chats", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--server", default=default_server(), choices=SERVERS)
    parser.add_argument("--publish", metavar="URL", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.publish:
        asyncio.run(publish(given.publish, given.chats, given.rate, given.seconds))
    else:
        asyncio.run(measure(given))


if __name__ == "__main__":
    main()
