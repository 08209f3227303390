"""Nodes that stand still, and answers that never come: Redis is not blamed, and nothing is done twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from unittest.mock import patch

import pytest

from eclipse_ws.backends.redis import RedisBackend
from tests.backends.harness import Cluster, Node, event, until

Make = Callable[..., Cluster]
Expect = Callable[..., None]


def redis_of(node: Node) -> RedisBackend:
    """The node's backend, typed."""
    assert isinstance(node.backend, RedisBackend)
    return node.backend


@pytest.mark.gen_test(timeout=30)
async def test_a_node_that_stood_still(own_cluster: Make, chat: str, expect_log: Expect) -> None:
    """A node that stood still for longer than the timeout reads the answer, and keeps its connection."""
    expect_log("Executing", optional=True)
    made = own_cluster(redis_timeout=0.5)
    node = await made.node(chat)
    connection = redis_of(node)._connections.commands
    assert connection is not None
    answer = connection.call("PING")
    time.sleep(1)  # noqa: ASYNC251 - the loop has to stand still
    assert await answer == b"PONG"
    assert redis_of(node)._connections.commands is connection


@pytest.mark.gen_test(timeout=30)
async def test_an_attempt_is_recorded_on_the_next_connection(
    own_cluster: Make, chat: str, expect_log: Expect
) -> None:
    """An attempt whose connection breaks is recorded again on the next one, so that other nodes know it."""
    expect_log("Redis connection lost")
    made = own_cluster()
    one, other = await made.nodes(2, chat)
    asking = one.delivery.attempt(chat, "k1")
    connection = redis_of(one)._connections.commands
    assert connection is not None
    call, broken = connection.call, []

    def breaks(*command: bytes | str | int | float) -> object:
        answer = call(*command)
        if not broken:
            broken.append(connection.close("a test"))
        return answer

    connection.call = breaks  # type: ignore[method-assign, assignment]
    attempt = await asking
    assert attempt.state == "new"
    await one.delivery.abandon(attempt)
    assert (await other.delivery.attempt(chat, "k1")).state == "unknown"


@pytest.mark.gen_test(timeout=30)
async def test_an_answer_lost_for_long(own_cluster: Make, chat: str, expect_log: Expect) -> None:
    """An event heard with its cursor isn't sequenced again after Redis has forgotten its identity."""
    expect_log("Redis connection lost", "event not published")
    expect_log("attempt not settled", optional=True)
    made = own_cluster(redis_timeout=0.5)
    one, other = await made.nodes(2, chat)
    backend = redis_of(one)
    outbox = one.delivery._outbox
    flush, outbox.flush = outbox.flush, lambda: None  # type: ignore[method-assign]
    attempt = await one.delivery.attempt(chat, "k1", fingerprint="f1")
    made.server.freeze()
    assert (await one.delivery.publish(chat, event("m1"), attempt)).delivery == "local"
    made.server.thaw()
    # On a slow machine both have lost their connections, and events that come before they are back.
    await until(lambda: all(redis_of(node)._connections.state == "up" for node in (one, other)), "both nodes")
    await made.until_listeners(f"chat:{chat}", 2)
    # As an application does that publishes what it has saved.
    await made.raw(chat, event("m1").body)
    await other.until_heard(chat, "m1")
    await one.until_heard(chat, "m1")
    await until(lambda: backend._connections.state == "up", "the connections")
    await made.client.delete(f"eclipse:{{{chat}}}:seen:0", f"eclipse:{{{chat}}}:seen:1")
    outbox.flush = flush  # type: ignore[method-assign]
    flush()
    await one.until_up()
    await one.delivery.publish(chat, event("m2"))
    await other.until_heard(chat, "m1", "m2")
    assert (await other.delivery.attempt(chat, "k1", fingerprint="f2")).state == "reused"
    known = await other.delivery.attempt(chat, "k1", fingerprint="f1")
    assert known.receipt is not None
    assert (known.state, known.receipt.id) == ("done", "m1")


@pytest.mark.gen_test(timeout=30)
@patch("eclipse_ws.backends.base.MARGIN", 0.5)
async def test_an_outage_while_another_node_saves_the_message(
    own_cluster: Make, chat: str, expect_log: Expect
) -> None:
    """A node that knows of another one's attempt does not save the message itself when Redis goes away."""
    expect_log("Redis connection lost")
    expect_log("attempt not settled", optional=True)
    made = own_cluster(redis_timeout=0.5, api_timeout=1)
    one, other = await made.nodes(2, chat)
    attempt = await one.delivery.attempt(chat, "k1")
    asking = asyncio.ensure_future(other.delivery.attempt(chat, "k1"))
    done, _ = await asyncio.wait([asking], timeout=0.1)
    assert not done
    made.server.freeze()
    assert (await asking).state == "unknown"
    made.server.thaw()
    await one.until_up()
    await one.delivery.release(attempt)
