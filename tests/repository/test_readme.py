"""What the README and its neighbours name exists: commands and their options, make targets, this version."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from eclipse_ws import __version__
from eclipse_ws.cli import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = "\n".join(
    map("".join, re.findall(r"^```[a-z]*\n(.*?)^```|`([^`\n]+)`", README, re.MULTILINE | re.DOTALL))
)
COMMANDS = sorted(set(re.findall(r"^(?:\.venv/bin/)?eclipse-ws ([a-z]+)(.*)", CODE, re.MULTILINE)))
TARGETS = sorted(set(re.findall(r"\bmake ([a-z-]+)", CODE)))


@pytest.mark.parametrize(("name", "rest"), COMMANDS)
def test_a_command_exists(name: str, rest: str) -> None:
    """Its help names every option that the README gives it."""
    shown = CliRunner().invoke(main, [name, "--help"])
    assert shown.exit_code == 0, shown.output
    for option in re.findall(r"--[a-z-]+", rest):
        assert re.search(rf"{option}\b", shown.output), option


def test_every_command_is_listed() -> None:
    """The README's table has all commands of the program."""
    assert set(re.findall(r"^\| `eclipse-ws ([a-z]+)` \|", README, re.MULTILINE)) == set(main.commands)


@pytest.mark.parametrize("target", TARGETS)
def test_a_make_target_exists(target: str) -> None:
    """The Makefile has it, with a line of help."""
    assert re.search(rf"^{target}:.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def test_the_patterns_find_what_they_are_for() -> None:
    """The tests above have something to look at."""
    assert ("check", "--profile prod") in [(name, rest.partition("#")[0].strip()) for name, rest in COMMANDS]
    assert {"run", "test"} <= set(TARGETS)


def test_the_changelog_begins_with_this_version() -> None:
    """The newest entry is the package's version: unreleased, or with the day of its tag."""
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(.+)\] - (unreleased|\d{4}-\d\d-\d\d)$", changes, re.MULTILINE)
    assert newest, "no heading such as `## [0.1.0] - unreleased`"
    assert newest[1] == __version__


def test_the_issue_forms_ask_what_contributing_says() -> None:
    """Their questions are CONTRIBUTING's, in the same words and order."""
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    asked = []
    for name in ("bug", "idea"):
        form = yaml.safe_load(
            (ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text(encoding="utf-8")
        )
        asked += [part["attributes"]["label"] for part in form["body"] if part["type"] != "markdown"]
    assert asked == re.findall(r"^- \*\*([^*]+\?)\*\*", contributing, re.MULTILINE)
