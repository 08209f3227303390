"""Reserving and settling keys in a backend that nodes share: what each state lets another node do."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from eclipse_ws.backends.base import Key, Unavailable
from tests.backends.harness import Cluster, event
from tests.backends.test_redis_outage import expect_outage, until_away

gen_test = pytest.mark.gen_test(timeout=60)
Make = Callable[..., Cluster]
MINE, OTHERS = Key("key", "mine", "f1"), Key("key", "others", "f1")


@gen_test
async def test_a_key_is_reserved_once(cluster: Make, chat: str) -> None:
    """The first token has it, again and again; another one is told that somebody is at it."""
    one, other = await cluster().nodes(2, chat)
    assert (await one.backend.reserve(chat, MINE)).state == "none"
    assert (await one.backend.reserve(chat, MINE)).state == "none"
    assert (await other.backend.reserve(chat, OTHERS)).state == "pending"
    assert (await other.backend.reserve(chat, Key("key", "others", "f2"))).state == "reused"
    assert (await other.backend.reserve(f"not {chat}", OTHERS)).state == "none"


@gen_test
@pytest.mark.parametrize(
    ("outcome", "known", "then"),
    [
        ("released", "released", "pending"),
        ("forgotten", "none", "pending"),
        ("unknown", "unknown", "unknown"),
    ],
)
async def test_what_each_outcome_leaves(
    cluster: Make, chat: str, outcome: str, known: str, then: str
) -> None:
    """A key that was released or forgotten can be reserved by the next one, one of unknown outcome can't."""
    one, other = await cluster().nodes(2, chat)
    await one.backend.reserve(chat, MINE)
    await one.backend.settle(chat, MINE, outcome)
    assert (await other.backend.reserve(chat, OTHERS)).state == known
    assert (await one.backend.reserve(chat, MINE)).state == then


@gen_test
async def test_an_unknown_outcome_may_be_repeated(cluster: Make, chat: str) -> None:
    """Where the application honours keys, the next attempt reserves the key all the same."""
    one, other = await cluster().nodes(2, chat)
    await one.backend.reserve(chat, MINE)
    await one.backend.settle(chat, MINE, "unknown")
    assert (await other.backend.reserve(chat, OTHERS, retry_unknown=True)).state == "none"
    assert (await one.backend.reserve(chat, MINE)).state == "pending"


@gen_test
async def test_only_its_owner_settles_a_key(cluster: Make, chat: str) -> None:
    """What another token says of a key that is reserved changes nothing."""
    one, other = await cluster().nodes(2, chat)
    await one.backend.reserve(chat, MINE)
    for outcome in ("released", "forgotten", "unknown"):
        await other.backend.settle(chat, OTHERS, outcome)
    assert (await other.backend.reserve(chat, OTHERS)).state == "pending"


@gen_test
async def test_a_published_event_settles_its_key(cluster: Make, chat: str) -> None:
    """Every node is told the receipt of the message that was saved under the key."""
    one, other = await cluster().nodes(2, chat)
    await one.backend.reserve(chat, MINE)
    receipt = await one.backend.publish(chat, event("m1"), MINE)
    record = await other.backend.reserve(chat, OTHERS)
    assert (record.state, record.receipt) == ("done", receipt)


@gen_test
async def test_without_redis_nothing_is_reserved(
    own_cluster: Make, chat: str, expect_log: Callable[..., None]
) -> None:
    """An outage is told as such, and as one in which nothing was asked."""
    expect_log("redis link lost")
    made = own_cluster()
    node = await made.node(chat)
    made.server.kill()
    while node.backend.health().state == "up":
        with pytest.raises(Unavailable):
            await node.backend.reserve(chat, Key("first", "t"))
    with pytest.raises(Unavailable) as told:
        await node.backend.reserve(chat, MINE)
    assert not told.value.asked


@gen_test
async def test_nothing_is_certain_right_after_an_outage(
    own_cluster: Make, chat: str, expect_log: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until every node has had time to tell what it did alone, a key that nobody knows may still be taken."""
    expect_outage(expect_log)
    monkeypatch.setattr("eclipse_ws.backends.redis.keys.SETTLING", 60)
    made = own_cluster(redis_timeout=0.5, redis_ping_interval=0.3)
    node = await made.node(chat)
    assert (await node.backend.reserve(chat, Key("before", "t"), certain=True)).state == "none"
    made.server.kill()
    await until_away(node)
    made.server.start()
    await node.until_up()
    with pytest.raises(Unavailable):
        await node.backend.reserve(chat, MINE, certain=True)
    assert (await node.backend.reserve(chat, OTHERS)).state == "none"
    monkeypatch.setattr("eclipse_ws.backends.redis.keys.SETTLING", 0)
    assert (await node.backend.reserve(chat, OTHERS, certain=True)).state == "none"
