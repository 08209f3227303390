"""Following the chat: its end stays in sight, whatever happens around it."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.browser.acts import Contexts, give_history, message
from tests.browser.stage import ServerProcess, connected

BELOW = """log => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() =>
    done(Math.round(log.scrollHeight - log.scrollTop - log.clientHeight)))))"""

# Each message arrives between the drawing of the one before it and the event about that one's scrolling.
ARRIVE = """element => new Promise((done) => {
    let n = 0;
    const arrive = () => {
        const data = { id: `n${n}`, content: `news ${n}`, role: "agent", timestamp: "2026-02-01T00:00:00Z" };
        element.chat.dispatchEvent(new CustomEvent("message", { detail: { data } }));
        if (++n < 8) requestAnimationFrame(arrive);
        else done();
    };
    arrive();
})"""


def long_chat(server: ServerProcess, context: Contexts) -> Page:
    """A page with more messages than the panel has room for, read to their end."""
    page = context().new_page()
    give_history(page, [message(n, f"message {n}") for n in range(30)])
    page.goto(f"{server.url}/demo?chat=reading&open")
    connected(page)
    expect(page.get_by_text("message 29")).to_be_in_viewport()
    return page


def test_messages_in_quick_succession_are_followed(server: ServerProcess, context: Contexts) -> None:
    """A message that arrives while the last one is being scrolled to doesn't leave the reader behind."""
    page = long_chat(server, context)
    page.locator("eclipse-chat").evaluate(ARRIVE)
    expect(page.get_by_text("news 7", exact=True)).to_be_visible()
    assert page.locator("eclipse-chat .log").evaluate(BELOW) == 0
    expect(page.get_by_role("button", name="New messages")).to_be_hidden()
    assert page.evaluate("document.querySelector('eclipse-chat').unread") == 0


def test_the_button_to_the_end_says_whether_there_is_news(server: ServerProcess, context: Contexts) -> None:
    """Scrolled up, a button leads to the end; it mentions new messages only if there are some."""
    page = long_chat(server, context)
    page.locator("eclipse-chat .log").evaluate("log => { log.scrollTop = 0 }")
    expect(page.get_by_role("button", name="Latest messages")).to_be_visible()
    page.locator("eclipse-chat").evaluate(ARRIVE)
    button = page.get_by_role("button", name="New messages")
    expect(button).to_be_visible()
    button.click()
    expect(page.get_by_text("news 7", exact=True)).to_be_in_viewport()
    page.locator("eclipse-chat .log").evaluate("log => { log.scrollTop = 0 }")
    expect(page.get_by_role("button", name="Latest messages")).to_be_visible()


def test_a_growing_field_hides_no_message(server: ServerProcess, context: Contexts) -> None:
    """Lines added to the field, and a smaller window, leave the last message in sight."""
    page = long_chat(server, context)
    log = page.locator("eclipse-chat .log")
    page.get_by_role("textbox").fill("one\ntwo\nthree\nfour\nfive")
    assert log.evaluate(BELOW) == 0
    page.set_viewport_size({"width": 500, "height": 420})
    assert log.evaluate(BELOW) == 0
    expect(page.get_by_role("button", name="New messages")).to_be_hidden()


def test_a_history_with_numbers_for_ids(server: ServerProcess, context: Contexts) -> None:
    """A message that the application knows by a number is the one that events know by its text."""
    page = context().new_page()
    give_history(page, [{**message(1, "before"), "id": 1}])
    page.goto(f"{server.url}/demo?chat=numbers&open")
    connected(page)
    expect(page.locator("eclipse-chat .bubble")).to_have_text("before")
    page.locator("eclipse-chat").evaluate("""element => {
        const data = { id: "1", content: "after", role: "agent", updatedAt: "2026-02-01T00:00:00Z" };
        element.chat.dispatchEvent(new CustomEvent("message_updated", { detail: { data } }));
    }""")
    expect(page.locator("eclipse-chat .bubble")).to_have_text("after")
