"""The panel's own file: when it is loaded, and what happens until then or if it can't be."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.acts import Contexts, active
from tests.browser.stage import ROOT, ServerProcess, connected, open_panel, site

PANEL = "**/widget.panel.js*"
HEAR = """element => {
    window.heard = [];
    for (const name of ["open", "close"]) element.addEventListener(name, () => heard.push(name));
    element.addEventListener("error", ({ detail }) => heard.push(detail.code));
}"""


STAMP = re.compile(r'"[0-9a-f]{8}"')
"""What a file of the widget says about its build."""


def serve_another_build(page: Page, name: str) -> None:
    """Let the page get a file of the widget as another build of the same sources would have it."""
    code = (ROOT / "eclipse_ws" / "static" / name).read_text()
    (stamp,) = set(STAMP.findall(code))
    page.route(
        f"**/{name}*",
        lambda route: route.fulfill(body=code.replace(stamp, '"another"'), content_type="text/javascript"),
    )


def held(page: Page, url: str) -> list[Route]:
    """Open the page, whose panel's file does not come until its request is continued."""
    routes: list[Route] = []
    page.route(PANEL, lambda route: routes.append(route))
    page.goto(url)
    connected(page)
    page.locator("eclipse-chat").evaluate(HEAR)
    return routes


def ask(page: Page) -> None:
    """Open the panel as a script does, and wait until its file is requested."""
    with page.expect_request(PANEL):
        page.locator("eclipse-chat").evaluate("element => element.show()")


def come(page: Page, routes: list[Route]) -> None:
    """Let the file come, and all that waits for it happen."""
    routes[0].continue_()
    page.evaluate("""async () => {
        await import("/widget.panel.js");
        for (let i = 0; i < 3; i++) await new Promise(requestAnimationFrame);
    }""")


def fail_inline(page: Page) -> None:
    """Make the chat inline, wait until the panel could not be loaded, and let it come from then on."""
    element = page.locator("eclipse-chat")
    element.evaluate(HEAR)
    element.evaluate("element => { element.inline = true; }")
    page.wait_for_function("() => heard.length == 1")
    page.unroute(PANEL)


@pytest.mark.parametrize("how", ["pointer", "keyboard"])
def test_hovering_or_focusing_the_launcher_loads_the_panel(
    server: ServerProcess, context: Contexts, how: str
) -> None:
    """A pointer over the launcher, or the focus on it, loads the panel; pressing it loads nothing more."""
    page = context().new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{server.url}/demo?chat=approach")
    connected(page)
    assert not any("panel" in url for url in asked)
    launcher = page.get_by_role("button", name="Open the chat")
    with page.expect_response(PANEL):
        launcher.hover() if how == "pointer" else launcher.focus()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(open_panel(page)).to_be_focused()
    assert sum("panel" in url for url in asked) == 1


def test_a_panel_that_failed_to_load_is_tried_again(server: ServerProcess, context: Contexts) -> None:
    """A failure leaves the launcher and is reported; the next press tries again."""
    page = context().new_page()
    asked: list[str] = []
    page.on(
        "request", lambda request: asked.append(request.url) if "widget.panel.js" in request.url else None
    )
    page.route(PANEL, lambda route: route.abort())
    page.goto(f"{server.url}/demo?chat=again")
    element = page.locator("eclipse-chat")
    element.evaluate(HEAR)
    launcher = page.get_by_role("button", name="Open the chat")
    for failures in (1, 2):
        launcher.click()
        page.wait_for_function("n => heard.length == n", arg=failures)
        expect(launcher).to_be_visible()
        assert element.evaluate("element => [element.open, element.isOpen]") == [False, False]
    page.unroute(PANEL)
    expect(open_panel(page)).to_be_focused()
    assert page.evaluate("heard") == ["load_failed", "load_failed", "open"]
    # Browsers other than Chromium remember what failed under an address.
    assert len(set(asked)) == len(asked) >= 3


def test_an_inline_chat_that_failed_to_load_tries_again(server: ServerProcess, context: Contexts) -> None:
    """Without a launcher to press, it tries again by itself."""
    page = context().new_page()
    page.clock.install()
    page.route(PANEL, lambda route: route.abort())
    page.goto(f"{server.url}/demo?chat=inline")
    fail_inline(page)
    page.clock.run_for(10_000)
    expect(page.get_by_role("textbox")).to_be_visible()
    assert page.evaluate("heard") == ["load_failed"]


@pytest.mark.parametrize("name", ["widget.panel.js", "widget.js"])
def test_a_panel_of_another_build_is_refused(server: ServerProcess, context: Contexts, name: str) -> None:
    """If page and panel are of different builds, nothing opens, and the error asks for a reload."""
    page = context().new_page()
    serve_another_build(page, name)
    page.goto(f"{server.url}/demo?chat=another-build")
    connected(page)
    element = page.locator("eclipse-chat")
    element.evaluate("""element => {
        window.failures = [];
        element.addEventListener("error", ({ detail }) => failures.push(detail));
    }""")
    launcher = page.get_by_role("button", name="Open the chat")
    launcher.click()
    page.wait_for_function("() => failures.length == 1")
    code, is_retryable, error = page.evaluate("[failures[0].code, failures[0].retryable, failures[0].error]")
    assert (code, is_retryable) == ("load_failed", False)
    assert error.endswith("Reload the page")
    expect(launcher).to_be_visible()
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.unroute(f"**/{name}*")
    page.reload()
    expect(open_panel(page)).to_be_focused()


def test_an_inline_chat_asks_rarely_for_another_build(server: ServerProcess, context: Contexts) -> None:
    """The page is notified once, and the chat retries only after minutes: an update may be in progress."""
    page = context().new_page()
    page.clock.install()
    serve_another_build(page, "widget.panel.js")
    page.goto(f"{server.url}/demo?chat=inline-build")
    fail_inline(page)
    page.clock.run_for(60_000)
    expect(page.get_by_role("textbox")).to_have_count(0)
    page.clock.run_for(540_000)
    expect(page.get_by_role("textbox")).to_be_visible()
    assert page.evaluate("heard").count("load_failed") == 1


def test_a_policy_that_blocks_the_panel_is_reported(
    server: ServerProcess, context: Contexts, complaints: list[str]
) -> None:
    """Under a policy that allows only `widget.js` the panel can't open, which is reported."""
    body = (
        f'<!doctype html><title>Shop</title>\n<script type="module" src="{server.url}/widget.js"></script>\n'
        '<eclipse-chat token-url="/api/ws/token" chat-id="policy"></eclipse-chat>'
    )
    policy = f"script-src {server.url}/widget.js"
    with site(body, policy, server.url) as url:
        page = context().new_page()
        page.goto(url)
        page.locator("eclipse-chat").evaluate(HEAR)
        page.get_by_role("button", name="Open the chat").focus()
        page.keyboard.press("Enter")
        page.wait_for_function("() => heard.includes('load_failed')")
        expect(page.get_by_role("button", name="Open the chat")).to_be_visible()
    assert all("Content Security Policy" in line for line in complaints)
    complaints.clear()


@pytest.mark.parametrize("how", ["element.hide()", "element.removeAttribute('open')", "element.remove()"])
def test_a_removed_or_closed_element_gets_no_panel(
    server: ServerProcess, context: Contexts, how: str
) -> None:
    """Closed or removed before the panel is loaded, the element shows and reports nothing more."""
    page = context().new_page()
    routes = held(page, f"{server.url}/demo?chat=left")
    ask(page)
    page.evaluate(f"() => {{ const element = window.left = document.querySelector('eclipse-chat'); {how} }}")
    come(page, routes)
    assert page.evaluate("[left.isOpen, left.shadowRoot.querySelectorAll('dialog').length, heard]") == [
        False,
        0,
        [],
    ]


def test_an_element_that_is_moved_meanwhile_opens_once(server: ServerProcess, context: Contexts) -> None:
    """Closed, reopened and moved, it has one panel when the file is loaded, and reports it once."""
    page = context().new_page()
    routes = held(page, f"{server.url}/demo?chat=moved")
    ask(page)
    page.locator("eclipse-chat").evaluate("""element => {
        element.hide();
        element.show();
        document.querySelector("main").append(element);
    }""")
    come(page, routes)
    expect(page.get_by_role("dialog")).to_be_visible()
    assert page.evaluate("heard") == ["open"]


def test_messages_and_drafts_before_the_panel_is_loaded(server: ServerProcess, context: Contexts) -> None:
    """`open` is true at once; messages are sent, a draft is kept; `open` is reported when all is visible."""
    page = context().new_page()
    routes = held(page, f"{server.url}/demo?chat=early")
    element = page.locator("eclipse-chat")
    ask(page)
    sent = element.evaluate("""element => {
        element.draft = "half a sentence";
        element.addEventListener("open", () => {
            const dialog = element.shadowRoot.querySelector("dialog");
            window.seen = [dialog.querySelector("h2").textContent, dialog.offsetWidth > 300, element.isOpen];
        });
        element.send("early");
        return [element.open, element.hasAttribute("open"), element.isOpen, element.draft];
    }""")
    assert sent == [True, True, False, "half a sentence"]
    page.wait_for_function("() => document.querySelector('eclipse-chat').chat.pending.length == 0")
    come(page, routes)
    expect(page.get_by_role("textbox")).to_have_value("half a sentence")
    expect(page.locator("eclipse-chat .bubble")).to_have_text("early")
    title, is_styled, is_open = page.evaluate("seen")
    assert (bool(title), is_styled, is_open) == (True, True, True)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_focus_waits_for_the_panel(server: ServerProcess, context: Contexts, elsewhere: bool) -> None:
    """The focus goes from the launcher into the panel, unless the person has taken it elsewhere meanwhile."""
    page = context().new_page()
    routes = held(page, f"{server.url}/demo?chat=focus")
    page.get_by_role("button", name="Open the chat").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Open the chat")).to_have_attribute("aria-busy", "true")
    assert active(page) == ".launch"
    if elsewhere:
        page.get_by_role("link", name="Help").focus()
    come(page, routes)
    expect(page.get_by_role("dialog")).to_be_visible()
    assert active(page) == ("a" if elsewhere else ".input")
