"""Commands per message, per raw event, and of an idle node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from unittest.mock import patch

import pytest

from eclipse_ws.backends.redis.connections import IDLE
from eclipse_ws.protocol import parse_event
from tests.backends.harness import Cluster, Node, body, event, fresh_chat, typing, until
from tests.conftest import make_settings

gen_test = pytest.mark.gen_test(timeout=30)
Make = Callable[..., Cluster]


async def quiet(made: Cluster, *nodes: Node) -> None:
    """Wait until the nodes' heartbeats of the start are over, and count from here."""
    for node in nodes:
        await node.until_up()
        await until(lambda node=node: node.backend._connections.latency is not None)
    for node in nodes:
        await node.delivery.ask("quiet")
    await made.client.config_resetstat()


async def asked(made: Cluster) -> dict[str, int]:
    """How often each command was given since `quiet`, those of the scripts' insides left out."""
    clients = {"evalsha", "eval", "publish", "subscribe", "unsubscribe", "ping", "hdel", "del"}
    stats = await made.client.info("commandstats")
    calls = {name.removeprefix("cmdstat_"): int(value["calls"]) for name, value in stats.items()}
    inside = calls.get("xadd", 0)  # each script that adds an event publishes it
    if inside and "publish" in calls:
        calls["publish"] -= inside
    return {name: count for name, count in calls.items() if name in clients and count > 0}


@gen_test
async def test_a_message_costs_two_commands(own_cluster: Make, chat: str) -> None:
    """A message with a clientMessageId costs its node two commands, and the other nodes none."""
    made = own_cluster()
    one, other = await made.nodes(2, chat)
    await quiet(made, one, other)
    for number in range(50):
        attempt = await one.delivery.attempt(chat, f"key {number}")
        await one.delivery.publish(chat, event(number), attempt)
    await other.until_heard(chat, *range(50))
    assert await asked(made) == {"evalsha": 100}


@gen_test
async def test_a_retry_costs_nothing_on_its_node(own_cluster: Make, chat: str) -> None:
    """A key whose outcome this node knows is answered without Redis."""
    made = own_cluster()
    node = await made.node(chat)
    attempt = await node.delivery.attempt(chat, "key")
    await node.delivery.publish(chat, event("m1"), attempt)
    await quiet(made, node)
    for _ in range(10):
        assert (await node.delivery.attempt(chat, "key")).state == "done"
    assert await asked(made) == {}


@gen_test
async def test_a_raw_event_costs_one_command_a_node(own_cluster: Make, chat: str) -> None:
    """What the application publishes costs each node that hears it at most one command."""
    made = own_cluster()
    nodes = await made.nodes(3, chat)
    await made.node()
    await quiet(made, *nodes)
    for number in range(50):
        await made.raw(chat, body(number))
    for node in nodes:
        await node.until_heard(chat, *range(50))
    counted = await asked(made)
    assert counted.pop("publish") == 50  # the application's own
    assert list(counted) == ["evalsha"]
    assert 50 <= counted["evalsha"] <= 150


@gen_test
async def test_an_ephemeral_event_costs_one_command(own_cluster: Make, chat: str) -> None:
    """Typing costs a PUBLISH if it comes alone, and a resume at the last position nothing."""
    made = own_cluster()
    one, other = await made.nodes(2, chat)
    await quiet(made, one, other)
    for number in range(20):
        one.delivery.broadcast(chat, typing("session-1"))
        await until(lambda number=number: len(other.heard.events[chat]) == number + 1)  # type: ignore[misc]
    assert await other.delivery.resume(chat, other.delivery.position(chat)) == []
    assert await asked(made) == {"publish": 20}


@gen_test
async def test_joining_thousands_of_chats(own_cluster: Make) -> None:
    """A chat that is joined costs one script, and its subscription is shared with others of the turn."""
    made = own_cluster()
    node = await made.node()
    await quiet(made, node)
    chats = [fresh_chat() for _ in range(1000)]
    await asyncio.gather(*map(node.delivery.subscribe, chats))
    counted = await asked(made)
    # And the heartbeat that tells that the node is idle no longer.
    assert 1000 <= counted["evalsha"] <= 1002
    # How many share one depends on how the answers arrive: a busy machine takes them in smaller pieces.
    assert counted["subscribe"] <= 50


@gen_test
async def test_the_connections_of_a_node(own_cluster: Make, chat: str) -> None:
    """A node has two connections, whatever it hears."""
    made = own_cluster()
    await made.node(chat, fresh_chat(), fresh_chat())
    names = [client["name"] for client in await made.client.client_list()]
    assert names.count("eclipse-ws") == 2


@gen_test
@patch("eclipse_ws.config.settings.Settings.history_bytes", 100_000)
async def test_a_history_is_rarely_measured(own_cluster: Make, chat: str) -> None:
    """Histories are bounded in bytes by a sum: what is kept is read only where the sum reaches the bound."""
    made = own_cluster(history_events=100)
    node = await made.node(chat)
    await quiet(made, node)
    for number in range(500):
        await node.delivery.publish(chat, event(number))  # of about 90 bytes: 9,000 are kept
    assert (await made.client.info("commandstats")).get("cmdstat_xrange", {"calls": 0})["calls"] == 0
    for number in range(500, 1000):
        await node.delivery.publish(chat, parse_event(body(number, padding="x" * 5000)))
    assert (await made.client.info("commandstats"))["cmdstat_xrange"]["calls"] <= 500 / 4
    kept = await made.client.xrange(f"eclipse:{{{chat}}}:events")
    assert 75_000 - 5200 <= sum(len(fields[b"e"]) for _, fields in kept) <= 100_000


@gen_test
@patch("eclipse_ws.config.settings.Settings.history_bytes", 10_000)
async def test_a_history_of_an_earlier_server(own_cluster: Make, chat: str) -> None:
    """A history that a server without such a bound has kept is measured once, and goes on."""
    made = own_cluster()
    node = await made.node(chat)
    for number in range(5):
        await node.delivery.publish(chat, event(number))
    await made.client.hdel(f"eclipse:{{{chat}}}:meta", "bytes")
    await node.delivery.publish(chat, event(5))
    kept = await made.client.xrange(f"eclipse:{{{chat}}}:events")
    assert len(kept) == 6
    noted = await made.client.hget(f"eclipse:{{{chat}}}:meta", "bytes")
    assert int(noted) == sum(len(fields[b"e"]) for _, fields in kept)


def test_an_idle_node_sends_two_commands_a_minute() -> None:
    """Without chats a node sends one command per idle interval: two a minute by default."""
    settings = make_settings()
    assert 60 / (IDLE * settings.redis_ping_interval) <= 2
    # With chats a frozen server has to be noticed within 15 seconds.
    assert settings.redis_ping_interval + settings.redis_timeout <= 15


async def carry(node: Node, beacon: bytes) -> None:
    """Have a node's heartbeats carry a beacon of the test."""
    await node.delivery.presence.close()  # whose beacon it would be
    node.backend.beacon = beacon


@gen_test
async def test_a_beacon_costs_no_command(own_cluster: Make, chat: str) -> None:
    """A beacon reaches all nodes with the heartbeats, which cost as many commands as without it."""
    made = own_cluster(redis_ping_interval=0.1)
    one, other = await made.nodes(2, chat)
    heard: list[bytes] = []
    for node in (one, other):
        node.delivery.notice = heard.append
    await carry(one, b"beacon")
    await until(lambda: len(heard) >= 2)
    await made.client.config_resetstat()
    heard.clear()
    await until(lambda: len(heard) >= 6)
    stats = await made.client.info("commandstats")
    calls = stats["cmdstat_evalsha"]["calls"]
    # Each script publishes what its node has to hear.
    assert len(heard) // 2 <= stats["cmdstat_publish"]["calls"] - calls <= len(heard) // 2 + 1
    assert set(heard) == {b"beacon"}


@gen_test
@pytest.mark.parametrize("busy", ["", "chat", "beacon"])
async def test_the_interval_follows_the_chats(own_cluster: Make, chat: str, busy: str) -> None:
    """Heartbeats come at the idle interval without chats and beacon, else at the shorter one."""
    made = own_cluster(redis_ping_interval=0.1)
    node = await made.node(*([chat] if busy == "chat" else []))
    if busy == "beacon":
        await carry(node, b"{}")
        node.backend._connections.beat_soon()
    await quiet(made, node)
    await asyncio.sleep(0.45)
    counted = (await asked(made)).get("evalsha", 0)
    assert counted >= 3 if busy else counted <= 1
