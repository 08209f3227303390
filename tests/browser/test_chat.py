"""People chat: several tabs, typing, a server that restarts, a network that is cut, reloads."""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Error, Page, Route, expect

from tests.browser.cuts import play
from tests.browser.stage import Cable, ServerProcess, connected, open_panel, saved, say, shown

Open = Callable[..., Page]


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that this test may end."""
    running = ServerProcess(tmp_path).start()
    yield running
    running.end(signal.SIGKILL)


def bubble(page: Page, text: str) -> None:
    """Wait until exactly one bubble says the text."""
    expect(page.locator("eclipse-chat .bubble", has_text=re.compile(f"^{re.escape(text)}$"))).to_have_count(1)


def test_every_tab_shows_every_message_once(
    server: ServerProcess, customer: Open, desk: Open, chat_id: str
) -> None:
    """Two tabs of a customer and an agent's desk: what one writes, all show, once and in the same order."""
    first, agent = customer(server.url), desk(server.url)
    second = first.context.new_page()
    second.goto(f"{server.url}/demo?chat={chat_id}")
    boxes = [open_panel(first), open_panel(second), agent.get_by_role("textbox")]
    pages = (first, second, agent)
    for n, box in enumerate(boxes):
        say(box, f"from {n}")
        for page in pages:
            bubble(page, f"from {n}")
    assert [shown(page) for page in pages] == [["from 0", "from 1", "from 2"]] * 3
    expect(first.locator("eclipse-chat .joined")).to_have_text(re.compile("Ada Okafor.? joined the chat"))


def test_typing_is_seen_only_by_others(server: ServerProcess, customer: Open, desk: Open) -> None:
    """Typing shows on the other side, with the name once it is known, never on one's own, and ends."""
    page, agent = customer(server.url), desk(server.url)
    box, answer = open_panel(page), agent.get_by_role("textbox")
    connected(page, agent)
    box.press_sequentially("Hel")
    expect(agent.get_by_text("The customer is typing…")).to_be_visible()
    expect(page.get_by_text("is typing…")).to_be_hidden()
    box.press("Enter")
    bubble(agent, "Hel")
    expect(agent.get_by_text("is typing…")).to_be_hidden()
    say(answer, "Yes?")
    bubble(page, "Yes?")
    answer.press_sequentially("And")
    expect(page.get_by_text("Ada Okafor\u2069 is typing…")).to_be_visible()
    answer.fill("")
    expect(page.get_by_text("is typing…")).to_be_hidden()


def test_typing_shows_the_name_of_an_agent_who_has_joined(
    server: ServerProcess, customer: Open, desk: Open
) -> None:
    """An agent who has joined is known by name before the first answer."""
    page, agent = customer(server.url), desk(server.url)
    open_panel(page)
    connected(page, agent)
    agent.locator("eclipse-chat").evaluate("element => element.chat.joined()")
    expect(page.locator("eclipse-chat .joined")).to_be_visible()
    agent.get_by_role("textbox").press_sequentially("Hel")
    expect(page.get_by_text("Ada Okafor\u2069 is typing…")).to_be_visible()


def test_agents_do_not_see_themselves_typing(
    server: ServerProcess, customer: Open, desk: Open, chat_id: str
) -> None:
    """Typing in one tab of an agent does not show in their other tab."""
    page, agent = customer(server.url), desk(server.url)
    other = agent.context.new_page()
    other.goto(f"{server.url}/demo/agent?chat={chat_id}")
    box = open_panel(page)
    connected(page, agent, other)
    agent.get_by_role("textbox").press_sequentially("Hel")
    expect(page.get_by_text("is typing…")).to_be_visible()
    say(box, "later than that")
    bubble(other, "later than that")
    assert not other.locator("eclipse-chat .typing").is_visible()


def test_a_chat_appears_on_the_desk_with_its_unread_count(
    server: ServerProcess, customer: Open, context: Callable[..., BrowserContext], chat_id: str
) -> None:
    """A customer who writes appears in the agents' list; opening the chat clears its count."""
    agent = context().new_page()
    agent.goto(f"{server.url}/demo/agent")
    say(open_panel(customer(server.url)), "one", "two")
    entry = agent.get_by_role("button", name="Visitor " + chat_id.removeprefix("visitor-"))
    expect(entry).to_contain_text("two")
    expect(entry.get_by_role("img", name="2 unread")).to_be_visible()
    entry.click()
    bubble(agent, "two")
    expect(entry.get_by_role("img")).to_have_count(0)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_tabs_reconnect_to_a_restarted_server(
    own_server: ServerProcess, customer: Open, desk: Open, how: signal.Signals
) -> None:
    """The server ends, gracefully or not, and starts again: both tabs reconnect, and miss nothing."""
    page, agent = customer(own_server.url), desk(own_server.url)
    box, answer = open_panel(page), agent.get_by_role("textbox")
    say(box, "before")
    bubble(agent, "before")
    own_server.end(how)
    expect(page.locator("eclipse-chat")).not_to_have_attribute("state", "open")
    say(box, "while it was away")
    say(answer, "I write, too")
    expect(page.get_by_text("You are offline.")).to_be_visible()
    own_server.start()
    connected(page, agent)
    for text in ("before", "while it was away", "I write, too"):
        bubble(page, text)
        bubble(agent, text)
    say(box, "after")
    bubble(agent, "after")
    assert shown(page) == shown(agent)
    expect(page.get_by_text("You are offline.")).to_be_hidden()


def test_what_is_typed_offline_arrives(
    cable: Cable, server: ServerProcess, customer: Open, desk: Open
) -> None:
    """Without a network, messages are kept, shown as sending, and arrive in order once it is back."""
    page, agent = customer(cable.url), desk(server.url)
    box = open_panel(page)
    connected(page, agent)
    cable.cut()
    say(box, "one", "two", "three")
    expect(page.get_by_text("Sending…")).to_be_visible()
    say(agent.get_by_role("textbox"), "meanwhile")
    bubble(agent, "meanwhile")
    cable.restore()
    bubble(agent, "three")
    bubble(page, "meanwhile")
    assert shown(page) == shown(agent) == ["meanwhile", "one", "two", "three"]


def test_a_reload_loses_nothing(cable: Cable, server: ServerProcess, customer: Open, desk: Open) -> None:
    """A tab is reloaded while nothing can be sent: what was sent and what was only typed are still there."""
    page, agent = customer(cable.url), desk(server.url)
    box = open_panel(page)
    connected(page, agent)

    def refuse(route: Route) -> None:
        route.abort()

    page.route("**/api/**", refuse)
    cable.cut()
    cable.restore()
    say(box, "kept 1", "kept 2")
    box.press_sequentially("half a sen")
    page.reload()
    box = open_panel(page)
    bubble(page, "kept 1")
    bubble(page, "kept 2")
    expect(box).to_have_value("half a sen")
    page.unroute("**/api/**", refuse)
    say(box, "kept 3")
    for text in ("kept 1", "kept 2", "kept 3"):
        bubble(agent, text)
    saved(page, 3)
    assert shown(page) == shown(agent) == ["kept 1", "kept 2", "kept 3"]


def test_cuts_neither_lose_nor_duplicate_messages(
    cable: Cable, server: ServerProcess, customer: Open, desk: Open
) -> None:
    """Both sides write while the network is cut and a tab reloaded: all is there once, in the same order."""
    page, agent = customer(cable.url), desk(cable.url)
    open_panel(page)
    play(page, agent, cables=[cable], messages=15, cuts=3)


@pytest.mark.parametrize("fault", ["500", "html", "hangs"])
def test_a_failing_token_url_is_retried_until_it_answers(
    server: ServerProcess, desk: Open, context: Callable[..., BrowserContext], fault: str, chat_id: str
) -> None:
    """While the token URL fails, the widget stays usable; when it answers, what was written is sent."""
    visitor = context()
    page = visitor.new_page()
    if fault == "hangs":  # no page waits ten seconds here: the limit is shortened, not the waiting
        page.add_init_script(
            "const real = AbortSignal.timeout; AbortSignal.timeout = (ms) => real.call(AbortSignal, ms / 20)"
        )
    down = True
    hanging: list[Route] = []

    def answer(route: Route) -> None:
        if not down:
            route.continue_()
        elif fault == "500":
            route.fulfill(status=500, body="oops")
        elif fault == "hangs":
            hanging.append(route)
        else:
            route.fulfill(status=200, content_type="text/html", body="<!doctype html><p>Sign in</p>")

    page.route("**/api/ws/token*", answer)
    page.goto(f"{server.url}/demo?chat={chat_id}")
    box = open_panel(page)
    say(box, "anybody there?")
    if fault == "500":
        expect(page.get_by_text("The chat isn’t available right now.")).to_be_visible()
    down = False
    connected(page)
    bubble(desk(server.url), "anybody there?")
    for route in hanging:
        with contextlib.suppress(Error):  # the page has given the request up
            route.abort()
