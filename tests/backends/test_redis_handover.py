"""A node that stops lets others hear its chats, so that their clients can resume there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest

from eclipse_ws.delivery import handover
from tests.backends.harness import Cluster, body, event, fresh_chat, number_of, until

gen_test = pytest.mark.gen_test(timeout=30)
Make = Callable[..., Cluster]
Expect = Callable[..., None]


@gen_test
async def test_a_chat_outlives_its_node(cluster: Make, chat: str) -> None:
    """After its node has handed it over and stopped, a chat keeps its epoch, and raw events are heard."""
    made = cluster()
    one, other = await made.node(chat), await made.node()
    await one.delivery.publish(chat, event("m1"))
    await one.until_heard(chat, "m1")
    at = one.delivery.position(chat)
    assert await one.delivery.hand_over() == 1
    await one.delivery.close()
    await made.raw(chat, body("m2"))
    await until(lambda: other.delivery.position(chat).offset == 2)
    await other.delivery.subscribe(chat)
    assert [number_of(e) for e in await other.delivery.resume(chat, at)] == ["m2"]
    assert not other.heard.interrupts


@gen_test
async def test_handing_over_again(cluster: Make, chat: str) -> None:
    """Handed over again are the chats that came since, and what is taken over lingers without members."""
    made = cluster()
    one, other = await made.node(chat), await made.node(history_seconds=0.3)
    assert await one.delivery.hand_over() == 1
    late = fresh_chat()
    await one.delivery.subscribe(late)
    assert await one.delivery.hand_over() == 2
    assert await one.delivery.hand_over() == 2
    assert set(other.delivery._subscriptions) == {chat, late}
    await until(lambda: not other.delivery._subscriptions, "the lingering to end")


@gen_test
async def test_members_stay_when_more_is_taken_over(cluster: Make, chat: str) -> None:
    """A chat that the other node has members in is live there already, and stays so."""
    made = cluster()
    one, other = await made.nodes(2, chat, history_seconds=0.2)
    assert await one.delivery.hand_over() == 1
    channel = other.delivery._subscriptions.get(chat)
    assert channel.members
    await one.delivery.close()
    await made.raw(chat, body("m1"))
    await other.until_heard(chat, "m1")


@gen_test
async def test_shared_among_the_others(cluster: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many chats are spread over the nodes that stay; one that leaves too takes none."""
    monkeypatch.setattr(handover, "BATCH", 5)
    made = cluster()
    chats = [fresh_chat() for _ in range(20)]
    one, two, three = await made.node(*chats), await made.node(), await made.node()
    leaving = await made.node()
    assert await leaving.delivery.hand_over() == 0  # it has no chats, and there are other nodes
    assert await one.delivery.hand_over() == 20
    assert len(two.delivery._subscriptions) == len(three.delivery._subscriptions) == 10
    assert len(leaving.delivery._subscriptions) == 0


@gen_test
async def test_nobody_takes_over(cluster: Make, chat: str) -> None:
    """A lone node reports that no other node takes its chats over, each time that it is asked."""
    made = cluster()
    node = await made.node(chat)
    assert await node.delivery.hand_over() is None
    assert await node.delivery.hand_over() is None


@gen_test
@patch("eclipse_ws.delivery.handover.TIMEOUT", 0.2)
async def test_a_slow_taker(cluster: Make, chat: str, expect_log: Expect) -> None:
    """A node that doesn't take over in time doesn't count, and isn't waited for."""
    expect_log("not every node has answered")
    made = cluster()
    one, other = await made.node(chat), await made.node()

    async def never(chat_ids: Any) -> list[str]:
        await asyncio.Event().wait()
        return []

    other.delivery._handover.take_over = never
    assert await one.delivery.hand_over() == 0


@gen_test
@patch("eclipse_ws.delivery.handover.TIMEOUT", 1)
async def test_a_chat_that_is_not_heard_yet_does_not_count(cluster: Make, chat: str) -> None:
    """A taker that can't hear a chat in time says so, and the chat isn't counted as handed over."""
    made = cluster()
    heard = fresh_chat()
    one, other = await made.node(chat, heard), await made.node(heard)
    other.backend._subscriptions.confirm = lambda channel: None
    assert await one.delivery.hand_over() == 1


@gen_test
async def test_handing_over_without_redis(own_cluster: Make, chat: str, expect_log: Expect) -> None:
    """While Redis is away nothing is handed over, nothing raised, and nobody knows of the other nodes."""
    expect_log("Redis connection lost")
    made = own_cluster(redis_timeout=0.3)
    node = await made.node(chat)
    made.server.kill()
    await until(lambda: node.delivery.health.state != "up")
    assert await node.delivery.hand_over() == 0


@gen_test
async def test_joined_chats_do_not_count_as_taken_over(cluster: Make) -> None:
    """The bound of chats taken over counts those that nobody has joined yet, and that are still heard."""
    made = cluster()
    one, other = await made.node(), await made.node(max_sessions=1, history_seconds=0.3)
    joined = [fresh_chat() for _ in range(2)]
    await asyncio.gather(*map(one.delivery.subscribe, joined))
    assert await one.delivery.hand_over() == 2
    await asyncio.gather(*map(other.delivery.subscribe, joined))
    for chats in ([fresh_chat() for _ in range(2)] for _ in range(2)):
        await asyncio.gather(*map(one.delivery.subscribe, chats))
        heard = await one.delivery.hand_over()
        assert all(other.delivery.position(chat) for chat in chats)
        await until(lambda chats=chats: not any(map(other.delivery.position, chats)), "the lingering to end")
    assert heard == 6
    assert all(map(other.delivery.position, joined))


@gen_test
async def test_chats_taken_over_are_bounded(cluster: Make, expect_log: Expect) -> None:
    """A full node takes no further chats, and the result says that they are not heard."""
    expect_log("chats not taken over")
    made = cluster()
    one, other = await made.node(), await made.node(max_sessions=1)
    chats = [fresh_chat() for _ in range(5)]
    await asyncio.gather(*map(one.delivery.subscribe, chats))
    assert await one.delivery.hand_over() == 2
    assert sum(other.delivery.position(chat) is not None for chat in chats) == 2


@gen_test
async def test_taking_over_a_lingering_chat_renews_it(cluster: Make, chat: str) -> None:
    """A chat that the taker's own sessions have left is heard for a whole lifetime from the handover on."""
    made = cluster()
    one, other = await made.node(chat), await made.node(chat, history_seconds=0.8)
    left = fresh_chat()
    await other.delivery.subscribe(left)
    other.delivery.unsubscribe(chat)
    other.delivery.unsubscribe(left)
    await asyncio.sleep(0.5)  # a part of the lifetime, which begins anew below
    assert await one.delivery.hand_over() == 1
    await until(lambda: other.delivery.position(left) is None, "the other chat to be let go")
    assert other.delivery.position(chat) is not None
    await until(lambda: other.delivery.position(chat) is None, "the lingering to end")


@gen_test
async def test_handing_over_again_after_an_outage(own_cluster: Make, chat: str, expect_log: Expect) -> None:
    """Chats that could not be handed over while Redis was away are handed over by the next call."""
    expect_log("Redis connection lost")
    made = own_cluster(redis_timeout=0.5)
    one, other = await made.node(chat), await made.node()
    made.server.kill()
    await until(lambda: one.delivery.health.state != "up", "the outage")
    assert await one.delivery.hand_over() == 0
    made.server.start()
    for node in (one, other):
        await node.until_up()
    assert await one.delivery.hand_over() == 1
    at = one.delivery.position(chat)
    late = fresh_chat()
    await one.delivery.subscribe(late)
    assert await one.delivery.hand_over() == 2
    await one.delivery.close()
    await made.raw(late, body("m1"))
    await until(lambda: other.delivery.position(late).offset == 1, "the event")
    assert other.delivery.position(chat) == at
