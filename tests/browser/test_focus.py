"""Pages that capture the focus, the mouse or drops."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.browser.shop import CHAT, Shop, element
from tests.browser.stage import open_panel, opened


def test_a_modal_of_the_page_that_holds_the_focus_leaves_it_to_the_chat(shop: Callable[..., Shop]) -> None:
    """Modals like Bootstrap's take back each focus outside of them; one can write in the chat anyway."""
    page = shop().show('<div id="modal" tabindex="-1"><input></div>' + CHAT)
    page.evaluate("""() => document.addEventListener("focusin", ({ target }) => {
        const modal = document.querySelector("#modal");
        if (target != document && !modal.contains(target)) modal.focus();
    })""")
    open_panel(page).click()
    page.keyboard.type("hi")
    assert element(page, "return e.draft") == "hi"


@pytest.mark.parametrize("kind", ["contextmenu", "dragover", "drop"])
def test_the_pages_mouse_handlers_leave_the_field_alone(shop: Callable[..., Shop], kind: str) -> None:
    """A page that forbids context menus, or takes all files that are dropped, leaves our field alone."""
    page = shop().show(attributes="open")
    opened(page)
    heard = element(
        page,
        f"""const heard = [];
        document.addEventListener("{kind}", (event) => {{ heard.push("{kind}"); event.preventDefault(); }});
        const event = new DragEvent("{kind}", {{ bubbles: true, composed: true, cancelable: true }});
        e.shadowRoot.querySelector(".input").dispatchEvent(event);
        return heard;""",
    )
    assert heard == []


def test_the_focus_returns_within_a_closed_shadow(shop: Callable[..., Shop]) -> None:
    """Inside another component's closed shadow, Escape gives the focus back to what opened the panel."""
    page = shop().show(
        "<p id=host></p>" + CHAT,
        script="""addEventListener("DOMContentLoaded", () => {
            const root = window.root = document.querySelector("#host").attachShadow({ mode: "closed" });
            root.innerHTML = "<button>Help</button>";
            root.append(document.querySelector("eclipse-chat"));
            root.firstChild.onclick = () => root.lastChild.show();
        });""",
        is_hidden=True,
    )
    page.wait_for_function("root.lastChild.getAttribute('state') == 'open'")
    page.evaluate("root.firstChild.focus()")
    page.keyboard.press("Enter")
    page.wait_for_function("root.activeElement == root.lastChild")
    page.keyboard.press("Escape")
    page.wait_for_function("!root.lastChild.open")
    assert page.evaluate("root.activeElement?.localName") == "button"
