"""Nodes for the backends' tests: real backends on real servers, each with a subscriber that remembers."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import redis.asyncio

from eclipse_ws.backends import create
from eclipse_ws.backends.base import Backend
from eclipse_ws.backends.marks import Mark
from eclipse_ws.config.settings import Settings
from eclipse_ws.delivery.delivery import Delivery
from eclipse_ws.delivery.presence_notes import Here
from eclipse_ws.delivery.presence_view import News
from eclipse_ws.protocol import Cursor, Event, parse_event
from tests.conftest import make_settings

PATIENCE = 10.0
POLL = 0.003


def body(number: int | str, kind: str = "message", **fields: Any) -> bytes:
    """The JSON text of a kept event, as the application publishes it."""
    data = {"id": str(number), "content": f"content {number}"}
    return json.dumps({"type": kind, "data": data, **fields}).encode()


def event(number: int | str, kind: str = "message") -> Event:
    """A kept event that no backend has sequenced yet."""
    return parse_event(body(number, kind))


def typing(origin: str = "") -> Event:
    """An ephemeral event."""
    return Event("typing", b'{"type":"typing","data":{"userId":"u","isTyping":true}}', origin=origin)


def number_of(delivered: Event) -> str:
    """The ``data.id`` of a delivered event."""
    return str(json.loads(delivered.body)["data"]["id"])


async def until(condition: Callable[[], Any], what: str = "") -> None:
    """Wait for a condition; fails the test if it doesn't come."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE
    while not condition():
        assert loop.time() < deadline, f"not reached in time: {what or condition}"
        await asyncio.sleep(POLL)


class Recorder:
    """A subscriber that records what it gets, in order."""

    def __init__(self) -> None:
        self.events: dict[str, list[Event]] = defaultdict(list)
        self.interrupts: list[str] = []
        self.marks: dict[str, list[tuple[str, Mark]]] = defaultdict(list)
        self.unannounced: list[str] = []
        """Kept events that didn't follow the one before, without an interrupt in between."""
        self._last: dict[str, Cursor] = {}
        self._local: dict[str, int] = defaultdict(int)
        """Local copies whose place in the chat's order has not been passed yet: they come but once."""
        self.questions: list[Any] = []
        self.reply: Callable[[Any], Any] = lambda question: question

    def deliver(self, chat_id: str, event: Event) -> None:
        """See Subscriber."""
        self.events[chat_id].append(event)
        if event.cursor is not None:
            last = self._last.get(chat_id)
            if last is not None:
                passed = event.cursor.offset - last.offset - 1
                if event.cursor.epoch != last.epoch or not 0 <= passed <= self._local[chat_id]:
                    self.unannounced.append(f"{event.cursor} after {last} in {chat_id}")
                self._local[chat_id] -= passed
            self._last[chat_id] = event.cursor
        elif event.kept:
            self._local[chat_id] += 1

    def interrupt(self, chat_id: str) -> None:
        """See Subscriber; what came before belongs to an epoch that is over."""
        self.interrupts.append(chat_id)
        self._last.pop(chat_id, None)
        self._local.pop(chat_id, None)

    def left(self, chat_id: str) -> None:
        """Note that nobody is in the chat any more, so that there is nobody to interrupt."""
        self._last.pop(chat_id, None)

    def marked(self, chat_id: str, name: str, mark: Mark) -> None:
        """See Subscriber."""
        self.marks[chat_id].append((name, mark))

    def answer(self, question: Any) -> Any:
        """See Subscriber."""
        self.questions.append(question)
        return self.reply(question)

    def users(self, chat_id: str) -> Mapping[str, Here]:
        """See Subscriber."""
        return {}

    def present(self, chat_id: str, news: News) -> None:
        """See Subscriber."""

    def numbers(self, chat_id: str) -> list[str]:
        """The ids of what was delivered, in order."""
        return [number_of(e) for e in self.events[chat_id] if e.kept]

    def cursors(self, chat_id: str) -> list[Cursor | None]:
        """The cursors of what was delivered, in order."""
        return [e.cursor for e in self.events[chat_id] if e.kept]


class Node:
    """One node: a backend, delivery above it, and its recorder."""

    def __init__(
        self, settings: Settings, backend: Backend, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.backend: Any = backend
        self.delivery: Any = Delivery(settings, backend, clock)
        self.heard = Recorder()
        unsubscribe = self.delivery.unsubscribe

        def leave(chat_id: str) -> None:
            self.heard.left(chat_id)
            unsubscribe(chat_id)

        self.delivery.unsubscribe = leave

    async def until_heard(self, chat_id: str, *numbers: int | str) -> None:
        """Wait until exactly these have been delivered, in this order."""
        wanted = [str(n) for n in numbers]
        try:
            await until(lambda: len(self.heard.numbers(chat_id)) >= len(wanted))
        except AssertionError:
            raise AssertionError(f"{self.heard.numbers(chat_id)} were heard, not {wanted}") from None
        assert self.heard.numbers(chat_id) == wanted

    async def until_up(self) -> None:
        """Wait until its backend is up, and its outbox is empty."""
        await until(lambda: self.delivery.health.state == "up", "up")

    def connection(self) -> str:
        """The name of its subscriber's connection (Redis)."""
        return str(self.backend._connections.name)


class Cluster:
    """Nodes that share one server (or, in memory, the only node)."""

    def __init__(self, kind: str, server: Any = None, **given: Any) -> None:
        self.kind = kind
        self.server = server
        self.given = given
        self.made: list[Node] = []
        self._client: Any = None

    def settings(self, **given: Any) -> Settings:
        """The nodes' settings."""
        variable = {"redis": "redis_url", "postgres": "database_url"}.get(self.kind)
        url = {variable: self.server.url} if variable else {}
        return make_settings(backend=self.kind, **{**url, **self.given, **given})

    async def node(self, *chats: str, start: bool = True, **given: Any) -> Node:
        """One more node, subscribed to these chats."""
        if self.server is None and self.made:
            node = self.made[0]
        else:
            settings = self.settings(**given)
            node = Node(settings, create(self.kind, settings))
            self.made.append(node)
            if start:
                await node.delivery.start(node.heard)
        for chat_id in chats:
            await node.delivery.subscribe(chat_id)
        return node

    async def nodes(self, count: int, *chats: str, **given: Any) -> list[Node]:
        """So many nodes; in memory the same one so many times."""
        return [await self.node(*chats, **given) for _ in range(count)]

    @property
    def client(self) -> Any:
        """The application's own connection to the server."""
        assert self.server is not None
        if self._client is None:
            self._client = redis.asyncio.Redis.from_url(self.server.url, socket_timeout=PATIENCE, protocol=2)
        return self._client

    async def raw(self, chat_id: str, payload: bytes) -> None:
        """Publish as the application does."""
        await self.client.publish(f"chat:{chat_id}", payload)

    async def raw_many(self, chat_id: str, payloads: Iterable[bytes]) -> None:
        """Publish many in one go."""
        pipeline = self.client.pipeline(transaction=False)
        for payload in payloads:
            pipeline.publish(f"chat:{chat_id}", payload)
        await pipeline.execute()

    async def postgres_bodies(self, chat_id: str) -> list[bytes]:
        """The events that PostgreSQL keeps of a chat."""
        from eclipse_ws.backends.postgres import _name  # asyncpg is an extra

        query = "SELECT body FROM eclipse_ws WHERE kind = 'event' AND chat = $1 ORDER BY place"
        async with self.made[0].backend._pool.acquire() as connection:
            return [row["body"] for row in await connection.fetch(query, _name(chat_id))]

    def freeze(self) -> None:
        """Freeze the server; when this returns it no longer answers."""
        assert self.server is not None
        assert self.server.process is not None
        self.server.freeze()
        os.waitpid(self.server.process.pid, os.WUNTRACED)  # the signal itself may come late

    async def kill_connection(self, node: Node, role: str = "subscriber") -> None:
        """Cut one of a node's connections, as a network would."""
        writer = getattr(node.backend._connections, role)._connection._writer
        host, port = writer.get_extra_info("sockname")[:2]
        assert await self.client.client_kill_filter(addr=f"{host}:{port}") == 1

    async def until_overlapping(self, chat_id: str, *nodes: Node) -> None:
        """Wait until each node has surely heard the chat at a time when the others guarded it already."""
        notes = await self.client.hgetall(f"eclipse:{{{chat_id}}}:meta")
        latest = max(int(value) for name, value in notes.items() if name.startswith(b"guard:"))
        for node in nodes:
            connections = node.backend._connections

            def sure(connections: Any = connections) -> bool:
                connections.beat_soon()
                return bool(
                    connections.heard * 1000 + connections.clock > latest + 50
                )  # as sure as a slow answer lets it be

            await until(sure, "an overlap")

    async def until_listeners(self, channel: str, count: int) -> None:
        """Wait until so many connections listen to a channel."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE
        while (listeners := (await self.client.pubsub_numsub(channel))[0][1]) != count:
            assert loop.time() < deadline, f"{listeners} listen to {channel}, not {count}"
            await asyncio.sleep(POLL)

    async def close(self) -> None:
        """Close all, and see that nothing is left: no task, no subscription, no key without a lifetime.

        Nor may any node have missed an event silently, or delivered one twice or out of order.
        """
        for node in self.made:
            await node.delivery.close()
            assert not node.heard.unannounced, f"gaps that were not told: {node.heard.unannounced}"
        try:
            if self.kind == "redis" and self.server.process is not None:
                await self._see_that_nothing_is_left()
        finally:
            if self._client is not None:
                await self._client.aclose()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if left:  # a connection that was cut off may still end in the loop's next turn
            _, left = await asyncio.wait(left, timeout=0.1)
        assert not left, f"tasks are left: {left}"

    async def _see_that_nothing_is_left(self) -> None:
        client = self.client
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE
        while channels := await client.pubsub_channels():
            assert loop.time() < deadline, f"subscriptions are left: {channels}"
            await asyncio.sleep(POLL)
        for key in await client.keys("*"):
            assert key.startswith(b"eclipse:"), f"not a key of ours: {key!r}"
            assert await client.ttl(key) != -1, f"never expires: {key!r}"


def fresh_chat() -> str:
    """A chat id that no other test uses."""
    return f"chat-{secrets.token_hex(6)}"
