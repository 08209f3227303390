"""What the histories cost in Redis: bytes of 100 events each in many chats, as the backend keeps them.

``python benchmarks/redis_memory.py [--chats 1000] [--events 100] [--bytes 60]``

The events are published by the backend itself. Memory grows in proportion to the chats: the line also says
what 10,000 of them take.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import redis.asyncio  # noqa: E402

from eclipse_ws.backends.base import NullListener  # noqa: E402
from eclipse_ws.backends.redis import RedisBackend  # noqa: E402
from eclipse_ws.config.settings import Settings  # noqa: E402
from eclipse_ws.protocol import Message, Sender, message_event  # noqa: E402
from tests.servers import SERVERS, RedisServer, default_server  # noqa: E402


async def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Fill, and ask Redis."""
    server = RedisServer(given.server).start()
    values: dict[str, Any] = {
        "redis_url": server.url,
        "history_events": given.events,
        "history_seconds": 3600,
    }
    backend = RedisBackend(Settings(**values))
    client = redis.asyncio.from_url(server.url, protocol=2)
    try:
        await backend.start(NullListener())
        before = (await client.info("memory"))["used_memory"]
        size = 0
        for chat in range(given.chats):
            events = []
            for number in range(given.events):
                # As long as those of the application are: a cuid, and a sender with an account.
                name = f"c{chat:011d}{number:013d}"
                sender = Sender("c" + "u" * 24, "Ada Lovelace", "ada.lovelace@example.org", None)
                created = "2026-01-01T12:00:00.000Z"
                events.append(message_event(Message(name, "x" * given.bytes, "USER", created, sender)))
            size = len(events[0].body)
            await asyncio.gather(*(backend.append(f"c{chat:024d}", event) for event in events))
        used = (await client.info("memory"))["used_memory"] - before
        parts: dict[str, int] = {}
        for part in ("meta", "events", "seen:0", "seen:1"):
            parts[part] = await client.memory_usage(f"eclipse:{{c{1:024d}}}:{part}", samples=0) or 0
        per_chat = used / given.chats
        return {
            "server": given.server,
            "chats": given.chats,
            "events_per_chat": given.events,
            "event_bytes": size,
            "used_bytes": used,
            "bytes_per_chat": round(per_chat),
            "bytes_per_event": round(per_chat / given.events),
            "parts_of_one_chat": parts,
            "for_10000_chats_mb": round(per_chat * 10000 / 1e6),
        }
    finally:
        await client.aclose()
        await backend.close()
        server.stop()


def main() -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chats", type=int, default=1000)
    parser.add_argument("--events", type=int, default=100)
    parser.add_argument("--bytes", type=int, default=60, help="of a message's content")
    parser.add_argument("--server", default=default_server(), choices=SERVERS)
    print(json.dumps(asyncio.run(measure(parser.parse_args()))))


if __name__ == "__main__":
    main()
