"""Close codes have one source: documents, the widget and whatever else names a number agree with it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from eclipse_ws.protocol import CloseCode
from eclipse_ws.sessions.session import ChatSession
from eclipse_ws.websocket.frames import too_big

ROOT = Path(__file__).parents[2]
OURS = {close.code for close in CloseCode if close.code > 4000 or close is CloseCode.RESTARTING}
"""Numbers that mean nothing else in this code."""
PROSE = [
    *(ROOT / "docs").glob("*.md"),
    ROOT / "README.md",
    ROOT / "SECURITY.md",
    *(ROOT / "ops").glob("alerts*"),
]


def test_close_codes() -> None:
    """The codes and the reasons that today's clients know, each with what a client should do."""
    table = {(close.code, close.reason) for close in CloseCode}
    assert table == {
        (1000, ""),
        (1001, ""),
        (1009, "Message too big"),
        (1012, "Server restarting"),
        (4000, "Internal server error"),
        (4001, "Missing authentication token"),
        (4002, "Token expired"),
        (4002, "Invalid token"),
        (4002, "Invalid token payload: missing userId or chatId"),
        (4003, "Disconnected by the application"),
        (4008, "Too slow: outgoing queue is full"),
        (4009, "Rate limit exceeded"),
        (4010, "Resume needed: this node missed events of the chat"),
    }
    assert all(close.advice for close in CloseCode)
    assert [close for close in CloseCode if not close.comes_back] == [CloseCode.KICKED]
    assert {close.code for close in CloseCode if close.needs_token} == {4001, 4002}


def test_equal_codes_require_the_same_of_a_client() -> None:
    """A client knows the number; the reason is for people."""
    asked = {(close.code, close.advice, close.comes_back, close.needs_token) for close in CloseCode}
    assert len(asked) == len({close.code for close in CloseCode})


def test_the_contract_has_a_row_for_each_code() -> None:
    """With its reasons, what may follow them, and what a client should do."""
    text = (ROOT / "docs/protocol.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d, ]+) \| (.*) \| (.*) \|$", text, re.MULTILINE)
    left = list(CloseCode)
    for codes, reasons, advice in rows:
        for code in codes.split(", "):
            closes = [close for close in left if close.code == int(code)]
            assert closes, f"nobody closes with {code}"
            for close in closes:
                assert close.meaning in reasons
                assert close.advice == advice
                left.remove(close)
    assert left == []


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_documents_name_only_defined_codes(path: Path) -> None:
    """Every number in the documents that looks like a close code is one."""
    named = set(map(int, re.findall(r"\b40[01]\d\b", path.read_text(encoding="utf-8"))))
    assert named <= OURS | {CloseCode.INTERNAL_ERROR.code}


def test_clients_know_only_defined_codes() -> None:
    """The codes that the browser's client distinguishes are defined."""
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "web/src/client").glob("*.ts"))
    known = set(map(int, re.findall(r"\bcode == (\d+)", sources))) - {1006}  # no close frame at all
    assert known == {
        close.code
        for close in (
            CloseCode.TOO_BIG,
            CloseCode.RESTARTING,
            CloseCode.INVALID_TOKEN,
            CloseCode.KICKED,
            CloseCode.RATE_LIMITED,
            CloseCode.RESUME_NEEDED,
        )
    }


def constants() -> Iterator[tuple[str, object]]:
    """Every number and text in the package's code, but for the source of the codes, with where it is.

    `websocket` knows nothing of chats; its defaults are held to the codes below.
    """
    for path in (ROOT / "eclipse_ws").rglob("*.py"):
        name = path.relative_to(ROOT / "eclipse_ws").as_posix()
        if name == "protocol/close_codes.py" or name.startswith("websocket/"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant):
                yield f"{name}:{node.lineno}", node.value


def test_codes_and_reasons_are_defined_once() -> None:
    """Neither a number nor a reason."""
    reasons = {close.reason for close in CloseCode} - {""}
    again = [
        place
        for place, value in constants()
        if (type(value) is int and value in OURS)
        or (isinstance(value, str) and any(value.startswith(reason) for reason in reasons))
    ]
    assert again == []


def test_default_close_codes_of_the_socket() -> None:
    """A session's socket uses these codes for closes of its own."""
    for close, sent in (
        (CloseCode.TOO_SLOW, ChatSession.wire_slow_close),
        (CloseCode.INTERNAL_ERROR, ChatSession.wire_error_close),
    ):
        assert sent == (close.code, close.reason)
    assert ChatSession.wire_flood_close == (4009, "Rate limit exceeded: frame_rate")
    assert too_big(5) == CloseCode.TOO_BIG.with_detail("more than 5 bytes")
