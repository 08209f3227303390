"""What to do with a message that has an idempotency key: one pure function, one table."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal

from eclipse_ws.backends.base import KeyState


class Decision(Enum):
    """What follows for the message."""

    SAVE = auto()
    """Nobody has saved it: the requester does, and settles the record."""
    DONE = auto()
    """It is saved: answer with the first receipt."""
    REUSED = auto()
    """Refuse it: the key belongs to another message."""
    UNKNOWN = auto()
    """Answer ``outcome_unknown``, for good: it may have been saved, and nobody can know."""
    LATER = auto()
    """Answer ``outcome_unknown`` for now: nothing was begun, and the same question may be answered soon."""
    WAIT = auto()
    """Look again: somebody is saving it."""
    ASK_BACKEND = auto()
    """Reserve the key in the backend, and decide again."""
    ASK_NODES = auto()
    """Ask the other nodes what they know of the key, and decide again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is known when a message comes."""

    here: KeyState = "none"
    """In this node's own table."""
    backend: KeyState | Literal["unasked", "unavailable"] = "unasked"
    """In the backend, whose record all nodes share. ``unavailable`` also while the other nodes may not have
    told it yet what they did in an outage that has just ended.
    """
    nodes: KeyState | Literal["unasked", "silent"] = "unasked"
    """In the tables of the other nodes; ``silent``: none of them knows it, and one gave no answer."""
    resent: bool = False
    """The client says that it has sent this message before."""
    retry_unknown: bool = False
    """The application honours idempotency keys, so that an attempt of unknown outcome may be repeated."""
    seen_pending: bool = False
    """The backend has said before that another node is saving it."""
    expired: bool = False
    """The time that one attempt may take is over."""


def decide(case: Case) -> Decision:
    """Decide by the first row that fits.

    ====  ==============================================================  ===========
    row   what is known                                                   decision
    ====  ==============================================================  ===========
    1     anybody: reused                                                 REUSED
    2     anybody: done                                                   DONE
    3     here: pending, in time                                          WAIT
    4     here: pending, expired                                          UNKNOWN
    5     here: unknown, which may not be repeated                        UNKNOWN
    6     backend: unasked                                                ASK_BACKEND
    7     backend: pending, or unavailable after it was pending, in time  WAIT
    8     the same, expired                                               UNKNOWN
    9     backend: unknown, which may not be repeated                     UNKNOWN
    10    backend: none, after it was pending (it has lost its records)   UNKNOWN
    11    sent for the first time, or may be repeated                     SAVE
    12    resent; backend: unavailable                                    LATER
    13    resent; nodes: unasked                                          ASK_NODES
    14    resent; nodes: pending                                          LATER
    15    resent; nodes: unknown                                          UNKNOWN
    16    resent; nodes: silent                                           LATER
    17    resent; nodes: none or released                                 SAVE
    ====  ==============================================================  ===========

    ``released`` in the backend proves nothing about attempts that the backend didn't hear of: a node that is
    cut off from it may have saved the message since. If the client resends, it counts as ``none``.

    Rows 11 and 17 may save a message twice where two faults meet: the first node has saved it and is cut off
    from the backend, and the client has lost the answer and does not say ``resent``, or asks a node that does
    not hear from the first one. Only an application that honours the key closes that (docs/delivery.md).
    """
    known = (case.here, case.backend, case.nodes)
    if "reused" in known:
        return Decision.REUSED
    if "done" in known:
        return Decision.DONE
    waits = Decision.UNKNOWN if case.expired else Decision.WAIT
    if case.here == "pending":
        return waits
    if case.here == "unknown" and not case.retry_unknown:
        return Decision.UNKNOWN
    if case.backend == "unasked":
        return Decision.ASK_BACKEND
    if case.backend == "pending" or (case.backend == "unavailable" and case.seen_pending):
        return waits
    if case.backend == "unknown" and not case.retry_unknown:
        return Decision.UNKNOWN
    if case.backend == "none" and case.seen_pending:
        return Decision.UNKNOWN
    if case.retry_unknown or not case.resent:
        return Decision.SAVE
    if case.backend == "unavailable":
        return Decision.LATER
    return _by_nodes(case)


def _by_nodes(case: Case) -> Decision:
    """Decide on a resent message that nobody has saved, as far as this node and the backend know."""
    match case.nodes:
        case "unasked":
            return Decision.ASK_NODES
        case "pending" | "silent":
            return Decision.LATER
        case "unknown":
            return Decision.UNKNOWN
    return Decision.SAVE
