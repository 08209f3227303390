"""The JavaScript client and the widget: their sizes, their types, and the client's own suite in Node."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from eclipse_ws.config.settings import Settings
from tests import needs

HERE = Path(__file__).parent
STATIC = HERE.parent.parent / "eclipse_ws" / "static"
WEB = HERE.parents[1] / "web"
TYPESCRIPT = "typescript@5.9.3"


def size(*names: str) -> int:
    """Bytes of the files as they are served, each compressed."""
    return sum(len(gzip.compress((STATIC / name).read_bytes(), 9)) for name in names)


def test_the_client_is_at_most_7_kb() -> None:
    """eclipse-chat.js has at most 7,200 bytes gzipped."""
    assert size("eclipse-chat.js") <= 7200


def test_the_widget_is_at_most_15_kb_before_it_is_opened() -> None:
    """widget.js, which contains the client, has at most 15,200 bytes gzipped; with the panel, 24,100."""
    early, all_of_it = size("widget.js"), size("widget.js", "widget.panel.js")
    print(f"{early} bytes before the first opening, {all_of_it} in all")
    assert early <= 15_200
    assert all_of_it <= 24_100


def test_the_widgets_limit_is_the_servers_default() -> None:
    """The field's limit is the default of ``max_content``, because no event tells the server's."""
    (limit,) = re.findall(r"const MAX_CONTENT = ([\d_]+);", (WEB / "src/widget/composer.ts").read_text())
    assert int(limit) == Settings.model_fields["max_content"].default


@pytest.mark.slow
def test_the_built_files_are_up_to_date(tmp_path: Path) -> None:
    """Building `web/src` with the locked tools gives the files in `eclipse_ws/static`, byte for byte."""
    web = tmp_path / "web"
    shutil.copytree(HERE.parents[1] / "web", web, ignore=shutil.ignore_patterns("node_modules", "dist"))
    needs.npm_ci(web)
    built = tmp_path / "built"
    built.mkdir()
    command = [needs.node(), str(web / "build.mjs"), "--served", str(built)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for path in sorted(built.iterdir()):
        assert path.read_bytes() == (STATIC / path.name).read_bytes(), f"{path.name}: run `make web`"


@pytest.mark.parametrize("name", sorted(path.name for path in STATIC.glob("*.html")))
def test_pages_run_under_a_strict_policy(name: str) -> None:
    """No page has an inline script, style or handler, or loads anything from elsewhere."""
    page = (STATIC / name).read_text()
    for forbidden in ("<style", " style=", " onclick=", " onload=", "javascript:", "http://", "https://"):
        assert forbidden not in page, forbidden
    assert page.count("<script") == page.count('<script type="module" src="/')


def test_markup_is_never_parsed() -> None:
    """Neither the widget nor the pages' scripts convert text to markup."""
    for path in STATIC.glob("*.js"):
        code = path.read_text()
        for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("):
            assert sink not in code, f"{path.name}: {sink}"


@pytest.mark.parametrize(
    ("folder", "below"), [("client", set()), ("widget", {"client"}), ("react", {"client"})], ids=str
)
def test_imports_point_down(folder: str, below: set[str]) -> None:
    """The client does not import the element or the hooks, and these do not import each other."""
    for path in (WEB / "src" / folder).rglob("*.ts"):
        found = re.findall(r'(?:from|import)[ (]+"([^"]+)"', path.read_text())
        outside = {
            name.split("/")[1] for name in found if name.startswith("../") and path.parent.name == folder
        }
        outside |= {"client"} if "eclipse-chat" in found else set()
        assert outside <= below, path.name


def test_every_text_is_documented() -> None:
    """Translators find every text's name in the widget's documentation."""
    folder = WEB / "src" / "widget" / "texts"
    texts = (folder / "en.ts").read_text() + (folder / "early.ts").read_text()
    document = (HERE.parents[1] / "docs" / "widget.md").read_text()
    names = re.findall(r"^  (\w+): ", texts, re.MULTILINE)
    assert len(names) > 20
    assert [name for name in names if f"`{name}`" not in document] == []


def test_the_clients_suite() -> None:
    """`node --test tests/js` passes: every rule of the client against a server of plain objects."""
    tests = [str(path) for path in sorted(HERE.glob("*.test.mjs"))]
    done = subprocess.run(
        [needs.node(), "--test", *tests], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_types(tmp_path: Path) -> None:
    """`tsc --strict` accepts the declarations and their use."""
    modules = needs.npm_packages(tmp_path, TYPESCRIPT)
    tsc = [str(modules / ".bin" / "tsc"), "--noEmit", "--strict", "--target", "es2022"]
    tsc += ["--module", "esnext", "--moduleResolution", "bundler", "--lib", "es2022,dom,dom.iterable"]
    tsc += [str(HERE / "use.ts")]
    checked = subprocess.run(tsc, capture_output=True, text=True, timeout=120, check=False)
    assert checked.returncode == 0, checked.stdout
