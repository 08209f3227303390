"""Who is here and what has been read: what the widget shows, and what it reports."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, WebSocketRoute, expect

from tests.browser.acts import Contexts, give_history, give_token, message, play_server
from tests.browser.stage import ServerProcess, connected, open_panel
from tests.browser.states import ADA, ME, STATES, State, live, show
from tests.browser.states import event as made

pytestmark = pytest.mark.slow
SEEN = "eclipse-chat .meta:text('Seen')"


def event(kind: str, **data: object) -> str:
    """An event as text."""
    return json.dumps(made(kind, **data))


def wait_until(page: Page, condition: Callable[[], bool]) -> None:
    """Let the page go on until the condition holds."""
    for _ in range(200):
        if condition():
            return
        page.wait_for_timeout(50)
    raise AssertionError("It did not come true in ten seconds")


@pytest.fixture
def page(context: Contexts) -> Page:
    """A page with nothing on it."""
    return context().new_page()


def test_the_last_own_message_that_was_read_is_marked(page: Page) -> None:
    """Of two own messages, an agent has read the first: that one is marked, and only it."""
    show(page, STATES["seen"])
    expect(page.locator(SEEN)).to_have_count(1)
    expect(page.locator("eclipse-chat li", has=page.locator(".meta:text('Seen')"))).to_contain_text("two")


def test_a_visitors_own_reading_marks_nothing(page: Page) -> None:
    """Another tab of the visitor, or another visitor, is not the other side."""
    position = {"userId": "me", "role": "user", "messageId": "m0040"}
    show(page, State([".bubble"], STATES["seen"].history, [made("read", positions=[position])]))
    expect(page.locator(SEEN)).to_have_count(0)


def test_who_is_here_and_that_nobody_is(page: Page) -> None:
    """An agent is named; when the last one has gone, the line says so, and screen readers hear it once."""
    show(page, STATES["away"])
    line = page.locator("eclipse-chat .presence")
    expect(line).to_have_text("\u2068Ada Okafor\u2069 is away. You can keep writing.")
    expect(page.locator("eclipse-chat [role=status].sr p")).to_have_count(1)
    expect(page.locator("eclipse-chat [role=status].sr")).to_contain_text("is away")


def test_a_reconnect_keeps_the_line(page: Page) -> None:
    """After a reconnect the line stays until the server tells, and goes if it never does."""
    ada = made("presence", users=[ME, ADA], count=2)
    page.clock.install()
    sockets = show(page, State([".presence"], STATES["seen"].history, later=[ada]))
    sockets[-1].close(code=1001)
    line = page.locator("eclipse-chat .presence")
    for _ in range(8):
        page.clock.run_for(500)
        expect(line).to_be_visible()
    page.clock.run_for(2_000)
    expect(line).to_be_hidden()
    sockets[-1].send(json.dumps(ada))
    page.clock.run_for(100)
    expect(line).to_have_text("\u2068Ada Okafor\u2069 is here")


def test_typing_takes_the_line(page: Page) -> None:
    """While somebody types, that they are here is not said as well."""
    typing = made("typing", userId="Ada Okafor", isTyping=True)
    show(
        page,
        State([".typing"], STATES["seen"].history, [made("presence", users=[ME, ADA], count=2), typing]),
    )
    expect(page.locator("eclipse-chat .presence")).to_be_hidden()


def test_nothing_is_shown_where_the_server_tells_nothing(page: Page) -> None:
    """A server that doesn't know presence and reading leaves the widget as it was."""
    show(page, STATES["conversation"])
    expect(page.locator("eclipse-chat .presence")).to_be_hidden()
    expect(page.locator(SEEN)).to_have_count(0)


@pytest.mark.parametrize(("attributes", "events"), [({}, True), ({"no-presence": ""}, False)])
def test_no_presence_asks_for_nothing(page: Page, attributes: dict[str, str], events: bool) -> None:
    """The attribute turns both off: the server is not even asked."""
    state = State([".bubble"], STATES["seen"].history, STATES["seen"].events, attributes=attributes)
    (socket,) = show(page, state)
    assert ("events=presence%2Cread" in socket.url) is events
    expect(page.locator("eclipse-chat .presence")).to_be_visible(visible=events)
    expect(page.locator(SEEN)).to_have_count(int(events))


def test_what_is_in_view_is_reported_as_read(server: ServerProcess, page: Page) -> None:
    """A closed panel has read nothing, nor has one that is scrolled up; the end of an open one has."""
    reads: list[str] = []

    def answer(socket: WebSocketRoute, command: dict[str, Any]) -> None:
        if command["type"] == "read":
            reads.append(command["messageId"])

    give_token(page, server)
    give_history(page, [message(number, f"number {number}\n\n\n") for number in range(30)])
    sockets = play_server(page, answer, sessionId="s")
    page.goto(f"{server.url}/demo?chat=c")
    connected(page)
    sockets[-1].send(event("read", positions=[]))
    sockets[-1].send(event("message", **live(message(30, "number 30"))))
    expect(page.locator("eclipse-chat .badge")).to_be_visible()
    assert reads == []
    open_panel(page)
    expect(page.get_by_text("number 30", exact=True)).to_be_visible()
    wait_until(page, lambda: reads == ["m000030"])
    page.locator("eclipse-chat .log").evaluate("log => { log.scrollTop = 0 }")
    expect(page.locator("eclipse-chat .latest")).to_be_visible()
    sockets[-1].send(event("message", **live(message(31, "number 31"))))
    expect(page.get_by_role("button", name="New messages")).to_be_visible()
    page.wait_for_timeout(1_100)  # longer than the client waits between two
    assert reads == ["m000030"]
    page.locator("eclipse-chat .latest").click()
    wait_until(page, lambda: reads == ["m000030", "m000031"])
