"""The README's pages, as they are, against a server as `make run` starts it."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, expect

from tests.browser.stage import ROOT, ServerProcess, connected, open_panel, say

README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"as `([a-z]+\.html)`.*?^```html\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Keep quiet."""


@pytest.fixture
def site(server: ServerProcess, tmp_path: Path) -> Iterator[str]:
    """`python3 -m http.server` beside the saved pages; only the server's port is another."""
    for name, text in SNIPPETS:
        assert "http://127.0.0.1:8080/" in text
        (tmp_path / name).write_text(text.replace(":8080/", f":{server.port}/"), encoding="utf-8")
    running = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()
    thread.join(5)


def test_both_pages_chat_with_each_other(context: Callable[..., BrowserContext], site: str) -> None:
    """The widget's page and the client's, from another origin than the server's, in two browsers."""
    assert [name for name, _ in SNIPPETS] == ["chat.html", "client.html"]
    widget, client = context().new_page(), context().new_page()
    widget.goto(f"{site}/chat.html")
    box = open_panel(widget)
    connected(widget)
    client.goto(f"{site}/client.html")
    client.get_by_placeholder("Write a message").fill("Hello from the client")
    client.get_by_role("button", name="Send").click()
    expect(widget.locator("eclipse-chat .bubble")).to_have_text(["Hello from the client"])
    say(box, "Hello from the widget")
    expect(client.get_by_role("listitem")).to_have_text(["Hello from the client", "Hello from the widget"])
