"""Checks Redis as a backend before a start. What a start itself asks is in `backends.redis.probe`."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from eclipse_ws.commands import check_cluster, check_sentinel, connectivity
from eclipse_ws.commands.report import Finding
from eclipse_ws.config.redis_url import Server, topology
from eclipse_ws.config.settings import Settings


async def redis(value: Settings) -> list[Finding]:
    """Reachability, protocol, permissions, round trip, role, memory policy, clock; it starts the backend."""
    if value.backend != "redis":
        return [Finding("backend", "skipped", f"{value.backend}: one node, nothing to reach")]
    from eclipse_ws.backends.base import BackendError, NullListener
    from eclipse_ws.backends.redis import RedisBackend

    if topology(value.redis_url.get_secret_value()) == "cluster":
        findings, primaries = await check_cluster.slots(value)
        for server in primaries:
            findings += await _server(value, server)
    else:
        findings = await _server(value)
    if any(finding.verdict == "problem" for finding in findings):
        return findings
    backend = RedisBackend(value)
    try:
        await backend.start(NullListener())
        rights = Finding("Redis rights", "ok", "all used commands and scripts are permitted")
    except BackendError as error:
        rights = Finding(
            "Redis rights", "problem", str(error), "grant the missing permissions, see docs/deploy.md"
        )
    finally:
        await backend.close()
    return [*findings, *_environment(value), rights]


async def _server(value: Settings, member: Server | None = None) -> list[Finding]:
    """What one server says of itself: a ``member`` of a cluster, or the one of REDIS_URL."""
    from redis.exceptions import RedisError

    from eclipse_ws.backends.redis.address import Address
    from eclipse_ws.backends.redis.connection import CommandConnection, DisconnectedError
    from eclipse_ws.backends.redis.refusals import SentinelError, classify

    name, url = "REDIS_URL", value.redis_url.get_secret_value()
    address = Address(value, member)
    commands = CommandConnection(address.make(), value.redis_timeout, address.find)
    sentinels = await check_sentinel.sentinels(address.sentinels) if address.sentinels else []
    try:
        await commands.connect()
    except DisconnectedError as error:
        if member is not None:
            return [Finding(name, "problem", f"{member}: {error}", check_cluster.REACH)]
        if address.sentinels:
            return [*sentinels, Finding(name, "problem", str(error), check_sentinel.REACH)]
        return [await connectivity.redis(url, error, value.redis_timeout)]
    except SentinelError as error:
        return [Finding(name, "problem", str(error), error.refusal.value)]
    except RedisError as error:
        text = f"Redis refuses this server: {error}"
        return [*sentinels, Finding(name, "problem", text, classify(error).value)]
    running = asyncio.create_task(commands.run())
    try:
        about = await _info(commands)
        findings = [*sentinels, *await _inspect_redis(commands, about, member)]
        findings += check_sentinel.failover(about) if address.sentinels or member else []
    except (DisconnectedError, RedisError) as error:
        fix = classify(error).value if isinstance(error, RedisError) else connectivity.REDIS_FIX
        findings = [Finding(name, "problem", f"Redis returned an error: {error}", fix)]
    finally:
        commands.close("checked")
        await running
    return findings


def _environment(value: Settings) -> list[Finding]:
    from eclipse_ws.backends.redis.names import database

    number = database(value.redis_url.get_secret_value())
    if not number or value.redis_prefix:
        return []
    text = (
        f"names database {number}, but pub/sub ignores databases: chat events reach every environment on "
        "this Redis with a chat of the same id"
    )
    fix = (
        "set ECLIPSE_REDIS_PREFIX, here and where the application publishes, or use a separate Redis for "
        "each environment"
    )
    return [Finding("REDIS_URL", "warning", text, fix)]


async def _inspect_redis(commands: Any, about: dict[str, str], member: Server | None) -> list[Finding]:
    began = time.monotonic()
    seconds, micros = await commands.call("TIME")
    trips = [time.monotonic() - began]
    skew = abs(int(seconds) + int(micros) / 1e6 - time.time())
    for _ in range(4):
        began = time.monotonic()
        await commands.call("PING")
        trips.append(time.monotonic() - began)
    trip = sorted(trips)[2] * 1000
    fix = "run this server in Redis's region: every event waits for a round trip"
    text = f"{member} answers in {trip:.1f} ms" if member else f"answers in {trip:.1f} ms"
    findings = [Finding("REDIS_URL", "ok" if trip < 20 else "warning", text, fix)]
    if skew > connectivity.SKEW:
        findings.append(
            Finding(
                "clock", "warning", f"differs by {skew:.0f} s from Redis's", "set this machine's clock (NTP)"
            )
        )
    version = about.get("redis_version", "")
    if about.get("cluster_enabled") == "1" and member is None:
        text, fix = "is a server of a cluster", "let REDIS_URL begin with redis+cluster://"
        findings.append(Finding("REDIS_URL", "problem", text, fix))
    if about.get("role") == "slave":
        text = "is a read-only replica"
        findings.append(Finding("REDIS_URL", "problem", text, "use the primary's address"))
    if about.get("loading") == "1":
        findings.append(Finding("REDIS_URL", "warning", "is loading its data", "wait until it is loaded"))
    policy = about.get("maxmemory_policy", "noeviction")
    if about.get("maxmemory", "0") != "0" and policy != "noeviction":
        text = f"{policy}: a full Redis evicts positions and histories, and clients have to reload chats"
        findings.append(Finding("Redis memory", "warning", text, "turn eviction off for this database"))
    if version and tuple(int(part) for part in version.split(".")[:2] if part.isdecimal()) < (6, 2):
        findings.append(
            Finding("Redis version", "warning", f"{version} is not tested", "use 6.2 or later, or Valkey")
        )
    return findings


async def _info(commands: Any) -> dict[str, str]:
    from redis.exceptions import RedisError

    try:
        text = (await commands.call("INFO")).decode(errors="replace")
    except RedisError:
        return {}  # not every provider permits it
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
