"""A Redis that is restored from a snapshot, as the clients of a whole server see it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import redis.asyncio

from tests.backends.conftest import own_server
from tests.client import Client, running, until
from tests.servers import RedisServer

__all__ = ["own_server"]


async def say(client: Client, *contents: str) -> str:
    """Send messages one after the other; the cursor of the last one."""
    for content in contents:
        await client.say(type="message", content=content, role="USER")
        cursor = (await client.next("message"))["cursor"]
    return str(cursor)


@pytest.mark.gen_test(timeout=30)
async def test_clients_reload_after_a_restore(
    own_server: Callable[..., RedisServer], expect_log: Callable[..., None]
) -> None:
    """A client that missed what the restore lost must load the chat, and so must one that had seen it."""
    expect_log("Redis connection lost")
    expect_log("Redis unavailable|event not published|chat not subscribed", optional=True)
    server = own_server()
    options = {"backend": "redis", "redis_url": server.url, "app_publishes_over_http": True}
    async with running(**options) as node, redis.asyncio.Redis.from_url(server.url) as client:
        stays, leaves = await Client.join(node.port), await Client.join(node.port)
        kept = await say(stays, "one", "two")
        await leaves.close()
        await client.save()
        lost = await say(stays, "three", "four")
        server.kill()
        await asyncio.to_thread(server.start)
        await until(lambda: node.delivery.health.state == "up")
        assert await stays.ended() == (4010, "Resume needed: this node missed events of the chat")
        later = await Client.join(node.port, user="u2")
        await say(later, "five", "six", "seven")
        for cursor in (kept, lost):
            back = await Client.join(node.port, cursor=cursor)
            assert back.connected["recovered"] is False
            assert back.connected["cursor"] not in (kept, lost)
            await back.quiet()
            await back.close()
        await later.close()
