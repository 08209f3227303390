"""The widget by itself: hostile content, strange pages, the keyboard, failures, and the old server."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import WebSocketRoute, expect

from tests.browser.acts import Contexts, Open, give_history, give_token, message, play_server
from tests.browser.stage import ROOT, ServerProcess, connected, open_panel, saved, say, shown, site

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script><style>*{display:none}</style>",
    "javascript:alert(1) [x](javascript:alert(1)) data:text/html,<b>",
    'https://example.com/"onmouseover="alert(1)',
    "{{constructor.constructor('alert(1)')()}} ${alert(1)} &lt;b&gt;",
    "\u202egnp.exe \u2066\u0007 \ufeff\u200b end",
    "مرحبا https://example.com/א?b=1 שלום 👩‍👩‍👧‍👦🏳️‍🌈",
    "a" * 16000,
    "\n\n\nlines\n\n",
]


def test_markup_in_content_and_names_is_only_text(server: ServerProcess, customer: Open, desk: Open) -> None:
    """Markup, scripts, bidi controls and 16 KB of one letter show as what they are, on either side."""
    page, agent = customer(server.url), desk(server.url)
    for tab in (page, agent):
        tab.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    box = open_panel(page)
    for text in HOSTILE:
        say(box, text)
    expect(agent.locator("eclipse-chat .bubble")).to_have_count(len(HOSTILE), timeout=15_000)
    assert shown(agent) == shown(page)
    assert [text.strip() for text in shown(agent)] == [text.strip() for text in HOSTILE]
    for tab in (page, agent):
        made = tab.locator("eclipse-chat ol :is(img, script, style, iframe, b, [onmouseover])")
        expect(made).to_have_count(0)
        links = tab.locator("eclipse-chat .bubble a").evaluate_all("all => all.map((a) => [a.href, a.rel])")
        assert [href for href, _ in links] == ["https://example.com/", "https://example.com/%D7%90?b=1"]
        assert all("noopener" in rel and "noreferrer" in rel for _, rel in links)
    # Nothing is wider than the panel, whatever it holds.
    overflow = "log => log.scrollWidth - log.clientWidth"
    assert page.locator("eclipse-chat .log").evaluate(overflow) <= 0


def test_hostile_names_are_only_text(server: ServerProcess, customer: Open) -> None:
    """Names are shown as text, and a missing sender, name or role breaks nothing."""
    page = customer("about:blank#")
    page.goto("about:blank")
    give_history(
        page,
        [
            message(1, "one", name="<b onclick=alert(1)>\u202eevil</b>"),
            message(2, "two", name=None, email="ada@example.com"),
            {"id": "x", "content": "three", "role": None, "createdAt": "no date", "sender": None},
            {"id": "y", "content": 7},
            {"content": "no id"},
        ],
    )
    page.goto(f"{server.url}/demo?chat=names")
    open_panel(page)
    assert shown(page) == ["one", "two", "three"]
    expect(page.locator("eclipse-chat .who").first).to_have_text("<b onclick=alert(1)>\u202eevil</b>")
    expect(page.get_by_text("ada@example.com")).to_be_visible()


def test_the_readmes_four_lines(server: ServerProcess, context: Contexts) -> None:
    """The README's page, copied as it is and served from elsewhere, is one that chats with `make run`."""
    found = re.search(r"```html\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert found
    lines = found[1].replace("http://127.0.0.1:8080", server.url)
    assert len(lines.splitlines()) == 4
    with site(lines, "default-src *", server.url) as url:
        page = context().new_page()
        page.goto(url)
        say(open_panel(page), "hello from my own page")
        expect(page.get_by_text(re.compile("· Sent$"))).to_be_visible()


def test_four_lines_on_a_strangers_page(server: ServerProcess, context: Contexts) -> None:
    """The widget works on another site, under a policy that allows next to nothing."""
    policy = (
        f"default-src 'none'; script-src {server.url}; base-uri 'none'; form-action 'none'; "
        f"connect-src 'self' ws://127.0.0.1:{server.port}; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
    body = (
        f'<!doctype html><title>Shop</title>\n<script type="module" src="{server.url}/widget.js"></script>\n'
        '<eclipse-chat token-url="/api/ws/token" chat-id="stranger"></eclipse-chat>'
    )
    with site(body, policy, server.url) as url:
        page = context().new_page()
        page.goto(url)
        box = open_panel(page)
        connected(page)
        say(box, "hello from a stranger")
        expect(page.get_by_text(re.compile("· Sent$"))).to_be_visible()
        assert shown(page) == ["hello from a stranger"]


def test_keyboard_and_focus(server: ServerProcess, customer: Open, desk: Open) -> None:
    """Enter opens, the field gets the focus and keeps it, Escape gives it back; Shift+Enter is a line."""
    page = customer(server.url)
    launcher = page.get_by_role("button", name="Open the chat")
    launcher.focus()
    page.keyboard.press("Enter")
    box = page.get_by_role("textbox", name="Write a message…")
    expect(box).to_be_focused()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    expect(page.locator("eclipse-chat .bubble")).to_have_text("one\ntwo")
    expect(box).to_be_focused()
    say(desk(server.url).get_by_role("textbox"), "hello")
    expect(page.get_by_text("hello", exact=True)).to_be_visible()
    expect(box).to_be_focused()
    expect(page.get_by_role("status").filter(has_text="Ada Okafor: hello")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(launcher).to_be_focused()
    expect(box).to_be_hidden()


def test_unread_messages_show_on_the_bubble_and_in_the_title(
    server: ServerProcess, customer: Open, desk: Open
) -> None:
    """With the panel closed, messages are counted on the bubble, for screen readers and in the title."""
    page, agent = customer(server.url), desk(server.url)
    connected(page)
    title = page.title()
    say(agent.get_by_role("textbox"), "one", "two")
    expect(page.get_by_role("button", name="Open the chat, 2 unread")).to_be_visible()
    expect(page.locator("eclipse-chat .badge")).to_have_text("2")
    expect(page).to_have_title(f"(2) {title}")
    open_panel(page)
    expect(page).to_have_title(title)
    page.get_by_role("button", name="Close the chat").click()
    expect(page.get_by_role("button", name="Open the chat", exact=True)).to_be_focused()
    expect(page.locator("eclipse-chat .badge")).to_be_hidden()


def test_a_failed_message_is_sent_again(server: ServerProcess, context: Contexts) -> None:
    """A refused message stays, says so, and goes out again with its button."""
    page = context().new_page()
    refused: list[str] = []

    def answer(socket: WebSocketRoute, command: dict[str, str]) -> None:
        if command["type"] != "message":
            return
        key = command["clientMessageId"]
        if not refused:
            refused.append(key)
            error = {"type": "error", "error": "No", "code": "api_rejected", "retryable": False}
            socket.send(json.dumps({**error, "clientMessageId": key}))
        else:
            assert key in refused
            socket.send(json.dumps({"type": "ack", "clientMessageId": key, "id": "m1", "delivery": "local"}))

    play_server(page, answer, sessionId="s")
    page.goto(f"{server.url}/demo?chat=refused")
    box = open_panel(page)
    say(box, "please")
    expect(page.locator("eclipse-chat .bad")).to_contain_text("Not sent.")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("eclipse-chat .meta")).to_have_text(re.compile("Sent$"))
    expect(box).to_be_focused()
    assert shown(page) == ["please"]


def test_a_failed_message_can_be_given_up(server: ServerProcess, context: Contexts) -> None:
    """What was refused can be deleted; what is too long is not offered to be sent once more."""
    page = context().new_page()

    def answer(socket: WebSocketRoute, command: dict[str, str]) -> None:
        if command["type"] != "message":
            return
        code = "content_too_long" if command["content"] == "long" else "api_rejected"
        error = {"type": "error", "error": "No", "code": code, "retryable": False}
        socket.send(json.dumps({**error, "clientMessageId": command["clientMessageId"]}))

    play_server(page, answer, sessionId="s")
    give_history(page, [])
    page.goto(f"{server.url}/demo?chat=given-up")
    box = open_panel(page)
    say(box, "refused", "long")
    expect(page.locator("eclipse-chat .meta").last).to_contain_text("Too long to send.")
    expect(page.get_by_role("button", name="Try again")).to_have_count(1)
    page.get_by_role("button", name="Delete").last.click()
    expect(page.locator("eclipse-chat .bubble")).to_have_text(["refused"])
    expect(box).to_be_focused()
    page.reload()
    open_panel(page)
    expect(page.locator("eclipse-chat .bubble")).to_have_text(["refused"])
    page.get_by_role("button", name="Delete").click()
    expect(page.locator("eclipse-chat .bubble")).to_have_count(0)


def test_an_unknown_outcome_is_shown_and_settled_by_the_history(
    server: ServerProcess, context: Contexts
) -> None:
    """A message that may have been saved says so; once the history has it, it is simply there."""
    page = context().new_page()
    history: list[dict[str, object]] = []
    sent: list[str] = []

    def answer(socket: WebSocketRoute, command: dict[str, str]) -> None:
        if command["type"] == "message":
            sent.append(command["content"])
            error = {"type": "error", "error": "?", "code": "outcome_unknown", "retryable": False}
            socket.send(json.dumps({**error, "clientMessageId": command["clientMessageId"]}))

    play_server(page, answer, sessionId="s")
    give_token(page, server)
    give_history(page, history)
    page.goto(f"{server.url}/demo?chat=unknown")
    say(open_panel(page), "am I there?")
    unknown = page.locator("eclipse-chat .bad", has_text="This may not have been sent.")
    expect(unknown.get_by_role("button", name="Try again")).to_be_visible()
    history.append(message(1, "am I there?", "USER", id="me", name=None))
    page.reload()
    open_panel(page)
    expect(unknown).to_have_count(0)
    assert shown(page) == ["am I there?"]
    assert sent == ["am I there?"]


def test_the_old_server(server: ServerProcess, context: Contexts) -> None:
    """No acks, no cursors, every message three times: the widget shows each once."""
    page = context().new_page()
    count = 0

    def answer(socket: WebSocketRoute, command: dict[str, str]) -> None:
        nonlocal count
        if command["type"] != "message":
            return
        count += 1
        data = message(count, command["content"], "user", id="me", name=None)
        data["timestamp"] = data.pop("createdAt")
        for _ in range(3):
            socket.send(json.dumps({"type": "message", "data": data, "timestamp": data["timestamp"]}))

    play_server(page, answer)
    give_token(page, server)
    give_history(page, [])
    page.goto(f"{server.url}/demo?chat=today")
    box = open_panel(page)
    say(box, "one", "two", "one")
    saved(page, 3)
    assert shown(page) == ["one", "two", "one"]


def test_ten_thousand_messages_draw_a_page_at_a_time(server: ServerProcess, context: Contexts) -> None:
    """A long chat opens with its end drawn; scrolling up draws more, and the place being read stays put."""
    page = context().new_page()
    give_history(page, [message(n, f"message {n}", "agent" if n % 3 else "user") for n in range(10_000)])
    page.goto(f"{server.url}/demo?chat=long&open")
    bubbles = page.locator("eclipse-chat .bubble")
    expect(bubbles.last).to_have_text("message 9999")
    assert bubbles.count() <= 120
    log = page.locator("eclipse-chat .log")
    top = """log => {
        const edge = log.getBoundingClientRect().top;
        const below = (bubble) => bubble.getBoundingClientRect().bottom > edge;
        return [...log.querySelectorAll(".bubble")].find(below).textContent;
    }"""
    log.evaluate("log => { log.scrollTop = 150 }")
    before = log.evaluate(top)
    expect(bubbles.first).not_to_have_text("message 9880")
    assert log.evaluate(top) == before
    assert bubbles.count() <= 120


def test_all_of_a_long_chat_can_be_scrolled_through(server: ServerProcess, context: Contexts) -> None:
    """From the last message up to the first, each is there, in order, though few are drawn at a time."""
    page = context().new_page()
    give_history(page, [message(n, f"message {n}", "agent" if n % 3 else "user") for n in range(500)])
    page.goto(f"{server.url}/demo?chat=longer&open")
    bubbles = page.locator("eclipse-chat .bubble")
    expect(bubbles.last).to_have_text("message 499")
    assert shown(page) == [f"message {n}" for n in range(500)]
    expect(bubbles.last).to_have_text("message 499")
    expect(bubbles.last).to_be_in_viewport()


def test_new_messages_do_not_move_the_reading_position(
    server: ServerProcess, customer: Open, desk: Open
) -> None:
    """A reader further up is not pulled down: a button says that there is news, and leads to it."""
    page, agent = customer(server.url), desk(server.url)
    box = open_panel(page)
    say(box, *[f"line {n}\n\n\nend" for n in range(8)])
    saved(page, 8)
    log = page.locator("eclipse-chat .log")
    log.evaluate("log => { log.scrollTop = 0 }")
    expect(page.get_by_role("button", name="Latest messages")).to_be_visible()
    say(agent.get_by_role("textbox"), "news")
    page.get_by_role("button", name="New messages").wait_for()
    assert log.evaluate("log => log.scrollTop") == 0
    page.get_by_role("button", name="New messages").click()
    expect(page.get_by_text("news", exact=True)).to_be_in_viewport()


@pytest.mark.parametrize(
    "script",
    [
        """for (const name of ["sessionStorage", "localStorage"])
            Object.defineProperty(window, name, { get() { throw new DOMException("no") } })""",
        "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError') }",
        """const Real = Date, now = () => Real.now() + 4e11;
        Date = class extends Real {
            constructor(...given) { given.length ? super(...given) : super(now()) }
            static now() { return now() }
        }""",
    ],
    ids=["storage forbidden", "storage full", "clock wrong"],
)
def test_strange_browsers_chat_as_well(
    server: ServerProcess, context: Contexts, desk: Open, chat_id: str, script: str
) -> None:
    """Without storage, with a full one, or with a clock 13 years ahead the chat still works."""
    page = context().new_page()
    page.add_init_script(script)
    page.goto(f"{server.url}/demo?chat={chat_id}")
    agent = desk(server.url)
    box = open_panel(page)
    say(box, "one")
    expect(agent.get_by_text("one", exact=True).last).to_be_visible()
    say(agent.get_by_role("textbox"), "two")
    expect(page.get_by_text("two", exact=True)).to_be_visible()
    assert shown(page) == shown(agent) == ["one", "two"]


def test_the_element_can_be_moved_renamed_and_removed(server: ServerProcess, customer: Open) -> None:
    """Another chat-id is another chat; moving reconnects; removing closes the socket."""
    page = customer(server.url)
    say(open_panel(page), "in the first chat")
    expect(page.get_by_text("· Sent")).to_be_visible()
    page.evaluate("() => document.querySelector('eclipse-chat').setAttribute('chat-id', 'another')")
    expect(page.locator("eclipse-chat .bubble")).to_have_count(0)
    connected(page)
    page.evaluate("() => document.querySelector('main').append(document.querySelector('eclipse-chat'))")
    connected(page)
    state = page.evaluate(
        "() => { const e = document.querySelector('eclipse-chat'), c = e.chat; e.remove(); return c.state }"
    )
    assert state == "closed"


def test_the_greeting_stays_until_something_is_said(
    server: ServerProcess, customer: Open, desk: Open
) -> None:
    """An agent who joins takes no place of the greeting; the first message does."""
    page = customer(server.url)
    box = open_panel(page)
    agent = desk(server.url)
    connected(page, agent)
    agent.evaluate("document.querySelector('eclipse-chat').chat.joined()")
    greeting = page.get_by_text("Good evening! Which lamp may we tell you about?")
    expect(page.locator("eclipse-chat .joined")).to_be_visible()
    expect(greeting).to_be_visible()
    say(box, "hello")
    expect(greeting).to_have_count(0)


def test_missing_attributes_are_reported(
    server: ServerProcess, customer: Open, complaints: list[str]
) -> None:
    """Without a token URL or a chat, the console names the missing attribute."""
    page = customer(server.url)
    page.evaluate("document.querySelector('eclipse-chat').removeAttribute('token-url')")
    open_panel(page)
    page.wait_for_function("() => document.querySelector('eclipse-chat').isOpen")
    assert complaints == ["<eclipse-chat> needs the attributes token-url, which has to be a URL, and chat-id"]
    complaints.clear()


def test_a_disconnect_by_the_application_is_shown(
    server: ServerProcess, customer: Open, chat_id: str
) -> None:
    """After close code 4003 the widget says that the chat has ended, and does not reconnect."""
    page = customer(server.url)
    open_panel(page)
    connected(page)
    answer = page.request.post(
        f"{server.url}/api/chats/{chat_id}/disconnect",
        headers={"X-Internal-Secret": server.environment["INTERNAL_API_SECRET"]},
        data="{}",
    )
    assert answer.status == 200, answer.text()
    expect(page.get_by_text("This chat has ended.")).to_be_visible()
    expect(page.locator("eclipse-chat")).to_have_attribute("state", "closed")
