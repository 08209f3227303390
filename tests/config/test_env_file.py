"""How the application reads the text of a `.env` file, as observed in @next/env 16."""

from __future__ import annotations

import pytest

from eclipse_ws.config.env_file import as_next_reads


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("abc", "abc"),
        (" abc  # comment", "abc"),
        ("a#b", "a"),
        ("'a#b'", "a#b"),
        ('"a#b" # comment', "a#b"),
        ("`abc`", "abc"),
        ("#abc", ""),
        ("a\\#b", "a\\"),
        ("a\\$b", "a$b"),
        ("a\\$$b", "a$"),
        ("a$b", "a"),
        ("a$$b", "a$"),
        ("a$1b", "a"),
        ("'a$b'", "a"),
        ("a${b}c", "ac"),
        ("a${b", "a"),
        ("${b:-x}", "x"),
        ("$b-x", "-x"),
        ("a$", "a$"),
        ("a$ b", "a$ b"),
        ("a\\b", "a\\b"),
        ('"a\\\\b"', "a\\\\b"),
        ('"a\\nb"', "a\nb"),
        ("'a\\nb'", "a\\nb"),
        ('"a\\tb"', "a\\tb"),
        ('"a\\"b"', 'a\\"b'),
        ("'\"abc\"'", '"abc"'),
        ('"abc"x', '"abc"x'),
        ("a=b", "a=b"),
    ],
)
def test_a_value_as_next_reads_it(text: str, value: str) -> None:
    """Comments, quotes, escapes and references are those of dotenv and dotenv-expand."""
    assert as_next_reads(f"A=1\r\nexport NAME={text}\r\nB=2") == {"A": "1", "NAME": value, "B": "2"}


def test_the_last_value_counts() -> None:
    """A variable that occurs twice has its last value, and a colon works like an equals sign."""
    assert as_next_reads("A=1\nA: 2\n# A=3\nA\n") == {"A": "2"}
