"""A message with an idempotency key is saved once, whichever node gets it: `decide` has the rules."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, Literal, NamedTuple

import structlog

from eclipse_ws.backends.base import Backend, Key, KeyState, Step, Unavailable, patience
from eclipse_ws.config.settings import Settings
from eclipse_ws.delivery.cluster import Cluster
from eclipse_ws.delivery.decisions import Case, Decision, decide
from eclipse_ws.delivery.outbox import Item, Outbox
from eclipse_ws.delivery.records import Attempt, Records
from eclipse_ws.delivery.tasks import Tasks
from eclipse_ws.protocol import Receipt

log = structlog.get_logger("eclipse_ws.delivery")

FIRST_POLL, LONGEST_POLL = 0.05, 0.5
"""Seconds between checks of an attempt that is in progress on another node."""
SETTLING: Final = 1.5
"""Seconds after an outage in which every node reconnects and records its attempts in the backend."""
_RANKS: Final[tuple[KeyState, ...]] = ("reused", "done", "pending", "unknown")
_ANSWERS: Final[dict[Decision, Literal["done", "unknown", "later", "reused"]]] = {
    Decision.DONE: "done",
    Decision.UNKNOWN: "unknown",
    Decision.LATER: "later",
    Decision.REUSED: "reused",
}


class _Known(NamedTuple):
    """What the backend knew of a key; ``broken`` says why it was asked but gave no answer."""

    state: KeyState | Literal["unavailable"]
    receipt: Receipt | None = None
    broken: str = ""


class Idempotency:
    """Takes and settles attempts, in this node's own table and in the backend."""

    def __init__(
        self,
        settings: Settings,
        backend: Backend,
        outbox: Outbox,
        cluster: Cluster,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._outbox = outbox
        self._cluster = cluster
        self._records = Records(
            settings.history_seconds, settings.max_attempts, clock, elsewhere=backend.is_shared
        )
        self._patience = patience(settings)
        self._node = secrets.token_hex(6)
        self._told = Tasks()
        self._was_up = False
        self._settled_at = 0.0  # when all nodes have told the backend what they did in the last outage

    @property
    def is_uncertain(self) -> bool:
        """Whether the backend can't be asked, or may not have heard yet what other nodes have to tell."""
        return self._backend.health.state != "up" or time.monotonic() < self._settled_at

    async def close(self) -> None:
        """Stop recording attempts in the backend."""
        await self._told.close()

    async def take(
        self, chat_id: str, name: str, *, fingerprint: str, resent: bool, retry_unknown: bool
    ) -> Attempt:
        """See `Delivery.attempt`: ask this node's table, the backend, then the other nodes."""
        key = Key(name, secrets.token_hex(8), fingerprint)
        attempt = await self._records.take(chat_id, key, retry_unknown=retry_unknown, patience=self._patience)
        if attempt.state != "new":
            return attempt
        try:
            return await self._decide(attempt, Case(resent=resent, retry_unknown=retry_unknown))
        except BaseException:
            self._records.forget(attempt)
            raise

    def done(self, attempt: Attempt, receipt: Receipt) -> None:
        """Settle an attempt in this node's table; the backend settles it when it appends the event."""
        self._records.settle(attempt, "done", receipt)

    async def release(self, attempt: Attempt) -> None:
        """End an attempt that has saved nothing."""
        self._records.release(attempt)
        await self._settle(attempt, "released")

    async def abandon(self, attempt: Attempt) -> None:
        """End an attempt that may have saved its message."""
        self._records.settle(attempt, "unknown")
        await self._settle(attempt, "unknown")

    def restored(self) -> None:
        """Tell the backend, which was unavailable, of the attempts that are in progress."""
        if self._was_up:
            self._settled_at = time.monotonic() + SETTLING
        self._was_up = self._was_up or self._backend.health.state == "up"
        for attempt in self._records.in_progress():
            self._told.start(self._tell(attempt))

    def answer(self, question: Any) -> Any:
        """Tell another node what this one knows of a key; None to any other question."""
        match question:
            case {"attempt": {"node": str(node), "chatId": str(chat_id), "key": str(name)}}:
                known = None if node == self._node else self._records.known(chat_id, name)
                if known is not None:
                    receipt = known.receipt or Receipt("", None, "local")
                    return {
                        "state": known.state,
                        "id": receipt.id,
                        "cursor": receipt.cursor,
                        "fingerprint": known.key.fingerprint,
                    }
        return None

    async def _tell(self, attempt: Attempt) -> None:
        try:
            await self._backend.record(attempt.chat_id, attempt.key, "pending", retry_unknown=True)
        except Unavailable as error:  # `restored` records it when the backend is back
            log.debug("attempt not recorded", chat=attempt.chat_id, why=str(error))

    async def _settle(self, attempt: Attempt, step: Step) -> None:
        """Record how an attempt ended; during an outage the outbox does it later."""
        try:
            await self._backend.record(attempt.chat_id, attempt.key, step)
        except Unavailable as error:
            if error.refused:
                log.warning("attempt not settled; trying again", chat=attempt.chat_id, why=str(error))
            self._outbox.put(Item(attempt.chat_id, None, attempt.key, step))

    async def _decide(self, attempt: Attempt, case: Case) -> Attempt:
        """Ask the backend, and if necessary the other nodes, until there is a decision."""
        deadline, pause = time.monotonic() + self._patience, FIRST_POLL
        while True:
            known = await self._reserve(attempt, case)
            case = replace(case, backend=known.state, expired=time.monotonic() > deadline)
            decision = decide(case)
            if decision is Decision.ASK_NODES:
                nodes, receipt = await self._ask_nodes(attempt)
                case, known = replace(case, nodes=nodes), known._replace(receipt=receipt)
                decision = decide(case)
            if decision is not Decision.WAIT:
                return await self._conclude(attempt, decision, known)
            case = replace(case, seen_pending=True)
            await asyncio.sleep(pause)
            pause = min(LONGEST_POLL, pause * 2)

    async def _reserve(self, attempt: Attempt, case: Case) -> _Known:
        # What other nodes have not recorded yet matters only if the message must not be repeated.
        certain = case.resent and not (case.retry_unknown or case.seen_pending)
        if certain and self.is_uncertain:
            return _Known("unavailable")
        try:
            record = await self._backend.record(
                attempt.chat_id, attempt.key, "pending", retry_unknown=case.retry_unknown
            )
        except Unavailable as error:
            return _Known("unavailable", broken=str(error) if error.asked else "")
        return _Known(record.state, record.receipt)

    async def _ask_nodes(self, attempt: Attempt) -> tuple[KeyState | Literal["silent"], Receipt | None]:
        """Ask the nodes about a resent message that the backend doesn't know.

        The backend may have lost its records, or one of the nodes may be cut off from it. If the answers
        differ, the state that `decide` checks first counts, not the first answer.
        """
        found: dict[KeyState, Receipt | None] = {}
        key = attempt.key
        answers = await self._cluster.question(
            {"attempt": {"node": self._node, "chatId": attempt.chat_id, "key": key.name}}
        )
        for answer in answers.values:
            match answer:
                case {"fingerprint": str(other)} if key.differs(other):
                    found["reused"] = None
                case {"state": "done", "id": str(saved), "cursor": str() | None as cursor}:
                    found["done"] = Receipt(saved, cursor, "published" if cursor else "local")
                case {"state": "new"}:
                    found["pending"] = None
                case {"state": "unknown"}:
                    found["unknown"] = None
        for state in _RANKS:
            if state in found:
                return state, found[state]
        return "none" if answers.complete else "silent", None

    async def _conclude(self, attempt: Attempt, decision: Decision, known: _Known) -> Attempt:
        """Carry out a decision: undo what this node has reserved, unless it saves the message."""
        if decision is Decision.SAVE:
            if known.broken:
                log.warning("attempt recorded on this node only", chat=attempt.chat_id, why=known.broken)
            return attempt
        # If its answer was lost, the backend may have reserved the key.
        reserved = known.state in ("none", "released") or bool(known.broken)
        if decision is Decision.UNKNOWN:
            self._records.settle(attempt, "unknown")
            if reserved:
                await self._settle(attempt, "unknown")
        elif decision is Decision.LATER and known.state == "released":
            await self.release(attempt)  # else a waiting attempt would take the records for lost
        else:
            self._records.forget(attempt)
            if reserved:
                await self._settle(attempt, "forgotten")
        if decision is Decision.DONE:
            self._records.settle(attempt, "done", known.receipt)
        return Attempt(attempt.chat_id, attempt.key, _ANSWERS[decision], known.receipt)
