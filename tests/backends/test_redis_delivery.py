"""Events around an outage: their order and duplicates, and the bounds of the queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from unittest.mock import patch

import pytest

from tests.backends.harness import Cluster, Node, event, fresh_chat, typing, until
from tests.provider import Provider

gen_test = pytest.mark.gen_test(timeout=30)
Make = Callable[..., Cluster]
Expect = Callable[..., None]


async def refuse(made: Cluster, node: Node) -> None:
    """Make Redis refuse writes, and wait until the node knows."""
    await made.client.config_set("maxmemory", 1)
    await until(lambda: node.delivery.health.state != "up", "the refusal")


@gen_test
@patch("eclipse_ws.delivery.outbox.MAX_ITEMS", 5)
async def test_a_full_queue_keeps_the_oldest(own_cluster: Make, chat: str, expect_log: Expect) -> None:
    """Of more events than the queue holds the oldest reach the other nodes, in order; a new epoch follows."""
    expect_log("Redis refuses commands", "outbox full")
    made = own_cluster(redis_ping_interval=0.1)
    one, other = await made.nodes(2, chat)
    before = one.delivery.position(chat)
    await refuse(made, one)
    for number in range(12):
        assert (await one.delivery.publish(chat, event(number))).delivery == "local"
    assert (one.delivery.health.queued, one.delivery.counts.overflowed) == (5, 7)
    await made.client.config_set("maxmemory", 0)
    await until(lambda: one.heard.interrupts and other.heard.interrupts, "the interrupts")
    assert other.heard.numbers(chat) == ["0", "1", "2", "3", "4"]
    assert one.delivery.counts.overflowed == 7
    for node in (one, other):
        await until(lambda node=node: (node.delivery.position(chat) or before).epoch != before.epoch)
        assert node.heard.interrupts == [chat]


@gen_test
async def test_each_outage_has_the_whole_queue(
    own_cluster: Make, chat: str, expect_log: Expect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes of events that were handed over don't count in the next outage."""
    monkeypatch.setattr("eclipse_ws.delivery.outbox.MAX_BYTES", 3 * len(event(10).body))
    expect_log("Redis refuses commands", "outbox full")
    made = own_cluster(redis_ping_interval=0.1)
    one, other = await made.nodes(2, chat)
    for number in range(10, 19, 3):
        await refuse(made, one)
        for each in range(number, number + 3):
            assert (await one.delivery.publish(chat, event(each))).delivery == "local"
        await made.client.config_set("maxmemory", 0)
        await one.until_up()
        await other.until_heard(chat, *range(10, number + 3))
    assert one.delivery.counts.overflowed == 0
    await refuse(made, one)
    for each in range(20, 24):
        await one.delivery.publish(chat, event(each))
    assert one.delivery.counts.overflowed == 1
    await made.client.config_set("maxmemory", 0)
    await until(lambda: one.heard.interrupts and other.heard.interrupts, "the interrupts")


@gen_test
@patch("eclipse_ws.delivery.outbox.MAX_ITEMS", 2)
async def test_ephemeral_events_are_never_queued(own_cluster: Make, chat: str, expect_log: Expect) -> None:
    """An ephemeral event in an outage is dropped and counted: it takes no room, and never arrives late."""
    expect_log("Redis refuses commands")
    made = own_cluster(redis_ping_interval=0.1)
    one, other = await made.nodes(2, chat)
    at = other.delivery.position(chat)
    await refuse(made, one)
    for number in range(2):
        one.delivery.broadcast(chat, typing())
        await one.delivery.publish(chat, event(number))
        one.delivery.broadcast(chat, typing())
    assert (one.delivery.health.queued, one.backend.broadcasts_dropped) == (2, 4)
    await made.client.config_set("maxmemory", 0)
    await one.until_up()
    await one.delivery.publish(chat, event("after"))
    await other.until_heard(chat, 0, 1, "after")
    assert {heard.type for heard in other.heard.events[chat]} == {"message"}
    assert len(await other.delivery.resume(chat, at)) == 3
    assert one.delivery.counts.overflowed == 0


@gen_test
async def test_the_same_event_again_in_an_outage(own_cluster: Make, chat: str, expect_log: Expect) -> None:
    """An event published again while Redis refuses writes is delivered once, here and on the other nodes."""
    expect_log("Redis refuses commands")
    made = own_cluster(redis_ping_interval=0.1)
    one, other = await made.nodes(2, chat)
    receipt = await one.delivery.publish(chat, event("before"))
    await one.until_heard(chat, "before")
    await refuse(made, one)
    assert await one.delivery.publish(chat, event("before")) == receipt
    for _ in range(3):
        again = await one.delivery.publish(chat, event("m1"))
        assert (again.id, again.cursor, again.delivery) == ("m1", None, "local")
    await one.until_heard(chat, "before", "m1")
    await made.client.config_set("maxmemory", 0)
    await one.until_up()
    await one.delivery.publish(chat, event("after"))
    await other.until_heard(chat, "before", "m1", "after")
    await one.until_heard(chat, "before", "m1", "after")


@gen_test
async def test_events_after_an_outage_follow_the_queued_ones(
    own_cluster: Make, chat: str, expect_log: Expect
) -> None:
    """An event that is published while older ones are being handed over comes after them."""
    expect_log("Redis refuses commands")
    made = own_cluster(redis_ping_interval=0.1)
    one, other = await made.nodes(2, chat)
    await refuse(made, one)
    for number in range(300):
        await one.delivery.publish(chat, event(number))
    await made.client.config_set("maxmemory", 0)
    late = 300
    while one.delivery.health.queued or late < 310:
        await one.delivery.publish(chat, event(late))
        late += 1
        await asyncio.sleep(0.005)
    await one.delivery.publish(chat, event(late))
    await other.until_heard(chat, *range(late + 1))


@gen_test
async def test_a_loss_without_a_subscription_is_announced_later(
    own_cluster: Make, chat: str, expect_log: Expect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event that is lost while its node can't subscribe interrupts other nodes' sessions once it can."""
    monkeypatch.setattr("eclipse_ws.delivery.outbox.RETRY", 0.02)
    expect_log("Redis connection lost", "event not published", "event dropped: the backend will never")
    made = own_cluster()
    provider = await Provider(made.server.port).start()
    one, other = await made.node(chat, redis_url=provider.url), await made.node(chat)
    await made.until_overlapping(chat, one)  # the cut by itself is bridged, and interrupts nobody
    provider.refuse("ERR max requests limit exceeded", "SUBSCRIBE")
    provider.cut()
    async with asyncio.timeout(10):
        while (await one.delivery.publish(fresh_chat(), event("m0"))).delivery == "local":  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await made.client.set(f"eclipse:{{{chat}}}:events", "not a stream", ex=60)
    assert (await one.delivery.publish(chat, event("m1"))).delivery == "local"
    await until(lambda: one.delivery.counts.overflowed == 1, "the loss")
    assert one.delivery.health.state == "down"
    assert not other.heard.interrupts
    provider.accept()
    await until(lambda: other.heard.interrupts == [chat], "the interrupt")
    await one.until_up()
    await one.delivery.close()
    await provider.stop()
