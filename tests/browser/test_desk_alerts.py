"""How the agents' desk calls for attention: sounds, notifications, and what deserves them."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.acts import Contexts
from tests.browser.desk import Listed, entry, listening
from tests.browser.stage import ServerProcess

# Chromium without a window plays to nobody; what counts is which tones the page asks for.
HEAR = """
    window.tones = [];
    const start = OscillatorNode.prototype.start;
    OscillatorNode.prototype.start = function (at) {
        window.tones.push(this.frequency.value);
        return start.call(this, at);
    };
"""
NOTIFY = """
    window.notes = [];
    window.asked = 0;
    window.Notification = class {
        static permission = "default";
        static async requestPermission() { window.asked++; return (this.permission = "granted"); }
        constructor(title, options) { Object.assign(this, options, { title }); window.notes.push(this); }
        close() {}
    };
"""
HIDDEN = """(is) => {
    Object.defineProperty(document, "hidden", { value: is, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""


@pytest.fixture
def alerted(server: ServerProcess, context: Contexts) -> tuple[Page, Listed]:
    """A desk with three chats on which somebody has pressed something, and that is listened to."""
    page = context().new_page()
    page.add_init_script(HEAR + NOTIFY)
    chats = Listed(page, server, 3)
    page.goto(f"{server.url}/demo/agent")
    listening(page)
    page.locator("h1").click()
    page.evaluate("() => new Promise((done) => setTimeout(done, 50))")
    return page, chats


def heard(page: Page, count: int) -> list[Any]:
    """The tones, once there are as many."""
    page.wait_for_function("count => window.tones.length >= count", arg=count)
    tones: list[Any] = page.evaluate("tones.splice(0)")
    return [round(tone) for tone in tones]


def test_new_chats_and_messages_sound(alerted: tuple[Page, Listed]) -> None:
    """A new chat has two tones, a new message one; one of a colleague's chat, or of an agent, has none."""
    page, chats = alerted
    chats.tell("new", "chat_opened")
    assert heard(page, 2) == [659, 880]
    page.evaluate("() => new Promise((done) => setTimeout(done, 1_600))")  # apart from the last sound
    answer = {"id": "m", "content": "hello", "role": "ASSISTANT"}
    chats.tell("c0", lastMessage=answer)
    chats.tell("c1", "chat_assigned", assignee="agent_2")
    chats.tell("c1", received=8)
    chats.tell("c2", received=7)
    assert heard(page, 1) == [740]


def test_the_chat_that_is_open_does_not_sound(alerted: tuple[Page, Listed]) -> None:
    """A message that the agent sees makes no sound; while the page is hidden it does."""
    page, chats = alerted
    entry(page, "c0").click()
    chats.tell("c0", received=5)
    expect(entry(page, "c0")).to_contain_text("text 4")
    assert page.evaluate("window.tones") == []
    page.evaluate(HIDDEN, True)
    chats.tell("c0", received=6)
    assert heard(page, 1) == [740]


def test_sounds_can_be_switched_off(alerted: tuple[Page, Listed]) -> None:
    """The button says whether there are sounds, and the choice survives a reload."""
    page, chats = alerted
    button = page.get_by_role("button", name="Sounds")
    expect(button).to_have_attribute("aria-pressed", "true")
    button.click()
    page.reload()
    listening(page)
    expect(button).to_have_attribute("aria-pressed", "false")
    page.locator("h1").click()
    chats.tell("c0", received=5)
    expect(entry(page, "c0").get_by_role("img", name="5 unread")).to_be_visible()
    assert page.evaluate("window.tones") == []
    button.click()
    assert heard(page, 1) == [740]


def test_nothing_sounds_before_somebody_does_something(server: ServerProcess, context: Contexts) -> None:
    """Browsers don't permit it; the desk doesn't try, and logs no warning."""
    page = context().new_page()
    page.add_init_script(HEAR)
    chats = Listed(page, server, 1)
    page.goto(f"{server.url}/demo/agent")
    listening(page)
    chats.tell("new", "chat_opened")
    expect(entry(page, "new")).to_be_visible()
    assert page.evaluate("window.tones") == []


def test_notifications(alerted: tuple[Page, Listed]) -> None:
    """Permission is asked for on a button; then a hidden desk notifies, and a notification opens its chat."""
    page, chats = alerted
    button = page.get_by_role("button", name="Notify me")
    assert page.evaluate("window.asked") == 0
    button.click()
    expect(button).to_be_hidden()
    chats.tell("c0", received=5)
    expect(entry(page, "c0").get_by_role("img", name="5 unread")).to_be_visible()
    assert page.evaluate("window.notes") == []
    page.evaluate(HIDDEN, True)
    chats.tell("c0", received=6)
    chats.tell("visitor-new", "chat_opened")
    page.wait_for_function("() => window.notes.length == 2")
    assert page.evaluate("notes.map(({title, body, tag}) => [title, body, tag])") == [
        ["Visitor c0", "text 5", "desk:c0"],
        ["New chat: Visitor new", "text 6", "desk:visitor-new"],
    ]
    page.evaluate("notes[1].onclick()")
    expect(page.locator("#who")).to_have_text("Visitor new")
