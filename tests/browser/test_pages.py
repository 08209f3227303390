"""The pages as people see them: screenshots for the eye, axe-core for the rules, and no jumping layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, WebSocketRoute, expect

from tests.browser.acts import play_server, violations
from tests.browser.stage import ServerProcess, connected, drawn, open_panel, say

Open = Callable[..., Page]
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}
LOOKS: dict[str, tuple[str, dict[str, Any]]] = {
    "light": ("", {}),
    "dark": ("", {"color_scheme": "dark"}),
    "phone": ("", PHONE),
    "phone-dark": ("", {**PHONE, "color_scheme": "dark"}),
    "phone-on-its-side": ("", {**PHONE, "viewport": {"width": 844, "height": 390}}),
    "rtl": ("&dir=rtl", {}),
}


@pytest.fixture(params=LOOKS)
def conversation(
    request: pytest.FixtureRequest, server: ServerProcess, customer: Open, desk: Open
) -> dict[str, Page]:
    """Both pages in one look, in the middle of a conversation."""
    query, options = LOOKS[request.param]
    page, agent = customer(server.url, query, **options), desk(server.url, query, **options)
    page.locator("eclipse-chat .launch").click()
    box, answer = page.locator("eclipse-chat textarea"), agent.locator("eclipse-chat textarea")
    connected(page, agent)
    say(box, "Hello! Does the Corona fit a metal headboard?")
    expect(agent.locator("eclipse-chat .bubble")).to_have_count(1)
    say(
        answer,
        "Good evening! Yes, its clamp takes up to 45 mm.\nHere are the measurements: https://example.com/corona",
    )
    expect(page.locator("eclipse-chat .bubble")).to_have_count(2)
    say(box, "Wonderful, I'll take two.")
    expect(agent.locator("eclipse-chat .bubble")).to_have_count(3)
    answer.press_sequentially("Gla")
    expect(page.locator("eclipse-chat .typing")).to_be_visible()
    return {f"customer-{request.param}": page, f"desk-{request.param}": agent}


def test_each_look_is_accessible(
    conversation: dict[str, Page], artefacts: Path, axe: Callable[[], str]
) -> None:
    """Each look is saved as screenshots, overflows nowhere, and axe-core finds no violations."""
    for name, page in conversation.items():
        page.screenshot(path=artefacts / f"{name}.png", animations="disabled")
        assert page.viewport_size
        assert page.evaluate("() => document.documentElement.scrollWidth") <= page.viewport_size["width"], (
            name
        )
    for name, page in conversation.items():
        assert not violations(page, axe()), name


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_failures_are_accessible(
    server: ServerProcess, context: Callable[..., Any], artefacts: Path, axe: Callable[[], str], scheme: str
) -> None:
    """Messages that failed, each in its way, and a history that can't be loaded, are legible as well."""
    page = context(color_scheme=scheme).new_page()
    codes = {"refused": "api_rejected", "long": "content_too_long", "perhaps": "outcome_unknown"}

    def answer(socket: WebSocketRoute, command: dict[str, str]) -> None:
        if code := codes.get(command.get("content", "")):
            error = {"type": "error", "error": "No", "code": code, "retryable": False}
            socket.send(json.dumps({**error, "clientMessageId": command["clientMessageId"]}))

    play_server(page, answer, sessionId="s")
    page.route("**/api/chats/*/messages*", lambda route: route.fulfill(status=500, body="oops"))
    page.goto(f"{server.url}/demo?chat=trouble&open")
    connected(page)
    say(page.get_by_role("textbox"), *codes, "on its way")
    expect(page.locator("eclipse-chat .meta")).to_have_count(4)
    expect(page.get_by_text("Earlier messages could not be loaded.")).to_be_visible()
    page.screenshot(path=artefacts / f"trouble-{scheme}.png", animations="disabled")
    assert not violations(page, axe())


def test_the_layout_does_not_shift(server: ServerProcess, customer: Open) -> None:
    """From the first paint to an open, connected panel, no part of the page is shifted."""
    page = customer(server.url)
    page.evaluate("""() => {
        window.shifts = 0;
        new PerformanceObserver((list) => { for (const e of list.getEntries()) window.shifts += e.value; })
            .observe({ type: "layout-shift", buffered: true });
    }""")
    open_panel(page)
    connected(page)
    drawn(page)
    assert page.evaluate("() => window.shifts") == 0


def test_an_empty_desk_says_what_to_do(
    server: ServerProcess, context: Callable[..., Any], customer: Open, chat_id: str, artefacts: Path
) -> None:
    """Without chats the desk says what to do; on a phone a chat leads back to the list, focus included."""
    visitor = customer(server.url)
    box = open_panel(visitor)
    connected(visitor)
    page = context(**PHONE).new_page()
    page.route("**/api/chats?*", lambda route: route.fulfill(json={"chats": []}))
    page.goto(f"{server.url}/demo/agent")
    expect(page.get_by_text("No open chats.")).to_be_visible()
    page.screenshot(path=artefacts / "desk-empty-phone.png")
    assert page.evaluate("() => document.documentElement.scrollWidth") == 390
    page.unroute("**/api/chats?*")
    say(box, "Is anybody there?")
    entry = page.get_by_role("button", name="Visitor " + chat_id.removeprefix("visitor-"))
    entry.click()
    connected(page)
    page.get_by_role("button", name="Back to the chats").click()
    expect(entry).to_be_focused()


def test_sentences_keep_their_direction(server: ServerProcess, customer: Open, desk: Open) -> None:
    """On pages that are laid out from right to left, English begins and ends where English does."""
    page, agent = customer(server.url, "&dir=rtl"), desk(server.url, "&dir=rtl")
    texts = [
        page.get_by_role("heading", name="One more chapter"),
        page.get_by_text("30 nights to try"),
        page.get_by_text("You are a customer of a made-up shop."),
        agent.get_by_role("button", name="How can I help?"),
    ]
    for text in texts:
        expect(text).to_have_css("direction", "ltr")
    expect(texts[0]).to_have_css("text-align", "right")


@pytest.mark.parametrize(("query", "corner"), [("", "right"), ("&dir=rtl", "left")])
def test_a_bubble_points_to_its_writer(
    server: ServerProcess, customer: Open, query: str, corner: str
) -> None:
    """The corner without a curve is on the writer's side, whichever way its text runs."""
    page = customer(server.url, query)
    page.locator("eclipse-chat .launch").click()
    box = page.locator("eclipse-chat textarea")
    say(box, "hello", "مرحبا")
    bubbles = page.locator("eclipse-chat .bubble")
    expect(bubbles).to_have_count(2)
    starts = []
    for bubble in bubbles.all():
        expect(bubble).to_have_css(f"border-bottom-{corner}-radius", "5px")
        starts.append(
            bubble.evaluate("""bubble => {
            bubble.style.width = "300px";
            const text = document.createRange();
            text.selectNodeContents(bubble);
            const { left, right } = bubble.getBoundingClientRect(), inner = text.getBoundingClientRect();
            return inner.left - left < right - inner.right ? "left" : "right";
        }""")
        )
    assert starts == ["left", "right"]


@pytest.mark.parametrize("size", [(390, 844), (844, 390)], ids=["upright", "on its side"])
def test_the_panel_fills_a_phone(server: ServerProcess, customer: Open, size: tuple[int, int]) -> None:
    """However a phone is held, the panel takes all of its screen: there is no room beside the keyboard."""
    width, height = size
    page = customer(server.url, "&open", **{**PHONE, "viewport": {"width": width, "height": height}})
    panel = page.get_by_role("dialog")
    expect(panel).to_be_visible()
    panel.evaluate("panel => Promise.all(panel.getAnimations().map((moving) => moving.finished))")
    assert panel.bounding_box() == {"x": 0, "y": 0, "width": width, "height": height}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_theme_can_be_forced(server: ServerProcess, customer: Open, theme: str) -> None:
    """The attribute `theme` wins over what the system prefers, at once."""
    page = customer(server.url, f"&theme={theme}", color_scheme="light" if theme == "dark" else "dark")
    assert page.locator("eclipse-chat .layer.dark").count() == (theme == "dark")
    page.evaluate("() => document.querySelector('eclipse-chat').removeAttribute('theme')")
    assert page.locator("eclipse-chat .layer.dark").count() == (theme == "light")
