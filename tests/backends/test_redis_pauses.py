"""Pauses that grow while something fails: after a recovery the next one begins with the short one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.backends.harness import Cluster, event, until
from tests.provider import Provider

gen_test = pytest.mark.gen_test(timeout=60)
Make = Callable[..., Cluster]
Expect = Callable[..., None]
LINKS = "eclipse_ws.backends.redis.connections"
SUBSCRIPTIONS = "eclipse_ws.delivery.subscriptions"
OUTBOX = "eclipse_ws.delivery.outbox"


async def until_refused(made: Cluster, more: int) -> None:
    """Wait until the server has refused so many further scripts."""

    async def refused() -> int:
        counts = await made.client.info("commandstats")
        return int(counts.get("cmdstat_evalsha", {"failed_calls": 0})["failed_calls"])

    wanted = await refused() + more
    async with asyncio.timeout(10):
        while await refused() < wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.002)


@gen_test
async def test_pauses_of_reconnecting_are_reset_by_each_success(
    own_cluster: Make, chat: str, expect_log: Expect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often the connections were lost, reconnecting is as fast as the first time."""
    monkeypatch.setattr(f"{LINKS}.FIRST_PAUSE", 0.01)
    monkeypatch.setattr(f"{LINKS}.LONGEST_PAUSE", 60.0)
    expect_log("Redis connection lost")
    made = own_cluster()
    provider = await Provider(made.server.port).start()
    node = await made.node(chat, redis_url=provider.url)
    for _ in range(12):  # doubled each time, the pauses would add up to 40 s
        provider.cut()
        await until(lambda: node.delivery.health.state != "up", "the outage")
        await node.until_up()
    await node.delivery.close()
    await provider.stop()


@gen_test
async def test_connections_are_tried_less_often_in_a_long_outage(
    own_cluster: Make, expect_log: Expect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While every connection is turned away the pauses grow, up to the longest one."""
    monkeypatch.setattr(f"{LINKS}.FIRST_PAUSE", 0.01)
    monkeypatch.setattr(f"{LINKS}.LONGEST_PAUSE", 60.0)
    expect_log("Redis connection lost", "Redis refuses connections")
    made = own_cluster()
    provider = await Provider(made.server.port).start()
    provider.turn_away("ERR max number of clients reached")
    loop = asyncio.get_running_loop()
    began = loop.time()
    node = await made.node(redis_url=provider.url, redis_timeout=0.05)
    await until(lambda: provider.accepted >= 1 + 2 * 7, "seven attempts for each connection")
    assert loop.time() - began > 0.3  # their pauses are at least 5, 10, 20, 40, 80 and 160 ms
    await node.delivery.close()
    await provider.stop()


@gen_test
async def test_a_refused_join_is_tried_less_and_less_often(
    own_cluster: Make, chat: str, expect_log: Expect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a chat's join is refused the pauses grow."""
    monkeypatch.setattr(f"{SUBSCRIPTIONS}.RETRY", 0.005)
    expect_log("chat not subscribed")
    made = own_cluster()
    node = await made.node(redis_timeout=0.05)
    await made.client.set(f"eclipse:{{{chat}}}:meta", "no hash", ex=60)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await node.delivery.subscribe(chat)
    await until_refused(made, 7)
    assert loop.time() - began > 0.3  # the pauses in between are 5, 10, 20, 40, 80 and 160 ms
    await made.client.delete(f"eclipse:{{{chat}}}:meta")
    await until(lambda: node.delivery.position(chat), "the join")


@gen_test
async def test_pauses_of_joining_are_reset_by_each_success(
    own_cluster: Make, chat: str, expect_log: Expect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chat whose join was refused many times, then accepted, is tried again soon at its next refusal."""
    monkeypatch.setattr(f"{SUBSCRIPTIONS}.RETRY", 0.001)
    expect_log("Redis connection lost")
    expect_log("chat not subscribed")
    made = own_cluster()
    node = await made.node(redis_timeout=0.3)
    meta = f"eclipse:{{{chat}}}:meta"
    await made.client.set(meta, "no hash", ex=60)
    await node.delivery.subscribe(chat)
    await until_refused(made, 7)
    await made.client.delete(meta)
    await until(lambda: node.delivery.position(chat), "the join")
    monkeypatch.setattr(f"{SUBSCRIPTIONS}.RETRY", 0.4)  # 32 times of it are longer than a test waits
    interrupts = len(node.heard.interrupts)
    await made.client.set(meta, "no hash", ex=60)
    await made.kill_connection(node)
    await until_refused(made, 1)
    await made.client.delete(meta)
    await until(lambda: len(node.heard.interrupts) > interrupts, "the next join")


@gen_test
async def test_an_event_that_is_refused_for_a_while_is_not_lost(
    own_cluster: Make, chat: str, expect_log: Expect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event is given up after many refusals of its own; those of earlier events don't count."""
    monkeypatch.setattr(f"{OUTBOX}.RETRY", 0.002)
    monkeypatch.setattr(f"{OUTBOX}.TRIES", 40)
    expect_log("event not published")
    made = own_cluster()
    one, other = await made.nodes(2, chat)
    events = f"eclipse:{{{chat}}}:events"
    for number in range(3):
        await made.client.xadd(events, {"e": "{}"}, id="9999-0")
        assert (await one.delivery.publish(chat, event(number))).delivery == "local"
        await until_refused(made, 20)
        await made.client.delete(events)
        await one.until_up()
    await other.until_heard(chat, 0, 1, 2)
    assert one.delivery.counts.overflowed == 0
    assert not one.heard.interrupts
