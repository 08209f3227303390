"""What the list says about messages: whose they are, their status, and their order."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, WebSocketRoute, expect

from tests.browser.acts import Contexts, Open, give_history, give_token, message, play_server
from tests.browser.shop import BUBBLES, Shop, element
from tests.browser.stage import ServerProcess, connected, open_panel, opened, say
from tests.browser.states import STATES, TALK, show


class Desk:
    """A server for one page that saves nothing: the test says every answer."""

    def __init__(self, page: Page, server: ServerProcess, user: str = "me") -> None:
        self.sent: list[dict[str, str]] = []
        self.refuse: set[str] = set()
        self.sockets = play_server(page, self._hear, sessionId="s")
        give_token(page, server, user)

    def _hear(self, socket: WebSocketRoute, command: dict[str, str]) -> None:
        if command["type"] != "message":
            return
        self.sent.append(command)
        if command["content"] in self.refuse:
            error = {"type": "error", "error": "No", "code": "api_rejected", "retryable": False}
            self.tell({**error, "clientMessageId": command["clientMessageId"]})

    def tell(self, event: dict[str, Any]) -> None:
        """Send the page an event."""
        self.sockets[-1].send(json.dumps(event))

    def ack(self, command: dict[str, str], number: int) -> None:
        """Confirm that a command's message was saved."""
        self.tell({"type": "ack", "clientMessageId": command["clientMessageId"], "id": f"m{number:06}"})

    def event(self, kind: str, number: int, content: str, role: str = "agent", **sender: str) -> None:
        """Publish a saved message."""
        data = message(number, content, role, **sender)
        data["timestamp"] = data.pop("createdAt")
        self.tell({"type": kind, "data": data, "timestamp": data["timestamp"]})


def emit(page: Page, kind: str, data: dict[str, Any]) -> None:
    """Let the widget hear an event as its client tells it."""
    page.locator("eclipse-chat").evaluate(
        """(element, [kind, data]) => element.chat.dispatchEvent(
            new CustomEvent(kind, { detail: { data, timestamp: "2026-02-01T00:00:00.000Z" } }))""",
        [kind, data],
    )


def test_another_agents_messages_are_not_mine(server: ServerProcess, context: Contexts) -> None:
    """Two agents in one chat have the same role: each sees the other's messages as somebody else's."""
    page = context().new_page()
    Desk(page, server)
    give_history(
        page,
        [
            message(1, "from a colleague", "agent", id="other", name="Grace"),
            message(2, "from myself", "agent", id="me", name="Ada"),
            message(3, "from the visitor", "user", id="v", name="Vera"),
        ],
    )
    page.goto(f"{server.url}/demo?chat=agents")
    page.locator("eclipse-chat").evaluate("element => { element.as = 'agent'; element.open = true; }")
    rows = page.locator("eclipse-chat li:has(.bubble)")
    expect(rows).to_have_count(3)
    mine = [row.evaluate("row => row.classList.contains('me')") for row in rows.all()]
    assert mine == [False, True, False]


def test_another_agents_messages_are_unread(server: ServerProcess, context: Contexts) -> None:
    """What a colleague writes counts as unread; what a visitor writes in another tab does not, for them."""
    page = context().new_page()
    Desk(page, server)
    give_history(page, [])
    page.goto(f"{server.url}/demo?chat=agents-unread")
    page.locator("eclipse-chat").evaluate("element => { element.as = 'agent'; }")
    connected(page)
    emit(page, "message", message(1, "from a colleague", "agent", id="other"))
    emit(page, "message", message(2, "from myself", "agent", id="me"))
    assert page.locator("eclipse-chat").evaluate("element => element.unread") == 1
    page.locator("eclipse-chat").evaluate("element => { element.as = 'user'; }")
    connected(page)
    emit(page, "message", message(3, "from my other tab", "user", id="anonymous"))
    assert page.locator("eclipse-chat").evaluate("element => element.unread") == 0


def test_a_visitor_is_not_seen_typing_in_their_other_tab(
    server: ServerProcess, customer: Open, desk: Open, chat_id: str
) -> None:
    """A visitor is a different user in each tab; typing in one does not show in the other."""
    page, agent = customer(server.url), desk(server.url)
    other = page.context.new_page()
    other.goto(f"{server.url}/demo?chat={chat_id}")
    box, _ = open_panel(page), open_panel(other)
    connected(page, agent, other)
    users = [
        tab.evaluate("() => document.querySelector('eclipse-chat').chat.userId") for tab in (page, other)
    ]
    emit(other, "typing", {"userId": users[0], "isTyping": True})
    assert not other.locator("eclipse-chat .typing").is_visible()
    box.press_sequentially("Hel")
    expect(agent.get_by_text("is typing…")).to_be_visible()
    say(agent.get_by_role("textbox"), "later than that")
    expect(other.get_by_text("later than that", exact=True)).to_be_visible()
    assert not other.locator("eclipse-chat .typing").is_visible()
    emit(other, "typing", {"userId": "somebody", "isTyping": True})
    expect(other.locator("eclipse-chat .typing")).to_be_visible()


def test_own_names_are_bounded_and_survive_nonsense(server: ServerProcess, context: Contexts) -> None:
    """The list of users that this browser is known as never grows beyond 50, whatever is in the storage."""
    page = context().new_page()
    page.add_init_script(
        "localStorage.setItem('eclipse-chat:users', localStorage.getItem('nonsense') ?? '{')"
    )
    page.goto(f"{server.url}/demo?chat=names-1")
    connected(page)
    many = json.dumps([str(n) for n in range(50)])
    page.evaluate("many => localStorage.setItem('nonsense', many)", many)
    page.reload()
    connected(page)
    users = page.evaluate("() => JSON.parse(localStorage.getItem('eclipse-chat:users'))")
    assert len(users) == 50
    assert users[-1] == page.evaluate("() => document.querySelector('eclipse-chat').chat.userId")


def test_a_deleted_message_is_gone_everywhere(server: ServerProcess, context: Contexts) -> None:
    """Its content leaves the list and the live region; updates, replays and histories don't bring it back."""
    page = context().new_page()
    give_history(page, [message(1, "stays"), message(2, "a secret")])
    page.goto(f"{server.url}/demo?chat=deleted&open")
    connected(page)
    expect(page.locator(BUBBLES)).to_have_text(["stays", "a secret"])
    emit(page, "message", message(3, "said aloud"))
    said = page.locator("eclipse-chat [aria-live]")
    expect(said).to_contain_text("said aloud")
    emit(page, "message_deleted", {"id": "m000002"})
    emit(page, "message_deleted", {"id": "m000003"})
    expect(page.get_by_text("a secret")).to_have_count(0)
    expect(said).not_to_contain_text("said aloud")
    emit(page, "message_updated", {**message(2, "a secret, changed"), "updatedAt": "2026-03-01T00:00:00Z"})
    emit(page, "message", message(3, "said aloud"))
    with page.expect_response("**/messages*"):
        page.locator("eclipse-chat").evaluate(
            "element => element.chat.dispatchEvent(new CustomEvent('reload', { detail: {} }))"
        )
    emit(page, "message", message(4, "later"))
    expect(page.get_by_text("later", exact=True)).to_be_visible()
    text = page.locator("eclipse-chat").evaluate("element => element.shadowRoot.textContent")
    assert "secret" not in text
    assert "aloud" not in text


def test_a_deletion_that_comes_first_is_kept(server: ServerProcess, context: Contexts) -> None:
    """A message that is deleted before its history is loaded is not shown by it, and counts as read."""
    page = context().new_page()
    give_history(page, [message(1, "stays"), message(2, "a secret")])
    page.goto(f"{server.url}/demo?chat=deleted-first")
    connected(page)
    emit(page, "message", message(3, "unread"))
    assert page.locator("eclipse-chat").evaluate("element => element.unread") == 1
    for number in (2, 3):
        emit(page, "message_deleted", {"id": f"m{number:06}"})
    assert page.locator("eclipse-chat").evaluate("element => element.unread") == 0
    open_panel(page)
    expect(page.get_by_text("stays", exact=True)).to_be_visible()
    expect(page.get_by_text("a secret")).to_have_count(0)


def test_a_historys_own_fields_are_not_taken_for_the_widgets(
    server: ServerProcess, context: Contexts
) -> None:
    """Applications have a `status` or a `code` of their own in a message: it is shown as any other."""
    page = context().new_page()
    give_history(
        page, [{**message(1, "hello"), "status": "failed", "code": "x", "joined": "y", "isDeleted": 1}]
    )
    page.goto(f"{server.url}/demo?chat=fields&open")
    expect(page.locator(BUBBLES)).to_have_text("hello")
    expect(page.get_by_role("button", name="Delete")).to_have_count(0)


def test_a_failed_message_keeps_its_place(server: ServerProcess, context: Contexts) -> None:
    """A failed message stays where it was written; sent once more, it is the last one."""
    page = context().new_page()
    play = Desk(page, server)
    play.refuse = {"refused"}
    give_history(page, [message(1, "before")])
    page.goto(f"{server.url}/demo?chat=place&open")
    connected(page)
    expect(page.get_by_text("before", exact=True)).to_be_visible()
    say(page.get_by_role("textbox"), "refused")
    expect(page.locator("eclipse-chat .bad")).to_have_count(1)
    play.event("message", 2, "after")
    expect(page.locator(BUBBLES)).to_have_text(["before", "refused", "after"])
    play.refuse = set()
    page.locator("eclipse-chat [data-does=retry]").click()
    expect(page.locator(BUBBLES)).to_have_text(["before", "after", "refused"])


def test_a_failed_message_keeps_its_place_after_a_reload(server: ServerProcess, context: Contexts) -> None:
    """If the message before it is no longer known, the time of writing gives its place."""
    page = context().new_page()
    play = Desk(page, server)
    play.refuse = {"refused"}
    history: list[dict[str, object]] = []
    give_history(page, history)
    page.goto(f"{server.url}/demo?chat=place-2&open")
    connected(page)
    say(page.get_by_role("textbox"), "refused")
    expect(page.locator("eclipse-chat .bad")).to_have_count(1)
    history += [message(1, "long ago"), {**message(2, "long after"), "createdAt": "2099-01-01T00:00:00.000Z"}]
    page.reload()
    expect(page.locator(BUBBLES)).to_have_text(["long ago", "refused", "long after"])


@pytest.mark.parametrize("acked", [2, 3], ids=["the echo", "another"])
def test_a_message_and_its_echo_are_one_bubble(server: ServerProcess, context: Contexts, acked: int) -> None:
    """Until the ack comes, an echo is the message's own element; another id in the ack parts them."""
    page = context().new_page()
    play = Desk(page, server)
    give_history(page, [])
    page.goto(f"{server.url}/demo?chat=echo&open")
    connected(page)
    say(page.get_by_role("textbox"), "hello")
    expect(page.locator(BUBBLES)).to_have_text(["hello"])
    page.evaluate("""() => {
        const list = document.querySelector("eclipse-chat").shadowRoot.querySelector("ol");
        window.row = list.querySelector("li:has(.bubble)");
        window.most = 0;
        const count = () => { most = Math.max(most, list.querySelectorAll(".bubble").length); };
        new MutationObserver(count).observe(list, { childList: true, subtree: true });
    }""")
    play.event("message", 2, "hello", "user", id="me")
    expect(page.locator("eclipse-chat li[data-id]")).to_have_count(1)
    assert page.evaluate("() => row.isConnected && most <= 1")
    expect(page.locator("eclipse-chat .me .meta")).to_contain_text("Sent")
    if acked == 3:
        play.event("message", 3, "hello", "user", id="me")
    play.ack(play.sent[0], acked)
    expect(page.locator(BUBBLES)).to_have_count(acked - 1)
    page.wait_for_function("() => !document.querySelector('eclipse-chat').chat.pending.length")
    assert page.evaluate("() => row.isConnected && row.dataset.id") == f"m{acked:06}"


@pytest.mark.parametrize("is_open", [True, False], ids=["between two frames", "while the panel is closed"])
def test_a_message_that_was_confirmed_before_it_was_drawn_is_shown(
    shop: Callable[..., Shop], is_open: bool
) -> None:
    """An ack may be faster than the next frame, and the page may send while nobody looks: both are shown."""
    script = """
        window.held = [];
        window.isHeld = false;
        const draw = requestAnimationFrame.bind(window);
        window.requestAnimationFrame = (frame) => isHeld ? held.push(frame) : draw(frame);
    """
    play = shop()
    page = play.show(attributes="open" if is_open else "", script=script)
    if is_open:
        opened(page)
    element(
        page,
        """
        isHeld = true;
        const sent = new Promise((done) => e.chat.on("sent", done));
        e.send("hello");
        return sent.then(() => {
            isHeld = false;
            for (const frame of held) requestAnimationFrame(frame);
            e.show();
        });
        """,
    )
    expect(page.locator(BUBBLES)).to_have_text(["hello"])
    expect(page.locator("eclipse-chat .me .meta")).to_contain_text("Sent")
    play.tell("message_deleted", id="hello")
    expect(page.locator(BUBBLES)).to_have_count(0)


def test_waiting_messages_are_shown_before_there_is_a_token(shop: Callable[..., Shop]) -> None:
    """After a reload the messages that wait are there at once, even if the application doesn't answer."""
    play = shop()
    page = play.show()
    page.route("**/api/ws/token*", lambda route: None)
    page.reload()
    element(page, "e.send('hello')")
    page.reload()
    element(page, "e.show()")
    expect(page.locator(BUBBLES)).to_have_text(["hello"])
    assert not play.messages


def test_own_messages_of_earlier_pages_are_sent(server: ServerProcess, context: Contexts) -> None:
    """After a reload an own message that the application has is as sent as it was before."""
    page = context().new_page()
    give_history(page, [message(1, "theirs"), message(2, "mine", "user", id="me")])
    page.goto(f"{server.url}/demo?chat=sent&open")
    expect(page.locator("eclipse-chat .me .meta")).to_contain_text("Sent")
    expect(page.locator("eclipse-chat .them .meta")).not_to_contain_text("Sent")


def test_an_ended_chat_shows_its_history(context: Contexts) -> None:
    """A person who returns to a chat that has ended reads it at once: there is no connection to wait for."""
    page = context().new_page()
    wait = 1_500  # milliseconds, until the history is loaded without a connection
    page.add_init_script(
        f"const real = setTimeout; window.setTimeout = (call, ms) => ms == {wait} ? 0 : real(call, ms)"
    )
    show(page, STATES["ended"])
    expect(page.locator("eclipse-chat .bubble").last).to_have_text(TALK[-1]["content"])
