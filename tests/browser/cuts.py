"""The endurance run: both sides write while the network is cut again and again, and a tab is reloaded.

    python -m tests.browser.cuts --messages 500 --cuts 20 --servers 2

starts the servers (on Redis if there are two), Chromium, and says what each side shows at the end.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from playwright.sync_api import Page

from tests.browser.stage import Cable, ServerProcess, chromium, connected, open_panel, shown
from tests.needs import find_chromium

SEND = """([from, to]) => {
    for (let i = from; i < to; i++) document.querySelector("eclipse-chat").send(`%s ${i}`);
}"""


def play(page: Page, agent: Page, *, cables: Sequence[Cable], messages: int, cuts: int) -> list[str]:
    """Send ``messages`` from either side in ``cuts`` portions, cutting all cables in each; compare the ends.

    Returns what both sides show. Raises AssertionError if a message is missing, doubled, or in another place.
    """
    connected(page, agent)
    for cut in range(cuts):
        span = [messages * cut // cuts, messages * (cut + 1) // cuts]
        half = [span[0], (span[0] + span[1]) // 2]
        for side, name in ((page, "customer"), (agent, "agent")):
            side.evaluate(SEND % name, half)
        # A random moment: cuts shall hit commands, acks, replays and token requests alike.
        page.wait_for_timeout(random.uniform(0, 1500))
        for cable in cables:
            cable.cut()
        for side, name in ((page, "customer"), (agent, "agent")):
            side.evaluate(SEND % name, [half[1], span[1]])
        page.wait_for_timeout(random.uniform(0, 800))
        for cable in cables:
            cable.restore()
        if cut == cuts // 2:
            page.reload()
            open_panel(page)
    pending = "() => document.querySelector('eclipse-chat').chat.pending.length"
    deadline = time.monotonic() + 60 + messages / 4
    while any(side.evaluate(pending) for side in (page, agent)):
        assert time.monotonic() < deadline, "messages are still waiting"
        page.wait_for_timeout(100)
    connected(page, agent)
    here, there = [""], [""]
    expected = sorted(f"{name} {n}" for name in ("customer", "agent") for n in range(messages))
    while time.monotonic() < deadline:
        here, there = shown(page), shown(agent)
        if len(here) == len(there) == len(expected):
            break
        page.wait_for_timeout(100)
    for name, texts in (("customer", here), ("agent", there)):
        missing, extra = set(expected) - set(texts), len(texts) - len(set(texts))
        assert sorted(texts) == expected, f"the {name} misses {sorted(missing)[:9]} and shows {extra} twice"
    assert here == there, "the two sides differ in their order"
    for name in ("customer", "agent"):
        numbers = [int(text.split()[1]) for text in here if text.startswith(name)]
        assert numbers == sorted(numbers), f"the {name}'s own order was lost"
    return here


def main() -> None:
    """Run it as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=500, help="from each side")
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--servers", type=int, default=2, choices=(1, 2))
    arguments = parser.parse_args()
    path = find_chromium()
    if path is None:
        parser.error("Chromium is not installed (Debian: apt-get install chromium)")
    with tempfile.TemporaryDirectory() as folder, chromium(path) as browser:
        environment: dict[str, str] = {}
        redis = None
        if arguments.servers == 2:
            from tests.servers import RedisServer, default_server

            redis = RedisServer(default_server()).start()
            environment = {"REDIS_URL": redis.url, "ECLIPSE_BACKEND": "redis"}
        servers = [ServerProcess(Path(folder), **environment).start() for _ in range(arguments.servers)]
        cables = [Cable(server.port) for server in servers]
        try:
            page, agent = browser.new_context().new_page(), browser.new_context().new_page()
            page.goto(f"{cables[0].url}/demo?chat=visitor-cuts")
            agent.goto(f"{cables[-1].url}/demo/agent?chat=visitor-cuts")
            open_panel(page)
            began = time.monotonic()
            texts = play(page, agent, cables=cables, messages=arguments.messages, cuts=arguments.cuts)
            took = time.monotonic() - began
            print(
                f"{arguments.servers} servers, {arguments.cuts} cuts, a reload in the middle: "
                f"both sides show {len(texts)} messages, each once, in the same order, after {took:.0f} s"
            )
        finally:
            for cable in cables:
                cable.close()
            for server in servers:
                server.end()
            if redis is not None:
                redis.stop()


if __name__ == "__main__":
    main()
