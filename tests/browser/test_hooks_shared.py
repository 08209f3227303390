"""The hook with several chats over one connection, on a page in StrictMode."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, WebSocketRoute, expect

from tests.browser.acts import give_token, play_server
from tests.browser.stage import ServerProcess
from tests.browser.test_frameworks import Framed, event, framed, is_open, pages

__all__ = ["framed", "pages"]

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("react", ["shared18", "shared19"])
def test_chats_share_a_connection(
    server: ServerProcess, framed: Callable[..., Framed], chat_id: str, react: str
) -> None:
    """Each chat has its own state, one shown twice is joined once, and all follow a new connection."""
    commands: list[tuple[str, ...]] = []
    made_by_page: list[list[WebSocketRoute]] = []

    def answer(socket: WebSocketRoute, command: dict[str, Any]) -> None:
        chats = [chat["chatId"] for chat in command.get("chats", ())]
        commands.append((command["type"], *chats, command.get("messageId", "")))
        for chat in chats:
            if command["type"] == "leave":
                socket.send(json.dumps({"type": "left", "chatId": chat}))
                continue
            socket.send(json.dumps({"type": "joined", "chatId": chat, "cursor": "e.1"}))
            user = {"userId": f"ada-{chat}", "role": "agent", "since": "2026-01-01T00:00:00.000Z"}
            position = {"userId": "ada", "role": "agent", "messageId": "m7"}
            said = {"id": "m1", "content": f"in {chat}", "role": "agent"}
            named = {"chatId": chat, "timestamp": "2026-01-01T00:00:00.000Z"}
            for kind, data in [
                ("message", {**said, "timestamp": "2026-01-01T00:00:00.000Z", "sender": None}),
                ("presence", {"users": [user], "count": 1}),
                ("read", {"positions": [position]}),
            ]:
                socket.send(json.dumps({**json.loads(event(kind, **data)), **named}))

    def prepare(page: Page) -> None:
        give_token(page, server)
        made_by_page.append(play_server(page, answer, sessionId="s"))

    made = framed(server.url, react, prepare=prepare)
    is_open(made)
    items = made.page.locator("li")
    row_a, row_b = "a: in a (ada-a; 1; m7)", f"{chat_id}: in {chat_id} (ada-{chat_id}; 1; m7)"
    expect(items).to_have_text([row_a, row_a, row_b])
    (sockets,) = made_by_page
    assert len(sockets) == 1
    assert commands == [("join", "a", chat_id, "")]
    made.page.evaluate("read('m1')")
    made.change(chatId="b")
    expect(items).to_have_text([row_a, row_a, "b: in b (ada-b; 1; m7)"])
    assert commands[1:] == [("read", "m1"), ("join", "b", ""), ("leave", chat_id, "")]
    made.change(texts={"title": "another"})
    expect(items.first).not_to_have_attribute("data-state", "closed")
    expect(items).to_have_text([row_a, row_a, "b: in b (ada-b; 1; m7)"])
    assert len(sockets) == 2
    assert commands[4:] == [("join", "a", "b", "")]
    made.change(shown=False)
    expect(items.first).to_have_attribute("data-state", "connecting")
    expect(made.page.locator("output")).to_have_text("closed")
