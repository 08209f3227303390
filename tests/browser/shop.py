"""Somebody's page with a widget on it, and a stand-in for the server that a test speaks through."""

from __future__ import annotations

import json
from typing import Any

from playwright.sync_api import Page, WebSocketRoute

from tests.browser.acts import give_history, give_token, play_server
from tests.browser.stage import ServerProcess, connected

CHAT = '<eclipse-chat token-url="/api/ws/token" chat-id="c" {attributes}></eclipse-chat>'
INLINE = f'<div id="tab" style="height: 400px; width: 400px">{CHAT}</div>'.replace("{attributes}", "inline")
BUBBLES = "eclipse-chat .bubble"


class Shop:
    """Somebody's page, and a server that confirms what is sent and otherwise sends what a test wants."""

    def __init__(self, server: ServerProcess, page: Page) -> None:
        self.page = page
        self.sent: list[dict[str, str]] = []
        self.history: list[Any] = []
        self._url = server.url
        self._sockets = play_server(page, self._hear, sessionId="s")
        give_token(page, server)
        give_history(page, self.history)

    def show(
        self,
        body: str = CHAT,
        attributes: str = "",
        head: str = "",
        script: str = "",
        is_hidden: bool = False,
    ) -> Page:
        """Open the page, and wait until its widgets are connected, unless they are in a closed shadow."""
        html = (
            f'<!doctype html><html lang="en"><title>Shop</title><script>{script}</script>{head}'
            f'<script type="module" src="/widget.js"></script><body>'
            + body.replace("{attributes}", attributes)
        )
        self.page.route("**/shop", lambda route: route.fulfill(content_type="text/html", body=html))
        self.page.goto(f"{self._url}/shop")
        if not is_hidden:
            connected(self.page)
        return self.page

    def tell(self, kind: str, timestamp: str = "2026-02-01T10:00:00.000Z", **data: object) -> None:
        """Send the page an event."""
        event = {"type": kind, "data": {"timestamp": timestamp, **data}, "timestamp": timestamp}
        self._sockets[-1].send(json.dumps(event))

    def write(self, content: str = "hello", key: str = "m1", **more: object) -> None:
        """Let an agent write."""
        sender = {"id": "a", "name": "Ada", "email": None, "avatar": None}
        data: dict[str, Any] = {"id": key, "content": content, "role": "AGENT", "sender": sender, **more}
        self.tell("message", **data)

    @property
    def messages(self) -> list[str]:
        """What the page has sent."""
        return [command["content"] for command in self.sent if command["type"] == "message"]

    def _hear(self, socket: WebSocketRoute, command: dict[str, str]) -> None:
        if command["type"] == "ping":
            socket.send(json.dumps({"type": "pong"}))
        self.sent.append(command)
        if command["type"] == "message":
            ack = {"type": "ack", "clientMessageId": command["clientMessageId"], "id": command["content"]}
            socket.send(json.dumps(ack))


def element(page: Page, script: str) -> Any:
    """Do something with the widget, `e`."""
    return page.evaluate(f"() => {{ const e = document.querySelector('eclipse-chat'); {script} }}")
