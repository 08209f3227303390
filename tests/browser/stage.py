"""What a play in a browser needs: servers that can be killed, a cable that can be cut, and Chromium."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Coroutine, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from tests.servers import free_port

T = TypeVar("T")
ROOT = Path(__file__).parent.parent.parent
SECRET = "a-secret-of-the-tests-which-is-long-enough"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextlib.contextmanager
def chromium(path: str) -> Iterator[Browser]:
    """A real Chromium without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class ServerProcess:
    """A server as `make run` starts it, on a port and a database that outlive it."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.port = free_port()
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "JWT_SECRET": SECRET,
            "INTERNAL_API_SECRET": SECRET[::-1],
            "ECLIPSE_EMBEDDED_DB": str(folder / "chats.sqlite3"),
            **environment,
        }
        self.log = folder / f"server-{self.port}.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where its pages are."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> ServerProcess:
        """Start it, and wait until it answers."""
        command = [sys.executable, "-m", "eclipse_ws", "run", "--profile", "dev", "--port", str(self.port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env=self.environment, cwd=self.log.parent, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=2):
                return self
            time.sleep(0.02)
        raise RuntimeError(f"the server did not start: {self.log.read_text()[-2000:]}")

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it, politely or not. Idempotent."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(20)
            self.process = None


class Cable:
    """A TCP proxy on loopback: what browsers see of the network, which can be cut and restored."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.port = free_port()
        self._up = True
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._listener = self._call(asyncio.start_server(self._carry, "127.0.0.1", self.port))

    @property
    def url(self) -> str:
        """The server's address through the cable."""
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Reset what is connected, and whatever comes."""
        self._up = False

        async def reset() -> None:
            for writer in list(self._writers):
                writer.transport.abort()

        self._call(reset())

    def restore(self) -> None:
        """Let connections through again."""
        self._up = True

    def close(self) -> None:
        """Cut it for good and end its thread."""
        self.cut()

        async def finish() -> None:
            self._listener.close()
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)
            for _ in range(3):  # sockets are closed a turn after their transports
                await asyncio.sleep(0)

        self._call(finish())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._up:
            writer.transport.abort()
            return
        self._writers.add(writer)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            self._writers.discard(writer)
            return
        self._writers.add(back)
        with contextlib.suppress(asyncio.CancelledError):  # the end of the cable
            await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
        self._writers -= {writer, back}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()


@contextlib.contextmanager
def site(body: str, policy: str, api: str) -> Iterator[str]:
    """Somebody else's site: one page under a policy of its own, and an application that asks ``api``."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, kind, content = 404, "text/plain", b""
            if self.path == "/":
                status, kind, content = 200, "text/html", body.encode()
            elif self.path.startswith("/api/"):
                with urllib.request.urlopen(api + self.path, timeout=10) as answer:
                    status, kind, content = 200, "application/json", answer.read()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Security-Policy", policy)
            self.end_headers()
            # The embedded API names the server where it was asked: that is what the page connects to.
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            """Keep quiet."""

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}/"
    finally:
        running.shutdown()
        running.server_close()
        thread.join(5)


def opened(page: Page) -> None:
    """Wait until the panel is there."""
    page.locator("eclipse-chat .log").wait_for()


def open_panel(page: Page) -> Locator:
    """Open the customer's widget; answers its input."""
    page.get_by_role("button", name="Open the chat").click()
    opened(page)
    return page.get_by_role("textbox", name="Write a message…")


def say(box: Locator, *texts: str) -> None:
    """Type and send."""
    for text in texts:
        box.fill(text)
        box.press("Enter")


def drawn(page: Page) -> None:
    """Wait until what has changed by now is drawn."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def saved(page: Page, count: int) -> None:
    """Wait until the page shows as many messages, and has none that waits for its ack."""
    expect(page.locator("eclipse-chat .bubble")).to_have_count(count)
    page.wait_for_function("() => !document.querySelector('eclipse-chat').chat.pending.length")


def connected(*pages: Page) -> None:
    """Wait until the widget on each page is connected."""
    for page in pages:
        expect(page.locator("eclipse-chat")).to_have_attribute("state", "open", timeout=25_000)


def shown(page: Page) -> list[str]:
    """Every message that the page shows, from the first to the last, after scrolling up to the first."""
    page.bring_to_front()  # a hidden page has few turns
    texts: list[str] = page.evaluate("""async () => {
        const log = document.querySelector("eclipse-chat").shadowRoot.querySelector(".log");
        const turn = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
        const row = (bubble) => [bubble.parentElement.dataset.id, bubble.textContent];
        const rows = () => [...log.querySelectorAll(".bubble")].map(row);
        const end = async (top) => {
            for (let before, now = "-"; now != before; ) {
                before = now;
                log.scrollTop = top ? 0 : log.scrollHeight;
                await turn(); await turn(); await turn();
                now = JSON.stringify(rows());
                if (top) {
                    const seen = rows(), known = seen.findIndex(([id]) => id && id == all[0]?.[0]);
                    all = [...(known < 0 ? seen : seen.slice(0, known)), ...(known < 0 ? [] : all)];
                }
            }
        };
        let all = [];
        await end(false);
        all = rows();
        await end(true);
        await end(false);
        return all.map(([, text]) => text);
    }""")
    return texts
