"""What a join finds: no new epoch if nothing is wrong, and whose guard counts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from eclipse_ws.backends.redis import scripts
from tests.backends.harness import PATIENCE, POLL, Cluster, Node, event, until
from tests.backends.test_redis_back_in_time import OVER_HTTP, publish, until_at
from tests.backends.test_redis_guard import NAMES, epoch

gen_test = pytest.mark.gen_test(timeout=30)
Make = Callable[..., Cluster]
Expect = Callable[..., None]
LONG_AGO = 1_600_000_000_000  # milliseconds


async def join_again(node: Node, chat: str) -> None:
    """Make a node join a chat again, as after a gap, and wait until it has."""
    node.delivery._subscriptions.look_again([chat])
    await node.delivery.subscribe(chat)


async def until_guarded_by(made: Cluster, chat: str, *nodes: Node) -> None:
    """Wait until a chat has one guard for each of these nodes, and no others."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE
    wanted = sorted(f"guard:{node.connection()}".encode() for node in nodes)
    while True:
        noted = await made.client.hkeys(f"eclipse:{{{chat}}}:meta")
        guards = sorted(name for name in noted if name.startswith(b"guard:"))
        if guards == wanted:
            return
        assert loop.time() < deadline, f"{guards} are there, not {wanted}"
        await asyncio.sleep(POLL)


@gen_test
async def test_joining_again_changes_nothing(cluster: Make, chat: str) -> None:
    """Wherever a chat is in its history, a node that joins again stays in its epoch and interrupts nobody."""
    made = cluster(history_events=3, **OVER_HTTP)
    node, elsewhere = await made.node(chat), await made.node()
    before = epoch(node, chat)
    for number in range(8):
        (cursor,) = await publish(elsewhere, chat, number)
        await until_at(chat, cursor, node)
        await join_again(node, chat)
        newcomer = await made.node(chat)
        for _ in range(2):
            await join_again(newcomer, chat)
        assert newcomer.delivery.position(chat) == node.delivery.position(chat) == cursor
        assert epoch(node, chat) == before
        assert not node.heard.interrupts
        assert not newcomer.heard.interrupts
        await newcomer.delivery.close()


@gen_test
async def test_joining_again_in_a_new_epoch(cluster: Make, chat: str) -> None:
    """An epoch that has begun with no event yet is joined again as it is."""
    made = cluster()
    one, other = await made.nodes(2, chat)
    (cursor,) = await publish(one, chat, 1)
    await until_at(chat, cursor, one, other)
    one.delivery._subscriptions.renew(chat)
    await until(lambda: epoch(one, chat) == epoch(other, chat) != cursor.epoch)
    begun = epoch(one, chat)
    for node in (one, other):
        await join_again(node, chat)
        assert epoch(node, chat) == begun
        assert node.heard.interrupts == [chat]


@gen_test
@pytest.mark.parametrize("last", ["none", "outdated"])
async def test_after_events_of_an_earlier_server(cluster: Make, chat: str, last: str) -> None:
    """Earlier servers don't note which event is the last one: a missing or outdated field is ignored."""
    made = cluster(**OVER_HTTP)
    node = await made.node(chat)
    meta, *kept = node.backend._names.chat_keys(chat)
    cursors = await publish(node, chat, 1, 2)
    await until_at(chat, cursors[-1], node)
    if last == "none":
        await made.client.hdel(meta, "last")
    else:
        await made.client.hset(meta, "last", f"{cursors[0]} {event(1).identity}")
    await made.client.delete(*kept)
    await join_again(node, chat)
    assert node.delivery.position(chat) == cursors[-1]
    assert not node.heard.interrupts


@gen_test
@pytest.mark.parametrize(
    ("since", "leased", "guards"),
    [("now", False, True), ("long ago", True, True), ("long ago", False, False)],
)
async def test_a_recent_guard(cluster: Make, chat: str, since: str, leased: bool, guards: bool) -> None:
    """A subscribed guard counts if it came just now or its lease lives; else its machine has gone."""
    made = cluster(redis_ping_interval=20)
    one = await made.node(chat)
    await one.until_up()
    before = epoch(one, chat)
    if since == "long ago":
        await made.client.hset(f"eclipse:{{{chat}}}:meta", f"guard:{one.connection()}", LONG_AGO)
    await made.client.execute_command(
        "SET" if leased else "DEL", NAMES.node + one.connection(), *["1", "EX", 40] * leased
    )
    other = await made.node(chat)
    assert (epoch(other, chat) == before) is guards


@gen_test
async def test_a_nodes_earlier_connection_guards_nothing(cluster: Make, chat: str) -> None:
    """What Redis has not closed yet of the same node doesn't bridge the gap after it."""
    made = cluster()
    node = await made.node(chat)
    before = node.delivery.position(chat)
    channel = NAMES.node + node.connection()
    assert (await made.client.pubsub_numsub(channel))[0][1] == 1
    name = node.connection().partition(":")[0]
    found, _, missed, *_ = await scripts.JOIN(
        node.backend._connections.commands,
        [*NAMES.chat_keys(chat), NAMES.marks(chat)],
        *(name, f"{name}:2", "99999999999999", before.epoch, 0, 0, "newepoch", 60, NAMES.node, 1, 60000, ""),
    )
    assert (found, missed) == (b"newepoch", None)


@gen_test
async def test_guards_that_are_gone_are_removed(cluster: Make, chat: str, expect_log: Expect) -> None:
    """However often nodes reconnect and die, the chat's hash has the guards of those that hear it."""
    expect_log("Redis connection lost")
    made = cluster()
    one = await made.node(chat)
    for number in (2, 3):
        await made.kill_connection(one)
        await until(lambda number=number: one.backend._connections._number == number, "another connection")
    await until_guarded_by(made, chat, one)
    other = await made.node(chat)
    await until_guarded_by(made, chat, one, other)
    await other.backend._connections.close()
    await made.until_listeners(NAMES.node + other.connection(), 0)
    await join_again(one, chat)
    await until_guarded_by(made, chat, one)


@gen_test
async def test_an_epoch_that_nobody_guards_is_not_joined(cluster: Make, chat: str) -> None:
    """An epoch that began without a listening node isn't continued, not even by a node without a gap."""
    made = cluster()
    node, elsewhere = await made.node(chat), await made.node()
    before = epoch(node, chat)
    await made.client.delete(*node.backend._names.chat_keys(chat))
    (begun,) = await publish(elsewhere, chat, 1)
    await until(lambda: node.heard.interrupts)
    assert epoch(node, chat) not in (before, begun.epoch)
