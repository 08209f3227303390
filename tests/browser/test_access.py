"""With a keyboard and a screen reader: the focus stays where it was put, and what happens is said."""

from __future__ import annotations

import json
import re

from playwright.sync_api import WebSocketRoute, expect

from tests.browser.acts import Contexts, Open, give_history, message, play_server
from tests.browser.stage import ServerProcess, connected, open_panel, say


def test_a_focused_link_stays_focused(server: ServerProcess, customer: Open, desk: Open) -> None:
    """A message that joins the last one changes what is around its link, not the link that has the focus."""
    page, agent = customer(server.url), desk(server.url)
    open_panel(page)
    connected(page, agent)
    answer = agent.get_by_role("textbox")
    say(answer, "Look: https://example.com/lamps")
    link = page.get_by_role("link", name="https://example.com/lamps")
    link.focus()
    say(answer, "There are three.")
    expect(page.get_by_text("There are three.", exact=True)).to_be_visible()
    row = page.locator("eclipse-chat li", has=link)
    expect(row.locator(".meta")).to_have_count(0)
    expect(link).to_be_focused()


def test_a_focused_link_that_leaves_gives_its_focus_to_the_messages(
    server: ServerProcess, context: Contexts
) -> None:
    """Far from what has the focus it is no longer drawn: the keyboard stays in the chat all the same."""
    page = context().new_page()
    give_history(page, [message(n, f"https://example.com/{n}") for n in range(400)])
    page.goto(f"{server.url}/demo?chat=links&open")
    link = page.get_by_role("link", name="https://example.com/399")
    link.focus()
    log = page.get_by_role("group", name="Messages")
    expect(link).to_be_focused()
    page.wait_for_function("""() => {
        const root = document.querySelector("eclipse-chat").shadowRoot;
        root.querySelector(".log").scrollTop = 0;
        return root.querySelector(".bubble").textContent == "https://example.com/0";
    }""")
    expect(log).to_be_focused()


def test_messages_in_quick_succession_are_all_said(server: ServerProcess, context: Contexts) -> None:
    """A second message doesn't take the first one's place before a screen reader came to it."""
    page = context().new_page()
    give_history(page, [])
    page.goto(f"{server.url}/demo?chat=quick&open")
    connected(page)
    page.locator("eclipse-chat").evaluate("""element => {
        for (const content of ["one", "two"]) {
            const data = { id: content, content, role: "agent", timestamp: "2026-02-01T00:00:00.000Z" };
            element.chat.dispatchEvent(new CustomEvent("message", { detail: { data } }));
        }
    }""")
    said = page.locator("eclipse-chat [aria-live]")
    expect(said).to_have_attribute("aria-atomic", "false")
    expect(said.locator("p")).to_have_text(["Agent: one", "Agent: two"])


def test_a_failure_is_said(server: ServerProcess, context: Contexts) -> None:
    """Who can't see the red line hears that a message was not sent, and what to do."""
    page = context().new_page()

    def refuse(socket: WebSocketRoute, command: dict[str, str]) -> None:
        if command["type"] == "message":
            error = {"type": "error", "error": "No", "code": "forbidden", "retryable": False}
            socket.send(json.dumps({**error, "clientMessageId": command["clientMessageId"]}))

    play_server(page, refuse, sessionId="s")
    give_history(page, [])
    page.goto(f"{server.url}/demo?chat=refused-aloud")
    say(open_panel(page), "please")
    expect(page.locator("eclipse-chat [aria-live]")).to_have_text(re.compile("Not sent. Tap to try again."))
