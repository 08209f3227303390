"""Where a case plays: the fleet, its members, and what they all do."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from tests.chaos.cluster import NodeProcess
from tests.chaos.judge import missing
from tests.chaos.run import until
from tests.fleet.fleet import Fleet
from tests.fleet.judge import Row
from tests.fleet.members import Member, OldPage

JOIN_SECONDS = 15.0
SETTLE_SECONDS = 30.0
TYPING_SECONDS = 3.0


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
        self.members.append(page)
        return page

    def member(self, chat: str, *where: NodeProcess) -> Member:
        """Add a new client, on one of these services."""
        member = Member(self.fleet, chat, len(self.members), self.chance, list(where))
        self.members.append(member)
        return member

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

    async def converse(self, members: Sequence[Member], each: int, pause: float) -> None:
        """Have all of them write so many messages, each after ``pause`` seconds on average."""

        async def write(member: Member) -> None:
            for _ in range(each):
                await asyncio.sleep(self.chance.uniform(0, 2 * pause))
                member.say()

        await asyncio.gather(*map(write, members))

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
