"""Failovers and moving slots of a real cluster, without a restart of any node."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from redis.crc import key_slot

from eclipse_ws.backends.base import Unavailable
from eclipse_ws.backends.redis.cluster import ClusterBackend
from eclipse_ws.backends.redis.names import Names
from eclipse_ws.backends.redis.scripts import JOIN
from eclipse_ws.protocol import Cursor
from tests import needs
from tests.backends import failovers
from tests.backends.failovers import (
    OVER_HTTP,
    Expect,
    FailoverCluster,
    is_renewed,
    positions,
    publish,
    replicated,
)
from tests.backends.harness import Node, body, event, fresh_chat, typing, until
from tests.clusters import RedisCluster
from tests.sentinels import ask
from tests.servers import SERVERS, RedisServer

gen_test = pytest.mark.gen_test(timeout=60)
OUTAGE = f"{failovers.OUTAGE}|some slots of the cluster|not every node|nodes not asked"
SHARDED = "?pubsub=sharded"

pytestmark = pytest.mark.slow


@pytest.fixture(params=SERVERS)
def servers(request: Any) -> Iterator[RedisCluster]:
    """Three primaries with a replica each, which a test may break."""
    made = RedisCluster(needs.server(request.param))
    try:
        yield made.start()
    finally:
        made.stop()


@pytest.fixture
def made(io_loop: Any, servers: RedisCluster) -> Iterator[OnCluster]:
    """Nodes on it."""
    cluster = OnCluster(servers)
    yield cluster
    io_loop.run_sync(cluster.close)


class OnCluster(FailoverCluster):
    """Nodes on a cluster."""

    topology = "cluster"


def homes(chat: str, *nodes: Node) -> set[int]:
    """The ports over which these nodes hear a chat."""
    return {node.backend._homes[chat].server.port for node in nodes}


def chats(servers: RedisCluster) -> list[str]:
    """A chat on each of the primaries."""
    found: dict[int, str] = {}
    while len(found) < 3:
        chat = fresh_chat()
        found.setdefault(servers.owner_of(chat).port, chat)
    return list(found.values())


def slot_of(chat: str) -> int:
    """A chat's slot."""
    return int(key_slot(f"{{{chat}}}".encode()))


def another(servers: RedisCluster, than: RedisServer) -> RedisServer:
    """A primary other than this one."""
    port = next(ports[0] for ports in servers.shards().values() if ports[0] != than.port)
    return next(server for server in servers.servers if server.port == port)


def listeners(servers: RedisCluster, channel: str) -> dict[int, int]:
    """How many connections listen to a channel on each server that has any."""
    kind = "SHARDNUMSUB" if channel.startswith("eclipse:") else "NUMSUB"
    found = {server.port: ask(server.port, "PUBSUB", kind, channel)[1] for server in servers.servers}
    return {port: count for port, count in found.items() if count}


@gen_test
async def test_a_primary_is_lost(servers: RedisCluster, made: OnCluster, expect_log: Expect) -> None:
    """The promoted replica is found; every event arrives once, on all primaries; clients can resume."""
    expect_log(OUTAGE)
    chat, second, third = spread = chats(servers)
    one, other = await made.nodes(2, *spread, **OVER_HTTP)
    for each in spread:
        assert await publish(one, each, 1) == ["published"]
        await one.until_heard(each, 1)
        await other.until_heard(each, 1)
    (before,) = positions(chat, one, other)
    lost = servers.owner_of(chat)
    replica = servers.replica_of(lost)
    await replicated(lost)
    lost.kill()
    await made.until_lost(one, other)
    assert await publish(one, second, 2) == ["published"]
    assert await publish(one, chat, 2) == ["local"]
    assert await publish(one, third, 2) == ["local"]
    await made.until_up(one, other)
    for each in spread:
        assert await publish(other, each, 3) == ["published"]
        await one.until_heard(each, 1, 2, 3)
        await other.until_heard(each, 1, 2, 3)
    assert one.heard.interrupts == other.heard.interrupts == []
    assert homes(chat, one, other) == {replica.port}
    missed = await other.delivery.resume(chat, before)
    assert [each.cursor for each in missed] == [Cursor(before.epoch, at) for at in (2, 3)]
    await asyncio.to_thread(lost.start)
    await asyncio.to_thread(servers.until, servers.is_whole)
    assert await publish(one, chat, 4) == ["published"]
    await other.until_heard(chat, 1, 2, 3, 4)


@gen_test
async def test_a_primary_is_lost_with_its_last_writes(
    servers: RedisCluster, made: OnCluster, expect_log: Expect
) -> None:
    """Events that the replica never had: a new epoch begins in this chat, and in no other."""
    expect_log(OUTAGE)
    chat, second, _ = spread = chats(servers)
    one, other = await made.nodes(2, *spread, **OVER_HTTP)
    await publish(one, second, 1)
    await publish(one, chat, 1)
    lost = servers.owner_of(chat)
    await replicated(lost)
    ask(servers.replica_of(lost).port, "CONFIG", "SET", "masterauth", "wrong")
    ask(lost.port, "CLIENT", "KILL", "TYPE", "replica")
    await publish(one, chat, 2, 3)
    await one.until_heard(chat, 1, 2, 3)
    await other.until_heard(chat, 1, 2, 3)
    (before,) = positions(chat, one, other)
    lost.kill()
    await made.until_lost(one, other)
    await made.until_up(one, other)
    await publish(other, chat, 4)
    await until(lambda: is_renewed(before, positions(chat, one, other)), "one position in a new epoch")
    assert set(one.heard.interrupts) == set(other.heard.interrupts) == {chat}
    assert await one.delivery.resume(chat, before) is None


@gen_test
async def test_raw_events(servers: RedisCluster, made: OnCluster, expect_log: Expect) -> None:
    """What the application publishes on any server, replicas included, arrives once; after a failover the
    chats of that primary begin a new epoch, because such events may be lost.
    """
    expect_log(OUTAGE)
    chat, second, _ = spread = chats(servers)
    one, other = await made.nodes(2, *spread, redis_timeout=1)
    for number, server in enumerate(servers.servers):
        ask(server.port, "PUBLISH", f"chat:{chat}", body(number).decode())
        for node in (one, other):
            await node.until_heard(chat, *range(number + 1))
    (before,) = positions(chat, one)
    lost = servers.owner_of(chat)
    await replicated(lost)
    lost.kill()
    await made.until_lost(one, other)
    await made.until_up(one, other)
    await until(lambda: before.epoch not in {each and each.epoch for each in positions(chat, one, other)})
    assert set(one.heard.interrupts) == set(other.heard.interrupts) == {chat}
    ask(servers.owner_of(second).port, "PUBLISH", f"chat:{chat}", body(6).decode())
    for node in (one, other):
        await node.until_heard(chat, *range(7))


@gen_test
async def test_a_planned_failover(servers: RedisCluster, made: OnCluster, expect_log: Expect) -> None:
    """Nodes follow a primary that hands over to its replica, and go on to hear the chat meanwhile."""
    expect_log(OUTAGE, optional=True)
    chat, *_ = spread = chats(servers)
    one, other = await made.nodes(2, *spread, redis_timeout=1, redis_ping_interval=0.5)
    await publish(one, chat, 1)
    replica = servers.replica_of(servers.owner_of(chat))
    ask(replica.port, "CLUSTER", "FAILOVER")
    await asyncio.to_thread(servers.until_promoted, replica)
    await until(lambda: homes(chat, one, other) == {replica.port}, "the new primary")
    await made.until_up(one, other)
    await publish(other, chat, 2)
    for node in (one, other):
        await node.until_heard(chat, 1, 2)
    assert one.heard.interrupts == other.heard.interrupts == []
    await until(lambda: not one.backend._retired and not other.backend._retired, "the end of the old")
    channel = f"chat:{chat}"
    await until(lambda: listeners(servers, channel) == {replica.port: 2}, "one subscription each")


@gen_test
@pytest.mark.parametrize("mode", ["raw", "over HTTP", "sharded"])
async def test_a_slot_moves(servers: RedisCluster, made: OnCluster, expect_log: Expect, mode: str) -> None:
    """While a chat's slot moves to and fro, every event arrives once and in order, and no session ends."""
    expect_log(OUTAGE, optional=True)
    chat = fresh_chat()
    given = {"app_publishes_over_http": mode != "raw", "redis_timeout": 1, "redis_ping_interval": 0.5}
    if mode == "sharded":
        given |= {"redis_url": servers.url + SHARDED, "redis_ping_interval": 60}  # Redis itself has to say it
    one, other = await made.nodes(2, chat, history_events=5000, **given)
    await publish(one, chat, 0)
    await one.until_heard(chat, 0)
    (before,) = positions(chat, one)
    first = servers.owner_of(chat)
    count, moving = 1, True

    async def publish_on() -> None:
        nonlocal count
        while moving:
            await publish((one, other)[count % 2], chat, count)
            count += 1
            await asyncio.sleep(0.005)

    publishing = asyncio.create_task(publish_on())
    for to in (another(servers, first), first, another(servers, first)):
        await asyncio.to_thread(servers.move, slot_of(chat), to)
        await until(lambda to=to: homes(chat, one, other) == {to.port}, "the chat's new home")
        await asyncio.sleep(0.2)
    moving = False
    await publishing
    await made.until_up(one, other)
    await until(lambda: len(one.heard.numbers(chat)) >= count and len(other.heard.numbers(chat)) >= count)
    for node in (one, other):
        assert sorted(map(int, node.heard.numbers(chat))) == list(range(count))
        assert node.heard.interrupts == []
    missed = await other.delivery.resume(chat, before)
    assert missed is not None and len(missed) == count - 1
    meta = f"eclipse:{{{chat}}}:meta"
    guards = {name for name in ask(servers.owner_of(chat).port, "HKEYS", meta) if name.startswith("guard:")}
    for node in (one, other):
        assert f"guard:{node.backend._homes[chat].backend.address}" in guards
    port = servers.owner_of(chat).port
    channel = one.backend._names.channel(chat)
    await until(lambda: listeners(servers, channel) == {port: 2}, "one subscription each")
    for node in (one, other):
        node.delivery.unsubscribe(chat)
        await node.backend.unsubscribe([chat])
    await until(lambda: listeners(servers, channel) == {}, "no subscription")
    assert not one.backend._homes and not other.backend._homes


@gen_test
async def test_a_slot_that_does_not_finish_to_move(
    servers: RedisCluster, made: OnCluster, expect_log: Expect
) -> None:
    """TRYAGAIN and ASK: the chat's events wait in the outbox, in bounded time, until the slot has arrived."""
    expect_log(OUTAGE, optional=True)
    chat = fresh_chat()
    one, other = await made.nodes(2, chat, **OVER_HTTP)
    await publish(one, chat, 1)
    source = servers.owner_of(chat)
    target = another(servers, source)
    servers.begin_move(slot_of(chat), target)
    for key in ask(source.port, "CLUSTER", "GETKEYSINSLOT", str(slot_of(chat)), "1"):
        ask(source.port, "MIGRATE", "127.0.0.1", str(target.port), key, "0", "5000")
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(Unavailable) as caught:
        await one.backend.append(chat, event(2))
    assert loop.time() - began < 5
    assert not caught.value.refused
    assert await publish(one, chat, 2) == ["local"]
    await asyncio.to_thread(servers.move, slot_of(chat), target)
    await made.until_up(one, other)
    for node in (one, other):
        await node.until_heard(chat, 1, 2)
    assert one.heard.interrupts == other.heard.interrupts == []


@gen_test
async def test_slots_without_a_primary(servers: RedisCluster, made: OnCluster, expect_log: Expect) -> None:
    """While a primary and its replica are gone, all is delivered locally. When the primary is back, without
    its data, its chats begin a new epoch, and the others go on.
    """
    expect_log(OUTAGE)
    chat, second, _ = spread = chats(servers)
    one, other = await made.nodes(2, *spread, **OVER_HTTP)
    await publish(one, second, 1)
    lost = servers.owner_of(chat)
    replica = servers.replica_of(lost)
    replica.kill()
    lost.kill()
    await made.until_lost(one, other)
    assert await publish(one, chat, 1) == ["local"]
    await until(lambda: ask(servers.owner_of(second).port, "SET", "{x}", "1") is None, "CLUSTERDOWN")
    assert await publish(one, second, 2) == ["local"]
    assert one.delivery.health.state == "down"
    lost.start()
    await made.until_up(one, other)
    await other.until_heard(second, 1, 2)
    await until(lambda: set(other.heard.interrupts) == {chat}, "the interrupt")
    await until(lambda: len(positions(chat, one, other) - {None}) == 1, "one position")


@gen_test
async def test_the_slot_of_a_node_s_name_moves(
    servers: RedisCluster, made: OnCluster, expect_log: Expect
) -> None:
    """The node takes another name in a slot that the primary still has, and its lease is renewed there."""
    expect_log("Redis connection lost", optional=True)
    chat = fresh_chat()
    node = await made.node(chat, redis_ping_interval=60, **OVER_HTTP)
    home = node.backend._homes[chat]
    tag, primary = home.tag, servers.owner_of(chat)
    await asyncio.to_thread(servers.move, int(key_slot(tag.encode())), another(servers, primary))
    home.backend._connections.beat_soon()
    await asyncio.sleep(0.1)
    assert node.backend.health.state == "up"  # the server itself accepts everything else
    node.backend._due.set()
    await until(lambda: home.tag != tag, "another name")
    await made.until_up(node)
    lease = node.backend._names.node + home.backend.address
    assert servers.owner(lease) is primary
    await until(lambda: ask(primary.port, "TTL", lease) > 0, "the lease")
    await publish(node, chat, 1)
    await until(lambda: "1" in node.heard.numbers(chat))


@gen_test
async def test_a_lease_that_is_not_here(servers: RedisCluster, made: OnCluster, chat: str) -> None:
    """A guard whose lease has moved to another server counts as gone, and doesn't stop others."""
    node = await made.node(chat)
    primary = node.backend._homes[chat].backend
    names, connections = node.backend._names, primary._connections
    elsewhere = node.backend.slots.tag(
        next(s for s in node.backend.slots.primaries if s.port != servers.owner_of(chat).port)
    )
    meta = names.key(chat, "meta")
    await connections.standing.call("HSET", meta, f"guard:stranger:1{elsewhere}", 1)
    keys = [*names.chat_keys(chat), names.marks(chat)]
    given = ("n", "n:1", "", "", 0, 0, "e", 60, names.node, 1, 1000, "")
    await JOIN(connections.standing, keys, *given)
    fields = await connections.standing.call("HKEYS", meta)
    assert not [field for field in fields if b"stranger" in field]


@gen_test
async def test_sharded_channels_stay_in_their_shard(
    servers: RedisCluster, made: OnCluster, expect_log: Expect
) -> None:
    """Nothing of a chat is published on other primaries; and the chats of a lost primary go on."""
    expect_log(OUTAGE)
    chat, *_ = spread = chats(servers)
    one, other = await made.nodes(2, *spread, redis_url=servers.url + SHARDED, **OVER_HTTP)
    primary = servers.owner_of(chat)
    channel = one.backend._names.channel(chat)
    assert listeners(servers, channel) == {primary.port: 2}
    assert listeners(servers, f"chat:{chat}") == {}
    one.delivery.broadcast(chat, typing())
    await until(lambda: [each.type for each in other.heard.events[chat]] == ["typing"])
    await publish(one, chat, 1)
    await other.until_heard(chat, 1)
    await replicated(primary)
    primary.kill()
    await made.until_lost(one, other)
    assert await publish(one, chat, 2) == ["local"]
    await made.until_up(one, other)
    await publish(other, chat, 3)
    for node in (one, other):
        await node.until_heard(chat, 1, 2, 3)
        assert node.heard.interrupts == []


@gen_test
async def test_slots_that_have_moved_unnoticed(servers: RedisCluster, made: OnCluster, chat: str) -> None:
    """A node that knows an earlier owner is sent on: what it asks for is done at once by the right one."""
    node = await made.node(redis_ping_interval=60, app_publishes_over_http=True)
    await node.backend.append(chat, event(1))
    await asyncio.to_thread(servers.move, slot_of(chat), another(servers, servers.owner_of(chat)))
    (cursor, _) = await node.backend.append(chat, event(2))
    assert cursor.offset == 2
    events = await node.backend.read(chat, Cursor(cursor.epoch, 0))
    assert events is not None and len(events) == 2


@gen_test
async def test_notes_reach_every_node_once(servers: RedisCluster, made: OnCluster) -> None:
    """A note is heard by each node once, however many primaries it hears; and one node can be told alone."""
    nodes = await made.nodes(3)
    assert all(isinstance(node.backend, ClusterBackend) for node in nodes)
    answers = await nodes[0].delivery.ask({"who": 1})
    assert answers.complete and len(answers.values) == 3
    await asyncio.sleep(0.1)  # for copies that came over other primaries
    assert [len(node.heard.questions) for node in nodes] == [1, 1, 1]
    assert await nodes[0].backend.send(b"{}", nodes[1].backend.address) == 1


@gen_test
async def test_one_primary_carries_the_beacon(servers: RedisCluster, made: OnCluster) -> None:
    """A node's beacon goes out over the primary of the nodes' common channel, whichever that is."""
    node = await made.node(redis_ping_interval=0.1, app_publishes_over_http=True)
    nodes_channel = node.backend._names.all_nodes
    await node.delivery.presence.close()  # whose beacon it would be
    node.backend.beacon = b"beacon"

    def carriers() -> list[int]:
        return [at.port for at, each in node.backend._primaries.items() if each.backend.beacon == b"beacon"]

    first = servers.owner(nodes_channel)
    assert carriers() == [first.port]
    heard: list[bytes] = []
    node.delivery.notice = heard.append
    to = another(servers, first)
    await asyncio.to_thread(servers.move, int(key_slot(nodes_channel.encode())), to)
    await until(lambda: carriers() == [to.port], "the other primary")
    heard.clear()
    await until(lambda: len(heard) >= 2, "beacons")
    assert set(heard) == {b"beacon"}


@gen_test
async def test_the_slot_of_the_ledger_moves(servers: RedisCluster, made: OnCluster) -> None:
    """Another primary gets the ledger with its holder and records, while it is written and read."""
    one, other = await made.nodes(2)
    mine, theirs = one.backend.ledger, other.backend.ledger
    holder, records = Names().ledger
    slot = int(key_slot(holder.encode()))
    assert slot == key_slot(records.encode())
    to = another(servers, servers.owner(holder))
    await mine.take("a")
    for first in (0, 500):
        await mine.write("a", {f"c{number}": b"x" for number in range(first, first + 500)})
    moving = asyncio.create_task(asyncio.to_thread(servers.move, slot, to))
    number = 0
    while not moving.done():
        number += 1
        assert await mine.write("a", {"c0": b"%d" % number})
        assert len(await theirs.read()) == 1000
    await moving
    assert await theirs.take("b", "a") == "b"
    assert await mine.write("a", {"c0": b"no"}) is False
    assert (await mine.read())["c0"] == b"%d" % number
    assert ask(to.port, "GET", holder) == "b"
