"""Curves: a value by size, one for each server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.loads import Load
from benchmarks.measuring import WARM, Measured, others, put
from benchmarks.servers import MESSAGE, NCHAN, NODE, NODE_REDIS, OURS, OURS_REDIS, TORNADO, Server


def grow_crowd(size: int) -> Callable[[Server, float], Measured]:
    """One chat of `size`."""

    def measure(server: Server, seconds: float) -> Measured:
        results = put(server, Load(1, size, [WARM, f"flood:4:{seconds}"]))
        return {f"{size}": results[2]["deliveries_per_s"]}, others(results)

    return measure


def grow_chats(size: int) -> Callable[[Server, float], Measured]:
    """`size` chats of two."""

    def measure(server: Server, seconds: float) -> Measured:
        results = put(server, Load(size, 2, [WARM, f"flood:1:{seconds}"]))
        return {f"{size}": results[2]["sends_per_s"]}, others(results)

    return measure


def grow_nodes(size: int) -> Callable[[Server, float], Measured]:
    """The message path over `size` nodes, which share one core."""

    def measure(server: Server, seconds: float) -> Measured:
        results = put(server, Load(500, max(2, size), [WARM, f"flood:1:{seconds}"], MESSAGE), size)
        return {f"{size}": results[2]["deliveries_per_s"]}, others(results)

    return measure


@dataclass(frozen=True)
class Growth:
    """One plot."""

    name: str
    x: str
    y: str
    sizes: tuple[int, ...]
    servers: tuple[Server, ...]
    measure: Callable[[int], Callable[[Server, float], Measured]]


GROWTHS = (
    Growth("sessions", "sessions in one chat", "deliveries/s, 4 messages in flight", (10, 100, 1000, 10_000),
           (OURS, NCHAN, NODE, TORNADO), grow_crowd),
    Growth("chats", "chats of two", "messages/s, one in flight per chat", (1, 10, 100, 1000, 7500),
           (OURS, NCHAN, NODE, TORNADO), grow_chats),
    Growth("nodes", "nodes on one core", "deliveries/s, message path", (1, 2, 4),
           (OURS_REDIS, NODE_REDIS), grow_nodes),
)  # fmt: skip
