"""Heartbeats: what a late, refused or unheard one means for the connections."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from unittest.mock import Mock, patch

import pytest
from redis.exceptions import ReadOnlyError, RedisError, ResponseError

from eclipse_ws.backends.redis.connection import CommandConnection, SubscriberConnection
from eclipse_ws.backends.redis.connections import Connections, Hearer
from eclipse_ws.backends.redis.heartbeat import Heartbeat
from eclipse_ws.backends.redis.names import Names
from tests.conftest import make_settings

Answer = Callable[[], Awaitable[tuple[bytes, int]]]
gen_test = pytest.mark.gen_test(timeout=10)


class Stage:
    """A heartbeat on connections that nobody keeps; ``answer`` is what Redis makes of each."""

    def __init__(self) -> None:
        settings = make_settings(backend="redis", redis_url="redis://127.0.0.1:1", redis_timeout=0.1)
        self.connections = Connections(settings, Names())
        self.connections._hearer = Mock(spec=Hearer)
        self.heartbeat = Heartbeat(settings, self.connections, [])
        self.commands: Any = Mock(spec=CommandConnection, proven=False, replaced=False, role="commands")
        self.subscriber: Any = Mock(spec=SubscriberConnection, proven=False, role="subscriber")
        self.connections._subscriber_up(self.subscriber)
        self.connections._commands_up(self.commands)
        self.hearers, self.fails_with, self.takes = 1, None, 0.0
        self.is_heard = True

    def listen(self) -> None:
        """The subscriber's own channel is confirmed."""
        self.connections._push([b"subscribe", self.connections.channel.encode(), 1])

    async def beat(self, *errors: RedisError) -> None:
        """One heartbeat, which may be refused."""

        async def script(_: Any, keys: list[str], __: int, beat: bytes) -> tuple[bytes, int]:
            await asyncio.sleep(self.takes)
            if errors:
                raise errors[0]
            if self.is_heard and self.connections.listening:
                self.connections._push([b"message", keys[0].encode(), beat])
            return b"1000000000", self.hearers

        with patch("eclipse_ws.backends.redis.heartbeat.HEARTBEAT", script):
            await self.heartbeat._beat()


@pytest.fixture
def stage(expect_log: Callable[..., None]) -> Iterator[Stage]:
    """Both connections, just up."""
    expect_log("Redis refuses commands", optional=True)
    yield Stage()


@gen_test
async def test_a_heartbeat_proves_the_subscriber(stage: Stage) -> None:
    """The heartbeat after its confirmation proves the subscriber's connection; that is reported once."""
    told = stage.connections._hearer.restored
    await stage.beat()
    assert stage.connections.state == "down"
    assert told.call_count == 1  # the commands' connection
    stage.listen()
    for _ in range(2):
        await stage.beat()
        assert stage.connections.state == "up"
        assert told.call_count == 2
    stage.subscriber.close.assert_not_called()


@gen_test
async def test_a_slow_answer(stage: Stage) -> None:
    """Redis's clock is taken to be as early as it can be, so that no guard is trusted too soon."""
    stage.takes = 0.1
    await stage.beat()
    assert 1_000_000_000 - stage.connections.clock == pytest.approx(time.monotonic() * 1000, abs=50)


@gen_test
async def test_a_wrong_server(stage: Stage) -> None:
    """A connection that has worked is replaced at once; a new one only if it continues to be refused."""
    stage.commands.proven = True
    await stage.beat(ResponseError("OOM command not allowed"))
    stage.commands.close.assert_not_called()
    await stage.beat(ReadOnlyError("READONLY x"))
    stage.commands.close.assert_called_once()
    assert stage.commands.replaced
    fresh: Any = Mock(spec=CommandConnection, proven=False, replaced=False)
    stage.connections._commands_up(fresh)
    await stage.beat(ReadOnlyError("READONLY x"))
    fresh.close.assert_not_called()
    await stage.beat(ReadOnlyError("READONLY x"))
    fresh.close.assert_called_once()


@gen_test
async def test_an_unconfirmed_subscription(stage: Stage) -> None:
    """A connection whose first subscription isn't confirmed in time is replaced."""
    await stage.beat()
    stage.subscriber.close.assert_not_called()
    stage.connections.heard -= 1
    await stage.beat()
    stage.subscriber.close.assert_called_once_with("its subscription was not confirmed")


@gen_test
async def test_an_unheard_heartbeat(stage: Stage) -> None:
    """A connection that brings no heartbeat is replaced, unless this process stood still."""
    stage.listen()
    stage.is_heard = False
    beating = asyncio.create_task(stage.beat())
    await asyncio.sleep(0.01)
    time.sleep(0.2)  # noqa: ASYNC251 - the process stands still
    for _ in range(5):  # the timeout comes first, then what lies in the socket
        await asyncio.sleep(0)
    stage.connections.beat_heard.set()
    await beating
    stage.subscriber.close.assert_not_called()
    await stage.beat()
    stage.subscriber.close.assert_called_once_with("it did not hear its own heartbeat")


@gen_test
async def test_a_server_that_does_not_count(stage: Stage) -> None:
    """That nobody hears a heartbeat means another server only where Redis has counted before."""
    stage.listen()
    stage.hearers = 0
    await stage.beat()
    assert stage.connections.state == "up"
    stage.connections.left_behind = True
    await stage.beat()
    stage.subscriber.close.assert_called_once()
    stage.subscriber.close.reset_mock()
    stage.connections.left_behind = False
    stage.hearers = 1
    await stage.beat()
    stage.subscriber.close.assert_not_called()
    stage.hearers = 0
    await stage.beat()
    stage.subscriber.close.assert_called_once()


@gen_test
async def test_a_connection_that_is_gone_meanwhile(stage: Stage) -> None:
    """A heartbeat says nothing about a subscriber's connection that was made later."""
    stage.listen()
    stage.hearers, stage.takes = 0, 0.02
    stage.heartbeat._counted = True
    beating = asyncio.create_task(stage.beat())
    await asyncio.sleep(0)
    stage.connections._subscriber_down()
    fresh: Any = Mock(spec=SubscriberConnection, proven=False, role="subscriber")
    stage.connections._subscriber_up(fresh)
    await beating
    stage.subscriber.close.assert_not_called()
    fresh.close.assert_not_called()
