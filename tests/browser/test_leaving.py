"""What a widget leaves when the page removes it: no listener, timer, request, socket or object."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, Route

from tests.browser.leaving import COUNTS, collected, remaining
from tests.browser.shop import Shop, element
from tests.browser.stage import connected, opened

ADD = """(attributes) => {
    const html = `<eclipse-chat token-url="/api/ws/token" chat-id="c" ${attributes}></eclipse-chat>`;
    document.body.insertAdjacentHTML("beforeend", html);
    (window.refs ??= []).push(new WeakRef(document.querySelector("eclipse-chat")));
}"""
ANSWERED = """
    !remaining().requests
    && document.querySelector("eclipse-chat").shadowRoot.querySelector(".launch").ariaBusy != "true"
"""
USE = """
    const input = e.shadowRoot.querySelector("textarea");
    input.value = "hello";
    input.dispatchEvent(new Event("input", { bubbles: true }));
    input.form.requestSubmit();
    input.value = "and";
    input.dispatchEvent(new Event("input", { bubbles: true }));
    const detail = { data: { userId: "a", isTyping: true } };
    e.chat.dispatchEvent(new CustomEvent("typing", { detail }));
    const wasInline = e.inline;
    for (const inline of [!wasInline, wasInline]) e.inline = inline;
"""


def use(play: Shop, attributes: str) -> None:
    """Add a widget, open it, write, hear an answer, close it, and hear another one."""
    page = play.page
    page.evaluate(ADD, attributes)
    element(page, "e.show()")
    opened(page)
    connected(page)
    element(page, USE)
    page.wait_for_function("!document.querySelector('eclipse-chat').chat.pending.length")
    play.write("an answer", "m1")
    page.locator("eclipse-chat .bubble", has_text="an answer").wait_for(state="attached")
    element(page, "e.hide()")
    play.write("another", "m2")
    page.wait_for_function("[document.querySelector('eclipse-chat')].some((e) => e.inline || e.unread)")


def remove(page: Page) -> None:
    """Remove the widget, and wait for what may still run for a second: the pace of messages."""
    element(page, "e.remove()")
    page.wait_for_function("!remaining().timers.length", timeout=3_000)


@pytest.mark.parametrize("width", [1280, 390], ids=["desktop", "phone"])
def test_a_widget_that_is_removed_leaves_nothing(shop: Callable[..., Shop], width: int) -> None:
    """Ten widgets, each opened, used and removed, leave the page as it was, and can be collected."""
    play = shop(viewport={"width": width, "height": 700})
    page = play.show(body="", script=COUNTS, is_hidden=True)
    page.wait_for_function("!!customElements.get('eclipse-chat')")
    before = remaining(page)
    for attributes in ("", "inline", "open", "lazy", "theme=dark") * 2:
        use(play, attributes)
        remove(page)
    assert remaining(page) == before
    assert collected(page) == [True] * 10


def test_a_panel_that_is_replaced_is_gone(shop: Callable[..., Shop]) -> None:
    """Each change of `inline` makes a new panel: the last one gets no more events, and can be collected."""
    page = shop().show(attributes="open", script=COUNTS)
    opened(page)
    element(page, "e.inline = true; e.inline = false")
    before = remaining(page)
    made = """
        const { shadowRoot } = e;
        window.refs = [];
        for (let i = 0; i < 10; i++) {
            e.inline = !e.inline;
            const parts = shadowRoot.querySelectorAll(".panel, .launch");
            if (i < 9) refs.push(...[...parts].map((part) => new WeakRef(part)));
        }
    """
    element(page, made)
    connected(page)
    assert remaining(page)["listeners"] == before["listeners"]
    assert collected(page) == [True] * 18


def hang(route: Route) -> None:
    """Never answer."""


def refuse(route: Route) -> None:
    """Answer that a token can be had later."""
    route.fulfill(status=503, headers={"Retry-After": "600"})


def mislead(route: Route) -> None:
    """Answer the address of a server that is not there."""
    route.fulfill(json={"token": "t", "wsUrl": "ws://127.0.0.1:1/"})


WAITS: dict[str, tuple[str, Callable[[Route], None], str]] = {
    "no token": ("**/token*", hang, ""),
    "a token later": ("**/token*", refuse, ""),
    "no server": ("**/token*", mislead, ""),
    "no history": ("**/messages*", hang, "open"),
    "a history that fails": ("**/messages*", lambda route: route.abort(), "open"),
    "no panel": ("**/widget.panel.js*", lambda route: route.abort(), "inline"),
    "a panel of another build": (
        "**/widget.panel.js*",
        lambda route: route.fulfill(content_type="text/javascript", body="export const build = 0"),
        "inline",
    ),
}


@pytest.mark.parametrize(("address", "answer", "attributes"), WAITS.values(), ids=WAITS)
def test_a_widget_that_is_removed_waits_for_nothing(
    shop: Callable[..., Shop],
    complaints: list[str],
    address: str,
    answer: Callable[[Route], None],
    attributes: str,
) -> None:
    """Whatever has not been answered or has failed so far is neither waited for nor tried again."""
    page = shop().show(body="", script=COUNTS, is_hidden=True)
    page.wait_for_function("!!customElements.get('eclipse-chat')")
    before = remaining(page)
    page.route(address, answer)
    with page.expect_request(address):
        page.evaluate(ADD, attributes)
    if answer is not hang:
        page.wait_for_function(ANSWERED)
    element(page, "e.remove()")
    page.wait_for_function("!remaining().requests", timeout=3_000)
    assert remaining(page) == before
    assert collected(page) == [True]
    complaints.clear()
