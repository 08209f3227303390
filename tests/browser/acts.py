"""Stand-ins for one page: a server that says what a test wants, and a history."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta

from playwright.sync_api import BrowserContext, Page, WebSocketRoute

from tests.browser.stage import ServerProcess

Open = Callable[..., Page]
Contexts = Callable[..., BrowserContext]
Write = Callable[..., None]


def play_server(
    page: Page, on_message: Callable[[WebSocketRoute, dict[str, str]], None], **greeting: str
) -> list[WebSocketRoute]:
    """Stand in for the server on this page: greet, then hand every command to ``on_message``.

    Answers the page's sockets, the latest one last; more are added as it connects.
    """
    sockets: list[WebSocketRoute] = []

    def connect(socket: WebSocketRoute) -> None:
        sockets.append(socket)
        socket.on_message(lambda text: on_message(socket, json.loads(text)))
        socket.send(json.dumps({"type": "connected", "chatId": "c", **greeting}))

    page.route_web_socket(re.compile("/ws"), connect)
    return sockets


def give_token(page: Page, server: ServerProcess, user: str = "me") -> None:
    """Let the application answer a token of this user."""
    grant = {"token": "t", "wsUrl": server.url + "/ws", "userId": user, "chatId": "c"}
    page.route("**/api/ws/token*", lambda route: route.fulfill(json=grant))


def message(number: int, content: str, role: str = "agent", **sender: str | None) -> dict[str, object]:
    """A message as the application answers it."""
    return {
        "id": f"m{number:06}",
        "content": content,
        "role": role,
        "createdAt": f"{datetime(2026, 1, 1) + timedelta(minutes=number):%Y-%m-%dT%H:%M:%S}.000Z",
        "sender": {"id": "a", "name": "Ada", "email": None, "avatar": None, **sender},
    }


def give_history(page: Page, messages: list[dict[str, object]]) -> None:
    """Let the application answer this history."""
    page.route("**/api/chats/*/messages*", lambda route: route.fulfill(json={"messages": messages}))


def hear(page: Page, kind: str, **data: object) -> None:
    """Let the widget get an event."""
    page.locator("eclipse-chat").evaluate(
        "(element, [kind, data]) => element.chat.dispatchEvent(new CustomEvent(kind, { detail: { data } }))",
        [kind, data],
    )


def active(page: Page) -> str:
    """What has the focus: the name of an element of the page, or a part of the widget with a dot in front."""
    name: str = page.evaluate("""() => {
        const { activeElement } = document;
        const inner = activeElement.shadowRoot?.activeElement;
        return inner ? "." + inner.className : activeElement.localName;
    }""")
    return name


def violations(page: Page, axe: str, part: str = "html") -> list[str]:
    """What axe-core, whose source is given, has to say about what a selector names."""
    page.evaluate(axe)
    found = page.evaluate("async (part) => (await axe.run(part)).violations", part)
    return [f"{v['id']}: {v['help']} ({[n['target'] for n in v['nodes']]})" for v in found]
