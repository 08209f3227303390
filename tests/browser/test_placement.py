"""On somebody else's page: whatever the page does, the widget is where it belongs, and usable."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.hosts import CHAT, CORNERS, HOSTS, INHERITED, PHONE, SCROLLERS, TALL, WINDOW, Host
from tests.browser.stage import ServerProcess, connected, drawn, open_panel, site
from tests.browser.test_pages import PHONE as MOBILE

Show = Callable[..., Page]

# What a page's own rules could let in, by name, and what it is without them.
UNTOUCHED = {
    "letter-spacing": "normal",
    "word-spacing": "0px",
    "text-transform": "none",
    "text-align": "start",
    "text-indent": "0px",
    "text-shadow": "none",
    "font-style": "normal",
    "font-weight": "400",
    "visibility": "visible",
    "cursor": "text",
    "opacity": "1",
}


@pytest.fixture(scope="module")
def tab(browser: Browser) -> Iterator[Page]:
    """One tab for all of this module's pages."""
    with browser.new_context(viewport=WINDOW) as context:  # type: ignore[arg-type]
        context.set_default_timeout(5_000)
        yield context.new_page()


@pytest.fixture(scope="module")
def shop(server: ServerProcess) -> Iterator[str]:
    """Somebody's site; a test writes its page."""
    with site("<!doctype html>", "default-src * 'unsafe-inline'", server.url) as url:
        yield url


@pytest.fixture
def show(tab: Page, shop: str, server: ServerProcess) -> Iterator[Show]:
    """Shows a page that holds a widget; its script has a list `heard`."""
    errors: list[str] = []
    hear = lambda error: errors.append(str(error))  # noqa: E731
    tab.on("pageerror", hear)

    def visit(host: Host, **window: int) -> Page:
        html = (
            f'<!doctype html><html lang="en"><title>Shop</title><style>{host.style}</style>'
            f'<script type="module" src="{server.url}/widget.js"></script>'
            f"<script>const heard = []</script>{host.body}"
            f'<script type="module">{host.script}</script>'
        )
        html = html.replace("{chat}", f"visitor-{secrets.token_hex(4)}").replace(
            "{attributes}", host.attributes
        )
        tab.set_viewport_size({**WINDOW, **window})  # type: ignore[typeddict-item]
        tab.goto(shop)
        tab.set_content(html)
        return tab

    yield visit
    tab.remove_listener("pageerror", hear)
    tab.goto("about:blank")
    assert not errors


def is_hit(page: Page, x: float, y: float) -> bool:
    """Whether a click at this point meets the widget."""
    return bool(
        page.evaluate("([x, y]) => document.elementsFromPoint(x, y)[0]?.localName == 'eclipse-chat'", [x, y])
    )


def settled(page: Page) -> dict[str, float]:
    """Where the panel is, once it has stopped moving."""
    panel = page.locator("eclipse-chat .panel")
    panel.evaluate("panel => Promise.all(panel.getAnimations().map((moving) => moving.finished))")
    box = panel.bounding_box()
    assert box
    return {**box}


def assert_inside(page: Page) -> dict[str, float]:
    """The whole panel is in the window, and nothing covers it: its corners and its middle can be clicked."""
    box, window = settled(page), page.viewport_size
    assert window
    left, top, right, bottom = box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]
    assert left >= 0 and top >= 0 and right <= window["width"] and bottom <= window["height"], box
    for x in (left + 20, (left + right) / 2, right - 20):
        for y in (top + 20, (top + bottom) / 2, bottom - 20):
            assert is_hit(page, x, y), (x, y)
    return box


def computed(page: Page, selector: str, *names: str) -> dict[str, Any]:
    """Computed styles of an element of the widget."""
    found: dict[str, Any] = page.locator(f"eclipse-chat {selector}").first.evaluate(
        """(element, names) => {
            const style = getComputedStyle(element);
            return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(name)]));
        }""",
        list(names),
    )
    return found


@pytest.mark.parametrize("name", HOSTS)
def test_it_can_be_used_on_any_page(show: Show, name: str) -> None:
    """In its corner, above everything, as it always looks: opened, written in and closed."""
    page = show(HOSTS[name])
    connected(page)
    right, bottom = WINDOW["width"] - 50, WINDOW["height"] - 50
    page.wait_for_function(
        "([x, y]) => document.elementsFromPoint(x, y)[0]?.localName == 'eclipse-chat'", arg=[right, bottom]
    )
    page.mouse.click(right, bottom)
    box = assert_inside(page)
    assert (box["width"], box["height"]) == pytest.approx((384, 620), abs=1)
    assert computed(page, "textarea", *UNTOUCHED) == UNTOUCHED
    assert computed(page, ".panel", "background-color", "color") == {
        "background-color": "rgb(255, 255, 255)",
        "color": "rgb(27, 27, 43)",
    }
    assert computed(page, ".panel", "writing-mode", "font-size", "line-height", "white-space") == {
        "writing-mode": "horizontal-tb",
        "font-size": "15px",
        "line-height": "21.75px",
        "white-space": "normal",
    }
    assert computed(page, "textarea", "user-select")["user-select"] != "none"
    page.keyboard.type("by keyboard?")
    page.keyboard.press("Enter")
    page.keyboard.type("by mouse")
    send = page.get_by_role("button", name="Send").bounding_box()
    assert send
    page.mouse.click(send["x"] + 10, send["y"] + 10)
    expect(page.locator("eclipse-chat .bubble")).to_have_text(["by keyboard?", "by mouse"])
    page.mouse.wheel(0, 10)
    page.keyboard.press("Tab")
    page.keyboard.press("Escape")
    expect(page.locator("eclipse-chat .panel")).to_be_hidden()
    assert (
        page.evaluate("document.querySelector('eclipse-chat').shadowRoot.activeElement.className") == "launch"
    )
    # The keyboard's way between the page and the widget stays the page's business.
    assert set(page.evaluate("heard")) <= {"keydown Tab", "keyup Tab"}


@pytest.mark.parametrize("name", CORNERS)
def test_launcher_and_panel_stay_in_the_window(show: Show, name: str) -> None:
    """In either corner and at any distance from it, all of both can be seen and clicked."""
    host, window, corner = CORNERS[name]
    page = show(host, **window)
    launcher = page.locator("eclipse-chat .launch")
    box = launcher.bounding_box()
    size = page.viewport_size
    assert box and size
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    assert 30 <= x <= size["width"] - 30 and 30 <= y <= size["height"] - 30
    assert is_hit(page, x, y)
    if corner:
        assert (x > size["width"] / 2, y > size["height"] / 2) == corner
    page.mouse.click(x, y)
    box = assert_inside(page)
    assert box["width"] >= min(300, size["width"]) and box["height"] >= min(300, size["height"]) - 32
    if corner and size["width"] > 480:
        assert (box["x"] + box["width"] / 2 > size["width"] / 2) == corner[0]
    expect(page.locator("eclipse-chat .panel textarea")).to_be_in_viewport(ratio=1)


def test_a_phone_can_be_turned(show: Show) -> None:
    """The panel is modal while it fills the screen, and only then; what has the focus keeps it."""
    page = show(Host(body=TALL))
    open_panel(page)
    box = page.locator("eclipse-chat textarea")
    box.fill("half a sen")
    for _ in range(2):
        page.set_viewport_size({"width": 390, "height": 700})
        expect(page.locator("eclipse-chat .panel:modal")).to_have_count(1)
        assert assert_inside(page) == {"x": 0, "y": 0, "width": 390, "height": 700}
        expect(box).to_be_focused()
        page.set_viewport_size({"width": 1000, "height": 700})
        expect(page.locator("eclipse-chat .panel:modal")).to_have_count(0)
        assert assert_inside(page)["width"] == pytest.approx(384, abs=1)
        expect(box).to_be_focused()
    expect(box).to_have_value("half a sen")
    page.locator("#own").click()
    assert page.evaluate("heard") == [1]


@pytest.mark.parametrize("leaving", ["close", "remove", "turn"])
@pytest.mark.parametrize("name", SCROLLERS)
def test_the_page_does_not_scroll_behind_a_full_screen(show: Show, name: str, leaving: str) -> None:
    """While the panel fills the screen the page stays where it is; then it scrolls from there as before."""
    page = show(Host(SCROLLERS[name], TALL), **PHONE)
    state = """() => {
        const of = (e) => [getComputedStyle(e).overflow, e.outerHTML.split(">")[0]];
        const styles = [document.documentElement, document.body].map(of);
        return JSON.stringify([scrollY, styles, document.adoptedStyleSheets.length]);
    }"""
    page.evaluate("scrollTo({ top: 1000, behavior: 'instant' })")
    before = page.evaluate(state)
    open_panel(page)
    settled(page)
    page.mouse.move(200, 30)  # the header, which has nothing to scroll
    page.mouse.wheel(0, 300)
    drawn(page)
    assert page.evaluate("scrollY") == 1000
    if leaving == "close":
        page.keyboard.press("Escape")
    elif leaving == "turn":
        page.set_viewport_size({"width": 1000, "height": 700})
        expect(page.locator("eclipse-chat .panel:modal")).to_have_count(0)
    else:
        page.evaluate("document.querySelector('eclipse-chat').remove()")
    assert page.evaluate(state) == before
    page.mouse.move(20, 300)
    page.mouse.wheel(0, 300)
    page.wait_for_function("() => scrollY > 1000")


def test_zooming_with_two_fingers_leaves_the_panel_as_large_as_it_is(
    server: ServerProcess, customer: Callable[..., Page]
) -> None:
    """A keyboard takes room from a full screen, a magnifying glass does not."""
    page = customer(server.url, **MOBILE)
    open_panel(page)
    before = settled(page)
    page.context.new_cdp_session(page).send("Emulation.setPageScaleFactor", {"pageScaleFactor": 2})
    page.wait_for_function("visualViewport.scale == 2")
    drawn(page)
    assert page.locator("eclipse-chat .panel").evaluate("panel => panel.offsetHeight") == before["height"]


def test_a_hidden_full_screen_panel_leaves_the_page_usable(show: Show) -> None:
    """A full-screen panel in an element that is hidden leaves the page usable, and returns with it."""
    page = show(Host(body=f"{TALL.replace(CHAT, '')}<main>{CHAT}</main>"), **PHONE)
    open_panel(page)
    page.evaluate("document.querySelector('main').style.display = 'none'")
    page.locator("#own").click()
    page.mouse.wheel(0, 300)
    page.wait_for_function("() => scrollY > 0")
    page.evaluate("document.querySelector('main').style.display = ''")
    expect(page.locator("eclipse-chat .panel:modal")).to_have_count(1)
    assert_inside(page)


def test_it_can_be_moved_while_it_is_open(show: Show) -> None:
    """In another place of the page the widget is above the page as well."""
    page = show(Host("footer { transform: rotate(1deg) }", f"{CHAT}<footer></footer>"))
    open_panel(page)
    panel = page.locator("eclipse-chat .panel")
    expect(panel).to_be_visible()
    page.evaluate("document.querySelector('footer').append(document.querySelector('eclipse-chat'))")
    expect(panel).to_be_visible()
    assert_inside(page)


def test_it_can_change_its_side(show: Show) -> None:
    """The attribute `side` takes effect at any time, also with an open panel."""
    page = show(Host())
    open_panel(page)
    sides = []
    for side in ("start", "end", "start"):
        page.locator("eclipse-chat").evaluate("(element, side) => element.setAttribute('side', side)", side)
        sides.append(assert_inside(page)["x"] < WINDOW["width"] / 2)
    assert sides == [True, False, True]


def test_it_works_after_a_dialog_of_the_page(show: Show) -> None:
    """What the page puts above it, a modal dialog or a popover, gives way again."""
    above = '<dialog>Sure?</dialog><div id="pop" popover="manual">Ad</div>'
    style = "#pop { inset: 0; width: 100%; height: 100% }"
    page = show(Host(style, above + CHAT, script="document.querySelector('dialog').showModal()"))
    page.wait_for_function("document.querySelector('eclipse-chat').shadowRoot")
    page.keyboard.press("Escape")
    launcher = page.locator("eclipse-chat .launch")
    launcher.click()
    assert_inside(page)
    page.keyboard.press("Escape")
    page.evaluate("document.querySelector('#pop').showPopover()")
    assert not is_hit(page, 950, 650)
    launcher.focus()
    page.keyboard.press("Enter")
    assert_inside(page)


def test_it_is_not_printed(show: Show) -> None:
    """On paper there is only the page, with the panel open or not; an inline chat is part of the page."""
    page = show(Host(body=CHAT + CHAT.replace("{attributes}", "inline")))
    launcher, panels = page.locator("eclipse-chat .launch").first, page.locator("eclipse-chat .panel")
    page.emulate_media(media="print")
    expect(launcher).to_be_hidden()
    page.emulate_media(media="screen")
    launcher.click()
    page.emulate_media(media="print")
    expect(panels.first).to_be_hidden()
    expect(panels.last).to_be_visible()
    page.emulate_media(media="screen")


def test_an_inline_chat_has_the_size_that_the_page_gives_it(show: Show) -> None:
    """The page places it and makes it as large as it likes; what is inside looks as it always does."""
    size = "height: 420px; width: 300px; margin-inline-start: 200px; writing-mode: horizontal-tb"
    style = INHERITED + f"eclipse-chat {{ {size} }}"
    page = show(Host(style, attributes="inline"))
    connected(page)
    panel = page.locator("eclipse-chat .panel").bounding_box()
    assert panel
    assert (panel["width"], panel["height"]) == (300, 420)
    assert computed(page, "textarea", *UNTOUCHED) == UNTOUCHED
    page.locator("eclipse-chat textarea").click()
    page.keyboard.type("hello")
    page.keyboard.press("Enter")
    expect(page.locator("eclipse-chat .bubble")).to_have_text(["hello"])


def test_browsers_without_popovers_have_it_as_a_fixed_box(show: Show) -> None:
    """There it is as high as a `z-index` goes."""
    methods = '["togglePopover", "showPopover", "hidePopover"]'
    old = f"<script>for (const name of {methods}) delete HTMLElement.prototype[name]</script>"
    page = show(
        Host(
            ".bar { position: fixed; inset: 0; z-index: 9999; background: teal }",
            f'{old}{CHAT}<div class="bar"></div>',
        )
    )
    page.wait_for_function("document.elementsFromPoint(950, 650)[0]?.localName == 'eclipse-chat'")
    page.mouse.click(950, 650)
    assert_inside(page)
