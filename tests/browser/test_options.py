"""Everything that the widget can be told: attributes, properties, events, and the system's preferences."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Page, expect

from tests.browser.acts import Contexts, Open, give_history, message
from tests.browser.stage import ServerProcess, connected, open_panel, say

Attributes = dict[str, str]


def put(page: Page, attributes: Attributes) -> None:
    """A widget with these attributes in the place of the page's own."""
    page.evaluate(
        """attributes => {
            const old = document.querySelector("eclipse-chat"), made = document.createElement("eclipse-chat");
            for (const name of ["token-url", "chat-id"]) made.setAttribute(name, old.getAttribute(name));
            for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
            window.heard = [];
            for (const name of ["open", "close", "message", "unread", "state"])
                made.addEventListener(name, ({ detail }) => heard.push([name, detail?.content ?? detail]));
            old.replaceWith(made);
        }""",
        attributes,
    )


def test_texts_can_be_overridden(server: ServerProcess, customer: Open, complaints: list[str]) -> None:
    """Texts come as an attribute or a property, at any time; invalid JSON is reported and changes nothing."""
    page = customer(server.url)
    put(page, {"texts": json.dumps({"open": "Chat öffnen", "placeholder": "Nachricht schreiben"})})
    page.get_by_role("button", name="Chat öffnen").click()
    expect(page.get_by_role("textbox", name="Nachricht schreiben")).to_be_focused()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    page.evaluate("document.querySelector('eclipse-chat').texts = { empty: 'Nothing yet', title: 'Hi' }")
    expect(page.get_by_text("Nothing yet")).to_be_visible()
    expect(page.get_by_role("dialog", name="Hi")).to_be_visible()
    page.evaluate("document.querySelector('eclipse-chat').setAttribute('texts', '{no')")
    expect(page.get_by_role("dialog", name="Hi")).to_be_visible()
    assert [line[:30] for line in complaints] == ["<eclipse-chat>: texts is not v"]
    complaints.clear()


def test_a_lazy_widget_connects_when_it_is_opened(server: ServerProcess, customer: Open) -> None:
    """Until its first opening a lazy widget sends no requests."""
    page = customer(server.url)
    connected(page)
    put(page, {"lazy": ""})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    assert page.evaluate("document.querySelector('eclipse-chat').chat === undefined")
    assert asked == []
    open_panel(page)
    connected(page)
    assert any("/api/ws/token" in url for url in asked)


def test_history_url_none_requests_no_history(server: ServerProcess, customer: Open) -> None:
    """`history-url="none"` sends no request to the application."""
    page = customer(server.url)
    connected(page)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    put(page, {"history-url": "none", "open": ""})
    say(page.get_by_role("textbox"), "hello")
    expect(page.get_by_text("· Sent")).to_be_visible()
    assert not any("/messages" in url for url in asked)


def test_a_page_gets_events_and_keeps_its_title(server: ServerProcess, customer: Open, desk: Open) -> None:
    """Events come with their details; with `no-title` the title is not changed."""
    page, agent = customer(server.url), desk(server.url)
    put(page, {"no-title": ""})
    connected(page, agent)
    title = page.title()
    say(agent.get_by_role("textbox"), "hello")
    expect(page.locator("eclipse-chat .badge")).to_have_text("1")
    assert page.title() == title
    open_panel(page)
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Open the chat")).to_be_focused()
    heard = page.evaluate("heard")
    assert heard[:2] == [["state", "connecting"], ["state", "open"]]
    assert heard[2:] == [["unread", 1], ["message", "hello"], ["unread", 0], ["open", None], ["close", None]]


def test_days_have_headings(server: ServerProcess, context: Contexts) -> None:
    """Every day has its heading: its date, then yesterday and today."""
    page = context(timezone_id="UTC").new_page()
    noon = datetime.now(UTC).replace(hour=12, minute=0)
    page.clock.install(time=noon)
    days = [noon - timedelta(days=n, minutes=1) for n in (400, 1, 0)]
    give_history(
        page,
        [
            {**message(n, f"message {n}"), "createdAt": f"{day:%Y-%m-%dT%H:%M:%S}.000Z"}
            for n, day in enumerate(days)
        ],
    )
    page.goto(f"{server.url}/demo?chat=days&open")
    first = f"{days[0]:%A, %B} {days[0].day}, {days[0]:%Y}"
    expect(page.locator("eclipse-chat .day")).to_have_text([first, "Yesterday", "Today"])


@pytest.mark.parametrize(("wish", "moving"), [("no-preference", True), ("reduce", False)])
def test_nothing_is_animated_with_reduced_motion(
    server: ServerProcess, customer: Open, desk: Open, wish: str, moving: bool
) -> None:
    """With `prefers-reduced-motion` neither the panel nor the typing dots are animated."""
    page, agent = customer(server.url, reduced_motion=wish), desk(server.url)
    open_panel(page)
    connected(page, agent)
    agent.get_by_role("textbox").press_sequentially("Hel")
    dots = page.locator("eclipse-chat .typing")
    expect(dots).to_be_visible()
    assert bool(dots.evaluate("dots => dots.getAnimations({ subtree: true }).length")) == moving


def test_custom_properties_and_parts_change_its_style(server: ServerProcess, customer: Open) -> None:
    """Custom properties on the element and rules for its parts are all that a page needs."""
    page = customer(server.url)
    page.evaluate(
        """rules => {
            const sheet = new CSSStyleSheet();
            sheet.replaceSync(rules);
            document.adoptedStyleSheets = [sheet];
        }""",
        "eclipse-chat { --eclipse-accent: rgb(11, 110, 79) !important; --eclipse-width: 300px }"
        "eclipse-chat::part(launcher) { border-radius: 16px }"
        "eclipse-chat::part(mine) { font-style: italic }",
    )
    launcher = page.get_by_role("button", name="Open the chat")
    expect(launcher).to_have_css("background-color", "rgb(11, 110, 79)")
    expect(launcher).to_have_css("border-radius", "16px")
    say(open_panel(page), "hello")
    expect(page.get_by_role("dialog")).to_have_css("width", "300px")
    expect(page.get_by_text("hello", exact=True)).to_have_css("font-style", "italic")
