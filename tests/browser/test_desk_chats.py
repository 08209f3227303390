"""Unread messages on the agents' desk, what customers learn about agents, and how answers are written."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from tests.browser.acts import Contexts, Open, Write
from tests.browser.desk import Listed, entry, listening, post
from tests.browser.stage import Cable, ServerProcess, connected, open_panel, say

TITLE = "Demo: agents’ desk – Penumbra"

# What is unread


def test_answers_are_not_unread(
    server: ServerProcess, context: Contexts, desk: Open, write: Write, chat_id: str
) -> None:
    """What agents write counts nowhere: in the list, in the title, after a reload, on another desk."""
    write(chat_id, "one", "two")
    page = desk(server.url)
    connected(page)
    say(page.get_by_role("textbox"), "mine", "and mine")
    expect(page.get_by_text("· Sent")).to_have_count(1)
    other = context().new_page()
    other.goto(f"{server.url}/demo/agent?agent=agent_2")
    page.goto(f"{server.url}/demo/agent")
    for here in (page, other):
        expect(entry(here, chat_id)).to_contain_text("and mine")
        expect(entry(here, chat_id).get_by_role("img")).to_be_hidden()
        listening(here)
    write(chat_id, "three")
    for here in (page, other):
        expect(entry(here, chat_id).get_by_role("img", name="1 unread")).to_be_visible()


def test_the_title_counts_what_customers_wrote(listed: tuple[Page, Listed]) -> None:
    """The sum in front of the title, and over the list, is of what the customers wrote since the answers."""
    page, chats = listed
    expect(page).to_have_title(f"(3) {TITLE}")
    chats.tell("c0", received=9, answered=7, count=30)
    expect(page).to_have_title(f"(4) {TITLE}")
    expect(page.locator("#total")).to_have_text("4")
    for n in range(3):
        chats.tell(f"c{n}", received=9, answered=9, count=30)
    expect(page).to_have_title(TITLE)


def test_what_one_desk_has_shown_is_read_in_its_other_tabs(
    server: ServerProcess, desk: Open, write: Write, chat_id: str
) -> None:
    """Two tabs of a browser agree, and neither forgets what the other one has shown."""
    write(chat_id, "one")
    write(f"{chat_id}-2", "one")
    page = desk(server.url)
    other = page.context.new_page()
    other.goto(f"{server.url}/demo/agent")
    expect(entry(other, chat_id).get_by_role("img")).to_be_hidden()
    entry(other, f"{chat_id}-2").click()
    for here in (page, other):
        expect(entry(here, f"{chat_id}-2").get_by_role("img")).to_be_hidden()
    page.goto(f"{server.url}/demo/agent")
    for name in (chat_id, f"{chat_id}-2"):
        expect(entry(page, name)).to_be_visible()
        expect(entry(page, name).get_by_role("img")).to_be_hidden()


def test_messages_of_a_new_database_are_unread(listed: tuple[Page, Listed]) -> None:
    """If a chat starts again under its old name, what was read before doesn't count as read."""
    page, chats = listed
    chats.tell("c0", received=9)
    expect(entry(page, "c0").get_by_role("img", name="9 unread")).to_be_visible()
    entry(page, "c0").click()
    expect(entry(page, "c0").get_by_role("img")).to_be_hidden()
    chats.chats = {}
    chats.add("c0", received=2)
    page.reload()
    expect(entry(page, "c0").get_by_role("img", name="2 unread")).to_be_visible()


def test_messages_of_a_disconnected_chat_are_unread(
    server: ServerProcess, desk: Open, write: Write, chat_id: str
) -> None:
    """A selected chat that the agent is not in any more shows nothing new: its messages are not read yet."""
    write(chat_id, "one")
    page = desk(server.url)
    connected(page)
    assert post(server, f"/api/chats/{chat_id}/disconnect", {"userId": "agent_1"}) == 200
    expect(page.locator("#about")).to_have_text("This chat has been closed.")
    listening(page)
    write(chat_id, "two")
    expect(entry(page, chat_id).get_by_role("img", name="1 unread")).to_be_visible()


# What customers notice of agents


def test_opening_a_chat_announces_nobody(
    server: ServerProcess, customer: Open, context: Contexts, write: Write, chat_id: str
) -> None:
    """Opening a chat, or viewing it as another agent, tells the customer nothing; the first answer does."""
    write(chat_id, "hello")
    page, agent = customer(server.url), context().new_page()
    open_panel(page)
    connected(page)
    rows = page.locator("eclipse-chat li[class^=joined], eclipse-chat .bubble")
    agent.goto(f"{server.url}/demo/agent")
    entry(agent, chat_id).click()
    connected(agent)
    agent.get_by_label("You are").select_option("Bruno Lindqvist")
    connected(agent)
    say(agent.get_by_role("textbox"), "first", "second")
    joined = re.compile("^.?Bruno Lindqvist.? joined the chat$")
    expect(rows).to_have_text(["hello", joined, "first", "second"])
    agent.goto(f"{server.url}/demo/agent?chat={chat_id}")
    say(agent.get_by_role("textbox"), "third")
    expect(rows).to_have_text(["hello", joined, "first", "second", "third"])


def test_each_agent_is_announced_with_their_own_answer(
    server: ServerProcess, customer: Open, desk: Open
) -> None:
    """A colleague who takes over is announced too, and nobody is announced again for coming back."""
    page, agent = customer(server.url), desk(server.url)
    open_panel(page)
    connected(page, agent)
    rows = page.locator("eclipse-chat li[class^=joined], eclipse-chat .bubble")
    for count, name in enumerate(("Ada Okafor", "Chiyo Marsh", "Ada Okafor")):
        agent.get_by_label("You are").select_option(name)
        connected(agent)
        say(agent.get_by_role("textbox"), f"from {name}")
        expect(page.locator("eclipse-chat .bubble")).to_have_count(count + 1)
    ada, chiyo = (re.compile(f"{name}.? joined the chat") for name in ("Ada Okafor", "Chiyo Marsh"))
    expect(rows).to_have_text([ada, "from Ada Okafor", chiyo, "from Chiyo Marsh", "from Ada Okafor"])


def test_a_ready_answer_is_there_to_be_edited(server: ServerProcess, customer: Open, desk: Open) -> None:
    """A ready answer goes into the field, where it can be changed; it is sent when the agent sends it."""
    page, agent = customer(server.url), desk(server.url)
    box = agent.get_by_role("textbox")
    open_panel(page)
    connected(page, agent)
    agent.get_by_role("button", name="Let me look that up for you.").click()
    expect(box).to_have_value("Let me look that up for you.")
    expect(box).to_be_focused()
    box.press_sequentially(" One moment.")
    box.press("Enter")
    expect(page.locator("eclipse-chat .bubble")).to_have_text(["Let me look that up for you. One moment."])
    expect(box).to_have_value("")


def test_a_ready_answer_keeps_the_text_in_the_field(server: ServerProcess, desk: Open) -> None:
    """It is inserted at the cursor, replaces the selection, and is kept like typed text."""
    agent = desk(server.url)
    box = agent.get_by_role("textbox")
    connected(agent)
    box.press_sequentially("Hello Kim. Bye")
    for _ in range(4):
        box.press("Shift+ArrowLeft")
    agent.get_by_role("button", name="Your parcel leaves tomorrow.").click()
    expect(box).to_have_value("Hello Kim. Your parcel leaves tomorrow.")
    agent.reload()
    expect(box).to_have_value("Hello Kim. Your parcel leaves tomorrow.")


def test_an_answer_is_sent_although_another_chat_is_opened(
    *, cable: Cable, server: ServerProcess, customer: Open, desk: Open, write: Write, chat_id: str
) -> None:
    """An answer written without a connection is sent even if the agent has left the chat meanwhile."""
    write(f"{chat_id}-2", "next, please")
    page, agent = customer(server.url), desk(cable.url)
    open_panel(page)
    connected(page, agent)
    expect(entry(agent, f"{chat_id}-2")).to_be_visible()
    cable.cut()
    say(agent.get_by_role("textbox"), "on its way")
    entry(agent, f"{chat_id}-2").click()
    cable.restore()
    expect(page.locator("eclipse-chat .bubble")).to_have_text(["on its way"])
    expect(agent.locator("eclipse-chat")).to_have_count(1)
