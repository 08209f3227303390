"""Where a case plays: the fleet, its members, and what they all do."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.chaos.agent import FIRST_NUMBER, Agent, Seat
from tests.chaos.cluster import NodeProcess
from tests.chaos.judge import missing
from tests.chaos.run import tick, until
from tests.fleet.fleet import Fleet
from tests.fleet.judge import Row
from tests.fleet.members import Member, OldPage

JOIN_SECONDS = 15.0
SETTLE_SECONDS = 30.0
TYPING_SECONDS = 3.0
WELL_SECONDS = 30.0
RATE = 0.5
"""Messages a second of each member of a crowd."""


@dataclass
class Stage:
    """What a case works on; ``size`` is 1 in the long form and less in the short one."""

    fleet: Fleet
    row: Row
    size: float = 1.0
    chance: random.Random = field(default_factory=lambda: random.Random(1))
    members: list[Member] = field(default_factory=list)

    @property
    def by_chat(self) -> dict[str, list[Member]]:
        """The members of each chat."""
        found: dict[str, list[Member]] = {}
        for member in self.members:
            found.setdefault(member.chat, []).append(member)
        return found

    def page(self, chat: str, *where: NodeProcess) -> OldPage:
        """Add an old page, on one of these services."""
        page = OldPage(self.fleet, chat, len(self.members), self.chance, list(where))
        page.edge = self.row.edge
        self.members.append(page)
        return page

    def member(self, chat: str, *where: NodeProcess) -> Member:
        """Add a new client, on one of these services."""
        member = Member(self.fleet, chat, len(self.members), self.chance, list(where))
        self.members.append(member)
        return member

    @asynccontextmanager
    async def agents(self, *chats: str) -> AsyncIterator[list[Seat]]:
        """An agent on each node, who uses everything that is new: a seat in each of the chats. Gives all
        seats; they are not judged with the members.
        """
        agents = []
        for at in range(len(self.fleet.nodes)):
            agents.append(Agent(self.fleet, FIRST_NUMBER + 2 * at, self.chance))
            agents[-1].home = at
        seats = [Seat(agent, chat, 0.0, self.chance) for agent in agents for chat in chats]
        ticking = asyncio.create_task(tick([*agents, *seats]))
        try:
            await until(lambda: all(seat.settled for seat in seats), JOIN_SECONDS)
            yield seats
        finally:
            ticking.cancel()
            for seat in seats:
                seat.close()

    async def joined(self) -> None:
        """Wait until all are connected."""
        if not await until(lambda: all(member.settled for member in self.members), JOIN_SECONDS):
            raise TimeoutError(f"not everybody could join in {JOIN_SECONDS:g} s")

    async def settled(self) -> None:
        """Wait until nothing is outstanding; the judge finds what is after a while."""
        application = self.fleet.application

        def nothing_left() -> bool:
            settled = all(member.settled for member in self.members)
            return settled and not missing(application, self.by_chat)

        await until(nothing_left, SETTLE_SECONDS)

    async def converse(self, members: Sequence[Member], each: int, pause: float, padding: str = "") -> None:
        """Make all of them write so many messages, each after ``pause`` seconds on average."""

        async def write(member: Member) -> None:
            for _ in range(each):
                await asyncio.sleep(self.chance.uniform(0, 2 * pause))
                member.say(padding)

        await asyncio.gather(*map(write, members))

    def crowd(self, clients: int) -> None:
        """Fill chats of two on both nodes, one of ten an old page; all write until `stop_writing`."""
        for number in range(clients):
            join = self.page if number % 10 == 5 else self.member
            join(f"{self.row.scenario.replace(' ', '-')}-{number // 2}", *self.fleet.nodes)

    def chatter(self) -> None:
        """Make everybody write every two seconds, and the application publish what is saved, too."""
        self.fleet.application.publishes = True
        for member in self.members:
            member.rate = RATE

    def stop_writing(self) -> None:
        """Stop all writing."""
        for member in self.members:
            member.rate = 0.0

    def fault(self) -> None:
        """Note that the fault begins."""
        self.row.began = time.monotonic()

    async def until_well(self) -> None:
        """Wait until both nodes are healthy and publish; the judge finds what follows if they don't."""
        since = time.monotonic()

        def publishes(node: NodeProcess) -> bool:
            return any(member.last_published.get(node.name, 0) > since for member in self.members)

        await until(lambda: all(map(publishes, self.fleet.nodes)), WELL_SECONDS)
        while time.monotonic() < since + WELL_SECONDS:
            found = [await node.health() for node in self.fleet.nodes]
            if all(health and health["status"] == "healthy" for health in found):
                return
            await asyncio.sleep(0.1)

    def expect(self, is_so: bool, sentence: str) -> None:
        """Record a fault with this text, unless it is as expected."""
        if not is_so:
            self.row.faults += 1
            self.row.say(sentence)

    async def repeat(self, times: int, pause: float, once: Callable[[int], Awaitable[None]]) -> None:
        """Do something so many times, with a pause before each."""
        for number in range(times):
            await asyncio.sleep(pause)
            await once(number)

    async def type_in_turn(self, members: Sequence[Member]) -> None:
        """Have each begin typing and stop: all others have to learn of it once, and the sender never.

        Members on the old service get it more than once, also their own.
        """
        for sender in members:
            user = sender.user
            sender.type(True)
            others = [member for member in members if member is not sender]
            await until(lambda: all(m.typing[user] for m in others), TYPING_SECONDS)  # noqa: B023
            sender.type(False)
        await asyncio.sleep(0.3)  # for copies that should not be
        for receiver in members:
            for sender in members:
                got = receiver.typing[sender.user]
                self.row.typing += 1
                right = got >= 1 if receiver.on_old else got == (receiver is not sender)
                if not right:
                    self.row.typing_wrong += 1
                    self.row.say(f"typing of {sender.number} came {got} times to {receiver.number}")
