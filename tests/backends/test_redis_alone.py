"""Sends while nobody can ask Redis: who may have come from another node waits, everybody else goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from tests.backends.harness import Cluster, event
from tests.backends.test_redis_outage import expect_outage, until_away

gen_test = pytest.mark.gen_test(timeout=60)
Make = Callable[..., Cluster]
Expect = Callable[..., None]
HASTY = {"redis_timeout": 0.5, "redis_ping_interval": 0.3, "redis_idle_ping_interval": 0.3}


@gen_test
async def test_a_retry_on_another_node_waits_for_the_outages_end(
    own_cluster: Make, chat: str, expect_log: Expect
) -> None:
    """What one node saved in an outage isn't saved by another: the retry is answered when Redis is back."""
    expect_outage(expect_log)
    made = own_cluster(**HASTY)
    one, other = await made.nodes(2, chat)
    made.server.kill()
    await until_away(one, other)
    first = await one.backend.attempt(chat, "key", since=time.monotonic() - 60)
    assert first.state == "new"
    receipt = await one.backend.publish(chat, event("saved"), first)
    assert receipt.delivery == "local"
    retry = asyncio.ensure_future(other.backend.attempt(chat, "key", since=time.monotonic()))
    await asyncio.sleep(0.3)
    assert not retry.done()
    made.server.start()  # empty: only the first node knows
    again = await retry
    assert again.state == "done"
    assert again.receipt is not None
    assert again.receipt.id == "saved"


@gen_test
async def test_only_newcomers_wait_and_not_for_ever(own_cluster: Make, chat: str, expect_log: Expect) -> None:
    """A session older than the outage sends at once, a new one when it has been here for a while."""
    expect_outage(expect_log)
    made = own_cluster(**HASTY, attempt_margin=0.6)
    (node,) = await made.nodes(1, chat)
    long_ago = time.monotonic() - 60
    made.server.kill()
    await until_away(node)
    assert (await node.backend.attempt(chat, "old", since=long_ago)).state == "new"
    assert (await node.backend.attempt(chat, "nobody's", since=None)).state == "new"
    began = time.monotonic()
    assert (await node.backend.attempt(chat, "new", since=began)).state == "new"
    assert time.monotonic() - began >= 0.6
