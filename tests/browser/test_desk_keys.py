"""Keys on the agents' desk, the dialog that lists them, and the ready answers that a key opens."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.acts import Contexts, Open, Write
from tests.browser.desk import Listed, entry, listening
from tests.browser.stage import ServerProcess, connected


def test_next_and_previous(listed: tuple[Page, Listed]) -> None:
    """J and K go through the list, and end at its ends; with Alt the arrows do the same in the field."""
    page, _ = listed
    for key, name in (("j", "c2"), ("j", "c1"), ("j", "c0"), ("j", "c0"), ("k", "c1")):
        page.keyboard.press(key)
        expect(page.locator("#about")).to_have_text(f"Chat {name}")
        expect(entry(page, name)).to_be_focused()
    page.keyboard.press("r")
    field = page.get_by_role("textbox", name="Write an answer…").and_(page.locator(":focus"))
    expect(field).to_be_focused()
    page.keyboard.type("jka")
    expect(field).to_have_value("jka")
    page.keyboard.press("Alt+ArrowUp")
    expect(page.locator("#about")).to_have_text("Chat c2")
    page.keyboard.press("Alt+ArrowDown")
    expect(page.locator("#about")).to_have_text("Chat c1")


def test_assign_close_and_search(server: ServerProcess, desk: Open, write: Write, chat_id: str) -> None:
    """A assigns the open chat and releases it, E closes it, S goes to the search."""
    write(chat_id, "hello")
    page = desk(server.url)
    connected(page)
    listening(page)
    entry(page, chat_id).focus()
    for text in ("You", "Unassigned", "You"):
        page.keyboard.press("a")
        expect(entry(page, chat_id).locator(".who")).to_have_text(text)
    page.keyboard.press("e")
    expect(entry(page, chat_id)).to_be_hidden()
    page.keyboard.press("s")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.type("sek")
    expect(page.get_by_role("searchbox")).to_have_value("sek")


def test_the_dialog_of_keys(listed: tuple[Page, Listed]) -> None:
    """A question mark, or the button, lists the keys; in it single keys can be switched off, for good."""
    page, _ = listed
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keys")
    expect(dialog).to_be_visible()
    expect(dialog.get_by_text("Next chat", exact=True)).to_be_visible()
    page.keyboard.press("j")
    expect(page.locator("#blank")).to_be_visible()
    dialog.get_by_role("checkbox").uncheck()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    page.reload()
    expect(page.locator(".chat")).to_have_count(3)
    page.keyboard.press("j")
    page.keyboard.press("?")
    expect(dialog).to_be_hidden()
    expect(page.locator("#blank")).to_be_visible()
    page.keyboard.press("Alt+ArrowDown")
    expect(page.locator("#about")).to_have_text("Chat c2")
    page.get_by_role("button", name="Keys").click()
    dialog.get_by_role("button", name="Done").click()
    expect(page.get_by_role("button", name="Keys")).to_be_focused()


def test_a_slash_opens_the_ready_answers(server: ServerProcess, desk: Open) -> None:
    """A slash in the empty field opens all ready answers; words select, and Enter inserts without sending."""
    page = desk(server.url)
    connected(page)
    field = page.get_by_role("textbox", name="Write an answer…")
    field.press("/")
    find = page.get_by_role("combobox", name="Find a ready answer")
    expect(find).to_be_focused()
    options = page.get_by_role("listbox", name="Ready answers").get_by_role("option")
    expect(options).to_have_count(10)
    page.keyboard.type("thank night")
    expect(options).to_have_text(["Thank you for writing to us. Have a good night!"])
    page.keyboard.press("Enter")
    expect(find).to_be_hidden()
    expect(field).to_be_focused()
    expect(field).to_have_value("Thank you for writing to us. Have a good night!")
    expect(page.locator("eclipse-chat .bubble")).to_have_count(0)
    field.press("/")
    expect(field).to_have_value("Thank you for writing to us. Have a good night!/")


def test_ready_answers_by_arrows_and_by_pointer(server: ServerProcess, desk: Open) -> None:
    """Arrows move through the answers and around, a click takes one, Escape goes back to the field."""
    page = desk(server.url)
    connected(page)
    field = page.get_by_role("textbox", name="Write an answer…")
    find = page.get_by_role("combobox", name="Find a ready answer")
    options = page.get_by_role("listbox", name="Ready answers").get_by_role("option")
    field.press("/")
    page.keyboard.press("ArrowUp")
    expect(options.nth(9)).to_have_attribute("aria-selected", "true")
    expect(find).to_have_attribute("aria-activedescendant", "reply-9")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    expect(options.nth(1)).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Escape")
    expect(field).to_be_focused()
    expect(field).to_have_value("")
    page.get_by_role("button", name="All ready answers").click()
    options.nth(4).click()
    expect(field).to_have_value("Could you tell me your order number, please?")
    field.fill("")
    field.press("/")
    page.keyboard.press("/")
    expect(field).to_have_value("/")
    field.fill("")
    field.press("/")
    page.keyboard.type("no such answer")
    expect(page.get_by_text("No ready answer has these words.")).to_be_visible()
    page.locator("h1").click()
    expect(find).to_be_hidden()


@pytest.mark.parametrize("key", ["a", "e", "r", "/"])
def test_keys_without_a_chat_do_nothing(server: ServerProcess, context: Contexts, key: str) -> None:
    """Without an open chat, keys about one have no effect."""
    page = context().new_page()
    Listed(page, server, 1)
    page.goto(f"{server.url}/demo/agent")
    listening(page)
    page.keyboard.press(key)
    expect(page.locator("#blank")).to_be_visible()
    expect(page.locator("#reply-menu")).to_be_hidden()
