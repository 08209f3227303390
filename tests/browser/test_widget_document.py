"""docs/widget.md is right: its code runs, and its tables are complete."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.stage import ROOT, ServerProcess, connected, site

DOCUMENT = (ROOT / "docs" / "widget.md").read_text(encoding="utf-8")
WIDGET = ROOT / "web" / "src" / "widget"
CLIENT = ROOT / "web" / "src" / "client"
BLOCKS = dict(re.findall(r"^```(\w*)\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL))
SNIPPETS = re.findall(r"^```js\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
EXAMPLE = "https://chat.example.com"


def sources(folder: Path, kind: str) -> str:
    """All files of a kind, one after the other."""
    return "\n".join(path.read_text() for path in sorted(folder.rglob(f"*.{kind}")))


def table(heading: str) -> list[list[str]]:
    """The cells of the table whose first row begins with these cells, without that row."""
    lines = DOCUMENT.split(f"| {heading} |", 1)[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]


def code(text: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`]+)`", text)


@pytest.fixture(scope="module")
def policy(server: ServerProcess) -> str:
    """The document's content security policy, for this server."""
    port = f"127.0.0.1:{server.port}"
    return (
        BLOCKS[""]
        .strip()
        .replace(EXAMPLE, server.url)
        .replace("chat.example.com", port)
        .replace("wss:", "ws:")
    )


@pytest.fixture
def page(context: Callable[..., BrowserContext]) -> Page:
    """A page whose complaints fail the test."""
    return context().new_page()


def test_the_four_lines_are_a_chat(server: ServerProcess, page: Page, policy: str) -> None:
    """The HTML works on another site, under the policy; its styles take effect."""
    with site(BLOCKS["html"].replace(EXAMPLE, server.url), policy, server.url) as address:
        page.goto(address)
        connected(page)
        page.evaluate(
            """rules => {
            const sheet = new CSSStyleSheet();
            sheet.replaceSync(rules);
            document.adoptedStyleSheets = [sheet];
        }""",
            BLOCKS["css"],
        )
        launcher = page.locator("eclipse-chat").get_by_role("button", name="Open the chat")
        expect(launcher).to_have_css("border-radius", "16px")
        expect(launcher).to_have_css("background-color", "rgb(11, 110, 79)")
        launcher.click()
        box = page.get_by_role("textbox")
        box.fill("hello")
        box.press("Enter")
        expect(page.get_by_text("hello", exact=True)).to_have_css("font-style", "italic")
        expect(page.get_by_role("dialog")).to_have_css("width", "384px")
        expect(page.get_by_role("dialog")).to_have_css("font-family", "Inter, sans-serif")


def test_a_nonce_stands_for_the_host(server: ServerProcess, page: Page, policy: str) -> None:
    """Under a nonce, and with nothing else allowed, the panel's code is loaded, too."""
    connect = re.search(r"connect-src [^;]*", policy)
    assert connect
    lines = BLOCKS["html"].replace(EXAMPLE, server.url).replace("<script ", '<script nonce="n" ')
    with site(lines, f"default-src 'none'; script-src 'nonce-n'; {connect[0]}", server.url) as address:
        page.goto(address)
        connected(page)
        page.get_by_role("button", name="Open the chat").click()
        expect(page.get_by_role("textbox")).to_be_visible()


def test_the_clients_lines_are_a_chat(server: ServerProcess, page: Page, chat_id: str) -> None:
    """The JavaScript runs, and shows the messages that were sent."""
    before = """
        window.shown = []; window.unsent = [];
        const show = (message) => shown.push(message.content);
        const showUnsent = (pending) => unsent.push(pending.length);
        const loadFromApplication = async () => [];
        const offerRetry = () => {};
    """
    lines = SNIPPETS[0].replace(EXAMPLE, server.url).replace('"42"', f'"{chat_id}"')
    body = "<title>A page</title>"
    with site(body, "default-src * 'unsafe-inline'", server.url) as address:
        page.goto(address)
        page.add_script_tag(content=lines.replace("\n\n", before, 1), type="module")
        page.wait_for_function("() => window.shown?.includes('hello') && unsent.at(-1) === 0")


@pytest.mark.parametrize("lines", SNIPPETS[1:])
def test_the_clients_other_lines_run(server: ServerProcess, page: Page, chat_id: str, lines: str) -> None:
    """What the document shows of presence and of several chats connects, without an error."""
    before = f"""
        import {{ connect }} from "{server.url}/eclipse-chat.js";
        const showOnline = () => {{}}, showSeen = () => {{}}, loadFromApplication = async () => [];
        const lastMessageThatIsShown = {{ id: "m1" }};
    """
    own = lines.replace('"42"', f'"{chat_id}"').replace("inbox:support", f"{chat_id}-2")
    after = '; window.made = typeof desk == "undefined" ? chat : desk;'
    with site("<title>A page</title>", "default-src * 'unsafe-inline'", server.url) as address:
        page.goto(address)
        page.add_script_tag(content=before + own + after, type="module")
        page.wait_for_function("() => window.made?.state == 'open'")


def test_every_attribute_is_documented_with_its_default(server: ServerProcess, page: Page) -> None:
    """The table has each attribute that is observed, and the value that its property has without it."""
    page.goto(f"{server.url}/demo")
    found: dict[str, object] = page.evaluate("""() => {
        const element = document.createElement("eclipse-chat");
        const property = (name) => name.replace(/-(.)/g, (_, letter) => letter.toUpperCase());
        const names = element.constructor.observedAttributes;
        return Object.fromEntries(names.map((name) => [name, element[property(name)]]));
    }""")
    documented = {
        code(row[0])[0]: row[2] if len(row) > 2 else "" for row in table("attribute | meaning | default")
    }
    assert set(documented) == set(found)
    given = {name: code(default)[0] for name, default in documented.items() if default.startswith("`")}
    assert given == {name: str(found[name]) for name in given}


def test_methods_and_properties_are_there(server: ServerProcess, page: Page) -> None:
    """Each method can be called, each property can be read, before the element is in a page, too."""
    page.goto(f"{server.url}/demo")
    line = re.search(r"\*\*Methods\*\*: (.*?)\. \*\*Properties\*\*: (.*?)\.\n", DOCUMENT, re.DOTALL)
    assert line
    methods = [name.partition("(")[0] for name in code(line[1])]
    properties = [name for name in code(line[2]) if name.isidentifier()]
    assert methods == ["show", "hide", "send"]
    assert properties == ["chat", "unread", "isOpen", "draft", "texts", "connection"]
    kinds = page.evaluate(
        "names => names.map((name) => typeof document.createElement('eclipse-chat')[name])",
        methods + properties,
    )
    assert kinds == ["function"] * 3 + ["undefined", "number", "boolean", "string", "object", "undefined"]


def test_every_event_of_the_element_is_documented() -> None:
    """The events are those that the sources dispatch, and that have types."""
    widget = sources(WIDGET, "ts")
    fired = re.findall(r'#emit\((?:\w+ \? "(\w+)" : )?"(\w+)"', widget)
    typed = re.findall(r"^  (\w+): CustomEvent<", widget, re.MULTILINE)
    documented = {name for row in table("event | `detail`") for name in code(row[0])}
    assert documented == set(typed) == {name for pair in fired for name in pair if name}


def test_every_custom_property_is_documented_with_its_default() -> None:
    """The table has each property that the style sheets ask for, and what they take without it."""
    asked: dict[str, list[str]] = {}
    for name, default in re.findall(r"var\((--eclipse-[\w-]+), ([^)]+)\)", sources(WIDGET, "css")):
        asked.setdefault(name, [])
        asked[name] += [default] if default not in asked[name] else []
    documented = {}
    for row in table("property | default | | property | default"):
        for name, default in ((row[0], row[1]), (row[-2], row[-1])):
            if code(name):
                documented[code(name)[0]] = code(default)
    assert documented == asked


def test_every_part_is_documented() -> None:
    """The parts are those of the sources; those of bubbles and of buttons are computed there."""
    widget = sources(WIDGET, "ts")
    named = re.findall(r'part: (?:[\w!.? ]+\? )?[`"]([^`"$]+)', widget)
    parts = {part for names in named for part in names.split()} | {
        "mine",
        "theirs",
        "retry",
        "edit",
        "discard",
    }
    documented = re.search(r"there are parts: (.*?)\.\n", DOCUMENT, re.DOTALL)
    assert documented
    assert set(code(documented[1])) == parts


def test_every_language_is_documented() -> None:
    """The languages are those that have a file of texts."""
    languages = sorted(path.stem for path in (WIDGET / "texts").glob("??.ts"))
    documented = re.search(r"`pt-BR` is `pt`\): (.*?)\. Anything", DOCUMENT)
    assert documented
    assert code(documented[1]) == languages


def test_every_error_of_the_client_is_documented() -> None:
    """The codes are those that the client gives by itself."""
    client = sources(CLIENT, "ts")
    codes = set(re.findall(r'"(token_\w+|bad_url|connect_failed)"', client))
    documented = {code(row[0])[0]: row[2] for row in table("`code` | what happened | `retryable`")}
    assert set(documented) == codes


def test_every_program_of_the_last_table_exists() -> None:
    """Every documented file, module and make target exists."""
    makefile = (ROOT / "Makefile").read_text()
    for row in table("command | what"):
        words = code(row[0])[0].split()
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), words
        elif words[0] == "python":
            assert (ROOT / (words[2].replace(".", "/") + ".py")).is_file(), words
        else:
            assert list(ROOT.glob(words[-1])), words
