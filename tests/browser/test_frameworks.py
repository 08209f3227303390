"""The element in templates of React 18, React 19, Preact and Vue, and the hooks, against the real server."""

from __future__ import annotations

import contextlib
import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, WebSocket, WebSocketRoute, expect

from tests import needs
from tests.browser.acts import Contexts, Open, give_history, message, play_server
from tests.browser.stage import Cable, ServerProcess, connected, say
from tests.npm_project import run

pytestmark = pytest.mark.slow
FRAMEWORKS = ("react18", "react19", "preact", "vue")
HOOKS = [(react, hook) for react in ("hooks18", "hooks19") for hook in ("useEclipseChat", "useWebSocketChat")]
HTML = (
    '<!doctype html><html lang="en"><title>A page</title><link rel="icon" href="data:,">'
    '<main></main><script type="module" src="{0}.js"></script>'
)


@pytest.fixture(scope="session")
def pages(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled pages, each in a folder of its own."""
    folder = tmp_path_factory.mktemp("pages")
    run(project, needs.node(), "build.mjs", str(folder))
    return folder


@contextlib.contextmanager
def application(pages: Path, api: str) -> Iterator[str]:
    """The site of an application with these pages, whose API is the server's at ``api``; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            status, kind = 200, "text/html"
            if path.startswith("/api/"):
                kind = "application/json"
                try:
                    with urllib.request.urlopen(api + self.path, timeout=10) as answer:
                        content = answer.read()
                except OSError:
                    status, content = 502, b"{}"
            elif path.endswith(".js"):
                kind, content = "text/javascript", (pages / path[1:]).read_bytes()
            else:
                content = HTML.format(path).encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            """Keep quiet."""

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}"
    finally:
        running.shutdown()
        running.server_close()
        thread.join(5)


class Framed:
    """A page of a framework, and what it does on the network."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.sockets: list[WebSocket] = []
        self.tokens: list[str] = []
        page.on("websocket", lambda socket: self.sockets.append(socket))
        page.on("request", lambda asked: self.tokens.append(asked.url) if "/ws/token" in asked.url else None)

    def change(self, **view: object) -> None:
        """Set the state of the framework's component."""
        self.page.evaluate("view => change(view)", view)

    @property
    def heard(self) -> list[Any]:
        """What the page was told, in order."""
        found: list[Any] = self.page.evaluate("heard")
        return found

    def wait_to_hear(self, what: object) -> None:
        """Wait until the page was told this."""
        condition = "what => heard.some((one) => JSON.stringify(one) == JSON.stringify(what))"
        self.page.wait_for_function(condition, arg=what)

    def has_one_socket(self) -> bool:
        """Whether it has opened one socket in all, which is open."""
        return [socket.is_closed() for socket in self.sockets] == [False]

    def wait_without_sockets(self) -> None:
        """Wait until every socket that it opened is closed."""
        for socket in self.sockets:
            if not socket.is_closed():
                socket.wait_for_event("close")


@pytest.fixture
def framed(context: Contexts, pages: Path, chat_id: str) -> Iterator[Callable[..., Framed]]:
    """Opens a page: ``framed(url, "react19", "&open=true")``; ``prepare`` gets it while it is empty."""
    with contextlib.ExitStack() as sites:

        def open_page(
            url: str, name: str, query: str = "", prepare: Callable[[Page], None] = lambda page: None
        ) -> Framed:
            made = Framed(context().new_page())
            prepare(made.page)
            site = sites.enter_context(application(pages, url))
            made.page.goto(f"{site}/{name}/{name}?chat={chat_id}{query}")
            made.page.wait_for_function("!!window.change")
            return made

        yield open_page


# -- the element ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hydrate18", "hydrate19"])
def test_a_server_rendered_page_is_hydrated(
    server: ServerProcess, framed: Callable[..., Framed], name: str
) -> None:
    """React keeps the element that is already in use, and reports no mismatch."""
    made = framed(server.url, name)
    connected(made.page)
    assert made.has_one_socket()


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_the_panel_follows_the_frameworks_state(
    server: ServerProcess, framed: Callable[..., Framed], name: str
) -> None:
    """`open` in a template opens and closes the panel, as often as its value changes."""
    made = framed(server.url, name)
    dialog = made.page.get_by_role("dialog")
    connected(made.page)
    expect(dialog).to_be_hidden()
    for is_open in (True, False, True):
        made.change(open=is_open)
        expect(dialog).to_be_visible(visible=is_open)
    assert made.has_one_socket()


@pytest.mark.parametrize("name", FRAMEWORKS)
@pytest.mark.parametrize("late", ["", "&late"])
@pytest.mark.parametrize("is_open", [True, False])
def test_the_panel_begins_as_the_frameworks_state_says(
    server: ServerProcess, framed: Callable[..., Framed], name: str, late: str, is_open: bool
) -> None:
    """A panel that is open from the first render is open, also where the element is defined after that."""
    made = framed(server.url, name, f"&open={str(is_open).lower()}{late}")
    if late:
        expect(made.page.locator("eclipse-chat")).to_be_attached()
        made.page.evaluate("define()")
    connected(made.page)
    expect(made.page.get_by_role("dialog")).to_be_visible(visible=is_open)


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_the_frameworks_state_follows_the_panel(
    server: ServerProcess, framed: Callable[..., Framed], name: str
) -> None:
    """A listener in a template hears what a person opens and closes; its state can do the same afterwards."""
    made = framed(server.url, name)
    made.page.get_by_role("button", name="Open the chat").click()
    made.wait_to_hear("open")
    made.page.keyboard.press("Escape")
    made.wait_to_hear("close")
    expect(made.page.get_by_role("dialog")).to_be_hidden()
    assert made.heard == ["open", "close"]
    made.change(open=True)
    expect(made.page.get_by_role("dialog")).to_be_visible()


@pytest.mark.parametrize("name", FRAMEWORKS)
@pytest.mark.parametrize("late", ["", "&late"])
def test_texts_as_an_object(
    server: ServerProcess, framed: Callable[..., Framed], name: str, late: str
) -> None:
    """Texts as an object reach the element, also those that were assigned before it was defined."""
    made = framed(server.url, name, late)
    if late:
        expect(made.page.locator("eclipse-chat")).to_be_attached()
        made.page.evaluate("define()")
    made.page.get_by_role("button", name="Open the chat").click()
    expect(made.page.get_by_role("dialog", name="Questions?")).to_be_visible()
    made.change(texts={"title": "Answers!"})
    expect(made.page.get_by_role("dialog", name="Answers!")).to_be_visible()


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_another_chat_id_is_another_chat(
    server: ServerProcess, framed: Callable[..., Framed], name: str, chat_id: str
) -> None:
    """When the state names another chat, the element shows only that one, over one socket."""
    made = framed(server.url, name)
    page = made.page
    page.get_by_role("button", name="Open the chat").click()
    say(page.get_by_role("textbox"), "in the first chat")
    expect(page.get_by_text("· Sent")).to_be_visible()
    made.change(chatId=f"{chat_id}-2")
    expect(page.get_by_text("in the first chat")).to_be_hidden()
    connected(page)
    assert [socket.is_closed() for socket in made.sockets] == [True, False]
    made.change(chatId=chat_id)
    expect(page.get_by_text("in the first chat")).to_be_visible()


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_an_unmounted_element_leaves_nothing(
    server: ServerProcess, framed: Callable[..., Framed], name: str
) -> None:
    """When the component goes, its socket is closed; when it comes back, it has one again."""
    made = framed(server.url, name)
    connected(made.page)
    made.change(shown=False)
    made.wait_without_sockets()
    expect(made.page.locator("eclipse-chat")).not_to_be_attached()
    made.change(shown=True)
    connected(made.page)
    assert [socket.is_closed() for socket in made.sockets] == [True, False]


# -- the hooks --------------------------------------------------------------------------------------


def write(made: Framed, text: str, role: str = "USER") -> object:
    """Send with the page's hook; what it answers."""
    return made.page.evaluate("([text, role]) => send(text, role)", [text, role])


def is_open(made: Framed) -> None:
    """Wait until the page's hook says that it is connected."""
    expect(made.page.locator("output")).to_have_text("open", timeout=25_000)


@pytest.mark.parametrize(("react", "hook"), HOOKS)
def test_a_hook_has_one_socket(
    server: ServerProcess, framed: Callable[..., Framed], react: str, hook: str
) -> None:
    """StrictMode's double effects and new functions on every render ask for one token and open one socket."""
    made = framed(server.url, react, f"&hook={hook}")
    is_open(made)
    for number in range(5):
        made.change(texts={"title": f"render {number}"})
    write(made, "hello")
    expect(made.page.locator("p")).to_have_text(["hello"])
    assert made.has_one_socket()
    assert len(made.tokens) == 1


@pytest.mark.parametrize(("react", "hook"), HOOKS)
def test_a_hook_sends_and_receives(
    server: ServerProcess, framed: Callable[..., Framed], desk: Open, react: str, hook: str
) -> None:
    """A message goes to the agent's desk and one comes back; both know that the other one types."""
    made, agent = framed(server.url, react, f"&hook={hook}"), desk(server.url)
    is_open(made)
    write(made, "hello from the page")
    expect(agent.locator(".bubble")).to_have_text(["hello from the page"])
    made.page.evaluate("typing(true)")
    expect(agent.locator("eclipse-chat .typing")).to_be_visible()
    made.page.evaluate("typing(false)")
    expect(agent.locator("eclipse-chat .typing")).to_be_hidden()
    agent.get_by_role("textbox").press_sequentially("hel")
    expect(made.page.locator("b")).to_have_text("1")
    say(agent.get_by_role("textbox"), "hello from the desk")
    expect(made.page.locator("p")).to_have_text(["hello from the page", "hello from the desk"])


@pytest.mark.parametrize(("react", "hook"), HOOKS)
def test_what_a_hook_sends_offline_is_sent_later(
    server: ServerProcess, cable: Cable, framed: Callable[..., Framed], react: str, hook: str
) -> None:
    """Messages written without a network arrive once, in order; so do those that others wrote meanwhile."""
    made = framed(cable.url, react, f"&hook={hook}")
    other = framed(server.url, react, f"&hook={hook}")
    is_open(made)
    is_open(other)
    cable.cut()
    expect(made.page.locator("output")).not_to_have_text("open")
    answers = [write(made, f"offline {number}") for number in (1, 2)]
    assert all(answers)
    if hook == "useEclipseChat":
        expect(made.page.locator("i")).to_have_text(["offline 1", "offline 2"])
    else:
        assert answers == [True, True]
    write(other, "meanwhile")
    expect(other.page.locator("p")).to_have_text(["meanwhile"])
    cable.restore()
    expect(made.page.locator("p")).to_have_text(["meanwhile", "offline 1", "offline 2"], timeout=25_000)
    expect(other.page.locator("p")).to_have_text(["meanwhile", "offline 1", "offline 2"])
    expect(made.page.locator("i")).to_have_count(0)


@pytest.mark.parametrize(("react", "hook"), HOOKS)
def test_another_chat_id_is_another_chat_for_a_hook(
    server: ServerProcess, framed: Callable[..., Framed], chat_id: str, react: str, hook: str
) -> None:
    """Another `chatId` is another socket; unmounting closes that one, without a callback."""
    made = framed(server.url, react, f"&hook={hook}")
    is_open(made)
    write(made, "in the first chat")
    expect(made.page.locator("p")).to_have_text(["in the first chat"])
    made.change(chatId=f"{chat_id}-2")
    made.page.wait_for_function("document.querySelector('output').textContent == 'open'")
    write(made, "in the second chat")
    expect(made.page.locator("p").last).to_have_text("in the second chat")
    assert [chat_id in url.split("chatId=")[1] for url in made.tokens] == [True, True]
    assert [socket.is_closed() for socket in made.sockets] == [True, False]
    if hook == "useEclipseChat":
        expect(made.page.locator("p")).to_have_text(["in the second chat"])
        made.change(chatId=chat_id)
        expect(made.page.locator("p")).to_have_text(["in the first chat"])
    before = made.heard
    made.change(shown=False)
    made.wait_without_sockets()
    assert made.heard == before


def event(kind: str, **data: object) -> str:
    """An event as the server sends it."""
    return json.dumps({"type": kind, "data": data, "timestamp": "2026-01-01T00:00:00.000Z"})


@pytest.mark.parametrize("react", ["hooks18", "hooks19"])
def test_the_old_hook_keeps_its_callbacks(
    server: ServerProcess, framed: Callable[..., Framed], react: str
) -> None:
    """The latest callbacks of `useWebSocketChat` are called, with Dates, and each message once."""
    commands: list[dict[str, str]] = []
    sockets: list[WebSocketRoute] = []

    def answer(socket: WebSocketRoute, command: dict[str, str]) -> None:
        commands.append(command)
        sockets.append(socket)
        sender = {"id": "7", "name": "Ada", "email": None, "avatar": None}
        said = {"id": "m1", "content": "hi", "role": "agent", "timestamp": "2026-01-01T00:00:00.000Z"}
        for _ in range(2):
            socket.send(event("message", **said, sender=sender))
        edited = {**said, "content": "hi!", "updatedAt": "2026-01-01T00:00:01.000Z"}
        socket.send(event("message_updated", **edited, sender=None))
        socket.send(event("agent_joined", agentId="7", agentName="Ada", timestamp=said["timestamp"]))
        socket.send(json.dumps({"type": "error", "error": "Unknown message type"}))

    made = framed(
        server.url,
        react,
        "&hook=useWebSocketChat",
        prepare=lambda page: play_server(page, answer, sessionId="s"),
    )
    is_open(made)
    assert write(made, "   ") is False
    made.change(texts={"title": "the latest"})
    assert write(made, "  hello ", "AGENT") is True
    made.wait_to_hear(["error", "Unknown message type"])
    assert made.heard == [
        "connected",
        "reload",
        ["message", "the latest", True, "agent"],
        ["updated", "hi!", True],
        ["joined", "Ada", True],
        ["error", "Unknown message type"],
    ]
    expect(made.page.locator("u")).to_have_text("Unknown message type")
    assert (commands[0]["type"], commands[0]["content"], commands[0]["role"]) == ("message", "hello", "AGENT")
    sockets[0].close(code=1012)
    made.wait_to_hear("disconnected")
    expect(made.page.locator("output")).to_have_text("waiting")
    made.change(texts={"title": "disabled"})
    assert write(made, "hello") is False
    expect(made.page.locator("u")).to_contain_text("Not connected")


@pytest.mark.parametrize("react", ["hooks18", "hooks19"])
def test_a_failed_history_is_loaded_again(
    server: ServerProcess, framed: Callable[..., Framed], react: str
) -> None:
    """`loadHistory` is called again when it fails; its messages come before what has arrived, each once."""
    asked: list[str] = []

    def fail_first(route: Route) -> None:
        asked.append(route.request.url)
        if len(asked) == 1:
            route.fulfill(status=500, json={"error": "no"})
        else:
            route.fallback()

    def prepare(page: Page) -> None:
        give_history(page, [message(2, "second"), message(1, "first")])
        page.route("**/api/chats/*/messages*", fail_first)

    made = framed(server.url, react, "&hook=useEclipseChat", prepare=prepare)
    is_open(made)
    write(made, "now")
    expect(made.page.locator("p")).to_have_text(["first", "second", "now"])
    assert len(asked) == 2
    expect(made.page.locator("u")).to_have_text("")


@pytest.mark.parametrize("react", ["hooks18", "hooks19"])
def test_the_history_is_older_than_what_arrives_while_it_is_loaded(
    server: ServerProcess, framed: Callable[..., Framed], react: str
) -> None:
    """An edit and a deletion that come while the history is on its way are not undone by it."""
    held: list[Route] = []
    sockets: list[WebSocketRoute] = []

    def prepare(page: Page) -> None:
        play_server(page, lambda socket, command: sockets.append(socket), sessionId="s")
        page.route("**/api/chats/*/messages*", lambda route: held.append(route))

    made = framed(server.url, react, "&hook=useEclipseChat", prepare=prepare)
    is_open(made)
    made.wait_to_hear(["history", "Questions?"])
    write(made, "on its way")
    expect(made.page.locator("i")).to_have_text("on its way")
    edited = {**message(1, "edited"), "timestamp": "2026-01-01T00:01:00.000Z", "updatedAt": "2026-01-02"}
    sockets[0].send(event("message_updated", **edited))
    sockets[0].send(event("message_deleted", id="m000003"))
    expect(made.page.locator("p")).to_have_text(["edited"])
    held[0].fulfill(json={"messages": [message(1, "written"), message(2, "second"), message(3, "deleted")]})
    expect(made.page.locator("p")).to_have_text(["edited", "second"])


def test_a_history_in_any_order_settles_only_later_messages(
    server: ServerProcess, framed: Callable[..., Framed]
) -> None:
    """A message whose outcome is unknown is never taken for an older one of the same words."""

    def answer(socket: WebSocketRoute, command: dict[str, str]) -> None:
        if command["type"] == "message":
            key = command["clientMessageId"]
            lost = {"type": "error", "error": "No answer", "code": "outcome_unknown", "clientMessageId": key}
            socket.send(json.dumps(lost))

    def prepare(page: Page) -> None:
        play_server(page, answer, sessionId="s")
        give_history(page, [message(3, "last"), message(2, "ok", role="user"), message(1, "first")])

    made = framed(server.url, "hooks19", "&hook=useEclipseChat", prepare=prepare)
    expect(made.page.locator("p")).to_have_text(["first", "ok", "last"])
    write(made, "ok")
    made.page.wait_for_function("heard.filter(([kind]) => kind == 'history').length == 2")
    made.page.wait_for_load_state("networkidle")
    assert made.page.evaluate("chat.pending.map(({ code, after }) => [code, after])") == [
        ["outcome_unknown", "m000003"]
    ]


def test_a_message_deleted_before_its_event_is_gone(
    server: ServerProcess, framed: Callable[..., Framed]
) -> None:
    """A message that was acknowledged, and deleted before its event came, is not pending any more."""
    sockets: list[WebSocketRoute] = []

    def answer(socket: WebSocketRoute, command: dict[str, str]) -> None:
        if command["type"] == "message":
            sockets.append(socket)
            ack = {"type": "ack", "clientMessageId": command["clientMessageId"], "id": "m1"}
            socket.send(json.dumps(ack))

    made = framed(
        server.url,
        "hooks19",
        "&hook=useEclipseChat",
        prepare=lambda page: play_server(page, answer, sessionId="s"),
    )
    is_open(made)
    write(made, "a mistake")
    made.page.wait_for_function("!chat.pending.length")
    expect(made.page.locator("i")).to_have_text(["a mistake"])
    sockets[0].send(event("message_deleted", id="m1"))
    expect(made.page.locator("i")).to_have_count(0)


def test_the_latest_fetch_is_called(server: ServerProcess, framed: Callable[..., Framed]) -> None:
    """A token requested after a render uses that render's `fetch`."""
    sockets: list[WebSocketRoute] = []

    def prepare(page: Page) -> None:
        play_server(page, lambda socket, command: sockets.append(socket), sessionId="s")

    made = framed(server.url, "hooks19", "&hook=useEclipseChat", prepare=prepare)
    is_open(made)
    made.change(texts={"title": "later"})
    write(made, "x")
    made.page.wait_for_function("chat.pending[0].status == 'sending'")
    sockets[0].close(code=4000)
    made.wait_to_hear(["token", "later"])


def test_fast_refresh_keeps_the_socket(server: ServerProcess, framed: Callable[..., Framed]) -> None:
    """A component that is edited while its page is open keeps its client, and its socket."""
    made = framed(server.url, "refresh")
    is_open(made)
    made.change()
    expect(made.page.get_by_title("after")).to_have_text("open")
    assert made.has_one_socket()
    assert len(made.tokens) == 1
