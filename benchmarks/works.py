"""The works: what is measured, and on which servers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.beside import beside
from benchmarks.centrifugo import CENTRIFUGO, CENTRIFUGO_REDIS
from benchmarks.loads import Load
from benchmarks.many import many
from benchmarks.measuring import WARM, Measured, Work, others, put, room_for
from benchmarks.processes import CannotRunError
from benchmarks.servers import (
    MESSAGE,
    NCHAN,
    NODE,
    NODE_FETCH,
    NODE_REDIS,
    OURS,
    OURS_REDIS,
    OURS_UVLOOP,
    OURS_WORKERS,
    PICOWS,
    PICOWS_UVLOOP,
    SOCKETIO,
    TORNADO,
    Server,
)
from benchmarks.start_up import start_up
from benchmarks.uws import UWS

ROOT = Path(__file__).parents[1]
IDLE = 10_000
FULL = 15_000
ALL = (
    OURS,
    OURS_REDIS,
    UWS,
    NCHAN,
    PICOWS,
    PICOWS_UVLOOP,
    CENTRIFUGO,
    CENTRIFUGO_REDIS,
    TORNADO,
    NODE,
    SOCKETIO,
)


def crowd(server: Server, seconds: float) -> Measured:
    """One chat of a thousand."""
    results = put(server, Load(1, 1000, [WARM, f"flood:4:{seconds}", f"flood:1:{seconds}"]))
    four, one = results[2:]
    return {
        "crowd 4": four["deliveries_per_s"],
        "crowd 1": one["deliveries_per_s"],
        "crowd 4 cpu": four["cpu"],
        "crowd 1 cpu": one["cpu"],
    }, others(results)


def pairs(server: Server, seconds: float) -> Measured:
    """2,500 chats of two: connects, throughput, latency."""
    results = put(server, Load(2500, 2, [WARM, f"flood:1:{seconds}", f"rate:5000:{seconds}"]))
    connects, _, flood, rate = results
    return {
        "connects": connects["connects_per_s"],
        "connects cpu": connects["cpu"],
        "pairs": flood["sends_per_s"],
        "pairs deliveries": flood["deliveries_per_s"],
        "pairs cpu": flood["cpu"],
        "latency p50": rate["latency_us"]["p50"] / 1e3,
        "latency p99": rate["latency_us"]["p99"] / 1e3,
        "latency p999": rate["latency_us"]["p999"] / 1e3,
        "latency sends": rate["sends_per_s"],
        "latency cpu": rate["cpu"],
    }, others(results)


def path(nodes: int) -> Callable[[Server, float], Measured]:
    """500 chats of two: each message is saved by the chat API and comes back to both."""

    def measure(server: Server, seconds: float) -> Measured:
        results = put(server, Load(500, 2, [WARM, f"flood:1:{seconds}"], MESSAGE), nodes)
        flood = results[2]
        name = "path" if nodes == 1 else f"path {nodes} nodes"
        return {
            name: flood["sends_per_s"],
            f"{name} p99": flood["latency_us"]["p99"] / 1e3,
            f"{name} cpu": flood["cpu"],
        }, others(results)

    return measure


def idle(server: Server, seconds: float) -> Measured:
    """Memory of sessions that say nothing, in chats of two."""
    connected = put(server, Load(IDLE // 2, 2, ["hold:1"]))[1]
    kib = (connected["memory_after"] - connected["memory_before"]) / 1024
    return {"idle KB": kib / IDLE}, 0.0  # bytes don't depend on what else runs


def full(server: Server, seconds: float) -> Measured:
    """15,000 sessions in one process, with 1,000 messages a second among them."""
    room_for(FULL)
    results = put(server, Load(FULL // 2, 2, [f"rate:1000:{max(5.0, 2 * seconds)}"]))
    rate = results[1]
    return {
        "full MB": rate["memory_after"] / 1e6,
        "full p99": rate["latency_us"]["p99"] / 1e3,
        "full lost": max(0, rate["others_expected"] - rate["deliveries"]),
    }, others(results)


def workers(server: Server, seconds: float) -> Measured:
    """What a CPU second does, in 2,500 chats of two."""
    flood = put(server, Load(2500, 2, [WARM, f"flood:1:{seconds}"]))
    return {"pairs per CPU second": flood[2]["sends_per_s"] / flood[2]["cpu"]}, others(flood)


def busy(server: Server, seconds: float) -> Measured:
    """A node's memory for a chat with 200 events."""
    argv = [sys.executable, "-m", "benchmarks.busy_chats"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise CannotRunError(f"busy_chats failed: {done.stderr[-300:]}")
    return {"busy KB": json.loads(done.stdout.splitlines()[-1])["kb_per_chat"]}, 0.0


WORKS = (
    Work("fan-out", ALL, crowd, ("crowd 4", "crowd 1")),
    Work("pairs", ALL, pairs, ("pairs", "latency p50", "latency p99", "connects")),
    Work("message path", (OURS, NODE_FETCH, OURS_UVLOOP), path(1), ("path",)),
    Work("message path, two nodes", (OURS_REDIS, NODE_REDIS), path(2), ("path 2 nodes",)),
    Work("idle memory", ALL, idle, ("idle KB",)),
    Work("15,000 sessions", (OURS, OURS_REDIS), full, ("full MB", "full p99")),
    Work("100,000 sessions", (OURS,), many, ("many MB", "many p99")),
    Work("HTTP beside", (OURS,), beside, ("http times",)),
    Work("workers", (OURS_REDIS, OURS_WORKERS), workers, ("pairs per CPU second",)),
    Work("busy chats", (OURS_REDIS,), busy, ("busy KB",)),
    Work("start-up", (OURS,), start_up, ("start s",)),
)
