"""Contrast in light, dark and forced colours: edges, the focus, and whatever axe-core checks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.browser.acts import Contexts, Open, active, give_history, hear, message, play_server, violations
from tests.browser.gallery import DESKTOP, LOOKS, put_on
from tests.browser.stage import ServerProcess, connected, open_panel, say
from tests.browser.states import STATES, show

CONTRAST = """() => {
    const colour = (text) => {
        const canvas = new OffscreenCanvas(1, 1).getContext("2d");
        canvas.fillStyle = text;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const light = (text) => {
        const linear = (c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        const [r, g, b] = colour(text).map((c) => linear(c / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    window.contrast = (a, b) => {
        if (colour(a)[3] < 255) return 1; // it shows what is behind it
        return (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
    };
    window.behind = (element) => {
        for (let e = element; e; e = e.parentElement) {
            const { backgroundColor } = getComputedStyle(e);
            if (colour(backgroundColor)[3] == 255) return backgroundColor;
        }
        return null; // the page: anything
    };
}"""

# The ring's contrast to all that it touches: a second ring around it, if there is one, and nothing else.
RING = """() => {
    const element = document.activeElement.shadowRoot.activeElement, style = getComputedStyle(element);
    const offset = parseFloat(style.outlineOffset), width = parseFloat(style.outlineWidth);
    const [, second, spread] = style.boxShadow.match(/^(.*\\)) 0px 0px 0px (.*)px$/) ?? [];
    let ratios;
    if (+spread >= offset + 2 * width) ratios = [contrast(style.outlineColor, second)];
    else {
        const around = [behind(element.parentElement), ...(offset < 0 ? [behind(element)] : [])];
        ratios = around.map((other) => (other ? contrast(style.outlineColor, other) : 1));
    }
    return [element.className || element.localName, width, Math.min(...ratios)];
}"""


@pytest.mark.parametrize("accent", ["", "#ffd54a", "#101018"], ids=["default", "light accent", "dark accent"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_focus_can_be_seen(server: ServerProcess, context: Contexts, scheme: str, accent: str) -> None:
    """Whatever has the focus has a ring of two pixels that differs from all around it by 3 : 1."""
    page = context(color_scheme=scheme).new_page()
    play_server(page, lambda socket, command: None, sessionId="s")
    give_history(
        page, [message(n, f"https://example.com/{n}", role) for n, role in enumerate(["user", "agent"])]
    )
    page.goto(f"{server.url}/demo?chat=rings")
    page.evaluate(CONTRAST)
    if accent:
        page.locator("eclipse-chat").evaluate(
            "(element, accent) => element.style.setProperty('--eclipse-accent', accent)", accent
        )
    page.locator("eclipse-chat .launch").focus()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    rings = [page.evaluate(RING)]
    page.keyboard.press("Enter")
    expect(page.locator("eclipse-chat li a")).to_have_count(2)
    while active(page).startswith("."):
        rings.append(page.evaluate(RING))
        page.keyboard.press("Shift+Tab")
    assert {name for name, *_ in rings} >= {"launch", "input", "x", "a", "log"}
    assert [ring for ring in rings if ring[1] < 2 or ring[2] < 3] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_field_can_be_seen(server: ServerProcess, customer: Open, scheme: str) -> None:
    """The field's edge differs from the panel by 3 : 1, with and without the focus."""
    page = customer(server.url, color_scheme=scheme)
    box = open_panel(page)
    page.evaluate(CONTRAST)
    edge = "box => contrast(getComputedStyle(box).borderTopColor, behind(box.parentElement))"
    assert box.evaluate(edge) >= 3
    box.blur()
    assert box.evaluate(edge) >= 3


def test_edges_and_dots_are_visible_in_forced_colours(server: ServerProcess, customer: Open) -> None:
    """Without backgrounds and shadows, edges are lines, and the typing dots stay."""
    page = customer(server.url, forced_colors="active")
    connected(page)
    edges = "elements => elements.map((e) => parseFloat(getComputedStyle(e).borderTopWidth))"
    hear(page, "message", id="m", content="hello", role="agent", timestamp="2026-02-01T00:00:00.000Z")
    assert page.locator("eclipse-chat :is(.launch, .badge)").evaluate_all(edges) == [1, 1]
    say(open_panel(page), "hi")
    hear(page, "typing", userId="ada", isTyping=True)
    expect(page.locator("eclipse-chat [part~=bubble]")).to_have_count(2)
    expect(page.locator("eclipse-chat .typing")).to_be_visible()
    parts = ":is(.panel, .x, .send, .input, [part~=bubble])"
    assert page.locator(f"eclipse-chat {parts}").evaluate_all(edges) == [1] * 6
    page.evaluate(CONTRAST)
    dots = page.locator("eclipse-chat .typing i").evaluate_all(
        "all => all.map((dot) => contrast(getComputedStyle(dot).backgroundColor, behind(dot.parentElement)))"
    )
    assert len(dots) == 3
    assert min(dots) >= 3


@pytest.mark.parametrize("name", STATES)
def test_axe_finds_no_violations(context: Contexts, axe: Callable[[], str], name: str) -> None:
    """Each state in each look that changes colours or sizes: light, dark, narrow, and forced colours."""
    page = context(viewport=DESKTOP).new_page()
    show(page, STATES[name])
    rules = axe()
    for look in LOOKS.keys() - {"rtl"}:
        put_on(page, look)
        assert not violations(page, rules, "eclipse-chat"), look
