"""The finished packages, and their documents, use the glossary's words (docs/architecture.md)."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
RETIRED: Final = {
    r"mend(s|ed|ing)?": "fix",
    r"owed?|owing": "outbox, queued",
    r"payments?|pay(s|ing)? what": "outbox flush",
    r"unsaid": "suppressed",
    r"askers?": "requester",
    r"asked[ _]by": "chosen by, source",
    r"who(so)?ever": "a noun: the client, the operator",
    r"lest": "so that ... not",
    r"doubts": "warnings",
    r"which there (is|are) not": "unknown ...",
    r"as it may": "at most, full",
    r"(?<!there )(is|are|was|were) no(?= (?!longer|more|reason|other)[a-z])": "is not a ...",
    r"for ever": "forever",
    r"in vain": "failed",
    r"tells? of|told of": "reports",
    r"looked at": "checked, read",
    r"under way": "in progress",
    r"made good": "repaired",
    r"(made|makes?|making)[ _]up": "generated",
    r"[Dd]oors?": "internal authentication (InternalAuth)",
    r"Slots": "ConcurrencyLimiter",
    r"Timings?": "Histogram",
    r"figures?": "number, metric, report",
    r"(?<!cors )(?<!answer_)preflight": "check; of a browser: CORS preflight",
}
"""Pattern of a retired word, and the word to use instead."""
CONTRACT: Final = re.compile(r"Front Door|commands_under_way|`[^`]*test_[^`]*`")
"""Names that are not ours to choose, and in documents the names of tests."""
SUFFIXES: Final = frozenset({".md", ".py", ".toml", ".ts", ".tsx", ".yaml"})
"""Files that people read."""
BUILT: Final = frozenset({"node_modules", ".next"})
"""Folders whose files are not ours."""
TESTS: Final = ("attacks", "backends", "chaos", "commands", "config", "delivery", "server", "sessions")
"""Folders of tests that are held to the words, too."""
DONE: Final = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Dockerfile",
    "Makefile",
    "README.md",
    "SECURITY.md",
    "compose.yaml",
    "conf",
    "docs",
    "eclipse_ws/application",
    "eclipse_ws/backends",
    "eclipse_ws/cli.py",
    "eclipse_ws/commands",
    "eclipse_ws/config",
    "eclipse_ws/delivery",
    "eclipse_ws/observability",
    "eclipse_ws/protocol",
    "eclipse_ws/security",
    "eclipse_ws/server",
    "eclipse_ws/sessions",
    "eclipse_ws/testing",
    "eclipse_ws/websocket",
    "examples",
    "fly.toml",
    "ops",
    "scripts",
    *(f"tests/{folder}" for folder in TESTS),
    "web/README.md",
)
"""Checked for the words."""


def files(*places: str) -> list[Path]:
    """The files at these paths that people read."""
    found: list[Path] = []
    for place in places:
        path = ROOT / place
        below = [] if path.is_file() else sorted(path.rglob("*"))
        found += [path] if path.is_file() else [file for file in below if file.suffix in SUFFIXES]
    return [path for path in found if not BUILT & set(path.parts)]


@cache
def _compiled(word: str) -> re.Pattern[str]:
    """The pattern of a whole word: in any case, unless it is a name with capitals."""
    return re.compile(
        rf"(?<![A-Za-z])({word})(?![A-Za-z])", 0 if "S" in word or "D" in word else re.IGNORECASE
    )


def retired(path: Path) -> list[str]:
    """Each use of a retired word in a file, with the word to use instead."""
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        text = CONTRACT.sub("", line)
        found += [
            f"{path.relative_to(ROOT)}:{number}: {match[0]!r}, use {better}"
            for word, better in RETIRED.items()
            if (match := _compiled(word).search(text))
        ]
    return found


def test_finished_packages_use_the_words() -> None:
    """No retired word is in the code, comments or texts of a finished package."""
    assert [use for path in files(*DONE) for use in retired(path)] == []


def test_every_package_is_listed() -> None:
    """Every package is held to the words, a new one too."""
    package = ROOT / "eclipse_ws"
    listed = {place.removeprefix("eclipse_ws/") for place in DONE}
    packages = {path.parent.name for path in package.glob("*/__init__.py")}
    assert packages - listed == set()


@pytest.mark.parametrize(
    ("line", "uses"),
    [
        ("# Whoever asks", 1),
        ("class Slots:", 1),
        ("free slots", 0),
        ("this is no URL", 1),
        ("it is no longer open", 0),
        ("# Azure: Front Door", 0),
        ("a CORS preflight", 0),
        ("recommended", 0),
        ("| an attack | `test_outage.py::test_owed` |", 0),
    ],
)
def test_words_are_found(line: str, uses: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole words are found in any case; terms and parts of words are not."""
    monkeypatch.setattr("tests.repository.test_words.ROOT", tmp_path)
    (tmp_path / "a.py").write_text(line)
    assert len(retired(tmp_path / "a.py")) == uses
