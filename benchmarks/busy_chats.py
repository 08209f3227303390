"""What a busy chat costs a node on Redis: resident bytes, after 200 events within the history's lifetime.

``python -m benchmarks.busy_chats [--chats 1000] [--events 200]``

A node without sessions subscribes to the chats, publishes to all in turns, hears and delivers. Its memory is
compared with that before it subscribed. The events are as long as the application's are.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import time
from typing import Any

import psutil

from benchmarks.redis_chats import BATCH, Counter
from eclipse_ws.backends.redis import RedisBackend
from eclipse_ws.config.settings import Settings
from eclipse_ws.delivery.delivery import Delivery
from eclipse_ws.protocol import Message, Sender, message_event
from tests.servers import RedisServer, default_server

LIFETIME = 300
WARM_CHATS = 50
"""Chats that come before the measurement, so that buffers and caches have their size."""


async def measure(chats: int, events: int) -> dict[str, Any]:
    """Bytes a chat, and how long the events took, which has to be less than the history's lifetime."""
    redis = RedisServer(default_server()).start()
    values: dict[str, Any] = {"redis_url": redis.url, "history_seconds": LIFETIME}
    settings = Settings(**values)
    delivery = Delivery(settings, RedisBackend(settings))
    counter = Counter()
    try:
        await delivery.start(counter)
        await _talk(delivery, counter, [f"warm-{number}" for number in range(WARM_CHATS)], events)
        before, began = _resident(), time.monotonic()
        names = [f"cmh{number:05d}vp3xg001hm6flkp49qj6c" for number in range(chats)]
        for at in range(0, chats, 500):
            await asyncio.gather(*(delivery.subscribe(name) for name in names[at : at + 500]))
        subscribed = _resident()
        await _talk(delivery, counter, names, events)
        return {
            "chats": chats,
            "events_per_chat": events,
            "seconds": round(time.monotonic() - began, 1),
            "lifetime": LIFETIME,
            "subscribed_kb_per_chat": round((subscribed - before) / 1024 / chats, 2),
            "kb_per_chat": round((_resident() - before) / 1024 / chats, 2),
        }
    finally:
        await delivery.close()
        redis.stop()


async def _talk(delivery: Delivery, counter: Counter, names: list[str], events: int) -> None:
    """So many events in each chat, all chats at the same pace, until all are delivered."""
    wanted = counter.delivered + len(names) * events
    sender = Sender("c" + "u" * 24, "A User", "user@example.org", None)
    await asyncio.gather(*(delivery.subscribe(name) for name in names))
    for number in range(events):
        for at in range(0, len(names), BATCH):
            batch = [
                message_event(
                    Message(f"{name[:12]}{number:013d}", "x" * 60, "USER", "2026-01-01T12:00:00.000Z", sender)
                )
                for name in names[at : at + BATCH]
            ]
            await asyncio.gather(
                *(
                    delivery.publish(name, event)
                    for name, event in zip(names[at : at + BATCH], batch, strict=True)
                )
            )
    while counter.delivered < wanted:
        await asyncio.sleep(0.01)


def _resident() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def main() -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chats", type=int, default=1000)
    parser.add_argument("--events", type=int, default=200)
    given = parser.parse_args()
    print(json.dumps(asyncio.run(measure(given.chats, given.events))))


if __name__ == "__main__":
    main()
