"""The ledger on Redis: what it costs, how long it is kept, who shares it, and outages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from unittest.mock import patch

import pytest

from eclipse_ws.backends.base import Unavailable
from eclipse_ws.backends.ledger import LIFETIME, Ledger
from tests.backends.alone import alone, until_up
from tests.backends.harness import Cluster, until
from tests.backends.test_redis_cost import asked, quiet
from tests.servers import RedisServer

gen_test = pytest.mark.gen_test(timeout=60)
Make = Callable[..., Cluster]
Servers = Callable[..., RedisServer]
Expect = Callable[..., None]
HOLDER, RECORDS = "eclipse:ledger:{0}:holder", "eclipse:ledger:{0}:records"


@gen_test
async def test_the_first_one_takes_it(own_server: Servers) -> None:
    """Where nobody holds the ledger nobody can write, and of several that take it at once one does."""
    async with alone(own_server()) as made:
        ledgers: list[Ledger] = [(await made.start())[0].ledger for _ in range(3)]
        for holder in ("", "a"):
            assert await ledgers[0].write(holder, {"c": b"1"}) is False
        assert await ledgers[0].read() == {}
        names = ["a", "b", "c"]
        takes = [ledger.take(name) for ledger, name in zip(ledgers, names, strict=True)]
        (holder,) = set(await asyncio.gather(*takes))
        assert holder in names
        assert await ledgers[0].write(holder, {"c": b"1"})


@gen_test
async def test_what_it_costs(own_cluster: Make) -> None:
    """A take and a write are one command each, and 2,000 records are read in several pieces."""
    made = own_cluster()
    node = await made.node()
    ledger = node.backend.ledger
    await ledger.take("a")
    await ledger.write("a", {})  # the scripts are loaded
    await quiet(made, node)
    await ledger.take("a")
    for start in range(0, 2000, 500):
        await ledger.write("a", {f"c{number}": b"x" * 100 for number in range(start, start + 500)})
    assert await asked(made) == {"evalsha": 5}
    await made.client.config_resetstat()
    assert len(await ledger.read()) == 2000
    stats = await made.client.info("commandstats")
    assert stats["cmdstat_hscan"]["calls"] >= 4
    assert "cmdstat_hgetall" not in stats


@gen_test
async def test_how_long_it_is_kept(own_server: Servers) -> None:
    """Everything expires a week after the holder's last write or take; others don't prolong that."""
    async with alone(own_server()) as made:
        ledger, other = [(await made.start())[0].ledger for _ in range(2)]

        async def lifetimes() -> set[bool]:
            left = [await made.client.ttl(key) for key in (HOLDER, RECORDS)]
            assert all(0 < seconds <= LIFETIME == 604_800 for seconds in left)
            return {seconds > LIFETIME - 60 for seconds in left}

        async def age() -> None:
            for key in (HOLDER, RECORDS):
                await made.client.expire(key, 1000)

        await ledger.take("a")
        await ledger.write("a", {"c": b"1", "d": b"2"})
        assert await lifetimes() == {True}
        await age()
        await other.take("b")
        await other.take("b", "x")
        await other.write("b", {"c": b"2"})
        await other.read()
        assert await lifetimes() == {False}
        for prolong in (ledger.write("a", {}), ledger.write("a", {"c": b"3"}), ledger.take("a")):
            await age()
            await prolong
            assert await lifetimes() == {True}
        await age()
        await other.take("b", "a")
        assert await lifetimes() == {True}


@gen_test
async def test_environments_have_a_ledger_each(own_server: Servers) -> None:
    """Another prefix or database has another holder and other records."""
    async with alone(own_server()) as made:
        settings = ({}, {"redis_prefix": "staging:"}, {"redis_url": f"{made.url}/1"})
        ledgers = [(await made.start(**given))[0].ledger for given in settings]
        for name, ledger in zip("abc", ledgers, strict=True):
            assert await ledger.take(name) == name
            assert await ledger.write(name, {"chat": name.encode()})
        for name, ledger in zip("abc", ledgers, strict=True):
            assert await ledger.take("x") == name
            assert await ledger.read() == {"chat": name.encode()}


@gen_test
async def test_an_outage(own_server: Servers, expect_log: Expect) -> None:
    """While Redis is gone everything is unavailable; one that is empty afterwards has no holder."""
    expect_log("Redis connection lost")
    server = own_server()
    async with alone(server) as made:
        backend, _ = await made.start()
        ledger = backend.ledger
        await ledger.take("a")
        await ledger.write("a", {"c": b"1"})
        server.kill()
        await until(lambda: backend.health.state == "down", "the outage")
        for call in (ledger.take("a"), ledger.write("a", {}), ledger.read()):
            with pytest.raises(Unavailable):
                await call
        server.start()
        await until_up(backend)
        assert await ledger.write("a", {"c": b"2"}) is False
        assert await ledger.read() == {}
        assert await ledger.take("b") == "b"


@gen_test
async def test_a_connection_that_is_lost_while_it_reads(own_server: Servers, expect_log: Expect) -> None:
    """A read of which not all pieces come over one connection fails: it might lack records."""
    expect_log("Redis connection lost")
    async with alone(own_server()) as made:
        backend, _ = await made.start()
        await backend.ledger.take("a")
        for start in range(0, 2000, 500):
            await backend.ledger.write("a", {f"c{number}": b"x" for number in range(start, start + 500)})
        with patch("eclipse_ws.backends.redis.ledger.MAX_RECORDS", 1):
            reading = asyncio.create_task(backend.ledger.read())
            await asyncio.sleep(0.02)
            assert not reading.done()
            broken = backend._connections.standing
            await made.kill(backend, "commands")
            with pytest.raises(Unavailable):
                await reading
        await until(lambda: backend._connections.standing not in (None, broken), "a connection")
        assert len(await backend.ledger.read()) == 2000


@gen_test
async def test_an_account_that_may_not_scan(own_server: Servers) -> None:
    """A right that only the ledger needs is not asked for at the start, and its lack is told."""
    async with alone(own_server()) as made:
        await made.client.execute_command(
            "ACL", "SETUSER", "narrow", "on", ">secret", "~*", "&*", "+@all", "-hscan"
        )
        url = made.url.replace("redis://", "redis://narrow:secret@")
        backend, _ = await made.start(redis_url=url)
        await backend.ledger.take("a")
        assert await backend.ledger.write("a", {"c": b"1"})
        with pytest.raises(Unavailable, match="hscan"):
            await backend.ledger.read()
