"""Unread messages: counted while nobody sees them, remembered across pages and tabs, gone once seen."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.acts import Contexts, Open, give_history, message
from tests.browser.shop import BUBBLES, CHAT, INLINE, Shop, element
from tests.browser.stage import ServerProcess, connected, open_panel, opened, say

BADGE = "eclipse-chat .badge"


def reload(page: Page) -> None:
    """Reload the page, up to the end of its history."""
    with page.expect_response("**/api/chats/*/messages*"):
        page.reload()
    connected(page)


def test_unread_messages_survive_the_next_page(server: ServerProcess, customer: Open, desk: Open) -> None:
    """On the next page unread messages still count, those in between included; read ones don't."""
    page, agent = customer(server.url), desk(server.url)
    connected(page)
    box = agent.get_by_role("textbox")
    say(box, "one", "two")
    expect(page.locator(BADGE)).to_have_text("2")
    title = page.title().removeprefix("(2) ")
    page.goto("about:blank")
    say(box, "three")
    expect(agent.get_by_text("· Sent")).to_have_count(1)
    page.go_back()
    expect(page.locator(BADGE)).to_have_text("3")
    expect(page).to_have_title(f"(3) {title}")
    open_panel(page)
    expect(page.get_by_text("three", exact=True)).to_be_visible()
    expect(page).to_have_title(title)
    reload(page)
    say(box, "four")
    expect(page.locator(BADGE)).to_have_text("1")


def test_what_one_tab_has_shown_is_read_in_all(
    server: ServerProcess, customer: Open, desk: Open, chat_id: str
) -> None:
    """Opening the panel in one tab clears the count in the others."""
    page, agent = customer(server.url), desk(server.url)
    other = page.context.new_page()
    other.goto(f"{server.url}/demo?chat={chat_id}")
    connected(page, other)
    say(agent.get_by_role("textbox"), "hello")
    for tab in (page, other):
        expect(tab.locator(BADGE)).to_have_text("1")
    open_panel(other)
    expect(page.locator(BADGE)).to_be_hidden()


def test_an_old_chat_is_not_all_unread(server: ServerProcess, context: Contexts) -> None:
    """In a browser that sees a chat for the first time, its history doesn't count as unread."""
    page = context().new_page()
    give_history(page, [message(n, f"message {n}") for n in range(5)])
    page.goto(f"{server.url}/demo?chat=old")
    connected(page)
    page.locator("eclipse-chat").evaluate("""element => {
        const data = { id: "new", content: "news", role: "agent", timestamp: "2026-02-01T00:00:00.000Z" };
        element.chat.dispatchEvent(new CustomEvent("message", { detail: { data } }));
    }""")
    expect(page.locator(BADGE)).to_have_text("1")
    reload(page)
    expect(page.locator(BADGE)).to_be_hidden()


def test_a_page_without_a_title_gets_and_loses_the_count(
    server: ServerProcess, customer: Open, desk: Open
) -> None:
    """The number goes in front of nothing as well, once, and is taken away again."""
    page, agent = customer(server.url), desk(server.url)
    connected(page)
    page.evaluate("document.title = ''")
    say(agent.get_by_role("textbox"), "one", "two")
    expect(page.locator(BADGE)).to_have_text("2")
    expect(page).to_have_title("(2)")
    page.evaluate("document.title = 'Named since'")
    say(agent.get_by_role("textbox"), "three")
    expect(page).to_have_title("(3) Named since")
    open_panel(page)
    expect(page).to_have_title("Named since")


NEWS = """([selector, id]) => {
    const data = { id, content: "news", role: "agent", timestamp: "2026-02-01T00:00:00.000Z" };
    document.querySelector(selector).chat.dispatchEvent(new CustomEvent("message", { detail: { data } }));
}"""


def test_a_title_that_comes_back_has_one_number(server: ServerProcess, context: Contexts) -> None:
    """A page that keeps its title, and sets it again later, doesn't end with two numbers in front of it."""
    page = context().new_page()
    page.goto(f"{server.url}/demo?chat=titles")
    connected(page)
    page.evaluate("document.title = '(5) Inbox'")
    page.evaluate(NEWS, ["eclipse-chat", "1"])
    expect(page).to_have_title("(1) (5) Inbox")
    page.evaluate("() => { window.kept = document.title; }")
    page.evaluate(NEWS, ["eclipse-chat", "2"])
    page.evaluate("() => { document.title = kept; }")
    page.evaluate(NEWS, ["eclipse-chat", "3"])
    expect(page).to_have_title("(3) (5) Inbox")
    open_panel(page)
    expect(page).to_have_title("(5) Inbox")


def test_two_widgets_share_one_number(server: ServerProcess, context: Contexts) -> None:
    """Two widgets, even of two copies of the script, add up their numbers, and remove only their own."""
    page = context().new_page()
    page.goto(f"{server.url}/demo?chat=two")
    connected(page)
    page.evaluate("""async () => {
        const { EclipseChatElement } = await import("/widget.js?copy");
        customElements.define("other-chat", EclipseChatElement);
        const other = document.createElement("other-chat");
        Object.assign(other, { tokenUrl: "/api/ws/token", chatId: "other" });
        document.body.append(other);
    }""")
    title = page.title()
    page.evaluate(NEWS, ["eclipse-chat", "1"])
    page.evaluate(NEWS, ["other-chat", "2"])
    page.evaluate(NEWS, ["other-chat", "3"])
    expect(page).to_have_title(f"(3) {title}")
    page.evaluate("() => document.querySelector('other-chat').remove()")
    expect(page).to_have_title(f"(1) {title}")


def test_own_messages_from_another_browser_are_not_unread(server: ServerProcess, context: Contexts) -> None:
    """A customer's own message from another browser doesn't count; the answer to it does."""
    page = context().new_page()
    history = [message(0, "read"), message(1, "mine", "user"), message(2, "theirs")]
    give_history(page, history)
    page.add_init_script(
        f"localStorage.setItem('eclipse-chat:read:elsewhere', Date.parse('{history[0]['createdAt']}'))"
    )
    page.goto(f"{server.url}/demo?chat=elsewhere")
    expect(page.locator(BADGE)).to_have_text("1")


@pytest.mark.parametrize(
    ("body", "hide"),
    [
        (INLINE, "document.querySelector('#tab').style.display = 'none'"),
        (INLINE, "e.hidden = true"),
        (CHAT, "e.hidden = true"),
        (f"<details open><summary>x</summary>{CHAT}</details>", "e.parentNode.open = false"),
    ],
    ids=["inline in a hidden tab", "inline and hidden", "hidden", "in closed details"],
)
def test_messages_in_a_hidden_chat_are_unread(shop: Callable[..., Shop], body: str, hide: str) -> None:
    """A message that arrives while the open chat is not displayed counts as unread until it is displayed."""
    play = shop()
    page = play.show(body, attributes="open")
    opened(page)
    element(page, hide)
    play.write()
    expect(page.locator("eclipse-chat [role=status] p")).to_have_count(1)
    assert element(page, "return e.unread") == 1
    element(page, "e.hidden = false; e.parentNode.open = true; e.parentNode.style.display = ''")
    page.wait_for_function("document.querySelector('eclipse-chat').unread == 0")


def test_a_gap_in_the_history_costs_no_badge(shop: Callable[..., Shop], complaints: list[str]) -> None:
    """A history entry that is not a message is skipped; the others are shown, and count as unread."""
    play = shop()
    page = play.show()
    page.evaluate("localStorage['eclipse-chat:read:c'] = '1'")
    play.history += [message(1, "one"), None, message(2, "two")]
    page.reload()
    connected(page)
    expect(page.get_by_role("button", name="2 unread")).to_be_visible()


def test_a_message_dated_in_the_future_hides_no_later_ones(shop: Callable[..., Shop]) -> None:
    """A message whose date is wrong, years ahead, doesn't make everything after it read on the next page."""
    play = shop()
    wrong = {**message(2, "two"), "createdAt": "2099-01-01T00:00:00.000Z"}
    play.history += [message(1, "one"), wrong]
    page = play.show(attributes="open")
    expect(page.locator(BUBBLES)).to_have_count(2)
    page.wait_for_function("localStorage['eclipse-chat:read:c']")
    now = page.evaluate("new Date(Date.now() + 60_000).toISOString()")
    play.history.append({**message(3, "three"), "createdAt": now})
    play.show()
    expect(page.get_by_role("button", name="1 unread")).to_be_visible()
