"""A Redis that goes back in time: a snapshot was restored, or a replica promoted that lagged behind.

It knows the same epoch and less of it, and counts on from there. A client that has seen more must not be told
that nothing is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from eclipse_ws.protocol import Cursor
from tests.backends.harness import PATIENCE, POLL, Cluster, Node, event, until
from tests.servers import RedisServer

gen_test = pytest.mark.gen_test(timeout=30)
Make = Callable[..., Cluster]
Expect = Callable[..., None]
OUTAGE = "Redis connection lost|event not published|Redis unavailable|chat not subscribed|history not read"
OVER_HTTP = {"app_publishes_over_http": True}


async def publish(node: Node, chat: str, *numbers: int | str) -> list[Cursor]:
    """Publish one after the other; the cursors."""
    receipts = [await node.delivery.publish(chat, event(number)) for number in numbers]
    return [cursor for receipt in receipts if (cursor := Cursor.parse(receipt.cursor or "")) is not None]


async def until_at(chat: str, cursor: Cursor, *nodes: Node) -> None:
    """Wait until these nodes have delivered up to a cursor."""
    await until(lambda: all(node.delivery.position(chat) == cursor for node in nodes), str(cursor))


async def until_begun_anew(chat: str, epoch: str, *nodes: Node) -> None:
    """Wait until these nodes are live in the same other epoch; their sessions were interrupted."""

    def agreed() -> bool:
        channels = [node.delivery._subscriptions.get(chat) for node in nodes]
        found = {channel.position.epoch for channel in channels if channel.position is not None}
        return all(channel.live for channel in channels) and len(found) == 1 and epoch not in found

    await until(agreed, "a new epoch")
    assert all(chat in node.heard.interrupts for node in nodes)


class Past:
    """A copy of all keys, to which Redis can be set back while it runs: no connection notices."""

    def __init__(self, made: Cluster) -> None:
        self._client = made.client
        self._keys: dict[bytes, tuple[int, Any]] = {}

    async def remember(self) -> None:
        """Copy the keys."""
        for key in await self._client.keys("*"):
            lifetime, value = await self._client.pttl(key), await self._client.dump(key)
            if value is not None:  # it has not expired since it was listed
                self._keys[key] = lifetime, value

    async def restore(self) -> None:
        """Restore the keys."""
        pipeline = self._client.pipeline(transaction=True)
        pipeline.flushall()
        for key, (lifetime, value) in self._keys.items():
            pipeline.restore(key, max(0, lifetime), value)
        await pipeline.execute()


@gen_test
async def test_a_restored_snapshot(own_cluster: Make, chat: str, expect_log: Expect) -> None:
    """A client that is ahead of the snapshot is not told that later events are all that it missed."""
    expect_log(OUTAGE)
    made = own_cluster(**OVER_HTTP)
    node = await made.node(chat)
    assert made.server is not None
    kept = (await publish(node, chat, *range(1, 21)))[-1]
    await made.client.save()
    lost = (await publish(node, chat, *range(21, 31)))[-1]
    await until_at(chat, lost, node)
    made.server.kill()
    await asyncio.to_thread(made.server.start)
    await node.until_up()
    after = await publish(node, chat, *range(31, 36))
    await until_begun_anew(chat, kept.epoch, node)
    assert await node.delivery.resume(chat, kept) is None
    assert await node.delivery.resume(chat, lost) is None
    assert all(cursor.epoch != kept.epoch for cursor in after)


@gen_test
async def test_a_lagging_replica_is_promoted(
    own_cluster: Make, own_server: Callable[..., RedisServer], chat: str, expect_log: Expect
) -> None:
    """A new primary that never got the last events begins new epochs for every node."""
    expect_log(OUTAGE)
    made = own_cluster("--repl-diskless-sync-delay", "0", **OVER_HTTP)
    nodes = one, other = await made.nodes(2, chat)
    assert made.server is not None
    replica = own_server()
    client = Cluster("redis", replica).client
    await client.replicaof("127.0.0.1", made.server.port)
    kept = (await publish(one, chat, *range(1, 4)))[-1]
    meta = one.backend._names.key(chat, "meta")
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE
    while await client.hget(meta, "offset") != b"3":
        assert loop.time() < deadline, "the replica gets nothing"
        await asyncio.sleep(POLL)
    await client.replicaof("NO", "ONE")  # from now on it lags behind
    lost = (await publish(other, chat, *range(4, 7)))[-1]
    await until_at(chat, lost, *nodes)
    made.server.kill()
    await client.config_set("port", made.server.port)
    await client.aclose()
    await asyncio.gather(*(node.until_up() for node in nodes))
    await until_begun_anew(chat, kept.epoch, *nodes)
    assert await one.delivery.resume(chat, kept) is None
    made.server.process, replica.process = replica.process, None


@gen_test
@pytest.mark.parametrize("over_http", [True, False])
async def test_published_before_anybody_has_joined(cluster: Make, chat: str, over_http: bool) -> None:
    """A node that knows more than Redis has its next event sequenced in a new epoch."""
    made = cluster(app_publishes_over_http=over_http)
    node, other = await made.nodes(2, chat)
    past = Past(made)
    await publish(node, chat, 1, 2)
    await past.remember()
    lost = (await publish(node, chat, 3, 4))[-1]
    await until_at(chat, lost, node, other)
    await past.restore()
    (cursor,) = await publish(node, chat, 5)
    assert cursor.epoch != lost.epoch
    await until_begun_anew(chat, lost.epoch, node, other)


CASES = {
    "delivered": (False, False, (5, 6)),
    "delivered, and more came": (False, False, (5, 6, 7)),
    "delivered, and published again at another place": (False, False, (4, 5)),
    "learnt at its join": (True, False, (5, 6)),
    "learnt at its join, and more came": (True, False, (5, 6, 7)),
    "delivered, and the events have expired": (False, True, (5, 6)),
    "learnt at its join, and the events have expired": (True, True, (5, 6)),
}


@gen_test
@pytest.mark.parametrize("case", CASES)
async def test_equal_offsets_with_different_events(cluster: Make, chat: str, case: str) -> None:
    """Others have raised Redis's offset to what a node knows, or past it: its next join notices that."""
    newcomer, expired, later = CASES[case]
    made = cluster(**OVER_HTTP)
    elsewhere = await made.node()
    node = await made.node(*([] if newcomer else [chat]))
    past = Past(made)
    await publish(elsewhere, chat, 1, 2)
    await past.remember()
    lost = (await publish(elsewhere, chat, 3, 4))[-1]
    await node.delivery.subscribe(chat)
    await until_at(chat, lost, node)
    subscriptions = node.delivery._subscriptions
    channel = subscriptions.get(chat)
    await past.restore()
    channel.live = False  # as after a cut
    cursors = await publish(elsewhere, chat, *later)
    assert cursors[-1] == Cursor(lost.epoch, lost.offset + len(later) - 2)
    if expired:
        await made.client.delete(*node.backend._names.chat_keys(chat)[1:])
    subscriptions.resubscribe(channel)
    await until_begun_anew(chat, lost.epoch, node)
    assert node.heard.numbers(chat) == ([] if newcomer else ["1", "2", "3", "4"])


@gen_test
async def test_a_join_after_a_quiet_time(cluster: Make, chat: str) -> None:
    """If nothing was lost, a join begins no new epoch, with its events or after they have expired."""
    made = cluster(**OVER_HTTP)
    node, elsewhere = await made.node(chat), await made.node()
    subscriptions = node.delivery._subscriptions
    channel = subscriptions.get(chat)
    for number in range(4):
        (cursor,) = await publish(elsewhere, chat, number)
        await until_at(chat, cursor, node)
        if number % 2:
            await made.client.delete(*node.backend._names.chat_keys(chat)[1:])
        channel.live = False
        if number > 1:
            await publish(elsewhere, chat, f"more {number}")
        subscriptions.resubscribe(channel)
        await until(lambda: channel.live)
    assert node.heard.numbers(chat) == ["0", "1", "2", "more 2", "3", "more 3"]
    assert not node.heard.interrupts


@gen_test
@pytest.mark.parametrize("over_http", [True, False])
async def test_events_at_places_that_were_taken(cluster: Make, chat: str, over_http: bool) -> None:
    """Without a cut, another node's first event after the restore is not a duplicate, but a sign of it."""
    made = cluster(app_publishes_over_http=over_http)
    node, elsewhere = await made.node(chat), await made.node()
    past = Past(made)
    await publish(node, chat, 1, 2)
    await past.remember()
    lost = (await publish(node, chat, 3, 4))[-1]
    await until_at(chat, lost, node)
    await past.restore()
    await publish(elsewhere, chat, 5)
    await until_begun_anew(chat, lost.epoch, node)


@gen_test
@pytest.mark.parametrize("later", [1, 3], ids=["the last one", "one of before"])
async def test_an_epoch_that_had_ended(cluster: Make, chat: str, later: int) -> None:
    """A Redis that is back in an earlier epoch doesn't continue it: its clients missed the later ones."""
    made = cluster(**OVER_HTTP)
    nodes = one, other = await made.nodes(2, chat)
    past = Past(made)
    earlier = (await publish(one, chat, 1))[-1]
    await until_at(chat, earlier, *nodes)
    await past.remember()
    lost = earlier
    for number in range(later):
        one.delivery._subscriptions.renew(chat)
        await until_begun_anew(chat, lost.epoch, *nodes)
        lost = (await publish(one, chat, 2 + number))[-1]
        await until_at(chat, lost, *nodes)
    await past.restore()
    await publish(other, chat, 9)
    await until(lambda: not {one.delivery.position(chat).epoch} & {earlier.epoch, lost.epoch})
    await until_begun_anew(chat, lost.epoch, *nodes)
    assert await other.delivery.resume(chat, earlier) is None


@gen_test
@pytest.mark.parametrize("over", [False, True])
async def test_all_nodes_hear_that_redis_went_back_in_time(cluster: Make, chat: str, over: bool) -> None:
    """The node that notices tells all others, also those that joined the chat after the snapshot."""
    made = cluster(**OVER_HTTP)
    one = await made.node(chat)
    past = Past(made)
    earlier = (await publish(one, chat, 1))[-1]
    await past.remember()
    if over:
        await until_at(chat, earlier, one)
        one.delivery._subscriptions.renew(chat)
        await until_begun_anew(chat, earlier.epoch, one)
    other = await made.node(chat)
    lost = (await publish(one, chat, 2))[-1]
    await until_at(chat, lost, one, other)
    await past.restore()
    channel = one.delivery._subscriptions.get(chat)
    channel.live = False
    one.delivery._subscriptions.resubscribe(channel)
    await until_begun_anew(chat, lost.epoch, one, other)


@gen_test
async def test_a_resume_before_the_next_join(cluster: Make, chat: str) -> None:
    """A node that knows more than Redis does not tell a client that it has all, although Redis would."""
    made = cluster(**OVER_HTTP)
    node = await made.node(chat)
    past = Past(made)
    kept = (await publish(node, chat, 1, 2))[-1]
    await past.remember()
    await until_at(chat, (await publish(node, chat, 3))[-1], node)
    await past.restore()
    assert await node.delivery.resume(chat, kept) is None
    assert await node.delivery.resume(chat, Cursor(kept.epoch, 1)) is None


@gen_test
async def test_a_clients_cursor_begins_no_epoch(cluster: Make, chat: str) -> None:
    """A cursor that a client invented begins no new epoch: nobody else notices."""
    made = cluster(**OVER_HTTP)
    node, other = await made.nodes(2, chat)
    at = (await publish(node, chat, 1))[-1]
    await until_at(chat, at, node, other)
    assert await node.delivery.resume(chat, Cursor(at.epoch, 1000)) is None
    await publish(other, chat, 2)
    await until_at(chat, Cursor(at.epoch, 2), node, other)
    assert not node.heard.interrupts
    assert not other.heard.interrupts
