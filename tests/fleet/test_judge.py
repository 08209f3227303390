"""The judge of the fleet suite finds what the chaos suite's doesn't look for."""

from __future__ import annotations

import random
from math import inf
from typing import Any

import pytest

from tests.chaos.client import Received, Visit
from tests.chaos.test_judge import Nodes, Saved
from tests.fleet.judge import Row, judge_fleet
from tests.fleet.members import Member, OldPage


class Fleet(Nodes):
    """The part of the fleet that the judge looks at; what it has saved was saved at 10.0, 11.0 and so on."""

    def __init__(self, *keys: str | None) -> None:
        self.application = Saved(*keys)


def seen(kind: type[Member], *visits: Visit) -> Member:
    """A member that has seen just this."""
    member = kind(Fleet(), "c", 1, random.Random(1), [])  # type: ignore[arg-type]
    member._open = True
    member.visits = list(visits)
    for visit in visits:
        for received in visit.received:
            member.known.add(received.name.removeprefix("message:"))
            member.seen.setdefault(received.name.removeprefix("message:"), received.at)
    return member


def visit(
    *received: tuple[str, float], until: float = 0.0, since: float = 1.0, is_old: bool = False
) -> Visit:
    """A connection that got these messages at these times, by cursors that follow each other."""
    seen = Visit("A", since, None, since, "e.0", ended=until, old=is_old)
    for number, (name, at) in enumerate(received, 1):
        seen.received.append(Received(f"message:{name}", None if is_old else f"e.{number}", at, False))
    return seen


def judged(row: Row, fleet: Fleet, *members: Member) -> Row:
    """The verdict on one chat."""
    return judge_fleet(row, fleet, {"c": list(members)}, {})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("visits", "expected", "delivered", "missed"),
    [
        ([visit(("m0", 10.1), ("m1", 11.1))], 2, 2, 0),
        ([visit(("m0", 10.1))], 2, 1, 1),
        ([visit(("m0", 10.1), until=11.5), visit(since=12.0)], 1, 1, 1),
        ([visit(("m0", 10.1), until=12.5), visit(since=13.0)], 2, 1, 1),
        ([visit(("m1", 11.1), since=10.5)], 1, 1, 0),
    ],
)
def test_what_an_old_page_is_expected_to_get(
    visits: list[Visit], expected: int, delivered: int, missed: int
) -> None:
    """What was saved while it was connected, unless the connection ended at once."""
    row = judged(Row("test"), Fleet("k0", "k1"), seen(OldPage, *visits))
    assert (row.expected, row.delivered, row.pages_missed) == (expected, delivered, missed)


def test_copies_on_the_old_service() -> None:
    """Several copies, in whatever order, are normal for the old service: they are only counted."""
    row = judged(
        Row("test"),
        Fleet("k0", "k1"),
        seen(
            OldPage, visit(("m1", 11.1), ("m0", 11.2), ("m0", 11.3), ("m1", 11.4), ("m1", 11.5), is_old=True)
        ),
    )
    assert (row.duplicates, row.disorders, row.copies) == (0, 0, "2-3")
    assert row.missed_targets == []


@pytest.mark.parametrize(("allowed", "found"), [(2.0, ["a gap of 3.5 s, more than 2"]), (inf, [])])
def test_worst_gap(allowed: float, found: list[str]) -> None:
    """The longest wait of any member is reported, and compared with what the case allows."""
    members = [seen(Member, visit(("m0", 10.5))), seen(Member, visit(("m0", 13.5)))]
    row = judged(Row("test", allowed_gap=allowed), Fleet("k0"), *members)
    assert (row.gap, row.missed_targets) == (3.5, found)


def test_no_gap_for_a_member_that_stayed_away() -> None:
    """A member that is away on purpose waits from when it wanted to be back."""
    member = seen(Member, visit(("m0", 13.5)))
    member.away_until = 13.0
    assert judged(Row("test"), Fleet("k0"), member).gap == 0.5


@pytest.mark.parametrize(
    ("change", "after"),
    [
        ({}, 0.0),
        ({"seen": {"m0": 11.5}}, 1.5),
        ({"last_local": 14.0}, 4.0),
        ({"visits": [visit(("m0", 10.1), until=10.2), visit(since=13.0)]}, 3.0),
    ],
)
def test_the_end_of_a_fault(change: dict[str, Any], after: float) -> None:
    """A fault is over with the last late message, the last local ack and the last reconnect."""
    member = seen(Member, visit(("m0", 10.1)))
    vars(member).update(change)
    assert judged(Row("test", began=10.0), Fleet("k0"), member).back == after


@pytest.mark.parametrize(
    ("row", "target"),
    [
        (Row("test", typing_wrong=1), "typing_wrong 1"),
        (Row("test", allowed_refusals=1), "refused 0, not 1"),
        (Row("test", began=5.0, allowed_back=4.0), "back after 5.5 s, more than 4"),
    ],
)
def test_what_a_case_must_not_show(row: Row, target: str) -> None:
    """Wrong typing, too few refusals and a late recovery are missed targets."""
    fleet = Fleet("k0")
    fleet.application.saved_at["m0"] = 6.0
    assert judged(row, fleet, seen(Member, visit(("m0", 10.5)))).missed_targets == [target]
