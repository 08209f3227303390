"""What Redis records of attempts, and for how long: other nodes rely on it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.backends.harness import Cluster, event

gen_test = pytest.mark.gen_test(timeout=30)
Make = Callable[..., Cluster]
LIFETIME = 300  # history_seconds by default


@gen_test
@pytest.mark.parametrize("outcome", ["in progress", "done", "released", "unknown", "unknown and emptied"])
async def test_an_outcome_is_kept_for_the_historys_lifetime(cluster: Make, chat: str, outcome: str) -> None:
    """Each step of an attempt is remembered as long as an event, counted from then on."""
    made = cluster()
    node = await made.node(chat)
    key = node.backend._names.key(chat, "attempt", "key")
    attempt = await node.delivery.attempt(chat, "key")
    if outcome != "in progress":
        await (made.client.delete(key) if "emptied" in outcome else made.client.expire(key, 20))
    if outcome == "done":
        await node.delivery.publish(chat, event("m1"), attempt)
    elif outcome == "released":
        await node.delivery.release(attempt)
    elif outcome != "in progress":
        await node.delivery.abandon(attempt)
    assert LIFETIME - 10 < await made.client.ttl(key) <= LIFETIME


@gen_test
async def test_an_event_that_the_application_published_first(cluster: Make, chat: str) -> None:
    """A message whose event is in the chat already settles its attempt all the same, on every node."""
    made = cluster()
    one, other = await made.nodes(2, chat)
    attempt = await one.delivery.attempt(chat, "key", fingerprint="f1")
    first = await other.delivery.publish(chat, event("m1"))
    assert await one.delivery.publish(chat, event("m1"), attempt) == first
    again = await other.delivery.attempt(chat, "key", fingerprint="f1")
    assert (again.state, again.receipt) == ("done", first)


@gen_test
async def test_only_a_resend_after_a_release_asks_the_nodes(cluster: Make, chat: str) -> None:
    """After a release a first message continues without asking any node, a resent one asks."""
    made = cluster()
    one, other = await made.nodes(2, chat)
    for key, resent in (("first", False), ("resent", True)):
        await one.delivery.release(await one.delivery.attempt(chat, key))
        assert (await other.delivery.attempt(chat, key, resent=resent)).state == "new"
        assert bool(one.heard.questions) is resent


@gen_test
async def test_only_its_owner_ends_an_attempt(cluster: Make, chat: str) -> None:
    """A repeated attempt isn't ended by the node that began the first, and nothing undoes a saved one."""
    made = cluster()
    one, other = await made.nodes(2, chat)
    key = one.backend._names.key(chat, "attempt", "key")
    late = await one.delivery.attempt(chat, "key")
    await made.client.set(key, "unknown", ex=60)
    again = await other.delivery.attempt(chat, "key", retry_unknown=True)
    assert again.state == "new"
    begun = await made.client.get(key)
    await one.delivery.release(late)
    await one.delivery.abandon(late)
    assert await made.client.get(key) == begun
    third = await made.node()
    receipt = await other.delivery.publish(chat, event("m1"), again)
    await one.delivery.abandon(late)
    await one.delivery.release(late)
    found = await third.delivery.attempt(chat, "key")
    assert (found.state, found.receipt) == ("done", receipt)


@gen_test
async def test_a_release_that_redis_has_forgotten(cluster: Make, chat: str) -> None:
    """If Redis was emptied, a released attempt is new for the other nodes, not unknown."""
    made = cluster()
    one, other = await made.nodes(2, chat)
    attempt = await one.delivery.attempt(chat, "key")
    await made.client.flushdb()
    await one.delivery.release(attempt)
    assert (await other.delivery.attempt(chat, "key")).state == "new"
