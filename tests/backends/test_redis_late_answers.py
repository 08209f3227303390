"""Answers that come late: the connection has changed, or events have come meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from eclipse_ws.backends.redis.connection import CommandConnection
from eclipse_ws.backends.redis.scripts import JOIN
from tests.backends.harness import Cluster, Node, body, event, typing, until

gen_test = pytest.mark.gen_test(timeout=30)
Make = Callable[..., Cluster]
Expect = Callable[..., None]


class Held:
    """Delays the commands that ``holds`` picks, on all connections: sent at once or later, answered later."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, holds: Callable[[tuple[Any, ...]], bool], *, ask: bool = True
    ) -> None:
        self._call = CommandConnection.call
        self._holds = holds
        self._ask, self._answer = asyncio.Event(), asyncio.Event()
        self.count = self.answered = 0
        if ask:
            self._ask.set()
        monkeypatch.setattr(
            CommandConnection, "call", lambda connection, *command: self._hold(connection, command)
        )

    def ask(self) -> None:
        """Have Redis asked, and keep its answers back."""
        self._ask.set()

    def release(self) -> None:
        """Let the answers through, and all later ones at once."""
        self._answer.set()

    def _hold(self, connection: CommandConnection, command: tuple[Any, ...]) -> asyncio.Future[Any]:
        if self._answer.is_set() or not self._holds(command):
            return self._call(connection, *command)
        self.count += 1
        return asyncio.ensure_future(self._late(connection, command))

    async def _late(self, connection: CommandConnection, command: tuple[Any, ...]) -> Any:
        await self._ask.wait()
        answer = await self._call(connection, *command)
        self.answered += 1
        await self._answer.wait()
        return answer


async def cut_and_back(made: Cluster, node: Node) -> None:
    """Cut a node's subscriptions, and wait until it hears again on another connection."""
    before = node.connection()
    await made.kill_connection(node)
    await until(
        lambda: node.connection() != before and node.delivery.health.state == "up", "another connection"
    )


@gen_test
async def test_an_answer_of_an_earlier_connection_is_ignored(
    cluster: Make, chat: str, expect_log: Expect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the connection is lost before a join is answered, the chat is joined and guarded on the next one."""
    expect_log("Redis connection lost")
    made = cluster()
    one, other = await made.nodes(2)
    held = Held(monkeypatch, lambda command: command[1] == JOIN.digest)
    joining = asyncio.ensure_future(one.delivery.subscribe(chat))
    await until(lambda: held.count, "the join")
    await cut_and_back(made, one)
    held.release()
    await made.until_listeners(f"chat:{chat}", 1)
    await joining
    at = one.delivery.position(chat)
    await other.delivery.subscribe(chat)
    assert other.delivery.position(chat) == at is not None
    await other.delivery.publish(chat, event("m1"))
    for node in (one, other):
        await node.until_heard(chat, "m1")
        assert not node.heard.interrupts


@gen_test
async def test_live_events_during_a_replay(
    cluster: Make, chat: str, expect_log: Expect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Live events before, during and after a replay are delivered at once, in order."""
    expect_log("Redis connection lost")
    made = cluster()
    one, other = await made.nodes(2, chat)
    await other.delivery.publish(chat, event(0))
    await one.until_heard(chat, 0)
    await made.until_overlapping(chat, one)
    held = Held(monkeypatch, lambda command: command[1] == JOIN.digest, ask=False)

    async def publish(*numbers: int) -> None:
        """Publish, and wait until it has reached the other node, which lets nothing ephemeral wait."""
        for number in numbers:
            await other.delivery.publish(chat, event(number))
        other.delivery.broadcast(chat, typing(f"after {numbers}"))
        await until(lambda: one.heard.events[chat][-1].origin == f"after {numbers}", "what is ephemeral")

    await cut_and_back(made, one)
    await until(lambda: held.count, "the join")
    await publish(1, 2)
    held.ask()
    await until(lambda: held.answered, "the answer")
    await publish(3, 4)
    assert one.heard.numbers(chat) == ["0"]
    held.release()
    await one.until_heard(chat, 0, 1, 2, 3, 4)
    await publish(5)
    for node in (one, other):
        await node.until_heard(chat, *range(6))
        assert not node.heard.interrupts


@gen_test
async def test_a_new_epoch_is_announced_before_its_events(
    cluster: Make, chat: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No event that arrives during the search for a new epoch is delivered before the interrupt."""
    made = cluster()
    nodes = _, other = await made.nodes(2, chat)
    await other.delivery.publish(chat, event(0))
    for node in nodes:
        await node.until_heard(chat, 0)
    held = Held(monkeypatch, lambda command: command[1] == JOIN.digest)
    await made.client.flushall()
    await other.delivery.publish(chat, event("m1"))
    await until(lambda: held.answered == 2, "the joins")
    await other.delivery.publish(chat, event("m2"))
    other.delivery.broadcast(chat, typing("marker"))
    await until(lambda: all(node.heard.events[chat][-1].origin == "marker" for node in nodes), "the marker")
    held.release()
    for node in nodes:
        await until(lambda node=node: node.heard.numbers(chat)[-1] == "m2")
        assert set(node.heard.interrupts) == {chat}
        assert not node.heard.unannounced


@gen_test
async def test_no_guard_is_left_if_connections_change_when_lingering_ends(
    cluster: Make, chat: str, expect_log: Expect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chat that no node hears begins a new epoch, although its node reconnected under another name."""
    expect_log("Redis connection lost")
    made = cluster()
    one, other = await made.node(history_seconds=0.2), await made.node()
    await one.delivery.subscribe(chat)
    before = one.delivery.position(chat)
    held = Held(monkeypatch, lambda command: command[0] == "HDEL")
    one.delivery.unsubscribe(chat)
    await until(lambda: held.count, "the lingering's end")
    await cut_and_back(made, one)
    await made.until_listeners(f"chat:{chat}", 1)
    held.release()
    await made.until_listeners(f"chat:{chat}", 0)
    await made.raw(chat, body("unheard"))
    await other.delivery.subscribe(chat)
    assert other.delivery.position(chat).epoch != before.epoch
