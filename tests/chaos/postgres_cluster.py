"""The cluster on PostgreSQL; the application hands its events to a node over HTTP."""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tornado.httpclient import AsyncHTTPClient, HTTPError
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from tests.application.stub import SECRET
from tests.chaos.application import PATIENCE, Application, name_of
from tests.chaos.cluster import Cluster, NodeProcess, lasting_port
from tests.postgres import PostgresServer
from tests.provider import Pipe, Provider

CONNECTIONS = 5
"""Of a node: one that listens, and four for commands."""
TERMINATE = """
SELECT pg_terminate_backend(pid) FROM (
  SELECT pid FROM pg_stat_activity
  WHERE datname = current_database() AND pid <> pg_backend_pid()
  AND pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory') = ANY ($1::boolean[])
  ORDER BY random() LIMIT $2
) chosen"""
KICKS = (([False], None), ([True], 1), ([True, False], None), ([False], 1), ([True], None))
"""Whose connections PostgreSQL ends: whether they listen, and how many (None: all)."""
OLD = """
SELECT kind, count(*), max(expires) > now() + interval '1 day' AS stays FROM eclipse_ws
WHERE kind NOT IN ('head', 'mark') OR expires > now() + interval '1 day' GROUP BY kind"""
LEFT = """
SELECT count(*) FILTER (WHERE state <> 'idle') AS busy,
  (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory') AS listening
FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"""


class HttpApplication(Application):
    """It publishes with ``POST /api/chats/{chatId}/events``, at any node."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes: list[NodeProcess] = []
        self._client: AsyncHTTPClient | None = None

    async def stop(self) -> None:
        """Stop listening, and close the connections."""
        await super().stop()
        if self._client is not None:
            self._client.close()

    async def hand_over(self, chat: str, event: dict[str, Any]) -> bool:
        """Publish an event; whether a node has accepted it."""
        if self._client is None:
            self._client = SimpleAsyncHTTPClient(force_instance=True, max_clients=200)
        node = random.choice(self.nodes)
        try:
            await self._client.fetch(
                f"http://127.0.0.1:{node.port}/api/chats/{quote(chat, safe='')}/events",
                method="POST",
                headers={"X-Internal-Secret": SECRET, "Idempotency-Key": str(uuid.uuid4())},
                body=json.dumps(event),
                connect_timeout=PATIENCE / 2,
                request_timeout=PATIENCE / 2,  # before the caller gives up
            )
        except (HTTPError, OSError):
            return False
        return True


class PostgresCluster(Cluster):
    """Two nodes on a PostgreSQL server."""

    backend = "postgres"
    # Of asyncpg, when a connect is given up in the turn of the loop in which it has reached the server.
    harmless = (
        r"never retrieved\nfuture: "
        "<Future finished exception=ConnectionError('unexpected connection_lost() call')",
    )
    server_name = "PostgreSQL"
    outage = 6.0
    links = range(1, CONNECTIONS + 1)

    def __init__(self, folder: Path) -> None:
        self.postgres = PostgresServer(lasting_port())
        port = self.postgres.port
        application = HttpApplication()
        super().__init__(folder, [Pipe(port), Pipe(port)], application)

    async def start_nodes(self) -> None:
        """Start the nodes."""
        await super().start_nodes()
        assert isinstance(self.application, HttpApplication)
        self.application.nodes = self.nodes

    def start_server(self) -> None:
        """Start it, for the first time or again."""
        self.postgres.start()

    def shut_down(self) -> None:
        """Stop it as an administrator would."""
        self.postgres.stop()

    def crash(self) -> None:
        """End it without giving it time for anything: it recovers at its next start."""
        self.postgres.stop("immediate")

    def freeze(self) -> None:
        """Let all its processes stand still."""
        self.postgres.freeze(True)

    def thaw(self) -> None:
        """Let them go on."""
        self.postgres.freeze(False)

    async def kick(self, turn: int, chance: random.Random) -> None:
        """Have it close connections."""
        await self.rows(TERMINATE, *KICKS[turn % len(KICKS)])

    def remove_server(self) -> None:
        """End it, and remove its files."""
        self.postgres.remove()

    def reach(self, proxy: Provider) -> dict[str, str]:
        """Settings of a node that reaches it through this proxy."""
        url = self.postgres.url.replace(f":{self.postgres.port}/", f":{proxy.port}/")
        return {"ECLIPSE_BACKEND": "postgres", "DATABASE_URL": url}

    async def rows(self, statement: str, *arguments: object) -> list[Any]:
        """Execute one statement on the server itself, past the proxies."""
        import asyncpg  # an extra, which only this backend needs

        async with asyncio.timeout(10):
            connection = await asyncpg.connect(self.postgres.url)
            try:
                found: list[Any] = await connection.fetch(statement, *arguments)
                return found
            finally:
                connection.terminate()

    async def places(self, chats: Iterable[str]) -> dict[str, str]:
        """The kept events' names by cursor, as the table has them now."""
        rows = await self.rows("SELECT body FROM eclipse_ws WHERE kind = 'event'")
        events = [json.loads(row["body"]) for row in rows]
        return {event["cursor"]: name_of(event) for event in events}

    async def kept_too_long(self) -> list[str]:
        """Rows, transactions, and locks of those who listen."""
        found = []
        for kind, number, stays in await self.rows(OLD):
            found.append(f"{number} rows of the kind {kind}{', for more than a day' if stays else ''}")
        [(busy, listening)] = await self.rows(LEFT)
        if busy:
            found.append(f"{busy} connections to PostgreSQL are not idle")
        expected = sum(node.processes for node in self.nodes)
        if listening != expected:
            found.append(f"{listening} connections to PostgreSQL hold a node's lock, not {expected}")
        return found
