"""Both pages of the demo say that they are a demo: nobody takes the shop, or its desk, for a real one."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, expect

from tests.browser.stage import ServerProcess

WIDTHS = {"desktop": (1280, 800), "tablet": (700, 900), "phone": (320, 640)}


@pytest.mark.parametrize("size", WIDTHS)
@pytest.mark.parametrize("path", ["/demo", "/demo/agent"])
def test_a_page_says_that_it_is_a_demo(
    server: ServerProcess, context: Callable[..., BrowserContext], artefacts: Path, path: str, size: str
) -> None:
    """In the title, and at the top of the page without scrolling, whatever the width."""
    width, height = WIDTHS[size]
    page = context(viewport={"width": width, "height": height}).new_page()
    page.goto(server.url + path)
    note = page.get_by_role("complementary", name="About this demo")
    expect(note.get_by_text("Demo", exact=True)).to_be_in_viewport(ratio=1)
    expect(note.get_by_text("made-up shop")).to_be_in_viewport(ratio=1)
    expect(page).to_have_title(re.compile("^Demo: .*Penumbra"))
    assert page.evaluate("() => document.documentElement.scrollWidth") == width
    page.screenshot(path=artefacts / f"demo{path.replace('/', '-')}-{size}.png")


def test_unread_messages_keep_the_word_demo_in_the_desks_title(
    server: ServerProcess, context: Callable[..., BrowserContext]
) -> None:
    """A number is put in front of the title and replaces nothing of it."""
    page = context().new_page()
    chat = {"id": "c", "position": 1, "received": 3, "answered": 1, "updatedAt": "2026-01-01T00:00:00.000Z"}
    page.route("**/api/chats?*", lambda route: route.fulfill(json={"chats": [chat], "next": None}))
    page.goto(f"{server.url}/demo/agent")
    expect(page).to_have_title("(2) Demo: agents’ desk – Penumbra")
