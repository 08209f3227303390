"""The stand-in for a Redis provider, in front of real servers."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as LostError
from redis.exceptions import RedisError, ResponseError

from tests import needs
from tests.provider import Provider, end_of
from tests.servers import RedisServer

gen_test = pytest.mark.gen_test(timeout=20)
QUOTA = "ERR max requests limit exceeded. Limit: 500000"


@asynccontextmanager
async def provider(server: RedisServer) -> AsyncIterator[tuple[Provider, Callable[[], Any]]]:
    """A stand-in for this server's provider, and what makes a client of it, with one connection."""
    made = await Provider(server.port).start()
    clients = []

    def client() -> Any:
        clients.append(
            redis.asyncio.Redis(
                port=made.port, protocol=2, single_connection_client=True, retry=Retry(NoBackoff(), 0)
            )
        )
        return clients[-1]

    try:
        yield made, client
    finally:
        for each in clients:
            await each.aclose()
        await made.stop()


@gen_test
async def test_refuses_in_order(redis_server: RedisServer) -> None:
    """A command refused in the middle of a pipeline is answered in its place, and only named ones are."""
    async with provider(redis_server) as (made, client):
        made.refuse(QUOTA, "SET")
        pipeline = client().pipeline(transaction=False)
        for command in (
            ("ECHO", "a" * 100_000),
            ("SET", "k", 1),
            ("MGET", "k", "x"),
            ("set", "k", 2),
            ("ECHO", "b"),
        ):
            pipeline.execute_command(*command)
        one, refused, none, again, two = await pipeline.execute(raise_on_error=False)
        assert (one, none, two) == (b"a" * 100_000, [None, None], b"b")
        assert isinstance(refused, ResponseError)
        assert "max requests limit exceeded" in str(again)
        assert made.refused == 2


@gen_test
async def test_refuses_everything(redis_server: RedisServer) -> None:
    """All commands of connected clients are refused; with ``setup``, connecting is refused too."""
    async with provider(redis_server) as (made, client):
        first = client()
        assert await first.ping()
        made.refuse(QUOTA)
        for each in (first, client()):
            with pytest.raises(ResponseError, match="max requests"):
                await each.ping()
        made.refuse(QUOTA, setup=True)
        with pytest.raises(RedisError, match="max requests"):
            await redis.asyncio.Redis(port=made.port, protocol=2, client_name="x").ping()
        made.accept()
        assert await first.ping()


@gen_test
async def test_turns_away(redis_server: RedisServer) -> None:
    """A provider that accepts no more connections says so, and closes; open ones continue."""
    async with provider(redis_server) as (made, client):
        first = client()
        assert await first.ping()
        made.turn_away("ERR max number of clients reached")
        with pytest.raises((RedisError, OSError)):
            await client().ping()
        assert await first.ping()


@gen_test
async def test_refuses_subscribers(redis_server: RedisServer) -> None:
    """A subscriber still hears while its next subscription is refused."""
    async with provider(redis_server) as (made, client):
        subscriber = client().pubsub()
        await subscriber.subscribe("provider-a")
        assert (await subscriber.get_message(timeout=5))["type"] == "subscribe"
        made.refuse(QUOTA, "SUBSCRIBE")
        await subscriber.subscribe("provider-b")
        with pytest.raises(ResponseError, match="max requests"):
            await subscriber.get_message(timeout=5)
        await client().publish("provider-a", "x")
        assert (await subscriber.get_message(timeout=5))["data"] == b"x"
        await subscriber.aclose()


@gen_test
async def test_fails_over(redis_server: RedisServer) -> None:
    """New connections reach the new server while the others stay at the old one, until they are cut."""
    other = RedisServer(needs.server()).start()
    try:
        async with provider(redis_server) as (made, client):
            first, port = client(), redis_server.port
            assert (await first.config_get("port"))["port"] == str(port)
            made.target = other.port
            assert (await client().config_get("port"))["port"] == str(other.port)
            assert (await first.config_get("port"))["port"] == str(port)
            made.cut()
            with pytest.raises(LostError):
                await asyncio.gather(first.connection.send_command("PING"), first.connection.read_response())
    finally:
        other.stop()


def test_where_a_value_ends() -> None:
    """A value of each kind ends where its last part does, and part of one has no end."""
    whole = b"*4\r\n$3\r\nfoo\r\n:7\r\n$-1\r\n*-1\r\n"
    assert end_of(whole + b"+OK\r\n") == len(whole)
    assert [end_of(whole[:cut]) for cut in range(len(whole))] == [-1] * len(whole)


@gen_test
async def test_answers_to_a_client_that_is_gone() -> None:
    """Answers that arrive after the client has reset its connection are dropped, and nothing is logged."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as far, socket.socket() as client:
        far.setblocking(False)
        made = await Provider(far.getsockname()[1]).start()
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", made.port))
        await loop.sock_sendall(client, b"*1\r\n$4\r\nPING\r\n")
        answering, _ = await loop.sock_accept(far)
        with answering:
            answering.setblocking(False)
            await loop.sock_recv(answering, 100)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # Both without a turn of the loop in between.
            client.close()
            answering.send(b"+PONG\r\n" * 100)
            while made.connections:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        await made.stop()
