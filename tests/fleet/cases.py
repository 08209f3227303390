"""The cases: what runs beside our nodes, what happens, and what may result."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tests.application.stub import BYPASS, Fault
from tests.chaos.agent import Seat
from tests.chaos.run import until
from tests.fleet.members import Member
from tests.fleet.stage import Stage

SEEN_SECONDS = 20.0
"""Seconds until agents have to know everything; a member that has left is there for ten of them."""


@dataclass(frozen=True)
class Case:
    """A case, what it says of itself, and what its fleet needs."""

    name: str
    run: Callable[[Stage], Awaitable[None]]
    settings: dict[str, str] = field(default_factory=dict)
    old: bool = False
    replica: bool = False
    allowed_gap: float = 10.0
    refusals: int | None = 0
    edge: float = 1.0
    unresumed: str = ""
    """Why ``recovered: false`` can't be avoided here; "" where it has to be."""


async def mixed(stage: Stage) -> None:
    """An old service beside two nodes, and an application that publishes itself. Old pages and new clients
    of one chat are on all three: they write, type, and join as agents. The application writes, changes
    messages and assigns agents. Agents in several chats, who ask for presence and report what they read,
    see all of it, and nobody else notices that they do.
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

    async def join(number: int) -> None:
        members[2 * number + 1].join_as_agent()

    async with stage.agents(chat, "elsewhere") as seats:
        await asyncio.gather(
            stage.converse(members, int(10 * stage.size), 0.3),
            stage.repeat(times, 0.25, write),
            stage.repeat(3, 0.3, join),
        )
        await stage.settled()
        await stage.type_in_turn(members)
        await _see_everything(stage, [seat for seat in seats if seat.chat == chat], members)
    for member in members:
        joined = [name.split(":")[1] for name in member.known if name.startswith("agent_joined:user-")]
        stage.expect(sorted(joined) == ["user-1", "user-3", "user-5"], f"client {member.number} saw {joined}")


async def _see_everything(stage: Stage, seats: list[Seat], members: list[Member]) -> None:
    """Check what the agents have seen, and that the members have seen nothing that they didn't ask for."""
    saved = set(stage.fleet.application.saved_in["mixed"])
    on_nodes = {member.user for member in members if not member.on_old} | {seat.user for seat in seats}
    readers = {seat.user for seat in seats}

    def complete(seat: Seat) -> bool:
        return saved <= seat.known and seat.present == on_nodes and readers <= set(seat.shown)

    await until(lambda: all(map(complete, seats)), SEEN_SECONDS)
    for seat in seats:
        missed, wrong, unknown = saved - seat.known, seat.present ^ on_nodes, readers - set(seat.shown)
        stage.expect(not missed, f"{seat.user} missed {sorted(missed)}")
        stage.expect(not wrong, f"{seat.user} sees {sorted(seat.present)}, not {sorted(on_nodes)}")
        stage.expect(not unknown, f"{seat.user} doesn't know what {sorted(unknown)} have read")
    for member in members:
        stage.expect(not member.uninvited, f"client {member.number} got {set(member.uninvited)}")


async def moving(stage: Stage) -> None:
    """Old pages and new clients move from the old service to the nodes and back, while all clients write,
    including those that don't move.
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


async def numbers(stage: Stage) -> None:
    """The application's ids and times are numbers, in its answers and in what it publishes."""
    stage.fleet.application.numbers = True
    await _talk(stage)


async def no_sender(stage: Stage) -> None:
    """The application answers and publishes ``sender: null``."""
    stage.fleet.application.names_sender = False
    await _talk(stage)


async def redirected(stage: Stage) -> None:
    """The application redirects every path to the same path with a slash (308)."""
    stage.fleet.application.trailing_slash = True
    await _talk(stage)


async def protected(stage: Stage) -> None:
    """Deployment protection answers 401 without its header, which is in `ECLIPSE_API_HEADERS`."""
    stage.fleet.application.bypass = "let-me-in"
    await _talk(stage)


async def slow(stage: Stage) -> None:
    """The application takes three seconds for each answer."""
    stage.fleet.application.delay = 3.0
    await _talk(stage, each=2)


async def never(stage: Stage) -> None:
    """The application answers 500 to all messages of deleted users, which can never be saved; an old page and
    a new client write NUL once. All other messages are saved.
    """
    deleted = [stage.member("talk", node) for node in stage.fleet.nodes]
    for number, member in enumerate(deleted):
        member.account = f"deleted-{number}"

    async def write(number: int) -> None:
        for member in deleted:
            member.say()
        if number == 5:
            for member in (stage.members[-1], stage.members[-2]):
                member.say("\0")

    await asyncio.gather(_talk(stage), stage.repeat(10, 0.2, write))


async def long(stage: Stage) -> None:
    """Messages of 80,000 characters, with the default limits."""
    await _talk(stage, each=2, pause=1.0, padding="x" * 80_000)


async def burst(stage: Stage) -> None:
    """All clients write at once, and the application answers 500 to every third message."""
    stage.crowd(int(60 * stage.size))
    await stage.joined()
    application = stage.fleet.application
    application.publishes = True
    for member in stage.members:
        for _ in range(5):
            member.say()

    async def fail(number: int) -> None:
        application.fault = Fault("status", times=10)
        await asyncio.sleep(0.05)
        application.fault = Fault()

    await stage.repeat(10, 0.1, fail)
    await stage.settled()


async def _talk(stage: Stage, each: int = 5, pause: float = 0.3, padding: str = "") -> None:
    """Make new clients and an old page on each node write in one chat, and old pages on the old service."""
    talking: list[Member] = []
    for node in stage.fleet.nodes:
        talking += stage.member("talk", node), stage.member("talk", node), stage.page("talk", node)
    if stage.fleet.old is not None:
        talking += stage.page("talk", stage.fleet.old), stage.page("talk", stage.fleet.old)
    await stage.joined()
    stage.fleet.application.publishes = True
    await stage.converse(talking, each, pause, padding)
    await stage.settled()


async def failover(stage: Stage) -> None:
    """The primary and its replica swap roles (FAILOVER), and the name points to the new primary. Connections
    that stay with the old one get READONLY.
    """
    stage.crowd(int(200 * stage.size))
    await stage.joined()
    stage.chatter()
    await asyncio.sleep(4 * stage.size)
    stage.fault()
    await stage.fleet.fail_over()
    await _go_on(stage)


async def failover_behind(stage: Stage) -> None:
    """The same, but the new primary lacks the last second's writes: events that were delivered, and
    their cursors, no longer exist.
    """
    stage.crowd(int(200 * stage.size))
    await stage.joined()
    stage.chatter()
    await asyncio.sleep(4 * stage.size)
    stage.fault()
    await stage.fleet.fail_over_behind(1.0)
    await _go_on(stage)


async def quota(stage: Stage) -> None:
    """For ten seconds the provider answers each command with an error: the quota is used up."""
    stage.crowd(int(60 * stage.size))
    await stage.joined()
    stage.chatter()
    await asyncio.sleep(4 * stage.size)
    stage.fault()
    for provider in stage.fleet.providers:
        provider.refuse("ERR max requests limit exceeded. Limit: 500000, Usage: 500000")
    await asyncio.sleep(10 * stage.size)
    for provider in stage.fleet.providers:
        provider.accept()
    await _go_on(stage)


async def restarted(stage: Stage) -> None:
    """Redis is restarted from a snapshot four seconds old, while a third of the clients is disconnected."""
    await _go_back(stage, stage.fleet.restart)


async def restored(stage: Stage) -> None:
    """The same, but the snapshot is restored in place: no connection ends."""
    await _go_back(stage, stage.fleet.restore)


async def _go_back(stage: Stage, restore: Callable[[], Awaitable[None]]) -> None:
    stage.crowd(int(60 * stage.size))
    await stage.joined()
    stage.chatter()
    await asyncio.sleep(3)
    await stage.fleet.snapshot()
    await asyncio.sleep(1)
    for member in stage.members[::3]:
        member.stay_away(4)
    await asyncio.sleep(3)
    stage.fault()
    await restore()
    await _go_on(stage)


async def cut(stage: Stage) -> None:
    """The provider repeatedly cuts all connections, and refuses new ones for a while."""
    stage.crowd(int(60 * stage.size))
    await stage.joined()
    stage.chatter()
    await asyncio.sleep(2)
    stage.fault()
    for number in range(4):
        for provider in stage.fleet.providers:
            if number == 2:
                provider.turn_away("ERR max number of clients reached")
            provider.cut()
        await asyncio.sleep(2)
        for provider in stage.fleet.providers:
            provider.accept()
    await _go_on(stage)


async def _go_on(stage: Stage) -> None:
    """Wait until the nodes are healthy again, and check how it continues from there."""
    await stage.until_well()
    await asyncio.sleep(5 * stage.size)
    stage.stop_writing()
    await stage.settled()


DEAF = "events that the application published while no node was subscribed would be missed unnoticed"
LOST = "Redis lost the data of the last seconds"

CASES = [
    Case("mixed fleet", mixed, old=True),
    Case("moving over and back", moving, old=True),
    Case("numbers for ids", numbers, old=True),
    Case("no sender", no_sender, old=True),
    Case("redirecting", redirected),
    Case("deployment protection", protected, {"ECLIPSE_API_HEADERS": f"{BYPASS}: let-me-in"}),
    Case("slow application", slow),
    Case("never to be saved", never, refusals=22),
    Case("long messages", long),
    Case("some 500s in a burst", burst, refusals=None),
    Case("quota exceeded", quota, allowed_gap=15.0, edge=15.0, unresumed=DEAF),
    Case("failover", failover, replica=True, allowed_gap=15.0, edge=15.0, unresumed=DEAF),
    Case("failover behind", failover_behind, replica=True, allowed_gap=15.0, edge=15.0, unresumed=LOST),
    Case("restart from a snapshot", restarted, allowed_gap=15.0, edge=15.0, unresumed=LOST),
    Case("snapshot restored in place", restored, allowed_gap=15.0, edge=15.0, unresumed=LOST),
    Case("connections cut", cut, allowed_gap=15.0, edge=15.0, unresumed=DEAF),
]
