"""Continuity: who guards a chat, what is replayed after a cut, and when a new epoch has to begin."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from unittest.mock import patch

import pytest
from redis.exceptions import ResponseError

from eclipse_ws.backends.redis import scripts
from eclipse_ws.backends.redis.names import Names
from eclipse_ws.protocol import Cursor
from tests.backends.harness import Cluster, Node, body, event, fresh_chat, number_of, until

gen_test = pytest.mark.gen_test(timeout=30)
Make = Callable[..., Cluster]
LOST = "Redis connection lost"
NAMES = Names()


async def die(node: Node) -> None:
    """End a node as SIGKILL would: its connections go, its keys stay."""
    await node.backend._connections.close()


def epoch(node: Node, chat: str) -> str:
    """The epoch that a node is in."""
    position = node.delivery.position(chat)
    return "" if position is None else str(position.epoch)


async def until_agreed(chat: str, *nodes: Node, not_in: str = "") -> None:
    """Wait until the nodes are live in one epoch, which is another than ``not_in``."""

    def agreed() -> bool:
        channels = [node.delivery._subscriptions.get(chat) for node in nodes]
        epochs = {epoch(node, chat) for node in nodes}
        return all(c is not None and c.live for c in channels) and len(epochs) == 1 and not_in not in epochs

    await until(agreed, "one epoch")


@gen_test
async def test_joining_a_guarded_chat_keeps_its_epoch(cluster: Make, chat: str) -> None:
    """A node that comes to a chat that another one hears takes over its position."""
    made = cluster()
    one = await made.node(chat)
    await one.delivery.publish(chat, event("m1"))
    await one.until_heard(chat, "m1")
    other = await made.node(chat)
    assert other.delivery.position(chat) == one.delivery.position(chat)
    assert not other.heard.events


@gen_test
async def test_a_dead_node_guards_nothing(cluster: Make, chat: str) -> None:
    """A killed node's guard is void at once, although its lease and its note still exist."""
    made = cluster()
    one = await made.node(chat)
    await one.delivery.publish(chat, event("m1"))
    await one.until_heard(chat, "m1")
    at = one.delivery.position(chat)
    connection = one.connection()
    await die(one)
    await made.until_listeners(NAMES.node + connection, 0)
    assert await made.client.exists(NAMES.node + connection)
    assert await made.client.hexists(f"eclipse:{{{chat}}}:meta", f"guard:{connection}")
    await made.raw(chat, body("unheard"))
    other = await made.node(chat)
    assert other.delivery.position(chat) == Cursor(epoch(other, chat), 0)
    assert epoch(other, chat) != at.epoch
    assert await other.delivery.resume(chat, at) is None
    assert not await made.client.hexists(f"eclipse:{{{chat}}}:meta", f"guard:{connection}")


@gen_test
async def test_a_guarded_cut_is_replayed(cluster: Make, chat: str, expect_log: Callable[..., None]) -> None:
    """What passed while one node was cut off is replayed to it in order, when another one heard it."""
    expect_log(LOST)
    made = cluster()
    one, other = await made.nodes(2, chat)
    await one.delivery.publish(chat, event(0))
    await one.until_heard(chat, 0)
    await made.until_overlapping(chat, one)
    before = epoch(one, chat)
    await made.kill_connection(one)
    for number in range(1, 20):
        await made.raw(chat, body(number))
        await other.delivery.publish(chat, event(f"other {number}"))
    await until(lambda: one.backend._connections._number == 2, "another connection")
    await one.delivery.publish(chat, event("last"))
    for node in (one, other):
        await until(lambda node=node: len(node.heard.events[chat]) >= 40)
        assert [c.offset for c in node.heard.cursors(chat) if c] == list(range(1, 41))
        assert not node.heard.interrupts
        assert epoch(node, chat) == before
    assert one.heard.numbers(chat) == other.heard.numbers(chat)


@gen_test
async def test_an_unguarded_cut_interrupts(cluster: Make, chat: str, expect_log: Callable[..., None]) -> None:
    """A lone node that was cut off can't know what it missed: a new epoch, and its sessions must resume."""
    expect_log(LOST)
    made = cluster()
    node = await made.node(chat)
    await node.delivery.publish(chat, event("m1"))
    await node.until_heard(chat, "m1")
    at = node.delivery.position(chat)
    await made.kill_connection(node)
    await made.raw(chat, body("unheard"))
    await until(lambda: node.heard.interrupts)
    await until_agreed(chat, node, not_in=at.epoch)
    assert await node.delivery.resume(chat, at) is None
    await made.raw(chat, body("m2"))
    await until(lambda: "m2" in node.heard.numbers(chat))
    assert node.heard.interrupts == [chat]


@gen_test
async def test_without_raw_events_no_guard_is_needed(
    cluster: Make, chat: str, expect_log: Callable[..., None]
) -> None:
    """If the application publishes only over HTTP, a lone node's gap is replayed from the history."""
    expect_log(LOST)
    made = cluster(app_publishes_over_http=True)
    node, elsewhere = await made.node(chat), await made.node()
    await node.delivery.publish(chat, event("m1"))
    await node.until_heard(chat, "m1")
    await made.kill_connection(node)
    await elsewhere.delivery.publish(chat, event("m2"))
    await until(lambda: node.backend._connections._number == 2, "another connection")
    await elsewhere.delivery.publish(chat, event("m3"))
    await node.until_heard(chat, "m1", "m2", "m3")
    assert not node.heard.interrupts
    # Nor does a chat that nobody heard for a while begin anew.
    at = node.delivery.position(chat)
    await die(node)
    await elsewhere.delivery.publish(chat, event("m4"))
    await elsewhere.delivery.subscribe(chat)
    assert [number_of(e) for e in await elsewhere.delivery.resume(chat, at)] == ["m4"]


@gen_test
async def test_a_gap_longer_than_the_history_interrupts(
    cluster: Make, chat: str, expect_log: Callable[..., None]
) -> None:
    """A node that missed more than the history keeps replays nothing, and its sessions must reload."""
    expect_log(LOST)
    made = cluster(history_events=5)
    one, other = await made.nodes(2, chat)
    await made.until_overlapping(chat, one)
    await made.kill_connection(one)
    # At once: the connection must not be back before all of them are published.
    await asyncio.gather(*(other.delivery.publish(chat, event(number)) for number in range(20)))
    await until(lambda: one.heard.interrupts == [chat])
    await until_agreed(chat, one, other)
    assert not other.heard.interrupts
    await other.delivery.publish(chat, event("m2"))
    await until(lambda: "m2" in one.heard.numbers(chat))
    assert [c.offset for c in one.heard.cursors(chat) if c][-1] == 21


@gen_test
async def test_all_cut_at_once(cluster: Make, chat: str, expect_log: Callable[..., None]) -> None:
    """When all nodes were deaf at the same time they all interrupt, and agree on one new epoch."""
    expect_log(LOST)
    made = cluster()
    nodes = await made.nodes(3, chat)
    before = epoch(nodes[0], chat)
    await asyncio.gather(*(made.kill_connection(node) for node in nodes))
    await until(lambda: all(node.heard.interrupts for node in nodes))
    await until_agreed(chat, *nodes, not_in=before)
    for node in nodes:
        await node.delivery.publish(chat, event(node.connection()))
    for node in nodes:
        await until(lambda node=node: len(node.heard.events[chat]) == 3)
        assert node.heard.numbers(chat) == nodes[0].heard.numbers(chat)


@gen_test
@pytest.mark.parametrize("later", [-1, 0, 1])
async def test_a_late_guard_does_not_bridge_a_cut(cluster: Make, chat: str, later: int) -> None:
    """A guard bridges a cut only if it began before the cut node was last sure to hear."""
    made = cluster()
    node = await made.node(chat)
    await node.delivery.publish(chat, event("m1"))
    await node.until_heard(chat, "m1")
    at = node.delivery.position(chat)
    since = int(await made.client.hget(f"eclipse:{{{chat}}}:meta", f"guard:{node.connection()}"))
    heard_until = since - later
    found, offset, missed, again, *_ = await scripts.JOIN(
        node.backend._connections.commands,
        [*NAMES.chat_keys(chat), NAMES.marks(chat)],
        *("cut", "cut:2", str(heard_until), at.epoch, 0, 0, "newepoch", 60, NAMES.node, 1, 60000, ""),
    )
    if later >= 0:  # within one millisecond it can't be told which came first
        assert (found, offset, missed, again) == (b"newepoch", 0, None, 1)
    else:
        assert (found, offset, again) == (at.epoch.encode(), 1, 0)
        assert len(missed) == 1
    await made.client.delete(f"{NAMES.node}cut:2")


@gen_test
async def test_a_loss_renews_the_chat_on_all_nodes(cluster: Make, chat: str) -> None:
    """A node that has lost an event begins a new epoch, and all nodes interrupt."""
    made = cluster()
    nodes = await made.nodes(3, chat)
    before = epoch(nodes[0], chat)
    nodes[0].delivery._subscriptions.renew(chat)
    await until(lambda: all(node.heard.interrupts == [chat] for node in nodes))
    await until_agreed(chat, *nodes, not_in=before)
    await nodes[1].delivery.publish(chat, event("m1"))
    for node in nodes:
        await node.until_heard(chat, "m1")


@gen_test
async def test_a_loss_on_all_nodes_begins_one_epoch(cluster: Make, chat: str) -> None:
    """If every node has lost the same event, the first one begins a new epoch and the others join it."""
    made = cluster()
    nodes = await made.nodes(3, chat)
    before = epoch(nodes[0], chat)
    for node in nodes:
        node.delivery._subscriptions.renew(chat, before)
    await until(lambda: all(node.heard.interrupts for node in nodes))
    await until_agreed(chat, *nodes, not_in=before)
    begun = epoch(nodes[0], chat)
    for node in nodes:  # one that is late finds it done
        node.delivery._subscriptions.renew(chat, before)
    await nodes[1].delivery.publish(chat, event("m1"))
    for node in nodes:
        await node.until_heard(chat, "m1")
        assert node.heard.cursors(chat) == [Cursor(begun, 1)]
        assert node.heard.interrupts == [chat]


@gen_test
async def test_a_loss_during_a_join_renews_the_chat(cluster: Make, chat: str) -> None:
    """A renewal that is requested while the chat is being joined is not forgotten."""
    made = cluster()
    one, other = await made.nodes(2, chat)
    before = epoch(one, chat)
    subscriptions = one.delivery._subscriptions
    subscriptions.look_again([chat])
    await asyncio.sleep(0)
    subscriptions.renew(chat)
    await until_agreed(chat, one, other, not_in=before)
    assert chat in one.heard.interrupts
    assert chat in other.heard.interrupts


@gen_test
async def test_a_loss_in_a_chat_without_members(cluster: Make) -> None:
    """A chat without members here is joined to be renewed, and unsubscribed again."""
    made = cluster(history_seconds=0.2)
    one = await made.node()
    chat = fresh_chat()
    other = await made.node(chat, history_seconds=60)
    before = epoch(other, chat)
    one.delivery._subscriptions.renew(chat)
    await until(lambda: other.heard.interrupts == [chat])
    await until_agreed(chat, other, not_in=before)
    await until(lambda: one.delivery._subscriptions.get(chat) is None, "the chat to be let go")


@gen_test
async def test_flushed_while_running(cluster: Make, chat: str) -> None:
    """After FLUSHALL the nodes soon agree on a new epoch, interrupt, and stay in it."""
    made = cluster()
    nodes = await made.nodes(3, chat)
    for number in range(3):
        await nodes[number].delivery.publish(chat, event(number))
    before = epoch(nodes[0], chat)
    await made.client.flushall()
    await asyncio.gather(*(node.delivery.publish(chat, event(f"x{node.connection()}")) for node in nodes))
    await until(lambda: all(node.heard.interrupts for node in nodes))
    await until_agreed(chat, *nodes, not_in=before)
    interrupted = [len(node.heard.interrupts) for node in nodes]
    agreed = epoch(nodes[0], chat)
    for number in range(20):
        await nodes[number % 3].delivery.publish(chat, event(f"after {number}"))
    for node in nodes:
        await until(lambda node=node: f"after {19}" in node.heard.numbers(chat))
        assert node.heard.numbers(chat)[-20:] == [f"after {number}" for number in range(20)]
        assert epoch(node, chat) == agreed
    assert [len(node.heard.interrupts) for node in nodes] == interrupted


@gen_test
async def test_scripts_flushed_while_running(cluster: Make, chat: str) -> None:
    """A Redis that has forgotten the scripts gets them again, and no event is lost or delivered locally."""
    made = cluster()
    node = await made.node(chat)
    await made.client.script_flush()
    receipts = await asyncio.gather(*(node.delivery.publish(chat, event(n)) for n in range(20)))
    assert {r.delivery for r in receipts} == {"published"}
    await node.until_heard(chat, *range(20))


@gen_test
async def test_a_cut_of_commands_is_not_a_gap(
    cluster: Make, chat: str, expect_log: Callable[..., None]
) -> None:
    """If only the connection for commands is lost, nothing is missed, and chats that are joined go live."""
    expect_log(LOST)
    made = cluster()
    one, other = await made.nodes(2, chat)
    await made.kill_connection(one, "commands")
    await until(lambda: one.backend._connections.commands is None, "the cut")
    late = fresh_chat()
    await one.delivery.subscribe(late)
    assert one.delivery.health.state == "down"
    receipt = await one.delivery.publish(chat, event("m1"))
    assert (receipt.delivery, receipt.cursor) == ("local", None)
    await other.delivery.publish(chat, event("m2"))
    await one.until_up()
    await until(lambda: one.delivery.position(late) is not None, "the late chat")
    await made.raw(late, body("m3"))
    await one.until_heard(late, "m3")
    await other.until_heard(chat, "m2", "m1")
    await until(lambda: len(one.heard.cursors(chat)) == 2)
    assert sorted(one.heard.numbers(chat)) == ["m1", "m2"]
    assert one.delivery.local_copies(chat) == ()
    assert chat not in one.heard.interrupts


@gen_test
async def test_greeted_without_a_position(cluster: Make, expect_log: Callable[..., None]) -> None:
    """Sessions that were greeted before the position was known must resume once it is."""
    expect_log(LOST)
    made = cluster()
    node = await made.node()
    await made.kill_connection(node)
    await until(lambda: node.backend._connections.subscriber is None, "the cut")
    chat = fresh_chat()
    await node.delivery.subscribe(chat)
    assert node.delivery.position(chat) is None
    await until(lambda: node.heard.interrupts == [chat])
    assert node.delivery.position(chat) is not None
    # Once: from now on they know where they are, and a cut that another node bridges is none of theirs.
    other = await made.node(chat)
    await made.until_overlapping(chat, node)
    await made.kill_connection(node)
    await other.delivery.publish(chat, event("m1"))
    await node.until_heard(chat, "m1")
    assert node.heard.interrupts == [chat]


@gen_test
async def test_unsubscribing_withdraws_the_guard(cluster: Make, chat: str) -> None:
    """After the lingering neither a guard nor a subscription is left; without commands both stay."""
    made = cluster(history_seconds=0.2)
    node = await made.node(chat)
    meta, guard = f"eclipse:{{{chat}}}:meta", f"guard:{node.connection()}"
    assert await made.client.hexists(meta, guard)
    connections = node.backend._connections
    connections.refusing.error = ResponseError("of the test")  # commands are away
    node.delivery.unsubscribe(chat)
    await asyncio.sleep(0.5)  # longer than the lingering and its sweep
    assert node.delivery._subscriptions.get(chat) is not None
    connections.refusing.error = None
    await until(lambda: node.delivery._subscriptions.get(chat) is None, "the chat to be let go")
    assert not await made.client.hexists(meta, guard)
    await made.until_listeners(f"chat:{chat}", 0)


@gen_test
async def test_joined_while_it_is_unsubscribed(cluster: Make, chat: str) -> None:
    """A chat that is joined while its guard is being withdrawn is guarded again, and heard."""
    made = cluster(history_seconds=60)
    node = await made.node(chat)
    subscriptions = node.delivery._subscriptions
    channel = subscriptions.get(chat)
    node.delivery.unsubscribe(chat)
    leaving = asyncio.ensure_future(subscriptions._leave([channel]))
    await asyncio.sleep(0)
    await node.delivery.subscribe(chat)
    await leaving
    assert subscriptions.get(chat) is channel
    await until(lambda: channel.live)
    assert await made.client.hexists(f"eclipse:{{{chat}}}:meta", f"guard:{node.connection()}")
    await made.raw(chat, body("m1"))
    await node.until_heard(chat, "m1")
    assert not node.heard.interrupts


@gen_test
async def test_nodes_clocks_do_not_matter(
    cluster: Make, chat: str, expect_log: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With clocks that differ by hours, cuts are bridged and attempts wait as usual: time is Redis's."""
    expect_log(LOST)
    made = cluster()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + random.choice([-7200, 0, 7200]))
    one, other = await made.nodes(2, chat)
    await made.until_overlapping(chat, one)
    before = epoch(one, chat)
    first = await one.delivery.attempt(chat, "key")
    waiting = asyncio.ensure_future(other.delivery.attempt(chat, "key"))
    await made.kill_connection(one)
    await other.delivery.publish(chat, event("m1"))
    receipt = await one.delivery.publish(chat, event("m2"), first)
    assert (await waiting).receipt == receipt
    for node in (one, other):
        await node.until_heard(chat, "m1", "m2")
        assert epoch(node, chat) == before
        assert not node.heard.interrupts


@gen_test
async def test_an_expired_position_begins_a_new_epoch(cluster: Make, chat: str) -> None:
    """When Redis has let a chat's position expire, the next event begins a new epoch for all."""
    made = cluster()
    one, other = await made.nodes(2, chat)
    before = epoch(one, chat)
    await made.client.delete(f"eclipse:{{{chat}}}:meta", f"eclipse:{{{chat}}}:events")
    await made.raw(chat, body("m1"))
    await until(lambda: one.heard.interrupts and other.heard.interrupts)
    await until_agreed(chat, one, other, not_in=before)
    await one.delivery.publish(chat, event("m2"))
    for node in (one, other):
        await until(lambda node=node: "m2" in node.heard.numbers(chat))


@gen_test
@patch("eclipse_ws.backends.base.MARGIN", 0.1)
async def test_an_attempt_of_a_dead_node(cluster: Make, chat: str) -> None:
    """An attempt of a killed node is unknown once its time is over, and may then be repeated."""
    made = cluster(api_timeout=0.2)
    one, other = await made.nodes(2)
    assert (await one.delivery.attempt(chat, "key")).state == "new"
    await die(one)
    assert (await other.delivery.attempt(chat, "key")).state == "unknown"
    assert (await other.delivery.attempt(chat, "key", retry_unknown=True)).state == "new"
