"""A Redis that answers, but refuses: a demoted primary, a provider's quota, and temporary refusals."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis._parsers.base import BaseParser
from redis.exceptions import RedisError

from eclipse_ws.backends.redis import RedisBackend
from eclipse_ws.backends.redis.refusals import Refusal, classify
from tests.backends.harness import Cluster, Node, body, event, fresh_chat, until
from tests.conftest import make_settings
from tests.provider import Provider
from tests.servers import RedisServer

gen_test = pytest.mark.gen_test(timeout=30)
Expect = Callable[..., None]
Servers = Callable[..., RedisServer]
REFUSES = "Redis refuses commands; delivering locally"
LOST = "Redis connection lost"
QUOTA = "ERR max requests limit exceeded. Limit: 500000, Usage: 500000."
DAILY = "ERR max daily request limit exceeded. Limit: 10000, Usage: 10000."
MASTERDOWN = "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'."
LOADING = "LOADING Redis is loading the dataset in memory"
HASTY = {"redis_timeout": 1, "redis_ping_interval": 0.2}


def counted(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> Counter[str]:
    """How many log lines of each kind there were."""
    records = [r.msg for r in caplog.records if r.levelno >= level and isinstance(r.msg, dict)]
    return Counter(str(record["event"]).partition(",")[0] for record in records)


@asynccontextmanager
async def provided(server: RedisServer, **given: Any) -> AsyncIterator[tuple[Provider, Cluster]]:
    """A stand-in for a provider with this server behind it, and a cluster whose nodes know its address."""
    provider = await Provider(server.port).start()
    cluster = Cluster("redis", server, redis_url=provider.url, **given)
    try:
        yield provider, cluster
    finally:
        for node in cluster.made:
            await node.delivery.close()
        await provider.stop()
        await cluster.close()


async def moved(made: Cluster, new: RedisServer) -> None:
    """Have a cluster use the server to which its nodes have moved."""
    await made.client.aclose()
    made.server, made._client = new, None


async def refused(*nodes: Node) -> None:
    """Wait until these nodes know that they are refused."""
    await until(lambda: all(node.backend._connections.refusal for node in nodes), "the refusal")
    assert {node.delivery.health.state for node in nodes} == {"down"}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten all retry intervals."""
    monkeypatch.setattr("eclipse_ws.backends.redis.heartbeat.WHILE_REFUSED", 0.1)
    monkeypatch.setattr("eclipse_ws.delivery.outbox.RETRY", 0.02)


# -- what refusals mean ---------------------------------------------------------------------------

MEANINGS = {
    "READONLY You can't write against a read only replica.": Refusal.WRONG_SERVER,
    MASTERDOWN: Refusal.WRONG_SERVER,
    LOADING: Refusal.WRONG_SERVER,
    "CLUSTERDOWN The cluster is down": Refusal.WRONG_SERVER,
    "NOREPLICAS Not enough good replicas to write.": Refusal.WRONG_SERVER,
    "ERR Error running script (call to f_e0e1f9fabfc9d4800c877a703b823ac0578ff8db): @user_script:1:"
    " @user_script: 1: -READONLY You can't write against a read only replica. ": Refusal.WRONG_SERVER,
    QUOTA: Refusal.UNAVAILABLE,
    DAILY: Refusal.UNAVAILABLE,
    "ERR max concurrent connections exceeded": Refusal.UNAVAILABLE,
    "ERR max number of clients reached": Refusal.UNAVAILABLE,
    "ERR DB capacity quota exceeded": Refusal.UNAVAILABLE,
    "OOM command not allowed when used memory > 'maxmemory'.": Refusal.UNAVAILABLE,
    "MISCONF Redis is configured to save RDB snapshots": Refusal.UNAVAILABLE,
    "BUSY Redis is busy running a script.": Refusal.UNAVAILABLE,
    "NEW A code of a server of tomorrow": Refusal.UNAVAILABLE,
    "ERR max request size exceeded. Limit: 1048576 bytes, Actual: 1050000 bytes.": Refusal.REJECTED,
    "ERR string exceeds maximum allowed size (proto-max-bulk-len)": Refusal.REJECTED,
    "WRONGTYPE Operation against a key holding the wrong kind of value": Refusal.REJECTED,
    "ERR DB index is out of range": Refusal.ADDRESS,
    "ERR invalid DB index": Refusal.ADDRESS,
    "ERR Only 0th database is supported! Selected DB: 1.": Refusal.ADDRESS,
    "NOAUTH Authentication required.": Refusal.CREDENTIALS,
    "WRONGPASS invalid username-password pair or user is disabled.": Refusal.CREDENTIALS,
    "NOPERM this user has no permissions to run the 'evalsha' command": Refusal.RIGHTS,
    "ERR The user executing the script can't run this command or subcommand script: f": Refusal.RIGHTS,
    "ERR ACL failure in script: User x has no permissions to run the 'xadd' command": Refusal.RIGHTS,
    "ERR unknown command 'EVALSHA', with args beginning with: ": Refusal.UNSUPPORTED,
    "MOVED 3999 127.0.0.1:6381": Refusal.CLUSTER,
}


@pytest.mark.parametrize("answer", MEANINGS)
def test_what_each_refusal_means(answer: str) -> None:
    """Errors of Redis, Valkey and providers are classified; an unknown one may pass."""
    error = BaseParser.parse_error(answer)
    assert isinstance(error, RedisError)
    assert classify(error) is MEANINGS[answer]


# -- another server behind the same name ----------------------------------------------------------


@gen_test
@pytest.mark.parametrize("raw", [False, True], ids=["over HTTP", "raw events too"])
async def test_a_demoted_primary(own_server: Servers, chat: str, expect_log: Expect, raw: bool) -> None:
    """Nodes leave a primary that was demoted and stays up for its successor: nothing is lost or doubled."""
    expect_log(REFUSES, LOST)
    expect_log("event not published", "attempt recorded on this node only", optional=True)
    quick = ("--repl-diskless-sync-delay", "0")
    old = own_server(*quick)
    new = own_server(*quick, "--replicaof", "127.0.0.1", str(old.port))
    async with provided(old, app_publishes_over_http=not raw, **HASTY) as (provider, made):
        successor = Cluster("redis", new)
        one, other = await made.nodes(2, chat)
        await one.delivery.publish(chat, event("m0"))
        for node in (one, other):
            await node.until_heard(chat, "m0")
        while not await successor.client.exists(f"eclipse:{{{chat}}}:events"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await successor.client.execute_command("REPLICAOF", "NO", "ONE")
        provider.target = new.port
        await made.client.execute_command("REPLICAOF", "127.0.0.1", new.port)
        attempt = await one.delivery.attempt(chat, "key")
        for number, given in (("m1", attempt), ("m2", None)):
            assert (await one.delivery.publish(chat, event(number), given)).delivery == "local"
        for node in (one, other):
            await until(lambda node=node: node.backend._connections._number == 2, "another connection")
            await node.until_up()
        if raw:
            # Nobody can know what the application published meanwhile: the gap is announced.
            await until(lambda: all(node.heard.interrupts == [chat] for node in (one, other)))
        await successor.until_listeners(f"chat:{chat}", 2)
        for node in (one, other):
            await until(lambda node=node: node.delivery._subscriptions.get(chat).live, "the chat")
        await other.delivery.publish(chat, event("m3"))
        if raw:
            for node in (one, other):
                await until(lambda node=node: node.heard.numbers(chat)[-1] == "m3")
        else:
            await other.until_heard(chat, "m0", "m1", "m2", "m3")
            await one.until_heard(chat, "m0", "m1", "m2", "m3")
            assert not (one.heard.interrupts or other.heard.interrupts)
        known = await other.delivery.attempt(chat, "key")
        assert (known.state, known.receipt.id) == ("done", "m1")
        assert [node.delivery.counts.overflowed for node in (one, other)] == [0, 0]
        await successor.client.aclose()
        await moved(made, new)


@gen_test
async def test_a_demoted_primary_without_traffic(own_server: Servers, chat: str, expect_log: Expect) -> None:
    """The heartbeat alone notices that a server has become a replica, and finds the new primary."""
    expect_log(REFUSES, LOST)
    old, new = own_server(), own_server()
    async with provided(old, **HASTY) as (provider, made):
        node = await made.node(chat)
        await made.client.execute_command("REPLICAOF", "127.0.0.1", new.port)
        await refused(node)
        provider.target = new.port
        await until(lambda: node.heard.interrupts == [chat] and node.delivery.health.state == "up")
        assert (await node.delivery.publish(chat, event("m1"))).delivery == "published"
        await node.until_heard(chat, "m1")
        await moved(made, new)


@gen_test
async def test_starting_at_a_replica(own_server: Servers, chat: str, expect_log: Expect) -> None:
    """A node that began at a replica moves both connections: other nodes see it at the primary."""
    expect_log(REFUSES)
    expect_log(LOST, optional=True)
    new = own_server("--repl-diskless-sync-delay", "0")
    old = own_server("--replicaof", "127.0.0.1", str(new.port))
    async with provided(old, **HASTY) as (provider, made):
        while (await made.client.info("replication"))["master_link_status"] != "up":  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        node = await made.node(chat)
        await refused(node)
        await until(lambda: node.backend._connections.listening, "the replica")
        await moved(made, new)
        provider.target = new.port
        await node.until_up()
        assert (await made.client.pubsub_numsub(node.backend._connections.channel))[0][1] == 1
        await until(lambda: node.delivery.position(chat), "the chat")


@gen_test
@pytest.mark.parametrize("answer", [MASTERDOWN, LOADING, "NOAUTH Authentication required."])
async def test_a_server_that_goes_on_refusing(
    own_server: Servers, chat: str, answer: str, expect_log: Expect, caplog: pytest.LogCaptureFixture
) -> None:
    """While every connection is refused new ones are tried, seldom and quietly; subscriptions stay."""
    caplog.set_level(logging.INFO)
    expect_log(REFUSES)
    expect_log("event not published", optional=True)
    async with provided(own_server()) as (provider, made):
        nodes = one, other = await made.nodes(2, chat)
        provider.refuse(answer)
        accepted = provider.accepted
        for number in range(3):
            assert (await one.delivery.publish(chat, event(number))).delivery == "local"
        other.backend._connections.beat_soon()
        await refused(*nodes)
        await until(lambda: provider.accepted >= accepted + 4, "two more connections of each node")
        assert one.delivery.health.queued == 3
        assert provider.refused < 30
        provider.accept()
        for node in nodes:
            await node.until_up()
        await other.until_heard(chat, 0, 1, 2)
        for node in nodes:
            assert not node.heard.interrupts
            assert node.backend._connections._number == 1  # the subscriber's connection was not touched
        lines = counted(caplog, logging.INFO)
        assert lines[REFUSES] == lines["Redis accepts commands again"] == 2
        assert LOST not in lines


# -- a provider's limits --------------------------------------------------------------------------


@gen_test
@pytest.mark.parametrize("answer", [QUOTA, DAILY, "OOM command not allowed when used memory > 'maxmemory'."])
async def test_an_exhausted_quota(
    own_server: Servers, answer: str, expect_log: Expect, caplog: pytest.LogCaptureFixture
) -> None:
    """Everything waits for a used-up quota: health says so, events are published once, the log is short."""
    caplog.set_level(logging.INFO)
    expect_log(REFUSES)
    expect_log("event not published", optional=True)
    async with provided(own_server(), redis_timeout=0.5) as (provider, made):
        chats = [fresh_chat() for _ in range(20)]
        one, other = await made.nodes(2, *chats[:10])
        attempt = await one.delivery.attempt(chats[0], "key")
        provider.refuse(answer)
        assert (await one.delivery.publish(chats[0], event("m0"), attempt)).delivery == "local"
        other.backend._connections.beat_soon()
        await refused(one, other)
        await asyncio.gather(*map(other.delivery.subscribe, chats))
        for number, chat in enumerate(chats[:10] * 2):
            assert (await one.delivery.publish(chat, event(f"m{number}"))).delivery == "local"
        assert (await one.delivery.attempt(chats[0], "another")).state == "new"
        # Longer than the retries of joins, of what waits, and of heartbeats.
        before = provider.refused
        await until(lambda: provider.refused >= before + 4, "further heartbeats")
        provider.accept()
        for node in (one, other):
            await node.until_up()
        await until(lambda: all(other.delivery.position(chat) for chat in chats), "all chats")
        for number, chat in enumerate(chats[:10]):
            await other.until_heard(chat, f"m{number}", f"m{number + 10}")
        for node in (one, other):
            assert node.delivery.counts.overflowed == 0
            assert not set(node.heard.interrupts) & set(chats[:10])
        assert (await other.delivery.attempt(chats[0], "key")).receipt.id == "m0"
        lines = counted(caplog)
        assert lines.pop(REFUSES) == 2
        assert sum(lines.values()) <= 1, lines


@gen_test
@pytest.mark.parametrize("way", ["commands", "connections", "full"])
async def test_starting_over_quota(own_server: Servers, chat: str, way: str, expect_log: Expect) -> None:
    """A start succeeds despite a provider's limit, and no log line mentions passwords."""
    expect_log("Redis refuses|Redis unavailable")
    expect_log(LOST, optional=True)
    async with provided(own_server(), redis_timeout=0.3) as (provider, made):
        if way == "full":
            provider.turn_away("ERR max number of clients reached")
        else:
            provider.refuse(QUOTA, setup=way == "connections")
        node = await made.node(chat)
        assert node.delivery.health.state != "up"
        assert (await node.delivery.publish(chat, event("m1"))).delivery == "local"
        provider.accept()
        await node.until_up()
        await until(lambda: node.delivery.position(chat), "the chat")


@gen_test
async def test_only_subscriptions_are_refused(
    own_server: Servers, chat: str, expect_log: Expect, caplog: pytest.LogCaptureFixture
) -> None:
    """A subscription that is refused is tried again until it is accepted, with one log line."""
    expect_log(LOST)
    async with provided(own_server(), redis_timeout=0.3) as (provider, made):
        provider.refuse(QUOTA, "SUBSCRIBE")
        node = await made.node(chat)
        assert node.delivery.health.state == "down"
        await until(lambda: provider.refused >= 3, "further attempts")
        provider.accept()
        await node.until_up()
        await made.raw(chat, body("m1"))
        await until(lambda: "m1" in node.heard.numbers(chat))
        assert counted(caplog)[LOST] == 1


@gen_test
async def test_the_wrong_server_only_for_subscriptions(
    own_server: Servers,
    chat: str,
    expect_log: Expect,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A refusal that heartbeats contradict stops a connection once, and is retried at intervals."""
    monkeypatch.setattr("eclipse_ws.delivery.subscriptions.RETRY", 0.1)
    caplog.set_level(logging.INFO)
    expect_log(REFUSES)
    expect_log("chats not subscribed", optional=True)
    async with provided(own_server()) as (provider, made):
        node = await made.node(chat)
        provider.refuse("CLUSTERDOWN Hash slot not served", "SUBSCRIBE")
        elsewhere = fresh_chat()
        joined = asyncio.create_task(node.delivery.subscribe(elsewhere))
        await until(lambda: counted(caplog, logging.INFO)["Redis accepts commands again"], "the heartbeat")
        for number in range(20):
            assert (await node.delivery.publish(chat, event(number))).delivery == "published"
        assert provider.refused <= 5
        assert counted(caplog)[REFUSES] == 1
        provider.accept()
        await joined
        await until(lambda: node.delivery.position(elsewhere), "the other chat")


@gen_test
async def test_an_event_refused_only_for_one_chat(own_server: Servers, chat: str, expect_log: Expect) -> None:
    """An event that Redis refuses for no known reason, while it accepts others, is given up in the end."""
    expect_log("event not published", "event dropped: the backend will never")
    async with provided(own_server()) as (_, made):
        one, other = await made.nodes(2, chat)
        before = one.delivery.position(chat).epoch
        await made.client.xadd(f"eclipse:{{{chat}}}:events", {"e": "{}"}, id="9999-0")
        assert (await one.delivery.publish(chat, event("m1"))).delivery == "local"
        elsewhere = fresh_chat()
        await other.delivery.subscribe(elsewhere)
        await one.delivery.publish(elsewhere, event("m2"))
        await other.until_heard(elsewhere, "m2")
        await until(lambda: one.heard.interrupts and other.heard.interrupts)
        await until(
            lambda: one.delivery.position(chat).epoch == other.delivery.position(chat).epoch != before
        )
        assert one.delivery.counts.overflowed == 1


@gen_test
async def test_an_event_refused_for_a_moment(
    own_server: Servers, chat: str, expect_log: Expect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused event is retried at intervals, not with each event that comes meanwhile."""
    monkeypatch.setattr("eclipse_ws.delivery.outbox.RETRY", 0.5)
    expect_log("event not published")
    async with provided(own_server()) as (_, made):
        one, other = await made.nodes(2, chat)
        events = f"eclipse:{{{chat}}}:events"
        await made.client.xadd(events, {"e": "{}"}, id="9999-0")
        for number in range(20):
            assert (await one.delivery.publish(chat, event(number))).delivery == "local"
            await until(lambda: one.delivery._outbox._flushing is None, "the refusal")
        await made.client.delete(events)
        await one.until_up()
        await other.until_heard(chat, *range(20))
        assert one.delivery.counts.overflowed == 0


@gen_test
async def test_a_wrong_password_is_not_a_quota(own_server: Servers) -> None:
    """A refusal that never passes still ends the start, with a text that says how to fix it."""
    server = own_server("--requirepass", "right")
    backend = RedisBackend(make_settings(backend="redis", redis_url=server.url, redis_timeout=1))
    await backend.close()
