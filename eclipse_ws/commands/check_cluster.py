"""Checks a cluster before a start: whether it works, and which servers it has."""

from __future__ import annotations

from eclipse_ws.commands.report import Finding
from eclipse_ws.config.redis_url import RedisUrl, Server
from eclipse_ws.config.settings import Settings

REACH = (
    "check the servers in REDIS_URL, and that this machine reaches the addresses that they announce "
    "(behind NAT: cluster-announce-ip and cluster-announce-port)"
)


async def slots(value: Settings) -> tuple[list[Finding], list[Server]]:
    """What the cluster says of itself, and its primaries if it works."""
    from redis.exceptions import RedisError

    from eclipse_ws.backends.redis.connection import DisconnectedError
    from eclipse_ws.backends.redis.refusals import classify
    from eclipse_ws.backends.redis.slots import fetch

    name = "REDIS_URL"
    try:
        found = await fetch(value, RedisUrl.parse(value.redis_url.get_secret_value()).servers)
    except DisconnectedError as error:
        return [Finding(name, "problem", str(error), REACH)], []
    except RedisError as error:
        text = f"Redis refuses this server: {error}"
        return [Finding(name, "problem", text, classify(error).value)], []
    if not found.is_complete:
        text = "some slots of the cluster have no primary: their chats have no Redis"
        fix = "start what is gone, or assign the slots (redis-cli --cluster fix)"
        return [Finding("Redis cluster", "problem", text, fix)], []
    replicas = len(found.servers) - len(found.primaries)
    text = f"{len(found.primaries)} primaries with all slots, {replicas} replicas"
    return [Finding("Redis cluster", "ok", text)], sorted(found.primaries)
