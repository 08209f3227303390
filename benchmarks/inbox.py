"""`python -m benchmarks.inbox`: new chats in the lists of 50 agents, calmly and while nodes are killed.

Two nodes on one Redis. The application publishes `chat_opened` into the inbox over HTTP, to a node that
answers, again until it is accepted. Each agent is in the inbox and resumes it with its cursor; one that can't
be resumed loads the list from the application, as the contract says. Measured: how long 1,000 new chats take
to reach every agent, and how many of 1,000 further ones are missing from any list after 20 kills. Prints
measurements against targets; exit code 1 where one is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import secrets
import signal
import sys
import time
from typing import Any, Final

import msgspec
from tornado.httpclient import AsyncHTTPClient, HTTPError, HTTPRequest

from benchmarks.drain import SECRET, Node
from benchmarks.presence import Session, Stage, in_pairs, line, staged, until
from benchmarks.processes import measured

INBOX: Final = "inbox:support"
REACHES: Final = 1.0  # s, for 99 of 100
RATE: Final = 50.0
"""New chats a second."""
SETTLED: Final = 20.0
"""Seconds in which everything has to have come."""


class Agent(Session):
    """An agent's list of chats."""

    def __init__(self, name: str, published: dict[str, float]) -> None:
        super().__init__(name, [INBOX], begins_in_none=True)
        self.published = published
        self.heard: dict[str, float] = {}
        self._came: set[str] = set()  # by an event; a list that was loaded may have it before
        self.doubled = self.loads = 0
        self._cursor: str | None = None

    def hear(self, text: bytes) -> None:
        """Join after the greeting; note each new chat."""
        event = msgspec.json.decode(text)
        if event["type"] == "connected":
            join = {"type": "join", "chatId": INBOX, "cursor": self._cursor}
            self.send(msgspec.json.encode(join))
        elif event["type"] == "joined":
            self.is_open = True
            if event.get("recovered") is False:
                self.loads += 1
                for chat in self.published:
                    self.heard.setdefault(chat, time.monotonic())
        elif event["type"] == "chat_opened":
            chat = event["data"]["id"]
            self.doubled += chat in self._came
            self._came.add(chat)
            self.heard.setdefault(chat, time.monotonic())
        self._cursor = event.get("cursor") or self._cursor

    async def stay(self, nodes: list[Node]) -> None:
        """Connect, and again after each end, as the client does, until cancelled."""
        while True:
            try:
                await self.connect(random.choice([node for node in nodes if node.accepts] or nodes))
                await until(lambda: not self.is_open, 1e9)
            except (OSError, TimeoutError):
                pass
            await asyncio.sleep(random.uniform(0.05, 1.0))


class Application:
    """Publishes new chats."""

    def __init__(self, nodes: list[Node], published: dict[str, float]) -> None:
        self.published = published
        self._nodes = nodes
        self._http = AsyncHTTPClient(max_clients=100)

    async def open_chats(self, count: int) -> list[str]:
        """Open so many chats, at the rate. Returns their ids once all are published."""
        opening = []
        for _ in range(count):
            opening.append(asyncio.create_task(self._publish(secrets.token_hex(6))))
            await asyncio.sleep(random.expovariate(RATE))
        return await asyncio.gather(*opening)

    async def _publish(self, chat: str) -> str:
        event = {"type": "chat_opened", "data": {"id": chat, "chatId": chat}}
        while True:
            node = random.choice([node for node in self._nodes if node.accepts] or self._nodes)
            began = time.monotonic()
            request = HTTPRequest(
                f"http://127.0.0.1:{node.port}/api/chats/{INBOX}/events",
                method="POST",
                headers={"X-Internal-Secret": SECRET, "Idempotency-Key": chat},
                body=msgspec.json.encode(event),
                connect_timeout=1.0,
                request_timeout=5.0,
            )
            try:
                await self._http.fetch(request)
            except (HTTPError, OSError):  # the node refuses it, or was killed meanwhile
                await asyncio.sleep(0.1)
            else:
                self.published[chat] = began
                return chat


async def calm(agents: list[Agent], application: Application, count: int) -> bool:
    """Measure how long new chats take. Returns whether the target is met."""
    chats = await application.open_chats(count)
    await until(lambda: all(chat in agent.heard for agent in agents for chat in chats), SETTLED)
    took = sorted(agent.heard[chat] - application.published[chat] for agent in agents for chat in chats)
    p99 = took[int(0.99 * len(took))]
    text = f"p50 {took[len(took) // 2] * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms, max {took[-1] * 1000:.0f} ms"
    return line(f"{count} chats, {len(agents)} agents", text, f"p99 < {REACHES:.0f} s", p99 < REACHES)


async def kills(
    agents: list[Agent], application: Application, stage: Stage, given: argparse.Namespace
) -> bool:
    """Count what is missing after kills. Returns whether nothing is."""
    opening = asyncio.create_task(application.open_chats(given.chats))
    for _ in range(given.kills):
        node = random.choice(stage.nodes)
        await node.end(signal.SIGKILL)
        await node.start()
        await asyncio.sleep(random.uniform(0.2, 1.0))
    chats = await opening

    def missing() -> int:
        return sum(chat not in agent.heard for agent in agents for chat in chats)

    try:
        await until(lambda: not missing(), SETTLED)
    except TimeoutError:
        print("some are missing", file=sys.stderr)
    doubled, loads = sum(agent.doubled for agent in agents), sum(agent.loads for agent in agents)
    text = f"{missing()} missing, {doubled} doubled; {loads} lists loaded again"
    return line(f"{given.kills} kills, {len(chats)} chats", text, "0, 0", not missing() and not doubled)


async def measure(given: argparse.Namespace) -> int:
    """Measure and print. Returns the exit code."""
    published: dict[str, float] = {}
    async with staged(in_pairs(Session, 2)) as stage:  # of it only the nodes are used
        agents = [Agent(f"agent-{number}", published) for number in range(given.agents)]
        application = Application(stage.nodes, published)
        staying: list[Any] = [asyncio.create_task(agent.stay(stage.nodes)) for agent in agents]
        try:
            await until(lambda: all(agent.is_open for agent in agents), SETTLED)
            met = [
                await calm(agents, application, given.chats),
                await kills(agents, application, stage, given),
            ]
        finally:
            for task in staying:
                task.cancel()
            for agent in agents:
                agent.leave()
    return 0 if all(met) else 1


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inbox", description=__doc__)
    parser.add_argument("--agents", type=int, default=50, help="agents (50)")
    parser.add_argument("--chats", type=int, default=1000, help="new chats of each part (1000)")
    parser.add_argument("--kills", type=int, default=20, help="kills of a node (20)")
    given = parser.parse_args()
    return measured(measure(given))


if __name__ == "__main__":
    sys.exit(main())
