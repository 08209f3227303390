"""Every state of the widget, as a table: what the server and the application answer, and what a person does.

No server runs here: ``show`` answers each request of a page of its own, so that a state is there at once and
always the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Page, Route, WebSocketRoute, expect

from tests.browser.stage import ROOT, drawn

ORIGIN = "http://shop.test"
STATIC = ROOT / "eclipse_ws" / "static"
POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self' ws://chat.test; base-uri 'none'; "
    "form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
NOW = datetime.now(UTC).replace(microsecond=0)


def message(number: int, content: str, name: str | None = "Ada Okafor", **changes: Any) -> dict[str, Any]:
    """A message of the history, ``number`` minutes after the first; without a name it is the person's own."""
    at = NOW - timedelta(days=1, minutes=60 - number)
    return {
        "id": f"m{number:04}",
        "content": content,
        "role": "agent" if name else "user",
        "createdAt": at.isoformat().replace("+00:00", ".000Z"),
        "sender": {"id": name or "me", "name": name, "email": None, "avatar": None},
        **changes,
    }


def event(kind: str, **data: Any) -> dict[str, Any]:
    """An event, as the server sends it."""
    return {"type": kind, "timestamp": NOW.isoformat().replace("+00:00", ".000Z"), "data": data}


def live(original: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A message of the history as the ``data`` of an event."""
    return {**original, "timestamp": original["createdAt"], **changes}


@dataclass(frozen=True)
class State:
    """One state: what is answered, what is done, and what then can be seen."""

    # Selectors that are visible once the state is there.
    shows: Sequence[str]
    history: Sequence[dict[str, Any]] | int = ()  # or the status of a refusal
    events: Sequence[dict[str, Any]] = ()  # sent after the greeting
    later: Sequence[dict[str, Any]] = ()  # sent once the panel is there
    says: Sequence[str] = ()  # typed and sent by the person
    # What the server answers to these messages: an error's code, or "" for an `ack`.
    answers: Mapping[str, str] = field(default_factory=dict)
    ending: int = 0  # a close code, sent after the greeting
    token: int = 200  # the status of the token's answer
    attributes: Mapping[str, str] = field(default_factory=dict)
    lang: str = "en"
    is_open: bool = True
    is_offline: bool = False
    is_slow: bool = False  # it comes after some seconds: the page's clock skips them


QUESTION = message(1, "Hello! Does the Corona fit a metal headboard?", None)
ANSWER = message(
    2,
    "Good evening! Yes, its clamp takes up to 45 mm.\nThe measurements are at www.example.com/corona, "
    "or write to lamps@example.com.",
)
TALK = [
    QUESTION,
    ANSWER,
    message(3, "Anything else?"),
    message(20, "Wonderful, I'll take two.", None),
    message(21, "👍", None),
    message(40, "I have put them aside for you.", "Ben Carter"),
]
LONG = [
    message(1, "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft" * 2),
    message(2, 'def lamp(name: str) -> None:\n    """Switch it on."""\n    print(f"{name:>10} on")'),
    message(3, "https://example.com/" + "a-path-without-a-place-to-break" * 4, None),
    message(4, "👩‍👩‍👧‍👦🏳️‍🌈"),
    message(5, "مرحبا! هل تناسب المصابيح سريرًا معدنيًا؟", None),
]
FAILURES = {
    "Can I pay later?": "api_rejected",
    "All of my letters": "content_too_long",
    "Two?": "outcome_unknown",
}

ME = {"userId": "me", "role": "user", "since": NOW.isoformat()}
ADA = {"userId": "Ada Okafor", "role": "agent", "since": NOW.isoformat()}
BEN = {"userId": "7", "role": "agent", "since": NOW.isoformat()}

STATES: dict[str, State] = {
    "empty": State([".empty"]),
    "conversation": State([".bubble", ".day", ".face"], TALK),
    "long-words": State([".bubble"], LONG),
    "joined": State(
        [".joined", ".face"],
        events=[event("agent_joined", agentId="a", agentName="Ada Okafor", timestamp=None)],
    ),
    "typing": State([".typing"], TALK[:2], [event("typing", userId="Ada Okafor", isTyping=True)]),
    "seen": State(
        [".meta:text('Seen')", ".presence[data-kind=here]"],
        TALK,
        [
            event("presence", users=[ME, ADA], count=2),
            event("read", positions=[{"userId": "Ada Okafor", "role": "agent", "messageId": "m0020"}]),
        ],
    ),
    "presence": State(
        [".presence[data-kind=here]"], TALK[:2], [event("presence", users=[ME, ADA, BEN], count=3)]
    ),
    "away": State(
        [".presence[data-kind=away]"],
        TALK[:2],
        [event("presence", users=[ME, ADA], count=2)],
        later=[event("presence", **ADA, online=False)],
    ),
    "sending": State([".meta :text('Sending')"], TALK[:2], says=["Is it in stock?"]),
    "sent": State(
        [".meta :text('Sent')"], TALK[:2], says=["Is it in stock?"], answers={"Is it in stock?": ""}
    ),
    "failed": State(
        [".bad [data-does=retry]", ".bad [data-does=discard]"],
        TALK[:2],
        says=list(FAILURES),
        answers=FAILURES,
    ),
    "edited-and-deleted": State(
        [".bubble"],
        TALK[:4],
        [
            event("message_updated", **live(ANSWER, content="Yes, up to 50 mm.", updatedAt=NOW.isoformat())),
            event("message_deleted", id="m0003", deletedAt=NOW.isoformat()),
        ],
    ),
    "offline": State([".notice"], TALK, is_offline=True, is_slow=True),
    "history-failed": State([".notice"], 500, is_slow=True),
    "ended": State([".notice"], TALK, ending=4003),
    "unread": State([".badge"], events=[event("message", **live(TALK[-1]))], is_open=False),
    "closed": State([".launch"], is_open=False),
    "inline": State([".bubble"], TALK, attributes={"inline": ""}),
}


def show(page: Page, state: State) -> list[WebSocketRoute]:
    """Bring a page into a state, and wait until it is there. What the page routes itself is left to it.

    Answers its sockets, the latest one last.
    """
    page.context.route(f"{ORIGIN}/**", lambda route: _answer(route, state))
    sockets: list[WebSocketRoute] = []
    page.route_web_socket("ws://chat.test/ws**", lambda socket: _serve(socket, state, sockets))
    if state.is_slow:
        page.clock.install()
    page.goto(f"{ORIGIN}/")
    chat = page.locator("eclipse-chat")
    if state.token == 200 and not state.ending:
        expect(chat).to_have_attribute("state", "open")
    if state.is_open and "inline" not in state.attributes:
        page.locator("eclipse-chat .launch").click()
    if state.later:
        expect(page.locator("eclipse-chat [part=log]")).to_be_visible()
        drawn(page)
    for item in state.later:
        sockets[-1].send(json.dumps(item))
    for text in state.says:
        box = page.locator("eclipse-chat textarea")
        box.fill(text)
        box.press("Enter")
    if state.is_offline:
        page.context.set_offline(True)
        page.route("**/api/**", lambda route: route.abort("internetdisconnected"))
        sockets[-1].close(code=1012, reason="A stand-in for a connection that broke")
    for selector in state.shows:
        shown = page.locator(f"eclipse-chat {selector}").first
        for _ in range(60 if state.is_slow else 0):
            if shown.is_visible():
                break
            page.clock.run_for(500)
        expect(shown).to_be_visible()
    return sockets


def _answer(route: Route, state: State) -> None:
    path = urlsplit(route.request.url).path
    if path == "/":
        attributes = {"token-url": "/api/ws/token", "chat-id": "c", **state.attributes}
        tag = " ".join(f"{name}='{value}'" for name, value in attributes.items())
        body = (
            f"<!doctype html><html lang='{state.lang}'><meta name='viewport' content='width=device-width'>"
            "<title>Shop</title><script type='module' src='/widget.js'></script>"
            f"<main><h1>Lamps</h1><div><eclipse-chat {tag}></eclipse-chat></div></main>"
        )
        route.fulfill(body=body, content_type="text/html", headers={"Content-Security-Policy": POLICY})
    elif path == "/api/ws/token":
        token = {"token": "t", "wsUrl": "ws://chat.test/ws", "userId": "me", "chatId": "c"}
        route.fulfill(json=token, status=state.token)
    elif path.startswith("/api/"):
        if isinstance(state.history, int):
            route.fulfill(status=state.history, body="No")
        else:
            route.fulfill(json={"messages": state.history})
    else:
        file = STATIC / path.removeprefix("/")
        if file.is_file():
            route.fulfill(path=file)
        else:
            route.fulfill(status=404)


def _serve(socket: WebSocketRoute, state: State, sockets: list[WebSocketRoute]) -> None:
    sockets.append(socket)

    def heard(text: str | bytes) -> None:
        command = json.loads(text)
        if command["type"] == "ping":
            socket.send(json.dumps({"type": "pong"}))
        code = state.answers.get(command.get("content", ""))
        if command["type"] != "message" or code is None:
            return
        key = {"clientMessageId": command["clientMessageId"]}
        if code:
            socket.send(json.dumps({"type": "error", "error": "No", "code": code, "retryable": False, **key}))
        else:
            socket.send(json.dumps({"type": "ack", "id": "m9000", "delivery": "published", **key}))

    socket.on_message(heard)
    socket.send(json.dumps({"type": "connected", "chatId": "c", "sessionId": "s"}))
    for item in state.events:
        socket.send(json.dumps(item))
    if state.ending:
        socket.close(code=state.ending, reason="This chat has been closed")
