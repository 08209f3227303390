"""Marks on Redis: what they cost, how long they are kept, and who hears of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from unittest.mock import patch

import pytest

from eclipse_ws.backends.base import Unavailable
from eclipse_ws.backends.marks import Mark
from eclipse_ws.delivery.marks import Ban, ReadPosition
from tests.backends.harness import Cluster, event, until
from tests.backends.test_redis_cost import asked, quiet

gen_test = pytest.mark.gen_test(timeout=30)
Make = Callable[..., Cluster]


@gen_test
async def test_a_read_costs_one_command(own_cluster: Make, chat: str) -> None:
    """A position costs its node one command and the others none, also if it isn't kept; one that isn't later
    than what the node knows costs nothing.
    """
    made = own_cluster()
    one, other = await made.nodes(2, chat)
    for number in range(20):
        await one.delivery.publish(chat, event(number))
    await other.until_heard(chat, *range(20))
    await quiet(made, one, other)
    for number in range(20):
        assert await one.delivery.marks.read(chat, ReadPosition("u", "user", str(number)))
    await until(lambda: len(other.heard.marks[chat]) == 20)
    for node in (one, other):
        for number in range(20):
            assert not await node.delivery.marks.read(chat, ReadPosition("u", "user", str(number)))
    assert [name for name, _ in other.heard.marks[chat]] == ["read:u"] * 20
    counted = await asked(made)
    assert counted.pop("publish") == 20  # by the script
    assert counted == {"evalsha": 20}


@gen_test
async def test_a_chats_marks_cost_no_command_of_their_own(own_cluster: Make, chat: str) -> None:
    """Who joins a chat finds its marks by the command that joins it, and later reads none."""
    made = own_cluster()
    one = await made.node(chat)
    other = await made.node("another")
    await one.delivery.publish(chat, event("m1"))
    await one.until_heard(chat, "m1")
    await one.delivery.marks.read(chat, ReadPosition("u", "agent", "m1"))
    await one.delivery.marks.ban(chat, Ban("v", time.time() + 60, "why"))
    await quiet(made, one, other)
    await other.delivery.subscribe(chat)
    assert other.delivery.marks.positions(chat) == [ReadPosition("u", "agent", "m1")]
    assert other.delivery.marks.ban_of(chat, "v").reason == "why"
    assert await asked(made) == {"evalsha": 1, "subscribe": 1}


@gen_test
async def test_how_long_marks_are_kept(cluster: Make, chat: str) -> None:
    """The key expires with its last mark, which an earlier end of another one doesn't change."""
    made = cluster()
    node = await made.node(chat)
    key = f"eclipse:{{{chat}}}:marks"
    await node.delivery.publish(chat, event("m1"))
    await node.until_heard(chat, "m1")
    now = time.time()
    for seconds, expected in ((100.5, 101), (50, 101), (200, 200)):
        assert await node.backend.mark(chat, f"ban:{seconds}", Mark("", now + seconds), b"{}")
        assert expected - 3 <= await made.client.ttl(key) <= expected + 1
    await node.delivery.marks.read(chat, ReadPosition("u", "user", "m1"))
    assert 86400 - 3 <= await made.client.ttl(key) <= 86401
    for name in ("100.5", "50", "200"):
        assert await node.backend.mark(chat, f"ban:{name}", Mark("", 0), b"{}")
    assert await made.client.hkeys(key) == [b"read:u"]


@gen_test
async def test_expired_marks_make_room(cluster: Make, chat: str) -> None:
    """Marks that have expired stay until there is no room for another one, and only these go."""
    made = cluster()
    node = await made.node(chat)
    key = f"eclipse:{{{chat}}}:marks"
    now = int(time.time())
    with patch("eclipse_ws.backends.marks.MAX_MARKS", 2):
        texts = {"a": f"{now - 1}.5 - 0 x", "b": f"{now + 99} - 0 x", "c": f"{now + 99} - 0 x"}
        await made.client.hset(key, mapping=texts)
        await made.client.expire(key, 99)
        assert await node.backend.mark(chat, "d", Mark("", now + 99.0), b"{}")
        assert sorted(await made.client.hkeys(key)) == [b"a", b"b", b"c", b"d"]
        assert await node.backend.mark(chat, "e", Mark("", now + 99.0), b"{}")
        assert sorted(await made.client.hkeys(key)) == [b"b", b"c", b"d", b"e"]
        assert not await node.backend.mark(chat, "f", Mark("", now + 99.0), b"{}")
        assert await node.backend.mark(chat, "e", Mark("again", now + 99.0), b"{}")


@gen_test
async def test_marks_that_can_not_be_read(cluster: Make, chat: str) -> None:
    """What somebody else has put there is no mark, and doesn't keep a node from the chat."""
    made = cluster()
    key = f"eclipse:{{{chat}}}:marks"
    await made.client.hset(key, mapping={"ban:u": "x", "ban:v": f"{2**33} - 0 why"})
    await made.client.expire(key, 99)
    node = await made.node(chat)
    assert node.delivery.marks.ban_of(chat, "u") is None
    assert node.delivery.marks.ban_of(chat, "v").reason == "why"


@gen_test
async def test_marks_during_an_outage(own_cluster: Make, chat: str, expect_log: Callable[..., None]) -> None:
    """While Redis is gone a mark is refused, and what is known counts; then other nodes' marks are found."""
    expect_log("Redis connection lost")
    made = own_cluster()
    one, other = await made.nodes(2, chat)
    await one.delivery.publish(chat, event("m1"))
    await one.delivery.marks.ban(chat, Ban("v", time.time() + 60, ""))
    await other.until_heard(chat, "m1")
    await until(lambda: other.delivery.marks.ban_of(chat, "v"))
    made.server.stop()
    await until(lambda: other.delivery.health.state == "down")
    with pytest.raises(Unavailable):
        await other.delivery.marks.read(chat, ReadPosition("u", "user", "m1"))
    with pytest.raises(Unavailable):
        await other.delivery.marks.ban(chat, Ban("u", time.time() + 60, ""))
    assert other.delivery.marks.ban_of(chat, "v")
    assert other.delivery.marks.positions(chat) == []
