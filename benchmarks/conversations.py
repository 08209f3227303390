"""`python -m benchmarks.conversations`: 50 agents with 200 chats each, 10,000 chats on one core.

Each chat has a visitor's side, too: 50 further sessions speak in 200 chats each, so that every event has one
receiver. Measured: how long one agent that reconnects takes, from its connect() to the first event and to the
last of 200 joined chats, while all others are there; how long all agents together take; and the server's CPU
time for an event: with receivers in one chat, with the same receivers in 200 chats, one of which speaks, and
with 10,000 chats that speak in turn. Prints measurements against targets; exit code 1 where one is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec

from benchmarks.processes import SERVER_CORE, CannotRunError, Process, command, cpu_seconds, measured
from benchmarks.servers import JWT_SECRET, environment
from benchmarks.websocket import WebSocket
from eclipse_ws.commands.tokens import mint
from tests.servers import free_port

FIRST_EVENT: Final = 300.0  # ms
COST: Final = 1.15  # times; the rest is noise
WAIT: Final = 60.0  # s
IN_FLIGHT: Final = 4
"""Events of one speaker on their way."""


class Session(WebSocket):
    """One session: joins its chats in one frame, and speaks in them."""

    def __init__(self, user: str, chats: list[str]) -> None:
        self.chats = chats
        self._target = f"/ws?token={quote(mint(JWT_SECRET, chats[0], user, True, more={'chatIds': chats}))}"
        self._join = msgspec.json.encode({"type": "join", "chats": [{"chatId": each} for each in chats]})
        self.joined = self.heard = 0
        self.first = self.last = 0.0
        self.changed = asyncio.Event()

    def path(self) -> str:
        """See `WebSocket`."""
        return self._target

    def hear(self, text: bytes) -> None:
        """Count, and note when the first and the last chat was joined."""
        if text.startswith(b'{"type":"connected"'):
            self.send(self._join)
        elif text.startswith(b'{"type":"joined"'):
            self.last = time.perf_counter()
            self.first = self.first or self.last
            self.joined += 1
        elif text.startswith(b'{"type":"error"'):
            raise CannotRunError(text.decode())
        else:
            self.heard += 1
        self.changed.set()

    def speak(self, spread: bool) -> None:
        """Send an event into its first chat, or into any of them."""
        chat = random.choice(self.chats) if spread else self.chats[0]
        self.send(b'{"type":"typing","isTyping":true,"chatId":"%b"}' % chat.encode())

    async def connect(self, port: int) -> float:
        """Connect, and wait until all chats are joined. Returns when it began."""
        self.begin()
        self.joined, self.first = 0, 0.0
        began = time.perf_counter()
        await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", port)
        await self.until(lambda: self.joined == len(self.chats))
        return began

    async def until(self, condition: Any) -> None:
        """Wait for something that what is heard makes true. Raises TimeoutError."""
        async with asyncio.timeout(WAIT):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


async def reconnects(agents: list[Session], port: int, times: int) -> tuple[list[float], list[float]]:
    """Milliseconds to the first joined chat and to the last one, of one agent at a time."""
    first, last = [], []
    for agent in (agents * times)[:times]:
        agent.transport.close()
        began = await agent.connect(port)
        first.append((agent.first - began) * 1000)
        last.append((agent.last - began) * 1000)
    return first, last


async def cost(
    pairs: list[tuple[Session, Session]], running: Process, events: int, *, spread: bool = False
) -> float:
    """CPU microseconds of the server for an event, sent by a speaker and heard by its agent.

    The median of three runs after a first one. ``spread``: into all chats, not only into one of each agent.
    """
    await talk(pairs, events // 4, spread)
    costs = []
    for _ in range(3):
        before = cpu_seconds(running.pids())
        count = await talk(pairs, events, spread)
        costs.append((cpu_seconds(running.pids()) - before) / count * 1e6)
    return statistics.median(costs)


async def talk(pairs: list[tuple[Session, Session]], events: int, spread: bool) -> int:
    """Send events, and wait until all are heard. Returns how many they were."""
    each = events // len(pairs)

    async def pair(speaker: Session, agent: Session) -> None:
        begun, sent = agent.heard, 0
        while agent.heard - begun < each:
            while sent < each and sent - (agent.heard - begun) < IN_FLIGHT:
                speaker.speak(spread)
                sent += 1
            agent.changed.clear()
            await asyncio.wait_for(agent.changed.wait(), WAIT)

    await asyncio.gather(*(pair(speaker, agent) for agent, speaker in pairs))
    return each * len(pairs)


@contextlib.contextmanager
def server() -> Iterator[Process]:
    """The server on a core of its own; nobody asks it for the application."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        argv = [*command(), "run", "--profile", "bench", "--port", str(port)]
        running = Process(argv, port, SERVER_CORE, environment(free_port()), Path(folder))
        try:
            yield running
        finally:
            running.stop()


def pairs_of(agents: int, chats: int) -> list[tuple[Session, Session]]:
    """Each agent with so many chats, and the speaker in the same chats."""
    made = []
    for number in range(agents):
        names = [f"chat-{number}-{chat}" for chat in range(chats)]
        made.append((Session(f"agent-{number}", names), Session(f"visitor-{number}", names)))
    return made


async def connected(pairs: Iterable[tuple[Session, Session]], port: int) -> float:
    """Connect everybody; milliseconds until the last agent has joined its last chat."""
    speakers = [speaker.connect(port) for _, speaker in pairs]
    await asyncio.gather(*speakers)
    began = time.perf_counter()
    await asyncio.gather(*(agent.connect(port) for agent, _ in pairs))
    return (time.perf_counter() - began) * 1000


async def measure(agents: int, chats: int, events: int, times: int) -> int:
    """Measure and print. Returns the exit code. Raises CannotRunError."""
    with server() as running:
        port = running.port
        few = pairs_of(agents, 1)
        await connected(few, port)
        one = await cost(few, running, events)
        for session in (each for pair in few for each in pair):
            session.transport.close()
        many = pairs_of(agents, chats)
        together = await connected(many, port)
        several = await cost(many, running, events)
        spread = await cost(many, running, events, spread=True)
        first, last = await reconnects([agent for agent, _ in many], port, times)
        for session in (each for pair in many for each in pair):
            session.transport.close()
    ratio = several / one
    slowest = max(first)
    print(f"{agents} agents with {chats} chats each, {agents * chats:,} chats on one core")
    print(f"all agents connect and join at once                 {together:9.0f} ms")
    print(
        f"one reconnects: first event, median / slowest of {times:<3} {statistics.median(first):7.1f} / "
        f"{slowest:.1f} ms   target < {FIRST_EVENT:.0f}: {_met(slowest < FIRST_EVENT)}"
    )
    print(f"                all {chats} chats joined               {statistics.median(last):9.1f} ms")
    print(f"an event, receivers in one chat                     {one:9.1f} us of CPU")
    print(
        f"an event, receivers in {chats} chats                   {several:9.1f} us of CPU, "
        f"{ratio:.2f} times   target < {COST}: {_met(ratio < COST)}"
    )
    print(f"an event, and {agents * chats:,} chats speak                  {spread:9.1f} us of CPU")
    return 0 if slowest < FIRST_EVENT and ratio < COST else 1


def _met(met: bool) -> str:
    return "met" if met else "MISSED"


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conversations", description=__doc__)
    parser.add_argument("--agents", type=int, default=50, help="sessions of agents (50)")
    parser.add_argument("--chats", type=int, default=200, help="chats of each agent (200)")
    parser.add_argument("--events", type=int, default=20_000, help="events of each measurement (20,000)")
    parser.add_argument("--times", type=int, default=50, help="reconnects (50)")
    given = parser.parse_args()
    return measured(measure(given.agents, given.chats, given.events, given.times))


if __name__ == "__main__":
    sys.exit(main())
