"""Who is still there: what the list on the agents' desk shows of the application's reports."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import urllib.request
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.acts import Contexts, Open, Write
from tests.browser.desk import Listed, entry, listening
from tests.browser.stage import SECRET, ServerProcess
from tests.browser.test_desk_alerts import HEAR

pytestmark = pytest.mark.slow


def ago(minutes: float) -> str:
    """A moment some minutes ago."""
    at = datetime.now(UTC) - timedelta(minutes=minutes)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def report(server: ServerProcess, kind: str, chat: str, at: str) -> None:
    """Send a signed report of a customer."""
    event = {
        "id": secrets.token_hex(8),
        "type": kind,
        "chatId": chat,
        "at": at,
        "userId": "u",
        "role": "user",
    }
    body = json.dumps({"events": [event], "sentAt": ago(0)}).encode()
    signature = "sha256=" + hmac.new(SECRET[::-1].encode(), body, hashlib.sha256).hexdigest()
    headers = {"X-Signature": signature}
    request = urllib.request.Request(f"{server.url}/api/chat-events", body, headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 204


def here(page: Page, chat: str) -> Locator:
    """Where the customer of a listed chat is."""
    return entry(page, chat).locator(".here")


def test_who_is_still_there(server: ServerProcess, desk: Open, write: Write, chat_id: str) -> None:
    """The list says that a customer has come, and when they left; after a reload, too."""
    write(chat_id, "hello")
    page = desk(server.url)
    listening(page)
    entry(page, chat_id).wait_for()
    report(server, "user_joined", chat_id, ago(5))
    expect(here(page, chat_id)).to_have_text("Here now")
    expect(here(page, chat_id)).to_have_class("here")
    report(server, "user_left", chat_id, ago(3.5))
    expect(here(page, chat_id)).to_have_text("Left 3 min ago")
    expect(here(page, chat_id)).to_have_class("here left")
    page.reload()
    expect(here(page, chat_id)).to_have_text("Left 3 min ago")


def test_without_reports_nothing_is_said(server: ServerProcess, context: Contexts) -> None:
    """Chats without reports, closed ones, and lists of older servers say nothing about their customers."""
    page = context().new_page()
    chats = Listed(page, server)
    chats.add("old")
    chats.add("none", customerHere=None, customerLeftAt=None)
    chats.add("there", customerHere=True, customerLeftAt=None)
    page.goto(f"{server.url}/demo/agent")
    listening(page)
    expect(here(page, "there")).to_have_text("Here now")
    for name in ("old", "none"):
        expect(here(page, name)).to_be_hidden()
        expect(entry(page, name).locator(".who")).to_have_text("Unassigned")
    chats.tell("there", status="closed", customerHere=True)
    page.get_by_role("button", name="Closed").click()
    expect(entry(page, "there")).to_be_visible()
    expect(here(page, "there")).to_be_hidden()


def test_the_time_goes_on(server: ServerProcess, context: Contexts) -> None:
    """How long ago a customer left is counted on without another report."""
    page = context().new_page()
    page.clock.install(time="2026-01-01T12:00:00.000Z")
    chats = Listed(page, server)
    chats.add("just", customerHere=False, customerLeftAt="2026-01-01T11:59:30.000Z")
    chats.add("hours", customerHere=False, customerLeftAt="2026-01-01T09:00:00.000Z")
    chats.add("days", customerHere=False, customerLeftAt="2025-12-24T12:00:00.000Z")
    page.goto(f"{server.url}/demo/agent")
    expect(here(page, "just")).to_have_text("Left just now")
    expect(here(page, "hours")).to_have_text("Left 3 h ago")
    expect(here(page, "days")).to_have_text(re.compile(r"Left .*24"))
    page.clock.run_for(90_000)
    expect(here(page, "just")).to_have_text(re.compile("Left [12] min ago"))


def test_a_customer_who_comes_calls_nobody(server: ServerProcess, context: Contexts) -> None:
    """Only messages count as unread and make a sound: somebody who comes or leaves does neither."""
    page = context().new_page()
    page.add_init_script(HEAR)
    chats = Listed(page, server, 1)
    page.goto(f"{server.url}/demo/agent")
    listening(page)
    page.locator("h1").click()
    same = {"lastMessage": chats.chats["c0"]["lastMessage"]}
    chats.tell("c0", customerHere=True, **same)
    expect(here(page, "c0")).to_have_text("Here now")
    assert page.evaluate("window.tones") == []
    chats.tell("c0", received=2)
    page.wait_for_function("window.tones.length > 0")
