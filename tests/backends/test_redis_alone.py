"""Messages while Redis can't be asked: new ones continue, resent ones wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.backends.harness import Cluster, event, until
from tests.backends.test_redis_outage import expect_outage, until_away
from tests.provider import Provider

gen_test = pytest.mark.gen_test(timeout=60)
Make = Callable[..., Cluster]
Expect = Callable[..., None]
HASTY = {"redis_timeout": 0.5, "redis_ping_interval": 0.3}


@gen_test
async def test_a_first_message_does_not_wait(own_cluster: Make, chat: str, expect_log: Expect) -> None:
    """An outage of Redis is not an outage of chat: a message that repeats nothing does not wait."""
    expect_outage(expect_log)
    made = own_cluster(**HASTY)
    (node,) = await made.nodes(1, chat)
    made.server.kill()
    await until_away(node)
    async with asyncio.timeout(0.2):
        attempt = await node.delivery.attempt(chat, "key")
    assert attempt.state == "new"


@gen_test
async def test_a_resend_is_not_begun_while_nobody_can_be_asked(
    own_cluster: Make, chat: str, expect_log: Expect
) -> None:
    """A node that knows nothing of a resent message defers it until the node that saved it has answered."""
    expect_outage(expect_log)
    made = own_cluster(**HASTY)
    one, other = await made.nodes(2, chat)
    made.server.kill()
    await until_away(one, other)
    first = await one.delivery.attempt(chat, "key")
    await one.delivery.publish(chat, event("saved"), first)
    for _ in range(2):
        assert (await other.delivery.attempt(chat, "key", resent=True)).state == "later"
    assert (await one.delivery.attempt(chat, "key", resent=True)).state == "done"
    assert (await other.delivery.attempt(chat, "never sent")).state == "new"
    made.server.start()  # empty: only the first node knows
    for node in (one, other):
        await node.until_up()
    while (again := await other.delivery.attempt(chat, "key", resent=True)).state == "later":  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    assert again.state == "done"
    assert again.receipt is not None
    assert again.receipt.id == "saved"


@gen_test
async def test_a_resend_begins_if_the_api_honours_keys(
    own_cluster: Make, chat: str, expect_log: Expect
) -> None:
    """If the API honours the key a resent message need not wait, and once Redis is back none has to."""
    expect_outage(expect_log)
    made = own_cluster(**HASTY)
    node = await made.node(chat)
    assert (await node.delivery.attempt(chat, "in time", resent=True)).state == "new"
    made.server.kill()
    await until_away(node)
    assert (await node.delivery.attempt(chat, "key", retry_unknown=True, resent=True)).state == "new"


@gen_test
async def test_a_resend_on_a_redis_that_refuses_writes(
    own_cluster: Make, chat: str, expect_log: Expect
) -> None:
    """A Redis that answers but refuses to record an attempt decides nothing either."""
    expect_log("Redis refuses commands", optional=True)  # where a heartbeat finds out
    made = own_cluster()
    node = await made.node(chat)
    await made.client.config_set("maxmemory", 1)
    assert (await node.delivery.attempt(chat, "key", resent=True)).state == "later"
    await made.client.config_set("maxmemory", 0)
    await until(lambda: not node.delivery._idempotency.is_uncertain)
    assert (await node.delivery.attempt(chat, "key", resent=True)).state == "new"


@gen_test
async def test_a_question_that_redis_does_not_answer(
    own_cluster: Make, chat: str, expect_log: Expect
) -> None:
    """If the connection breaks under the question a new message is saved, and a resent one waits."""
    expect_outage(expect_log)
    expect_log("attempt recorded on this node only")
    made = own_cluster(redis_timeout=0.5)
    node = await made.node(chat)
    made.freeze()
    first = asyncio.ensure_future(node.delivery.attempt(chat, "first"))
    resent = asyncio.ensure_future(node.delivery.attempt(chat, "resent", resent=True))
    assert (await first).state == "new"
    assert (await resent).state == "later"
    made.server.thaw()
    await node.until_up()
    await until(lambda: not node.delivery._idempotency.is_uncertain)
    # Redis had noted it, and was told that nothing came of it.
    assert (await node.delivery.attempt(chat, "resent", resent=True)).state == "new"


@gen_test
async def test_a_resend_on_an_emptied_redis(cluster: Make, chat: str, expect_log: Expect) -> None:
    """The nodes still know what Redis has forgotten: saved, in progress, or unknown; the rest is new."""
    made = cluster()
    one, other = await made.nodes(2, chat)
    saved, in_progress, lost = [
        await one.delivery.attempt(chat, key) for key in ("saved", "in progress", "lost")
    ]
    receipt = await one.delivery.publish(chat, event("m1"), saved)
    await one.delivery.abandon(lost)
    await made.client.flushall()
    found = {}
    for key in ("saved", "in progress", "lost", "nobody's"):
        found[key] = await other.delivery.attempt(chat, key, resent=True)
    states = {key: attempt.state for key, attempt in found.items()}
    assert states == {"saved": "done", "in progress": "later", "lost": "unknown", "nobody's": "new"}
    assert found["saved"].receipt == receipt
    assert (await other.delivery.attempt(chat, "in progress", resent=True)).state == "later"
    await one.delivery.publish(chat, event("m2"), in_progress)
    now_done = await other.delivery.attempt(chat, "in progress", resent=True)
    assert now_done.receipt is not None
    assert now_done.receipt.id == "m2"


@gen_test
async def test_a_resend_while_a_node_is_silent(own_cluster: Make, chat: str, expect_log: Expect) -> None:
    """A silent node may have saved the resent message: the client retries until the node has answered."""
    expect_log("not every node has answered")
    made = own_cluster(redis_timeout=0.3)
    one, other = await made.nodes(2, chat)
    read = one.delivery._cluster.read
    one.delivery._cluster.read = lambda raw: None
    for _ in range(2):
        assert (await other.delivery.attempt(chat, "key", resent=True)).state == "later"
    assert (await other.delivery.attempt(chat, "first", resent=False)).state == "new"
    one.delivery._cluster.read = read
    assert (await other.delivery.attempt(chat, "key", resent=True)).state == "new"


@gen_test
async def test_a_resend_of_what_a_node_released_before_it_was_cut_off(
    own_cluster: Make, chat: str, expect_log: Expect
) -> None:
    """A release proves nothing about later attempts, such as one on a node that is cut off from Redis."""
    expect_outage(expect_log)
    expect_log("not every node has answered")
    made = own_cluster(**HASTY)
    provider = await Provider(made.server.port).start()
    one, other = await made.node(chat, redis_url=provider.url), await made.node(chat)
    await one.delivery.release(await one.delivery.attempt(chat, "key"))
    provider.block()
    retry = asyncio.ensure_future(one.delivery.attempt(chat, "key"))  # answered, so it isn't a resend
    assert (await other.delivery.attempt(chat, "key", resent=True)).state == "later"
    assert (await retry).state == "new"
    receipt = await one.delivery.publish(chat, event("saved"), await retry)
    assert receipt.delivery == "local"
    assert (await other.delivery.attempt(chat, "key", resent=True)).state == "later"
    provider.unblock(resume=False)
    await one.until_up()
    again = await other.delivery.attempt(chat, "key", resent=True)
    assert (again.state, again.receipt.id) == ("done", "saved")
    await one.delivery.close()
    await provider.stop()


@gen_test
async def test_a_released_resend_goes_on(own_cluster: Make, chat: str, expect_log: Expect) -> None:
    """A client that waits for a deferred resend continues, as after any attempt that saved nothing."""
    expect_log("not every node has answered")
    made = own_cluster(redis_timeout=1)
    silent, other, third = await made.nodes(3, chat)
    await other.delivery.release(await other.delivery.attempt(chat, "key"))
    silent.delivery._cluster.read = lambda raw: None
    resent = asyncio.ensure_future(other.delivery.attempt(chat, "key", resent=True))
    await until(lambda: third.heard.questions, "the question")  # the key is reserved by then
    waiting = asyncio.ensure_future(third.delivery.attempt(chat, "key"))
    assert (await resent).state == "later"
    assert (await waiting).state == "new"


@gen_test
async def test_an_attempt_in_progress_that_redis_forgets(cluster: Make, chat: str) -> None:
    """A node that waits for another one's attempt does not take the message for new if Redis forgets it."""
    made = cluster()
    one, other = await made.nodes(2, chat)
    first = await one.delivery.attempt(chat, "key")
    waiting = asyncio.ensure_future(other.delivery.attempt(chat, "key"))
    await until(lambda: other.delivery._idempotency._records.in_progress())
    await asyncio.sleep(0.3)  # Redis has told it by then
    await made.client.flushall()
    assert (await waiting).state == "unknown"
    receipt = await one.delivery.publish(chat, event("m1"), first)
    assert (await other.delivery.attempt(chat, "key", retry_unknown=True)).receipt == receipt
