"""How long people wait: for the first message after opening the panel, and for a frame while scrolling.

    python -m tests.browser.opening

starts a server and Chromium, and prints the medians and the worst of some rounds.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from playwright.sync_api import Browser

from tests.browser.stage import ServerProcess, chromium, connected, open_panel, say
from tests.needs import find_chromium

ROUNDS = 15

# From the click until a bubble is on the screen: two frames later it has been painted.
OPEN = """() => new Promise((done) => {
    const element = document.querySelector("eclipse-chat"), began = performance.now();
    element.show();
    const look = () => element.shadowRoot.querySelector(".bubble")
        ? requestAnimationFrame(() => done(performance.now() - began))
        : requestAnimationFrame(look);
    look();
})"""

# Scrolls up through the whole chat, which draws ever more of it, and times every frame on the way.
SCROLL = """() => new Promise((done) => {
    const log = document.querySelector("eclipse-chat").shadowRoot.querySelector(".log");
    const frames = [];
    let last = performance.now(), still = 0;
    const step = () => {
        const now = performance.now(), before = log.scrollTop;
        frames.push(now - last);
        last = now;
        log.scrollTop -= 400;
        still = log.scrollTop == before ? still + 1 : 0;
        if (still > 5 || frames.length > 6000) done([frames, log.querySelector(".bubble").textContent]);
        else requestAnimationFrame(step);
    };
    step();
})"""


def opening(browser: Browser, url: str, extra: str) -> list[float]:
    """Milliseconds from opening the panel to the first message, in contexts that know nothing yet."""
    times = []
    for _ in range(ROUNDS):
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{url}/demo?chat=visitor-opening{extra}")
        if extra:  # connects with the first opening: token, socket and history are in the time
            page.evaluate(
                """() => {
                    const old = document.querySelector("eclipse-chat"), lazy = old.cloneNode();
                    lazy.setAttribute("lazy", "");
                    old.replaceWith(lazy);
                }"""
            )
        else:
            connected(page)
        times.append(float(page.evaluate(OPEN)))
        context.close()
    return times


def scrolling(browser: Browser, url: str) -> list[float]:
    """Milliseconds of every frame while scrolling up from the last of 10,000 messages to the first."""
    context = browser.new_context()
    page = context.new_page()
    messages = [
        {
            "id": f"m{n:05}",
            "content": f"message {n}",
            "role": "agent" if n % 3 else "user",
            "createdAt": f"2026-01-01T{n // 3600:02}:{n // 60 % 60:02}:{n % 60:02}.000Z",
            "sender": {"id": "a", "name": "Ada"},
        }
        for n in range(10_000)
    ]
    page.route("**/api/chats/*/messages*", lambda route: route.fulfill(json={"messages": messages}))
    page.goto(f"{url}/demo?chat=visitor-scrolling&open")
    page.get_by_text("message 9999").wait_for()
    frames: list[float]
    frames, first = page.evaluate(SCROLL)
    context.close()
    assert first == "message 0", f"scrolling ended at {first}"
    return frames


def main() -> None:
    """Measure and print."""
    path = find_chromium()
    if path is None:
        raise SystemExit("Chromium is not installed (Debian: apt-get install chromium)")
    with tempfile.TemporaryDirectory() as folder, chromium(path) as browser:
        server = ServerProcess(Path(folder)).start()
        try:
            page = browser.new_page()
            page.goto(f"{server.url}/demo?chat=visitor-opening")
            say(open_panel(page), "hello")
            page.get_by_text("· Sent").wait_for()
            page.close()
            for extra, name in (("", "already connected"), ("&lazy", "connecting with the first opening")):
                times = opening(browser, server.url, extra)
                print(
                    f"{name}: first message visible after {statistics.median(times):.0f} ms, "
                    f"at worst {max(times):.0f} ms"
                )
            frames = sorted(scrolling(browser, server.url))
            print(
                f"scrolling up through 10,000 messages: a frame takes {statistics.median(frames):.0f} ms, "
                f"99 % at most {frames[len(frames) * 99 // 100]:.0f} ms, the worst {frames[-1]:.0f} ms"
            )
        finally:
            server.end()


if __name__ == "__main__":
    main()
