"""The works: what is measured, on which servers, and the targets that go with them."""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks import servers
from benchmarks.loads import Load, run
from benchmarks.processes import (
    LOAD_CORE,
    SERVER_CORE,
    CannotRunError,
    command,
    cpu_seconds,
    family,
    free_port,
    nginx,
    pinned,
    strangers_seconds,
)
from benchmarks.servers import (
    MESSAGE,
    NCHAN,
    NODE,
    NODE_FETCH,
    NODE_REDIS,
    OURS,
    OURS_REDIS,
    OURS_UVLOOP,
    SOCKETIO,
    TORNADO,
    Server,
)

Values = dict[str, float]
IDLE = 10_000
FULL = 18_000
WARM = "flood:1:2"  # not measured: compilers compile, and connections to the chat API are made
ALL = (OURS, OURS_REDIS, NCHAN, TORNADO, NODE, SOCKETIO)


@dataclass(frozen=True)
class Work:
    """Something to measure: `measure(server, seconds)` gives values by their names."""

    name: str
    servers: tuple[Server, ...]
    measure: Callable[[Server, float], tuple[Values, float]]
    """Its second answer is the share of a core that strangers used meanwhile."""
    measurements: tuple[str, ...]

    def gives(self, measurement: str) -> bool:
        """Whether the measurement comes from here."""
        return measurement in self.measurements


def _put(server: Server, load: Load, nodes: int = 1) -> list[dict[str, Any]]:
    with server.start(nodes) as running:
        results = run(server, running, load)
        said = " ".join(node.said() for node in running.nodes).strip()
    failed = results[0]["failed"]
    if failed:
        raise CannotRunError(
            f"{failed} members could not connect, the server said: {said[-300:] or 'nothing'}"
        )
    return results


def _others(results: list[dict[str, Any]]) -> float:
    return float(max(result["others"] for result in results[1:] or results))


def crowd(server: Server, seconds: float) -> tuple[Values, float]:
    """One chat of a thousand."""
    results = _put(server, Load(1, 1000, [WARM, f"flood:4:{seconds}", f"flood:1:{seconds}"]))
    four, one = results[2:]
    return {
        "crowd 4": four["deliveries_per_s"],
        "crowd 1": one["deliveries_per_s"],
        "crowd 4 cpu": four["cpu"],
        "crowd 1 cpu": one["cpu"],
    }, _others(results)


def pairs(server: Server, seconds: float) -> tuple[Values, float]:
    """2,500 chats of two: connects, throughput, latency."""
    results = _put(server, Load(2500, 2, [WARM, f"flood:1:{seconds}", f"rate:5000:{seconds}"]))
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
    }, _others(results)


def path(nodes: int) -> Callable[[Server, float], tuple[Values, float]]:
    """500 chats of two: each message is saved by the chat API and comes back to both."""

    def measure(server: Server, seconds: float) -> tuple[Values, float]:
        results = _put(server, Load(500, 2, [WARM, f"flood:1:{seconds}"], MESSAGE), nodes)
        flood = results[2]
        name = "path" if nodes == 1 else f"path {nodes} nodes"
        return {
            name: flood["sends_per_s"],
            f"{name} p99": flood["latency_us"]["p99"] / 1e3,
            f"{name} cpu": flood["cpu"],
        }, _others(results)

    return measure


def idle(server: Server, seconds: float) -> tuple[Values, float]:
    """Memory of sessions that say nothing, in chats of two."""
    connected = _put(server, Load(IDLE // 2, 2, ["hold:1"]))[1]
    kib = (connected["memory_after"] - connected["memory_before"]) / 1024
    return {"idle KB": kib / IDLE}, 0.0  # bytes don't depend on what else runs


def full(server: Server, seconds: float) -> tuple[Values, float]:
    """18,000 sessions in one process, with 1,000 messages a second among them."""
    results = _put(server, Load(FULL // 2, 2, [f"rate:1000:{max(5.0, 2 * seconds)}"]))
    rate = results[1]
    return {
        "full MB": rate["memory_after"] / 1e6,
        "full p99": rate["latency_us"]["p99"] / 1e3,
        "full lost": max(0, rate["others_expected"] - rate["deliveries"]),
    }, _others(results)


def start_up(server: Server, seconds: float) -> tuple[Values, float]:
    """From `eclipse-ws run` to the first accepted session's greeting; the median of five starts."""
    took, cpu, others = [], [], []
    with nginx(servers.PEERS / "api.conf", LOAD_CORE) as api, tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, **servers.environment(api.port)}
        for _ in range(5):
            port = free_port()
            target = OURS.target("c", "u")
            began, busy = time.perf_counter(), strangers_seconds([])
            process = subprocess.Popen(
                pinned([*command(), "run", "--profile", "bench", "--port", str(port)], SERVER_CORE),
                env=env,
                cwd=folder,
                stdout=subprocess.DEVNULL,
            )
            try:
                _first_session(port, target)
                took.append(time.perf_counter() - began)
                cpu.append(cpu_seconds(family(process.pid)))
                others.append((strangers_seconds(family(process.pid)) - busy) / took[-1])
            finally:
                process.terminate()
                process.wait(10)
    values = {"start s": statistics.median(took), "start cpu": statistics.median(cpu)}
    return values, max(0.0, statistics.median(others))


def _first_session(port: int, target: str) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
                client.sendall(
                    f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
                    "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
                )
                said = b""
                while b"connected" not in said:
                    more = client.recv(4096)
                    if not more:
                        raise CannotRunError("the server refused its first session")
                    said += more
                return
        except ConnectionRefusedError:
            time.sleep(0.002)
    raise CannotRunError("the server did not start within 20 s")


WORKS = (
    Work("fan-out", ALL, crowd, ("crowd 4", "crowd 1")),
    Work("pairs", ALL, pairs, ("pairs", "latency p99", "connects")),
    Work("message path", (OURS, NODE_FETCH, OURS_UVLOOP), path(1), ("path",)),
    Work("message path, two nodes", (OURS_REDIS, NODE_REDIS), path(2), ("path 2 nodes",)),
    Work("idle memory", ALL, idle, ("idle KB",)),
    Work("18,000 sessions", (OURS, OURS_REDIS), full, ("full MB", "full p99")),
    Work("start-up", (OURS,), start_up, ("start s",)),
)

# Growth: a value by size, a curve for each server.


def grow_crowd(size: int) -> Callable[[Server, float], tuple[Values, float]]:
    """One chat of `size`."""

    def measure(server: Server, seconds: float) -> tuple[Values, float]:
        results = _put(server, Load(1, size, [WARM, f"flood:4:{seconds}"]))
        return {f"{size}": results[2]["deliveries_per_s"]}, _others(results)

    return measure


def grow_chats(size: int) -> Callable[[Server, float], tuple[Values, float]]:
    """`size` chats of two."""

    def measure(server: Server, seconds: float) -> tuple[Values, float]:
        results = _put(server, Load(size, 2, [WARM, f"flood:1:{seconds}"]))
        return {f"{size}": results[2]["sends_per_s"]}, _others(results)

    return measure


def grow_nodes(size: int) -> Callable[[Server, float], tuple[Values, float]]:
    """The message path over `size` nodes, which share one core."""

    def measure(server: Server, seconds: float) -> tuple[Values, float]:
        results = _put(server, Load(500, max(2, size), [WARM, f"flood:1:{seconds}"], MESSAGE), size)
        return {f"{size}": results[2]["deliveries_per_s"]}, _others(results)

    return measure


@dataclass(frozen=True)
class Growth:
    """One plot."""

    name: str
    x: str
    y: str
    sizes: tuple[int, ...]
    servers: tuple[Server, ...]
    measure: Callable[[int], Callable[[Server, float], tuple[Values, float]]]


GROWTHS = (
    Growth("sessions", "sessions in one chat", "deliveries/s, 4 messages in flight", (10, 100, 1000, 10_000),
           (OURS, NCHAN, NODE, TORNADO), grow_crowd),
    Growth("chats", "chats of two", "messages/s, one in flight per chat", (1, 10, 100, 1000, 9500),
           (OURS, NCHAN, NODE, TORNADO), grow_chats),
    Growth("nodes", "nodes on one core", "deliveries/s, message path", (1, 2, 4),
           (OURS_REDIS, NODE_REDIS), grow_nodes),
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A line of the table: our value against a peer's, or against a bound."""

    work: str
    measurement: str
    unit: str
    ours: Server
    against: Server | None
    bound: float
    """The ratio to the peer's, or the value itself."""
    at_most: bool = False


TARGETS = (
    Target("one chat × 1,000, 4 messages in flight", "crowd 4", "deliveries/s", OURS, NCHAN, 4),
    Target("the same, 1 in flight", "crowd 1", "deliveries/s", OURS, NCHAN, 1.2),
    Target("the same, 4 in flight", "crowd 4", "deliveries/s", OURS, TORNADO, 20),
    Target("2,500 chats × 2, one message in flight each", "pairs", "messages/s", OURS, NCHAN, 1.4),
    Target("p99 at 5,000 messages/s over 2,500 chats", "latency p99", "ms", OURS, NCHAN, 1.0, True),
    Target("message path, chat API on loopback", "path", "messages/s", OURS, NODE_FETCH, 3),
    Target("message path with Redis, two nodes", "path 2 nodes", "messages/s", OURS_REDIS, NODE_REDIS, 2),
    Target("connects, a token each, 5,000 sessions", "connects", "/s", OURS, NODE, 1.5),
    Target("memory of an idle session, 10,000 of them", "idle KB", "KB", OURS, NCHAN, 0.5, True),
    Target("18,000 sessions in one process, memory", "full MB", "MB", OURS, None, 512, True),
    Target("18,000 sessions, p99 at 1,000 messages/s", "full p99", "ms", OURS, None, 10, True),
    Target("start-up to the first accepted session", "start s", "s", OURS, None, 0.6, True),
)
