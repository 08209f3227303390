"""`eclipse-ws check` with a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from eclipse_ws.commands import report
from tests import needs
from tests.clusters import RedisCluster, info
from tests.commands.conftest import Check, gen_test, verdicts
from tests.sentinels import ask
from tests.servers import RedisServer, free_port


@pytest.fixture(scope="module")
def servers() -> Iterator[RedisCluster]:
    """Three primaries with a replica each."""
    made = RedisCluster(needs.server())
    try:
        yield made.start()
    finally:
        made.stop()


@gen_test
async def test_a_valid_cluster(check: Check, servers: RedisCluster) -> None:
    """Every primary is checked, and every account; one server in REDIS_URL suffices."""
    findings = await check(REDIS_URL=f"redis+cluster://127.0.0.1:{servers.servers[4].port}")
    worst = verdicts(findings)
    assert [found.text for found in findings if found.name == "Redis cluster"] == [
        "3 primaries with all slots, 3 replicas"
    ], report.table(findings)
    answering = [found.text for found in findings if found.name == "REDIS_URL"]
    assert len(answering) == 3
    assert all(
        any(f":{server.port} answers in" in text for text in answering) for server in servers.servers[:3]
    )
    assert (worst["REDIS_URL"], worst["Redis rights"], worst["Redis replicas"]) == ("ok", "ok", "warning")


@gen_test
async def test_an_account_that_one_server_lacks(check: Check, servers: RedisCluster) -> None:
    """Each server has its own accounts: a right that is missing on one of them is found."""
    for at, server in enumerate(servers.servers):
        rights = ["reset", "on", ">secret", "~*", "&*", "+@all", *(["-xadd"] if at == 1 else [])]
        ask(server.port, "ACL", "SETUSER", "app", *rights)
    findings = await check(REDIS_URL=servers.url.replace("//", "//app:secret@"))
    (problem,) = [found for found in findings if found.verdict == "problem"]
    assert "XADD" in problem.text
    ask(servers.servers[2].port, "ACL", "DELUSER", "app")
    findings = await check(REDIS_URL=servers.url.replace("//", "//app:secret@"))
    assert any("user and password" in found.fix for found in findings), report.table(findings)


@gen_test
async def test_no_cluster(check: Check, redis: RedisServer, servers: RedisCluster) -> None:
    """A single server, no server, and a cluster that is taken for a single server."""
    for url, says, fix in (
        (f"redis+cluster://127.0.0.1:{redis.port}", "cluster support disabled", "begin with redis://"),
        (f"redis+cluster://127.0.0.1:{free_port()}", "onnect", "cluster-announce-ip"),
        (servers.servers[0].url, "is a server of a cluster", "begin with redis+cluster://"),
    ):
        findings = await check(REDIS_URL=url)
        (problem,) = [found for found in findings if found.verdict == "problem"]
        assert (says in problem.text, fix in problem.fix) == (True, True), report.table(findings)


@gen_test
async def test_slots_without_a_primary(check: Check) -> None:
    """A cluster that lacks slots has chats without a Redis, also if it answers for the others."""
    made = RedisCluster(needs.server(), "--cluster-require-full-coverage", "no")
    server = made.servers[0]
    try:
        await asyncio.to_thread(server.start)
        ask(server.port, "CLUSTER", "ADDSLOTSRANGE", "0", "16382")
        await asyncio.to_thread(made.until, lambda: info(server)["cluster_state"] == "ok")
        findings = await check(REDIS_URL=f"redis+cluster://127.0.0.1:{server.port}")
        assert verdicts(findings)["Redis cluster"] == "problem", report.table(findings)
        ask(server.port, "CLUSTER", "ADDSLOTS", "16383")
        findings = await check(REDIS_URL=f"redis+cluster://127.0.0.1:{server.port}")
        assert verdicts(findings)["Redis cluster"] == "ok", report.table(findings)
        assert verdicts(findings)["Redis replicas"] == "warning"
    finally:
        made.stop()
