"""What a deploy costs: two nodes under load, of which one, or each in turn, is stopped.

``--mode sigterm`` stops a node and starts none, ``rolling`` restarts both nodes ``--rounds`` times, ``kill``
ends one as a crash would. Every chat has two members, each on a node that takes sessions at the time. Prints
measurements against targets; exit code 1 where one is missed.

    python -m benchmarks.drain --mode sigterm
    python -m benchmarks.drain --mode rolling --rounds 10
    python -m benchmarks.drain --mode kill
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jwt

from benchmarks.drain_parts import Application, Client
from tests.servers import RedisServer, default_server, free_port

SECRET = "a-secret-of-the-benchmark-which-is-long-enough"
ROOT = Path(__file__).parents[1]
MOST_WAITING = 10
"""Messages of one client that wait for their ack; a machine that is too busy gets fewer, and that is told."""
SETTLE = 45.0
"""Seconds in which every sender must have learnt the truth: a killed node's attempts are unknown after 15."""


class Node:
    """One server process."""

    def __init__(self, name: str, folder: Path, variables: dict[str, str]) -> None:
        self.name, self.port, self.accepts = name, free_port(), False
        self._log, self._variables = folder / f"{name}.log", variables
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start, and wait until it listens and hears its Redis."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "eclipse_ws", "run", "--profile", "prod"],
                env={**os.environ, **self._variables, "PORT": str(self.port), "PYTHONPATH": str(ROOT)},
                cwd=self._log.parent,
                stdout=log,
                stderr=log,
            )
        for _ in range(600):
            if await self.health() == "healthy":
                self.accepts = True
                return
            await asyncio.sleep(0.1)
        raise SystemExit(f"{self.name} did not start: {self._log}")

    async def health(self) -> str:
        """What it says of itself; "" if nothing."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            text = await reader.read()
            writer.close()
            return str(json.loads(text.partition(b"\r\n\r\n")[2])["status"])
        except (OSError, ValueError):
            return ""

    async def end(self, number: int) -> tuple[int, float]:
        """Signal it, and wait: its exit code, and how long it took."""
        assert self.process is not None
        self.accepts = False  # the proxy has seen it in the health check
        began = time.monotonic()
        self.process.send_signal(number)
        code = await asyncio.to_thread(self.process.wait, 60)
        return code, time.monotonic() - began


class Fleet:
    """The nodes, the clients, and what is saved."""

    def __init__(self, nodes: list[Node], application: type[Application]) -> None:
        self.nodes, self.over = nodes, False
        self.saved, self.by_key = application.saved, application.by_key
        self.clients: list[Client] = []
        self.held_back, self.stall = 0, 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    def pick(self) -> Node:
        """A node as the proxy would pick it."""
        return random.choice([node for node in self.nodes if node.accepts] or self.nodes)

    def spawn(self, work: Any) -> None:
        """Keep a task until it is done."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def load(self, rate: float, stop: asyncio.Event) -> None:
        """Send ``rate`` messages a second, round robin over all clients, until ``stop``."""
        order, numbers = itertools.cycle(random.sample(self.clients, len(self.clients))), itertools.count()
        began, sent = time.monotonic(), 0
        last = began
        while not stop.is_set():
            self.stall, last = max(self.stall, time.monotonic() - last - 0.01), time.monotonic()
            due = int((time.monotonic() - began) * rate) - sent
            for _ in range(due):
                client = next(order)
                if len(client.outbox) < MOST_WAITING:  # people wait for an answer too
                    client.say(f"k{next(numbers)}")
                else:
                    self.held_back += 1
            sent += due
            await asyncio.sleep(0.01)


def busiest(closes: list[float]) -> float:
    """The largest share of the closes that any second has seen, sliding."""
    closes = sorted(closes)
    most = begin = 0
    for end, at in enumerate(closes):
        while at - closes[begin] >= 1:
            begin += 1
        most = max(most, end - begin + 1)
    return most / len(closes) if closes else 0.0


async def bench(given: argparse.Namespace, folder: Path) -> int:
    """Run one mode; the number of targets missed."""
    redis = RedisServer(default_server()).start()
    api, application = await Application.start()
    variables = {
        "JWT_SECRET": SECRET,
        "INTERNAL_API_SECRET": SECRET,
        "NEXT_API_URL": f"http://127.0.0.1:{api.sockets[0].getsockname()[1]}",
        "REDIS_URL": redis.url,
        "LOG_LEVEL": "warning",
        "ECLIPSE_DRAIN_SECONDS": str(given.drain),
    }
    nodes = [Node(name, folder, variables) for name in ("A", "B")]
    fleet = Fleet(nodes, application)
    rows: list[tuple[str, str, str, bool]] = []
    try:
        await asyncio.gather(*(node.start() for node in nodes))
        now = int(time.time())
        for number in range(given.sessions):
            chat = f"c{number // 2}"
            claims = {
                "userId": f"u{number}",
                "chatId": chat,
                "isAuthenticated": True,
                "iat": now,
                "exp": now + 7200,
            }
            fleet.clients.append(Client(fleet, chat, jwt.encode(claims, SECRET, algorithm="HS256")))
        for at in range(0, given.sessions, 100):
            await asyncio.gather(*(client.connect() for client in fleet.clients[at : at + 100]))
        stop = asyncio.Event()
        load = asyncio.create_task(fleet.load(given.rate, stop))
        await asyncio.sleep(5)
        ends: list[tuple[int, float, int, float]] = []
        for _ in range(given.rounds if given.mode == "rolling" else 1):
            for node in nodes if given.mode == "rolling" else nodes[:1]:
                began, held = time.monotonic(), sum(client.node is node for client in fleet.clients)
                code, took = await node.end(signal.SIGKILL if given.mode == "kill" else signal.SIGTERM)
                closes = [
                    at
                    for client in fleet.clients
                    for at, kind in client.closes
                    if at >= began and kind == 1012
                ]
                ends.append((code, took, held, busiest(closes)))
                print(
                    f"{node.name}: exit {code} after {took:.2f} s, {held} sessions, {len(closes)} told 1012, "
                    f"at most {busiest(closes):.1%} of them in a second",
                    flush=True,
                )
                if given.mode == "rolling":
                    await node.start()
                    await asyncio.sleep(3)
        await asyncio.sleep(5)
        stop.set()
        await load
        deadline = time.monotonic() + SETTLE
        while time.monotonic() < deadline:
            if all(client.open and not client.outbox for client in fleet.clients):
                break
            await asyncio.sleep(0.1)
        await asyncio.sleep(2)
        rows = judge(given, fleet, application, ends)
    finally:
        fleet.over = True
        for node in nodes:
            if node.process is not None:
                node.process.kill()
                node.process.wait()
        api.close()
        redis.stop()
    width = max(len(row[0]) for row in rows)
    for name, measured, target, met in rows:
        print(f"{name:<{width}}  {measured:>22}  {target:<28} {'' if met else 'MISSED'}")
    if given.json:
        results = [{"name": n, "measured": m, "target": t, "met": ok} for n, m, t, ok in rows]
        Path(given.json).write_text(json.dumps({"mode": given.mode, "results": results}, indent=1) + "\n")
    return sum(not met for *_, met in rows)


def judge(
    given: argparse.Namespace,
    fleet: Fleet,
    application: type[Application],
    ends: list[tuple[int, float, int, float]],
) -> list[tuple[str, str, str, bool]]:
    """Rows of (what, measured, target, met)."""
    clients = fleet.clients
    unknown = {key for client in clients for key in client.unknown}
    excused = {message for key in unknown for message in application.by_key.get(key, ())}
    owed = missing = 0
    for client in clients:
        expected = set(application.saved.get(client.chat, ())) - excused
        owed += len(expected)
        missing += len(expected - client.heard - client.loaded)
    false = sum(client.false for client in clients)
    false += sum(
        application.by_key.get(k, [""])[0] != m for client in clients for k, m in client.acked.items()
    )
    twice = sum(len(messages) > 1 for messages in application.by_key.values())
    open_ends = sum(len(client.outbox) for client in clients)
    saved = sum(map(len, application.saved.values()))
    killed = given.mode == "kill"
    codes = Counter(code for client in clients for code in client.errors)
    told = ", ".join(f"{code} {count}" for code, count in codes.items())
    rows = [
        ("messages saved", str(saved), "", saved > 0),
        ("longest stall of this program", f"{fleet.stall:.2f} s", "(shows as closes in a heap)", True),
        ("held back by busy clients", str(fleet.held_back), "", True),
        ("owed to members, not had", f"{missing} of {owed}", "0", missing == 0),
        ("saved twice", str(twice), "0", twice == 0),
        ("senders told a falsehood", str(false), "0", false == 0),
        ("senders without an answer", str(open_ends), "0", open_ends == 0),
        (
            "outcome_unknown",
            str(len(unknown)),
            "in flight to the API" if killed else "0",
            killed or not unknown,
        ),
        (
            "copies on one client",
            str(sum(c.duplicates for c in clients)),
            "0",
            not any(c.duplicates for c in clients),
        ),
        ("resumed", str(sum(c.recovered for c in clients)), "", True),
        (
            "came back to a lost history",
            str(sum(c.lost for c in clients)),
            "unguarded chats alone" if killed else "0",
            killed or not any(c.lost for c in clients),
        ),
        ("errors that were retried", told or "0", "", True),
    ]
    if not killed:
        slowest, worst = max(end[1] for end in ends), max(end[3] for end in ends)
        exits = sorted({end[0] for end in ends})
        rows += [
            ("exit codes", ", ".join(map(str, exits)), "0", exits == [0]),
            ("slowest exit", f"{slowest:.2f} s", f"{given.drain + 2:g} s", slowest <= given.drain + 2),
            ("closes in the busiest second", f"{worst:.1%}", "10 %", worst <= 0.1),
        ]
    return rows


def main() -> None:
    """Read the arguments, and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mode", choices=("sigterm", "rolling", "kill"), default="sigterm")
    parser.add_argument("--sessions", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=500, help="messages a second")
    parser.add_argument("--drain", type=float, default=15, help="DRAIN_SECONDS of the nodes")
    parser.add_argument("--rounds", type=int, default=10, help="rolling restarts of both nodes")
    parser.add_argument("--json", help="write the results here")
    given = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    folder = Path(tempfile.mkdtemp(prefix="eclipse-drain-"))
    missed = asyncio.run(bench(given, folder))
    print("every target is met" if not missed else f"{missed} targets missed; the nodes' logs: {folder}")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
