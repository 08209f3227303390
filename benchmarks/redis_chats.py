"""What an event costs a node, against the number of chats that the node has subscribed.

``python benchmarks/redis_chats.py [--events 20000]``

A node without sessions subscribes to N chats, and publishes events to chats picked at random, which it also
hears and delivers. Printed: its CPU time and Redis's per event, in microseconds, for each N.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from eclipse_ws.backends.marks import Mark  # noqa: E402
from eclipse_ws.backends.redis import RedisBackend  # noqa: E402
from eclipse_ws.config.settings import Settings  # noqa: E402
from eclipse_ws.delivery.delivery import Delivery  # noqa: E402
from eclipse_ws.protocol import Event, parse_event  # noqa: E402
from tests.servers import SERVERS, RedisServer, default_server  # noqa: E402

BATCH = 50
"""Events under way at once, as from as many sessions."""


def _settings(url: str) -> Settings:
    values: dict[str, Any] = {"redis_url": url}
    return Settings(**values)


class Counter:
    """The hub's place: counts what is delivered."""

    def __init__(self) -> None:
        self.delivered = 0

    def deliver(self, chat_id: str, event: Event) -> None:
        """Count it."""
        self.delivered += 1

    def interrupt(self, chat_id: str) -> None:
        """See `Subscriber`."""

    def marked(self, chat_id: str, name: str, mark: Mark) -> None:
        """See `Subscriber`."""

    def answer(self, question: Any) -> Any:
        """See `Subscriber`."""


async def measure(server: str, chats: int, events: int) -> dict[str, Any]:
    """One point of the curve."""
    redis = RedisServer(server).start()
    settings = _settings(redis.url)
    delivery = Delivery(settings, RedisBackend(settings))
    counter = Counter()
    try:
        await delivery.start(counter)
        names = [f"chat-{number}" for number in range(chats)]
        for at in range(0, chats, 500):
            await asyncio.gather(*(delivery.subscribe(name) for name in names[at : at + 500]))
        chance = random.Random(1)
        bodies = [
            parse_event(
                json.dumps({"type": "message", "data": {"id": f"m{n}", "content": "x" * 60}}).encode()
            )
            for n in range(events)
        ]
        await _publish(delivery, chance, names, bodies[: events // 10])
        before, cpu, began = time.process_time(), _cpu(redis), time.monotonic()
        await _publish(delivery, chance, names, bodies[events // 10 :])
        while counter.delivered < events:
            await asyncio.sleep(0.01)
        count = events - events // 10
        return {
            "server": server,
            "chats": chats,
            "events": count,
            "node_us": round((time.process_time() - before) / count * 1e6, 1),
            "redis_us": round((_cpu(redis) - cpu) / count * 1e6, 1),
            "events_a_second": round(count / (time.monotonic() - began)),
        }
    finally:
        await delivery.close()
        redis.stop()


async def _publish(delivery: Delivery, chance: random.Random, names: list[str], events: list[Event]) -> None:
    for at in range(0, len(events), BATCH):
        batch = events[at : at + BATCH]
        await asyncio.gather(*(delivery.publish(chance.choice(names), event) for event in batch))


def _cpu(redis: RedisServer) -> float:
    """CPU seconds that the server has used."""
    assert redis.process is not None
    fields = Path(f"/proc/{redis.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


def main() -> None:
    """Print the curve, a line of JSON a point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=20000)
    parser.add_argument("--server", default=default_server(), choices=SERVERS)
    given = parser.parse_args()
    for chats in (10, 100, 1000, 10000):
        print(json.dumps(asyncio.run(measure(given.server, chats, given.events))), flush=True)


if __name__ == "__main__":
    main()
