"""What tests of the agents' desk share: a made-up list of chats, and how to check the one that is shown."""

from __future__ import annotations

import json
import secrets
import urllib.request
from typing import Any
from urllib.parse import parse_qs, quote, urlparse

from playwright.sync_api import Locator, Page, Route, expect

from tests.browser.stage import SECRET, ServerProcess


class Listed:
    """A made-up list of chats behind `/api/chats`, in pages of ``size``, for one browser page.

    What happens to them is published in the server's inbox, so that a desk hears of it.
    """

    def __init__(self, page: Page, server: ServerProcess, count: int = 0, size: int = 1_000) -> None:
        self.size = size
        self.server = server
        self.chats = {f"c{n}": chat(f"c{n}", n + 1) for n in range(count)}
        self.asked: list[str] = []
        self.failure: dict[str, Any] | None = None
        page.route("**/api/chats?*", self.answer)

    def answer(self, route: Route) -> None:
        """Answer as the server does."""
        self.asked.append(route.request.url)
        if self.failure:
            return route.fulfill(**self.failure)
        query = {name: found[0] for name, found in parse_qs(urlparse(route.request.url).query).items()}
        size = min(self.size, int(query.get("limit", 200)))
        before, status, text = (
            int(query.get("before", 1 << 40)),
            query.get("status"),
            query.get("query", ""),
        )
        rows = [
            row
            for row in self.chats.values()
            if row["position"] < before and status in (None, row["status"]) and text in row["id"]
        ]
        rows.sort(key=lambda row: -row["position"])
        following = rows[size - 1]["position"] if len(rows) > size else None
        return route.fulfill(json={"chats": rows[:size], "next": following})

    def add(self, name: str, **changes: object) -> None:
        """A new chat, or a new message in one that there is, which nobody hears of."""
        latest = max((row["position"] for row in self.chats.values()), default=0)
        known = self.chats.get(name, {"revision": 0})
        revised = {"revision": max(known["revision"], latest) + 1}
        self.chats[name] = {**chat(name, latest + 1), **revised, **changes}

    def tell(self, name: str, kind: str = "chat_updated", **changes: object) -> None:
        """The same, and the inbox says so."""
        self.add(name, **changes)
        publish(self.server, kind, self.chats[name])


def publish(server: ServerProcess, kind: str, about: dict[str, Any]) -> None:
    """Publish an event about a chat in the agents' inbox."""
    data = {**about, "id": secrets.token_hex(8), "chatId": about["id"]}
    event = {"type": kind, "data": data, "timestamp": "2026-01-01T00:00:00.000Z"}
    assert post(server, f"/api/chats/{quote('inbox:support', safe='')}/events", event) == 202


def close(server: ServerProcess, name: str) -> None:
    """Close a chat of the embedded API."""
    assert post(server, f"/api/chats/{name}/close", {}) == 200


def post(server: ServerProcess, path: str, body: object) -> int:
    """The status of a POST with the secret."""
    data, headers = json.dumps(body).encode(), {"X-Internal-Secret": SECRET[::-1]}
    request = urllib.request.Request(server.url + path, data, headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return int(answer.status)


def chat(name: str, position: int) -> dict[str, Any]:
    """A chat as the embedded API lists it: the customer has been answered, and has written again."""
    last = {"id": f"m{position}", "content": f"text {position}", "role": "USER"}
    about = {"updatedAt": "2026-01-01T00:00:00.000Z", "lastMessage": last, "count": 1}
    state = {"status": "open", "assignee": None, "waitingSince": None, "revision": position}
    return {"id": name, "position": position, "received": 1, "answered": 0, **about, **state}


def entry(page: Page, name: str) -> Locator:
    """A chat in the list."""
    return page.locator(f'.chat[data-id="{name}"]')


def order(page: Page) -> list[str]:
    """The list's chats, from the first to the last."""
    names: list[str] = page.locator(".chat").evaluate_all("all => all.map((one) => one.dataset.id)")
    return names


def listening(page: Page) -> None:
    """Wait until the desk hears of what happens to chats."""
    expect(page.locator("#state")).to_have_text("Connected", timeout=25_000)


def refresh(page: Page) -> None:
    """Let the desk load its list now, and wait until it has drawn it."""
    with page.expect_response("**/api/chats?*"):
        page.evaluate("dispatchEvent(new Event('online'))")
    page.evaluate("() => new Promise((done) => setTimeout(done, 20))")
