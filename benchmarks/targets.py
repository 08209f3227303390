"""What is to be reached: a ratio to a peer's value, or a bound of our own."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.centrifugo import CENTRIFUGO
from benchmarks.servers import (
    NCHAN,
    NODE,
    NODE_FETCH,
    NODE_REDIS,
    OURS,
    OURS_REDIS,
    OURS_WORKERS,
    PICOWS,
    TORNADO,
    Server,
)
from benchmarks.uws import UWS


@dataclass(frozen=True)
class Target:
    """A line of a table."""

    work: str
    measurement: str
    unit: str
    ours: Server
    against: Server | None
    bound: float
    """The ratio to the peer's, or the value itself."""
    at_most: bool = False


CROWD_4 = "one chat × 1,000, 4 messages in flight", "crowd 4", "deliveries/s"
CROWD_1 = "one chat × 1,000, 1 in flight", "crowd 1", "deliveries/s"
PAIRS = "2,500 chats × 2, one message in flight each", "pairs", "messages/s"
P50 = "p50 at 5,000 messages/s over 2,500 chats", "latency p50", "ms"
P99 = "p99 at 5,000 messages/s over 2,500 chats", "latency p99", "ms"
CONNECTS = "connects, a token each, 5,000 sessions", "connects", "/s"
IDLE = "memory of an idle session, 10,000 of them", "idle KB", "KB"

GROUPS: tuple[tuple[str, tuple[Target, ...]], ...] = (
    ("Against the fastest servers, in C, C++, Cython and Go", (
        Target(*CROWD_4, OURS, UWS, 1),
        Target(*CROWD_4, OURS, NCHAN, 4),
        Target(*CROWD_4, OURS, CENTRIFUGO, 1),
        Target(*CROWD_1, OURS, UWS, 0.95),
        Target(*CROWD_1, OURS, NCHAN, 1.2),
        Target(*CROWD_1, OURS, CENTRIFUGO, 1),
        Target(*PAIRS, OURS, UWS, 1),
        Target(*PAIRS, OURS, NCHAN, 1.4),
        Target(*PAIRS, OURS, CENTRIFUGO, 1),
        Target(*P50, OURS, PICOWS, 1, True),
        Target(*P99, OURS, PICOWS, 1, True),
        Target(*P99, OURS, NCHAN, 1, True),
        Target(*CONNECTS, OURS, PICOWS, 1.2),
        Target(*CONNECTS, OURS, CENTRIFUGO, 1),
        Target(*IDLE, OURS, NCHAN, 0.5, True),
        Target(*IDLE, OURS, CENTRIFUGO, 1, True),
    )),
    ("Against chat servers as they are usually written", (
        Target(*CROWD_4, OURS, TORNADO, 20),
        Target(*CONNECTS, OURS, NODE, 3),
        Target("message path, chat API on loopback", "path", "messages/s", OURS, NODE_FETCH, 4),
        Target("message path with Redis, two nodes", "path 2 nodes", "messages/s",
               OURS_REDIS, NODE_REDIS, 3.5),
    )),
    ("Against itself", (
        Target("2,500 chats × 2, on Redis against memory", "pairs", "messages/s", OURS_REDIS, OURS, 0.8),
        Target("two workers against one, per CPU second", "pairs per CPU second", "messages",
               OURS_WORKERS, OURS_REDIS, 0.95),
    )),
    ("Bounds", (
        Target("15,000 sessions in one process, memory", "full MB", "MB", OURS, None, 512, True),
        Target("15,000 sessions, p99 at 1,000 messages/s", "full p99", "ms", OURS, None, 10, True),
        Target("100,000 sessions in one process, memory", "many MB", "MB", OURS, None, 512, True),
        Target("100,000 sessions, p99 at 1,000 messages/s", "many p99", "ms", OURS, None, 10, True),
        Target("p99 at 5,000 messages/s with HTTP beside it, in multiples of that without", "http times", "×",
               OURS, None, 2, True),
        Target("a node's memory for a chat with 200 events, on Redis", "busy KB", "KB",
               OURS_REDIS, None, 8, True),
        Target("start-up to the first accepted session", "start s", "s", OURS, None, 0.6, True),
    )),
)  # fmt: skip
TARGETS = tuple(target for _, targets in GROUPS for target in targets)
