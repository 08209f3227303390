"""What tests of the agents' desk share: a made-up list of chats, and how to check the one that is shown."""

from __future__ import annotations

import re
from typing import Any

from playwright.sync_api import Locator, Page, Route


class Listed:
    """A made-up `/api/chats`, in pages of ``size``, for one browser page."""

    def __init__(self, page: Page, count: int = 0, size: int = 200) -> None:
        self.size = size
        self.chats = {f"c{n}": chat(f"c{n}", n + 1) for n in range(count)}
        self.asked: list[str] = []
        self.failure: dict[str, Any] | None = None
        page.route("**/api/chats?**", self.answer)
        page.route("**/api/chats", self.answer)

    def answer(self, route: Route) -> None:
        """Answer as the server does."""
        self.asked.append(route.request.url)
        if self.failure:
            return route.fulfill(**self.failure)
        found = re.search(r"before=(\d+)", route.request.url)
        before = int(found[1]) if found else 1_000_000
        rows = [row for row in self.chats.values() if row["position"] < before]
        rows.sort(key=lambda row: -row["position"])
        following = rows[self.size - 1]["position"] if len(rows) > self.size else None
        return route.fulfill(json={"chats": rows[: self.size], "next": following})

    def add(self, name: str, **changes: object) -> None:
        """A new chat, or a new message in one that there is."""
        latest = max((row["position"] for row in self.chats.values()), default=0)
        self.chats[name] = {**chat(name, latest + 1), **changes}


def chat(name: str, position: int) -> dict[str, Any]:
    """A chat as the embedded API lists it."""
    last = {"id": f"m{position}", "content": f"text {position}", "role": "user"}
    about = {"updatedAt": "2026-01-01T00:00:00.000Z", "lastMessage": last, "count": 1}
    return {"id": name, "position": position, "received": 1, "answered": 0, **about}


def entry(page: Page, name: str) -> Locator:
    """A chat in the list."""
    return page.locator(f'.chat[data-id="{name}"]')


def order(page: Page) -> list[str]:
    """The list's chats, from the first to the last."""
    names: list[str] = page.locator(".chat").evaluate_all("all => all.map((one) => one.dataset.id)")
    return names


def refresh(page: Page) -> None:
    """Let the desk ask for its list now, and wait until it has drawn it."""
    with page.expect_response("**/api/chats"):
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.evaluate("() => new Promise((done) => setTimeout(done, 20))")
