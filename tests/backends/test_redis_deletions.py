"""Deletions on Redis: the stream that is written again, its bytes and its lifetime, and earlier servers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from eclipse_ws.protocol import Cursor
from tests.backends.harness import Cluster, Node, body, event, until

gen_test = pytest.mark.gen_test(timeout=30)
Make = Callable[..., Cluster]
COUNTED = ("xrange", "hget", "xadd")
GONE = b'{"type":"message_deleted","data":{"id":"m1"}}'


async def kept(made: Cluster, node: Node, chat: str) -> list[tuple[bytes, Any]]:
    """The entries of a chat's stream."""
    events = node.backend._names.chat_keys(chat)[1]
    return [(place, json.loads(fields[b"e"])) for place, fields in await made.client.xrange(events)]


@gen_test
async def test_a_raw_deletion(cluster: Make, chat: str) -> None:
    """What the application publishes on the channel deletes a message, once, whichever node is first."""
    made = cluster()
    one, other = await made.nodes(2, chat)
    for number in ("m1", "m2"):
        await one.delivery.publish(chat, event(number))
    await made.raw(chat, GONE)
    for node in (one, other):
        await node.until_heard(chat, "m1", "m2", "m1")
    epoch = one.delivery.position(chat).epoch
    found = await kept(made, one, chat)
    assert [place for place, _ in found] == [b"1-0", b"2-0", b"3-0"]
    assert [text for _, text in found] == [
        {**json.loads(GONE), "cursor": f"{epoch}.1"},
        {**json.loads(body("m2")), "cursor": f"{epoch}.2"},
        {**json.loads(GONE), "cursor": f"{epoch}.3"},
    ]
    resumed = await other.delivery.resume(chat, Cursor(epoch, 0))
    assert [json.loads(each.body)["type"] for each in resumed] == [text["type"] for _, text in found]


@gen_test
@pytest.mark.parametrize("known", [False, True])
async def test_the_sum_of_bytes_stays_right(cluster: Make, chat: str, known: bool) -> None:
    """What a deletion frees is subtracted, also if an earlier server has sequenced the deletion."""
    made = cluster()
    node = await made.node(chat)
    meta, events, *seen = node.backend._names.chat_keys(chat)
    for number in ("m1", "m2"):
        await node.delivery.publish(chat, event(number))
    if known:
        await made.client.hset(seen[0], "message_deleted:m1", "earlier.1")
    await made.raw(chat, GONE)
    await until(
        lambda: node.delivery.counts.duplicates_dropped if known else len(node.heard.events[chat]) == 3
    )
    found = await kept(made, node, chat)
    assert [text["type"] for _, text in found][:2] == ["message_deleted", "message"]
    stored = await made.client.xrange(events)
    assert int(await made.client.hget(meta, "bytes")) == sum(len(fields[b"e"]) for _, fields in stored)


@gen_test
async def test_a_deletion_in_a_history_that_was_never_summed(cluster: Make, chat: str) -> None:
    """The sum of a history that an earlier server has kept is not known: a deletion leaves that so."""
    made = cluster()
    node = await made.node(chat)
    meta, _, *seen = node.backend._names.chat_keys(chat)
    await node.delivery.publish(chat, event("m1"))
    await made.client.hdel(meta, "bytes")
    await made.client.hset(seen[0], "message_deleted:m1", "earlier.1")
    await made.raw(chat, GONE)
    await until(lambda: node.delivery.counts.duplicates_dropped)
    assert [text["type"] for _, text in await kept(made, node, chat)] == ["message_deleted"]
    assert not await made.client.hexists(meta, "bytes")


@gen_test
async def test_a_stream_that_was_written_again_expires(cluster: Make, chat: str) -> None:
    """Neither the stream nor what is noted of a chat lives longer for a deletion."""
    made = cluster(history_seconds=50)
    node = await made.node(chat)
    meta, events, *seen = node.backend._names.chat_keys(chat)
    await node.delivery.publish(chat, event("m1"))
    await made.client.hset(seen[0], "message_deleted:m1", "earlier.1")
    await made.client.persist(meta)
    await made.raw(chat, GONE)
    await until(lambda: node.delivery.counts.duplicates_dropped)
    assert 0 < await made.client.ttl(events) <= 50
    assert 50 < await made.client.ttl(meta) <= 86400


@gen_test
async def test_what_can_not_be_read_stays(cluster: Make, chat: str) -> None:
    """A deletion reads a whole history; an entry that is none of ours is neither changed nor in its way."""
    made = cluster()
    node = await made.node(chat)
    _, events, *_ = node.backend._names.chat_keys(chat)
    await node.delivery.publish(chat, event("m1"))
    odd = [
        b"x",
        b"7",
        b'{"type":"message"}',
        b'{"type":"message","data":7}',
        b'{"type":"message","data":null}',
    ]
    for at, text in enumerate(odd):
        await made.client.xadd(events, {"e": text}, id=f"1-{at + 1}")
    await node.delivery.publish(chat, event("m1", "message_deleted"))
    stored = [fields[b"e"] for _, fields in await made.client.xrange(events)]
    assert stored[1:-1] == odd
    assert json.loads(stored[0])["type"] == "message_deleted"


@gen_test
async def test_other_events_read_no_history(own_cluster: Make, chat: str) -> None:
    """Only a deletion reads the stream; a message costs a look for its deletion only where there was one."""
    made = own_cluster()
    node = await made.node(chat)
    counted = []
    for kind in ("message", "message_deleted", "message"):
        await made.client.config_resetstat()
        for number in range(10 * len(counted), 10 * len(counted) + 10):
            await node.delivery.publish(chat, event(number, kind))
        stats = await made.client.info("commandstats")
        counted.append([stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in COUNTED])
    assert counted == [[0, 20, 10], [10, 20, 10], [0, 40, 10]]
