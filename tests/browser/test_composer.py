"""The field: text that is too long, and text that is put back into it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, WebSocketRoute, expect

from tests.browser.acts import Contexts, give_history, play_server
from tests.browser.stage import ServerProcess, connected, open_panel, say

LIMIT = 100_000


def opened(server: ServerProcess, context: Contexts) -> tuple[Page, Locator, list[dict[str, str]]]:
    """An open, empty chat: its page, its field, and what is sent, which nobody answers."""
    page = context().new_page()
    sent: list[dict[str, str]] = []
    play_server(page, lambda socket, command: sent.append(command), sessionId="s")
    give_history(page, [])
    page.goto(f"{server.url}/demo?chat=field")
    box = open_panel(page)
    connected(page)
    return page, box, sent


@pytest.mark.parametrize("letter", ["x", "😀"], ids=["a letter", "a pair of surrogates"])
def test_a_text_that_is_too_long_is_not_truncated(
    server: ServerProcess, context: Contexts, letter: str
) -> None:
    """It stays whole, with its draft, and is not sent; the widget says by how much it is too long."""
    page, box, _ = opened(server, context)
    box.evaluate(
        """(box, [letter, count]) => {
            box.value = letter.repeat(count);
            box.dispatchEvent(new InputEvent("input"));
        }""",
        [letter, LIMIT + 1200],
    )
    told = page.get_by_text("1,200 characters too many")
    expect(told).to_be_visible()
    box.press("Enter")
    expect(told).to_be_visible()
    assert page.locator("eclipse-chat").evaluate("element => element.chat.pending.length") == 0
    page.reload()
    box = open_panel(page)
    expect(told).to_be_visible()
    assert box.evaluate("box => [...box.value].length") == LIMIT + 1200
    box.fill("short")
    expect(told).to_be_hidden()
    box.press("Enter")
    expect(box).to_have_value("")


def test_text_of_more_than_one_frame_is_kept_as_it_is(server: ServerProcess, context: Contexts) -> None:
    """What was pasted is sent as it is, up to the server's limit."""
    page, box, sent = opened(server, context)
    box.evaluate("(box, text) => { box.value = text; }", "x" * LIMIT)
    box.press("Enter")
    page.wait_for_function(
        "() => document.querySelector('eclipse-chat').chat.pending[0]?.status == 'sending'"
    )
    expect(page.locator("eclipse-chat .bubble")).to_have_count(1)
    assert [len(command["content"]) for command in sent if command["type"] == "message"] == [LIMIT]


@pytest.mark.parametrize(
    ("written", "then"), [("", "refused"), ("something else", "refused\nsomething else")]
)
def test_a_failed_message_is_edited(
    server: ServerProcess, context: Contexts, written: str, then: str
) -> None:
    """Its text goes back into the field, above what is being written, and the message is gone."""
    page = context().new_page()

    def refuse(socket: WebSocketRoute, command: dict[str, Any]) -> None:
        if command["type"] == "message":
            error = {"type": "error", "error": "No", "code": "content_too_long", "retryable": False}
            socket.send(json.dumps({**error, "clientMessageId": command["clientMessageId"]}))

    play_server(page, refuse, sessionId="s")
    give_history(page, [])
    page.goto(f"{server.url}/demo?chat=edit")
    box = open_panel(page)
    connected(page)
    say(box, "refused")
    failed = page.locator("eclipse-chat .bad [data-id]").first
    expect(failed).to_be_visible()
    box.fill(written)
    failed.evaluate("button => { button.dataset.does = 'edit'; button.click(); }")
    expect(box).to_have_value(then)
    expect(box).to_be_focused()
    expect(page.locator("eclipse-chat .bubble")).to_have_count(0)
    page.reload()
    expect(open_panel(page)).to_have_value(then)
