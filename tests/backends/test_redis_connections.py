"""A node's two connections to Redis: what is concluded from what each of them brings."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
from redis.exceptions import ResponseError

from eclipse_ws.backends.redis.connection import CommandConnection, SubscriberConnection
from eclipse_ws.backends.redis.connections import Connections, Hearer
from eclipse_ws.backends.redis.names import Names
from tests.backends.alone import alone, until_up
from tests.backends.harness import until
from tests.conftest import make_settings
from tests.servers import RedisServer

gen_test = pytest.mark.gen_test(timeout=30)
REFUSED = ResponseError("OOM command not allowed")


@pytest.fixture
def connections() -> Connections:
    """Connections that nobody maintains: a test decides their state."""
    made = Connections(make_settings(backend="redis", redis_url="redis://127.0.0.1:1"), Names())
    made._hearer = Mock(spec=Hearer)
    return made


def commands() -> Any:
    """A connection for commands, of which nothing is asked."""
    return Mock(spec=CommandConnection, proven=True, role="commands")


def subscriber() -> Any:
    """A subscriber's connection, of which nothing is asked."""
    return Mock(spec=SubscriberConnection, proven=True, role="subscriber")


def test_a_late_answer_ends_no_refusal(connections: Connections) -> None:
    """What an earlier connection accepted proves nothing about the server of this one."""
    before, now = commands(), commands()
    connections._commands_up(now)
    connections.refusing.error = REFUSED
    connections.accepted(before)
    assert connections.refusal is REFUSED
    connections.accepted(now)
    assert connections.refusal is None
    assert connections.commands is now


def test_a_late_heartbeat_proves_nothing(connections: Connections) -> None:
    """A heartbeat over an earlier subscriber's connection doesn't prove this one."""
    before, now = subscriber(), subscriber()
    connections._commands_up(commands())
    connections._subscriber_up(before)
    connections._subscriber_down()
    connections._subscriber_up(now)
    connections.heard_beat(before)
    assert connections.state == "down"
    connections.heard_beat(now)
    assert connections.state == "up"


def test_commands_that_move_leave_the_subscriber_behind(connections: Connections) -> None:
    """Commands that go on elsewhere after a refusal leave the subscriber behind, until it reconnects."""
    connections._subscriber_up(subscriber())
    connections._commands_up(commands())
    assert not connections.left_behind
    connections.refusing.error = REFUSED
    connections._commands_up(commands())
    assert connections.left_behind
    connections._subscriber_down()
    connections._subscriber_up(subscriber())
    assert not connections.left_behind


def test_the_state_follows_the_connections(connections: Connections) -> None:
    """It is connecting until the first refusal or connection, and then down until one is proven."""
    assert connections.state == "connecting"
    connections.refusing.error = REFUSED
    assert connections.state == "down"
    connections.refusing.error = None
    connections._subscriber_up(subscriber())
    assert connections.state == "down"


@gen_test
async def test_a_heartbeat_that_can_not_come_back(
    redis_server: RedisServer, expect_log: Callable[..., None]
) -> None:
    """A heartbeat is no longer waited for when the connection that should bring it is gone."""
    expect_log("Redis connection lost")
    async with alone(redis_server, redis_timeout=60) as made:
        backend, _ = await made.start()
        current = backend._connections.subscriber
        assert current is not None
        current._on_push = Mock()  # it is deaf
        beat = backend._connections.beat
        backend._connections.beat_soon()
        await until(lambda: backend._connections.beat != beat, "the heartbeat")
        await asyncio.sleep(0.05)
        current.close("a test")
        await until(lambda: backend._connections.subscriber not in (None, current))
        await until_up(backend)


@gen_test
async def test_an_internal_error(
    own_server: Callable[..., RedisServer], expect_log: Callable[..., None]
) -> None:
    """A connection whose news can't be handled is replaced, and leaves no socket behind."""
    expect_log("Redis connection lost", "Redis connection failed")
    async with alone(own_server()) as made:
        backend, told = await made.start()
        before = backend._connections.standing
        restored = told.restored

        def fail() -> None:
            told.restored = restored  # type: ignore[method-assign]
            raise RuntimeError("of the test")

        told.restored = fail  # type: ignore[method-assign]
        await made.kill(backend, "commands")
        await until(lambda: backend._connections.standing not in (None, before))
        await until(lambda: told.restored == restored)
        await until_up(backend)
        clients = [client for client in await made.client.client_list() if client["name"] == "eclipse-ws"]
        assert len(clients) == 2
