"""The shipped contract suite on the backends that need no other package."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from eclipse_ws.backends.base import Backend
from eclipse_ws.backends.memory import MemoryBackend
from eclipse_ws.backends.redis import RedisBackend
from eclipse_ws.config.settings import Settings
from eclipse_ws.testing import BackendContract
from tests import needs
from tests.clusters import RedisCluster
from tests.sentinels import Sentinels
from tests.servers import SERVERS, RedisServer


class TestMemory(BackendContract):
    """All promises of one node."""

    def make_backend(self, settings: Settings) -> Backend:
        """See `BackendContract`."""
        return MemoryBackend(settings)


def on(*servers: str) -> Any:
    """The fixture of a class that runs on each of these servers.

    What is made of several servers needs only one kind: `TestRedis` shows that both are alike.
    """

    @pytest.fixture(autouse=True, scope="class", params=servers)
    @classmethod
    def server(cls: Any, request: Any) -> Iterator[None]:
        started = cls.start(needs.server(request.param))
        cls.url = started.url
        yield
        started.stop()

    return server


class _OnRedis(BackendContract):
    """Redis backends on what ``start`` starts, for each of the fixture's servers."""

    url: str

    @staticmethod
    def start(server: str) -> RedisServer | Sentinels | RedisCluster:
        """Start servers of this name."""
        raise NotImplementedError

    def make_backend(self, settings: Settings) -> Backend:
        """See `BackendContract`."""
        return RedisBackend(settings.model_copy(update={"redis_url": SecretStr(self.url)}))


class TestRedis(_OnRedis):
    """All promises, on Redis and on Valkey."""

    _server = on(*SERVERS)

    @staticmethod
    def start(server: str) -> RedisServer:
        """See `_OnRedis`."""
        return RedisServer(server).start()


class TestSentinels(_OnRedis):
    """All promises, where sentinels have to be asked for the primary."""

    _server = on("valkey")

    @staticmethod
    def start(server: str) -> Sentinels:
        """See `_OnRedis`."""
        return Sentinels(server).start()


class TestCluster(_OnRedis):
    """All promises, on a cluster of three primaries."""

    _server = on("valkey")

    @staticmethod
    def start(server: str) -> RedisCluster:
        """See `_OnRedis`."""
        return RedisCluster(server).start()


class TestShardedChannels(TestCluster):
    """The same with sharded channels."""

    def make_backend(self, settings: Settings) -> Backend:
        """See `BackendContract`."""
        url = SecretStr(f"{self.url}?pubsub=sharded")
        return RedisBackend(settings.model_copy(update={"redis_url": url, "app_publishes_over_http": True}))
