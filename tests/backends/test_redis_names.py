"""Two environments on one Redis share no events, questions or keys."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydantic import ValidationError

from eclipse_ws.backends.redis.names import Names, database
from tests.backends.harness import Cluster, Node, body, event, fresh_chat, typing, until
from tests.conftest import make_settings

gen_test = pytest.mark.gen_test(timeout=30)
Make = Callable[..., Cluster]
STAGING = "staging:"


async def node_of(made: Cluster, number: int, *chats: str) -> Node:
    """A node in the database of this number."""
    assert made.server is not None
    return await made.node(*chats, redis_url=f"{made.server.url}/{number}")


@gen_test
async def test_databases_do_not_hear_each_others_questions(cluster: Make, chat: str) -> None:
    """What one environment asks its nodes, a disconnect among it, no node of another database answers."""
    made = cluster()
    production, staging = await node_of(made, 0, chat), await node_of(made, 1, chat)
    for node in (production, staging):
        node.heard.reply = lambda question, node=node: node.connection()
    assert (await staging.delivery.ask({"disconnect": chat})).values == [staging.connection()]
    assert (await production.delivery.ask({"disconnect": chat})).values == [production.connection()]


@gen_test
async def test_another_database_takes_no_chat_over(cluster: Make, chat: str) -> None:
    """A node that stops hands its chats over within its own environment: no other one has their history."""
    made = cluster()
    staging, production = await node_of(made, 0, chat), await node_of(made, 1)
    assert not await staging.delivery.hand_over()
    assert not production.delivery._subscriptions


@gen_test
async def test_prefixes_keep_everything_apart(cluster: Make) -> None:
    """With a prefix, environments in one database share no event, key, lease, question or hand-over."""
    made = cluster()
    chat = fresh_chat()
    production, staging = await made.node(chat), await made.node(chat, redis_prefix=STAGING)
    second = await made.node(redis_prefix=STAGING)
    await made.client.publish(f"{STAGING}chat:{chat}", body("raw"))
    await staging.until_heard(chat, "raw")
    staging.delivery.broadcast(chat, typing())
    attempt = await staging.delivery.attempt(chat, "key")
    await staging.delivery.publish(chat, event("m1"), attempt)
    await production.delivery.publish(chat, event("m2"))
    await until(lambda: len(staging.heard.events[chat]) == 3)
    await production.until_heard(chat, "m2")
    assert len(production.heard.events[chat]) == 1
    assert (await production.delivery.attempt(chat, "key")).state == "new"
    assert (await production.delivery.ask("x")).values == ["x"]
    assert await staging.delivery.hand_over() == 1
    assert second.delivery._subscriptions.get(chat)
    names = [*await made.client.keys("*"), *await made.client.pubsub_channels()]
    mine = {name for name in names if name.startswith(STAGING.encode())}
    connections = {staging.connection(), second.connection()}
    assert {name.rpartition(b"node:")[2].decode() for name in mine if b":node:" in name} == connections
    assert len([name for name in mine if chat.encode() in name]) == 5
    for name in await made.client.keys(f"{STAGING}*"):
        assert await made.client.ttl(name) != -1
    await staging.delivery.close()
    await second.delivery.close()
    await made.client.delete(*await made.client.keys(f"{STAGING}*"))


def test_names_of_channels() -> None:
    """Database 0 without a prefix has the names of earlier servers; any other has channels of its own."""
    before, other = Names(), Names("", 3)
    assert (before.all_nodes, before.node, before.channel("c")) == (
        "eclipse:nodes",
        "eclipse:node:",
        "chat:c",
    )
    assert before.key("a}b", "meta") == "eclipse:{a%7Db}:meta"
    assert (other.all_nodes, other.node, other.channel("c")) == (
        "eclipse:3:nodes",
        "eclipse:3:node:",
        "chat:c",
    )
    assert other.key("c", "meta") == before.key("c", "meta")
    assert all(name.startswith("s:") for name in Names("s:", 3).chat_keys("c"))


@pytest.mark.parametrize(
    ("url", "number"),
    [
        ("redis://h", 0),
        ("redis://h:1/7", 7),
        ("rediss://u:p@h/2", 2),
        ("unix:///s?db=4", 4),
        ("redis://h?db=x", 0),
        ("nothing", 0),
    ],
)
def test_the_database_of_a_url(url: str, number: int) -> None:
    """The number is read as the client reads it; a URL that can't be used is refused elsewhere."""
    assert database(url) == number


@pytest.mark.parametrize("prefix", ["a b", "{a}", "a*", "\u00e4", "a\n", "a" * 33])
def test_an_invalid_prefix(prefix: str) -> None:
    """A prefix is a short word: nothing in it means anything to Redis, and no name gets long by it."""
    with pytest.raises(ValidationError, match="redis_prefix"):
        make_settings(redis_prefix=prefix)
    assert make_settings(redis_prefix="eu-1.staging_2:").redis_prefix == "eu-1.staging_2:"
