"""Sends while nobody can ask Redis: who may have come from another node waits, everybody else goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from tests.backends.harness import Cluster, event, until
from tests.backends.test_redis_outage import expect_outage, until_away

gen_test = pytest.mark.gen_test(timeout=60)
Make = Callable[..., Cluster]
Expect = Callable[..., None]
HASTY = {"redis_timeout": 0.5, "redis_ping_interval": 0.3, "redis_idle_ping_interval": 0.3}


class Session:
    """A sender that came so many seconds ago."""

    def __init__(self, seconds: float) -> None:
        self.began = time.monotonic() - seconds
        self.gone = False
        self.silent = False

    async def is_alive(self, seconds: float) -> bool:
        """Whether it would answer a ping."""
        return not self.gone and not self.silent


LONG_HERE = Session(60)


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
    first = await one.backend.attempt(chat, "key", asker=Session(60))
    assert first.state == "new"
    receipt = await one.backend.publish(chat, event("saved"), first)
    assert receipt.delivery == "local"
    retry = asyncio.ensure_future(other.backend.attempt(chat, "key", asker=Session(0)))
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
    made.server.kill()
    await until_away(node)
    assert (await node.backend.attempt(chat, "old", asker=LONG_HERE)).state == "new"
    assert (await node.backend.attempt(chat, "nobody's", asker=None)).state == "new"
    session = Session(0)
    assert (await node.backend.attempt(chat, "new", asker=session)).state == "new"
    assert time.monotonic() - session.began >= 0.6


@gen_test
async def test_a_resend_is_not_begun_while_nobody_can_be_asked(
    own_cluster: Make, chat: str, expect_log: Expect
) -> None:
    """A node that knows nothing of a resent message leaves it for later, until who saved it has told."""
    expect_outage(expect_log)
    made = own_cluster(**HASTY)
    one, other = await made.nodes(2, chat)
    made.server.kill()
    await until_away(one, other)
    first = await one.backend.attempt(chat, "key", asker=LONG_HERE)
    await one.backend.publish(chat, event("saved"), first)
    for _ in range(2):
        assert (await other.backend.attempt(chat, "key", resent=True, asker=LONG_HERE)).state == "later"
    assert (await one.backend.attempt(chat, "key", resent=True, asker=LONG_HERE)).state == "done"
    assert (await other.backend.attempt(chat, "never sent", asker=LONG_HERE)).state == "new"
    made.server.start()  # empty: only the first node knows
    for node in (one, other):
        await node.until_up()
    while (again := await other.backend.attempt(chat, "key", resent=True, asker=LONG_HERE)).state == "later":  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    assert again.state == "done"
    assert again.receipt is not None
    assert again.receipt.id == "saved"


@gen_test
async def test_a_resend_that_the_api_can_tell_is_begun(
    own_cluster: Make, chat: str, expect_log: Expect
) -> None:
    """Where the API honours the key a resent message need not wait, and once Redis is there none has to."""
    expect_outage(expect_log)
    made = own_cluster(**HASTY)
    node = await made.node(chat)
    assert (await node.backend.attempt(chat, "in time", resent=True)).state == "new"
    made.server.kill()
    await until_away(node)
    assert (await node.backend.attempt(chat, "key", again=True, resent=True)).state == "new"


@gen_test
async def test_a_resend_on_a_redis_that_takes_nothing(
    own_cluster: Make, chat: str, expect_log: Expect
) -> None:
    """A Redis that answers and refuses to note an attempt decides nothing either."""
    made = own_cluster()
    node = await made.node(chat)
    await made.client.config_set("maxmemory", 1)
    assert (await node.backend.attempt(chat, "key", resent=True)).state == "later"
    await made.client.config_set("maxmemory", 0)
    assert (await node.backend.attempt(chat, "key", resent=True)).state == "new"


@gen_test
async def test_a_sender_that_is_gone_is_left_to_other_nodes(
    own_cluster: Make, chat: str, expect_log: Expect
) -> None:
    """A node that can't ask Redis posts nothing for who has lost its socket meanwhile, and asks elsewhere."""
    expect_outage(expect_log)
    made = own_cluster(redis_timeout=0.5)
    node = await made.node(chat)
    made.freeze()
    session, silent = Session(60), Session(60)
    asked = asyncio.ensure_future(node.backend.attempt(chat, "key", asker=session))
    unheard = asyncio.ensure_future(node.backend.attempt(chat, "unheard", asker=silent))
    stays = asyncio.ensure_future(node.backend.attempt(chat, "other", asker=LONG_HERE))
    await asyncio.sleep(0)
    session.gone = silent.silent = True
    assert (await asked).state == "later"
    assert (await unheard).state == "later"
    assert (await node.backend.attempt(chat, "said before", asker=session)).state == "later"
    assert (await stays).state == "new"
    made.server.thaw()
    await node.until_up()
    assert (await node.backend.attempt(chat, "key", asker=LONG_HERE)).state == "new"


@gen_test
async def test_a_resend_on_a_redis_that_was_emptied(cluster: Make, chat: str, expect_log: Expect) -> None:
    """What Redis has forgotten the nodes still know: saved, under way, or unknown; the rest is new."""
    made = cluster()
    one, other = await made.nodes(2, chat)
    saved, under_way, lost = [await one.backend.attempt(chat, key) for key in ("saved", "under way", "lost")]
    receipt = await one.backend.publish(chat, event("m1"), saved)
    await one.backend.abandon(lost)
    await made.client.flushall()
    found = {}
    for key in ("saved", "under way", "lost", "nobody's"):
        found[key] = await other.backend.attempt(chat, key, resent=True)
    states = {key: attempt.state for key, attempt in found.items()}
    assert states == {"saved": "done", "under way": "later", "lost": "unknown", "nobody's": "new"}
    assert found["saved"].receipt == receipt
    assert (await other.backend.attempt(chat, "under way", resent=True)).state == "later"
    await one.backend.publish(chat, event("m2"), under_way)
    now_done = await other.backend.attempt(chat, "under way", resent=True)
    assert now_done.receipt is not None
    assert now_done.receipt.id == "m2"


@gen_test
async def test_a_resend_while_a_node_gives_no_answer(
    own_cluster: Make, chat: str, expect_log: Expect
) -> None:
    """A node that is silent may have saved what was resent: who came lately asks again, for a while."""
    expect_log("not every node has answered")
    made = own_cluster(redis_timeout=0.3)
    one, other = await made.nodes(2, chat)
    one.backend._nodes.hear = lambda raw: None
    for _ in range(2):
        assert (await other.backend.attempt(chat, "key", resent=True, asker=Session(0))).state == "later"
    assert (await other.backend.attempt(chat, "key", resent=True, asker=LONG_HERE)).state == "new"
    assert (await other.backend.attempt(chat, "other key", resent=True)).state == "new"


@gen_test
async def test_an_attempt_that_redis_forgets_under_way(cluster: Make, chat: str) -> None:
    """Who was told that another node is at a message doesn't take it for new when Redis forgets of that."""
    made = cluster()
    one, other = await made.nodes(2, chat)
    first = await one.backend.attempt(chat, "key")
    waiting = asyncio.ensure_future(other.backend.attempt(chat, "key"))
    await until(lambda: other.backend._attempts._table.under_way())
    await asyncio.sleep(0.3)  # Redis has told it by then
    await made.client.flushall()
    assert (await waiting).state == "unknown"
    receipt = await one.backend.publish(chat, event("m1"), first)
    assert (await other.backend.attempt(chat, "key", again=True)).receipt == receipt
