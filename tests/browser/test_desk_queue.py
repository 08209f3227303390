"""The queue on the agents' desk: who waits and for how long, whose a chat is, filters, and the search."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.acts import Contexts, Open, Write
from tests.browser.desk import Listed, entry, listening, order
from tests.browser.stage import ServerProcess, connected, say

AT = "2026-01-01T12:00:00.000Z"
"""Now, in tests with a clock of their own."""


def test_who_waits_longest_is_first(server: ServerProcess, context: Contexts) -> None:
    """Waiting customers come first, the longest wait on top; then the other chats, the latest on top."""
    page = context().new_page()
    chats = Listed(page, server, 2)
    chats.add("second", waitingSince="2026-01-01T11:58:00.000Z")
    chats.add("first", waitingSince="2026-01-01T11:50:00.000Z")
    page.goto(f"{server.url}/demo/agent")
    listening(page)
    assert order(page) == ["first", "second", "c1", "c0"]
    chats.tell("first", waitingSince=None)
    expect(page.locator(".chat").first).to_have_attribute("data-id", "second")
    assert order(page) == ["second", "first", "c1", "c0"]


def test_the_wait_goes_on(server: ServerProcess, context: Contexts) -> None:
    """How long a customer waits is shown in seconds, goes on by itself, and stands out after five minutes."""
    page = context().new_page()
    page.clock.install(time=AT)
    chats = Listed(page, server)
    chats.add("c", waitingSince="2026-01-01T11:55:05.000Z")
    chats.add("d", waitingSince="2026-01-01T08:00:00.000Z")
    page.goto(f"{server.url}/demo/agent")
    wait = entry(page, "c").locator("time")
    expect(wait).to_have_text(re.compile(r"4:5\d"))
    expect(wait).to_have_class("wait")
    page.clock.run_for(10_000)
    expect(wait).to_have_text(re.compile(r"5:0\d"))
    expect(wait).to_have_class("wait long")
    expect(entry(page, "d").locator("time")).to_have_text("4 h")


def test_an_answer_ends_the_wait(server: ServerProcess, desk: Open, write: Write, chat_id: str) -> None:
    """The customer's first message begins the wait, and the agent's answer ends it."""
    page = desk(server.url)
    connected(page)
    listening(page)
    write(chat_id, "hello")
    expect(entry(page, chat_id).locator("time")).to_have_class("wait")
    say(page.get_by_role("textbox", name="Write an answer…"), "hello")
    expect(entry(page, chat_id).locator("time")).to_have_class("")


def test_filters(server: ServerProcess, context: Contexts) -> None:
    """The filters show all open chats, the agent's own, those of nobody, or closed ones, and how many."""
    page = context().new_page()
    chats = Listed(page, server)
    for name, assignee in (("mine", "agent_1"), ("hers", "agent_3"), ("nobodys", None)):
        chats.add(name, assignee=assignee)
    chats.add("done", status="closed", assignee="agent_1")
    page.goto(f"{server.url}/demo/agent")
    listening(page)
    filters = page.get_by_role("group", name="Which chats").get_by_role("button")
    expect(filters).to_have_text(["All 3", "Mine 1", "Unassigned 1", "Closed"])
    expect(filters.first).to_have_attribute("aria-pressed", "true")
    for who, text in (("mine", "You"), ("hers", "Chiyo Marsh"), ("nobodys", "Unassigned")):
        expect(entry(page, who).locator(".who")).to_have_text(text)
    for n, name in ((1, "mine"), (2, "nobodys"), (3, "done")):
        filters.nth(n).click()
        expect(filters.nth(n)).to_have_attribute("aria-pressed", "true")
        expect(page.locator(".chat")).to_have_count(1)
        expect(entry(page, name)).to_be_visible()
    page.get_by_label("You are").select_option("Chiyo Marsh")
    filters.nth(1).click()
    expect(entry(page, "hers").locator(".who")).to_have_text("You")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Mine", "You have no chats."),
        ("Unassigned", "Every open chat has somebody"),
        ("Closed", "No chats have been closed"),
    ],
)
def test_an_empty_filter_says_so(server: ServerProcess, context: Contexts, name: str, text: str) -> None:
    """An empty list says what is missing from it."""
    page = context().new_page()
    chats = Listed(page, server)
    chats.add("c", assignee="agent_2")
    page.goto(f"{server.url}/demo/agent")
    listening(page)
    page.get_by_role("button", name=name).click()
    expect(page.get_by_text(text)).to_be_visible()
    page.get_by_role("button", name="All").click()
    expect(page.locator("#none")).to_be_hidden()


def test_a_chat_is_assigned_and_closed(
    server: ServerProcess, context: Contexts, desk: Open, write: Write, chat_id: str
) -> None:
    """Every desk sees at once who has a chat, that it was closed, and that its customer is back."""
    write(chat_id, "hello")
    page, other = desk(server.url), context().new_page()
    other.goto(f"{server.url}/demo/agent?agent=agent_2&chat={chat_id}")
    for here in (page, other):
        connected(here)
        listening(here)
    page.get_by_role("button", name="Assign to me").click()
    expect(page.get_by_role("button", name="Release")).to_be_visible()
    expect(entry(other, chat_id)).to_contain_text("Ada Okafor")
    other.get_by_role("button", name="Take over").click()
    expect(entry(page, chat_id)).to_contain_text("Bruno Lindqvist")
    other.get_by_role("button", name="Release").click()
    expect(entry(page, chat_id)).to_contain_text("Unassigned")
    page.locator("#close").click()
    for here in (page, other):
        expect(entry(here, chat_id)).to_be_hidden()
        expect(here.locator("#about")).to_have_text("Closed, until the customer writes again")
        expect(here.locator("#close")).to_be_hidden()
    write(chat_id, "one more thing")
    for here in (page, other):
        expect(entry(here, chat_id)).to_be_visible()
        expect(here.locator("#close")).to_be_visible()


def test_a_failed_change_is_reported(listed: tuple[Page, Listed]) -> None:
    """A chat that could not be assigned stays as it is, and the desk says that it failed."""
    page, _ = listed
    entry(page, "c1").click()
    page.route("**/api/chats/c1/assign", lambda route: route.abort(), times=1)
    page.get_by_role("button", name="Assign to me").click()
    expect(page.locator("#about")).to_have_text("That failed. Try again.")
    expect(entry(page, "c1")).to_contain_text("Unassigned")
    entry(page, "c0").click()
    expect(page.locator("#about")).to_have_text("Chat c0")


def test_search(server: ServerProcess, context: Contexts, write: Write, chat_id: str) -> None:
    """A search finds texts and ids in open and closed chats, says if there is nothing, and can be left."""
    write(chat_id, f"a lamp for {chat_id}", "something else")
    page = context().new_page()
    page.goto(f"{server.url}/demo/agent")
    listening(page)
    box = page.get_by_role("searchbox", name="Search in chats")
    box.fill(f"LAMP for {chat_id}")
    expect(page.locator(".chat")).to_have_count(1)
    expect(entry(page, chat_id)).to_contain_text("something else")
    expect(page.get_by_role("group", name="Which chats")).to_be_hidden()
    box.fill("no such words anywhere")
    expect(page.get_by_text("Nothing is found for “no such words anywhere”.")).to_be_visible()
    page.route("**/api/chats?*query=*", lambda route: route.abort(), times=1)
    box.fill("again")
    expect(page.get_by_text("The search failed. Try again.")).to_be_visible()
    box.press("Escape")
    expect(page.locator("#none")).to_be_hidden()
    expect(entry(page, chat_id)).to_be_visible()


def test_a_slow_search_does_not_replace_a_later_one(listed: tuple[Page, Listed]) -> None:
    """The results of an earlier text that arrive late are dropped."""
    page, chats = listed
    held = []
    page.route("**/api/chats?*query=c1*", lambda route: held.append(route))
    box = page.get_by_role("searchbox", name="Search in chats")
    with page.expect_request("**/api/chats?*query=c1*"):
        box.fill("c1")
    box.fill("c2")
    expect(page.locator(".chat")).to_have_count(1)
    with page.expect_response("**/api/chats?*query=c1*"):
        chats.answer(held[0])
    page.evaluate("() => new Promise((done) => setTimeout(done, 20))")
    assert order(page) == ["c2"]


def test_a_narrow_desk(server: ServerProcess, context: Contexts, write: Write, chat_id: str) -> None:
    """On a phone nothing is wider than the screen, and each control has a name and 36 pixels."""
    write(chat_id, "hello " * 50)
    page = context(viewport={"width": 390, "height": 844}).new_page()
    page.goto(f"{server.url}/demo/agent")
    listening(page)
    for _ in range(2):
        assert page.evaluate("() => document.documentElement.scrollWidth") == 390
        for button in page.get_by_role("button").all():
            box = button.bounding_box()
            assert box is not None
            assert min(box["height"], box["width"]) >= 32
        if entry(page, chat_id).is_visible():
            entry(page, chat_id).click()
            connected(page)
    expect(page.get_by_role("button", name="Assign to me")).to_be_visible()
    page.get_by_role("button", name="Assign to me").click()
    expect(page.get_by_role("button", name="Release")).to_be_visible()
