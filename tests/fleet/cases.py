"""The cases: what stands beside our nodes, what happens, and what may come of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tests.fleet.stage import Stage


@dataclass(frozen=True)
class Case:
    """A case, what it says of itself, and what its fleet needs."""

    name: str
    run: Callable[[Stage], Awaitable[None]]
    settings: dict[str, str] = field(default_factory=dict)
    old: bool = False
    replica: bool = False
    allowed_gap: float = 10.0
    refusals: int = 0
    unresumed: str = ""
    """Why ``recovered: false`` can't be avoided here; "" where it has to be."""


async def mixed(stage: Stage) -> None:
    """An old service beside two nodes, and an application that publishes itself. Old pages and new clients
    of one chat are on all three and write; the application writes, changes messages and assigns agents.
    """
    a, b = stage.fleet.nodes
    old, application, chat = stage.fleet.old, stage.fleet.application, "mixed"
    assert old is not None
    members = [
        stage.member(chat, a),
        stage.page(chat, a),
        stage.member(chat, b),
        stage.page(chat, b),
        stage.page(chat, old),
        stage.member(chat, old),
    ]
    await stage.joined()
    application.publishes = True
    times = int(12 * stage.size)

    async def write(number: int) -> None:
        await application.say(chat, number)
        if number % 2:
            await application.update(chat, application.saved_in[chat][-1])
        if number % 4 == 0:
            await application.join(chat)

    await asyncio.gather(stage.converse(members, int(10 * stage.size), 0.3), stage.repeat(times, 0.25, write))
    await stage.settled()
    await stage.type_in_turn(members)


async def moving(stage: Stage) -> None:
    """Old pages and new clients go from the old service to the nodes and back, while everybody writes, also
    those that stay where they are.
    """
    a, b = stage.fleet.nodes
    old, application, chat = stage.fleet.old, stage.fleet.application, "moving"
    assert old is not None
    stay = [stage.page(chat, a), stage.member(chat, b), stage.page(chat, old)]
    movers = [stage.member(chat, old), stage.page(chat, old), stage.member(chat, a), stage.page(chat, b)]
    await stage.joined()
    application.publishes = True
    ways = {
        0: [a, old, b, old, a, old],
        1: [b, old, a, old, b, old],
        2: [old, b, old, a, old, b],
        3: [old, a, old, b, old, a],
    }

    async def move(number: int) -> None:
        for at, mover in enumerate(movers):
            mover.move(ways[at][number])
            await asyncio.sleep(0.2)

    await asyncio.gather(
        stage.converse([*stay, *movers], 20, 0.5),
        stage.repeat(20, 0.5, lambda number: application.say(chat, number)),
        stage.repeat(6, 1.0, move),
    )
    await stage.settled()
    stage.row.note = f"{sum(len(m.visits) - 1 for m in movers)} moves"


CASES = [
    Case("mixed fleet", mixed, old=True),
    Case("moving over and back", moving, old=True),
]
