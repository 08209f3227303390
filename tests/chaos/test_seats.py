"""What a seat shows of read positions, and what the judge counts as going back."""

from __future__ import annotations

import random
from typing import Any

from tests.chaos.agent import Agent, Seat, judge_seats
from tests.chaos.client import Visit
from tests.chaos.judge import Verdict
from tests.chaos.test_judge import Nodes


class Talk:
    """A seat that is told things."""

    def __init__(self) -> None:
        chance = random.Random(1)
        self.seat = Seat(Agent(Nodes(), 100_001, chance), "c", 0.0, chance)  # type: ignore[arg-type]
        self.join()

    def join(self) -> None:
        """Begin a visit."""
        self.seat.visits.append(Visit("A", 1.0, None, 1.0, "e.0", True))
        self.seat.told.append({})

    def messages(self, *numbers: int) -> None:
        """Hear messages."""
        for n in numbers:
            self.seat.on_event({"type": "message", "data": {"id": f"m{n}"}, "cursor": f"e.{n}"})

    def read(self, n: int, *, is_list: bool = False) -> None:
        """Hear that somebody has read up to a message."""
        position: dict[str, Any] = {"userId": "u", "role": "user", "messageId": f"m{n}"}
        self.seat.on_event({"type": "read", "data": {"positions": [position]} if is_list else position})

    def backwards(self) -> int:
        """What the judge counts."""
        verdict = Verdict("test")
        judge_seats(verdict, {"c": [self.seat]}, presence=False)
        return verdict.backwards


def test_the_list_of_a_node_that_is_cut_off() -> None:
    """It isn't shown, as the client of the widget doesn't show it; what comes then is."""
    talk = Talk()
    talk.messages(1, 2, 3, 4)
    talk.read(3)
    talk.join()
    talk.read(1, is_list=True)
    talk.read(2)
    talk.read(4)
    assert talk.seat.shown == {"u": ["m3", "m4"]}
    assert talk.backwards() == 0


def test_what_one_visit_is_told_goes_back() -> None:
    """No node may do that, whatever the client shows."""
    talk = Talk()
    talk.messages(1, 2, 3)
    talk.read(3, is_list=True)
    talk.read(2)
    assert talk.seat.shown == {"u": ["m3"]}
    assert talk.backwards() == 1


def test_what_is_shown_goes_back() -> None:
    """A client that doesn't have the later message can't know."""
    talk = Talk()
    talk.messages(1, 2)
    talk.read(3)
    talk.join()
    talk.read(1, is_list=True)
    talk.messages(3)
    assert talk.backwards() == 1
