"""Whatever happens to nodes and their network, who watches a chat sees exactly who is there in the end."""

from __future__ import annotations

import asyncio
import os
import random
from typing import Any

import pytest

from eclipse_ws.delivery import presence_notes, presence_peer, presence_sender, presence_view
from eclipse_ws.delivery.census import REMEMBERED
from tests.delivery.presence_world import Node, truth
from tests.delivery.world import Flaky, Hurried, Server

WORLDS = int(os.environ.get("ECLIPSE_TEST_WORLDS", "12"))
"""How many are tried: a thousand take some minutes."""
CHATS = ("a", "b", "c")
USERS = tuple("uvwxyz")
ROLES = ("user", "user", "agent", "assistant")
STEPS = 150
QUIET = 60.0
"""Seconds after which everything has to be right: silence, patience and grace, and what is asked again."""


class Mute(Flaky):
    """A backend that may lose what it is to send, without noticing."""

    is_mute = False

    async def send(self, note: bytes, address: str = "") -> int:
        """See the contract."""
        return 1 if self.is_mute else await super().send(note, address)


class World:
    """Three nodes, which come and go, their users, and who watches."""

    quiet = QUIET

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.server = Server(self.chance)
        self.trouble = self.chance.choice([0, 0, 0.02, 0.2])
        self.beats = self.chance.random() < 0.5
        self.nodes: list[Node] = []
        self.names = 0
        self.beating: list[asyncio.Task[None]] = []

    async def node(self) -> Node:
        """Start one."""
        self.names += 1
        backend = Mute(self.server, f"n{self.names}", self.trouble)
        node = Node(backend, asyncio.get_running_loop().time)
        if self.beats:
            backend.beacon_interval = 10.0
            self.beating.append(asyncio.create_task(self.beat(node)))
        return await node.start()

    async def beat(self, node: Node) -> None:
        """What a backend's heartbeat does."""
        while True:
            await asyncio.sleep(10)
            backend: Any = node.backend
            if backend.beacon and backend.health.state == "up" and not (node.dead or backend.is_mute):
                for other in self.server.nodes.values():
                    if other.subscriber:
                        other.hear("", backend.beacon)

    async def run(self) -> None:
        """Let it all happen, then let it calm down, and look."""
        self.nodes = [await self.node() for _ in range(3)]
        for _ in range(STEPS):
            await self.step()
        self.calm()
        await asyncio.sleep(self.quiet)
        self.check()
        await self.check_going()
        for node in self.nodes:
            await node.close()
        for task in self.beating:
            task.cancel()
        await asyncio.gather(*self.beating, return_exceptions=True)
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not left, left

    def calm(self) -> None:
        """From now on nothing fails."""
        for node in self.nodes:
            backend: Any = node.backend
            backend.trouble, backend.is_mute = 0, False
            backend.heal()

    def check(self) -> None:
        """Every watcher sees the truth."""
        for node in self.nodes:
            for chat_id, seen in node.seen.items():
                true = truth(self.nodes, chat_id)
                where = f"{chat_id} on {node.backend.address}: {true}"
                counts = [len(each.here[chat_id]) for each in self.nodes]
                # Those of a node who are not listed may also be on another one.
                most = len(true) if max(counts) <= presence_notes.LISTED else sum(counts)
                assert seen.begun, f"{where}, no roster"
                assert len(true) <= seen.count <= most, f"{where}, {seen.count} seen"
                if seen.count <= presence_notes.LISTED:
                    assert seen.users == true, f"{where}, {seen.users} seen"
                roster = node.presence.roster(chat_id)
                assert roster is not None
                assert roster.total == seen.count
                assert {user_id for user_id, _ in roster.users} <= true.keys(), f"{where}, {roster}"
            if node.census is not None:
                assert node.presence.is_census_complete
                for chat_id in CHATS:
                    counted = {user_id: here.role for user_id, here in node.census.users(chat_id).items()}
                    true = truth(self.nodes, chat_id)
                    where = f"{chat_id} on {node.backend.address}: {true}"
                    # Of a node's crowd only some are listed.
                    if max(len(each.here[chat_id]) for each in self.nodes) <= presence_notes.LISTED:
                        assert counted == true, f"{where}, {counted} counted"
                    else:
                        assert counted.keys() <= true.keys(), f"{where}, {counted} counted"
                        assert counted

    async def check_going(self) -> None:
        """When all have gone nothing is left of them anywhere."""
        for node in self.nodes:
            for chat_id in CHATS:
                node.unwatch(chat_id)
                for user_id in USERS:
                    node.go(chat_id, user_id)
        await asyncio.sleep(QUIET + REMEMBERED)
        for node in self.nodes:
            assert node.census is None or not list(node.census.chats())
            node.stop_counting()
        await asyncio.sleep(QUIET)
        for node in self.nodes:
            known = node.presence
            assert not (known._views or known._mine or known._watchers or known._due or known._waiting)
            assert not (known._known.told or known._sender.changed or known._sender.watching)
            assert not (known._known.surveying or known._here.has_takers)
            assert not any(peer.there for peer in known._peers.values())
            assert not node.backend.beacon

    async def step(self) -> None:
        """One thing happens."""
        node, chat_id = self.chance.choice(self.nodes), self.chance.choice(CHATS)
        what = self.chance.random()
        if what < 0.35:
            node.come(chat_id, self.chance.choice(USERS), self.chance.choice(ROLES))
        elif what < 0.6:
            node.go(chat_id, self.chance.choice(USERS))
        elif what < 0.75:
            node.watch(chat_id)
        elif what < 0.8:
            node.unwatch(chat_id)
        elif what < 0.82:
            node.count() if node.census is None else node.stop_counting()
        elif what < 0.94:
            self.fail(node)
        else:
            await self.replace(node)
        await asyncio.sleep(self.chance.choice([0, 0, 0, 0.001, 0.01, 0.1, 1, 5, 30 if what > 0.9 else 0]))

    def fail(self, node: Node) -> None:
        """Something of a node's backend fails, or works again."""
        backend: Any = node.backend
        what = self.chance.choice(["heal", "heal", "heal", "deafen", "cut", "refuse", "move", "mute"])
        if what == "heal":
            backend.heal()
            backend.is_mute = False
        elif what == "mute":
            backend.is_mute = True
        elif what == "refuse":
            backend.writes = False
        elif what == "move":
            backend.deafen()
            self.server.nodes.pop(backend.address)
            self.names += 1
            backend.address = f"n{self.names}"
            self.server.nodes[backend.address] = backend
            backend.heal()
        else:
            backend.commands = backend.commands and what != "cut"
            backend.deafen()

    async def replace(self, node: Node) -> None:
        """A node is stopped, or killed, and another one is started, at once or later."""
        self.nodes.remove(node)
        if self.chance.random() < 0.5:
            await node.kill()
        else:
            await node.close()
        await asyncio.sleep(self.chance.choice([0, 1, 20]))
        self.nodes.append(await self.node())


def run(seed: int) -> None:
    """One world."""
    with asyncio.Runner(loop_factory=Hurried) as runner:
        runner.run(World(seed).run())


@pytest.mark.parametrize("seed", range(WORLDS))
def test_every_watcher_sees_the_truth(seed: int) -> None:
    """After quiet time every watcher has exactly the users who are there, in their roles."""
    run(seed)


@pytest.mark.parametrize("seed", range(WORLDS))
def test_small_bounds(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where notes are short, crowds are small, and little of a stream is kept."""
    for module in (presence_notes, presence_view):
        monkeypatch.setattr(module, "LISTED", 3)
    monkeypatch.setattr("eclipse_ws.delivery.presence_here.LISTED", 3)
    monkeypatch.setattr("tests.delivery.presence_world.LISTED", 3)
    for module in (presence_notes, presence_sender):
        monkeypatch.setattr(module, "MAX_CHATS", 1)
    monkeypatch.setattr(presence_peer, "MAX_LATER", 1)
    run(seed)
