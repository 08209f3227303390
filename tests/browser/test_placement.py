"""On somebody else's page: whatever its style sheets and scripts do, the widget is where it belongs, and usable."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.stage import ServerProcess, connected, site

Show = Callable[..., Page]

CHAT = '<eclipse-chat token-url="/api/ws/token" chat-id="{chat}" {attributes}></eclipse-chat>'
WINDOW = {"width": 1000, "height": 700}
PHONE = {"width": 390, "height": 700}

# What a page's own rules could let in, by name, and what it is without them.
UNTOUCHED = {
    "letter-spacing": "normal",
    "word-spacing": "0px",
    "text-transform": "none",
    "text-align": "start",
    "text-indent": "0px",
    "text-shadow": "none",
    "font-style": "normal",
    "font-weight": "400",
    "font-size": "16px",
    "visibility": "visible",
    "user-select": "text",
    "cursor": "text",
    "opacity": "1",
}


@dataclass(frozen=True)
class Host:
    """Somebody's page: its style sheet, its body around the widget, its script."""

    style: str = ""
    body: str = CHAT
    script: str = ""
    attributes: str = ""


HOSTS = {
    "transform": Host(".app { transform: translate(40px, 30px) scale(.5) }", f'<div class="app">{CHAT}</div>'),
    "filter": Host(".app { filter: blur(2px); opacity: .3; will-change: transform }", f'<div class="app">{CHAT}</div>'),
    "contain": Host(".app { contain: strict; height: 50px }", f'<div class="app">{CHAT}</div>'),
    "overflow hidden": Host(
        ".app { overflow: hidden; height: 10px; clip-path: inset(0); perspective: 1px }", f'<div class="app">{CHAT}</div>'
    ),
    "all unset": Host("* { all: unset; }"),
    "all unset important": Host("*, *::before { all: unset !important; }"),
    "children in a grid": Host(
        "body { display: grid; gap: 50px; justify-items: center } "
        "body > * { position: static !important; display: none !important; inset: 0; width: 100%; transform: none }"
    ),
    "reset": Host(
        "*, ::before, ::after { margin: 0 !important; padding: 0 !important; position: relative !important; "
        "box-sizing: content-box !important; max-width: 10px !important; overflow: hidden !important; "
        "opacity: .5 !important; float: left !important }"
    ),
    "inherited": Host(
        "* { letter-spacing: .4em; word-spacing: 2em; text-transform: uppercase; line-height: 3; text-align: right; "
        "white-space: nowrap; cursor: wait; text-indent: 3em; text-shadow: 2px 2px red; font: italic 900 40px serif; "
        "user-select: none; visibility: hidden; pointer-events: none; color: lime; writing-mode: vertical-rl } "
        "html { font-size: 62.5% } ::selection { color: lime }"
    ),
    "bar on top": Host(
        ".bar { position: fixed; inset: 0; z-index: 2147483647; background: teal }", f'{CHAT}<div class="bar">Cookies?</div>'
    ),
    "bar on the top layer": Host(
        ".bar { inset: auto 0 0 0; width: auto; height: 40px; padding: 0 }",
        f'<div class="bar" popover="manual">Cookies?</div>{CHAT}',
        "document.querySelector('.bar').showPopover()",
    ),
    "custom properties": Host("* { --accent: red; --text: white; --background: white; --radius: 0; --room: 0; --near: 90vw }"),
    "shortcuts": Host(
        script="""for (const type of ["keydown", "keyup", "keypress", "input", "beforeinput", "copy", "paste", "wheel"])
            for (const target of [window, document, document.body])
                target.addEventListener(type, (event) => {
                    heard.push(type + " " + event.key);
                    event.preventDefault();
                }, { passive: false })"""
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def tab(browser: Browser) -> Iterator[Page]:
    """One tab for all of this module's pages."""
    with browser.new_context(viewport=WINDOW) as context:  # type: ignore[arg-type]
        context.set_default_timeout(5_000)
        yield context.new_page()


@pytest.fixture(scope="module")
def shop(server: ServerProcess) -> Iterator[str]:
    """Somebody's site; a test writes its page."""
    with site("<!doctype html>", "default-src * 'unsafe-inline'", server.url) as url:
        yield url


@pytest.fixture
def show(tab: Page, shop: str, server: ServerProcess) -> Iterator[Show]:
    """Shows a page that holds a widget; its script has a list `heard`."""
    errors: list[str] = []
    hear = lambda error: errors.append(str(error))  # noqa: E731
    tab.on("pageerror", hear)

    def visit(host: Host, **window: int) -> Page:
        html = (
            f'<!doctype html><html lang="en"><title>Shop</title><style>{host.style}</style>'
            f'<script type="module" src="{server.url}/widget.js"></script><script>const heard = []</script>{host.body}'
            f'<script type="module">{host.script}</script>'
        )
        html = html.replace("{chat}", f"visitor-{secrets.token_hex(4)}").replace("{attributes}", host.attributes)
        tab.set_viewport_size({**WINDOW, **window})  # type: ignore[typeddict-item]
        tab.goto(shop)
        tab.set_content(html)
        return tab

    yield visit
    tab.remove_listener("pageerror", hear)
    tab.goto("about:blank")
    assert not errors


def is_hit(page: Page, x: float, y: float) -> bool:
    """Whether a click at this point meets the widget."""
    return bool(page.evaluate("([x, y]) => document.elementsFromPoint(x, y)[0]?.localName == 'eclipse-chat'", [x, y]))


def settled(page: Page) -> dict[str, float]:
    """Where the panel is, once it has stopped moving."""
    panel = page.locator("eclipse-chat .panel")
    panel.evaluate("panel => Promise.all(panel.getAnimations().map((moving) => moving.finished))")
    box = panel.bounding_box()
    assert box
    return {**box}


def assert_inside(page: Page) -> dict[str, float]:
    """The whole panel is in the window, and nothing covers it: its corners and its middle can be clicked."""
    box, window = settled(page), page.viewport_size
    assert window
    left, top, right, bottom = box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]
    assert left >= 0 and top >= 0 and right <= window["width"] and bottom <= window["height"], box
    for x in (left + 20, (left + right) / 2, right - 20):
        for y in (top + 20, (top + bottom) / 2, bottom - 20):
            assert is_hit(page, x, y), (x, y)
    return box


def computed(page: Page, selector: str, *names: str) -> dict[str, Any]:
    """Computed styles of an element of the widget."""
    found: dict[str, Any] = page.locator(f"eclipse-chat {selector}").first.evaluate(
        "(element, names) => Object.fromEntries(names.map((n) => [n, getComputedStyle(element).getPropertyValue(n)]))",
        list(names),
    )
    return found


@pytest.mark.parametrize("name", HOSTS)
def test_it_can_be_used_on_any_page(show: Show, name: str) -> None:
    """In its corner, above everything, as it always looks: opened with the mouse, written in with both, closed with Escape."""
    page = show(HOSTS[name])
    connected(page)
    right, bottom = WINDOW["width"] - 50, WINDOW["height"] - 50
    page.wait_for_function(
        "([x, y]) => document.elementsFromPoint(x, y)[0]?.localName == 'eclipse-chat'", arg=[right, bottom]
    )
    page.mouse.click(right, bottom)
    box = assert_inside(page)
    assert (box["width"], box["height"]) == pytest.approx((384, 620), abs=1)
    assert computed(page, "textarea", *UNTOUCHED) == UNTOUCHED
    assert computed(page, ".panel", "background-color", "color") == {
        "background-color": "rgb(255, 255, 255)",
        "color": "rgb(27, 27, 43)",
    }
    assert computed(page, ".panel", "writing-mode", "text-transform", "line-height", "white-space") == {
        "writing-mode": "horizontal-tb", "text-transform": "none", "line-height": "21.75px", "white-space": "normal"
    }  # fmt: skip
    page.keyboard.type("by keyboard?")
    page.keyboard.press("Enter")
    page.keyboard.type("by mouse")
    send = page.get_by_role("button", name="Send").bounding_box()
    assert send
    page.mouse.click(send["x"] + 10, send["y"] + 10)
    expect(page.locator("eclipse-chat .bubble")).to_have_text(["by keyboard?", "by mouse"])
    page.mouse.wheel(0, 10)
    page.keyboard.press("Tab")
    page.keyboard.press("Escape")
    expect(page.locator("eclipse-chat .panel")).to_be_hidden()
    assert page.evaluate("document.querySelector('eclipse-chat').shadowRoot.activeElement.className") == "launch"
    # The keyboard's way between the page and the widget stays the page's business.
    assert set(page.evaluate("heard")) <= {"keydown Tab", "keyup Tab"}
