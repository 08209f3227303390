"""Drafts: each stays with its chat, and is only sent on purpose."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.browser.shop import CHAT, Shop, element
from tests.browser.stage import connected, drawn, open_panel, opened

SECRET_TEXT = "for c alone"


def test_a_text_is_never_sent_to_another_chat(shop: Callable[..., Shop]) -> None:
    """Enter right after the page has changed the chat doesn't send what was written for the first one."""
    page = shop().show(attributes="open")
    opened(page)
    page.locator("eclipse-chat .input").fill(SECRET_TEXT)
    pending = element(
        page,
        """e.chatId = "d";
        return new Promise((done) => setTimeout(() => {
            const input = e.shadowRoot.querySelector(".input");
            input.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
            done(e.chat.pending.map(({ content }) => content));
        }));""",
    )
    assert pending == []


def test_the_field_shows_what_was_typed_for_its_chat(shop: Callable[..., Shop]) -> None:
    """Each chat has its own text in the field, however often the page changes between them."""
    page = shop().show(attributes="open")
    opened(page)
    box = page.locator("eclipse-chat .input")
    box.fill("for c")
    element(page, "e.chatId = 'd'")
    expect(box).to_have_value("")
    box.fill("for d")
    for chat in "cdc":
        element(page, f"e.chatId = '{chat}'")
        expect(box).to_have_value(f"for {chat}")


def test_a_draft_that_is_set_with_its_chat_is_that_chats(shop: Callable[..., Shop]) -> None:
    """A page that sets another chat and a draft in one turn means a draft for the new chat."""
    page = shop().show(attributes="open")
    opened(page)
    element(page, "e.chatId = 'd'; e.draft = 'for d';")
    connected(page)
    assert element(page, "return e.draft") == "for d"
    assert page.evaluate("sessionStorage['eclipse-chat:draft:c']") is None


def test_a_draft_from_before_there_was_a_chat_is_the_first_ones(shop: Callable[..., Shop]) -> None:
    """A page that knows the text before the chat gets it into the first chat, where it survives a reload."""
    page = shop().show()
    page.evaluate("document.body.innerHTML = '<eclipse-chat token-url=/api/ws/token>'")
    element(page, "e.draft = 'a question'; e.chatId = 'd';")
    connected(page)
    assert element(page, "return e.draft") == "a question"
    assert page.evaluate("sessionStorage['eclipse-chat:draft:d']") == "a question"
    assert element(page, "e.chatId = 'c'; return e.draft;") == ""


def test_a_draft_read_with_another_chat_is_that_chats(shop: Callable[..., Shop]) -> None:
    """A page that sets another chat and reads the draft in the same turn gets nothing of the last chat."""
    play = shop()
    page = play.show()
    element(page, "e.draft = 'for c'")
    play.write("hello")
    page.wait_for_function("() => document.querySelector('eclipse-chat').unread == 1")
    assert element(page, "e.chatId = 'd'; return [e.unread, e.draft];") == [0, ""]
    assert element(page, "e.chatId = 'c'; return e.draft;") == "for c"


def test_the_draft_is_hidden_without_a_chat(shop: Callable[..., Shop], complaints: list[str]) -> None:
    """Once the page has removed the chat, its draft is neither shown nor continued."""
    page = shop().show(attributes="open")
    opened(page)
    box = page.locator("eclipse-chat .input")
    box.fill(SECRET_TEXT)
    with page.expect_console_message():
        element(page, "e.removeAttribute('chat-id')")
    expect(box).to_have_value("")
    complaints.clear()


@pytest.mark.parametrize("attribute", ["chat-id=''", "token-url='http://['"])
def test_opening_it_without_a_chat_shows_a_notice(
    shop: Callable[..., Shop], complaints: list[str], attribute: str
) -> None:
    """If the page's attributes name no chat, a notice says that it isn't available; Enter does nothing."""
    page = shop().show()
    page.evaluate(
        "(html) => { document.body.innerHTML = html }",
        f"<eclipse-chat {attribute} token-url='/api' chat-id='c'>",
    )
    open_panel(page)
    expect(page.locator("eclipse-chat .notice")).to_have_text("The chat isn’t available right now.")
    complaints.clear()


def test_a_held_enter_sends_nothing(shop: Callable[..., Shop]) -> None:
    """Enter that opens the panel, and is held down, doesn't send the draft that is in the field."""
    page = shop().show()
    element(page, "e.draft = 'half a sentence'")
    open_panel(page)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Open the chat").focus()
    for _ in range(3):
        page.keyboard.down("Enter")
    assert element(page, "return e.draft") == "half a sentence"


@pytest.mark.parametrize("field", ["<input>", "<textarea></textarea>", "<div contenteditable>x</div>"])
def test_a_page_that_opens_it_leaves_the_focus_in_a_field(shop: Callable[..., Shop], field: str) -> None:
    """A person writing in the page keeps the focus when the page, and not the person, opens the panel."""
    page = shop().show(field + CHAT)
    page.locator("input, textarea, [contenteditable]").first.focus()
    page.keyboard.type("4111")
    element(page, "e.show()")
    opened(page)
    page.wait_for_function("document.querySelector('eclipse-chat').isOpen")
    page.keyboard.type("1111")
    assert element(page, "return e.draft") == ""


@pytest.mark.parametrize("draft", [5, True, {"a": 1}])
def test_a_draft_of_any_type_is_text(shop: Callable[..., Shop], draft: object) -> None:
    """A framework that sets a draft other than text breaks nothing."""
    page = shop().show()
    page.locator("eclipse-chat").evaluate("(e, draft) => { e.draft = draft }", draft)
    assert isinstance(element(page, "return e.draft"), str)


def test_only_a_full_outbox_is_called_full(shop: Callable[..., Shop]) -> None:
    """If the client refuses a text for another reason, waiting messages are not named as the cause."""
    page = shop().show(attributes="open")
    opened(page)
    element(page, "e.draft = '\\0'")
    page.locator("eclipse-chat .input").press("Enter")
    drawn(page)
    expect(page.locator("eclipse-chat .notice")).to_be_hidden(timeout=1)
