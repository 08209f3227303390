"""Fixtures of the suite in a real browser. Without Chromium it is skipped, but never in CI."""

from __future__ import annotations

import functools
import json
import secrets
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests import needs
from tests.browser.acts import Write
from tests.browser.desk import Listed, listening
from tests.browser.shop import Shop
from tests.browser.stage import ROOT, SECRET, Cable, ServerProcess, chromium

AXE = "axe-core@4.11.0"
ARTEFACTS = ROOT / "artefacts" / "browser"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything here as a test in a browser."""
    for item in items:
        if "tests/browser" in str(item.path):
            item.add_marker("browser")


@pytest.fixture(autouse=True)
def tasks_of_playwright(expect_log: Callable[..., None]) -> None:
    """Let Playwright complain about its own task, which a page leaves that is closed amid a route."""
    expect_log("playwright/_impl", optional=True)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests; each has contexts of its own."""
    with chromium(needs.headless_chromium()) as running:
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that its module's tests share; each test has a chat of its own."""
    running = ServerProcess(tmp_path_factory.mktemp("server")).start()
    yield running
    running.end()


@pytest.fixture
def cable(server: ServerProcess) -> Iterator[Cable]:
    """A network between the browser and the server."""
    laid = Cable(server.port)
    yield laid
    laid.close()


@pytest.fixture
def chat_id() -> str:
    """A chat of this test's own."""
    return f"visitor-{secrets.token_hex(4)}"


@pytest.fixture
def complaints() -> Iterator[list[str]]:
    """What the pages complain about; anything left in it at the end fails the test.

    Refusals of the content security policy arrive here, too.
    """
    heard: list[str] = []
    yield heard
    assert not heard


@pytest.fixture
def context(browser: Browser, complaints: list[str]) -> Iterator[Callable[..., BrowserContext]]:
    """Makes browser contexts: visitors who know nothing of each other."""
    made: list[BrowserContext] = []

    def make(**options: object) -> BrowserContext:
        # Without animations: each click would wait for the end of one.
        usual = {"viewport": {"width": 1280, "height": 800}, "reduced_motion": "reduce"}
        context = browser.new_context(**{**usual, **options})  # type: ignore[arg-type]
        context.set_default_timeout(15_000)
        # The network's own failures are what many of these tests are about, and pages can't keep them quiet.
        context.on(
            "console",
            lambda line: (
                complaints.append(line.text)
                if line.type in ("error", "warning")
                and not line.text.startswith(("Failed to load resource", "WebSocket connection to"))
                else None
            ),
        )
        context.on("weberror", lambda error: complaints.append(str(error.error)))
        made.append(context)
        return context

    yield make
    for context in made:
        context.close()


@pytest.fixture
def customer(context: Callable[..., BrowserContext], chat_id: str) -> Callable[..., Page]:
    """Opens the customer's page in a context of its own."""

    def open_page(url: str, query: str = "", **options: object) -> Page:
        page = context(**options).new_page()
        page.goto(f"{url}/demo?chat={chat_id}{query}")
        return page

    return open_page


@pytest.fixture
def desk(context: Callable[..., BrowserContext], chat_id: str) -> Callable[..., Page]:
    """Opens the agents' desk at this test's chat."""

    def open_page(url: str, query: str = "", **options: object) -> Page:
        page = context(**options).new_page()
        page.goto(f"{url}/demo/agent?chat={chat_id}{query}")
        return page

    return open_page


@pytest.fixture
def write(server: ServerProcess) -> Write:
    """Saves messages as the application does, in the embedded API: no page has to be opened for it."""

    def save(chat: str, *texts: str) -> None:
        for text in texts:
            request = urllib.request.Request(
                f"{server.url}/api/chats/{chat}/messages/send",
                json.dumps({"content": text, "role": "USER", "userId": "anon_1_x"}).encode(),
                {"X-Internal-Secret": SECRET[::-1]},
            )
            urllib.request.urlopen(request, timeout=10).close()

    return save


@pytest.fixture
def listed(server: ServerProcess, context: Callable[..., BrowserContext]) -> tuple[Page, Listed]:
    """The desk with a list of three made-up chats."""
    page = context().new_page()
    chats = Listed(page, server, 3)
    page.goto(f"{server.url}/demo/agent")
    expect(page.locator(".chat")).to_have_count(3)
    listening(page)
    return page, chats


@pytest.fixture(scope="session")
def artefacts() -> Path:
    """Where screenshots go; git ignores it."""
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    return ARTEFACTS


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], str]:
    """Fetches axe-core's source from npm; a test requests it last, since it skips if there is none."""

    @functools.cache
    def fetch() -> str:
        modules = needs.npm_packages(tmp_path_factory.mktemp("axe"), AXE)
        return (modules / "axe-core" / "axe.min.js").read_text()

    return fetch


@pytest.fixture
def shop(server: ServerProcess, context: Callable[..., BrowserContext]) -> Callable[..., Shop]:
    """Makes pages in contexts of their own."""
    return lambda **options: Shop(server, context(**options).new_page())
