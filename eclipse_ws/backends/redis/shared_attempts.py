"""The attempts that all nodes know of, through Redis; while that is away, this node's table is enough."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final, Literal, NamedTuple

import structlog
from redis.exceptions import RedisError

from eclipse_ws.backends.attempts import Attempts
from eclipse_ws.backends.base import Attempt
from eclipse_ws.backends.idempotency import Case, Decision, State, decide
from eclipse_ws.backends.redis import scripts
from eclipse_ws.backends.redis.connection import Link, LinkError
from eclipse_ws.backends.redis.connections import LONGEST_PAUSE, Links
from eclipse_ws.backends.redis.names import Names
from eclipse_ws.backends.redis.outage import Owed
from eclipse_ws.config.settings import Settings
from eclipse_ws.protocol import Receipt

log = structlog.get_logger("eclipse_ws.redis")

AGAIN = 0.5
"""Seconds that an attempt waits for the link that follows one that broke under it."""
SETTLING = LONGEST_PAUSE + 0.5
"""Seconds after an outage by which every node has found Redis again, and told it of its attempts."""
FIRST_POLL, LONGEST_POLL = 0.05, 0.5
"""Seconds between looks at an attempt that another node has under way."""

_STATES: Final[dict[str, State]] = {
    "new": "none",
    "released": "released",
    "pending": "pending",
    "unknown": "unknown",
    "reused": "reused",
}
"""What was known of a key before, by the answer of the script `attempt`. The first two have reserved it."""
_ANSWERS: Final[dict[Decision, Literal["done", "unknown", "later", "reused"]]] = {
    Decision.DONE: "done",
    Decision.UNKNOWN: "unknown",
    Decision.LATER: "later",
    Decision.REUSED: "reused",
}


class _Record(NamedTuple):
    """What Redis knew of a key; ``why`` a connection broke under the question."""

    state: State | Literal["unavailable"]
    receipt: Receipt | None = None
    why: str = ""


class SharedAttempts:
    """Takes and settles attempts here and in Redis; what Redis can't be told now is owed."""

    def __init__(
        self,
        settings: Settings,
        links: Links,
        owe: Callable[[Owed], None],
        ask: Callable[[Any], Awaitable[tuple[list[Any], bool]]],
    ) -> None:
        self._table = Attempts(settings.history_seconds, settings.max_attempts, elsewhere=True)
        self._links = links
        self._owe = owe
        self._ask = ask
        self._patience = settings.api_timeout + settings.attempt_margin
        self._margin = settings.attempt_margin
        self._lifetime = whole(settings.history_seconds)
        self._told: set[asyncio.Future[str]] = set()

    def __len__(self) -> int:
        return len(self._table)

    async def close(self) -> None:
        """Tell nobody any more."""
        for told in self._told:
            told.cancel()
        await asyncio.gather(*self._told, return_exceptions=True)

    async def take(
        self, chat_id: str, key: str, *, fingerprint: str, resent: bool, retry_unknown: bool
    ) -> Attempt:
        """Ask this node's table first, then Redis, then the other nodes (see `Backend.attempt`)."""
        attempt = await self._table.take(
            chat_id, key, fingerprint=fingerprint, retry_unknown=retry_unknown, patience=self._patience
        )
        if attempt.state != "new":
            return attempt
        attempt.token = secrets.token_hex(8)
        try:
            return await self._decide(attempt, Case(resent=resent, retry_unknown=retry_unknown))
        except BaseException:
            self._table.forget(attempt)
            raise

    def done(self, attempt: Attempt, receipt: Receipt) -> None:
        """Settle an attempt here, whose message is saved; the script `publish` does so in Redis."""
        self._table.settle(attempt, "done", receipt)

    async def release(self, attempt: Attempt) -> None:
        """End an attempt that has saved nothing, here and in Redis."""
        self._table.release(attempt)
        await self._end_or_owe(attempt, "release")

    async def abandon(self, attempt: Attempt) -> None:
        """Leave an attempt as unknown here and in Redis."""
        self._table.settle(attempt, "unknown")
        await self._end_or_owe(attempt, "unknown")

    async def end(self, link: Link, attempt: Attempt, verdict: str) -> None:
        """Tell Redis how an attempt without a message ended. Raises LinkError or RedisError."""
        await scripts.SETTLE(
            link,
            [attempt_key(self._links.names, attempt)],
            attempt.token,
            verdict,
            self._lifetime,
            attempt.fingerprint,
        )

    async def note(self, link: Link, attempt: Attempt, receipt: Receipt) -> None:
        """Tell Redis that an attempt's message was published. Raises LinkError or RedisError."""
        mark = f":{attempt.fingerprint}" if attempt.fingerprint else ""
        done = f"done{mark} {receipt.cursor} {receipt.id}"
        await link.call("SET", attempt_key(self._links.names, attempt), done, "EX", self._lifetime)

    def tell(self) -> None:
        """Tell Redis, which was away, of the attempts that are under way."""
        link = self._links.commands
        for attempt in self._table.under_way():
            if attempt.token and link is not None:
                told = asyncio.ensure_future(self._call(link, attempt, retry_unknown=True))
                self._told.add(told)
                told.add_done_callback(self._was_told)

    def _was_told(self, told: asyncio.Future[str]) -> None:
        self._told.discard(told)
        if not told.cancelled():
            told.exception()  # the link has gone again: the next one is told

    @property
    def _alone(self) -> bool:
        """Whether this node can't ask Redis, or Redis may not have heard yet what others have to tell."""
        return self._links.commands is None or time.monotonic() < self._links.found_at + SETTLING

    async def _decide(self, attempt: Attempt, case: Case) -> Attempt:
        """Ask Redis, and where it has to be the nodes, until `decide` has an answer."""
        deadline, pause = time.monotonic() + self._patience, FIRST_POLL
        while True:
            record = await self._reserve(attempt, case, deadline)
            case = replace(case, backend=record.state, expired=time.monotonic() > deadline)
            decision = decide(case)
            if decision is Decision.ASK_NODES:
                nodes, receipt = await self._known_elsewhere(attempt)
                case, record = replace(case, nodes=nodes), record._replace(receipt=receipt)
                decision = decide(case)
            if decision is not Decision.WAIT:
                return await self._conclude(attempt, decision, record)
            case = replace(case, seen_pending=True)
            await asyncio.sleep(pause)
            pause = min(LONGEST_POLL, pause * 2)

    async def _conclude(self, attempt: Attempt, decision: Decision, record: _Record) -> Attempt:
        """Answer a decision, and undo what this node has reserved unless it saves the message."""
        if decision is Decision.SAVE:
            if record.why:
                log.warning("attempt is only known here", chat=attempt.chat_id, why=record.why)
            return attempt
        reserved = record.state in ("none", "released")
        answer = Attempt(attempt.chat_id, attempt.key, _ANSWERS[decision], record.receipt)
        if decision is Decision.UNKNOWN:
            self._table.settle(attempt, "unknown")
            if reserved:
                await self._end_or_owe(attempt, "unknown")
            return answer
        self._table.forget(attempt)
        if reserved:
            await self._end_or_owe(attempt, "forget")
        elif record.why:  # Redis may have noted it all the same
            self._owe(Owed(attempt.chat_id, None, attempt, "forget"))
        if decision is Decision.DONE:
            self._table.settle(attempt, "done", record.receipt)
        return answer

    async def _reserve(self, attempt: Attempt, case: Case, deadline: float) -> _Record:
        """Reserve the key in Redis, and tell what was known of it there before."""
        if case.resent and not (case.retry_unknown or case.seen_pending) and self._alone:
            return _Record("unavailable")
        while (link := self._links.commands) is not None:
            try:
                state, *rest = (await self._call(link, attempt, retry_unknown=case.retry_unknown)).split(" ")
            except (LinkError, RedisError) as error:
                if self._links.doubt(error):
                    continue  # an outage like any other
                late = case.seen_pending or time.monotonic() > deadline
                broken = isinstance(error, LinkError) and not late
                if broken and await self._links.commands_after(link, AGAIN):
                    continue
                return _Record("unavailable", why=str(error))
            if state == "done":
                cursor, _, saved = " ".join(rest).partition(" ")
                return _Record("done", Receipt(saved, cursor, "published"))
            return _Record(_STATES[state])
        return _Record("unavailable")

    async def _known_elsewhere(self, attempt: Attempt) -> tuple[State | Literal["silent"], Receipt | None]:
        """Ask the nodes what they know of a message that was sent before and that Redis does not know.

        Redis may have been emptied, or one of the nodes cut off from it.
        """
        question = {"attempt": {"node": self._links.node, "chatId": attempt.chat_id, "key": attempt.key}}
        answers, complete = await self._ask(question)
        for answer in answers:
            match answer:
                case {"fingerprint": str(other)} if attempt.differs(other):
                    return "reused", None
                case {"state": "done", "id": str(saved), "cursor": str() | None as cursor}:
                    return "done", Receipt(saved, cursor, "published" if cursor else "local")
                case {"state": "new"}:
                    return "pending", None
                case {"state": "unknown"}:
                    return "unknown", None
        return "none" if complete else "silent", None

    def answer(self, question: Any) -> Any:
        """Tell another node what this one knows of an attempt; None to any other question."""
        match question:
            case {"attempt": {"node": str(node), "chatId": str(chat_id), "key": str(key)}}:
                known = None if node == self._links.node else self._table.known(chat_id, key)
                if known is not None:
                    receipt = known.receipt or Receipt("", None, "local")
                    return {
                        "state": known.state,
                        "id": receipt.id,
                        "cursor": receipt.cursor,
                        "fingerprint": known.fingerprint,
                    }
        return None

    async def _call(self, link: Link, attempt: Attempt, *, retry_unknown: bool) -> str:
        answer = await scripts.ATTEMPT(
            link,
            [attempt_key(self._links.names, attempt)],
            attempt.token,
            int(self._patience * 1000),
            self._lifetime,
            int(retry_unknown),
            attempt.fingerprint,
        )
        return str(answer.decode())

    async def _end_or_owe(self, attempt: Attempt, verdict: str) -> None:
        commands = self._links.commands
        if commands is not None:
            try:
                await self.end(commands, attempt, verdict)
                return
            except (LinkError, RedisError) as error:
                if isinstance(error, RedisError) and not self._links.doubt(error):
                    log.warning(
                        "attempt not settled, it is tried again", chat=attempt.chat_id, why=str(error)
                    )
        self._owe(Owed(attempt.chat_id, None, attempt, verdict))


def attempt_key(names: Names, attempt: Attempt) -> str:
    """The key under which Redis knows an attempt."""
    return names.key(attempt.chat_id, "attempt", attempt.key)


def whole(seconds: float) -> int:
    """Seconds as Redis takes them: whole, and at least one."""
    return max(1, round(seconds))
