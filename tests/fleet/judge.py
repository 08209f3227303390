"""What a case has shown: the verdict of the chaos suite, and what it doesn't look at.

- *Gap*: how long a member waited for what was saved, until it came by an event or by a load that the
  contract asks for; the worst of all. Time for which it was away of its own will doesn't count.
- *Doubled*, *out of order*: on the nodes. The old service promises neither: there, everything has to be
  present, and the copies are counted.
- *Missed by old pages*: what was saved while such a page was on its way back, which it never loads.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import inf

from tests.chaos.judge import Verdict, expected, judge
from tests.fleet.fleet import Fleet
from tests.fleet.members import Member, OldPage

LATE = 1.0
"""Seconds after which a message counts as late."""


@dataclass
class Row(Verdict):
    """One row of the report."""

    sent: int = 0
    gap: float = 0.0
    allowed_gap: float = inf
    edge: float = 1.0
    """As of OldPage."""
    allowed_refusals: int | None = 0
    """Messages that the case has refused, with a reason; None: any number."""
    allowed_unknown: bool = False
    """Whether ``outcome_unknown`` may be the truth."""
    typing: int = 0
    typing_wrong: int = 0
    copies: str = ""
    """How often one message came on the old service: the least and the most."""
    pages_missed: int = 0
    cut_short: int = 0
    """Messages that were not saved, as their connection ended first, and whose senders send nothing again."""
    began: float = 0.0
    """When the fault began, if there is one."""
    back: float | None = None
    """Seconds from then until all were connected again, the last message that was late had come, and the last
    ``ack`` that said ``local``."""
    allowed_back: float = inf
    note: str = ""

    @property
    def missed_targets(self) -> list[str]:
        """The targets that were missed, each with its value."""
        missed = super().missed_targets
        if self.gap > self.allowed_gap:
            missed.append(f"a gap of {self.gap:.1f} s, more than {self.allowed_gap:g}")
        if self.back is not None and self.back > self.allowed_back:
            missed.append(f"back after {self.back:.1f} s, more than {self.allowed_back:g}")
        if self.allowed_refusals not in (self.refused, None):
            missed.append(f"refused {self.refused}, not {self.allowed_refusals}")
        if self.unknown and not self.allowed_unknown:
            missed.append(f"outcome_unknown {self.unknown}")
        if self.typing_wrong:
            missed.append(f"typing_wrong {self.typing_wrong}")
        return missed


def judge_fleet(row: Row, fleet: Fleet, chats: dict[str, list[Member]], places: dict[str, str]) -> Row:
    """Fill the row in; ``places`` as in the chaos suite's judge."""
    judge(row, fleet.application, chats, places)
    row.sent = sum(member.sent for members in chats.values() for member in members)
    keys = {message["key"] for message in fleet.application.saved}
    row.cut_short = sum(len(member.unconfirmed - keys) for members in chats.values() for member in members)
    row.sent += sum(1 for message in fleet.application.saved if not message["key"])
    for chat, names in expected(fleet.application, chats).items():
        for member in chats[chat]:
            _judge_gaps(row, fleet, member, names)
    if row.began:
        row.back = back(row, fleet, chats)
    copies = Counter(
        count for members in chats.values() for member in members for count in _copies(member).values()
    )
    if copies:
        row.copies = f"{min(copies)}-{max(copies)}"
    return row


def back(row: Row, fleet: Fleet, chats: dict[str, list[Member]]) -> float:
    """Seconds from the beginning of the fault until everything was as before."""
    last = row.began
    for members in chats.values():
        for member in members:
            last = max([last, member.last_local, *(visit.greeted for visit in member.visits)])
            for name, seen in member.seen.items():
                if seen > fleet.application.saved_at.get(name, seen) + LATE:
                    last = max(last, seen)
    return last - row.began


def _judge_gaps(row: Row, fleet: Fleet, member: Member, names: list[str]) -> None:
    joined = member.visits[0].greeted
    for name in names:
        at = fleet.application.saved_at[name]
        if at < joined:
            continue
        if name in member.seen:
            seen = member.seen[name]
            gap = seen - (member.away_until if at < member.away_until < seen else at)
            if gap > row.allowed_gap:
                row.say(f"a gap of {gap:.1f} s: {name}, for client {member.number}")
            row.gap = max(row.gap, gap)
        elif isinstance(member, OldPage):
            row.pages_missed += 1


def _copies(member: Member) -> Counter[str]:
    return Counter(
        received.name for received in member.received_on_old() if received.name.startswith("message:")
    )
