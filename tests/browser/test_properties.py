"""The element's names: each attribute has a property, and no method collides with either."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests import needs
from tests.browser.acts import Contexts, Open, play_server
from tests.browser.stage import ROOT, ServerProcess, connected, open_panel

# What React 19, Preact and Vue do with a custom element: a property where there is one, else an attribute.
FRAMEWORK = """(element, values) => {
    for (const [name, value] of Object.entries(values)) {
        if (name in element) element[name] = value;
        else element.setAttribute(name, value);
    }
}"""


def blank(server: ServerProcess, context: Contexts) -> Page:
    """A page that has neither a widget nor its script yet."""
    page = context().new_page()
    page.route("**/demo.js", lambda route: route.fulfill(content_type="text/javascript", body=""))
    page.goto(f"{server.url}/demo")
    return page


def test_a_framework_opens_and_closes_the_panel(server: ServerProcess, customer: Open) -> None:
    """`open` as a property opens, tells what people do with the launcher and Escape, and closes."""
    page = customer(server.url)
    connected(page)
    element = page.locator("eclipse-chat")
    element.evaluate("""element => {
        window.heard = [];
        for (const name of ["open", "close"]) element.addEventListener(name, () => heard.push(name));
    }""")
    element.evaluate(FRAMEWORK, {"open": True})
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(element).not_to_have_attribute("open", "")
    assert element.evaluate("element => element.open") is False
    open_panel(page)
    expect(element).to_have_attribute("open", "")
    assert element.evaluate("element => element.open") is True
    element.evaluate("element => element.removeAttribute('open')")
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert page.evaluate("heard") == ["open", "close", "open", "close"]
    element.evaluate("element => { element.show(); element.hide(); element.show(); }")
    expect(page.get_by_role("dialog")).to_be_visible()
    expect(page.get_by_role("button", name="Open the chat")).to_be_hidden()


def test_every_attribute_has_a_property(server: ServerProcess, customer: Open) -> None:
    """Each reflects the other, what is missing has its default, and no name is a method's or HTML's own."""
    page = customer(server.url)
    found = page.evaluate("""async () => {
        const { EclipseChatElement } = await import("/widget.js");
        const element = document.createElement("eclipse-chat"), wrong = [], defaults = {};
        for (const attribute of EclipseChatElement.observedAttributes) {
            const name = attribute.replace(/-./g, ([, letter]) => letter.toUpperCase());
            const isTaken = name in HTMLElement.prototype || typeof element[name] == "function";
            if (isTaken) wrong.push(name);
            if (name == "texts") continue;
            const kind = typeof (defaults[name] = element[name]);
            const [value, text] = { boolean: [true, ""], number: [7, "7"], string: ["x", "x"] }[kind];
            element[name] = value;
            const set = element.getAttribute(attribute);
            if (set !== text) wrong.push(`${name} sets ${set}`);
            element[name] = undefined;
            if (element.hasAttribute(attribute)) wrong.push(`${name} stays`);
            element.setAttribute(attribute, text);
            if (element[name] !== value) wrong.push(`${attribute} is ${element[name]}`);
        }
        return [wrong, defaults];
    }""")
    assert found == [
        [],
        {
            "tokenUrl": "",
            "chatId": "",
            "historyUrl": "/api/chats/{chatId}/messages",
            "url": "",
            "as": "user",
            "inline": False,
            "open": False,
            "lazy": False,
            "theme": "",
            "noTitle": False,
            "noPresence": False,
            "spread": 20000,
            "side": "end",
        },
    ]


def test_properties_set_before_the_script_is_there_are_taken_over(
    server: ServerProcess, context: Contexts
) -> None:
    """A page may set properties on an element whose class is loaded later."""
    page = blank(server, context)
    values = {
        "tokenUrl": "/api/ws/token",
        "chatId": "early",
        "open": True,
        "draft": "half a sentence",
        "texts": {"title": "Early"},
    }
    page.evaluate(
        """values => {
            const element = Object.assign(document.createElement("eclipse-chat"), values);
            document.body.append(element);
        }""",
        values,
    )
    page.add_script_tag(url="/widget.js", type="module")
    expect(page.get_by_role("dialog", name="Early")).to_be_visible()
    expect(page.get_by_role("textbox")).to_have_value("half a sentence")
    connected(page)
    expect(page.locator("eclipse-chat")).to_have_attribute("chat-id", "early")


@pytest.mark.parametrize("how", ["attribute", "object", "json"])
def test_texts_are_accepted_in_each_form(server: ServerProcess, customer: Open, how: str) -> None:
    """Texts come as an attribute, an object or its JSON; a value other than text leaves the default."""
    page = customer(server.url, "&open")
    connected(page)
    texts = {"title": "Questions?", "placeholder": None, "joined": 7}
    page.evaluate(
        """([how, texts, json]) => {
            const element = document.querySelector("eclipse-chat");
            if (how == "attribute") element.setAttribute("texts", json);
            else element.texts = how == "object" ? texts : json;
        }""",
        [how, texts, json.dumps(texts)],
    )
    expect(page.get_by_role("dialog", name="Questions?")).to_be_visible()
    expect(page.get_by_role("textbox", name="Write a message…")).to_be_visible()


def test_equal_texts_change_nothing(server: ServerProcess, customer: Open) -> None:
    """A framework that sets an equal object with every rendering takes no selection or focus away."""
    page = customer(server.url, "&open")
    connected(page)
    same = page.evaluate("""() => {
        const element = document.querySelector("eclipse-chat"), list = element.shadowRoot.querySelector("ol");
        const before = list.firstElementChild;
        element.texts = { ...element.texts };
        return before == list.firstElementChild;
    }""")
    assert same


def test_attributes_that_change_together_reconnect_once(server: ServerProcess, customer: Open) -> None:
    """Whatever a connection depends on takes effect at once, in one reconnect for all changes of a turn."""
    page = customer(server.url)
    connected(page)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.route("**/elsewhere/**", lambda route: route.fulfill(json={"messages": []}))
    page.locator("eclipse-chat").evaluate(
        FRAMEWORK,
        {"chatId": "together", "historyUrl": "/elsewhere/{chatId}", "spread": 1, "url": f"{server.url}/ws"},
    )
    page.wait_for_function("() => document.querySelector('eclipse-chat').chat.state == 'open'")
    open_panel(page)
    page.wait_for_function(
        "() => performance.getEntriesByType('resource').some((r) => r.name.includes('elsewhere'))"
    )
    assert len([url for url in asked if "/api/ws/token" in url]) == 1
    assert any(url.endswith("/elsewhere/together") for url in asked)


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("url", ["wss://a.test/ws", "wss://b.test/ws"], "b.test"),
        ("as", ["user", "agent"], "AGENT"),
    ],
)
def test_a_change_takes_effect_at_once(
    server: ServerProcess, context: Contexts, name: str, values: list[str], told: str
) -> None:
    """Another server, and another role, are used as soon as they are set."""
    page = context().new_page()
    heard: list[str] = []

    def hear(socket: Any, command: dict[str, str]) -> None:
        heard.append(f"{socket.url} {command.get('role')}")

    play_server(page, hear, sessionId="s")
    page.goto(f"{server.url}/demo?chat=change")
    page.locator("eclipse-chat").evaluate(
        """(element, [name, values]) => {
            for (const value of values) element[name] = value;
            element.send("now");
        }""",
        [name, values],
    )
    page.wait_for_function(
        "() => document.querySelector('eclipse-chat').chat.pending[0]?.status == 'sending'"
    )
    assert len(heard) == 1
    assert told in heard[0]


def test_a_panel_becomes_a_part_of_the_page_and_back(server: ServerProcess, customer: Open) -> None:
    """`inline` moves the conversation as it is; `lazy`, once taken away, connects."""
    page = customer(server.url)
    open_panel(page).fill("half a sentence")
    page.locator("eclipse-chat").evaluate("element => { element.inline = true; }")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("textbox")).to_have_value("half a sentence")
    page.locator("eclipse-chat").evaluate("element => { element.inline = false; }")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.evaluate("""() => {
        const old = document.querySelector("eclipse-chat"), lazy = old.cloneNode();
        lazy.lazy = true;
        lazy.open = false;
        old.replaceWith(lazy);
    }""")
    assert page.evaluate("document.querySelector('eclipse-chat').chat === undefined")
    page.locator("eclipse-chat").evaluate("element => { element.lazy = false; }")
    connected(page)


def test_a_reply_is_put_into_the_field(server: ServerProcess, customer: Open) -> None:
    """`draft` is the text in the field, and stays one after a reload."""
    page = customer(server.url, "&open")
    connected(page)
    page.locator("eclipse-chat").evaluate("element => { element.draft = 'Good evening!'; }")
    box = page.get_by_role("textbox")
    expect(box).to_have_value("Good evening!")
    page.reload()
    expect(box).to_have_value("Good evening!")
    box.press_sequentially(" How are you?")
    assert page.locator("eclipse-chat").evaluate("element => element.draft") == "Good evening! How are you?"


def test_drafts_stay_with_their_chat(server: ServerProcess, customer: Open) -> None:
    """What was written for one chat is not in another chat's field, and is there again later."""
    page = customer(server.url, "&open")
    connected(page)
    box = page.get_by_role("textbox")
    box.fill("for the first")
    name = page.locator("eclipse-chat").evaluate("element => element.chatId")
    for chat, text in (("second", ""), (name, "for the first")):
        page.locator("eclipse-chat").evaluate("(element, chat) => { element.chatId = chat; }", chat)
        expect(box).to_have_value(text)


def test_a_removed_element_keeps_nothing_running(server: ServerProcess, customer: Open) -> None:
    """Removed, it has no connection; reinserted at once, it is open as before; no event is repeated."""
    page = customer(server.url, "&open")
    connected(page)
    page.evaluate("""() => {
        const element = document.querySelector("eclipse-chat");
        window.heard = [];
        for (const name of ["open", "close"]) element.addEventListener(name, () => heard.push(name));
        document.querySelector("main").append(element);
    }""")
    connected(page)
    expect(page.get_by_role("dialog")).to_be_visible()
    expect(page.get_by_role("button", name="Open the chat")).to_be_hidden()
    assert page.evaluate("heard") == []


@pytest.mark.parametrize("name", ["widget.js", "eclipse-chat.js"])
def test_a_page_rendered_on_a_server_may_import_it(name: str) -> None:
    """Importing touches no document: Node takes the files as they are."""
    path = (ROOT / "eclipse_ws" / "static" / name).as_uri()
    code = f"import({json.dumps(path)}).then((module) => console.log(Object.keys(module).length > 0))"
    done = subprocess.run(
        [needs.node(), "--input-type=module", "-e", code],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == ("true", "")


def test_a_worker_may_import_it(server: ServerProcess, context: Contexts) -> None:
    """A worker has a location but no elements and no registry: importing does nothing there."""
    page = blank(server, context)
    code = 'import("/widget.js").then(() => postMessage("ok"), (error) => postMessage(String(error)))'
    page.route("**/worker.js", lambda route: route.fulfill(content_type="text/javascript", body=code))
    answer = page.evaluate("""() => new Promise((done) => {
        const worker = new Worker("/worker.js");
        worker.onmessage = ({ data }) => done(data);
        worker.onerror = ({ message }) => done(message);
    })""")
    assert answer == "ok"


def test_another_chat_leaves_the_focus_in_the_field(server: ServerProcess, customer: Open) -> None:
    """A person who writes keeps the focus when the page changes the chat."""
    page = customer(server.url, "&open")
    connected(page)
    box = page.get_by_role("textbox")
    box.focus()
    page.locator("eclipse-chat").evaluate("element => { element.chatId = 'focused'; }")
    connected(page)
    expect(box).to_be_focused()
