"""Drains of a node without another one: nobody waits, because waiting would spare nobody anything."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from unittest.mock import patch

import pytest

from tests.client import Client, running, until
from tests.servers import RedisServer

gen_test = pytest.mark.gen_test(timeout=30)
PATIENT = {"backend": "redis", "drain_seconds": 3600}
GONE = (1012, "Server restarting")


@gen_test
@patch("eclipse_ws.delivery.handover.TIMEOUT", 3600)
async def test_a_lone_node_closes_all_sessions_at_once(redis_server: RedisServer) -> None:
    """With Redis too, a node that finds no other one closes every session, after the pending answers."""
    async with running(redis_url=redis_server.url, **PATIENT) as server:
        clients = [await Client.join(server.port, f"c{number}") for number in range(5)]
        gate, send = asyncio.Event(), server.api.send_message
        began = asyncio.Event()

        async def slow(*given: object, **more: object) -> object:
            began.set()
            await gate.wait()
            return await send(*given, **more)  # type: ignore[arg-type]

        server.api.send_message = slow  # type: ignore[method-assign, assignment]
        await clients[0].say(type="message", content="hi", role="USER", clientMessageId="k")
        await began.wait()
        draining = asyncio.create_task(server.drain())
        assert [await client.ended() for client in clients[1:]] == [GONE] * 4
        assert not draining.done()
        gate.set()
        await clients[0].seek("ack")
        assert await clients[0].ended() == GONE
        await draining
        assert server.node.handed_over == 0


@gen_test
@patch("eclipse_ws.delivery.handover.TIMEOUT", 3600)
async def test_the_last_of_two_stopping_nodes(redis_server: RedisServer) -> None:
    """A node that is draining takes nothing over: the one that stops after it closes at once."""
    async with (
        running(redis_url=redis_server.url, **PATIENT) as first,
        running(redis_url=redis_server.url, **PATIENT) as second,
    ):
        staying = [await Client.join(first.port, f"a{number}") for number in range(3)]
        going = [await Client.join(second.port, f"b{number}") for number in range(3)]
        draining = asyncio.create_task(first.drain())
        await until(lambda: first.node.handed_over == 3)
        await second.drain()
        assert [await client.ended() for client in going] == [GONE] * 3
        assert first.hub.sessions == 2, "the first one had a node to hand over to, and takes its time"
        draining.cancel()
        await asyncio.wait([draining])
        for client in staying:
            await client.close()


@gen_test
@patch("eclipse_ws.delivery.handover.TIMEOUT", 3600)
async def test_a_lost_node_takes_nothing_over(
    redis_server: RedisServer, expect_log: Callable[..., None]
) -> None:
    """A neighbour that doesn't answer, such as a lost machine, takes nothing over and delays nobody."""
    expect_log("not every node has answered")
    async with running(redis_url=redis_server.url, redis_timeout=0.2, **PATIENT) as server:
        lost = await asyncio.open_connection("127.0.0.1", redis_server.port)
        lost[1].write(b"SUBSCRIBE eclipse:nodes\r\n")
        assert b"eclipse:nodes" in await lost[0].readuntil(b":1\r\n")
        clients = [await Client.join(server.port, f"c{number}") for number in range(3)]
        await server.drain()
        assert [await client.ended() for client in clients] == [GONE] * 3
        assert json.loads((await lost[0].readuntil(b"}")).rpartition(b"\n")[2])["who_takes"]
        lost[1].close()
        await lost[1].wait_closed()
