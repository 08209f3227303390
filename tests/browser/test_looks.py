"""How the widget looks and in which language: its header, its rows, its links, and its texts."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from playwright.sync_api import Page, expect

from tests.browser.acts import Contexts
from tests.browser.gallery import DESKTOP, LOOKS
from tests.browser.stage import ROOT, drawn
from tests.browser.states import ORIGIN, STATES, State, message, show

LANGUAGES = {
    "ar": ("فتح المحادثة", "اكتب رسالة…"),
    "de": ("Chat öffnen", "Nachricht schreiben …"),
    "es": ("Abrir el chat", "Escribe un mensaje…"),
    "fr": ("Ouvrir la discussion", "Écrivez un message…"),
    "it": ("Apri la chat", "Scrivi un messaggio…"),
    "ja": ("チャットを開く", "メッセージを入力…"),
    "nl": ("Chat openen", "Typ een bericht…"),
    "pl": ("Otwórz czat", "Napisz wiadomość…"),
    "pt": ("Abrir o chat", "Escreva uma mensagem…"),
}


@pytest.fixture
def page(context: Contexts) -> Page:
    """A page of a desktop."""
    return context(viewport=DESKTOP).new_page()


def luminance(colour: str) -> float:
    """The relative luminance (WCAG) of a colour as `rgb(r, g, b)`."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, 1 to 21."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def colours(page: Page, selector: str, *properties: str) -> list[str]:
    """An element's colours as `rgb(r, g, b)`, in whichever way the style sheet says them."""
    found: list[str] = page.locator(f"eclipse-chat {selector}").first.evaluate(
        """(element, properties) => {
            const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
            return properties.map((property) => {
                canvas.fillStyle = getComputedStyle(element)[property];
                canvas.fillRect(0, 0, 1, 1);
                return `rgb(${[...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3)})`;
            });
        }""",
        list(properties),
    )
    return found


# The header


def test_the_header_shows_who_has_answered(page: Page) -> None:
    """Faces and names are those of the agents in the conversation, each once."""
    show(page, STATES["conversation"])
    expect(page.locator("eclipse-chat .face")).to_have_text(["AO", "BC"])
    expect(page.locator("eclipse-chat .subtitle")).to_have_text(re.compile("Ada Okafor.*, .*Ben Carter"))
    for face in page.locator("eclipse-chat .face").all():
        assert contrast(*colours(page, ".face", "backgroundColor", "color")) >= 4.5
        assert face.get_attribute("aria-hidden") or face.locator("..").get_attribute("aria-hidden")


def test_a_person_who_joins_gets_a_face_with_the_same_colour(page: Page) -> None:
    """A face appears once somebody joins, and its colour depends only on the name."""
    show(page, STATES["joined"])
    expect(page.locator("eclipse-chat .face")).to_have_text(["AO"])
    before = colours(page, ".face", "backgroundColor")
    page.context.unroute_all()
    show(page, STATES["conversation"])
    assert colours(page, ".face", "backgroundColor") == before


def test_the_header_shows_at_most_three(page: Page) -> None:
    """Of many who have answered, the three who came last are shown."""
    names = ["Ada Okafor", "Ben", "Çağla Öz", "山田太郎", "إيلا صالح"]
    show(page, State([".face"], [message(n, "Hello", name) for n, name in enumerate(names)]))
    expect(page.locator("eclipse-chat .face")).to_have_text(["ÇÖ", "山", re.compile("^إ.?ص$")])


def test_the_header_shows_only_known_people(page: Page) -> None:
    """Before anybody is known, and where senders have no name, there is a title and what the page gives."""
    nameless = message(1, "Hello")
    nameless["sender"] = None
    own = {"texts": '{"subtitle": "We answer by e-mail, too"}'}
    for history in ([], [nameless], [message(1, "Hello", None)]):
        show(page, State([".panel"], history, attributes=own))
        expect(page.locator("eclipse-chat .subtitle")).to_have_text("We answer by e-mail, too")
        expect(page.locator("eclipse-chat .face")).to_have_count(0)
        page.context.unroute_all()


def test_pictures_of_senders_are_not_loaded(page: Page) -> None:
    """A picture that a sender names is not requested: its host would learn who reads."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    pictured = message(1, "Hello")
    pictured["sender"]["avatar"] = "https://pictures.example.com/ada.png"
    show(page, State([".face"], [pictured]))
    assert not [url for url in asked if "pictures" in url]


# Rows


def test_the_greeting_is_the_first_bubble_and_no_message(page: Page) -> None:
    """It looks like the team's, is read with their name, and is not counted."""
    show(page, STATES["empty"])
    row = page.get_by_role("listitem")
    expect(row).to_have_text("Support: Hello! How can we help?")
    expect(page.locator("eclipse-chat .bubble")).to_have_count(0)
    expect(page.locator("eclipse-chat [data-id]")).to_have_count(0)
    assert contrast(*colours(page, ".hello", "backgroundColor", "color")) >= 4.5


@pytest.mark.parametrize("state", ["sending", "sent"])
def test_the_delivery_status_of_a_message_is_an_icon(page: Page, state: str) -> None:
    """An icon says it for the eye, hidden text for the ear; the bubble looks like each other one."""
    show(page, STATES[state])
    row = page.locator("eclipse-chat li").last
    expect(row.locator("svg")).to_be_visible()
    word = row.get_by_text("Sending…" if state == "sending" else "Sent", exact=False)
    expect(word).to_have_css("clip-path", "inset(50%)")
    own = page.locator("eclipse-chat .me .bubble")
    styles = own.evaluate_all(
        "all => all.map((b) => getComputedStyle(b)).map((s) => s.background + s.filter)"
    )
    assert len(set(styles)) == 1 < len(styles)


def test_a_failure_is_a_red_line_with_buttons(page: Page) -> None:
    """Each failure offers buttons for what can help, large enough for a finger."""
    show(page, STATES["failed"])
    lines = page.locator("eclipse-chat .bad")
    expect(lines).to_have_text(
        [
            "Not sent.Try againEditDelete",
            "Too long to send.EditDelete",
            "This may not have been sent.Try againEditDelete",
        ]
    )
    assert contrast(colours(page, ".bad", "color")[0], "rgb(255, 255, 255)") >= 4.5
    for button in lines.get_by_role("button").all():
        box = button.bounding_box()
        assert box
        assert box["height"] >= 24
        assert box["width"] >= 24


@pytest.mark.parametrize("look", ["light", "dark"])
def test_bubbles_stand_out(page: Page, look: str) -> None:
    """The other side's bubbles have an edge that contrasts with the panel, in light and dark."""
    page.emulate_media(**LOOKS[look][0])
    show(page, STATES["conversation"])
    panel = colours(page, ".panel", "backgroundColor")[0]
    edge, fill = colours(page, ".them .bubble", "borderTopColor", "backgroundColor")
    assert contrast(fill, panel) > 1.15
    assert contrast(edge, panel) > 1.4
    expect(page.locator("eclipse-chat .them .bubble").first).to_have_css("border-top-style", "solid")


@pytest.mark.parametrize("look", ["light", "dark"])
def test_a_warning_is_amber_and_legible(page: Page, look: str) -> None:
    """A notice that warns differs from one that informs by its colour, and can be read in light and dark."""
    page.emulate_media(**LOOKS[look][0])
    show(page, STATES["ended"])
    grounds = []
    for kind in ("info", "warning"):
        page.locator("eclipse-chat .notice").evaluate(
            "(notice, kind) => { notice.dataset.kind = kind }", kind
        )
        ground, text = colours(page, ".notice", "backgroundColor", "color")
        assert contrast(ground, text) >= 4.5
        grounds.append(ground)
    red, green, blue = map(int, re.findall(r"\d+", grounds[1]))
    assert red > green > blue
    assert grounds[0] != grounds[1]


@pytest.mark.parametrize("look", LOOKS)
def test_nothing_is_wider_than_the_panel(page: Page, look: str) -> None:
    """Long words, code and addresses without a place to break stay inside, however narrow the window is."""
    media, size, direction = LOOKS[look]
    page.emulate_media(**media)
    page.set_viewport_size(size)  # type: ignore[arg-type]
    show(page, replace(STATES["long-words"], attributes={"dir": direction}))
    log = page.locator("eclipse-chat .log")
    assert log.evaluate("log => log.scrollWidth - log.clientWidth") == 0
    width = log.evaluate("log => log.clientWidth")
    for bubble in page.locator("eclipse-chat .bubble").all():
        box = bubble.bounding_box()
        assert box
        assert box["width"] < width


def test_a_reader_at_the_end_stays_there_when_the_window_turns(page: Page) -> None:
    """A window that gets smaller makes the browser scroll; that is not the reader who scrolls up."""
    show(page, STATES["conversation"])
    for width, height in ((320, 568), (568, 320), (900, 500)):
        page.set_viewport_size({"width": width, "height": height})
        drawn(page)
        expect(page.locator("eclipse-chat .bubble").last).to_be_in_viewport()
        expect(page.locator("eclipse-chat .latest")).to_be_hidden()


# Links

LINKS = {
    "(see https://example.org/wiki/Lamp_(film)).": "https://example.org/wiki/Lamp_(film)",
    "Look (at https://example.org/a), or [https://example.org/b]!": "https://example.org/a https://example.org/b",
    "https://example.com@example.org/ https://:example.com@example.org": "",
    "https://example.org/\u202egpj.exe": "https://example.org/",
    "https://%zz/ https://": "",
    # Without http, and mail
    "www.example.org, (www.example.org/a) “www.example.org/b”": (
        "https://www.example.org/ https://www.example.org/a https://www.example.org/b"
    ),
    "Write to ada@example.org. <ben+lamps@mail.example.co.uk>!": (
        "mailto:ada@example.org mailto:ben+lamps@mail.example.co.uk"
    ),
    "请访问www.example.org。または、ada@example.orgまで。": "https://www.example.org/ mailto:ada@example.org",
    "ada@example.org?bcc=all": "mailto:ada@example.org",
    "ada@example.org\u202e, www.example.org/\u2066a": "mailto:ada@example.org https://www.example.org/",
    # What deceives
    "www.example.com@example.org ada@example.com@example.org": "",
    "ftp://www.example.org/ subwww.example.org @ada@example.social": "",
    "https://ex\u0430mple.com www.\u0435xample.com https://example.com\u2215a.example.org": "",
    "\u0430da@example.com müller@example.com ada@ex\u0430mple.com ada@example.comé": "",
    # What only looks strange
    "https://пример.рф/a https://münchen.example/ https://例え.example/": (
        "https://xn--e1afmkfd.xn--p1ai/a https://xn--mnchen-3ya.example/ https://xn--r8jz45g.example/"
    ),
}


def test_links_lead_where_they_seem_to(page: Page) -> None:
    """A sentence's punctuation isn't part of an address; deceptive addresses don't become links."""
    show(page, State([".bubble"], [message(n, text) for n, text in enumerate(LINKS)]))
    bubbles = page.locator("eclipse-chat .bubble")
    expect(bubbles).to_have_text(list(LINKS))
    found = bubbles.evaluate_all(
        "all => all.map((b) => [...b.querySelectorAll('a')].map((a) => a.href).join(' '))"
    )
    assert found == list(LINKS.values())
    rels = page.locator("eclipse-chat a[href^=http]").evaluate_all("all => all.map((a) => a.rel)")
    assert all("noopener" in rel and "noreferrer" in rel for rel in rels)


def test_finding_links_takes_time_in_proportion_to_the_text(page: Page) -> None:
    """Texts of 100,000 characters that almost are addresses, over and over, are shown as fast as others."""
    pieces = [
        "a",
        "a.",
        "a@",
        "a@b.",
        "www.a",
        "https://",
        "https://(",
        "https://a(b",
        "https://a@",
        "a@b.c-",
        ".",
    ]
    texts = [(piece * 100_000)[:100_000] for piece in pieces]
    # To lay them out takes longer than anything that is asked here.
    page.add_init_script("""
        const sheet = new CSSStyleSheet();
        sheet.replaceSync("eclipse-chat::part(bubble) { display: none }");
        document.adoptedStyleSheets = [sheet];
    """)
    show(page, State([".log"], [message(n, text) for n, text in enumerate(texts)]))
    expect(page.locator("eclipse-chat .bubble")).to_have_count(len(texts))


# Languages


def test_each_language_has_every_text() -> None:
    """The names and placeholders are those of English, and only what English leaves empty is empty."""

    def texts(language: str) -> dict[str, str]:
        code = (ROOT / "web/src/widget/texts" / f"{language}.ts").read_text()
        return dict(re.findall(r'^  (\w+): "(.*)",$', code, re.MULTILINE))

    english = {**texts("early"), **texts("en")}
    assert len(english) > 30
    for language in LANGUAGES:
        found = texts(language)
        assert found.keys() == english.keys(), language
        for name, text in english.items():
            placeholders = [re.findall(r"{\w+}", each) for each in (text, found[name])]
            assert placeholders[0] == placeholders[1], f"{language}: {name}"
            assert bool(text) == bool(found[name]), f"{language}: {name}"


def test_the_launchers_texts_are_those_of_the_languages() -> None:
    """What the widget itself holds of a language says the same as the language's file."""
    index = (ROOT / "web/src/widget/texts/index.ts").read_text()
    held = re.findall(
        r'^  (\w\w): \["(.*)", "(.*)", \(\) => import\("./(\w\w).ts"\)\],$', index, re.MULTILINE
    )
    assert [language for language, *_ in held] == list(LANGUAGES)
    for language, open_, unread, file in held:
        code = (ROOT / "web/src/widget/texts" / f"{file}.ts").read_text()
        assert file == language
        assert f'  open: "{open_}",\n' in code
        assert f'  unread: "{unread}",\n' in code


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_language_loads_under_a_strict_policy(page: Page, language: str) -> None:
    """The launcher is labelled at once, without a request; what is inside comes with the first opening."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.removeprefix(ORIGIN)))
    label, placeholder = LANGUAGES[language]
    show(page, State([".launch"], is_open=False, lang=language))
    launcher = page.get_by_role("button", name=label)
    expect(launcher).to_be_visible()
    assert f"/widget.{language}.js" not in asked
    launcher.click()
    expect(page.get_by_role("textbox", name=placeholder)).to_be_visible()
    assert asked.count(f"/widget.{language}.js") == 1


@pytest.mark.parametrize(
    ("attributes", "language", "title"),
    [
        ({}, "pt-BR", "Fale conosco"),
        ({"lang": "fr"}, "de", "Discutez avec nous"),
        ({}, "de_AT", "Chatten Sie mit uns"),
        ({}, "sv", "Chat with us"),
        ({}, "", "Chat with us"),
        ({}, "no language", "Chat with us"),
        ({"texts": '{"title": "Penumbra"}'}, "nl", "Penumbra"),
    ],
    ids=["region", "nearest", "underscore", "unknown", "none", "nonsense", "own text"],
)
def test_the_nearest_lang_is_used(page: Page, attributes: dict[str, str], language: str, title: str) -> None:
    """The element's own `lang`, else one around it; the page's texts win; what is unknown is English."""
    show(page, replace(STATES["conversation"], attributes=attributes, lang=language))
    expect(page.get_by_role("heading", level=2)).to_have_text(title)


def test_a_language_that_does_not_load_is_english(page: Page) -> None:
    """A file that is not there costs its language and nothing else."""
    page.route("**/widget.de.js", lambda route: route.abort())
    show(page, replace(STATES["empty"], lang="de"))
    expect(page.get_by_role("textbox", name="Write a message…")).to_be_visible()


def test_a_change_of_language_takes_effect(page: Page) -> None:
    """When the page's `lang` changes, what is drawn next is in the new language; unread counts, too."""
    show(page, replace(STATES["conversation"], lang="de"))
    expect(page.get_by_role("heading", level=2)).to_have_text("Chatten Sie mit uns")
    page.evaluate("() => { document.documentElement.lang = 'it' }")
    page.get_by_role("textbox").fill("Ciao")
    page.get_by_role("textbox").press("Enter")
    expect(page.get_by_role("heading", level=2)).to_have_text("Chatta con noi")


def test_the_unread_count_is_in_the_pages_language(page: Page) -> None:
    """The launcher counts in the page's language before its file has been requested."""
    show(page, replace(STATES["unread"], lang="de"))
    expect(page.get_by_role("button", name="Chat öffnen, 1 ungelesen")).to_be_visible()


def test_edited_and_deleted_messages_are_marked(page: Page) -> None:
    """`edited` is beside the time; of a deleted message there is quiet text in its place, and no content."""
    show(page, STATES["edited-and-deleted"])
    expect(page.locator("eclipse-chat .meta", has_text="edited")).to_have_count(1)
    gone = page.locator("eclipse-chat .gone")
    expect(gone.locator(".bubble")).to_have_text("This message was deleted.")
    expect(gone).to_have_attribute("data-id", "m0003")
    expect(page.get_by_text("Anything else?")).to_have_count(0)
