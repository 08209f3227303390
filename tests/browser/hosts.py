"""Somebody else's pages: what their style sheets and scripts do."""

from __future__ import annotations

from dataclasses import dataclass

CHAT = '<eclipse-chat token-url="/api/ws/token" chat-id="{chat}" {attributes}></eclipse-chat>'
APP = f'<div class="app">{CHAT}</div>'
TALL = f'<button id="own" onclick="heard.push(1)">Buy</button><div style="height: 3000px">Lamps</div>{CHAT}'
WINDOW = {"width": 1000, "height": 700}
PHONE = {"width": 390, "height": 700}


@dataclass(frozen=True)
class Host:
    """A page: its style sheet, its body around the widget, its script, and what it tells the widget."""

    style: str = ""
    body: str = CHAT
    script: str = ""
    attributes: str = ""


INHERITED = """* {
    letter-spacing: .4em; word-spacing: 2em; text-transform: uppercase; line-height: 3; text-align: right;
    white-space: nowrap; cursor: wait; text-indent: 3em; text-shadow: 2px 2px red; user-select: none;
    font: italic 900 40px serif; color: lime; writing-mode: vertical-rl;
}
html { font-size: 62.5% }
::selection { color: lime }
"""

HOSTS = {
    "transform": Host(".app { transform: translate(40px, 30px) scale(.5) }", APP),
    "filter": Host(".app { filter: blur(2px); opacity: .3; will-change: transform }", APP),
    "contain": Host(".app { contain: strict; height: 50px }", APP),
    "overflow hidden": Host(
        ".app { overflow: hidden; height: 10px; clip-path: inset(0); perspective: 1px }", APP
    ),
    "all unset": Host("* { all: unset; }"),
    "all unset important": Host("*, *::before { all: unset !important; }"),
    "children in a grid": Host(
        """body { display: grid; gap: 50px; justify-items: center }
        body > * { position: static !important; display: none !important; inset: 0; width: 100% }"""
    ),
    "reset": Host(
        """*, ::before, ::after {
            margin: 0 !important; padding: 0 !important; float: left !important;
            position: relative !important;
            max-width: 10px !important; overflow: hidden !important; opacity: .5 !important;
        }"""
    ),
    "inherited": Host(INHERITED + "* { visibility: hidden; pointer-events: none }"),
    "bar on top": Host(
        ".bar { position: fixed; inset: 0; z-index: 2147483647; background: teal }",
        f'{CHAT}<div class="bar">Cookies?</div>',
    ),
    "bar on the top layer": Host(
        ".bar { inset: auto 0 0 0; width: auto; height: 40px; padding: 0 }",
        f'<div class="bar" popover="manual">Cookies?</div>{CHAT}',
        "document.querySelector('.bar').showPopover()",
    ),
    "custom properties": Host(
        "* { --_accent: red; --_text: white; --_background: black; --_radius: 0; --_room: 0; --_near: 90vw }"
    ),
    "shortcuts": Host(
        script="""
            const types = ["keydown", "keyup", "keypress", "input", "beforeinput", "copy", "paste", "wheel"];
            for (const type of types)
                for (const target of [window, document, document.body])
                    target.addEventListener(type, (event) => {
                        heard.push(type + " " + event.key);
                        event.preventDefault();
                    }, { passive: false });
        """
    ),
}

# A page, what its window is different in, and the quarter of the window in which the widget belongs:
# whether it is the right one, and the lower one. None where there is hardly room for it.
CORNERS: dict[str, tuple[Host, dict[str, int], tuple[bool, bool] | None]] = {
    "end": (Host(), {}, (True, True)),
    "start": (Host(attributes='side="start"'), {}, (False, True)),
    "end, right to left": (Host(attributes='dir="rtl"'), {}, (False, True)),
    "start, right to left": (Host(attributes='dir="rtl" side="start"'), {}, (True, True)),
    "start by a style sheet": (Host("eclipse-chat { inset-inline: 20px auto }"), {}, (False, True)),
    "away from the edges": (Host("eclipse-chat { --eclipse-offset: 90px }"), {}, (True, True)),
    "farther than the window is wide": (Host("eclipse-chat { --eclipse-offset: 3000px }"), {}, None),
    "at the edges": (Host("eclipse-chat { --eclipse-offset: 0 }"), {}, (True, True)),
    "too large": (Host("eclipse-chat { --eclipse-width: 3000px; --eclipse-height: 3000px }"), {}, None),
    "low window": (Host("eclipse-chat { --eclipse-offset: 90px }"), {"height": 400}, (True, True)),
    "narrow window": (Host(attributes='side="start"'), {"width": 500, "height": 360}, (False, True)),
    "phone": (Host("eclipse-chat { --eclipse-offset: 300px }"), {"width": 320, "height": 480}, None),
}

SCROLLERS = {
    "the window": "",
    "the window, by the body": "html, body { height: 100%; margin: 0 } body { overflow-y: scroll }",
    "the window, by the root": "html { overflow: scroll; scroll-behavior: smooth } body { overflow: clip }",
}
