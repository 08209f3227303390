"""The setting api_headers: its format, what it refuses, and that its values are masked."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import structlog
from pydantic import SecretStr

from eclipse_ws.config.application_headers import HeadersError, parse
from eclipse_ws.config.loading import load
from eclipse_ws.config.problems import SettingsError
from eclipse_ws.config.settings import masked
from eclipse_ws.observability.logging import configure_logging
from tests.conftest import make_settings

PASS = "the-value-that-leads-through-0123456789"


@pytest.mark.parametrize(
    ("text", "headers"),
    [
        ("", {}),
        (" \n ", {}),
        ("x-vercel-protection-bypass: abc", {"x-vercel-protection-bypass": "abc"}),
        (
            "A:1\r\n\n  B : not this\nC: d: e \n".replace(" : ", ": "),
            {"A": "1", "B": "not this", "C": "d: e"},
        ),
        ('{"A": "1", "Authorization": "Basic dTpw"}', {"A": "1", "Authorization": "Basic dTpw"}),
        ("{}", {}),
    ],
)
def test_headers(text: str, headers: dict[str, str]) -> None:
    """Headers are lines, or one JSON object."""
    assert parse(text) == headers


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("no colon here", "without a colon"),
        (f"A {PASS}", "without a colon"),
        ("A b: 1", "header name"),
        (": 1", "header name"),
        ("A : 1", "header name"),
        ("ü: 1", "header name"),
        ("A:", "a value of A"),
        ("A: ü", "a value of A"),
        ('{"A": "1\\r\\nB: 2"}', "a value of A"),
        ('{"A": "\\u0000"}', "a value of A"),
        ('{"A": 1}', "not a string"),
        ('{"A": "1"', "not a JSON object"),
        ('{"A":' * 819, "not a JSON object"),
        ("A: 1\na: 2", "a twice"),
        ("X-Internal-Secret: x", "sets itself"),
        ("content-type: x", "sets itself"),
        ("HOST: x", "sets itself"),
        ("Content-Length: 1", "sets itself"),
        ("Cookie: a=b", "sets itself"),
        (f"A: {'x' * 4100}", "at most 4096"),
    ],
)
def test_invalid_headers(text: str, problem: str, tmp_path: Path) -> None:
    """A value that would break a request or forge another header is refused at the start, and not quoted."""
    with pytest.raises(HeadersError, match=problem):
        parse(text)
    with pytest.raises(SettingsError) as caught:
        load("test", environ={"ECLIPSE_API_HEADERS": text}, dotenv=tmp_path / "none")
    (problem,) = caught.value.problems
    assert problem.name == "ECLIPSE_API_HEADERS"
    assert PASS not in str(problem)


def test_header_values_are_masked(tmp_path: Path) -> None:
    """Neither the configuration nor the log shows a header's value; a short value is not a secret."""
    given = SecretStr(f"X-Pass: {PASS}\nX-Short: true")
    settings = load(
        "test", environ={"ECLIPSE_API_HEADERS": given.get_secret_value()}, dotenv=tmp_path / "none"
    )
    assert PASS not in str(masked(settings.settings, "api_headers"))
    out = io.StringIO()
    configure_logging(make_settings(api_headers=given, log_format="json"), out)
    try:
        structlog.get_logger("x").info("sent", headers={"X-Pass": PASS}, whole=True)
    finally:
        configure_logging(make_settings(log_level="debug"), io.StringIO())
    assert PASS not in out.getvalue()
    assert json.loads(out.getvalue())["whole"] is True
