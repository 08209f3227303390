"""Redis frozen, killed, emptied, full or read-only: what its nodes continue to do, and what they repair."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest

from eclipse_ws.backends.redis.connection import SubscriberConnection
from eclipse_ws.delivery.outbox import Item
from eclipse_ws.protocol import Event
from tests.backends.harness import Cluster, Node, body, event, fresh_chat, typing, until

gen_test = pytest.mark.gen_test(timeout=60)
Make = Callable[..., Cluster]
Expect = Callable[..., None]
LOST = "Redis connection lost"
LOCALLY = "event not published"
REFUSES = "Redis refuses commands"
HASTY = {"redis_timeout": 0.5, "redis_ping_interval": 0.3}
AWAY = "attempt recorded on this node only|attempt not settled"


def expect_outage(expect_log: Expect) -> None:
    """Announces what an outage may log."""
    expect_log(LOST)
    expect_log(LOCALLY, AWAY, "history not read", "Redis unavailable", optional=True)


async def until_away(*nodes: Node) -> None:
    """Wait until the nodes know that Redis is away."""
    await until(lambda: all(node.delivery.health.state != "up" for node in nodes), "the outage")


async def publish(node: Node, chat: str, *numbers: Any) -> set[str]:
    """Publish one after the other; the kinds of delivery."""
    return {(await node.delivery.publish(chat, event(number))).delivery for number in numbers}


@gen_test
async def test_frozen_in_use(own_cluster: Make, chat: str, expect_log: Expect) -> None:
    """A Redis that stops answering is noticed by the first event, chat continues, and all is repaired."""
    expect_outage(expect_log)
    made = own_cluster(redis_timeout=0.5)
    one, other = await made.nodes(2, chat)
    await publish(one, chat, "before")
    await other.until_heard(chat, "before")
    made.freeze()
    assert await publish(one, chat, *range(20)) == {"local"}
    assert one.delivery.health.state == "down"
    assert one.delivery.health.queued == 20
    assert one.heard.cursors(chat)[1:] == [None] * 20
    await one.until_heard(chat, "before", *range(20))
    made.server.thaw()
    await one.until_up()
    await publish(one, chat, "after")
    await other.until_heard(chat, "before", *range(20), "after")
    await one.until_heard(chat, "before", *range(20), "after")
    assert [c.offset for c in one.heard.cursors(chat) if c] == [1, 22]
    assert one.delivery.counts.overflowed == 0


@gen_test
async def test_frozen_when_idle(own_cluster: Make, chat: str, expect_log: Expect) -> None:
    """A Redis that stops answering is noticed by the heartbeat, with and without chats."""
    expect_outage(expect_log)
    made = own_cluster(**HASTY)
    nodes = [await made.node(chat), await made.node()]
    made.freeze()
    await until_away(*nodes)
    made.server.thaw()
    for node in nodes:
        await node.until_up()


@gen_test
async def test_a_deaf_subscriber_is_noticed(cluster: Make, chat: str, expect_log: Expect) -> None:
    """A subscriber's connection that stands but brings nothing any more is replaced."""
    expect_log(LOST)
    made = cluster(**HASTY)
    node = await made.node(chat)
    node.backend._connections.subscriber.send("UNSUBSCRIBE", node.backend._connections.channel)
    await until(lambda: node.backend._connections._number == 2, "another connection")
    await until(lambda: node.heard.interrupts == [chat])
    await publish(node, chat, "m1")
    await node.until_heard(chat, "m1")


@gen_test
async def test_an_unconfirmed_subscriber_is_noticed(
    cluster: Make, expect_log: Expect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A subscriber's connection whose first subscription is never confirmed is replaced."""
    expect_log("its subscription was not confirmed")
    made = cluster(redis_timeout=0.5, redis_ping_interval=0.03)
    node = await made.node(start=False)
    tell = SubscriberConnection.send
    told: list[Any] = []

    def tell_not_at_first(connection: SubscriberConnection, *command: Any) -> None:
        told.append(command)
        if len(told) > 1:
            tell(connection, *command)

    monkeypatch.setattr(SubscriberConnection, "send", tell_not_at_first)
    await node.delivery.start(node.heard)
    await node.until_up()


@gen_test
async def test_killed_and_started_empty(own_cluster: Make, chat: str, expect_log: Expect) -> None:
    """A Redis that comes back empty begins new epochs; no node is left behind, and the outbox is empty."""
    expect_outage(expect_log)
    made = own_cluster(**HASTY)
    nodes = one, other = await made.nodes(2, chat)
    await publish(one, chat, "before")
    for node in nodes:
        await node.until_heard(chat, "before")
    before = one.delivery.position(chat)
    made.server.kill()
    await until_away(*nodes)
    for node in nodes:
        assert await publish(node, chat, *(f"{node.connection()} {n}" for n in range(5))) == {"local"}
        assert await node.delivery.resume(chat, before) == []
        assert await node.delivery.resume(chat, before._replace(offset=0)) is None
    assert len(one.heard.numbers(chat)) == 6
    made.server.start()
    for node in nodes:
        await node.until_up()
        await until(lambda node=node: chat in node.heard.interrupts)
    await until(lambda: one.delivery.position(chat).epoch != before.epoch)
    await until(lambda: one.delivery.position(chat).epoch == other.delivery.position(chat).epoch)
    await publish(one, chat, "after")
    for node in nodes:
        await until(lambda node=node: "after" in node.heard.numbers(chat))


@gen_test
@patch("eclipse_ws.delivery.outbox.MAX_ITEMS", 5)
async def test_an_overflowing_queue_interrupts_all(own_cluster: Make, chat: str, expect_log: Expect) -> None:
    """What doesn't fit into the queue is counted and logged, and all nodes' sessions must resume."""
    expect_outage(expect_log)
    expect_log("outbox full")
    made = own_cluster(redis_timeout=0.5)
    one, other = await made.nodes(2, chat)
    before = one.delivery.position(chat).epoch
    made.freeze()
    assert await publish(one, chat, *range(12)) == {"local"}
    assert one.delivery.counts.overflowed == 7
    assert one.delivery.health.queued == 5
    await one.until_heard(chat, *range(12))
    made.server.thaw()
    await until(lambda: one.heard.interrupts and other.heard.interrupts)
    await until(lambda: one.delivery.position(chat).epoch == other.delivery.position(chat).epoch != before)
    await publish(other, chat, "after")
    for node in (one, other):
        await until(lambda node=node: "after" in node.heard.numbers(chat))


@gen_test
@patch("eclipse_ws.delivery.outbox.MAX_ITEMS", 1)
async def test_an_attempt_that_finds_no_room_is_not_a_gap(
    own_cluster: Make, chat: str, expect_log: Expect
) -> None:
    """How an attempt ended may be lost for want of room: no event is missing, and nobody has to resume."""
    expect_outage(expect_log)
    made = own_cluster(redis_timeout=0.3)
    one, other = await made.nodes(2, chat)
    attempt = await one.delivery.attempt(chat, "key")
    made.server.kill()
    await until_away(one)
    assert await publish(one, chat, "m1") == {"local"}
    await one.delivery.abandon(attempt)
    assert (one.delivery.counts.overflowed, one.delivery.health.queued) == (0, 1)
    assert not one.delivery._outbox._lost
    made.server.start()
    for node in (one, other):
        await node.until_up()


@gen_test
@patch("eclipse_ws.delivery.outbox.MAX_ITEMS", 10)
async def test_a_flood_of_raw_events_is_bounded(cluster: Make, chat: str, expect_log: Expect) -> None:
    """Of too many raw events at once the excess is dropped and logged: a new epoch, and sessions resume."""
    expect_log("outbox full")
    made = cluster()
    node = await made.node(chat)
    before = node.delivery.position(chat).epoch
    await made.raw_many(chat, map(body, range(300)))
    await until(lambda: node.heard.interrupts)
    await until(lambda: node.delivery.position(chat).epoch != before)
    assert node.delivery.counts.overflowed > 0
    await publish(node, chat, "after")
    await until(lambda: "after" in node.heard.numbers(chat))


@gen_test
async def test_typing_is_dropped(own_cluster: Make, chat: str, expect_log: Expect) -> None:
    """Ephemeral events are dropped while Redis is away, counted, and never arrive late."""
    expect_outage(expect_log)
    made = own_cluster(redis_timeout=0.5)
    node = await made.node(chat)
    made.freeze()
    node.delivery.broadcast(chat, typing())
    await until_away(node)
    node.delivery.broadcast(chat, typing())
    await until(lambda: node.backend.broadcasts_dropped == 2)
    made.server.kill()
    made.server.start()
    await node.until_up()
    # Empty: what is published before the chat is joined again belongs to an epoch that its join ends.
    await until(lambda: node.heard.interrupts)
    await publish(node, chat, "after")
    await until(lambda: "after" in node.heard.numbers(chat))
    assert "typing" not in {e.type for e in node.heard.events[chat]}


@gen_test
async def test_attempts_during_an_outage(own_cluster: Make, chat: str, expect_log: Expect) -> None:
    """While Redis is away a node decides alone; when it is back, the others know the outcomes too."""
    expect_outage(expect_log)
    made = own_cluster(redis_timeout=0.5)
    one, other = await made.nodes(2, chat)
    await one.delivery.abandon(await one.delivery.attempt(chat, "repeated"))
    made.freeze()
    await publish(one, chat, "first")
    sent, given_back, lost = [await one.delivery.attempt(chat, key) for key in ("sent", "back", "lost")]
    assert {a.state for a in (sent, given_back, lost)} == {"new"}
    waiting = asyncio.ensure_future(one.delivery.attempt(chat, "sent"))
    receipt = await one.delivery.publish(chat, event("m1"), sent)
    assert receipt.delivery == "local"
    assert (await waiting).receipt == receipt
    await one.delivery.release(given_back)
    await one.delivery.abandon(lost)
    second = await one.delivery.attempt(chat, "back")
    assert second.state == "new"
    in_progress = await one.delivery.attempt(chat, "in progress")
    repeated = await one.delivery.attempt(chat, "repeated", retry_unknown=True)
    assert (await one.delivery.attempt(chat, "lost")).state == "unknown"
    made.server.thaw()
    for node in (one, other):
        await node.until_up()
    known = await other.delivery.attempt(chat, "sent")
    assert (known.state, known.receipt.id, known.receipt.delivery) == ("done", "m1", "published")
    assert (await other.delivery.attempt(chat, "lost")).state == "unknown"
    await one.delivery.release(second)
    assert (await other.delivery.attempt(chat, "back")).state == "new"
    waits = [
        asyncio.ensure_future(other.delivery.attempt(chat, "in progress")),
        asyncio.ensure_future(other.delivery.attempt(chat, "repeated", retry_unknown=True)),
    ]
    done, _ = await asyncio.wait(waits, timeout=0.1)
    assert not done
    receipts = [
        await one.delivery.publish(chat, event("m2"), in_progress),
        await one.delivery.publish(chat, event("m3"), repeated),
    ]
    assert [(await each).receipt for each in waits] == receipts


@gen_test
async def test_a_lost_answer(own_cluster: Make, chat: str, expect_log: Expect) -> None:
    """An event that Redis took is not sequenced twice when it is sent again because its answer was lost."""
    expect_outage(expect_log)
    made = own_cluster(redis_timeout=0.5)
    one, other = await made.nodes(2, chat)
    made.freeze()
    publishing = asyncio.ensure_future(one.delivery.publish(chat, event("m1")))
    assert (await publishing).delivery == "local"
    made.server.thaw()
    await one.until_up()
    await publish(one, chat, "m2")
    await other.until_heard(chat, "m1", "m2")


REFUSALS = {
    "OOM": (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
    "READONLY": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
}


@gen_test
@pytest.mark.parametrize("refusal", REFUSALS)
async def test_temporary_refusals(own_cluster: Make, chat: str, refusal: str, expect_log: Expect) -> None:
    """While Redis is full or read-only chat goes on locally; when it accepts events again it gets them."""
    expect_log(REFUSES)
    expect_log(AWAY, LOCALLY, optional=True)
    begin, end = REFUSALS[refusal]
    made = own_cluster()
    one, other = await made.nodes(2, chat)
    await made.client.execute_command(*begin)
    assert await publish(one, chat, "m1", "m2") == {"local"}
    attempt = await one.delivery.attempt(chat, "key")
    await made.raw(chat, body("raw"))
    await until(lambda: "raw" in one.heard.numbers(chat) and "raw" in other.heard.numbers(chat))
    assert (await one.delivery.publish(chat, event("m3"), attempt)).delivery == "local"
    assert one.delivery.health.state == "down"
    await made.client.execute_command(*end)
    for node in (one, other):
        await node.until_up()
    await until(lambda: "m3" in other.heard.numbers(chat))
    assert [n for n in other.heard.numbers(chat) if n != "raw"] == ["m1", "m2", "m3"]
    for node in (one, other):
        await until(lambda node=node: not node.delivery.local_copies(chat))
        assert sorted(node.heard.numbers(chat)) == ["m1", "m2", "m3", "raw"]
        assert node.delivery.counts.overflowed == 0
        assert not node.heard.interrupts
    assert (await other.delivery.attempt(chat, "key")).state == "done"


@gen_test
async def test_joining_while_redis_refuses(own_cluster: Make, expect_log: Expect) -> None:
    """A chat that can't be joined because Redis takes no writes comes live when it does again."""
    expect_log(REFUSES)
    expect_log(LOCALLY, optional=True)
    made = own_cluster(redis_timeout=0.3)
    node = await made.node()
    await made.client.execute_command("REPLICAOF", "127.0.0.1", "1")
    chat = fresh_chat()
    await node.delivery.subscribe(chat)
    assert node.delivery.position(chat) is None
    await publish(node, chat, "m1")
    assert node.heard.numbers(chat) == ["m1"]
    await made.client.execute_command("REPLICAOF", "NO", "ONE")
    await until(lambda: node.delivery.position(chat) is not None, "the join")
    assert node.heard.interrupts == [chat]
    await publish(node, chat, "m2")
    await until(lambda: "m2" in node.heard.numbers(chat))


@gen_test
async def test_an_event_that_redis_always_refuses(cluster: Make, chat: str, expect_log: Expect) -> None:
    """An event that is always refused is dropped and logged, and its chat begins a new epoch."""
    expect_log("event dropped: the backend will never")
    made = cluster()
    one, other = await made.nodes(2, chat)
    before = one.delivery.position(chat).epoch
    await made.client.set(f"eclipse:{{{chat}}}:events", "not a stream", ex=60)
    assert await publish(one, chat, "m1") == {"local"}
    await until(lambda: one.heard.interrupts and other.heard.interrupts)
    await until(lambda: one.delivery.position(chat).epoch == other.delivery.position(chat).epoch != before)
    assert one.delivery.counts.overflowed == 1
    assert await publish(one, chat, "m2") == {"published"}
    await until(lambda: "m2" in other.heard.numbers(chat))


@gen_test
async def test_closing_hands_over_the_outbox(own_cluster: Make, chat: str, expect_log: Expect) -> None:
    """A node that stops while Redis takes events again leaves nothing behind."""
    expect_log(REFUSES)
    expect_log(LOCALLY, optional=True)
    made = own_cluster(redis_timeout=10)  # closing waits that long: heartbeats are a second apart meanwhile
    one, other = await made.nodes(2, chat)
    await made.client.config_set("maxmemory", 1)
    assert await publish(one, chat, *range(5)) == {"local"}
    connections = one.backend._connections
    await until(lambda: connections.refusal)
    refused = connections.refusing.count
    closing = asyncio.create_task(one.delivery.close())
    await until(
        lambda: connections.refusing.count > refused, "a heartbeat that is refused while the node closes"
    )
    await made.client.config_set("maxmemory", 0)
    await closing
    await other.until_heard(chat, *range(5))


@gen_test
async def test_closing_without_redis(own_cluster: Make, chat: str, expect_log: Expect) -> None:
    """A node that stops while Redis is away logs what is lost to the others."""
    expect_outage(expect_log)
    expect_log("not handed over")
    made = own_cluster(**HASTY)
    node = await made.node(chat)
    made.server.kill()
    await until_away(node)
    await publish(node, chat, "m1")
    await node.delivery.close()
    assert node.delivery.health.queued == 1


@gen_test
async def test_started_before_redis(own_cluster: Make, chat: str, expect_log: Expect) -> None:
    """A node that starts while Redis is away serves its own members, and joins the others later."""
    expect_outage(expect_log)
    made = own_cluster(**HASTY)
    made.server.kill()
    one, other = await made.nodes(2, chat)
    assert one.delivery.health.state == "connecting"
    assert one.delivery.position(chat) is None
    assert await publish(one, chat, "m1") == {"local"}
    assert (await one.delivery.ask("x")).values == ["x"]
    made.server.start()
    for node in (one, other):
        await node.until_up()
        await until(lambda node=node: node.heard.interrupts)
    await until(lambda: one.delivery.position(chat).epoch == other.delivery.position(chat).epoch)
    await publish(one, chat, "m2")
    for node in (one, other):
        await until(lambda node=node: "m2" in node.heard.numbers(chat))


@gen_test
async def test_asking_when_a_node_is_silent(cluster: Make, expect_log: Expect) -> None:
    """A node that doesn't answer is missing from the answers, and nobody waits forever."""
    expect_log("not every node has answered")
    made = cluster(redis_timeout=0.3)
    one, other = await made.nodes(2)
    other.delivery._cluster.read = lambda raw: None
    assert (await one.delivery.ask("x")).values == ["x"]


@gen_test
async def test_asking_when_redis_fails(own_cluster: Make, expect_log: Expect) -> None:
    """If the question can't be sent, this node's own answer is the result."""
    expect_outage(expect_log)
    expect_log("nodes not asked")
    made = own_cluster(redis_timeout=0.3)
    node = await made.node()
    made.freeze()
    assert (await node.delivery.ask("x")).values == ["x"]
    made.server.thaw()
    await node.until_up()


@pytest.mark.slow
@gen_test
async def test_thousands_of_chats_after_an_outage(own_cluster: Make, expect_log: Expect) -> None:
    """Five thousand chats are all live again after Redis was killed and started empty."""
    expect_outage(expect_log)
    made = own_cluster()
    node = await made.node()
    chats = [f"chat-{number}" for number in range(5000)]
    await asyncio.gather(*map(node.delivery.subscribe, chats))
    made.server.kill()
    await until_away(node)
    made.server.start()
    loop = asyncio.get_running_loop()
    began = loop.time()
    subscriptions = node.delivery._subscriptions
    while not all(subscriptions.get(chat).live for chat in chats):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    print(f"5,000 chats were live again {loop.time() - began:.2f} s after Redis was back")
    for chat in chats[::500]:
        await made.raw(chat, body("m1"))
        await node.until_heard(chat, "m1")
    assert set(node.heard.interrupts) == set(chats)


@gen_test
async def test_a_lost_join_is_tried_again(cluster: Make, chat: str, expect_log: Expect) -> None:
    """A chat goes live on the next connection if the one for commands is lost during its join."""
    expect_log(LOST)
    made = cluster()
    node = await made.node()
    subscriptions = node.backend._subscriptions
    confirm, cut = subscriptions.confirm, []

    def confirm_and_cut(chat_id: bytes) -> None:
        confirm(chat_id)
        if not cut:
            cut.append(chat_id)
            node.backend._connections.commands.close("cut by the test")

    subscriptions.confirm = confirm_and_cut
    await node.delivery.subscribe(chat)
    await until(lambda: node.delivery._subscriptions.get(chat).live)
    await publish(node, chat, "m1")
    await node.until_heard(chat, "m1")


@gen_test
async def test_internal_errors_are_logged(cluster: Make, chat: str, expect_log: Expect) -> None:
    """A flush that fails by an internal error is logged and tried again."""
    expect_log("outbox flush failed", "of the test")
    made = cluster()
    one, other = await made.nodes(2, chat)
    hand_over, failed = one.delivery._outbox._hand_over, []

    async def fail_once(*arguments: Any) -> bool:
        if not failed:
            failed.append(arguments)
            raise RuntimeError("of the test")
        return await hand_over(*arguments)

    one.delivery._outbox._hand_over = fail_once
    waiting: Event = event("m1")
    one.delivery._outbox.put(Item(chat, waiting))
    await until(lambda: failed)
    await other.until_heard(chat, "m1")
