"""What the widget calls people, days and itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.acts import message
from tests.browser.shop import BUBBLES, CHAT, Shop, element
from tests.browser.stage import opened


def test_the_language_comes_from_around_a_shadow_too(shop: Callable[..., Shop]) -> None:
    """Inside another component's shadow the nearest `lang` is the one around that component."""
    page = shop().show(
        '<p lang="de"></p>' + CHAT,
        script="""addEventListener("DOMContentLoaded", () => {
            const root = document.querySelector("p").attachShadow({ mode: "open" });
            root.append(document.querySelector("eclipse-chat"));
        });""",
    )
    expect(page.locator("p eclipse-chat").get_by_role("button", name="Chat öffnen")).to_be_visible()


def test_today_ends_at_midnight(shop: Callable[..., Shop]) -> None:
    """A page that stays open over midnight doesn't call yesterday's messages today's when it is seen."""
    play = shop()
    play.page.clock.install(time="2026-01-01T23:59:40")
    page = play.show(attributes='open history-url="none"')
    opened(page)
    play.write(timestamp="2026-01-01T23:59:41")
    page.clock.run_for(1_000)
    expect(page.locator("eclipse-chat .day")).to_have_text("Today")
    for _ in range(3):
        page.clock.run_for(10_000)
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.clock.run_for(1_000)
    expect(page.locator("eclipse-chat .day")).to_have_text("Yesterday")


def test_a_date_may_be_a_number(shop: Callable[..., Shop]) -> None:
    """An application that answers times in milliseconds gets them shown, and not the present time."""
    play = shop()
    play.history += [{**message(1, "old"), "createdAt": 1_767_225_600_000}]
    page = play.show(attributes="open")
    expect(page.locator("eclipse-chat .day")).to_contain_text("January 1, 2026")


@pytest.mark.parametrize("name", [" ", "\u200b", "\u2066\u2069"])
def test_a_blank_name_does_not_count(shop: Callable[..., Shop], name: str) -> None:
    """An invisible name doesn't count as a name: the role is shown instead."""
    play = shop()
    play.history += [message(1, "hello", name=name)]
    page = play.show(attributes="open")
    expect(page.locator("eclipse-chat .who")).to_have_text("Support")


@pytest.mark.parametrize("role", [None, "constructor", "placeholder"])
def test_an_unknown_role_is_not_shown_as_a_name(shop: Callable[..., Shop], role: str | None) -> None:
    """An unknown or missing role is not shown as `null`, as a function or as another text."""
    play = shop()
    play.history += [{**message(1, "hello"), "role": role, "sender": None}]
    page = play.show(attributes="open")
    page.locator(BUBBLES).wait_for()
    shown = page.locator("eclipse-chat .who").inner_text()
    assert not any(word in shown for word in ("null", "function", "Write"))


def test_a_name_turns_only_itself(shop: Callable[..., Shop]) -> None:
    """A name with a direction of its own doesn't reverse the words and names beside it."""
    play = shop()
    play.history += [message(1, "one", name="Ada\u202e"), message(2, "two", id="b", name="Bob")]
    page = play.show(attributes="open")
    expect(page.locator(BUBBLES)).to_have_count(2)
    play.tell("typing", userId="a", isTyping=True)
    expect(page.locator("eclipse-chat .typing")).to_be_visible()
    order = element(
        page,
        """return [[".typing", "is", "typing"], [".subtitle", "B", "b"]].map(([part, ...words]) => {
            const walker = document.createTreeWalker(e.shadowRoot.querySelector(part), NodeFilter.SHOW_TEXT);
            const left = (word) => {
                walker.currentNode = walker.root;
                for (let node; (node = walker.nextNode()); ) {
                    const at = node.data.lastIndexOf(word);
                    if (at < 0) continue;
                    const range = new Range();
                    range.setStart(node, at);
                    range.setEnd(node, at + 1);
                    return range.getBoundingClientRect().left;
                }
            };
            return left(words[0]) < left(words[1]);
        });""",
    )
    assert order == [True, True]


def test_a_line_has_the_direction_of_its_text(shop: Callable[..., Shop]) -> None:
    """On a page that is read from the right, English texts with a name in them still begin with the name."""
    play = shop()
    play.history += [message(1, "one")]
    page = play.show(attributes='open dir="rtl"')
    expect(page.locator(BUBBLES)).to_have_count(1)
    play.tell("typing", userId="a", isTyping=True)
    expect(page.locator("eclipse-chat .typing")).to_be_visible()
    name, rest = element(
        page,
        """const text = e.shadowRoot.querySelector(".typing").lastChild.firstChild;
        return ["Ada", "typing"].map((word) => {
            const range = new Range();
            range.setStart(text, text.data.indexOf(word));
            range.setEnd(text, text.data.indexOf(word) + word.length);
            return range.getBoundingClientRect().left;
        });""",
    )
    assert name < rest


def test_an_empty_text_leaves_no_separator(shop: Callable[..., Shop]) -> None:
    """If the page sets an empty text for `edited`, nothing is beside the time either."""
    play = shop()
    page = play.show(attributes="""open texts='{"edited": ""}'""")
    opened(page)
    play.write("old")
    page.locator(BUBBLES).last.wait_for()
    sender = {"id": "a", "name": "Ada"}
    play.tell(
        "message_updated",
        id="m1",
        content="new",
        role="AGENT",
        sender=sender,
        updatedAt="2026-02-02T00:00:00Z",
    )  # type: ignore[arg-type]
    expect(page.locator(BUBBLES).last).to_have_text("new")
    assert not page.locator("eclipse-chat .meta").inner_text().strip().endswith("·")


@pytest.mark.parametrize(
    ("text", "part"), [("placeholder", "textbox"), ("title", "dialog"), ("close", "button")]
)
def test_an_empty_text_keeps_accessible_names(shop: Callable[..., Shop], text: str, part: Any) -> None:
    """A page that wants no placeholder, title or such leaves field, panel and button their names."""
    page = shop().show(attributes=f"""open texts='{{"{text}": ""}}'""")
    opened(page)
    expect(page.locator("eclipse-chat").get_by_role(part).first).to_have_accessible_name(re.compile("."))


def test_each_chat_id_in_the_historys_address_is_filled_in(shop: Callable[..., Shop]) -> None:
    """An address may name the chat more than once."""
    page = shop().show(attributes='history-url="/api/chats/{chatId}/messages?of={chatId}"')
    with page.expect_request("**/messages*") as asked:
        element(page, "e.show()")
    assert asked.value.url.endswith("/api/chats/c/messages?of=c")


def test_an_agent_who_joins_is_announced_once(shop: Callable[..., Shop]) -> None:
    """The same notice of an agent's arrival, received twice, is announced once."""
    play = shop()
    page = play.show(attributes="open")
    opened(page)
    for _ in range(2):
        play.tell("agent_joined", agentId="a", agentName="Ada")
    play.write()
    expect(page.locator("eclipse-chat [role=status] p").last).to_have_text("Ada: hello")
    assert page.locator("eclipse-chat [role=status] p").all_text_contents().count("Ada joined the chat") == 1


def test_an_announcement_is_not_cut_inside_a_character(shop: Callable[..., Shop]) -> None:
    """Of a long message screen readers get whole characters, never half of an emoji."""
    play = shop()
    page = play.show()
    play.write("x" * 494 + "😀" * 3)
    said = page.locator("eclipse-chat [role=status] p")
    expect(said).to_have_count(1)
    assert element(page, "return e.shadowRoot.querySelector('[role=status] p').textContent.isWellFormed()")
