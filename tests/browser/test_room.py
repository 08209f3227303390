"""The room that a page gives the widget: scaled, turned, moved, or with names and colours that don't fit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.browser.acts import active, message
from tests.browser.shop import BUBBLES, CHAT, INLINE, Shop, element
from tests.browser.stage import open_panel, opened

FITS = """(e) => [".panel", ".x", ".input", ".send"].every((part) => {
    const { left, top, right, bottom } = e.shadowRoot.querySelector(part).getBoundingClientRect();
    return left > -1 && top > -1 && right < innerWidth + 1 && bottom < innerHeight + 1;
})"""


@pytest.mark.parametrize(("style", "width"), [("html { zoom: 1.5 }", 400), ("body { zoom: 1.25 }", 1000)])
def test_the_whole_panel_is_reachable_on_a_zoomed_page(
    shop: Callable[..., Shop], style: str, width: int
) -> None:
    """On a page with `zoom` the close button and the field are in the window, on a phone, too."""
    window = {"width": width, "height": 600}
    page = shop(viewport=window).show(head=f"<style>{style}</style>", attributes="open")
    opened(page)
    assert page.locator("eclipse-chat").evaluate(FITS)


def test_the_panel_fills_a_phone_on_a_zoomed_out_page(shop: Callable[..., Shop]) -> None:
    """Whatever the page's `zoom`, a phone's panel is as high as its screen."""
    page = shop(viewport={"width": 400, "height": 600}).show(
        head="<style>html { zoom: .5 }</style>", attributes="open"
    )
    opened(page)
    box = page.locator("eclipse-chat .panel").bounding_box()
    assert box is not None
    assert (round(box["width"]), round(box["height"])) == (400, 600)


@pytest.mark.parametrize("style", ["zoom: 1.5", "transform: scale(.5)"])
def test_the_reading_position_stays_in_a_scaled_box(shop: Callable[..., Shop], style: str) -> None:
    """Scrolling up through an inline chat that is zoomed or scaled loads earlier rows without a jump."""
    play = shop()
    play.history += [message(i, f"message {i}") for i in range(400)]
    page = play.show(f'<div style="{style}">{INLINE}</div>')
    expect(page.locator(BUBBLES).last).to_have_text("message 399")
    worst = element(
        page,
        """const log = e.shadowRoot.querySelector(".log");
        const turn = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
        const topOf = (one) => one.getBoundingClientRect().top;
        return (async () => {
            let worst = 0;
            for (let i = 0; i < 30; i++) {
                log.scrollTop -= 250;
                const row = [...log.querySelectorAll("li[data-id]")].find((one) => topOf(one) > topOf(log));
                const was = topOf(row);
                await turn();
                await turn();
                worst = Math.max(worst, Math.abs(topOf(row) - was));
            }
            return worst;
        })();""",
    )
    assert worst < 5


def test_inline_that_is_false_takes_no_room(shop: Callable[..., Shop]) -> None:
    """`inline="false"`, as React 18 writes it, looks like no `inline` at all: the page is not moved."""
    page = shop().show(attributes='inline="false"')
    assert element(page, "return getComputedStyle(e).display") == "contents"


def test_long_names_stay_inside(shop: Callable[..., Shop]) -> None:
    """A name without a place to break moves nothing out of the panel when its agent joins or types."""
    play = shop()
    page = play.show(attributes="open")
    opened(page)
    play.tell("agent_joined", agentId="a", agentName="A" * 200)
    play.write(sender={"id": "a", "name": "A" * 200})
    play.tell("typing", userId="a", isTyping=True)
    expect(page.locator("eclipse-chat .typing")).to_be_visible()
    too_wide = element(
        page,
        """return [".panel", ".log", ".typing"].filter((part) => {
            const { scrollWidth, clientWidth } = e.shadowRoot.querySelector(part);
            return scrollWidth > clientWidth;
        });""",
    )
    assert too_wide == []


@pytest.mark.parametrize("name", ["background", "accent", "radius"])
def test_a_registered_property_of_the_page_changes_no_colour(shop: Callable[..., Shop], name: str) -> None:
    """`@property --background` of a page, which isn't inherited there, has no effect inside the widget."""
    rule = '{ syntax: "*"; inherits: false; initial-value: red }'
    looks = []
    for head in ("", f"<style>@property --{name} {rule}</style>"):
        play = shop()
        page = play.show(head=head, attributes="open")
        opened(page)
        play.write()
        page.locator(BUBBLES).last.wait_for()
        looks.append(
            element(
                page,
                """return [".panel", ".head", ".bubble", ".input"].map((part) => {
                    const look = getComputedStyle(e.shadowRoot.querySelector(part));
                    return [part, look.color, look.backgroundColor, look.borderRadius];
                });""",
            )
        )
    assert looks[0] == looks[1]


def test_a_page_that_tidies_up_attributes_changes_no_colours(shop: Callable[..., Shop]) -> None:
    """Libraries that make a page what the server rendered take unknown attributes away: it stays dark."""
    page = shop(color_scheme="dark").show(attributes="open")
    opened(page)
    colour = "return getComputedStyle(e.shadowRoot.querySelector('.panel')).backgroundColor"
    dark = element(page, colour)
    element(page, "for (const name of ['dark', 'state']) e.removeAttribute(name)")
    assert element(page, colour) == dark


def test_a_reader_further_up_keeps_the_place_when_a_phone_is_turned(shop: Callable[..., Shop]) -> None:
    """The message that is on top stays in sight when the panel gets another width."""
    play = shop(viewport={"width": 700, "height": 390})
    play.history += [message(i, "word " * 60) for i in range(100)]
    page = play.show(attributes="open")
    expect(page.locator(BUBBLES)).to_have_count(100)
    top = """const log = e.shadowRoot.querySelector(".log"), { top, bottom } = log.getBoundingClientRect();
        const placed = (row) => [row.dataset.id, row.getBoundingClientRect()];
        const rows = [...log.querySelectorAll("li[data-id]")].map(placed);
        return new Promise((done) => requestAnimationFrame(() => setTimeout(() => done(
            rows.filter(([, at]) => at.bottom > top + 1 && at.top < bottom - 1).map(([id]) => id)))));"""
    element(page, "e.shadowRoot.querySelector('.log').scrollTop = 5000")
    first = element(page, top)[0]
    page.set_viewport_size({"width": 300, "height": 700})
    element(page, top)
    assert first in element(page, top)


def test_a_move_that_keeps_the_state_of_elements_keeps_the_chats(shop: Callable[..., Shop]) -> None:
    """`moveBefore()` takes no focus away, closes nothing and reconnects nothing."""
    play = shop()
    page = play.show("<p></p>" + CHAT)
    open_panel(page)
    element(page, "window.chat = e.chat; document.querySelector('p').moveBefore(e, null)")
    assert active(page) == ".input"
    assert element(page, "return e.chat == window.chat")
