"""The client with an application that has ids of its own for visitors, on both generations of servers."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler

from tests import needs
from tests.client import running, token
from tests.conftest import SECRET
from tests.fleet.old_service import Member, Service
from tests.servers import RedisServer

VISITOR = Path(__file__).parents[1] / "js" / "visitor.mjs"
TEXTS = ["one", " two ", "two"]


class App:
    """The application: its ids are numbers, and whom tokens call ``anon_...`` it calls by a number, too."""

    def __init__(self, redis_url: str) -> None:
        self.ws_url = ""
        self.messages: list[str] = []
        self.redis = redis.asyncio.from_url(redis_url, protocol=2)
        self.ids = itertools.count(7)
        self.server = HTTPServer(
            Application(
                [(r"/api/chats/c1/messages/send", Send, {"app": self}), (r"/token", Token, {"app": self})]
            )
        )
        self.server.listen(0, "127.0.0.1")
        (sock,) = self.server._sockets.values()
        self.url = f"http://127.0.0.1:{sock.getsockname()[1]}"


class Handler(RequestHandler):
    """A handler that knows the application."""

    def initialize(self, app: App) -> None:
        """Keep it."""
        self.app = app


class Token(Handler):
    """A token for a visitor, who has another id with each."""

    def get(self) -> None:
        """Answer it."""
        user = f"anon_{next(self.app.ids)}"
        signed = token("c1", user, isAuthenticated=False)
        self.finish({"token": signed, "wsUrl": self.app.ws_url, "userId": user})


class Send(Handler):
    """Saves a message, publishes it, and answers only then."""

    async def post(self) -> None:
        """Answer the message as saved: trimmed, and under the application's ids."""
        draft = json.loads(self.request.body)
        self.app.messages.append(draft["content"])
        sender = {"id": 4711, "name": None, "email": f"{draft['userId']}@anonymous.temp", "avatar": None}
        saved: dict[str, Any] = {
            "id": next(self.app.ids),
            "content": draft["content"].strip(),
            "sender": sender,
        }
        at = "2026-01-01T00:00:00.000Z"
        data = {**saved, "role": "user", "timestamp": at}
        await self.app.redis.publish(
            "chat:c1", json.dumps({"type": "message", "data": data, "timestamp": at})
        )
        await asyncio.sleep(0.02)  # the echo is faster than the answer
        self.finish({"success": True, "message": {**saved, "role": "USER", "createdAt": at}})


@pytest.fixture(scope="module")
def store() -> Iterator[RedisServer]:
    """A Redis of this module's own."""
    running = RedisServer(needs.server()).start()
    yield running
    running.stop()


@asynccontextmanager
async def old_service(app: App, store: RedisServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """The old service; answers its port."""
    for name, value in {
        "JWT_SECRET": SECRET,
        "INTERNAL_API_SECRET": SECRET,
        "NEXT_API_URL": app.url,
        "REDIS_URL": store.url,
    }.items():
        monkeypatch.setenv(name, value)
    service = Service()
    server = Application([(r"/.*", Member, {"service": service})]).listen(0, "127.0.0.1")
    listening = asyncio.create_task(service.listen())
    (sock,) = server._sockets.values()
    try:
        yield sock.getsockname()[1]
    finally:
        listening.cancel()
        server.stop()
        await server.close_all_connections()
        await service.redis.aclose()


async def visit(app: App, port: int) -> dict[str, Any]:
    """Have a visitor send the texts."""
    app.ws_url = f"ws://127.0.0.1:{port}/ws"
    command = [needs.node(), "--experimental-websocket", str(VISITOR), f"{app.url}/token", *TEXTS]
    process = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=-1)
    out, err = await process.communicate()
    assert out, err.decode()
    told: dict[str, Any] = json.loads(out)
    return told


def check(app: App, told: dict[str, Any]) -> None:
    """Each message was saved, sent and heard once, in order, and is the visitor's own."""
    assert app.messages == TEXTS
    assert [text for _, text, _ in told["heard"]] == [text.strip() for text in TEXTS], told
    assert [mine for _, _, mine in told["heard"]] == [True] * 3
    assert told["sent"] == [name for name, _, _ in told["heard"]]
    assert told["pending"] == 0


@pytest.mark.gen_test
async def test_with_our_server(store: RedisServer) -> None:
    """The echo comes through Redis before the ack, under ids that no token has: it is the visitor's own."""
    app = App(store.url)
    given = {"backend": "redis", "redis_url": store.url, "api": "http", "next_api_url": app.url}
    async with running(**given) as server:
        check(app, await visit(app, server.port))
    await app.redis.aclose()
    app.server.stop()


@pytest.mark.gen_test
async def test_with_the_old_service(store: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no ack: the echo, which comes three times, settles each message."""
    app = App(store.url)
    async with old_service(app, store, monkeypatch) as port:
        check(app, await visit(app, port))
    await app.redis.aclose()
    app.server.stop()
