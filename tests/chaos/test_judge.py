"""The judge finds what it is meant to find."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.chaos.client import Client, Received, Trouble, Visit
from tests.chaos.cluster import HISTORY_SECONDS
from tests.chaos.judge import Verdict, judge


class Saved:
    """The part of the application that the judge looks at."""

    def __init__(self, *keys: str | None) -> None:
        self.saved = [{"id": f"m{at}", "key": key, "chatId": "c"} for at, key in enumerate(keys)]
        self.saved_at = {str(message["id"]): 10.0 + at for at, message in enumerate(self.saved)}
        self.heard: set[str] = set()
        self.updates: dict[str, str] = {}


class Nodes:
    """A cluster without nodes."""

    nodes = (None, None)


def member(*visits: Visit, settled: bool = True) -> Client:
    """A client that has seen just this."""
    client = Client(Nodes(), "c", 1, 1.0, random.Random(1))  # type: ignore[arg-type]
    client.visits = list(visits)
    client._open = settled
    for visit in visits:
        client.known.update(got.name.removeprefix("message:") for got in visit.received)
    return client


def visit(*received: tuple[str, str | None], at: str | None = "e.0", recovered: bool | None = None) -> Visit:
    """A connection that was greeted at a cursor, and got these events."""
    seen = Visit("A", 1.0, None, 1.0, at, recovered)
    seen.received = [Received(f"message:{name}", cursor, 2.0, False) for name, cursor in received]
    return seen


def judged(application: Saved, *clients: Client) -> Verdict:
    """The verdict on one chat."""
    return judge(Verdict("test"), application, {"c": list(clients)}, {})  # type: ignore[arg-type]


def test_no_target_is_missed() -> None:
    """Two members who have seen everything in order miss no target."""
    seen = [("m0", "e.1"), ("m1", "e.2")]
    assert judged(Saved("k0", "k1"), member(visit(*seen)), member(visit(*seen))).missed_targets == []


@pytest.mark.parametrize(
    ("visits", "count", "expected"),
    [
        ([visit(("m0", "e.1"))], "delivered", 1),
        ([visit(("m0", "e.1"), ("m1", "e.2"), ("m1", "e.2"))], "duplicates", 1),
        (
            [visit(("m0", "e.1"), ("m1", "e.2")), visit(("m1", "e.2"), at="e.1", recovered=True)],
            "duplicates",
            1,
        ),
        ([visit(("m0", None), ("m1", "e.2")), visit(("m0", "e.1"), recovered=True)], "allowed", 1),
        (
            [
                visit(("m0", "e.1"), ("m1", "e.2")),
                visit(recovered=False),
                visit(("m0", "e.1"), recovered=True),
            ],
            "duplicates",
            0,
        ),
        ([visit(("m1", "e.2"), ("m0", "e.1"))], "disorders", 2),
        ([visit(("m0", "e.1"), ("m1", "f.2"))], "disorders", 1),
        ([visit(("m0", "e.1"), ("m1", "e.3"))], "disorders", 1),
        ([visit(("m0", None), ("m1", "e.2"))], "disorders", 0),
        ([visit(("m0", None), ("m1", "e.3"))], "disorders", 1),
    ],
)
def test_what_one_member_saw(visits: list[Visit], count: str, expected: Any) -> None:
    """A loss, a duplicate, a wrong order and a gap are each counted."""
    assert getattr(judged(Saved("k0", "k1"), member(*visits)), count) == expected


def test_local_copy_is_not_a_gap() -> None:
    """An offset whose event came before without a cursor was not left out."""
    clients = [member(visit(("m0", None), ("m1", "e.2"))), member(visit(("m0", "e.1"), ("m1", "e.2")))]
    assert judged(Saved("k0", "k1"), *clients).disorders == 0


def test_one_cursor_for_two_events() -> None:
    """Members that got different events at one place saw different orders."""
    clients = [member(visit(("m0", "e.1"), ("m1", "e.2"))), member(visit(("m1", "e.1"), ("m0", "e.2")))]
    assert judged(Saved("k0", "k1"), *clients).disorders == 2


def test_saved_twice() -> None:
    """One key saved as two messages is found."""
    verdict = judged(Saved("k0", "k0"))
    assert verdict.saved_twice == 1
    assert "saved_twice 1" in verdict.missed_targets
    verdict.repeats = True
    assert "saved_twice 1" not in verdict.missed_targets  # one in each thousand, of which these are the first
    verdict.saved_twice, verdict.saved = 2, 1000
    assert "saved_twice 2" in verdict.missed_targets
    verdict.saved = 1001
    assert "saved_twice 2" not in verdict.missed_targets


def test_false_error() -> None:
    """An error for a message that was saved by then is false, unless it says that the outcome is unknown."""
    client = member(visit(("m0", "e.1")))
    client.troubles = [Trouble("k0", code, at) for code, at in [("a", 9), ("b", 11), ("outcome_unknown", 12)]]
    assert judged(Saved("k0"), client).false_errors == 1


def test_false_ack() -> None:
    """An ack for what was never saved is false."""
    client = member(visit(("m0", "e.1")))
    client.acked = {"k0": ("m0", "published"), "k1": ("m9", "published")}
    assert judged(Saved("k0"), client).false_errors == 1


def test_what_is_expected() -> None:
    """Neither what the sender knows to be uncertain, nor what Redis never heard from the application."""
    application = Saved("k0", None, None)
    application.heard = {"m2"}
    client = member(visit(("m2", "e.1")))
    client.unknown = {"k0": 1.0}
    verdict = judged(application, client)
    assert (verdict.expected, verdict.delivered, verdict.unknown_saved) == (1, 1, 1)


@pytest.mark.parametrize(("away", "missed"), [(HISTORY_SECONDS - 1, True), (HISTORY_SECONDS + 1, False)])
def test_what_had_expired_can_not_be_resumed(away: float, missed: bool) -> None:
    """A client has to be able to resume for as long as events are kept, and from its last greeting on."""
    first, refused, second = visit(("m0", "e.1")), visit(), visit(at="e.2", recovered=False)
    first.ended, refused.greeted, second.greeted = 100.0, 0.0, 100.0 + away
    refused.ended = second.greeted
    verdict = judged(Saved("k0"), member(first, refused, second))
    assert (verdict.not_recovered, verdict.expired) == (1, 0 if missed else 1)
    assert any("recovered: false" in target for target in verdict.missed_targets) == missed


def test_a_first_visit_has_nothing_that_expired() -> None:
    """A client that has never been there was not away, however late it comes."""
    late = visit(recovered=False)
    late.greeted = 1000.0
    assert judged(Saved(), member(late)).expired == 0


def test_unsettled_client() -> None:
    """A client that doesn't come back is a missed target."""
    assert judged(Saved("k0"), member(visit(("m0", "e.1")), settled=False)).unresolved == 1
