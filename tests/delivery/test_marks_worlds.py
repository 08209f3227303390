"""Read positions over nodes that fail in every way: never backwards, and the same on all in the end."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import defaultdict
from typing import Any

import pytest

from eclipse_ws.backends.base import Unavailable
from eclipse_ws.backends.marks import Mark
from eclipse_ws.delivery.delivery import Delivery
from eclipse_ws.delivery.marks import ReadPosition, UnknownMessageError
from eclipse_ws.protocol import Cursor, Event
from tests.conftest import make_settings
from tests.delivery.world import KEPT, Flaky, Hurried, Server, message

CHAT, USERS, STEPS = "a", ("u", "v", "w"), 200


class _Backend(Flaky):
    """A backend that remembers which marks it has taken."""

    def __init__(self, server: Server, address: str, trouble: float) -> None:
        super().__init__(server, address, trouble)
        self.taken: list[tuple[str, Mark]] = []

    async def mark(self, chat_id: str, name: str, mark: Mark, note: bytes) -> bool:
        """See the contract."""
        kept = await super().mark(chat_id, name, mark, note)
        if kept:
            self.taken.append((name, mark))
        return kept


class _Node:
    """Delivery whose subscriber sees that no position moves backwards in its epoch."""

    def __init__(self, server: Server, address: str, trouble: float) -> None:
        self.backend = _Backend(server, address, trouble)
        settings = make_settings(backend="memory", history_events=KEPT, history_seconds=1000)
        self.delivery = Delivery(settings, self.backend, asyncio.get_running_loop().time)
        self.told: dict[str, list[Cursor]] = defaultdict(list)

    def deliver(self, chat_id: str, event: Event) -> None:
        """See `Subscriber`."""

    def interrupt(self, chat_id: str) -> None:
        """See `Subscriber`."""

    def answer(self, question: Any) -> Any:
        """See `Subscriber`."""

    def marked(self, chat_id: str, name: str, mark: Mark) -> None:
        """See `Subscriber`."""
        assert mark.cursor is not None
        for before in self.told[name]:
            assert before.epoch != mark.cursor.epoch or before.offset < mark.cursor.offset, (before, mark)
        self.told[name].append(mark.cursor)


async def _live(seed: int) -> None:
    chance = random.Random(seed)
    server = Server(chance)
    nodes = [_Node(server, str(number), chance.choice([0, 0.05, 0.2])) for number in range(2)]
    for node in nodes:
        await node.delivery.start(node)
        await node.delivery.subscribe(CHAT)
    began: list[asyncio.Task[Any]] = []

    async def read(node: _Node, user: str, number: int, given: Cursor | None) -> None:
        with contextlib.suppress(Unavailable, UnknownMessageError):
            await node.delivery.marks.read(CHAT, ReadPosition(user, "user", str(number)), given)

    count = 0
    for _ in range(STEPS):
        node, what = chance.choice(nodes), chance.random()
        if what < 0.35:
            began.append(asyncio.create_task(node.delivery.publish(CHAT, message(count))))
            count += 1
        elif what < 0.8:
            at = node.delivery.position(CHAT)
            given = at and Cursor(at.epoch, chance.randint(0, at.offset + 1))
            number = chance.randint(max(0, count - KEPT), count)
            began.append(asyncio.create_task(read(node, chance.choice(USERS), number, given)))
        elif what < 0.88:
            node.backend.heal()
        elif what < 0.92:
            node.backend.deafen()
        elif what < 0.94:
            node.backend.commands = False
            node.backend.deafen()
        await asyncio.sleep(chance.choice([0, 0, 0.001, 0.01, 0.1, 1]))
    await asyncio.gather(*began)
    for node in nodes:
        node.backend.trouble = 0
        node.backend.heal()
    await asyncio.sleep(100)
    kept = server.log(CHAT).marks
    for node in nodes:
        chat = node.delivery._subscriptions.get(CHAT)
        assert chat is not None
        assert ({} if chat.marks is None else chat.marks.known) == kept
        assert {f"read:{each.user_id}" for each in node.delivery.marks.positions(CHAT)} == set(kept)
        assert all(node.told[name][-1] == mark.cursor for name, mark in kept.items())
    for name, mark in (each for node in nodes for each in node.backend.taken):
        last = kept[name].cursor
        assert last is not None
        assert mark.cursor is not None
        assert last.epoch != mark.cursor.epoch or last.offset >= mark.cursor.offset
    for node in nodes:
        await node.delivery.close()


@pytest.mark.parametrize("seed", range(60))
def test_positions_of_two_nodes(seed: int, expect_log: Any) -> None:
    """No node sees a position move backwards, and none that was taken is lost."""
    expect_log(".*", optional=True)
    with asyncio.Runner(loop_factory=Hurried) as runner:
        runner.run(_live(seed))
