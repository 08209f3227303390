"""Delivery over every backend, held to what it guarantees."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tornado.ioloop import IOLoop

from tests import needs
from tests.backends.harness import Cluster
from tests.delivery.guarantees import KINDS, Guarantees
from tests.servers import RedisServer


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer | None]:
    """The server that a kind of backend needs, if any."""
    _, _, name = request.param.partition(" on ")
    if not name:
        yield None
        return
    running = RedisServer(needs.server(name)).start()
    yield running
    running.stop()


@pytest.fixture
def cluster(io_loop: IOLoop, server: RedisServer | None) -> Iterator[Cluster]:
    """A cluster of the kind, which leaves nothing behind."""
    made = Cluster("memory" if server is None else "redis", server)
    yield made
    io_loop.run_sync(made.close)


class TestGuarantees(Guarantees):
    """The guarantees, on memory, on Redis and on Valkey."""
