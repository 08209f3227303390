"""Events around an outage or a change of links: their order, duplicates and bounds, and late answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from eclipse_ws.backends.redis.link import Link
from eclipse_ws.backends.redis.scripts import JOIN
from tests.backends.harness import Cluster, Node, body, event, fresh_chat, typing, until

gen_test = pytest.mark.gen_test(timeout=30)
Make = Callable[..., Cluster]
Expect = Callable[..., None]


class Held:
    """Keeps back those commands of all links that ``holds`` picks: asked at once or later, answered later."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, holds: Callable[[tuple[Any, ...]], bool], *, ask: bool = True
    ) -> None:
        self._call = Link.call
        self._holds = holds
        self._ask, self._answer = asyncio.Event(), asyncio.Event()
        self.count = self.answered = 0
        if ask:
            self._ask.set()
        monkeypatch.setattr(Link, "call", lambda link, *command: self._hold(link, command))

    def ask(self) -> None:
        """Have Redis asked, whose answers are kept back."""
        self._ask.set()

    def release(self) -> None:
        """Let the answers come, and all later ones at once."""
        self._answer.set()

    def _hold(self, link: Link, command: tuple[Any, ...]) -> asyncio.Future[Any]:
        if self._answer.is_set() or not self._holds(command):
            return self._call(link, *command)
        self.count += 1
        return asyncio.ensure_future(self._late(link, command))

    async def _late(self, link: Link, command: tuple[Any, ...]) -> Any:
        await self._ask.wait()
        answer = await self._call(link, *command)
        self.answered += 1
        await self._answer.wait()
        return answer


async def cut_and_back(made: Cluster, node: Node) -> None:
    """Cut a node's subscriptions, and wait until it hears again on another connection."""
    before = node.link()
    await made.kill_link(node)
    await until(lambda: node.link() != before and node.backend.health().state == "up", "another link")


async def refuse(made: Cluster, node: Node) -> None:
    """Have Redis take no writes, and wait until the node knows."""
    await made.client.config_set("maxmemory", 1)
    await until(lambda: node.backend.health().state != "up", "the refusal")


@gen_test
async def test_a_full_queue_keeps_the_oldest(own_cluster: Make, chat: str, expect_log: Expect) -> None:
    """Of more events than the queue takes the oldest reach the other nodes, in order; a new epoch follows."""
    expect_log("redis refuses commands", "the queue for redis is full")
    made = own_cluster(outage_queue_events=5, redis_ping_interval=0.1)
    one, other = await made.nodes(2, chat)
    before = one.backend.position(chat)
    await refuse(made, one)
    for number in range(12):
        assert (await one.backend.publish(chat, event(number))).delivery == "local"
    assert (one.backend.health().queued, one.backend.queue_overflowed) == (5, 7)
    await made.client.config_set("maxmemory", 0)
    await until(lambda: one.heard.interrupts and other.heard.interrupts, "the interrupts")
    assert other.heard.numbers(chat) == ["0", "1", "2", "3", "4"]
    assert one.backend.queue_overflowed == 7
    for node in (one, other):
        await until(lambda node=node: (node.backend.position(chat) or before).epoch != before.epoch)
        assert node.heard.interrupts == [chat]


@gen_test
async def test_each_outage_has_all_of_the_room(
    own_cluster: Make, chat: str, expect_log: Expect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes of what was handed over take up no room in the next outage."""
    monkeypatch.setattr("eclipse_ws.backends.redis.outage.MAX_BYTES", 3 * len(event(10).body))
    expect_log("redis refuses commands", "the queue for redis is full")
    made = own_cluster(redis_ping_interval=0.1)
    one, other = await made.nodes(2, chat)
    for number in range(10, 19, 3):
        await refuse(made, one)
        for each in range(number, number + 3):
            assert (await one.backend.publish(chat, event(each))).delivery == "local"
        await made.client.config_set("maxmemory", 0)
        await one.until_up()
        await other.until_heard(chat, *range(10, number + 3))
    assert one.backend.queue_overflowed == 0
    await refuse(made, one)
    for each in range(20, 24):
        await one.backend.publish(chat, event(each))
    assert one.backend.queue_overflowed == 1
    await made.client.config_set("maxmemory", 0)
    await until(lambda: one.heard.interrupts and other.heard.interrupts, "the interrupts")


@gen_test
async def test_what_is_ephemeral_is_never_queued(own_cluster: Make, chat: str, expect_log: Expect) -> None:
    """An ephemeral event in an outage is dropped and counted: it takes no room, and nobody gets it late."""
    expect_log("redis refuses commands")
    made = own_cluster(outage_queue_events=2, redis_ping_interval=0.1)
    one, other = await made.nodes(2, chat)
    at = other.backend.position(chat)
    await refuse(made, one)
    for number in range(2):
        one.backend.broadcast(chat, typing())
        await one.backend.publish(chat, event(number))
        one.backend.broadcast(chat, typing())
    assert (one.backend.health().queued, one.backend.broadcasts_dropped) == (2, 4)
    await made.client.config_set("maxmemory", 0)
    await one.until_up()
    await one.backend.publish(chat, event("after"))
    await other.until_heard(chat, 0, 1, "after")
    assert {heard.type for heard in other.heard.events[chat]} == {"message"}
    assert len(await other.backend.history(chat, at)) == 3
    assert one.backend.queue_overflowed == 0


@gen_test
async def test_the_same_event_again_in_an_outage(own_cluster: Make, chat: str, expect_log: Expect) -> None:
    """What is published again while Redis takes nothing is delivered once, here and on the other nodes."""
    expect_log("redis refuses commands")
    made = own_cluster(redis_ping_interval=0.1)
    one, other = await made.nodes(2, chat)
    receipt = await one.backend.publish(chat, event("before"))
    await one.until_heard(chat, "before")
    await refuse(made, one)
    assert await one.backend.publish(chat, event("before")) == receipt
    for _ in range(3):
        again = await one.backend.publish(chat, event("m1"))
        assert (again.id, again.cursor, again.delivery) == ("m1", None, "local")
    await one.until_heard(chat, "before", "m1")
    await made.client.config_set("maxmemory", 0)
    await one.until_up()
    await one.backend.publish(chat, event("after"))
    await other.until_heard(chat, "before", "m1", "after")
    await one.until_heard(
        chat, "before", "m1", "m1", "after"
    )  # in its place, too: the hub knows that it is one


@gen_test
async def test_what_comes_after_an_outage_stays_behind_it(
    own_cluster: Make, chat: str, expect_log: Expect
) -> None:
    """An event that is published while older ones are being handed over comes after them."""
    expect_log("redis refuses commands")
    made = own_cluster(redis_ping_interval=0.1)
    one, other = await made.nodes(2, chat)
    await refuse(made, one)
    for number in range(300):
        await one.backend.publish(chat, event(number))
    await made.client.config_set("maxmemory", 0)
    late = 300
    while one.backend.health().queued or late < 310:
        await one.backend.publish(chat, event(late))
        late += 1
        await asyncio.sleep(0.005)
    await one.backend.publish(chat, event(late))
    await other.until_heard(chat, *range(late + 1))


@gen_test
async def test_an_answer_of_an_earlier_link_is_not_believed(
    cluster: Make, chat: str, expect_log: Expect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chat whose join is answered after its link has gone is joined on the next one, and guarded there."""
    expect_log("redis link lost")
    made = cluster()
    one, other = await made.nodes(2)
    held = Held(monkeypatch, lambda command: command[1] == JOIN.digest)
    joining = asyncio.ensure_future(one.backend.subscribe(chat))
    await until(lambda: held.count, "the join")
    await cut_and_back(made, one)
    await made.until_listeners(f"chat:{chat}", 1)
    held.release()
    await joining
    at = one.backend.position(chat)
    await other.backend.subscribe(chat)
    assert other.backend.position(chat) == at is not None
    await other.backend.publish(chat, event("m1"))
    for node in (one, other):
        await node.until_heard(chat, "m1")
        assert not node.heard.interrupts


@gen_test
async def test_live_events_meet_what_is_replayed(
    cluster: Make, chat: str, expect_log: Expect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes live before, while and after Redis is asked for the rest is delivered at once, in order."""
    expect_log("redis link lost")
    made = cluster()
    one, other = await made.nodes(2, chat)
    await other.backend.publish(chat, event(0))
    await one.until_heard(chat, 0)
    await made.until_overlapping(chat, one)
    held = Held(monkeypatch, lambda command: command[1] == JOIN.digest, ask=False)

    async def publish(*numbers: int) -> None:
        """Publish, and wait until it has reached the other node, which lets nothing ephemeral wait."""
        for number in numbers:
            await other.backend.publish(chat, event(number))
        other.backend.broadcast(chat, typing(f"after {numbers}"))
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
async def test_no_guard_is_left_when_links_change_at_the_lingerings_end(
    cluster: Make, chat: str, expect_log: Expect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody hears any more begins a new epoch, although its node came back under another name."""
    expect_log("redis link lost")
    made = cluster()
    one, other = await made.node(history_seconds=0.2), await made.node()
    await one.backend.subscribe(chat)
    before = one.backend.position(chat)
    held = Held(monkeypatch, lambda command: command[0] == "HDEL")
    one.backend.unsubscribe(chat)
    await until(lambda: held.count, "the lingering's end")
    await cut_and_back(made, one)
    await made.until_listeners(f"chat:{chat}", 1)
    held.release()
    await made.until_listeners(f"chat:{chat}", 0)
    await made.raw(chat, body("unheard"))
    await other.backend.subscribe(chat)
    assert other.backend.position(chat).epoch != before.epoch


@gen_test
async def test_handing_over_again_after_an_outage(own_cluster: Make, chat: str, expect_log: Expect) -> None:
    """What could not be handed over while Redis was away is handed over when it is asked for again."""
    expect_log("redis link lost")
    made = own_cluster(redis_timeout=0.5)
    one, other = await made.node(chat), await made.node()
    made.server.kill()
    await until(lambda: one.backend.health().state != "up", "the outage")
    assert await one.backend.hand_over() == 0
    made.server.start()
    for node in (one, other):
        await node.until_up()
    assert await one.backend.hand_over() == 1
    at = one.backend.position(chat)
    late = fresh_chat()
    await one.backend.subscribe(late)
    assert await one.backend.hand_over() == 2
    await one.backend.close()
    await made.raw(late, body("m1"))
    await until(lambda: other.backend.position(late).offset == 1, "the event")
    assert other.backend.position(chat) == at
