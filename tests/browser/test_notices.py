"""What the widget says about its connection: each thing once, while it is true, and no longer."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from playwright.sync_api import Page, Route, WebSocketRoute, expect

from tests.browser.acts import Contexts, Open, give_history, message
from tests.browser.stage import ServerProcess, connected, open_panel, say

NOTICE = "eclipse-chat .notice"


class Connection:
    """The socket of a page, which greets while it is up and never answers anything else."""

    def __init__(self, page: Page, *, up: bool = True) -> None:
        self.up = up
        self.sockets: list[WebSocketRoute] = []
        page.route_web_socket(re.compile("/ws"), self._connect)

    def _connect(self, socket: WebSocketRoute) -> None:
        if not self.up:
            socket.close(code=1011)
            return
        self.sockets.append(socket)
        socket.on_message(lambda text: None)
        greeting: dict[str, Any] = {"type": "connected", "chatId": "c", "sessionId": "s"}
        socket.send(json.dumps(greeting))


def test_the_first_connection_is_not_a_reconnection(server: ServerProcess, context: Contexts) -> None:
    """A server that can't be reached at first is unavailable: nobody is called offline."""
    page = context().new_page()
    connection = Connection(page, up=False)
    give_history(page, [message(1, "from the history")])
    page.goto(f"{server.url}/demo?chat=first&open")
    expect(page.get_by_text("from the history")).to_be_visible()
    expect(page.get_by_text("The chat isn’t available right now.")).to_be_visible()
    connection.up = True
    connected(page)
    expect(page.locator(NOTICE)).to_be_hidden()


def test_a_history_that_loads_does_not_hide_a_lost_connection(
    server: ServerProcess, context: Contexts
) -> None:
    """The widget says that it reconnects, also when the history is loaded meanwhile."""
    page = context().new_page()
    connection = Connection(page)
    give_history(page, [])
    page.goto(f"{server.url}/demo?chat=lost&open")
    connected(page)
    connection.up = False
    connection.sockets[-1].close(code=1011)
    expect(page.get_by_text("You are offline.")).to_be_visible()
    give_history(page, [message(1, "found meanwhile")])
    page.evaluate("document.querySelector('eclipse-chat').chat.dispatchEvent(new CustomEvent('reload'))")
    expect(page.get_by_text("found meanwhile")).to_be_visible()
    expect(page.get_by_text("You are offline.")).to_be_visible()


def test_a_connection_does_not_hide_that_the_history_is_missing(
    server: ServerProcess, context: Contexts
) -> None:
    """The notice about a missing history stays until it is loaded, whatever the socket does."""
    page = context().new_page()
    connection = Connection(page)
    failing = re.compile("/api/chats/.*/messages")

    def fail(route: Route) -> None:
        route.fulfill(status=500, body="oops")

    page.route(failing, fail)
    page.goto(f"{server.url}/demo?chat=missing&open")
    expect(page.get_by_text("Earlier messages could not be loaded.")).to_be_visible()
    connection.sockets[-1].close(code=1011)
    expect(page.locator("eclipse-chat")).not_to_have_attribute("state", "open")
    connected(page)
    expect(page.get_by_text("Earlier messages could not be loaded.")).to_be_visible()
    page.unroute(failing, fail)
    give_history(page, [message(1, "here at last")])
    # By now it waits for up to 6 s before it asks again.
    expect(page.get_by_text("here at last")).to_be_visible(timeout=10_000)
    expect(page.locator(NOTICE)).to_be_hidden()


def test_a_full_outbox_keeps_what_was_typed(server: ServerProcess, context: Contexts) -> None:
    """When no more messages can wait, the one being written stays in its field, and the reason is shown."""
    page = context().new_page()
    Connection(page, up=False)
    give_history(page, [])
    page.goto(f"{server.url}/demo?chat=full")
    box = open_panel(page)
    page.locator("eclipse-chat").evaluate("element => { for (let n = 0; n < 1000; n++) element.send('x'); }")
    say(box, "one more")
    expect(page.get_by_text("Too many messages are waiting.")).to_be_visible()
    expect(box).to_have_value("one more")


def test_another_chat_does_not_begin_as_closed(server: ServerProcess, customer: Open) -> None:
    """Leaving a chat for another one ends the first; no notice says that the new one is closed."""
    page = customer(server.url, "&open")
    connected(page)
    notice = page.evaluate("""() => {
        const element = document.querySelector("eclipse-chat");
        element.setAttribute("chat-id", "another");
        return element.shadowRoot.querySelector(".notice").textContent;
    }""")
    assert notice == ""
    connected(page)


def test_a_closed_chat_accepts_no_more_messages(server: ServerProcess, context: Contexts) -> None:
    """After close code 4003 there is no field to write into, and messages in progress were not sent."""
    page = context().new_page()
    connection = Connection(page)
    give_history(page, [])
    page.goto(f"{server.url}/demo?chat=closed")
    box = open_panel(page)
    say(box, "too late")
    expect(page.get_by_text("Sending…")).to_be_visible()
    connection.sockets[-1].close(code=4003, reason="bye")
    expect(page.get_by_text("This chat has ended.")).to_be_visible()
    expect(box).to_be_hidden()
    expect(page.get_by_role("group", name="Messages")).to_be_focused()
    expect(page.get_by_text("Not sent.", exact=True)).to_be_visible()
    page.evaluate("document.querySelector('eclipse-chat').setAttribute('chat-id', 'another')")
    expect(box).to_be_visible()


@pytest.mark.parametrize(("status", "code"), [(403, "token_refused"), (404, "token_not_found")])
def test_a_refused_token_is_reported(
    server: ServerProcess, context: Contexts, status: int, code: str
) -> None:
    """If a token is refused, the person reads so, the page is notified, and the notice goes by itself."""
    page = context().new_page()
    Connection(page)
    give_history(page, [])

    def refuse(route: Route) -> None:
        route.fulfill(status=status, body="no")

    page.route("**/api/ws/token*", refuse)
    page.goto(f"{server.url}/demo?chat=refused-token")
    page.evaluate("""() => {
        window.errors = [];
        const element = document.querySelector("eclipse-chat");
        element.addEventListener("error", ({ detail }) => errors.push(detail.code));
        element.url = "";
        element.spread = 1;
    }""")
    open_panel(page)
    expect(page.get_by_text("This chat can’t be opened here.")).to_be_visible()
    assert page.evaluate("errors")[0] == code
    page.unroute("**/api/ws/token*", refuse)
    connected(page)
    expect(page.locator(NOTICE)).to_be_hidden()


def test_an_invalid_address_is_reported(server: ServerProcess, context: Contexts) -> None:
    """An invalid server address makes the chat unavailable at once."""
    page = context().new_page()
    give_history(page, [])
    page.goto(f"{server.url}/demo?chat=bad-address&open")
    page.locator("eclipse-chat").evaluate("element => { element.url = 'chat.example.com'; }")
    expect(page.get_by_text("The chat isn’t available right now.")).to_be_visible()


def test_a_browser_that_is_offline_says_so(server: ServerProcess, context: Contexts) -> None:
    """Offline is shown at once, whatever the socket does, and only while it lasts."""
    visitor = context()
    page = visitor.new_page()
    Connection(page)
    give_history(page, [])
    page.goto(f"{server.url}/demo?chat=offline&open")
    connected(page)
    visitor.set_offline(True)
    expect(page.get_by_text("You are offline.")).to_be_visible()
    visitor.set_offline(False)
    expect(page.locator(NOTICE)).to_be_hidden()


def test_an_error_about_a_command_shows_no_notice(server: ServerProcess, context: Contexts) -> None:
    """An error that belongs to no message is reported to the page only."""
    page = context().new_page()
    connection = Connection(page)
    give_history(page, [])
    page.goto(f"{server.url}/demo?chat=limits&open")
    connected(page)
    page.evaluate("""() => {
        window.errors = [];
        const element = document.querySelector("eclipse-chat");
        element.addEventListener("error", ({ detail }) => errors.push(detail.code));
    }""")
    error = {
        "type": "error",
        "error": "Slow down",
        "code": "rate_limited",
        "retryable": True,
        "retryAfter": 1,
    }
    connection.sockets[-1].send(json.dumps(error))
    page.wait_for_function("() => errors.length")
    assert page.evaluate("errors") == ["rate_limited"]
    expect(page.locator(NOTICE)).to_be_hidden()
    expect(page.locator("eclipse-chat .bad")).to_have_count(0)


@pytest.mark.parametrize("choice", ["the same", "another", "none"])
def test_an_ended_chat_can_begin_again(server: ServerProcess, context: Contexts, choice: str) -> None:
    """A button asks the page first: it may give another chat, forbid it, or leave it to the same chat."""
    page = context().new_page()
    connection = Connection(page)
    give_history(page, [])
    page.goto(f"{server.url}/demo?chat=ended&open")
    connected(page)
    connection.sockets[-1].close(code=4003, reason="bye")
    page.locator("eclipse-chat").evaluate(
        """(element, choice) => element.addEventListener("restart", (event) => {
            if (choice == "another") element.chatId = "new";
            if (choice == "none") event.preventDefault();
        })""",
        choice,
    )
    button = page.get_by_role("button", name="Start again")
    button.click()
    if choice == "none":
        expect(page.locator("eclipse-chat")).to_have_attribute("state", "closed")
        expect(button).to_be_visible()
        return
    connected(page)
    expect(page.get_by_role("textbox")).to_be_focused()
    expect(button).to_be_hidden()
    expect(page.locator(NOTICE)).to_be_hidden()
    assert len(connection.sockets) == 2
    chat = page.locator("eclipse-chat").evaluate("element => element.chatId")
    assert chat == ("new" if choice == "another" else "ended")
