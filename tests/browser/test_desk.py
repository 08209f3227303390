"""The agents' desk: its list of chats, and what it shows about its connections."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.acts import Contexts, Open, Write
from tests.browser.desk import Listed, close, entry, listening, order, publish, refresh
from tests.browser.stage import Cable, ServerProcess, connected, open_panel, say

# The list


def test_a_press_during_a_change_counts(listed: tuple[Page, Listed]) -> None:
    """The list changes its order between press and release: the pressed chat opens."""
    page, chats = listed
    entry(page, "c0").hover()
    page.mouse.down()
    chats.tell("c1")
    chats.tell("new", "chat_opened")
    expect(page.locator("#total")).to_have_text("4")
    assert order(page) == ["c2", "c1", "c0"]
    page.mouse.up()
    expect(page.get_by_text("Chat c0", exact=True)).to_be_visible()
    expect(page.locator(".chat").first).to_have_attribute("data-id", "new")
    assert order(page) == ["new", "c1", "c2", "c0"]


def test_a_key_held_during_a_change_counts(listed: tuple[Page, Listed]) -> None:
    """So does a press of the space bar, and the chat that has the focus keeps it on its way to the front."""
    page, chats = listed
    page.evaluate("document.addEventListener('focusin', () => { window.moved = true })")
    entry(page, "c0").focus()
    page.evaluate("window.moved = false")
    page.keyboard.down(" ")
    chats.tell("new", "chat_opened")
    chats.tell("c2", "chat_closed", status="closed")
    chats.tell("c0")
    expect(page.locator(".chat").first).to_have_attribute("data-id", "c0")
    assert order(page) == ["c0", "new", "c1"]
    expect(entry(page, "c0")).to_be_focused()
    page.keyboard.up(" ")
    expect(page.get_by_text("Chat c0", exact=True)).to_be_visible()
    assert page.evaluate("window.moved") is False


def test_a_change_leaves_the_elements(listed: tuple[Page, Listed]) -> None:
    """A chat's element changes what it says and stays the same element, whatever happens around it."""
    page, chats = listed
    known = entry(page, "c0").element_handle()
    chats.tell("c0", received=4)
    expect(entry(page, "c0").get_by_role("img", name="4 unread")).to_be_visible()
    assert page.evaluate("one => one == document.querySelector('.chat')", known)


def test_an_event_that_is_older_than_the_list_changes_nothing(listed: tuple[Page, Listed]) -> None:
    """Events and responses overtake each other: the larger revision counts."""
    page, chats = listed
    publish(chats.server, "chat_assigned", {**chats.chats["c1"], "assignee": "agent_1", "revision": 1})
    chats.tell("c0", "chat_assigned", assignee="agent_1")
    expect(entry(page, "c0")).to_contain_text("You")
    expect(entry(page, "c1")).to_contain_text("Unassigned")


# Connections


def test_an_unreachable_list_is_reported(listed: tuple[Page, Listed]) -> None:
    """Without a network the desk says so at once, and also when it is back."""
    page, _ = listed
    state, note = page.locator("#state"), page.locator("#list-state")
    page.context.set_offline(True)
    expect(state).to_have_text("Offline", timeout=1_000)
    expect(note).to_have_text("Not up to date. Trying again…")
    page.context.set_offline(False)
    expect(note).to_have_text("Up to date again.")
    expect(state).to_have_text("Connected")


def test_an_invalid_list_is_reported(listed: tuple[Page, Listed]) -> None:
    """A response that is not a list keeps the known chats, and the failure is shown."""
    page, chats = listed
    for status, body in ((500, '{"error":"x"}'), (200, "<p>Sign in</p>")):
        chats.failure = {"status": status, "body": body}
        refresh(page)
        expect(page.locator("#state")).to_have_text("Reconnecting")
        expect(page.locator("#list-state")).to_have_text("Not up to date. Trying again…")
        expect(page.locator(".chat")).to_have_count(3)
        chats.failure = None
        refresh(page)
        expect(page.locator("#list-state")).to_have_text("Up to date again.")


def test_a_list_that_was_never_loaded_is_not_empty(server: ServerProcess, context: Contexts) -> None:
    """A desk that is opened without a list doesn't say that there are no chats."""
    page = context().new_page()
    page.route("**/api/chats?*", lambda route: route.abort())
    page.goto(f"{server.url}/demo/agent")
    expect(page.locator("#list-state")).to_have_text("Not up to date. Trying again…")
    expect(page.get_by_text("No open chats.")).to_be_hidden()


def test_a_lost_socket_is_reported(cable: Cable, server: ServerProcess, desk: Open) -> None:
    """So are what happens to messages written meanwhile, and its return."""
    page = desk(cable.url)
    connected(page)
    cable.cut()
    expect(page.locator("#state")).to_have_text("Reconnecting", timeout=1_000)
    expect(page.locator("#about")).to_have_text("Not connected. Answers are sent later.")
    cable.restore()
    expect(page.locator("#about")).to_have_text("Connected again.")
    expect(page.locator("#state")).to_have_text("Connected")


def test_a_failed_list_of_agents_is_requested_again(server: ServerProcess, context: Contexts) -> None:
    """A first failure doesn't leave the desk without names."""
    page = context().new_page()
    page.clock.install()
    page.route("**/api/agents", lambda route: route.abort(), times=1)
    with page.expect_event("requestfailed", lambda request: request.url.endswith("/api/agents")):
        page.goto(f"{server.url}/demo/agent")
    expect(page.locator("#agent option")).to_have_text(["agent_1"])
    page.evaluate("0")  # the failure has arrived before this
    page.clock.run_for(5_000)
    expect(page.locator("#agent option")).to_have_text(["Ada Okafor", "Bruno Lindqvist", "Chiyo Marsh"])


@pytest.mark.parametrize("width", [320, 1280])
def test_notices_move_nothing(server: ServerProcess, context: Contexts, width: int) -> None:
    """The notices about connections have room on every screen: nothing moves while it is pressed."""
    page = context(viewport={"width": width, "height": 700}).new_page()
    chats = Listed(page, server, 3)
    page.goto(f"{server.url}/demo/agent")
    expect(page.locator("#agent option")).to_have_count(3)
    listening(page)
    place = entry(page, "c2").bounding_box()
    chats.failure = {"status": 500, "body": ""}
    refresh(page)
    expect(page.locator("#state")).to_be_in_viewport(ratio=1)
    expect(page.locator("#list-state")).to_be_in_viewport(ratio=1)
    expect(page.locator("#agent")).to_be_in_viewport(ratio=1)
    assert entry(page, "c2").bounding_box() == place
    agent = page.locator("#agent").bounding_box()
    assert agent is not None
    assert agent["width"] > 60


# Requests


def test_requests_do_not_overlap(server: ServerProcess, context: Contexts) -> None:
    """While a response is awaited no request is sent, whatever happens; then one more is."""
    page = context().new_page()
    held: list[Route] = []
    page.route("**/api/chats?*", lambda route: held.append(route))
    page.goto(f"{server.url}/demo/agent")
    page.wait_for_function("() => document.querySelector('#agent').options.length == 3")
    for _ in range(2):
        page.evaluate("window.dispatchEvent(new Event('online'))")
    assert len(held) == 1
    with page.expect_request("**/api/chats?*"):
        held[0].fulfill(json={"chats": [], "next": None})
    expect(page.get_by_text("No open chats.")).to_be_visible()
    assert len(held) == 2


def test_an_idle_desk_sends_no_requests(server: ServerProcess, context: Contexts) -> None:
    """The list is loaded once, and then again only where something may have been missed."""
    page = context().new_page()
    page.clock.install()
    chats = Listed(page, server, 1)
    page.goto(f"{server.url}/demo/agent")
    listening(page)
    page.evaluate("fetch('/health').then((answer) => answer.text())")
    before = len(chats.asked)
    page.clock.run_for(60_000)
    page.evaluate("fetch('/health').then((answer) => answer.text())")
    assert len(chats.asked) == before


def test_a_failing_list_is_requested_less_often(server: ServerProcess, context: Contexts) -> None:
    """Failures make requests less and less frequent, but at least one every eleven seconds."""
    page = context().new_page()
    page.clock.install()
    chats = Listed(page, server)
    chats.failure = {"status": 503, "body": ""}
    page.route("**/api/ws/token?*", lambda route: route.abort())  # nothing else has the list loaded
    page.goto(f"{server.url}/demo/agent")
    expect(page.locator("#list-state")).to_have_text("Not up to date. Trying again…")
    for _ in range(5):
        with page.expect_response("**/api/chats?*"):
            page.clock.run_for(11_000)
        page.evaluate("fetch('/health').then((answer) => answer.text())")
    before = len(chats.asked)
    page.clock.run_for(8_000)
    page.evaluate("fetch('/health').then((answer) => answer.text())")
    assert len(chats.asked) == before


def test_one_socket_for_all_chats(
    server: ServerProcess, context: Contexts, write: Write, chat_id: str
) -> None:
    """The inbox and every chat that is opened share one socket."""
    write(chat_id, "one")
    write(f"{chat_id}-2", "two")
    page = context().new_page()
    sockets: list[str] = []
    page.on("websocket", lambda socket: sockets.append(socket.url))
    page.goto(f"{server.url}/demo/agent")
    for name in (chat_id, f"{chat_id}-2", chat_id):
        entry(page, name).click()
        connected(page)
    listening(page)
    say(page.get_by_role("textbox", name="Write an answer…"), "hello")
    expect(page.get_by_text("· Sent")).to_have_count(1)
    assert len(sockets) == 1
    expect(page.locator("eclipse-chat")).to_have_count(1)


def test_who_is_there(server: ServerProcess, desk: Open, customer: Open) -> None:
    """An open chat says whether its customer is there, and which other agents are."""
    page = desk(server.url)
    connected(page)
    presence = page.locator("#presence")
    expect(presence).to_have_text("Away")
    open_panel(customer(server.url))
    expect(presence).to_have_text("Here now")
    desk(server.url, "&agent=agent_2")
    expect(presence).to_have_text("Here now · with Bruno Lindqvist")


# More than a page of chats


def test_a_list_that_has_changed_entirely_is_reloaded(listed: tuple[Page, Listed]) -> None:
    """After an absence the list is the server's, without what is not there any more."""
    page, chats = listed
    chats.chats = {}
    for n in range(220):
        chats.add(f"d{n}")
    refresh(page)
    expect(page.locator(".chat")).to_have_count(220)
    assert order(page) == [f"d{n}" for n in range(219, -1, -1)]


def test_closed_chats_are_loaded_in_pages(server: ServerProcess, context: Contexts) -> None:
    """They are loaded when somebody wants to see them; a chat that is closed meanwhile comes first."""
    page = context().new_page()
    chats = Listed(page, server)
    for n in range(450):
        chats.add(f"c{n}", status="closed")
    page.goto(f"{server.url}/demo/agent")
    listening(page)
    assert not any("closed" in url for url in chats.asked)
    page.get_by_role("button", name="Closed").click()
    expect(page.locator(".chat")).to_have_count(200)
    chats.tell("new", "chat_closed", status="closed")
    expect(page.locator(".chat")).to_have_count(201)
    more = page.get_by_role("button", name="Show more")
    more.click()
    expect(page.locator(".chat")).to_have_count(401)
    expect(page.locator(".chat").nth(201)).to_be_focused()
    more.click()
    expect(more).to_be_hidden()
    assert order(page) == ["new", *(f"c{n}" for n in range(449, -1, -1))]


def test_the_pages_of_a_real_list(
    server: ServerProcess, context: Contexts, write: Write, chat_id: str
) -> None:
    """The server's own pages fit together."""
    for n in range(5):
        write(f"{chat_id}-{n}", "hello")
    page = context().new_page()
    # Pages of two: thousands of chats would take long to make.
    page.route(
        "**/api/chats?*",
        lambda route: route.continue_(url=re.sub(r"limit=\d+", "limit=2", route.request.url)),
    )
    page.goto(f"{server.url}/demo/agent")
    for n in range(5):
        expect(entry(page, f"{chat_id}-{n}")).to_be_visible()
        close(server, f"{chat_id}-{n}")
        expect(entry(page, f"{chat_id}-{n}")).to_be_hidden()
    page.reload()
    page.get_by_role("button", name="Closed").click()
    for last in (3, 1):
        expect(entry(page, f"{chat_id}-{last}")).to_be_visible()
        expect(entry(page, f"{chat_id}-{last - 1}")).to_be_hidden()
        page.get_by_role("button", name="Show more").click()
    expect(entry(page, f"{chat_id}-0")).to_be_visible()
    assert order(page)[:5] == [f"{chat_id}-{n}" for n in range(4, -1, -1)]


def test_a_failed_page_can_be_requested_again(server: ServerProcess, context: Contexts) -> None:
    """The button says that more chats could not be loaded, and tries again."""
    page = context().new_page()
    chats = Listed(page, server)
    for n in range(201):
        chats.add(f"c{n}", status="closed")
    page.route("**/api/chats?*before=*", lambda route: route.abort(), times=1)
    page.goto(f"{server.url}/demo/agent")
    page.get_by_role("button", name="Closed").click()
    page.get_by_role("button", name="Show more").click()
    page.get_by_role("button", name="That failed. Try again").click()
    expect(page.locator(".chat")).to_have_count(201)


def test_the_list_is_bounded(server: ServerProcess, context: Contexts) -> None:
    """However many chats there are, the desk shows the latest 2,000, and says so."""
    page = context().new_page()
    chats = Listed(page, server, 2_100)
    page.goto(f"{server.url}/demo/agent")
    expect(page.locator(".chat")).to_have_count(2_000)
    expect(page.get_by_text("The desk shows the 2,000 latest chats.")).to_be_attached()
    listening(page)
    chats.tell("new", "chat_opened")
    expect(page.locator(".chat").first).to_have_attribute("data-id", "new")
    expect(page.locator(".chat")).to_have_count(2_000)
