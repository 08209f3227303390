"""`python -m benchmarks.presence`: who is told to be in a chat when nodes are killed, and what that costs.

Two nodes on one Redis, 1,000 users in 500 chats, and an agent on each node who watches all of them. Measured:
how many Redis commands the idle nodes send, before the agents watch and while they do; what the agents are
told when 100 users reload their pages; how long a killed node's users stay; and whom the agents take for
present, wrongly or not, after so many random kills, in which users move to the other node, return, or stay
away. Prints measurements against targets; exit code 1 where one is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import quote

import msgspec

from benchmarks.drain import SECRET, Node
from benchmarks.processes import measured
from benchmarks.redis_commands import Commands
from benchmarks.websocket import WebSocket
from eclipse_ws.commands.tokens import mint
from tests.servers import RedisServer, default_server

GONE: Final = 20.0  # s
GROWTH: Final = 10.0  # per cent
WAIT: Final = 60.0  # s
SETTLED: Final = 21.0
"""Seconds after which everything that was told has to be true."""
RELOAD: Final = 8.0
"""Seconds for which a page that is loaded again is away, at most."""


class Session(WebSocket):
    """A user in a chat, on one node after the other."""

    def __init__(self, user: str, chats: list[str], *, begins_in_none: bool = False) -> None:
        self.user, self.chats = user, chats
        claims = {"chatIds": chats, **({"chatId": None} if begins_in_none else {})}
        token = mint(SECRET, chats[0], user, True, more=claims)
        self._target = f"/ws?token={quote(token)}"
        self.is_open = False

    def path(self) -> str:
        """See `WebSocket`."""
        return self._target

    def hear(self, text: bytes) -> None:
        """Note the greeting."""
        self.is_open = self.is_open or text.startswith(b'{"type":"connected"')

    def connection_lost(self, error: Exception | None) -> None:
        """Note the end."""
        self.is_open = False

    async def connect(self, node: Node) -> None:
        """Connect, and wait for the greeting. Raises OSError, TimeoutError."""
        self.begin()
        await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", node.port)
        await until(lambda: self.is_open, 5.0)

    def leave(self) -> None:
        """Close the connection, as a page does that is closed."""
        if self.is_open:
            self.transport.close()
            self.is_open = False


S = TypeVar("S", bound=Session)


class Agent(Session):
    """An agent who joins all chats and, once ``watches`` is set, connects to watch them."""

    watches = False

    def __init__(self, user: str, chats: list[str]) -> None:
        super().__init__(user, chats)
        self._join = msgspec.json.encode({"type": "join", "chats": [{"chatId": each} for each in chats]})
        self.present: dict[str, set[str]] = defaultdict(set)
        self.listed: set[str] = set()
        """Chats of which this connection has had the list, or in which it is, if it doesn't watch them."""
        self.changes: list[tuple[float, str, bool]] = []
        """When it was told that a user has come (True) or gone."""

    def path(self) -> str:
        """See `WebSocket`."""
        return self._target + ("&events=presence" if self.watches else "")

    def hear(self, text: bytes) -> None:
        """Follow what is told."""
        event = msgspec.json.decode(text)
        if event["type"] == "connected":
            self.is_open = True
            self.listed.clear()
            self.send(self._join)
        elif event["type"] == "joined" and not self.watches:
            self.listed.add(event["chatId"])
        elif event["type"] == "presence":
            chat, data = event.get("chatId") or self.chats[0], event["data"]
            if "users" in data:
                self.present[chat] = {user["userId"] for user in data["users"]}
                self.listed.add(chat)
            else:
                change = self.present[chat].add if data["online"] else self.present[chat].discard
                change(data["userId"])
                self.changes.append((time.monotonic(), data["userId"], data["online"]))


class Stage:
    """The nodes, the users and the agents."""

    def __init__(
        self,
        folder: Path,
        server: RedisServer,
        users: Sequence[Session],
        names: str = "AB",
        more: Mapping[str, str] | None = None,
    ) -> None:
        """A node for each letter of ``names``, with ``more`` environment variables; two users in a chat."""
        self.redis_port = server.port
        variables = {
            "JWT_SECRET": SECRET,
            "INTERNAL_API_SECRET": SECRET,
            "NEXT_API_URL": "http://127.0.0.1:9",
            "REDIS_URL": server.url,
            "LOG_LEVEL": "error",
            "ECLIPSE_MAX_SESSIONS_PER_ADDRESS": "100000",
            **(more or {}),
        }
        self.nodes = [Node(name, folder, variables) for name in names]
        self.users = users
        chats = [user.chats[0] for user in users[::2]]
        self.agents = [Agent(f"agent-{node.name}", chats) for node in self.nodes]

    def wrong(self) -> int:
        """How many users the agents take to be where they aren't, or miss."""
        everybody: dict[str, set[str]] = defaultdict(set)
        for session in (*self.users, *self.agents):
            for chat in session.chats if session.is_open else ():
                everybody[chat].add(session.user)
        return sum(
            len(agent.present[chat] ^ everybody[chat])
            for agent in self.agents
            if agent.is_open
            for chat in agent.chats
        )

    async def connect(self, sessions: Sequence[Session], node: Node) -> None:
        """Connect sessions, a hundred at a time."""
        for at in range(0, len(sessions), 100):
            await asyncio.gather(*(each.connect(node) for each in sessions[at : at + 100]))

    async def commands(self, seconds: float) -> float:
        """Redis commands a second that the nodes send."""
        async with Commands(self.redis_port) as commands:
            await asyncio.sleep(seconds)
            return commands.count / seconds

    # -- what is measured -------------------------------------------------------------------------

    async def idle(self, seconds: float) -> bool:
        """Compare the idle nodes' commands, with agents who watch and who don't."""
        await self.connect(self.users, self.nodes[0])
        await self._connect_agents()
        before = await self.commands(seconds)
        for agent in self.agents:
            agent.leave()
            agent.watches = True
        await self._connect_agents()
        await until(lambda: not self.wrong(), SETTLED)
        after = await self.commands(seconds)
        growth = 100 * (after / before - 1)
        return line(
            "idle Redis commands",
            f"{before:.2f} a second, {after:.2f} with presence ({growth:+.0f} %)",
            f"at most +{GROWTH:.0f} %",
            growth <= GROWTH,
        )

    async def _connect_agents(self) -> None:
        for agent, node in zip(self.agents, self.nodes, strict=True):
            await agent.connect(node)
        await until(lambda: all(len(agent.listed) == len(agent.chats) for agent in self.agents), WAIT)
        await asyncio.sleep(5)

    async def reload(self) -> bool:
        """Load a hundred pages again. Returns whether the agents were told nothing."""
        for agent in self.agents:
            agent.changes.clear()

        async def once(user: Session) -> None:
            user.leave()
            await asyncio.sleep(random.uniform(0, RELOAD))
            await user.connect(random.choice(self.nodes))

        await asyncio.gather(*map(once, random.sample(self.users, min(100, len(self.users)))))
        await asyncio.sleep(12)
        told = sum(len(agent.changes) for agent in self.agents)
        return line("100 reloads within 8 s", f"{told} changes told", "0", not told)

    async def kill(self) -> bool:
        """Kill the node of nearly all users. Returns whether they were gone everywhere in time."""
        node, agent = self.nodes[0], self.agents[1]
        before = {user for users in agent.present.values() for user in users}
        agent.changes.clear()
        began = time.monotonic()
        await node.end(signal.SIGKILL)
        await asyncio.sleep(1)
        await until(lambda: not self.wrong(), WAIT)
        gone = [at - began for at, user, online in agent.changes if not online and user in before]
        slowest = max(gone, default=0.0)
        median = statistics.median(gone) if gone else 0.0
        await node.start()
        return line(
            f"{len(gone)} users in chats, node killed",
            f"gone after {median:.1f} s, the last after {slowest:.1f} s",
            f"< {GONE:.0f} s",
            0 < slowest < GONE,
        )

    async def kills(self, count: int) -> bool:
        """Kill nodes at random, while users move about. Returns whether nobody is wrongly there or missed."""
        for _ in range(count):
            node = random.choice(self.nodes)
            await node.end(signal.SIGKILL)
            starting = asyncio.create_task(node.start())
            other = next(each for each in self.nodes if each is not node)
            away = [user for user in self.users if not user.is_open and random.random() < 0.8]
            moving = [self._return(user, other) for user in away]
            moving += [self._return(agent, other) for agent in self.agents if not agent.is_open]
            await asyncio.gather(*moving)
            await starting
        await asyncio.sleep(SETTLED)
        wrong = self.wrong()
        return line(f"{count} random kills", f"{wrong} ghosts or missing", "0", not wrong)

    async def _return(self, session: Session, node: Node) -> None:
        await asyncio.sleep(random.uniform(0, 2))
        with contextlib.suppress(OSError, TimeoutError):
            await session.connect(node)


def in_pairs(kind: type[S], users: int) -> list[S]:
    """So many users, two in a chat."""
    return [kind(f"user-{number}", [f"chat-{number // 2}"]) for number in range(users)]


def line(what: str, measured: str, target: str, met: bool) -> bool:
    """Print one line of the report. Returns whether the target is met."""
    print(f"{what:<30} {measured:<60} target {target}: {'met' if met else 'MISSED'}", flush=True)
    return met


async def until(condition: Callable[[], bool], seconds: float) -> None:
    """Wait for a condition. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def staged(
    users: Sequence[Session], names: str = "AB", more: Mapping[str, str] | None = None
) -> AsyncIterator[Stage]:
    """A Redis and nodes, see `Stage`, with users and agents that are not connected yet."""
    server = RedisServer(default_server()).start()
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(Path(folder), server, users, names, more)
        try:
            await asyncio.gather(*(node.start() for node in stage.nodes))
            yield stage
        finally:
            for session in (*stage.users, *stage.agents):
                session.leave()
            for node in stage.nodes:
                if node.process is not None and node.process.poll() is None:
                    await node.end(signal.SIGKILL)
            server.stop()


async def measure(users: int, seconds: float, kills: int) -> int:
    """Measure and print. Returns the exit code."""
    async with staged(in_pairs(Session, users)) as stage:
        met = [await stage.idle(seconds), await stage.reload(), await stage.kill(), await stage.kills(kills)]
    return 0 if all(met) else 1


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.presence", description=__doc__)
    parser.add_argument("--users", type=int, default=1000, help="users, two in a chat (1000)")
    parser.add_argument("--seconds", type=float, default=60, help="of each count of commands (60)")
    parser.add_argument("--kills", type=int, default=100, help="random kills (100)")
    given = parser.parse_args()
    return measured(measure(given.users, given.seconds, given.kills))


if __name__ == "__main__":
    sys.exit(main())
