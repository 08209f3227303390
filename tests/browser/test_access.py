"""With a keyboard and a screen reader: the focus stays where it was put, and what happens is said."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.browser.acts import Contexts, Open, give_history, message
from tests.browser.stage import ServerProcess, connected, open_panel, say


def test_a_focused_link_stays_focused(server: ServerProcess, customer: Open, desk: Open) -> None:
    """A message that joins the last one changes what is around its link, not the link that has the focus."""
    page, agent = customer(server.url), desk(server.url)
    open_panel(page)
    connected(page, agent)
    answer = agent.get_by_role("textbox")
    say(answer, "Look: https://example.com/lamps")
    link = page.get_by_role("link", name="https://example.com/lamps")
    link.focus()
    say(answer, "There are three.")
    expect(page.get_by_text("There are three.", exact=True)).to_be_visible()
    row = page.locator("eclipse-chat li", has=link)
    expect(row.locator(".meta")).to_have_count(0)
    expect(link).to_be_focused()


def test_a_focused_link_that_leaves_gives_its_focus_to_the_messages(
    server: ServerProcess, context: Contexts
) -> None:
    """Far from what has the focus it is no longer drawn: the keyboard stays in the chat all the same."""
    page = context().new_page()
    give_history(page, [message(n, f"https://example.com/{n}") for n in range(400)])
    page.goto(f"{server.url}/demo?chat=links&open")
    link = page.get_by_role("link", name="https://example.com/399")
    link.focus()
    log = page.get_by_role("group", name="Messages")
    expect(link).to_be_focused()
    page.wait_for_function("""() => {
        const root = document.querySelector("eclipse-chat").shadowRoot;
        root.querySelector(".log").scrollTop = 0;
        return root.querySelector(".bubble").textContent == "https://example.com/0";
    }""")
    expect(log).to_be_focused()
