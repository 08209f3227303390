"""What a scenario has shown: every count of the report, and the evidence for what should not be.

Definitions, for one chat of one scenario:

- *Saved*: what the application holds. *Expected*: of that, what every member must get: not a message whose
  sender was told ``outcome_unknown`` (or gave up, its key's lifetime being over), and not an event of the
  application's own that was not confirmed to it.
- *Delivered*: an expected event that a member got once at least, live, by a replay, or by a load of the chat
  that the contract told it to do (its first connect, or ``recovered: false``).
- *Duplicate*: the same event twice on one connection, or again on a later one that said ``recovered: true``
  though the first copy had a cursor. A first copy without one may come again: *allowed*, counted apart.
- *Disorder*: one cursor that means two events; cursors on a connection that don't grow; an offset that is
  left out, unless its event came before without a cursor; an epoch that changes on an open connection.
- *False error*: an error, other than ``outcome_unknown``, for a message that was saved by then; and an ack
  for one that was not.
- *Saved twice*: one ``clientMessageId`` that was saved more than once.
- *Expired*: a ``recovered: false`` for a client that was away for longer than events are kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.chaos.application import Application
from tests.chaos.client import Client, Received, Visit
from tests.chaos.cluster import HISTORY_SECONDS

EVIDENCE = 200
"""Sentences of evidence that are kept for one scenario."""


@dataclass
class Verdict:
    """One row of the report."""

    scenario: str
    seconds: float = 0.0
    clients: int = 0
    saved: int = 0
    acked: int = 0
    acked_locally: int = 0
    expected: int = 0
    delivered: int = 0
    by_event: int = 0
    duplicates: int = 0
    allowed: int = 0
    disorders: int = 0
    false_errors: int = 0
    saved_twice: int = 0
    unresolved: int = 0
    unknown: int = 0
    unknown_saved: int = 0
    given_up: int = 0
    refused: int = 0
    errors: int = 0
    connects: int = 0
    resumed: int = 0
    not_recovered: int = 0
    expired: int = 0
    resume_needed: int = 0
    loads: int = 0
    left: int = 0
    faults: int = 0
    tracebacks: int = 0
    backwards: int = 0
    """Read positions that an agent was told after later ones."""
    ghosts: int = 0
    """Users whom an agent takes to be in a chat, but who aren't there, and those whom it misses."""
    backend: str = "redis"
    resumes: bool = True
    """Whether every client has to be able to resume."""
    repeats: bool = False
    """Whether one message in each thousand, the last of which may be short, may be saved twice."""
    evidence: list[str] = field(default_factory=list)

    @property
    def percent(self) -> float:
        """Delivered, in per cent of what was expected."""
        return 100.0 if not self.expected else 100 * self.delivered / self.expected

    @property
    def missed_targets(self) -> list[str]:
        """The targets that were missed, each with its value."""
        zero = (
            "duplicates",
            "disorders",
            "false_errors",
            "unresolved",
            "left",
            "faults",
            "tracebacks",
            "backwards",
            "ghosts",
        )
        missed = [f"{name} {getattr(self, name)}" for name in zero if getattr(self, name)]
        if self.delivered != self.expected:
            missed.insert(0, f"delivered {self.percent:.4f} % ({self.expected - self.delivered} missing)")
        if self.saved_twice > (math.ceil(self.saved / 1000) if self.repeats else 0):
            missed.append(f"saved_twice {self.saved_twice}")
        if self.resumes and self.not_recovered > self.expired:
            missed.append(f"recovered: false {self.not_recovered} ({self.expired} expired)")
        if not self.saved:
            missed.append("nothing was saved")
        return missed

    def say(self, sentence: str) -> None:
        """Record a sentence of evidence."""
        if len(self.evidence) < EVIDENCE:
            self.evidence.append(sentence)

    def as_json(self) -> dict[str, Any]:
        """The row for machines."""
        return {**asdict(self), "percent": self.percent, "missed_targets": self.missed_targets}


def judge(
    verdict: Verdict,
    application: Application,
    chats: Mapping[str, Sequence[Client]],
    places: dict[str, str],
) -> Verdict:
    """Fill the verdict in with everything that clients and application can tell.

    ``places`` are events by cursor, as the backend has them: members who were all there when an event was
    delivered without a cursor never see its place.
    """
    clients = [client for members in chats.values() for client in members]
    verdict.clients = len(clients)
    verdict.saved = len(application.saved)
    for client in clients:
        verdict.acked += len(client.acked)
        verdict.acked_locally += sum(1 for _, delivery in client.acked.values() if delivery == "local")
        verdict.unknown += len(client.unknown)
        verdict.given_up += len(client.given_up)
        verdict.refused += len(client.refused)
        verdict.errors += len(client.troubles)
        verdict.connects += len(client.visits)
        verdict.resumed += sum(1 for visit in client.visits if visit.recovered)
        verdict.not_recovered += sum(1 for visit in client.visits if visit.recovered is False)
        verdict.expired += _expired(client)
        verdict.resume_needed += sum(1 for visit in client.visits if visit.close == 4010)
        verdict.loads += client.loads
    _judge_saving(verdict, application, clients)
    _judge_delivery(verdict, application, chats)
    for chat, members in chats.items():
        _judge_order(verdict, chat, members, dict(places))
    for client in clients:
        if not client.settled:
            verdict.unresolved += 1
            keys = [item.key for item in client.outbox]
            verdict.say(
                f"client {client.number} of {client.chat} did not settle: waiting {keys}; {trail(client)}"
            )
    return verdict


def _expired(client: Client) -> int:
    found, left = 0, math.inf
    for visit in client.visits:
        if visit.recovered is False and visit.greeted - left > HISTORY_SECONDS:
            found += 1
        if visit.greeted:
            left = visit.ended
    return found


def _judge_saving(verdict: Verdict, application: Application, clients: Sequence[Client]) -> None:
    saved: dict[str, list[str]] = {}
    for message in application.saved:
        if message["key"]:
            saved.setdefault(message["key"], []).append(message["id"])
    for key, ids in saved.items():
        if len(ids) > 1:
            at = [round(application.saved_at[each], 3) for each in ids]
            verdict.saved_twice += len(ids) - 1
            verdict.say(f"saved twice: {key} as {ids} at {at}")
    for client in clients:
        for trouble in client.troubles:
            ids = saved.get(trouble.key or "", [])
            if trouble.code == "outcome_unknown" or not ids:
                continue
            if application.saved_at[ids[0]] < trouble.at:
                verdict.false_errors += 1
                verdict.say(
                    f"false error: {trouble.code} for {trouble.key}, saved as {ids} "
                    f"{trouble.at - application.saved_at[ids[0]]:.3f} s before; {trail(client)}"
                )
        for key, (message_id, _) in client.acked.items():
            if message_id not in saved.get(key, ()):
                verdict.false_errors += 1
                verdict.say(f"false ack: {key} as {message_id!r}, which was saved as {saved.get(key)}")
        verdict.unknown_saved += sum(1 for key in client.unknown if key in saved)


def expected(application: Application, chats: Mapping[str, Sequence[Client]]) -> dict[str, list[str]]:
    """What every member of each chat must get, by chat."""
    excused = {key for members in chats.values() for c in members for key in (*c.unknown, *c.given_up)}
    found: dict[str, list[str]] = {chat: [] for chat in chats}
    for message in application.saved:
        if message["key"] in excused or message["chatId"] not in found:
            continue
        if message["key"] or message["id"] in application.heard:
            found[message["chatId"]].append(message["id"])
    for name, chat in application.updates.items():
        if name in application.heard:
            found[chat].append(name)
    return found


def missing(application: Application, chats: Mapping[str, Sequence[Client]]) -> int:
    """How many deliveries are still outstanding."""
    return sum(
        1
        for chat, names in expected(application, chats).items()
        for client in chats[chat]
        for name in names
        if name not in client.known
        and name not in client.loaded
        and client.expects(application.saved_at[name])
    )


def _judge_delivery(
    verdict: Verdict, application: Application, chats: Mapping[str, Sequence[Client]]
) -> None:
    for chat, names in expected(application, chats).items():
        for client in chats[chat]:
            for name in names:
                if not client.expects(application.saved_at[name]):
                    continue
                verdict.expected += 1
                if name in client.known:
                    verdict.by_event += 1
                    verdict.delivered += 1
                elif name in client.loaded:
                    verdict.delivered += 1
                else:
                    verdict.say(
                        f"missing: {name} of {chat}, saved at {application.saved_at[name]:.3f}, "
                        f"for client {client.number}; {trail(client)}"
                    )


def _judge_order(verdict: Verdict, chat: str, members: Sequence[Client], places: dict[str, str]) -> None:
    for client in members:
        for visit in client.visits:
            for received in visit.received:
                if received.cursor is None:
                    continue
                name = places.setdefault(received.cursor, received.name)
                if name != received.name:
                    verdict.disorders += 1
                    verdict.say(f"disorder: {received.cursor} of {chat} is {name} and {received.name}")
    for client in members:
        before: dict[str, bool] = {}  # name -> whether a copy of it had a cursor
        for visit in client.visits:
            if visit.old:
                continue
            if visit.greeted and not visit.recovered:
                before = dict.fromkeys(before, False)  # it loads the chat, and goes on from an earlier place
            _judge_visit(verdict, client, visit, before, places)


def _judge_visit(
    verdict: Verdict, client: Client, visit: Visit, before: dict[str, bool], places: dict[str, str]
) -> None:
    here: set[str] = set()
    known = set(places.values())
    local = 0  # events that came without a cursor, and whose place nobody knows
    epoch, offset = _split(visit.cursor)
    for received in visit.received:
        name = received.name
        if name in here:
            verdict.duplicates += 1
            verdict.say(f"duplicate: {name} at {received.cursor} for client {client.number}; {trail(client)}")
        elif name in before:
            if visit.recovered and before[name] and received.cursor is not None:
                verdict.duplicates += 1
                verdict.say(
                    f"duplicate over a resume: {name} at {received.cursor} "
                    f"for client {client.number}; {trail(client)}"
                )
            else:
                verdict.allowed += 1
        if received.cursor is not None:
            now, at = _split(received.cursor)
            if epoch is not None and now != epoch:
                _disorder(verdict, client, received, f"a new epoch after {epoch}.{offset}")
            elif epoch is not None and at <= offset:
                _disorder(verdict, client, received, f"it follows {epoch}.{offset}")
            elif epoch is not None:
                for left_out in range(offset + 1, at):
                    event = places.get(f"{now}.{left_out}")
                    if event is None and local:
                        local -= 1  # trimmed from the history by now
                    elif event not in here:
                        _disorder(verdict, client, received, f"{now}.{left_out} ({event}) was left out")
                        break
            epoch, offset = now, at
        elif name not in known:
            local += 1
        here.add(name)
        before[name] = before.get(name, False) or received.cursor is not None


def _disorder(verdict: Verdict, client: Client, received: Received, why: str) -> None:
    verdict.disorders += 1
    verdict.say(
        f"disorder: {received.name} at {received.cursor} for client {client.number}: {why}; {trail(client)}"
    )


def _split(cursor: str | None) -> tuple[str | None, int]:
    if cursor is None:
        return None, 0
    epoch, _, offset = cursor.rpartition(".")
    return epoch, int(offset)


def trail(client: Client) -> str:
    """The last connections of a client, for the evidence."""
    parts = []
    for visit in client.visits[-4:]:
        last = visit.received[-1].cursor if visit.received else None
        parts.append(
            f"{visit.node} {visit.began:.2f}-{visit.ended:.2f} after={visit.after} "
            f"recovered={visit.recovered} at={visit.cursor} last={last} close={visit.close}"
        )
    return " | ".join(parts)
