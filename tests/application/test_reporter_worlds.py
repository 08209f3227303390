"""Whatever happens to nodes, backend and application: reports make sense, and end with the truth."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import pytest

from eclipse_ws.application import report_queue, reporter
from eclipse_ws.backends.ledger import MemoryLedger
from eclipse_ws.delivery import presence_here, presence_notes
from tests.application.reporter_world import Application, Reporting
from tests.delivery import test_presence_worlds
from tests.delivery.presence_world import truth
from tests.delivery.test_presence_worlds import CHATS, USERS, Mute
from tests.delivery.world import Hurried

WORLDS = int(os.environ.get("ECLIPSE_TEST_WORLDS", "12"))
"""How many are tried: a thousand take some minutes."""
QUIET = 150.0
"""Seconds after which everything has to be told: a takeover, and the longest pauses of a reporter."""


class World(test_presence_worlds.World):
    """Nodes that come and go, their users, and an application that fails at times."""

    quiet = QUIET

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.shared = MemoryLedger()
        self.application = Application(self.chance, self.trouble)
        self.reads: dict[tuple[str, str], str] = {}
        self.read_last = 0

    async def node(self) -> Reporting:
        """Start one."""
        self.names += 1
        backend = Mute(self.server, f"n{self.names}", self.trouble)
        node = Reporting(backend, asyncio.get_running_loop().time, self.shared, self.application)
        if self.beats:
            backend.beacon_interval = 10.0
            self.beating.append(asyncio.create_task(self.beat(node)))
        return await node.start()

    async def step(self) -> None:
        """One thing happens."""
        what = self.chance.random()
        if what < 0.03:
            self.application.is_down = not self.application.is_down
        elif what < 0.1:
            self.read()
        await super().step()

    def read(self) -> None:
        """A user reads further, and the nodes hear it that hear anything."""
        chat_id, user_id = self.chance.choice(CHATS), self.chance.choice(USERS)
        self.read_last += 1
        for node in self.nodes:
            assert isinstance(node, Reporting)
            node.read(chat_id, user_id, f"m{self.read_last}")
        self.reads[chat_id, user_id] = f"m{self.read_last}"

    def calm(self) -> None:
        """See the base."""
        super().calm()
        self.application.trouble, self.application.is_down = 0, False
        # A read that only nodes have heard that are gone by now may be lost.
        self.reads.clear()
        for _ in range(10):
            self.read()

    def check(self) -> None:
        """The application knows the truth."""
        super().check()
        for chat_id in CHATS:
            told, true = self.application.chats[chat_id], truth(self.nodes, chat_id)
            assert told.occupied == bool(true), (chat_id, true)
            if max(len(node.here[chat_id]) for node in self.nodes) <= presence_notes.LISTED:
                assert told.users.keys() == true.keys(), (chat_id, true)
            else:
                assert told.users.keys() <= true.keys(), (chat_id, true)
        for (chat_id, user_id), message_id in self.reads.items():
            assert self.application.chats[chat_id].reads.get(user_id) == message_id
        assert sum(node.reporter.is_reporting for node in self.nodes if isinstance(node, Reporting)) == 1

    async def check_going(self) -> None:
        """When all have gone, all chats are vacated, and nothing is left in the ledger."""
        for node in self.nodes:
            for chat_id in CHATS:
                for user_id in USERS:
                    node.go(chat_id, user_id)
        await asyncio.sleep(self.quiet)
        assert not any(told.occupied for told in self.application.chats.values())
        assert not await self.shared.read()
        for node in self.nodes:
            assert isinstance(node, Reporting)
            assert not node.reporter.waiting
            assert not node.presence._known.told.keys() - node.presence._watchers.keys()


def run(seed: int) -> None:
    """One world."""
    with asyncio.Runner(loop_factory=Hurried) as runner:
        runner.run(World(seed).run())


@pytest.mark.parametrize("seed", range(WORLDS))
def test_the_application_knows_the_truth(seed: int, expect_log: Callable[..., None]) -> None:
    """Each report fits those before it, and in the end the application knows who is there."""
    expect_log("reports not taken", "ledger not", optional=True)
    run(seed)


@pytest.mark.parametrize("seed", range(WORLDS))
def test_small_bounds(seed: int, monkeypatch: pytest.MonkeyPatch, expect_log: Callable[..., None]) -> None:
    """Also where hardly anything may wait, batches and writes are small, and one turn sees few chats."""
    expect_log("reports not taken", "ledger not", optional=True)
    monkeypatch.setattr(report_queue, "MAX_WAITING", 8)
    monkeypatch.setattr(report_queue, "MAX_OF_CHAT", 4)
    for module in (reporter, report_queue):
        monkeypatch.setattr(module, "MAX_BATCH", 3)
    monkeypatch.setattr(reporter, "MAX_RECORDS", 2)
    monkeypatch.setattr(presence_here, "SURVEYED", 1)
    run(seed)
