"""What Redis keeps of a chat: how much of it, for how long, and which epoch it continues in."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import patch

import pytest
from redis.exceptions import ResponseError

from eclipse_ws.backends.redis import scripts
from eclipse_ws.backends.redis.subscriptions import POSITION_SECONDS
from eclipse_ws.protocol import parse_event
from tests.backends.harness import Cluster, Node, body, event, until
from tests.backends.test_redis_back_in_time import OVER_HTTP, Past, publish, until_at

gen_test = pytest.mark.gen_test(timeout=30)
Make = Callable[..., Cluster]
LIFETIME = 300  # history_seconds by default


async def lifetimes(made: Cluster, node: Node, chat: str) -> list[int]:
    """Seconds that the chat's position, events and two halves of identities are still kept; -2: not there."""
    return [await made.client.ttl(key) for key in node.backend._names.chat_keys(chat)]


async def expire(made: Cluster, node: Node, chat: str, seconds: int = 20) -> None:
    """Make everything that is kept of a chat expire soon."""
    for key in node.backend._names.chat_keys(chat):
        await made.client.expire(key, seconds)


@gen_test
async def test_identities_are_bounded_and_kept_as_long_as_their_events(cluster: Make, chat: str) -> None:
    """Each half holds at most a history's worth; every event that is kept is recognized."""
    made = cluster(history_events=4)
    node = await made.node(chat)
    halves = node.backend._names.chat_keys(chat)[2:]
    receipts = []
    for number in range(30):
        receipts.append(await node.delivery.publish(chat, event(number)))
        sizes = [await made.client.hlen(half) for half in halves]
        assert max(sizes) <= 4
        assert sum(sizes) >= min(4, number + 1)
        for known in range(max(0, number - 3), number + 1):
            assert await node.delivery.publish(chat, event(known)) == receipts[known]
    assert [receipt.cursor.split(".")[1] for receipt in receipts] == [str(n) for n in range(1, 31)]


@gen_test
async def test_each_event_renews_all_that_is_kept(cluster: Make, chat: str) -> None:
    """A chat in which somebody writes loses neither its position, nor its history, nor any identity."""
    made = cluster(history_events=2)
    node = await made.node(chat)
    for number in range(6):
        await node.delivery.publish(chat, event(number))
        if number >= 2:
            position, *others = await lifetimes(made, node, chat)
            assert POSITION_SECONDS - 10 < position <= POSITION_SECONDS
            assert all(LIFETIME - 10 < seconds <= LIFETIME for seconds in others)
        await expire(made, node, chat)


@gen_test
async def test_each_join_renews_the_position(cluster: Make, chat: str) -> None:
    """A chat in which nobody writes keeps its position as long as nodes come to it."""
    made = cluster()
    node = await made.node(chat)
    for number in range(2):
        for newcomer in (True, False):
            await expire(made, node, chat)
            if newcomer:
                await made.node(chat)
            else:
                node.delivery._subscriptions.look_again([chat])  # as after a gap
                await node.delivery.subscribe(chat)
            position = (await lifetimes(made, node, chat))[0]
            assert POSITION_SECONDS - 10 < position <= POSITION_SECONDS
        cursors = await publish(node, chat, number)
        await until_at(chat, cursors[-1], *made.made)


@gen_test
async def test_a_position_that_only_a_known_event_brings_back(cluster: Make, chat: str) -> None:
    """If the position is gone and the identities aren't, the new position has a lifetime, too."""
    made = cluster()
    elsewhere = await made.node()
    first = await elsewhere.delivery.publish(chat, event("m1"))
    meta = elsewhere.backend._names.chat_keys(chat)[0]
    await made.client.delete(meta)
    assert await elsewhere.delivery.publish(chat, event("m1")) == first
    assert 0 < await made.client.ttl(meta) <= POSITION_SECONDS


@gen_test
@patch("eclipse_ws.config.settings.Settings.history_bytes", 1024)
async def test_a_history_is_bounded_in_both_ways_at_once(cluster: Make, chat: str) -> None:
    """As many events are kept as the setting says, also when their bytes are recounted meanwhile."""
    made = cluster(history_events=5)
    node = await made.node(chat)
    events = node.backend._names.chat_keys(chat)[1]
    for number in range(60):
        await node.delivery.publish(chat, event(number))
        assert await made.client.xlen(events) == min(5, number + 1)


@gen_test
@patch("eclipse_ws.config.settings.Settings.history_bytes", 1024)
async def test_events_of_exactly_the_bound_are_kept(cluster: Make, chat: str) -> None:
    """The bound is reached when the last byte is used, cursors included, and passed with the next one."""
    made = cluster()
    node = await made.node(chat)
    meta, events, *_ = node.backend._names.chat_keys(chat)
    for number in range(3):
        kept = await made.client.xrange(events)
        room = 1024 - sum(len(fields[b"e"]) for _, fields in kept)
        short = parse_event(body(number, padding=""))
        fill = "x" * (room - len(short.body) - len(',"cursor":"123456789012.1"')) if number == 2 else ""
        await node.delivery.publish(chat, parse_event(body(number, padding=fill)))
    kept = await made.client.xrange(events)
    assert [len(kept), sum(len(fields[b"e"]) for _, fields in kept)] == [3, 1024]
    assert await made.client.hget(meta, "bytes") == b"1024"
    await node.delivery.publish(chat, event("m4"))
    assert await made.client.xlen(events) < 4


@gen_test
async def test_a_new_epoch_is_measured_from_its_beginning(cluster: Make, chat: str) -> None:
    """The sum of bytes is of what is kept: that of the epoch before is not continued."""
    made = cluster()
    node = await made.node(chat)
    meta, events, *_ = node.backend._names.chat_keys(chat)
    await node.delivery.publish(chat, event("m1"))
    before = await made.client.hget(meta, "epoch")
    node.delivery._subscriptions.renew(chat)
    await until(lambda: node.heard.interrupts)
    for number in range(3):
        await node.delivery.publish(chat, event(number))
    assert await made.client.hget(meta, "epoch") != before
    kept = await made.client.xrange(events)
    assert int(await made.client.hget(meta, "bytes")) == sum(len(fields[b"e"]) for _, fields in kept)


@gen_test
async def test_an_event_that_is_not_kept_is_not_published(cluster: Make, chat: str) -> None:
    """An event that can't be appended takes no place, and reaches nobody."""
    made = cluster()
    node = await made.node(chat)
    meta, events, *_ = keys = node.backend._names.chat_keys(chat)
    await node.delivery.publish(chat, event("m1"))
    noted, kept = await made.client.hgetall(meta), await made.client.dump(events)
    await made.client.set(events, "not a stream", ex=60)
    refused = event("m2")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await scripts.PUBLISH(
            node.backend._connections.commands,
            keys,
            *(f"chat:{chat}", refused.body, refused.identity, "newepoch", 100, 300, 600, "", "m2", 10000, ""),
            *("", 0, "PUBLISH", "", ""),
        )
    assert await made.client.hgetall(meta) == noted
    await made.client.restore(events, 60_000, kept, replace=True)
    await node.delivery.publish(chat, event("m3"))
    await node.until_heard(chat, "m1", "m3")
    assert node.delivery.position(chat).offset == 2
    assert not node.heard.interrupts


@gen_test
async def test_an_event_that_redis_knows_ends_no_epoch(cluster: Make, chat: str) -> None:
    """After Redis went back in time an event that it still has is answered with its place."""
    made = cluster(**OVER_HTTP)
    node = await made.node(chat)
    past = Past(made)
    (kept,) = await publish(node, chat, 1)
    await past.remember()
    (lost,) = await publish(node, chat, 2)
    await until_at(chat, lost, node)
    await past.restore()
    assert await publish(node, chat, 1) == [kept]
    assert await made.client.hget(node.backend._names.chat_keys(chat)[0], "epoch") == kept.epoch.encode()


@gen_test
@pytest.mark.parametrize("lost", [1, 2])
async def test_a_redis_that_has_lost_the_last_event(cluster: Make, chat: str, lost: int) -> None:
    """A node that knows one event more than Redis begins a new epoch with its next one."""
    made = cluster(**OVER_HTTP)
    node = await made.node(chat)
    past = Past(made)
    (kept,) = await publish(node, chat, 1)
    await past.remember()
    cursors = await publish(node, chat, *range(2, 2 + lost))
    await until_at(chat, cursors[-1], node)
    await past.restore()
    (cursor,) = await publish(node, chat, "next")
    assert cursor.epoch != kept.epoch
    assert cursor.offset == 1


@gen_test
async def test_a_node_that_is_behind_joins_the_others_epoch(cluster: Make, chat: str) -> None:
    """A node that hasn't heard of the new epoch yet has its event sequenced there, whatever it knew."""
    made = cluster()
    node = await made.node(chat)
    meta, events, *_ = node.backend._names.chat_keys(chat)
    cursors = await publish(node, chat, 1, 2, 3)
    await until_at(chat, cursors[-1], node)
    await made.client.hset(meta, mapping={"epoch": "another", "offset": 0})
    await made.client.delete(events)
    (cursor,) = await publish(node, chat, 4)
    assert str(cursor) == "another.1"
