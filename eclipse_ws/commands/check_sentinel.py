"""Checks the sentinels before a start: each of them, and whether a failover would go well."""

from __future__ import annotations

from collections import Counter
from typing import Any

from eclipse_ws.commands.report import Finding

REACH = (
    "check the servers and ports in REDIS_URL, and that this machine reaches the sentinels and the address "
    "that they name (behind NAT: replica-announce-ip and sentinel announce-ip)"
)


async def sentinels(of: Any) -> list[Finding]:
    """What each sentinel answers; ``of`` is `backends.redis.sentinel.Sentinels`."""
    from eclipse_ws.config.redis_url import Server

    answers = await of.ask()
    named = Counter(answer for answer in answers.values() if isinstance(answer, Server))
    if not named:
        return []  # the connection's own error says all of it
    found = [
        Finding("Sentinel", "warning", f"{sentinel} names no primary: {answer}", REACH)
        for sentinel, answer in answers.items()
        if not isinstance(answer, Server)
    ]
    if len(named) > 1:
        text = f"disagree about the primary of {of.service!r}: {', '.join(map(str, named))}"
        fix = "wait until a failover is over; else correct the sentinel that names another one"
        return [*found, Finding("Sentinel", "warning", text, fix)]
    (server,) = named
    text = f"{named[server]} of {len(answers)} name {server} as the primary of {of.service!r}"
    return [*found, Finding("Sentinel", "ok", text)]


def failover(about: dict[str, str]) -> list[Finding]:
    """What the primary's INFO says about a failover."""
    if not about:
        return []
    if about.get("connected_slaves") == "0":
        text = "the primary has no replica that a failover could promote"
        return [Finding("Redis replicas", "warning", text, "start a replica, or two")]
    if "min_slaves_good_slaves" not in about:
        text = "a primary that is cut off from its replicas goes on to take events, which a failover loses"
        fix = "set min-replicas-to-write 1 and min-replicas-max-lag 3 in Redis, see docs/delivery.md"
        return [Finding("Redis replicas", "warning", text, fix)]
    return [Finding("Redis replicas", "ok", f"{about['min_slaves_good_slaves']} could be promoted")]
