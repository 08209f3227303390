"""One Redis for all tests of workers: what they test does not depend on which."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import needs
from tests.servers import RedisServer


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A running Redis or Valkey."""
    server = RedisServer(needs.server()).start()
    yield server
    server.stop()
