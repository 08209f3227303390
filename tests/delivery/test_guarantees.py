"""Delivery over every backend, held to what it guarantees."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from tornado.ioloop import IOLoop

from tests import needs
from tests.backends.harness import Cluster
from tests.delivery.guarantees import KINDS, Guarantees
from tests.postgres import PostgresServer
from tests.servers import RedisServer


@pytest.fixture(scope="module", params=KINDS)
def make_cluster(request: pytest.FixtureRequest) -> Iterator[Callable[[], Cluster]]:
    """Makes clusters of a kind, on the server that it needs, if any."""
    kind, _, name = request.param.partition(" on ")
    if kind == "postgres":
        pytest.importorskip("asyncpg", reason="needs asyncpg (pip install 'eclipse-ws[postgres]')")
        database = PostgresServer().start()
        yield lambda: Cluster(kind, database)
        database.remove()
    elif kind == "redis":
        running = RedisServer(needs.server(name)).start()
        yield lambda: Cluster(kind, running)
        running.stop()
    else:
        yield lambda: Cluster(kind)


@pytest.fixture
def cluster(io_loop: IOLoop, make_cluster: Callable[[], Cluster]) -> Iterator[Cluster]:
    """A cluster of the kind, which leaves nothing behind."""
    made = make_cluster()
    yield made
    io_loop.run_sync(made.close)


class TestGuarantees(Guarantees):
    """The guarantees, on memory, on Redis, on Valkey and on PostgreSQL."""
