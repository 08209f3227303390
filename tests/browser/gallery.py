"""A gallery: each of the widget's states in each look, as screenshots in `artefacts/gallery/index.html`."""

from __future__ import annotations

import html
import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from playwright.sync_api import Browser, Page

from tests.browser.stage import ROOT, chromium, drawn
from tests.browser.states import STATES, State, show
from tests.needs import find_chromium

FOLDER = ROOT / "artefacts" / "gallery"
DESKTOP = {"width": 900, "height": 700}
# A look is what is emulated, the window, and the page's direction.
LOOKS: dict[str, tuple[dict[str, Any], dict[str, int], str]] = {
    "light": ({}, DESKTOP, "ltr"),
    "dark": ({"color_scheme": "dark"}, DESKTOP, "ltr"),
    "narrow": ({}, {"width": 320, "height": 568}, "ltr"),
    "rtl": ({}, DESKTOP, "rtl"),
    "forced": ({"forced_colors": "active", "color_scheme": "dark"}, DESKTOP, "ltr"),
}
# The languages differ only in their texts: one look of each shows them.
LANGUAGES = ("ar", "de", "es", "fr", "it", "ja", "nl", "pl", "pt")
SHOWN: dict[str, tuple[State, Sequence[str]]] = {
    **{name: (state, list(LOOKS)) for name, state in STATES.items()},
    **{
        f"in-{language}": (replace(STATES["failed"], lang=language), ["rtl" if language == "ar" else "light"])
        for language in LANGUAGES
    },
}
NOTHING = {"color_scheme": "light", "forced_colors": "none"}
PAGE = """<!doctype html><meta charset="utf-8"><title>The widget</title>
<style>
body {{ font: 14px system-ui }}
th {{ position: sticky; top: 0; background: #fff }}
img {{ width: 300px; border: 1px solid #ccc }}
</style>
<table><tr><th></th>{head}</tr>{rows}</table>
"""


def put_on(page: Page, look: str) -> None:
    """Emulate a look, on a page that keeps its state."""
    media, size, direction = LOOKS[look]
    page.emulate_media(**{**NOTHING, **media})
    page.set_viewport_size(size)
    page.evaluate("dir => { document.documentElement.dir = dir }", direction)
    drawn(page)  # the widget hears of another colour scheme only with the next frame


def photograph(page: Page, name: str, *looks: str) -> None:
    """Take one screenshot in each look; the page stays, so that a state has to be brought about once."""
    for look in looks:
        put_on(page, look)
        _, size, direction = LOOKS[look]
        clip = None
        if size is DESKTOP:
            clip = {"x": 0 if direction == "rtl" else 460, "y": 30, "width": 440, "height": 670}
        page.screenshot(path=FOLDER / f"{name}-{look}.png", animations="disabled", clip=clip)  # type: ignore[arg-type]


def build(browser: Browser, *names: str) -> None:
    """Fill the folder, with all states or some."""
    for name in names or SHOWN:
        context = browser.new_context(viewport=DESKTOP)  # type: ignore[arg-type]
        context.set_default_timeout(10_000)
        try:
            page = context.new_page()
            state, looks = SHOWN[name]
            show(page, state)
            photograph(page, name, *looks)
        except Exception as error:
            print(f"{name}: {error}")
        finally:
            context.close()


def sheet() -> str:
    """The page that shows them all."""
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th>"
        + "".join(f"<td><img loading='lazy' alt='{look}' src='{name}-{look}.png'></td>" for look in looks)
        for name, (_, looks) in SHOWN.items()
    )
    head = "".join(f"<th>{look}</th>" for look in LOOKS)
    return PAGE.format(head=head, rows=rows)


def main(*names: str) -> None:
    """Make the gallery, and say where it is."""
    path = find_chromium()
    if path is None:
        raise SystemExit("The gallery needs Chromium. Fix: install it (Debian: apt-get install chromium)")
    if not names:
        shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with chromium(path) as browser:
        build(browser, *names)
    index = FOLDER / "index.html"
    index.write_text(sheet())
    print(index)


if __name__ == "__main__":
    import sys

    main(*sys.argv[1:])
