"""The table of decisions about a message under an idempotency key, row by row."""

from __future__ import annotations

import re
from itertools import product
from typing import Any, get_args

import pytest

from eclipse_ws.backends.base import KeyState
from eclipse_ws.delivery.cluster import Answers
from eclipse_ws.delivery.decisions import Case, Decision, decide
from tests.delivery.asked import on_stage

ROWS: list[tuple[int, dict[str, Any], str]] = [
    (1, {"here": "reused"}, "REUSED"),
    (1, {"backend": "reused", "retry_unknown": True}, "REUSED"),
    (1, {"backend": "none", "nodes": "reused", "resent": True}, "REUSED"),
    (2, {"here": "done", "backend": "unavailable"}, "DONE"),
    (2, {"backend": "done", "seen_pending": True, "expired": True}, "DONE"),
    (2, {"backend": "none", "nodes": "done", "resent": True}, "DONE"),
    (2, {"backend": "released", "nodes": "done", "resent": True}, "DONE"),
    (3, {"here": "pending", "resent": True}, "WAIT"),
    (4, {"here": "pending", "expired": True, "retry_unknown": True}, "UNKNOWN"),
    (5, {"here": "unknown", "resent": True}, "UNKNOWN"),
    (6, {}, "ASK_BACKEND"),
    (6, {"here": "released"}, "ASK_BACKEND"),
    (6, {"here": "unknown", "retry_unknown": True}, "ASK_BACKEND"),
    (7, {"backend": "pending"}, "WAIT"),
    (7, {"backend": "unavailable", "seen_pending": True}, "WAIT"),
    (8, {"backend": "pending", "seen_pending": True, "expired": True}, "UNKNOWN"),
    (8, {"backend": "unavailable", "seen_pending": True, "expired": True}, "UNKNOWN"),
    (9, {"backend": "unknown"}, "UNKNOWN"),
    (10, {"backend": "none", "seen_pending": True}, "UNKNOWN"),
    (11, {"backend": "none"}, "SAVE"),
    (11, {"backend": "unavailable"}, "SAVE"),
    (11, {"backend": "released"}, "SAVE"),
    (11, {"backend": "released", "seen_pending": True}, "SAVE"),
    (11, {"backend": "none", "resent": True, "retry_unknown": True}, "SAVE"),
    (11, {"backend": "unavailable", "resent": True, "retry_unknown": True}, "SAVE"),
    (11, {"backend": "released", "resent": True, "retry_unknown": True}, "SAVE"),
    (12, {"backend": "unavailable", "resent": True}, "LATER"),
    (12, {"here": "released", "backend": "unavailable", "resent": True}, "LATER"),
    (13, {"backend": "none", "resent": True}, "ASK_NODES"),
    (13, {"here": "released", "backend": "released", "resent": True}, "ASK_NODES"),
    (13, {"backend": "released", "resent": True, "seen_pending": True}, "ASK_NODES"),
    (14, {"backend": "none", "nodes": "pending", "resent": True}, "LATER"),
    (14, {"backend": "released", "nodes": "pending", "resent": True}, "LATER"),
    (15, {"backend": "none", "nodes": "unknown", "resent": True}, "UNKNOWN"),
    (15, {"backend": "released", "nodes": "unknown", "resent": True}, "UNKNOWN"),
    (16, {"backend": "none", "nodes": "silent", "resent": True}, "LATER"),
    (16, {"backend": "released", "nodes": "silent", "resent": True}, "LATER"),
    (17, {"backend": "none", "nodes": "none", "resent": True}, "SAVE"),
    (17, {"backend": "none", "nodes": "released", "resent": True}, "SAVE"),
    (17, {"backend": "released", "nodes": "none", "resent": True}, "SAVE"),
]


@pytest.mark.parametrize(("row", "known", "decision"), ROWS)
def test_each_row(row: int, known: dict[str, Any], decision: str) -> None:
    """The decision is the one that the row of the table names."""
    assert decide(Case(**known)) is Decision[decision]
    assert re.search(rf"^ *{row} .* {decision}$", decide.__doc__ or "", re.MULTILINE)


def test_each_row_has_a_test() -> None:
    """No row of the docstring's table is left out."""
    written = [int(number) for number in re.findall(r"^    (\d+) ", decide.__doc__ or "", re.MULTILINE)]
    assert written == sorted({row for row, _, _ in ROWS})


def test_nothing_is_saved_that_somebody_may_have_saved() -> None:
    """No message is saved beside an earlier attempt, unless that saved nothing or may be repeated."""
    states = get_args(KeyState)
    for here, backend, nodes, resent, repeat, seen, expired in product(
        states,
        (*states, "unasked", "unavailable"),
        (*states, "unasked", "silent"),
        *[(False, True)] * 4,
    ):
        case = Case(
            here=here,
            backend=backend,
            nodes=nodes,
            resent=resent,
            retry_unknown=repeat,
            seen_pending=seen,
            expired=expired,
        )
        if decide(case) is Decision.SAVE:
            assert here in ("none", "released") or (here == "unknown" and repeat), case
            assert backend in ("none", "released", "unavailable") or (backend == "unknown" and repeat), case
            assert not seen or backend == "released" or (backend == "unknown" and repeat), case
            if resent and not repeat:
                assert backend in ("none", "released"), case
                assert nodes in ("none", "released"), case


@pytest.mark.gen_test(timeout=20)
@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("answers", "state"),
    [
        ([{"state": "unknown"}, {"state": "done", "id": "1", "cursor": None}], "done"),
        ([{"state": "unknown"}, {"state": "new"}], "later"),
        ([{"state": "new"}, {"state": "done", "id": "1", "cursor": None}], "done"),
        ([{"state": "unknown"}, {"state": "unknown", "fingerprint": "another"}], "reused"),
    ],
)
async def test_nodes_that_know_different_things_of_a_message(
    answers: list[dict[str, Any]], state: str, order: int
) -> None:
    """The row that comes first decides, whichever answer comes first."""
    async with on_stage() as stage:

        async def question(asked: Any) -> Answers:
            return Answers(answers[::order], True)

        stage.delivery._cluster.question = question  # type: ignore[method-assign]
        attempt = await stage.delivery.attempt("chat", "name", fingerprint="this", resent=True)
        assert attempt.state == state
