"""The application in examples/nextjs, built and started, with this server and two browsers."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests import needs
from tests.browser.acts import Contexts
from tests.browser.stage import ROOT, Cable, ServerProcess, connected, say
from tests.servers import free_port

pytestmark = pytest.mark.slow
PATIENCE = 20_000
"""Milliseconds; a loaded machine takes its time."""
MADE = shutil.ignore_patterns("node_modules", ".next", ".env*.local")


def run(folder: Path, *command: str, **environment: str) -> None:
    """Run one of the example's commands; fails with its output."""
    environment = {**os.environ, "NEXT_TELEMETRY_DISABLED": "1", **environment}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout[-3000:]}{done.stderr[-3000:]}"


@contextlib.contextmanager
def started(folder: Path, port: int, server: ServerProcess) -> Iterator[str]:
    """The built application; answers its address."""
    environment = {**os.environ, "CHAT_SERVER_URL": server.url}
    url = f"http://127.0.0.1:{port}"
    command = [needs.node(), "node_modules/next/dist/bin/next", "start", "--port", str(port)]
    log = folder / "next.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=10):
                break
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield url
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def example(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Cable]]:
    """The application's address, and the network between the browsers and the server."""
    needs.node(20)
    folder = tmp_path_factory.mktemp("example")
    application = folder / "examples" / "nextjs"
    shutil.copytree(ROOT / "examples" / "nextjs", application, ignore=MADE)
    shutil.copytree(project / "repository" / "web", folder / "web")  # built, as the example's set-up does it
    needs.npm_ci(application)

    port = free_port()
    # The secrets are those that the server generates; the example finds them where `make run` saves them.
    unset = {"JWT_SECRET": "", "INTERNAL_API_SECRET": ""}
    server = ServerProcess(folder, ECLIPSE_API="http", NEXT_API_URL=f"http://localhost:{port}", **unset)
    cable = Cable(server.start().port)
    try:
        run(application, needs.npm(), "run", "build", NEXT_PUBLIC_WS_URL=cable.url.replace("http", "ws"))
        with started(application, port, server) as url:
            yield url, cable
    finally:
        cable.close()
        server.end()
        shutil.rmtree(application)  # hundreds of megabytes, which pytest would keep


def test_a_customer_and_an_agent(
    example: tuple[str, Cable], context: Contexts, complaints: list[str]
) -> None:
    """The page with the hook and the page with the widget talk; a reload and an outage lose nothing."""
    url, cable = example
    customer, agent = context().new_page(), context().new_page()
    for page, button in ((agent, "I am the agent"), (customer, "I am the customer")):
        page.goto(url)
        page.get_by_role("button", name=button).click()
        # The inbox tells the agent's page of the customer.
        expect(agent.get_by_role("link", name="Customer ")).to_have_count(
            int(page is customer), timeout=PATIENCE
        )

    def talk(question: str, answer: str) -> None:
        say(customer.get_by_role("textbox"), question)
        say(agent.get_by_role("textbox"), answer)

    def both_show(*texts: str) -> None:
        for page, text in itertools.product((customer, agent), texts):
            expect(page.get_by_text(text, exact=True)).to_have_count(1, timeout=PATIENCE)

    def both_connected() -> None:
        expect(customer.get_by_role("status")).to_have_text("Connected", timeout=PATIENCE)
        connected(agent)

    both_connected()
    talk("Where is my lamp?", "On its way.")
    both_show("Where is my lamp?", "On its way.")
    customer.reload()
    agent.reload()
    both_show("Where is my lamp?", "On its way.")

    both_connected()
    cable.cut()
    expect(customer.get_by_role("status")).not_to_have_text("Connected", timeout=PATIENCE)
    expect(agent.locator("eclipse-chat")).not_to_have_attribute("state", "open", timeout=PATIENCE)
    talk("Are you there?", "I am.")
    expect(customer.locator(".waiting")).to_have_text("Are you there?")
    cable.restore()
    both_connected()
    both_show("Are you there?", "I am.")
    expect(customer.locator(".waiting")).to_have_count(0)
    assert {line.partition(":")[0] for line in complaints} <= {
        "Chat"
    }  # both pages say why they are not connected
    complaints.clear()
