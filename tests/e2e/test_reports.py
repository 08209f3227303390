"""What the application is told over real sockets, by real nodes on Redis, one of which is killed."""

from __future__ import annotations

import hashlib
import hmac
import json
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler

from eclipse_ws.server.server import Server
from tests import needs
from tests.client import Client, http, running, until
from tests.conftest import SECRET
from tests.e2e.process import Program
from tests.e2e.test_presence import QUICK_PRESENCE, on, until_known
from tests.servers import RedisServer

gen_test = pytest.mark.gen_test(timeout=60)
QUICK_REPORTS: dict[str, object] = {
    **QUICK_PRESENCE,
    "application.occupancy.HOLD": 0.5,
    "application.reporter.ABSENT": 1.0,
    "application.reporter.FIRST_WAIT": 0.1,
}


class Told:
    """An application, and what it was told."""

    def __init__(self) -> None:
        self.url = ""
        self.status = 200
        self.reports: dict[str, dict[str, Any]] = {}
        self.batches = 0

    def of(self, chat_id: str) -> list[str]:
        """The reports on a chat, each as its type, its user and its message."""
        names = ("type", "userId", "role", "messageId")
        reports = [report for report in self.reports.values() if report["chatId"] == chat_id]
        return [" ".join(report[name] for name in names if name in report) for report in reports]


class Events(RequestHandler):
    """The application's route, which verifies the signature."""

    def post(self) -> None:
        """Take a batch."""
        told: Told = self.settings["told"]
        expected = hmac.new(SECRET.encode(), self.request.body, hashlib.sha256).hexdigest()
        assert self.request.headers["X-Signature"] == f"sha256={expected}"
        assert "X-Internal-Secret" not in self.request.headers
        told.batches += 1
        if told.status == 200:
            for report in json.loads(self.request.body)["events"]:
                told.reports.setdefault(report["id"], report)
        self.set_status(told.status)


@asynccontextmanager
async def application() -> AsyncIterator[Told]:
    """An application that listens."""
    told = Told()
    socket, port = bind_unused_port()
    server = HTTPServer(Application([("/events", Events)], told=told))
    server.add_socket(socket)
    told.url = f"http://127.0.0.1:{port}/events"
    try:
        yield told
    finally:
        server.stop()
        await server.close_all_connections()


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A Redis on which nobody else is."""
    started = RedisServer(needs.server()).start()
    yield started
    started.stop()


@asynccontextmanager
async def reporting(told: Told, **given: object) -> AsyncIterator[Server]:
    """A node that has something to tell."""
    async with running(app_events_url=told.url, **QUICK_REPORTS, **given) as server:
        yield server


async def metric(port: int, name: str) -> float:
    """A value of the metrics' page."""
    page = (await http(port, "/metrics")).body.decode()
    (line,) = [line for line in page.splitlines() if line.startswith(f"{name} ")]
    return float(line.split()[1])


@gen_test
async def test_one_node() -> None:
    """A visit is told, with what was read, and counted in the metrics."""
    async with application() as told, reporting(told) as server:
        client = await Client.join(server.port, "c1", "u1")
        await until(lambda: len(told.reports) == 2)
        await client.say(type="message", content="hello", role="USER", clientMessageId="k1")
        message = (await client.next("message"))["data"]["id"]
        await client.say(type="read", messageId=message)
        await until(lambda: len(told.reports) == 3)
        await client.close()
        await until(lambda: len(told.reports) == 5)
        assert told.of("c1") == [
            "chat_occupied",
            "user_joined u1 user",
            f"read u1 user {message}",
            "user_left u1 user",
            "chat_vacated",
        ]
        assert await metric(server.port, "eclipse_reporting") == 1
        assert await metric(server.port, 'eclipse_reports_total{outcome="sent"}') == 5


@gen_test
async def test_nothing_without_a_url() -> None:
    """A server that has nobody to tell keeps and counts nothing for it."""
    async with running() as server, await Client.join(server.port):
        assert server.node.reporter is None
        assert server.delivery.presence._known.census is None
        assert not server.delivery.presence._known.mine
        assert await metric(server.port, "eclipse_reporting") == 0


@gen_test
async def test_an_application_that_fails(expect_log: Any) -> None:
    """It is told later, in order, and meanwhile nobody notices."""
    expect_log("reports not taken", "500 POST /events")
    async with application() as told, reporting(told) as server:
        told.status = 500
        client = await Client.join(server.port, "c1", "u1")
        await until(lambda: told.batches == 2)
        await client.say(type="message", content="hello", role="USER", clientMessageId="k1")
        await client.next("message")
        await client.next("ack")
        await client.close()
        await until(lambda: told.batches == 4)
        assert await metric(server.port, "eclipse_report_failures_total") >= 3
        told.status = 200
        await until(lambda: len(told.reports) == 4)
        assert told.of("c1") == [
            "chat_occupied",
            "user_joined u1 user",
            "user_left u1 user",
            "chat_vacated",
        ]


@gen_test
async def test_a_fresh_secret_signs() -> None:
    """After a reload batches are signed with the new secret."""
    async with application() as told, reporting(told, internal_api_secret="before") as server:
        server.node.reload(server.settings.model_copy(update={"internal_api_secret": SecretStr(SECRET)}))
        async with await Client.join(server.port, "c1", "u1"):
            await until(lambda: len(told.reports) == 2)


@pytest.mark.slow
@gen_test
async def test_a_killed_node(redis_server: RedisServer, tmp_path: Path, expect_log: Any) -> None:
    """The other node takes the reports over, and tells that the killed node's chats are vacated, once."""
    expect_log("reports not taken", optional=True)
    async with application() as told:
        await _kill(told, on(redis_server), tmp_path)


async def _kill(told: Told, given: dict[str, Any], folder: Path) -> None:
    program = await Program(folder, **given, app_events_url=told.url).ready()
    try:
        await until(lambda: "reporting to the application" in program.printed)
        async with reporting(told, **given) as server:
            client = await Client.join(program.port, "killed", "u1")
            other = await Client.join(program.port, "moves", "u2")
            stays = await Client.join(server.port, "stays", "u3")
            await until(lambda: len(told.reports) == 6)
            assert server.node.reporter is not None
            assert not server.node.reporter.is_reporting
            program.signal(signal.SIGKILL)
            moved = await Client.join(server.port, "moves", "u2")
            await until(lambda: "chat_vacated" in told.of("killed"), "the chat is vacated")
            await client.close()
            await other.close()
            await until_known(server)
            joined = ["chat_occupied", "user_joined u1 user"]
            assert told.of("killed") == [*joined, "user_left u1 user", "chat_vacated"]
            assert told.of("moves") == ["chat_occupied", "user_joined u2 user"]
            assert told.of("stays") == ["chat_occupied", "user_joined u3 user"]
            assert server.node.reporter.is_reporting
            await moved.close()
            await stays.close()
            await until(lambda: len(told.of("stays")) == 4 and len(told.of("moves")) == 4)
    finally:
        program.process.kill()
        program.process.wait()
