"""The picture in the README: a customer's page and the agents' desk, taken from a running server.

python -m tests.browser.picture docs/demo.png
"""

from __future__ import annotations

import base64
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.stage import ServerProcess, chromium, connected, open_panel, say
from tests.needs import find_chromium

SIZE = {"width": 1120, "height": 760}
PAGE = """<!doctype html><style>
body { margin: 0; padding: 44px; width: 1700px; height: 836px; position: relative;
    background: linear-gradient(120deg, #e6e2ff, #fff4dc); }
img { position: absolute; width: 1120px; border-radius: 14px; box-shadow: 0 18px 60px #1b1a3a55; }
img:first-of-type { right: 44px; top: 44px; }
img:last-of-type { left: 44px; bottom: 44px; width: 860px; }
</style>"""


def converse(customer: Page, agent: Page) -> None:
    """Let the two talk, up to an answer that is being typed."""
    box = open_panel(customer)
    connected(customer)
    say(box, "Good evening! Does the Corona fit a metal headboard?")
    agent.get_by_role("button", name="Visitor m7rkw").click()
    connected(agent)
    expect(customer.locator("eclipse-chat .joined")).to_be_visible()
    answer = agent.get_by_role("textbox")
    say(answer, "Good evening! It does: the clamp takes anything up to 45 mm.")
    expect(customer.locator("eclipse-chat .bubble")).to_have_count(2)
    say(box, "Wonderful, then I'll take two.")
    expect(agent.locator("eclipse-chat .bubble")).to_have_count(3)
    answer.press_sequentially("They leave tomorrow mor")
    expect(customer.locator("eclipse-chat .typing")).to_be_visible()


def main() -> None:
    """Take it."""
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/demo.png")
    path = find_chromium()
    if path is None:
        raise SystemExit("Chromium is not installed (Debian: apt-get install chromium)")
    with tempfile.TemporaryDirectory() as folder, chromium(path) as browser:
        server = ServerProcess(Path(folder)).start()
        try:
            options = {"viewport": SIZE, "device_scale_factor": 1.5, "reduced_motion": "reduce"}
            for chat, text in (
                ("8xj2q", "Where is my parcel?"),
                ("hd4nt", "The lens came off, can I mend it?"),
            ):
                other = browser.new_page()
                other.goto(f"{server.url}/demo?chat=visitor-{chat}")
                say(open_panel(other), text)
                other.get_by_text("· Sent").wait_for()
                other.close()
            customer = browser.new_page(**options)  # type: ignore[arg-type]
            agent = browser.new_page(**options)  # type: ignore[arg-type]
            customer.goto(f"{server.url}/demo?chat=visitor-m7rkw")
            agent.goto(f"{server.url}/demo/agent")
            converse(customer, agent)
            images = [base64.b64encode(page.screenshot()).decode() for page in (customer, agent)]
            sheet = browser.new_page(viewport={"width": 1788, "height": 924})
            sheet.set_content(
                PAGE + "".join(f'<img src="data:image/png;base64,{image}">' for image in images)
            )
            sheet.wait_for_function("() => [...document.images].every((image) => image.complete)")
            sheet.screenshot(path=target)
            print(f"{target}: {target.stat().st_size // 1024} KB")
        finally:
            server.end()


if __name__ == "__main__":
    main()
