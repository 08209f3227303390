"""The attempts that all nodes know of, through Redis; while that is away, this node's table is enough."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from redis.exceptions import RedisError

from eclipse_ws.backends.attempts import Attempts
from eclipse_ws.backends.base import Asker, Attempt
from eclipse_ws.backends.redis import scripts
from eclipse_ws.backends.redis.connection import Link, LinkError
from eclipse_ws.backends.redis.connections import LONGEST_PAUSE, Links
from eclipse_ws.backends.redis.names import Names
from eclipse_ws.backends.redis.outage import Owed
from eclipse_ws.config.settings import Settings
from eclipse_ws.protocol import Receipt

log = structlog.get_logger("eclipse_ws.redis")

AGAIN = 0.5
"""Seconds that an attempt waits for a link that breaks under it, before this node goes on alone."""
SETTLING = LONGEST_PAUSE + 0.5
"""Seconds after an outage by which every node has found Redis again, and told it of its attempts."""
FIRST_POLL, LONGEST_POLL = 0.05, 0.5
"""Seconds between looks at an attempt that another node has under way."""


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
        self, chat_id: str, key: str, *, fingerprint: str, again: bool, resent: bool, asker: Asker | None
    ) -> Attempt:
        """Ask this node's table first, then Redis (see `Backend.attempt`)."""
        attempt = await self._table.take(
            chat_id, key, fingerprint=fingerprint, again=again, patience=self._patience
        )
        if attempt.state != "new":
            return attempt
        attempt.token = secrets.token_hex(8)
        try:
            # Where an attempt may be repeated, nothing need be known of an earlier one.
            return await self._take_everywhere(attempt, again, resent and not again, asker)
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

    async def _withdraw(self, attempt: Attempt) -> None:
        """Take an attempt back without a word on earlier ones."""
        self._table.forget(attempt)
        await self._end_or_owe(attempt, "forget")

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
                told = asyncio.ensure_future(self._call(link, attempt, again=True))
                self._told.add(told)
                told.add_done_callback(self._was_told)

    def _was_told(self, told: asyncio.Future[str]) -> None:
        self._told.discard(told)
        if not told.cancelled():
            told.exception()  # the link has gone again: the next one is told

    def _waits(self, asker: Asker | None) -> bool:
        """Whether a sender may be repeating what it said on a node that this one can't ask now.

        That is one whose session is hardly older than the outage: it has just come from somewhere. It
        waits until Redis knows again what the others did, but for no longer than ``attempt_margin``
        after its session began: an outage of Redis is not an outage of chat.
        """
        if asker is None or asker.began < self._links.lost_at - self._margin:
            return False
        return self._alone and time.monotonic() <= asker.began + self._margin

    @property
    def _alone(self) -> bool:
        """Whether this node can't ask Redis, or Redis may not have heard yet what others have to tell."""
        return self._links.commands is None or time.monotonic() < self._links.found_at + SETTLING

    async def _go_alone(self, attempt: Attempt, resent: bool, asker: Asker | None, why: str = "") -> Attempt:
        """Answer without knowing what other nodes did: go on, or leave it to whoever is asked again.

        ``why`` the link failed under the question, which Redis may yet take for one of ours. While that was
        waited for, the sender may have lost patience, or its connection without our knowing.
        """
        there = asker is None or (await asker.is_alive(AGAIN) if why else not asker.gone)
        if there and not resent:
            if why:
                log.warning("attempt is only known here", chat=attempt.chat_id, why=why)
            return attempt
        self._table.forget(attempt)
        if why:
            self._owe(Owed(attempt.chat_id, None, attempt, "forget"))
        return Attempt(attempt.chat_id, attempt.key, "later")

    async def _take_everywhere(
        self, attempt: Attempt, again: bool, resent: bool, asker: Asker | None
    ) -> Attempt:
        deadline = time.monotonic() + self._patience
        pause, elsewhere = FIRST_POLL, False
        while time.monotonic() <= deadline:
            if resent and not elsewhere and self._alone:
                return await self._go_alone(attempt, resent, asker)
            if not elsewhere and self._waits(asker):
                await asyncio.sleep(FIRST_POLL)
                continue
            commands = self._links.commands
            if commands is None and not elsewhere:
                return await self._go_alone(attempt, resent, asker)
            verdict = "pending"  # where another node was at it, and Redis went away: that is all we know
            if commands is not None:
                try:
                    verdict, *rest = (await self._call(commands, attempt, again=again)).split(" ")
                except (LinkError, RedisError) as error:
                    linked = isinstance(error, LinkError)
                    if self._links.doubt(error):
                        continue  # an outage like any other
                    if not elsewhere:
                        back = linked and await self._links.commands_after(commands, AGAIN)
                        if not back and not (linked and self._waits(asker)):
                            return await self._go_alone(attempt, resent, asker, why=str(error))
                        if linked:
                            continue
            if verdict == "released":
                return attempt
            if verdict == "new":
                if elsewhere:
                    # Redis was emptied meanwhile, and has forgotten whoever was at it.
                    await self.abandon(attempt)
                    return Attempt(attempt.chat_id, attempt.key, "unknown")
                return await self._known_elsewhere(attempt, asker) if resent else attempt
            if verdict == "done":
                cursor, _, saved = " ".join(rest).partition(" ")
                receipt = Receipt(saved, cursor, "published")
                self._table.settle(attempt, "done", receipt)
                return Attempt(attempt.chat_id, attempt.key, "done", receipt)
            if verdict == "unknown":
                break
            if verdict == "reused":
                self._table.forget(attempt)
                return Attempt(attempt.chat_id, attempt.key, "reused")
            elsewhere = True
            await asyncio.sleep(pause)
            pause = min(LONGEST_POLL, pause * 2)
        self._table.settle(attempt, "unknown")
        return Attempt(attempt.chat_id, attempt.key, "unknown")

    async def _known_elsewhere(self, attempt: Attempt, asker: Asker | None) -> Attempt:
        """Ask the nodes of what was sent before and Redis knows nothing of.

        Redis may have been emptied, or one of the nodes cut off from it. That one gives no answer: a session
        that came lately then has to ask again.
        """
        chat_id, key = attempt.chat_id, attempt.key
        question = {"attempt": {"node": self._links.node, "chatId": chat_id, "key": key}}
        answers, complete = await self._ask(question)
        for answer in answers:
            match answer:
                case {"fingerprint": str(other)} if attempt.differs(other):
                    await self._withdraw(attempt)
                    return Attempt(chat_id, key, "reused")
                case {"state": "done", "id": str(saved), "cursor": str() | None as cursor}:
                    receipt = Receipt(saved, cursor, "published" if cursor else "local")
                    await self._withdraw(attempt)
                    self._table.settle(attempt, "done", receipt)
                    return Attempt(chat_id, key, "done", receipt)
                case {"state": "new"}:
                    await self._withdraw(attempt)
                    return Attempt(chat_id, key, "later")
                case {"state": "unknown"}:
                    await self.abandon(attempt)
                    return Attempt(chat_id, key, "unknown")
        if not complete and asker is not None and time.monotonic() < asker.began + self._patience:
            await self._withdraw(attempt)
            return Attempt(chat_id, key, "later")
        return attempt

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

    async def _call(self, link: Link, attempt: Attempt, *, again: bool) -> str:
        answer = await scripts.ATTEMPT(
            link,
            [attempt_key(self._links.names, attempt)],
            attempt.token,
            int(self._patience * 1000),
            self._lifetime,
            int(again),
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
