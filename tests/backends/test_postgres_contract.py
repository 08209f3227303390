"""The contract suite on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from eclipse_ws.backends.base import Backend
from eclipse_ws.config.settings import Settings
from eclipse_ws.testing import BackendContract
from tests.postgres import PostgresServer

pytest.importorskip("asyncpg", reason="needs asyncpg (pip install 'eclipse-ws[postgres]')")

pytestmark = pytest.mark.slow


class TestPostgres(BackendContract):
    """All promises, on one server."""

    url: str

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _server(cls) -> Iterator[None]:
        server = PostgresServer().start()
        cls.url = server.url
        yield
        server.remove()

    def make_backend(self, settings: Settings) -> Backend:
        """See `BackendContract`."""
        from eclipse_ws.backends.postgres import PostgresBackend

        return PostgresBackend(settings.model_copy(update={"database_url": SecretStr(self.url)}))
