"""What the guides in docs/ name exists: commands with their options, settings, files and headings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from eclipse_ws.cli import main
from eclipse_ws.config.settings import Settings, variable

ROOT = Path(__file__).parents[2]
GUIDES = {
    path.name: path.read_text(encoding="utf-8") for path in [*ROOT.glob("docs/*.md"), *ROOT.glob("*.md")]
}
CODE = [
    "".join(found)
    for text in GUIDES.values()
    for found in re.findall(r"^```[a-z]*\n(.*?)^```|`([^`\n]+)`", text, re.MULTILINE | re.DOTALL)
]
COMMANDS = sorted(
    {
        (name, *re.findall(r"--[a-z-]+", rest))
        for code in CODE
        for name, rest in re.findall(r"\beclipse-ws ([a-z]+)([^#\n]*)", code)
    }
)
LINKS = sorted(
    {
        (name, target)
        for name, text in GUIDES.items()
        for target in re.findall(r"\]\(([^():]+\.md(?:#[^()]*)?|#[^()]*)\)", text)
    }
)


def anchors(text: str) -> set[str]:
    """What leads to a page's headings, as GitHub makes it of them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_exists(command: tuple[str, ...]) -> None:
    """Its help names every option that a guide gives it."""
    name, *options = command
    shown = CliRunner().invoke(main, [name, "--help"])
    assert shown.exit_code == 0, shown.output
    for option in options:
        assert re.search(rf"{option}\b", shown.output), option


@pytest.mark.parametrize("name", GUIDES)
def test_a_setting_exists(name: str) -> None:
    """Every `ECLIPSE_...` variable of a guide is a setting."""
    known = {variable(field) for field in Settings.model_fields}
    assert set(re.findall(r"\bECLIPSE_[A-Z_]+[A-Z]\b(?!_?\*)", GUIDES[name])) - known == set()


@pytest.mark.parametrize(("name", "target"), LINKS)
def test_a_link_leads_to_a_heading(name: str, target: str) -> None:
    """The page is there, and has the heading."""
    file, _, anchor = target.partition("#")
    folder = ROOT if (ROOT / name).exists() else ROOT / "docs"
    path = folder / file if file else folder / name
    assert path.is_file()
    assert not anchor or anchor in anchors(path.read_text(encoding="utf-8"))


def test_the_patterns_find_what_they_are_for() -> None:
    """The tests above have something to look at."""
    assert {("check", "--profile"), ("smoke", "--drain"), ("health", "--url")} <= set(COMMANDS)
    assert ("deploy.md", "operate.md#metrics-dashboard-alerts") in LINKS
