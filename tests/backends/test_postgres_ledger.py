"""The ledger in PostgreSQL: outages, and how long it is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from unittest.mock import patch

import pytest

from eclipse_ws.backends.base import NullListener, Unavailable
from eclipse_ws.testing.harness import Nodes, until
from tests.postgres import PostgresServer

pytest.importorskip("asyncpg", reason="needs asyncpg (pip install 'eclipse-ws[postgres]')")

from tests.backends.test_postgres import (
    backend,
    constant,
    execute,
    new_database,
    own_server,
    run,
    server,
)

__all__ = ["own_server", "server"]
pytestmark = pytest.mark.slow
LEFT = "SELECT kind, expires - now() AS left FROM eclipse_ws WHERE kind IN ('holder', 'record')"


def test_an_outage(own_server: PostgresServer, expect_log: Callable[..., None]) -> None:
    """While the server is stopped everything is unavailable; then the holder and its records are there."""
    expect_log("PostgreSQL unavailable")

    async def work(nodes: Nodes) -> None:
        node = await nodes.one()
        ledger = node.backend.ledger
        assert ledger is not None
        assert await ledger.write("", {"c": b"1"}) is False
        assert set(await asyncio.gather(ledger.take("a"), ledger.take("a"))) == {"a"}
        assert await ledger.write("a", {"c": b"1"})
        await asyncio.sleep(1)  # until what is written without waiting is on the disk
        own_server.stop()
        await until(lambda: node.backend.health.state == "down", "the outage")
        for call in (ledger.take("a"), ledger.write("a", {}), ledger.read()):
            with pytest.raises(Unavailable):
                await call
        own_server.start()
        await until(lambda: node.backend.health.state == "up", "the server")
        assert await ledger.take("b") == "a"
        assert await ledger.read() == {"c": b"1"}

    run(own_server.url, work)


def test_how_long_it_is_kept(server: PostgresServer) -> None:
    """The holder has a week from its last command, and all its records have no less."""

    async def work(_: Nodes) -> None:
        url = await new_database(server)
        node = backend(url)
        await node.start(NullListener())
        ledger = node.ledger
        await ledger.take("a")
        await ledger.write("a", {f"c{number}": b"x" for number in range(20)})
        aged = "UPDATE eclipse_ws SET made = now() - interval '2 days', expires = now() + interval '1 hour'"
        week = timedelta(days=7) - timedelta(minutes=5)
        await execute(url, aged)
        await ledger.take("b")
        await ledger.write("b", {"c": b"x"})
        assert all(row["left"] < timedelta(hours=2) for row in await execute(url, LEFT))
        for prolong in (lambda: ledger.take("a"), lambda: ledger.write("a", {"c1": b"y"})):
            await execute(url, aged)
            await prolong()
            rows = await execute(url, LEFT)
            assert len(rows) == 21
            assert all(row["left"] > week for row in rows)
        await node.close()

    run(server.url, work)


def test_what_has_expired(server: PostgresServer) -> None:
    """A holder that has expired can't write and is replaced by any node; then everything is deleted."""

    async def work(_: Nodes) -> None:
        url = await new_database(server)
        node = backend(url)
        with constant("HEARTBEAT", 60.0):
            await node.start(NullListener())
            ledger = node.ledger
            await ledger.take("a")
            await ledger.write("a", {"c": b"1"})
            await execute(url, "UPDATE eclipse_ws SET expires = now() - interval '1 second'")
            assert await ledger.write("a", {"c": b"2"}) is False
            assert await ledger.read() == {}
            with patch("eclipse_ws.backends.postgres_ledger.KEPT", timedelta(0)):
                assert await ledger.take("b") == "b"
            await node.close()
        with constant("HEARTBEAT", 0.05):
            await node.start(NullListener())
            async with asyncio.timeout(15):
                while await execute(url, LEFT):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            await node.close()

    run(server.url, work)
