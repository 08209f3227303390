"""Failovers under real sentinels, without a restart of any node."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import redis.asyncio

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
from tests.backends.harness import PATIENCE, Node, body, until
from tests.sentinels import SERVICE, Sentinels, ask
from tests.servers import SERVERS

gen_test = pytest.mark.gen_test(timeout=60)
OUTAGE = f"{failovers.OUTAGE}|sentinels disagree"

pytestmark = pytest.mark.slow


@pytest.fixture(params=SERVERS)
def sentinels(request: Any) -> Iterator[Sentinels]:
    """A primary, two replicas and three sentinels, which a test may break."""
    made = Sentinels(needs.server(request.param))
    try:
        yield made.start()
    finally:
        made.stop()


@pytest.fixture
def made(io_loop: Any, sentinels: Sentinels) -> Iterator[OnSentinels]:
    """Nodes on it."""
    cluster = OnSentinels(sentinels)
    yield cluster
    io_loop.run_sync(cluster.close)


class OnSentinels(FailoverCluster):
    """Nodes whose application publishes on the primary of the moment."""

    topology = "sentinels"

    def __init__(self, sentinels: Sentinels) -> None:
        super().__init__(sentinels)
        self._clients: dict[int, Any] = {}

    @property
    def client(self) -> Any:
        """A connection to the present primary."""
        assert self.server is not None
        port = self.server.primary.port
        if port not in self._clients:
            self._clients[port] = redis.asyncio.Redis(port=port, socket_timeout=PATIENCE, protocol=2)
        return self._clients[port]

    async def close(self) -> None:
        """Close all."""
        for client in self._clients.values():
            await client.aclose()
        await super().close()


@gen_test
async def test_a_primary_is_lost(
    sentinels: Sentinels, made: OnSentinels, chat: str, expect_log: Expect
) -> None:
    """The nodes find the new primary by themselves; every event arrives once, and clients can resume."""
    expect_log(OUTAGE)
    one, other = await made.nodes(2, chat, **OVER_HTTP)
    assert await publish(one, chat, 1, 2) == ["published"] * 2
    await one.until_heard(chat, 1, 2)
    await other.until_heard(chat, 1, 2)
    (before,) = positions(chat, one, other)
    await replicated(sentinels.primary, 2)
    lost = sentinels.primary
    lost.kill()
    await made.until_lost(one, other)
    assert await publish(one, chat, 3) == ["local"]
    await made.until_up(one, other)
    assert await publish(other, chat, 4) == ["published"]
    await one.until_heard(chat, 1, 2, 3, 4)
    await other.until_heard(chat, 1, 2, 3, 4)
    assert one.heard.interrupts == other.heard.interrupts == []
    missed = await other.delivery.resume(chat, before)
    assert [each.cursor for each in missed] == [Cursor(before.epoch, at) for at in (3, 4)]
    # The lost primary comes back with nothing, and as a primary, until the sentinels correct it.
    await asyncio.to_thread(lost.start)
    assert await publish(one, chat, 5) == ["published"]
    await asyncio.to_thread(sentinels.until, lambda: ask(lost.port, "ROLE")[0] == "slave")
    assert await publish(one, chat, 6) == ["published"]
    await other.until_heard(chat, *range(1, 7))
    assert {node.backend._connections.standing.server.port for node in (one, other)} == {
        sentinels.primary.port
    }


@gen_test
async def test_a_primary_is_lost_with_its_last_writes(
    sentinels: Sentinels, made: OnSentinels, chat: str, expect_log: Expect
) -> None:
    """Events that no replica had: nodes that know them begin a new epoch, and clients load the chat."""
    expect_log(OUTAGE)
    one, other = await made.nodes(2, chat, **OVER_HTTP)
    await publish(one, chat, 1)
    await replicated(sentinels.primary, 2)
    for replica in sentinels.servers[1:]:  # they can't come back to it: it has no password
        ask(replica.port, "CONFIG", "SET", "masterauth", "wrong")
    await made.client.execute_command("CLIENT", "KILL", "TYPE", "replica")
    await publish(one, chat, 2, 3)
    await one.until_heard(chat, 1, 2, 3)
    await other.until_heard(chat, 1, 2, 3)
    (before,) = positions(chat, one, other)
    sentinels.primary.kill()
    await made.until_lost(one, other)
    await made.until_up(one, other)
    await publish(other, chat, 4)
    await until(lambda: is_renewed(before, positions(chat, one, other)), "one position in a new epoch")
    assert one.heard.interrupts and other.heard.interrupts
    assert await one.delivery.resume(chat, before) is None


@gen_test
async def test_raw_events(sentinels: Sentinels, made: OnSentinels, chat: str, expect_log: Expect) -> None:
    """A raw event of the gap may be lost: so a new epoch begins, and those after it arrive once."""
    expect_log(OUTAGE)
    one, other = await made.nodes(2, chat, redis_timeout=1)
    await made.raw(chat, body(1))
    for node in (one, other):
        await node.until_heard(chat, 1)
    (before,) = positions(chat, one)
    await replicated(sentinels.primary, 2)
    sentinels.primary.kill()
    await made.until_lost(one, other)
    await made.until_up(one, other)
    await until(lambda: before.epoch not in {each and each.epoch for each in positions(chat, one, other)})
    assert one.heard.interrupts == other.heard.interrupts == [chat]
    await made.raw(chat, body(2))
    for node in (one, other):
        await node.until_heard(chat, 1, 2)
    assert await one.delivery.resume(chat, before) is None


@gen_test
async def test_a_planned_failover_and_a_frozen_primary(
    sentinels: Sentinels, made: OnSentinels, chat: str, expect_log: Expect
) -> None:
    """Neither needs a restart: not a primary that the sentinels demote, nor one that stops to answer."""
    expect_log(OUTAGE)
    one, other = await made.nodes(2, chat, redis_ping_interval=0.5, **OVER_HTTP)
    await publish(one, chat, 1)
    before = sentinels.primary
    await asyncio.to_thread(sentinels.fail_over)
    await until(lambda: standing(one) == standing(other) == sentinels.primary.port, "the new primary")
    await made.until_up(one, other)
    await publish(other, chat, 2)
    await one.until_heard(chat, 1, 2)
    # The sentinels may promote either replica, and the former primary is one only once it obeys them.
    await asyncio.to_thread(sentinels.until, lambda: ask(before.port, "ROLE")[0] == "slave")
    frozen = sentinels.primary
    await replicated(frozen, 2)
    frozen.freeze()
    await made.until_lost(one, other)
    await made.until_up(one, other)
    assert sentinels.primary not in (frozen,)
    await publish(one, chat, 3)
    await other.until_heard(chat, 1, 2, 3)
    frozen.thaw()
    await publish(other, chat, 4)
    await one.until_heard(chat, 1, 2, 3, 4)
    assert before is not frozen
    assert one.heard.interrupts == other.heard.interrupts == []


def standing(node: Node) -> int:
    """The port of the server that takes a node's commands; 0 if none does."""
    commands = node.backend._connections.standing
    return 0 if commands is None else int(commands.server.port)


@gen_test
async def test_sentinels_that_are_gone(
    sentinels: Sentinels, made: OnSentinels, chat: str, expect_log: Expect
) -> None:
    """With two of three sentinels gone nodes start and reconnect; without any, those that stand go on."""
    expect_log(OUTAGE)
    for each in sentinels.sentinels[:2]:
        each.kill()
    one, other = await made.nodes(2, chat, **OVER_HTTP)
    assert await publish(one, chat, 1) == ["published"]
    sentinels.sentinels[2].kill()
    assert await publish(one, chat, 2) == ["published"]
    ask(sentinels.servers[0].port, "CLIENT", "KILL", "TYPE", "pubsub")
    await made.until_lost(one, other)
    sentinels.sentinels[0].start()
    await made.until_up(one, other)
    await other.until_heard(chat, 1, 2)
    assert ask(sentinels.sentinels[0].port, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
