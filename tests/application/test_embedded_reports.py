"""The embedded API as an application that takes reports: signatures, repetitions, and what a list shows."""

from __future__ import annotations

import hashlib
import hmac
import json
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from eclipse_ws.application.embedded import EmbeddedApi
from eclipse_ws.application.embedded_chats import ChatSummary
from eclipse_ws.application.embedded_inbox import INBOX
from eclipse_ws.application.reports import PATH, Report
from eclipse_ws.application.reports_client import ReportsClient, reports_url
from tests.application.conftest import make_settings
from tests.application.site import Site
from tests.application.stub import SECRET
from tests.client import running, until

AT = "2026-01-01T00:00:00.000Z"
LATER = "2026-01-01T00:07:00.000Z"


def now(ahead: float = 0.0) -> str:
    """A moment as ``sentAt`` has it, this many seconds from now."""
    at = datetime.now(UTC) + timedelta(seconds=ahead)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def joined(number: int, user: str = "anon_1", role: str = "user", chat: str = "c") -> Report:
    """A user has joined."""
    return Report(f"r{number}", "user_joined", chat, AT, user, role)


def left(number: int, user: str = "anon_1", at: str = LATER) -> Report:
    """A user has left."""
    return Report(f"r{number}", "user_left", "c", at, user, "user")


def body(*events: Any, sent_at: Any = None) -> bytes:
    """A batch of plain objects."""
    return json.dumps({"events": events, "sentAt": sent_at or now()}).encode()


def sign(text: bytes, secret: str = SECRET) -> str:
    """The signature, computed without the server's code."""
    return "sha256=" + hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()


async def status(site: Site, text: bytes, given: str | None = None) -> int:
    """The status that a batch gets; the signature is right unless one is given."""
    return (await site.ask(PATH, text, X_Signature=sign(text) if given is None else given)).code


async def summary(api: EmbeddedApi, chat: str = "c") -> ChatSummary:
    """A chat as the list has it."""
    (found,) = [each for each in await api.chats(100) if each.id == chat]
    return found


async def shown(api: EmbeddedApi) -> tuple[bool | None, str | None]:
    """Whether the customer is in the chat, and until when they were."""
    found = await summary(api)
    return found.customerHere, found.customerLeftAt


EVENT = {"id": "r1", "type": "user_joined", "chatId": "c", "userId": "anon_1", "role": "user", "at": AT}


@pytest.mark.gen_test
async def test_signatures(site: Site) -> None:
    """Only a batch with the signature of its own bytes is taken; without one, nothing is remembered."""
    await site.api.send_message("c", "anon_1", "hello", "USER")
    text = body(EVENT)
    for wrong in (
        "",
        "sha256=",
        sign(text)[7:],
        sign(text).upper(),
        sign(text, "another"),
        sign(text + b" "),
        "ü",
    ):
        assert await status(site, text, wrong) == 401
    unsigned = await site.ask(PATH, text, X_Internal_Secret=SECRET)
    assert unsigned.code == 401
    assert await shown(site.api) == (None, None)
    assert await status(site, text) == 204
    assert await shown(site.api) == (True, None)


@pytest.mark.gen_test
async def test_old_batches(site: Site) -> None:
    """A copy of an old batch is not taken; with 401, so that a server with a wrong clock loses nothing."""
    for ahead, code in ((-400, 401), (400, 401), (-200, 204), (200, 204)):
        assert await status(site, body(sent_at=now(ahead))) == code


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b'{"events": []}',
        b'{"events": {}, "sentAt": "2026-01-01T00:00:00.000Z"}',
        body(sent_at="yesterday"),
        body(sent_at=7),
        body(sent_at="0001-01-01T00:00:00"),
        body({**EVENT, "id": ""}),
        body({**EVENT, "id": "x" * 1001}),
        body({**EVENT, "at": "x" * 41}),
        body({**EVENT, "chatId": None}),
        body(*[EVENT] * 1001),
        b'{"events": ' + b"[" * 100_000,
        b"\xff\xff",
    ],
)
@pytest.mark.gen_test
async def test_malformed_batches(site: Site, text: bytes) -> None:
    """What is signed but no batch gets 400."""
    assert await status(site, text) == 400


@pytest.mark.gen_test
async def test_what_is_unknown_is_taken(site: Site) -> None:
    """Reports of later versions, members of them, and ids that no chat here has are ignored."""
    events = [
        {**EVENT, "id": "a", "type": "user_waved", "hand": "left"},
        {**EVENT, "id": "b", "chatId": "x" * 201},
        {**EVENT, "id": "d", "chatId": ""},
        {**EVENT, "id": "e", "userId": "x" * 201},
        {**EVENT, "id": "f"},
    ]
    await site.api.send_message("c", "anon_1", "hello", "USER")
    assert await status(site, body(*events)) == 204
    assert await shown(site.api) == (True, None)


@pytest.mark.gen_test
async def test_the_servers_own_client(site: Site) -> None:
    """What the server sends is taken here, and an empty batch too."""
    await site.api.send_message("c", "anon_1", "hello", "USER")
    client = ReportsClient(make_settings(), site.url + PATH)
    await client.start()
    await client.post([])
    await client.post([Report("r0", "chat_occupied", "c", AT), joined(1)])
    await client.close()
    assert await shown(site.api) == (True, None)


@pytest.fixture
def api(opened: Callable[[Any], Any]) -> EmbeddedApi:
    """An EmbeddedApi in memory with a chat."""
    api: EmbeddedApi = opened(EmbeddedApi(make_settings()))
    return api


@pytest.mark.gen_test
async def test_whether_the_customer_is_there(api: EmbeddedApi) -> None:
    """A customer is there until the last of their users leaves; agents don't count."""
    await api.send_message("c", "anon_1", "hello", "USER")
    assert await shown(api) == (None, None)
    await api.take_reports([joined(1, "agent_1", "agent"), joined(2, "bot", "assistant")])
    assert await shown(api) == (None, None)
    await api.take_reports([joined(3), joined(4, "anon_2")])
    assert await shown(api) == (True, None)
    await api.take_reports([left(5), left(6, "agent_1")])
    assert await shown(api) == (True, None)
    await api.take_reports([left(7, "anon_2")])
    assert await shown(api) == (False, LATER)
    await api.take_reports([joined(8)])
    assert await shown(api) == (True, None)
    await api.take_reports([Report("r9", "chat_vacated", "c", AT)])
    assert await shown(api) == (False, AT)
    await api.take_reports([Report("r10", "chat_vacated", "c", LATER), left(11)])
    assert await shown(api) == (False, AT)


@pytest.mark.gen_test
async def test_repeated_reports(api: EmbeddedApi) -> None:
    """A report that comes again, alone or among others, changes nothing."""
    await api.send_message("c", "anon_1", "hello", "USER")
    await api.take_reports([joined(1), left(2), joined(1), joined(1)])
    assert await shown(api) == (False, LATER)
    revision = (await summary(api)).revision
    await api.take_reports([joined(1), left(2)])
    assert (await summary(api)).revision == revision


@pytest.mark.gen_test
async def test_a_chat_that_begins_later(api: EmbeddedApi) -> None:
    """Customers come before they write: their chat shows it with its first message."""
    await api.take_reports([joined(1)])
    assert await api.chats(100) == []
    await api.send_message("c", "anon_1", "hello", "USER")
    assert await shown(api) == (True, None)


@pytest.mark.gen_test
async def test_what_is_published(opened: Callable[[Any], Any], io_loop: Any) -> None:
    """A batch publishes each chat that looks different once, newer than before; others not at all."""
    events: list[dict[str, Any]] = []

    async def publish(chat_id: str, event: bytes) -> None:
        assert chat_id == INBOX
        events.append(json.loads(event))

    api = EmbeddedApi(make_settings(), publish)
    await api.start()
    for chat in ("c", "d"):
        await api.send_message(chat, "anon_1", "hello", "USER")
    await until(lambda: len(events) == 2)
    before = events[0]["data"]["revision"]
    await api.take_reports([joined(1), joined(2, "anon_2"), left(3), joined(4, chat="unknown")])
    await until(lambda: len(events) == 3)
    assert (events[2]["type"], events[2]["data"]["chatId"]) == ("chat_updated", "c")
    assert events[2]["data"]["customerHere"] is True
    assert events[2]["data"]["revision"] > before
    await api.take_reports([left(5, "anon_2")])
    await api.close()
    assert len(events) == 4
    data = events[3]["data"]
    assert (data["customerHere"], data["customerLeftAt"]) == (False, LATER)


@patch("eclipse_ws.application.embedded_visitors.MAX_SEEN", 3)
@patch("eclipse_ws.application.embedded_visitors.MAX_VISITORS", 3)
@patch("eclipse_ws.application.embedded_visitors.MAX_LEFT", 3)
@pytest.mark.gen_test
async def test_bounds(opened: Callable[[Any], Any], tmp_path: Path) -> None:
    """What is remembered is bounded, and the latest is kept."""
    path = tmp_path / "chats.sqlite3"
    api = EmbeddedApi(make_settings(embedded_db=str(path)))
    await api.start()
    for number in range(10):
        await api.take_reports([joined(number, chat=f"c{number}")])
    await api.take_reports(Report(f"v{n}", "chat_vacated", f"c{n}", AT) for n in range(3))  # type: ignore[arg-type]
    for number in range(10):
        there = Report(f"j{number}", "user_joined", f"d{number}", AT, "anon_1", "user")
        await api.take_reports([there, Report(f"l{number}", "chat_vacated", f"d{number}", AT)])
    await api.close()
    db = sqlite3.connect(path)
    assert db.execute("SELECT COUNT(*) FROM visitors").fetchone() == (0,)
    assert db.execute("SELECT chat FROM departures ORDER BY rowid").fetchall() == [("d7",), ("d8",), ("d9",)]
    assert db.execute("SELECT id FROM reports ORDER BY rowid").fetchall() == [("l8",), ("j9",), ("l9",)]
    db.close()


@pytest.mark.parametrize(("backend", "after"), [("memory", (None, None)), ("redis", (True, None))])
@pytest.mark.gen_test
async def test_a_restart(tmp_path: Path, backend: str, after: tuple[bool | None, str | None]) -> None:
    """A server without Redis has forgotten whom it reported, so nobody counts as being there."""
    given = make_settings(embedded_db=str(tmp_path / "chats.sqlite3"))
    for begins, expected in ((True, (True, None)), (False, after)):
        api = EmbeddedApi(given.model_copy(update={"backend": backend}))
        await api.start()
        if begins:
            await api.send_message("c", "anon_1", "hello", "USER")
            await api.take_reports([joined(1)])
        assert await shown(api) == expected
        await api.close()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"profile": "dev", "api": "embedded"}, f"http://127.0.0.1:8123{PATH}"),
        ({"profile": "dev", "api": "embedded", "host": "0.0.0.0"}, f"http://127.0.0.1:8123{PATH}"),
        ({"profile": "dev", "api": "embedded", "host": "::"}, f"http://[::1]:8123{PATH}"),
        ({"profile": "dev", "api": "embedded", "host": "10.1.2.3"}, f"http://10.1.2.3:8123{PATH}"),
        (
            {"profile": "dev", "api": "embedded", "app_events_url": "https://a.acme.com/e"},
            "https://a.acme.com/e",
        ),
        (
            {"profile": "prod", "api": "http", "app_events_url": "https://a.acme.com/e"},
            "https://a.acme.com/e",
        ),
        ({"profile": "dev", "api": "embedded", "tls_cert": "cert.pem"}, ""),
        ({"profile": "dev", "api": "http"}, ""),
        ({"profile": "test", "api": "embedded"}, ""),
        ({"profile": "prod", "api": "embedded"}, ""),
        ({"profile": "prod", "api": "http"}, ""),
    ],
)
def test_where_reports_go(given: dict[str, Any], expected: str) -> None:
    """They go to the application's address, and without one only in development, to the server itself."""
    assert reports_url(make_settings(**given), 8123) == expected


@pytest.mark.gen_test
async def test_a_server_in_development_takes_its_own_reports() -> None:
    """The address that a development server gives itself is its own route, which takes many batches."""
    async with running(profile="dev", api="embedded", embedded_db=":memory:") as server:
        client = ReportsClient(server.settings, reports_url(server.settings, server.port))
        await client.start()
        await server.api.send_message("c", "anon_1", "hello", "USER")
        for number in range(50):
            await client.post([joined(2 * number), left(2 * number + 1)])
        await client.close()
        assert isinstance(server.api, EmbeddedApi)
        assert await shown(server.api) == (False, LATER)
