"""What a key stands for, when Redis has lost it, was away, or has it from an earlier server."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.backends.harness import Cluster, Node, event
from tests.backends.test_redis_outage import expect_outage, until_away

Make = Callable[..., Cluster]
Expect = Callable[..., None]
gen_test = pytest.mark.gen_test(timeout=30)
STATES = ("done", "in progress", "unknown")


async def begin(node: Node, chat: str) -> None:
    """Attempts at a message "f1" under three keys, each of which has come to another state."""
    delivery = node.delivery
    for state in STATES:
        attempt = await delivery.attempt(chat, state, fingerprint="f1")
        assert attempt.state == "new"
        if state == "done":
            await delivery.publish(chat, event("m1"), attempt)
        elif state == "unknown":
            await delivery.abandon(attempt)


@gen_test
async def test_an_emptied_redis(cluster: Make, chat: str) -> None:
    """If Redis has forgotten a key, the nodes still know what it stands for."""
    made = cluster()
    one, other = await made.nodes(2, chat)
    await begin(one, chat)
    await made.client.flushall()
    for key in STATES:
        assert (await other.delivery.attempt(chat, key, fingerprint="f2", resent=True)).state == "reused"
    assert (await other.delivery.attempt(chat, "done", fingerprint="f1", resent=True)).state == "done"
    assert (await other.delivery.attempt(chat, "in progress", fingerprint="f1", resent=True)).state == "later"
    assert (await other.delivery.attempt(chat, "unknown", fingerprint="f1", resent=True)).state == "unknown"


@gen_test
async def test_keys_of_an_outage(own_cluster: Make, chat: str, expect_log: Expect) -> None:
    """What a key stands for holds on its own node while Redis is away, and everywhere once it is back."""
    expect_outage(expect_log)
    made = own_cluster(redis_timeout=0.5)
    one, other = await made.nodes(2, chat)
    made.server.kill()
    await until_away(one, other)
    await begin(one, chat)
    for key in STATES:
        assert (await one.delivery.attempt(chat, key, fingerprint="f2")).state == "reused"
    made.server.start()
    for node in (one, other):
        await node.until_up()
    for key in STATES:
        assert (await other.delivery.attempt(chat, key, fingerprint="f2")).state == "reused"
    assert (await other.delivery.attempt(chat, "done", fingerprint="f1")).state == "done"


@gen_test
@pytest.mark.parametrize(
    ("value", "state"),
    [("done e.1 m 1", "done"), ("unknown", "unknown"), ("released", "new"), ("pending t 1", "unknown")],
)
async def test_records_of_earlier_servers(cluster: Make, chat: str, value: str, state: str) -> None:
    """A record without a fingerprint matches any message."""
    made = cluster()
    node = await made.node(chat)
    await made.client.set(f"eclipse:{{{chat}}}:attempt:key", value, ex=60)
    attempt = await node.delivery.attempt(chat, "key", fingerprint="f1")
    assert attempt.state == state
    if state == "done":
        assert (attempt.receipt.id, attempt.receipt.cursor) == ("m 1", "e.1")
