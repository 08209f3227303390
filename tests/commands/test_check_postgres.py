"""`eclipse-ws check` with the backend postgres."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest
from pydantic import SecretStr

from eclipse_ws.commands.check_postgres import postgres
from eclipse_ws.commands.report import Finding
from tests.conftest import make_settings
from tests.postgres import PostgresServer

pytest.importorskip("asyncpg", reason="needs asyncpg (pip install 'eclipse-ws[postgres]')")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A running server."""
    server = PostgresServer().start()
    yield server
    server.remove()


def findings(url: str) -> list[Finding]:
    """What is found out about a URL."""
    settings = make_settings(backend="postgres", database_url=SecretStr(url))
    return asyncio.run(postgres(settings))


def test_a_server_that_works(server: PostgresServer) -> None:
    """Its round trip is reported."""
    (finding,) = findings(server.url)
    assert (finding.name, finding.verdict) == ("DATABASE_URL", "ok")
    assert finding.text.startswith("answers in ")


def test_a_wrong_password(server: PostgresServer) -> None:
    """What PostgreSQL says is reported, without the password."""
    (finding,) = findings(server.url.replace("right@", "wrong@"))
    assert finding.verdict == "problem"
    assert "password authentication failed" in finding.text
    assert "wrong" not in finding.text


def test_no_server(expect_log: Callable[..., None]) -> None:
    """A server that can't be reached is a problem."""
    expect_log("PostgreSQL unavailable")
    (finding,) = findings("postgresql://chat:right@127.0.0.1:1/chat")
    assert (finding.verdict, finding.text) == ("problem", "PostgreSQL is unavailable")
