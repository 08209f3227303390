"""The client in pages that a person leaves and comes back to: the browser keeps them as they were."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests import needs
from tests.browser.stage import FLAGS, ServerProcess

CONNECT = """async ([chatId, isHeld]) => {
    const { connect } = await import("/eclipse-chat.js");
    const ask = async () => (await fetch("/api/ws/token?chatId=" + chatId)).json();
    const token = () => (isHeld ? ((isHeld = false), new Promise(() => {})) : ask());
    addEventListener("pageshow", (event) => (window.isBack = event.persisted));
    window.chat = connect({ chatId, token });
}"""
OPEN = "() => chat.state == 'open'"
SENT = "() => !chat.pending.length"
SAVED = (
    "async (id) => (await (await fetch(`/api/chats/${id}/messages`)).json()).messages.map((m) => m.content)"
)


@pytest.fixture(scope="module")
def keeping(browser: Browser) -> Iterator[Browser]:
    """A Chromium with the back/forward cache, which Playwright turns off."""
    running = browser.browser_type.launch(
        executable_path=needs.chromium(), args=FLAGS, ignore_default_args=["--disable-back-forward-cache"]
    )
    yield running
    running.close()


@pytest.fixture
def page(keeping: Browser) -> Iterator[Page]:
    """A page of a context of its own."""
    context = keeping.new_context()
    context.set_default_timeout(15_000)
    yield context.new_page()
    context.close()


def visit(page: Page, server: ServerProcess, number: int, chat_id: str, is_held: bool = False) -> None:
    """Go to a page that has nothing but the client; ``is_held``: its first token never comes."""
    page.goto(f"{server.url}/eclipse-chat.d.ts?{number}")
    page.evaluate(CONNECT, [chat_id, is_held])


def go_back(page: Page) -> None:
    """Go back to the page before, which has to be as it was left."""
    page.evaluate("() => void setTimeout(() => history.back())")
    page.wait_for_url("**?1", wait_until="commit")
    page.wait_for_function("() => window.isBack === true")


def commands(page: Page) -> list[str]:
    """The messages that the page's sockets send from now on, as JSON."""
    sent: list[str] = []
    page.on(
        "websocket",
        lambda socket: socket.on(
            "framesent", lambda text: sent.append(str(text)) if '"content"' in str(text) else None
        ),
    )
    return sent


def test_a_message_that_the_next_page_has_sent_is_not_sent_again(
    server: ServerProcess, page: Page, chat_id: str
) -> None:
    """A message written while connecting is sent once, even if the page it was written on is restored."""
    sent = commands(page)
    visit(page, server, 1, chat_id, is_held=True)
    page.evaluate("() => void chat.send('once')")
    visit(page, server, 2, chat_id)
    page.wait_for_function(SENT)
    go_back(page)
    page.wait_for_function(OPEN)
    page.evaluate("() => void chat.send('after it')")
    page.wait_for_function(SENT)
    assert [text.count("once") for text in sent] == [1, 0]
    assert page.evaluate(SAVED, chat_id) == ["once", "after it"]


def test_a_restored_page_reconnects_and_sends_what_waits(
    server: ServerProcess, page: Page, chat_id: str
) -> None:
    """A page with an open socket is cached, and reconnects when it is restored; it sends what waits."""
    visit(page, server, 1, chat_id)
    page.wait_for_function(OPEN)
    visit(page, server, 2, chat_id, is_held=True)
    page.evaluate("() => void chat.send('left by the second page')")
    go_back(page)
    page.wait_for_function(OPEN)
    page.wait_for_function(SENT)
    assert page.evaluate(SAVED, chat_id) == ["left by the second page"]
