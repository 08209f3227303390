"""The film in the README: a customer and an agent chat, the server is killed and comes back, nothing is lost.

python -m tests.browser.film docs/demo.gif

The pages, the server and the SIGKILL are real. Only the pace is the film's own: each frame is shown for as
long as the script below says, however busy the machine is.
"""

from __future__ import annotations

import io
import re
import signal
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageColor
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.stage import ServerProcess, chromium, connected, open_panel, say
from tests.needs import find_chromium

CUSTOMER = (490, 580)
DESK = (700, 580)
GAP, BAR, CAPTION = 16, 30, 46  # around the windows, above each one, and below both
SIZE = (CUSTOMER[0] + DESK[0] + 3 * GAP, CUSTOMER[1] + BAR + 2 * GAP + CAPTION)
DOTS = {"up": "#57d98b", "down": "#e5484d"}
SHEET = f"""<!doctype html><style>
* {{ box-sizing: border-box; margin: 0; }}
body {{ background: #e7e5f3; color: #3a3858; font: 600 14px/{BAR}px system-ui, sans-serif; }}
div {{ position: absolute; top: {GAP}px; height: {BAR + DESK[1]}px; padding-left: 14px; }}
div {{ background: #fff; border-radius: 10px 10px 0 0; }}
p {{ position: absolute; inset: auto {GAP}px {GAP // 2}px; padding-left: 16px; border-radius: 10px; }}
p {{ background: #1b1a3a; color: #fff; font-size: 18px; line-height: {CAPTION - 8}px; }}
i {{ display: inline-block; width: 12px; height: 12px; border-radius: 50%; margin-right: 12px; }}
</style>
<div style="left: {GAP}px; width: {CUSTOMER[0]}px">The customer’s page</div>
<div style="left: {2 * GAP + CUSTOMER[0]}px; width: {DESK[0]}px">The agents’ desk</div>
<p><i></i><span></span></p>"""


class Film:
    """Frames, each with its duration in milliseconds: both pages side by side above a caption."""

    def __init__(self, sheet: Page, customer: Page, desk: Page) -> None:
        self._sheet, self._pages = sheet, {GAP: customer, CUSTOMER[0] + 2 * GAP: desk}
        self._sheet.set_content(SHEET)
        self.frames: list[Image.Image] = []
        self.durations: list[int] = []

    def caption(self, text: str, server: str) -> None:
        """Say what happens, from the next frame on; ``server`` is "up" or "down"."""
        print(f"  {sum(self.durations) / 1000:4.1f} s  {text}", flush=True)
        self._sheet.locator("span").evaluate("(span, text) => { span.textContent = text; }", text)
        self._sheet.locator("i").evaluate("(dot, colour) => { dot.style.background = colour; }", DOTS[server])
        self._background = self._picture(self._sheet)

    def hold(self, milliseconds: int) -> None:
        """Show both pages as they are now."""
        frame = self._background.copy()
        for left, page in self._pages.items():
            frame.paste(self._picture(page), (left, GAP + BAR))
        if self.frames and frame.tobytes() == self.frames[-1].tobytes():
            self.durations[-1] += milliseconds
        else:
            self.frames.append(frame)
            self.durations.append(milliseconds)

    def type(self, box: Locator, text: str) -> None:
        """Write at a typist's pace, and send."""
        for part in re.findall(".{1,3}", text):
            box.press_sequentially(part)
            self.hold(90)
        self.hold(300)
        box.press("Enter")

    def save(self, target: Path) -> None:
        """Write an endless GIF. All frames share one palette: with one each, colours would flicker."""
        palette = self._palette()
        first, *rest = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in self.frames)
        first.save(target, save_all=True, append_images=rest, duration=self.durations, loop=0, optimize=True)
        seconds = sum(self.durations) / 1000
        print(f"{target}: {seconds:.1f} s, {len(self.frames)} frames, {target.stat().st_size // 1024} KB")

    def _palette(self) -> Image.Image:
        """The colours of the first and the last frame, and the dots', which are too small to count there."""
        both = Image.new("RGB", (SIZE[0], SIZE[1] * 2))
        both.paste(self.frames[0])
        both.paste(self.frames[-1], (0, SIZE[1]))
        dots = [part for colour in DOTS.values() for part in ImageColor.getrgb(colour)]
        common = both.quantize(256 - len(DOTS), dither=Image.Dither.NONE).getpalette() or []
        palette = Image.new("P", (1, 1))
        palette.putpalette(common + dots)
        return palette

    @staticmethod
    def _picture(page: Page) -> Image.Image:
        return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def open_page(browser: Browser, size: tuple[int, int], url: str = "about:blank") -> Page:
    """A page in a browser session of its own, without animations."""
    width, height = size
    page = browser.new_page(viewport={"width": width, "height": height}, reduced_motion="reduce")
    page.goto(url)
    return page


def play(film: Film, server: ServerProcess, customer: Page, agent: Page) -> None:
    """The script."""
    film.caption("Live chat, in two browsers", "up")
    film.hold(1200)
    question = open_panel(customer)
    connected(customer)
    film.caption("A customer asks", "up")
    film.hold(600)
    film.type(question, "Does the Corona fit a metal headboard?")
    chat = agent.get_by_role("button", name="Visitor m7rkw")
    expect(chat).to_be_visible()
    film.hold(900)
    film.caption("An agent answers", "up")
    chat.click()
    connected(agent)
    film.hold(700)
    answer = agent.get_by_role("textbox")
    film.type(answer, "It does: its clamp takes 45 mm.")
    expect(customer.locator("eclipse-chat .joined")).to_be_visible()
    expect(customer.locator("eclipse-chat .bubble")).to_have_count(2)
    film.hold(1000)

    server.end(signal.SIGKILL)
    film.caption("kill -9: the server is gone", "down")
    film.hold(700)
    for page in (customer, agent):
        expect(page.get_by_text("What you write is kept and sent")).to_be_visible()
    film.hold(1000)
    film.type(question, "Wonderful, I'll take two.")
    film.caption("What is written now waits in the browser", "down")
    film.hold(400)
    film.type(answer, "There is one in brass, too.")
    film.hold(1200)

    server.start()
    film.caption("The server is back", "up")
    film.hold(700)
    connected(customer, agent)
    for page in (customer, agent):
        expect(page.locator("eclipse-chat .bubble")).to_have_count(4)
        expect(page.locator("eclipse-chat .wait")).to_have_count(0)
        expect(page.get_by_text("What you write is kept and sent")).to_be_hidden()
    expect(agent.locator(".chat[aria-current=true] .last")).to_have_text(re.compile("two|brass"))
    film.caption("The server is back: nothing is lost, and nothing is there twice", "up")
    film.hold(3500)


def main() -> None:
    """Make it."""
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/demo.gif")
    path = find_chromium()
    if path is None:
        raise SystemExit("Chromium is not installed (Debian: apt-get install chromium)")
    print("Starting a server and Chromium ...", flush=True)
    with tempfile.TemporaryDirectory() as folder, chromium(path) as browser:
        server = ServerProcess(Path(folder)).start()
        try:
            for chat, text in (("8xj2q", "Where is my parcel?"), ("hd4nt", "My lens came off.")):
                other = open_page(browser, CUSTOMER, f"{server.url}/demo?chat=visitor-{chat}")
                say(open_panel(other), text)
                other.get_by_text("· Sent").wait_for()
                other.close()
            customer = open_page(browser, CUSTOMER, f"{server.url}/demo?chat=visitor-m7rkw")
            customer.locator("eclipse-chat").evaluate(
                """chat => {
                    chat.style.setProperty("--eclipse-width", "350px");
                    chat.style.setProperty("--eclipse-height", "460px");
                }"""
            )
            agent = open_page(browser, DESK, f"{server.url}/demo/agent")
            film = Film(open_page(browser, SIZE), customer, agent)
            play(film, server, customer, agent)
            film.save(target)
        finally:
            server.end()


if __name__ == "__main__":
    main()
