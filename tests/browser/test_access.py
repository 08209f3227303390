"""With a keyboard and a screen reader: the focus stays where it was put, and events are announced."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import WebSocketRoute, expect

from tests.browser.acts import Contexts, Open, active, give_history, hear, message, play_server
from tests.browser.stage import ServerProcess, connected, open_panel, say
from tests.browser.test_pages import PHONE


def test_a_focused_link_stays_focused(server: ServerProcess, customer: Open, desk: Open) -> None:
    """A message that joins the last one changes what is around its link, not the link that has the focus."""
    page, agent = customer(server.url), desk(server.url)
    open_panel(page)
    connected(page, agent)
    answer = agent.get_by_role("textbox")
    say(answer, "Look: https://example.com/lamps")
    link = page.get_by_role("link", name="https://example.com/lamps")
    link.focus()
    say(answer, "There are three.")
    expect(page.get_by_text("There are three.", exact=True)).to_be_visible()
    row = page.locator("eclipse-chat li", has=link)
    expect(row.locator(".meta")).to_have_count(0)
    expect(link).to_be_focused()


def test_a_focused_link_that_leaves_gives_its_focus_to_the_messages(
    server: ServerProcess, context: Contexts
) -> None:
    """Far from what has the focus it is no longer drawn: the keyboard stays in the chat all the same."""
    page = context().new_page()
    give_history(page, [message(n, f"https://example.com/{n}") for n in range(400)])
    page.goto(f"{server.url}/demo?chat=links&open")
    link = page.get_by_role("link", name="https://example.com/399")
    link.focus()
    log = page.get_by_role("group", name="Messages")
    expect(link).to_be_focused()
    page.wait_for_function("""() => {
        const root = document.querySelector("eclipse-chat").shadowRoot;
        root.querySelector(".log").scrollTop = 0;
        return root.querySelector(".bubble").textContent == "https://example.com/0";
    }""")
    expect(log).to_be_focused()


def test_messages_in_quick_succession_are_all_announced(server: ServerProcess, context: Contexts) -> None:
    """A second message doesn't replace the first one before a screen reader has read it."""
    page = context().new_page()
    give_history(page, [])
    page.goto(f"{server.url}/demo?chat=quick&open")
    connected(page)
    page.locator("eclipse-chat").evaluate("""element => {
        for (const content of ["one", "two"]) {
            const data = { id: content, content, role: "agent", timestamp: "2026-02-01T00:00:00.000Z" };
            element.chat.dispatchEvent(new CustomEvent("message", { detail: { data } }));
        }
    }""")
    said = page.locator("eclipse-chat [aria-live]")
    expect(said).to_have_attribute("aria-atomic", "false")
    expect(said.locator("p")).to_have_text(["Support: one", "Support: two"])


def test_a_failure_is_announced(server: ServerProcess, context: Contexts) -> None:
    """A person who can't see the red line hears that a message was not sent, and what to do."""
    page = context().new_page()

    def refuse(socket: WebSocketRoute, command: dict[str, str]) -> None:
        if command["type"] == "message":
            error = {"type": "error", "error": "No", "code": "forbidden", "retryable": False}
            socket.send(json.dumps({**error, "clientMessageId": command["clientMessageId"]}))

    play_server(page, refuse, sessionId="s")
    give_history(page, [])
    page.goto(f"{server.url}/demo?chat=refused-aloud")
    say(open_panel(page), "please")
    expect(page.locator("eclipse-chat [aria-live]")).to_have_text("Not sent.")


SAID = "eclipse-chat [aria-live]"


@pytest.mark.parametrize("options", [{}, PHONE], ids=["desktop", "phone"])
def test_replies_are_announced_with_an_open_or_closed_panel(
    server: ServerProcess, customer: Open, options: dict[str, object]
) -> None:
    """The live region is in no hidden panel, and not behind a modal one."""
    page = customer(server.url, **options)
    connected(page)
    said = page.locator(SAID)
    for number, is_open in enumerate([False, True, False]):
        if is_open:
            open_panel(page)
        elif number:
            page.locator("eclipse-chat .x").click()
        hear(
            page,
            "message",
            id=f"m{number}",
            content=f"reply {number}",
            role="agent",
            timestamp="2026-02-01T00:00:00.000Z",
        )
        expect(said).to_contain_text(f"Support: reply {number}")
        assert said.evaluate(
            "said => said.getClientRects().length > 0 && !said.closest('[inert], [aria-hidden]')"
        )
        modal = page.locator("eclipse-chat .panel:modal")
        expect(modal).to_have_count(int(is_open and bool(options)))
        expect(page.locator("eclipse-chat .panel").locator("[aria-live]")).to_have_count(modal.count())


def test_the_focus_stays_with_the_page_until_a_person_opens_the_panel(
    server: ServerProcess, customer: Open
) -> None:
    """A panel that is open from the beginning, or put into the page later, takes nobody's focus."""
    page = customer(server.url, "&open")
    panel = page.locator("eclipse-chat .panel")
    expect(panel).to_be_visible()
    assert active(page) == "body"
    page.evaluate("""() => {
        const field = document.body.appendChild(document.createElement("input"));
        field.focus();
        const old = document.querySelector("eclipse-chat"), made = old.cloneNode();
        old.replaceWith(made);
    }""")
    expect(panel).to_be_visible()
    page.keyboard.type("searching")
    expect(page.locator("body > input")).to_have_value("searching")
    page.evaluate("document.querySelector('eclipse-chat').shadowRoot.querySelector('.x').click()")
    assert active(page) == "input"


@pytest.mark.parametrize("options", [{}, PHONE], ids=["desktop", "phone"])
def test_the_focus_returns_to_what_opened_the_panel(
    server: ServerProcess, customer: Open, options: dict[str, object]
) -> None:
    """That is a button of the page, or the launcher, which also replaces a button that has been removed."""
    page = customer(server.url, **options)
    ask = page.get_by_role("button", name="Ask a person")
    ask.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    assert active(page) == (".log" if options else ".input")
    page.keyboard.press("Escape")
    expect(ask).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    ask.evaluate("button => button.remove()")
    page.get_by_role("button", name="Close the chat").click()
    expect(page.get_by_role("button", name="Open the chat")).to_be_focused()


def test_a_full_screen_keeps_the_focus(server: ServerProcess, customer: Open) -> None:
    """While the panel is modal, Tab cycles within it, in either direction, and never behind it."""
    page = customer(server.url, **PHONE)
    open_panel(page)
    for key in ("Tab", "Shift+Tab"):
        reached = set()
        for _ in range(6):
            page.keyboard.press(key)
            reached.add(active(page))
        assert reached >= {".log", ".input", ".send", ".x"}
        assert {name for name in reached if not name.startswith(".")} <= {"body"}  # the browser's own buttons


def test_the_launcher_says_what_it_does(server: ServerProcess, customer: Open) -> None:
    """It names the dialog that it opens, and whether that is open."""
    page = customer(server.url)
    launcher = page.locator("eclipse-chat .launch")
    controls = (
        "launcher => launcher.getRootNode().getElementById(launcher.getAttribute('aria-controls'))?.localName"
    )
    for expanded in ("false", "true"):
        expect(launcher).to_have_attribute("aria-expanded", expanded)
        if expanded == "false":
            launcher.click()
    assert launcher.evaluate(controls) == "dialog"
    page.keyboard.press("Escape")
    expect(launcher).to_have_attribute("aria-expanded", "false")


@pytest.mark.parametrize("standard", [16, 24, 32])
def test_texts_follow_the_browsers_font_size(server: ServerProcess, customer: Open, standard: int) -> None:
    """Texts and panel grow with it, as far as the window allows, whatever the page has made of its `rem`."""
    page = customer(server.url)
    page.context.new_cdp_session(page).send("Page.setFontSizes", {"fontSizes": {"standard": standard}})
    page.evaluate("document.documentElement.style.fontSize = '10px'")
    box = open_panel(page)
    say(box, "hello")
    sizes = page.locator("eclipse-chat :is(h2, [part~=bubble], textarea)").evaluate_all(
        "elements => elements.map((e) => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert len(sizes) == 3
    assert min(sizes) >= standard * 0.9
    width = page.get_by_role("dialog").evaluate("panel => panel.offsetWidth")
    assert width == pytest.approx(384 * standard / 16, abs=1)


@pytest.mark.parametrize("standard", [16, 32])
def test_a_small_window_is_enough(server: ServerProcess, customer: Open, standard: int) -> None:
    """At 320 by 256 pixels, which is 400 %, everything is reached by scrolling vertically."""
    page = customer(server.url, viewport={"width": 320, "height": 256})
    page.context.new_cdp_session(page).send("Page.setFontSizes", {"fontSizes": {"standard": standard}})
    say(open_panel(page), "https://example.com/" + "a" * 100, "b" * 100)
    expect(page.locator("eclipse-chat [part~=bubble]")).to_have_count(2)
    for part in (".panel", ".log"):
        wide = page.locator(f"eclipse-chat {part}").evaluate("part => part.scrollWidth - part.clientWidth")
        assert wide <= 0, part
    log, box = page.locator("eclipse-chat .log"), page.locator("eclipse-chat textarea")
    log.scroll_into_view_if_needed()
    expect(log).to_be_in_viewport(ratio=0.9)
    assert log.evaluate("log => log.clientHeight") >= 60
    box.scroll_into_view_if_needed()
    expect(box).to_be_in_viewport(ratio=1)
