"""Fixtures of the backends' tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tornado.ioloop import IOLoop

from tests import needs
from tests.backends.harness import Cluster, fresh_chat
from tests.servers import RedisServer


@pytest.fixture
def chat() -> str:
    """A chat that no other test uses."""
    return fresh_chat()


@pytest.fixture
def cluster(io_loop: IOLoop, redis_server: RedisServer) -> Iterator[Callable[..., Cluster]]:
    """Makes clusters on the shared Redis (then Valkey), and checks that they leave nothing behind."""
    made: list[Cluster] = []

    def make(**given: Any) -> Cluster:
        made.append(Cluster("redis", redis_server, **given))
        return made[-1]

    yield make
    for each in made:
        io_loop.run_sync(each.close)


@pytest.fixture
def own_server() -> Iterator[Callable[..., RedisServer]]:
    """Starts servers that a test may break."""
    made: list[RedisServer] = []

    def start(*options: str) -> RedisServer:
        made.append(RedisServer(needs.server(), None, *options).start())
        return made[-1]

    yield start
    for server in made:
        if server.process is not None:
            server.thaw()
        server.stop()


@pytest.fixture
def own_cluster(io_loop: IOLoop, own_server: Callable[..., RedisServer]) -> Iterator[Callable[..., Cluster]]:
    """Makes clusters on a server of their own each, which a test may break."""
    made: list[Cluster] = []

    def make(*options: str, **given: Any) -> Cluster:
        made.append(Cluster("redis", own_server(*options), **given))
        return made[-1]

    yield make
    for each in made:
        io_loop.run_sync(each.close)
