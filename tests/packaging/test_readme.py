"""The README's links: every file is there, and the package index gets addresses that lead to it."""

from __future__ import annotations

import re
import runpy
import tomllib
import zipfile
from collections.abc import Callable
from typing import Any, cast

import pytest

from tests.packaging.conftest import ROOT, Built

HOST = "https://example.com/o/r"


@pytest.fixture(scope="session")
def setup_script() -> dict[str, Any]:
    """What setup.py defines, without running the setup."""
    return runpy.run_path(str(ROOT / "setup.py"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[a](docs/a.md)", f"[a]({HOST}/blob/HEAD/docs/a.md)"),
        ("[a](./docs/a.md#part 'title')", f"[a]({HOST}/blob/HEAD/docs/a.md#part 'title')"),
        ("![a](docs/a.png)", f"![a]({HOST}/raw/HEAD/docs/a.png)"),
        ("[![a](docs/a.svg)](ops)", f"[![a]({HOST}/raw/HEAD/docs/a.svg)]({HOST}/blob/HEAD/ops)"),
        ("[a](<docs/a.md>)", f"[a](<{HOST}/blob/HEAD/docs/a.md>)"),
        ("[a][b]\n\n[b]: docs/a.md", f"[a][b]\n\n[b]: {HOST}/blob/HEAD/docs/a.md"),
        ('<img alt="a" src="docs/a.gif">', f'<img alt="a" src="{HOST}/raw/HEAD/docs/a.gif">'),
        ('<source srcset="docs/a.webp">', f'<source srcset="{HOST}/raw/HEAD/docs/a.webp">'),
        ("<a href='LICENSE'>a</a>", f"<a href='{HOST}/blob/HEAD/LICENSE'>a</a>"),
        ("[a](https://b/c) [d](#e) [f](mailto:g@h) [i](//j/k)", None),
        ("`[a](docs/a.md)` and `<img src='a.png'>`", None),
        ('```html\n<script src="widget.js"></script>\n```\n', None),
        ("no link (docs/a.md), [nor] this", None),
    ],
)
def test_a_link(setup_script: dict[str, Any], text: str, expected: str | None) -> None:
    """Files become addresses, media of their raw form; other addresses and code stay as they are."""
    with_absolute_links = cast(Callable[[str, str], str], setup_script["with_absolute_links"])
    assert with_absolute_links(text, HOST) == (text if expected is None else expected)
    assert setup_script["relative_targets"](with_absolute_links(text, HOST)) == []


def test_every_file_that_the_readme_names_exists(setup_script: dict[str, Any]) -> None:
    """Every link of the README leads to a file."""
    targets = setup_script["relative_targets"]((ROOT / "README.md").read_text())
    assert targets
    assert [name for name in targets if not (ROOT / name.partition("#")[0]).exists()] == []


@pytest.mark.slow
def test_the_built_description_has_no_relative_link(setup_script: dict[str, Any], built: Built) -> None:
    """What the index shows is the README, with every link leading to the repository's address."""
    with zipfile.ZipFile(built.wheel) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
        description = wheel.read(name).decode().partition("\n\n")[2]
    assert setup_script["relative_targets"](description) == []
    repository = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    for name in setup_script["relative_targets"]((ROOT / "README.md").read_text()):
        assert re.search(f"{repository}/(blob|raw)/HEAD/{re.escape(name.removeprefix('./'))}", description)
