"""Every test that the threat model names is there: a defence that nobody tests is a wish."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "threat-model.md"


def named() -> list[tuple[str, str]]:
    """The files and tests that the rows of attacks name; no test for a whole file or folder."""
    found, file = [], ""
    for line in DOCUMENT.read_text(encoding="utf-8").split("## The limits")[0].splitlines():
        cells = line.strip("| ").split(" | ")
        if len(cells) != 3 or cells[0] == "attack":
            continue
        for name in re.findall(r"`([^`-][^`]*)`", cells[2]):
            path, _, test = name.partition("::")
            file = path or file
            found.append((file, test))
    return found


def test_the_table_is_read() -> None:
    """The rows are found at all."""
    assert len(named()) > 100


@pytest.mark.parametrize(("file", "test"), named())
def test_a_test_that_is_named_exists(file: str, test: str) -> None:
    """The file is there, and defines the test (a star stands for several)."""
    places = [ROOT / "tests" / "attacks" / file, ROOT / file]
    assert any(list(place.parent.glob(place.name)) or place.is_dir() for place in places), file
    text = "".join(place.read_text(encoding="utf-8") for place in places if place.is_file())
    assert not test or re.search(rf"def {test}\(", text), test
