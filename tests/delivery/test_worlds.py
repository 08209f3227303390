"""Whatever goes wrong between nodes and their backend, clients have everything once, or are told to load."""

from __future__ import annotations

import asyncio
import json
import os
import random
from typing import Any

import pytest

from eclipse_ws.delivery import identities, outbox, subscriptions
from eclipse_ws.delivery.delivery import Delivery
from eclipse_ws.protocol import Cursor
from eclipse_ws.sessions.hub import Hub
from eclipse_ws.websocket import text_frame
from eclipse_ws.websocket.params import Params
from tests.conftest import make_settings
from tests.delivery.world import KEPT, Flaky, Hurried, Server, message
from tests.sessions.test_hub import EventPoll, Session

WORLDS = int(os.environ.get("ECLIPSE_TEST_WORLDS", "12"))
"""How many are tried: a thousand take some minutes."""
CHATS = ("a", "b", "c")
STEPS = 150
Expect = Any


class Node:
    """Delivery and a hub over the server."""

    def __init__(self, server: Server, address: str, trouble: float) -> None:
        self.backend = Flaky(server, address, trouble)
        settings = make_settings(backend="memory", history_events=KEPT, history_seconds=20)
        self.delivery = Delivery(settings, self.backend, asyncio.get_running_loop().time)
        self.hub = Hub(self.delivery)
        self.poll = EventPoll()
        self.poll.params = Params(queue_bytes=2000)


class Client:
    """Somebody in one chat or two, who comes back with cursors, and checks what comes."""

    def __init__(self, world: World, name: str, chats: tuple[str, ...]) -> None:
        self.world, self.name, self.chats = world, name, chats
        self.cursors: dict[str, Cursor | None] = {}
        self.had: dict[str, set[str]] = {chat: set() for chat in chats}
        self.loaded: dict[str, int] = {}
        self.session: Session | None = None
        self._joining: asyncio.Task[None] | None = None
        self._visits = 0
        self._node: Node

    @property
    def is_there(self) -> bool:
        """Whether it is in its chats, or about to be."""
        return self.session is not None and not self.session.wire.is_closing

    def come(self, node: Node) -> None:
        """Join the chats on a node, with the cursors that are known."""
        self._visits += 1
        self._node = node
        self.session = Session(node.poll, f"{self.name}-{self._visits}")
        self.session.wire.reads = self.world.chance.random() < 0.7
        self._joining = asyncio.create_task(self._join(node, self.session))

    async def _join(self, node: Node, session: Session) -> None:
        for chat in self.chats:

            def greet(cursor: Cursor | None, recovered: bool | None, chat: str = chat) -> bytes:
                saved = len(self.world.published[chat])
                fields = {"chat": chat, "greeting": cursor and str(cursor), "recovered": recovered}
                return text_frame(json.dumps({**fields, "saved": saved}).encode())

            after = self.cursors.get(chat)
            if not await node.hub.join(chat, session, str(after) if after else None, greet):
                return

    async def go(self) -> None:
        """Leave, and look at what came."""
        session, self.session = self.session, None
        if session is None:
            return
        session.wire.is_closing = True
        self._node.hub.leave(session)
        if self._joining is not None:
            await self._joining
        self.read(session)

    def read(self, session: Session) -> None:
        """Check what came over one connection."""
        at: dict[str, Cursor | None] = {}
        here: dict[str, set[str]] = {chat: set() for chat in self.chats}
        frames = session.wire.frames
        story = f"{session.id}: {[frame[4:] if frame[1] == 126 else frame[2:] for frame in frames]}"
        for frame in frames:
            fields = json.loads(frame[{126: 4, 127: 10}.get(frame[1], 2) :])
            if "greeting" in fields:
                chat = fields["chat"]
                at[chat] = Cursor.parse(fields["greeting"]) if fields["greeting"] else None
                if not fields["recovered"]:
                    self.loaded[chat], self.had[chat] = fields["saved"], set()
                self.cursors[chat] = at[chat]
                continue
            number = fields["data"]["id"]
            chat = self.world.chat_of[number]
            assert number not in here[chat] or self.world.may_repeat, f"{number} came twice: {story}"
            here[chat].add(number)
            self.had[chat].add(number)
            if "cursor" in fields:
                cursor = Cursor.parse(fields["cursor"])
                last = at[chat]
                assert cursor and last and cursor.epoch == last.epoch, f"another epoch: {story}"
                for offset in range(last.offset + 1, cursor.offset):
                    passed = self.world.server.places[chat, Cursor(cursor.epoch, offset)]
                    assert passed.removeprefix("message:") in here[chat], f"a gap at {offset}: {story}"
                assert cursor.offset > last.offset, f"order: {story}"
                at[chat] = self.cursors[chat] = cursor

    def check(self) -> None:
        """It has everything that was published since it loaded its chats."""
        for chat in self.chats if self.is_there else ():
            missing = [n for n in self.world.published[chat][self.loaded[chat] :] if n not in self.had[chat]]
            assert not missing, f"{self.name} in {chat} misses {missing} at {self.cursors}"


class World:
    """Three nodes, their clients, and what was published."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.server = Server(self.chance)
        self.published: dict[str, list[str]] = {chat: [] for chat in CHATS}
        self.chat_of: dict[str, str] = {}
        self.trouble = self.chance.choice([0, 0, 0.02, 0.2])
        self.poison = self.chance.random() < 0.3
        self.may_repeat = False
        """Whether a client may get an event twice over one connection."""
        self.nodes: list[Node] = []
        self.clients: list[Client] = []
        self.publishing: set[asyncio.Task[Any]] = set()

    async def node(self, address: str) -> Node:
        """Start one."""
        node = Node(self.server, address, self.trouble)
        await node.delivery.start(node.hub)
        return node

    async def run(self) -> None:
        """Let it all happen, then let it calm down, and look."""
        self.nodes = [await self.node(str(number)) for number in range(3)]
        for number in range(6):
            chats = tuple(self.chance.sample(CHATS, self.chance.choice([1, 1, 2])))
            self.clients.append(Client(self, f"client{number}", chats))
        for _ in range(STEPS):
            await self.step()
        await self.calm()
        for client in self.clients:
            if client.session is not None:
                there = client.is_there
                client.read(client.session)
                if there:
                    client.check()
        for node in self.nodes:
            assert node.delivery.health.queued == 0
            await node.delivery.close()
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not left, left

    async def calm(self) -> None:
        """Everything works, for long enough."""
        for node in self.nodes:
            node.backend.trouble = 0
            node.backend.heal()
        for client in self.clients:
            if client.session is not None:
                client.session.wire.reads = True
                client.session.wire.read()
        await asyncio.sleep(100)

    async def step(self) -> None:
        """One thing happens."""
        node, client = self.chance.choice(self.nodes), self.chance.choice(self.clients)
        what = self.chance.random()
        if what < 0.25:
            await self.visit(client, node)
        elif what < 0.6:
            self.publish(node)
        elif what < 0.75:
            self.fail(node)
        elif what < 0.77:
            await self.replace(node)
        elif what < 0.78:
            self.server.flush()
        elif client.session is not None:
            client.session.wire.read()
        await asyncio.sleep(self.chance.choice([0, 0, 0, 0.001, 0.01, 0.1, 1, 30 if what > 0.97 else 0]))

    async def visit(self, client: Client, node: Node) -> None:
        """Somebody comes or goes."""
        if client.is_there and self.chance.random() < 0.5:
            return
        await client.go()
        if self.chance.random() < 0.1:
            client.cursors.clear()
        if self.chance.random() < 0.9:
            client.come(node)

    def publish(self, node: Node) -> None:
        """Events come, of a session or of the application."""
        chat = self.chance.choice(CHATS)
        for _ in range(self.chance.choice([1, 1, 2, 3 * KEPT if self.chance.random() < 0.05 else 1])):
            number = len(self.chat_of)
            self.chat_of[str(number)] = chat
            self.published[chat].append(str(number))
            if self.chance.random() < 0.3:
                self.server.raw(chat, message(number))
                continue
            kind = "poison" if self.poison and self.chance.random() < 0.05 else ""
            task = asyncio.create_task(node.delivery.publish(chat, message(number, kind)))
            self.publishing.add(task)
            task.add_done_callback(self.publishing.discard)

    def fail(self, node: Node) -> None:
        """Something of a node's backend fails, or works again."""
        backend = node.backend
        what = self.chance.choice(["heal", "heal", "heal", "deafen", "cut", "refuse"])
        if what == "heal":
            backend.heal()
        elif what == "refuse":
            backend.writes = False
        else:
            backend.commands = backend.commands and what != "cut"
            backend.deafen()

    async def replace(self, node: Node) -> None:
        """A node hands over, closes its sessions, and another one is started in its place."""
        backend = node.backend
        backend.trouble = 0
        backend.heal()
        await node.delivery.hand_over()
        for client in self.clients:
            if client.is_there and client._node is node:
                await client.go()
        await asyncio.gather(*self.publishing)
        while node.delivery.health.queued:
            backend.heal()
            await asyncio.sleep(1)
        await node.delivery.close()
        self.nodes[self.nodes.index(node)] = await self.node(f"{backend.address}+")


@pytest.mark.parametrize("seed", [*range(WORLDS), 94, 261, 319, 444, 559])
def test_every_client_has_everything(seed: int, expect_log: Expect, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that stays connected has everything that was published since it loaded, once, in order."""
    expect_log(".*", optional=True)
    if seed % 2:
        monkeypatch.setattr(subscriptions, "BATCH", 1)
    if seed % 3 == 1:
        monkeypatch.setattr(outbox, "MAX_ITEMS", 1 + seed % 8)
    with asyncio.Runner(loop_factory=Hurried) as runner:
        runner.run(World(seed).run())


@pytest.mark.parametrize("room", [0, 900, 1500])
@pytest.mark.parametrize("seed", range(WORLDS // 3))
def test_what_a_node_forgets_is_not_lost(
    seed: int, room: int, expect_log: Expect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that has no room to remember what it has delivered may repeat an event, and loses none."""
    expect_log(".*", optional=True)
    monkeypatch.setattr(identities, "MAX_BYTES", room)
    monkeypatch.setattr(outbox, "MAX_ITEMS", 1 + seed % 8)
    world = World(seed)
    world.may_repeat = True
    with asyncio.Runner(loop_factory=Hurried) as runner:
        runner.run(world.run())
