"""`eclipse-ws check` with the backend redis."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trustme

from eclipse_ws.commands import report
from tests import needs
from tests.commands.conftest import ROOT, Check, gen_test, verdicts
from tests.provider import Provider
from tests.servers import RedisServer, free_port

ALL_BUT = ("--user", "default", "on", "nopass", "~*", "&*", "+@all")


@asynccontextmanager
async def redis_with(*options: str) -> AsyncIterator[RedisServer]:
    """A separate Redis."""
    server = RedisServer(needs.server(), None, *options)
    await asyncio.to_thread(server.start)
    try:
        yield server
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("options", "userinfo", "name", "says"),
    [
        (("--requirepass", "right"), ":wrong@", "REDIS_URL", "refuses this server"),
        (("--requirepass", "right"), "", "REDIS_URL", "Authentication required"),
        (
            ("--cluster-enabled", "yes", "--cluster-port", str(free_port())),
            "",
            "REDIS_URL",
            "is a server of a cluster",
        ),
        (("--replicaof", "127.0.0.1", "1"), "", "REDIS_URL", "read-only replica"),
        (("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"), "", "Redis memory", "allkeys-lru"),
        (
            (*ALL_BUT, "-evalsha", "-eval"),
            "",
            "Redis rights",
            "lacks a right",
        ),
        (
            ("--user", *["default", "on", "nopass", "~*", "&*", "+@all", "-subscribe"]),
            "",
            "Redis rights",
            "SUBSCRIBE",
        ),
    ],
)
@gen_test
async def test_a_wrong_redis(  # noqa: PLR0917 - pytest passes names
    check: Check, expect_log: Any, options: tuple[str, ...], userinfo: str, name: str, says: str
) -> None:
    """Reachable, but the password, the mode, the role, the policy or a right is wrong."""
    expect_log("Redis connection lost", "Redis refuses commands", optional=True)
    async with redis_with(*options) as server:
        findings = await check(REDIS_URL=f"redis://{userinfo}127.0.0.1:{server.port}")
    assert any(f.name == name and says in f.text and f.fix for f in findings), report.table(findings)


@gen_test
@pytest.mark.parametrize("prefix", ["", "staging:"])
async def test_the_documented_account_is_enough(check: Check, prefix: str) -> None:
    """The rights that docs/deploy.md names suffice, with a prefix too, and are far fewer than all."""
    guide = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
    rights = re.search(r"^`(\+@[^`]+?) (~[^`]+)`", guide, re.MULTILINE)
    patterns = re.search(r"patterns are `(~<prefix>[^`]+)`", guide)
    assert rights and patterns
    named = patterns[1].replace("<prefix>", prefix) if prefix else rights[2]
    account = (
        "--user",
        "eclipse",
        "on",
        ">a-password",
        "resetkeys",
        "resetchannels",
        "-@all",
        *rights[1].split(),
        *named.split(),
    )
    async with redis_with(*account) as server:
        url = f"redis://eclipse:a-password@127.0.0.1:{server.port}"
        findings = await check(REDIS_URL=url, ECLIPSE_REDIS_PREFIX=prefix)
    assert verdicts(findings)["Redis rights"] == "ok", report.table(findings)


@gen_test
async def test_environments_on_one_redis(check: Check, redis: RedisServer) -> None:
    """A database number does not separate the events of two environments."""
    found = [f for f in await check(REDIS_URL=f"{redis.url}/1") if "pub/sub ignores databases" in f.text]
    assert [f.verdict for f in found] == ["warning"]
    assert "ECLIPSE_REDIS_PREFIX" in found[0].fix
    for given in ({}, {"REDIS_URL": f"{redis.url}/1", "ECLIPSE_REDIS_PREFIX": "staging:"}):
        assert not [f for f in await check(**given) if "pub/sub ignores databases" in f.text]


@gen_test
async def test_tls_that_does_not_match_the_port(check: Check, redis: RedisServer) -> None:
    """A scheme that does not match the port is distinguished from an unreachable host."""
    findings = await check(REDIS_URL=f"rediss://127.0.0.1:{redis.port}")
    assert any("does not speak TLS" in f.text for f in findings), report.table(findings)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    try:
        findings = await check(REDIS_URL=f"redis://127.0.0.1:{port}")
        assert any("rediss://" in f.fix for f in findings), report.table(findings)
        findings = await check(
            REDIS_URL=f"rediss://127.0.0.1:{port}", NEXT_API_URL=f"https://127.0.0.1:{port}"
        )
        assert sum("untrusted certificate" in f.text for f in findings) == 2, report.table(findings)
    finally:
        server.close()


@gen_test
@pytest.mark.parametrize("setup", [False, True])
async def test_an_exhausted_quota(check: Check, redis: RedisServer, setup: bool) -> None:
    """If a provider's quota is exhausted, Redis is reachable: the advice is not about hosts and passwords."""
    provider = await Provider(redis.port).start()
    provider.refuse("ERR max requests limit exceeded. Limit: 500000", setup=setup)
    try:
        findings = await check(REDIS_URL=provider.url)
    finally:
        await provider.stop()
    (problem,) = [finding for finding in findings if finding.verdict == "problem"]
    assert "max requests limit exceeded" in problem.text
    assert "limits" in problem.fix
    assert "password" not in problem.fix
