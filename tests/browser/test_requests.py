"""What a page with a widget costs before anybody chats."""

from __future__ import annotations

from urllib.parse import urlsplit

from playwright.sync_api import Page, expect

from tests.browser.acts import Contexts, message
from tests.browser.stage import ServerProcess, connected, open_panel


def count(page: Page) -> list[str]:
    """Record what the page asks for, apart from itself: paths without queries."""
    asked: list[str] = []

    def note(url: str) -> None:
        path = urlsplit(url).path
        if path.startswith(("/widget", "/api/")):
            asked.append(path)

    page.on("request", lambda request: note(request.url))
    return asked


def test_two_requests_before_the_first_opening(server: ServerProcess, context: Contexts) -> None:
    """A browser that is new to a chat asks for the script and a token; the rest comes with the panel."""
    page = context().new_page()
    asked = count(page)
    page.goto(f"{server.url}/demo?chat=new")
    connected(page)
    page.clock.install()
    page.clock.run_for(3_000)
    assert asked == ["/widget.js", "/api/ws/token"]
    with page.expect_response("**/api/chats/new/messages*"):
        open_panel(page)
    assert asked[:2] == ["/widget.js", "/api/ws/token"]
    assert sorted(asked[2:]) == ["/api/chats/new/messages", "/widget.panel.js"]


def test_the_history_of_a_chat_read_here_is_requested_at_once(
    server: ServerProcess, context: Contexts
) -> None:
    """The badge of a chat that this browser has read needs its history; that of another chat does not."""
    page = context().new_page()
    history = {"messages": [message(1, "read"), message(2, "unread")]}
    page.route("**/api/chats/*/messages*", lambda route: route.fulfill(json=history))
    mark = "1767225660000"  # the first message's time
    page.add_init_script(f"localStorage.setItem('eclipse-chat:read:read', {mark})")
    page.goto(f"{server.url}/demo?chat=read")
    expect(page.locator("eclipse-chat .badge")).to_have_text("1")
    asked = count(page)
    page.goto(f"{server.url}/demo?chat=unread")
    connected(page)
    assert "/api/chats/unread/messages" not in asked


def test_a_lazy_widget_requests_only_the_script(server: ServerProcess, context: Contexts) -> None:
    """With `lazy` even a chat that was read before requests only the script, until the panel is opened."""
    page = context().new_page()
    page.add_init_script("""localStorage.setItem("eclipse-chat:read:lazy", 1);
        const append = Element.prototype.append;
        Element.prototype.append = function (...nodes) {
            if (nodes[0]?.localName == "eclipse-chat") nodes[0].lazy = true;
            return append.apply(this, nodes);
        };""")
    asked = count(page)
    page.goto(f"{server.url}/demo?chat=lazy")
    page.clock.install()
    page.clock.run_for(3_000)
    expect(page.get_by_role("button", name="Open the chat")).to_be_visible()
    assert asked == ["/widget.js"]
    open_panel(page)
    connected(page)
    assert "/api/ws/token" in asked


def test_an_open_panel_requests_the_history_once(server: ServerProcess, context: Contexts) -> None:
    """However early it is opened, the history is loaded once the connection is open, and not before, too."""
    page = context().new_page()
    asked = count(page)
    page.goto(f"{server.url}/demo?chat=open&open")
    connected(page)
    with page.expect_response("**/api/ws/token*"):
        page.locator("eclipse-chat").evaluate("element => { element.chatId = 'open-2'; }")
    connected(page)
    expect(page.get_by_text("Good evening! Which lamp")).to_be_visible()
    page.wait_for_load_state("networkidle")
    assert asked.count("/api/chats/open/messages") == 1
    assert asked.count("/api/chats/open-2/messages") == 1
