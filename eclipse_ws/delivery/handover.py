"""Handover: other nodes take a stopping node's chats over, so that their continuity holds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

import structlog

from eclipse_ws.backends.base import Backend
from eclipse_ws.config.settings import Settings
from eclipse_ws.delivery.cluster import Cluster, Note
from eclipse_ws.delivery.subscriptions import Subscriptions
from eclipse_ws.delivery.tasks import Tasks

log = structlog.get_logger("eclipse_ws.delivery")

TIMEOUT: Final = 5.0
"""Seconds that other nodes have to take over a stopping node's chats."""
BATCH: Final = 250
"""Chats that are handed over in one note."""
TAKEN: Final = 2
"""Maximum chats taken over, per session of ``max_sessions``: a full node's, and as many that linger there."""
MAX_TAKING: Final = 1000
"""Maximum number of notes with chats to take over that are in progress at once."""


class Handover:
    """Hands this node's chats over, and takes other nodes' chats over."""

    def __init__(
        self, settings: Settings, backend: Backend, cluster: Cluster, subscriptions: Subscriptions
    ) -> None:
        self._backend = backend
        self._cluster = cluster
        self._subscriptions = subscriptions
        self._most = TAKEN * settings.max_sessions
        self._taken: set[str] = set()  # chats that were taken over, and that nobody has joined yet
        self._taking = Tasks()
        self._handed_over: set[str] = set()
        self._leaving = self._asked = False

    async def close(self) -> None:
        """Stop taking chats over."""
        await self._taking.close()

    def leave(self) -> None:
        """Take no more chats over."""
        self._leaving = True

    async def hand_over(self) -> int | None:
        """See `Delivery.hand_over`."""
        due = [chat_id for chat_id in self._subscriptions if chat_id not in self._handed_over]
        taken = await self._hand_over(due)
        if taken is None and not self._handed_over:
            return None
        self._handed_over |= taken or set()
        return len(self._handed_over)

    async def _hand_over(self, chat_ids: list[str]) -> set[str] | None:
        """Have other nodes take over these chats, in equal parts. Returns those that they hear by now.

        Asks two questions, and waits a bounded time for the answers to each. None if no other node takes any:
        a node that is stopping, too, takes none, and neither does one that doesn't answer.
        """
        asked, self._asked = self._asked, True
        self.leave()
        if self._backend.health.state != "up" or (asked and not chat_ids):
            return set()
        answers, _ = await self._cluster.ask(
            Note(who_takes=True), timeout=min(TIMEOUT, self._backend.timeout)
        )
        if not answers:  # not even this node's own: the question was lost
            return set()
        takers = [address for address in answers if isinstance(address, str) and address]
        if not takers:
            log.info("no other node takes the chats over", chats=len(chat_ids))
            return None
        batches = [chat_ids[at : at + BATCH] for at in range(0, len(chat_ids), BATCH)]
        outcomes = await asyncio.gather(
            *(
                self._cluster.ask(Note(take_over=batch), takers[number % len(takers)], TIMEOUT)
                for number, batch in enumerate(batches)
            )
        )
        taken: set[str] = set()
        for batch, (refused, _) in zip(batches, outcomes, strict=True):
            if refused and isinstance(refused[0], list):
                taken |= set(batch).difference(refused[0])
        log.info("chats handed over", chats=len(taken), of=len(chat_ids), nodes=len(takers))
        return taken

    def who_takes(self, note: Note) -> None:
        """Tell a node that is stopping whether this one takes chats over."""
        # A stopping node ignores its own answer, but it waits for one from every node.
        self._cluster.answer(note, None if self._leaving else self._backend.address)

    def take(self, note: Note, raw: bytes) -> None:
        """Begin to take a note's chats over, unless this node has begun to stop since it was asked."""
        if self._leaving:
            self._cluster.answer(note, note.take_over)
            return
        if len(self._taking) >= MAX_TAKING:
            self._cluster.drop(raw, f"{MAX_TAKING} notes are already in progress")
            return
        self._taking.start(self._take(note))

    async def _take(self, note: Note) -> None:
        self._cluster.answer(note, await self.take_over(note.take_over))

    async def take_over(self, chat_ids: Iterable[str]) -> list[str]:
        """Hear another node's chats, which linger here until a session joins. Returns those not heard yet.

        At most `TAKEN` × ``max_sessions`` of them linger at once, so that no peer can fill this node.
        """
        wanted, refused = [], []
        self._forget_joined()
        for chat_id in chat_ids:
            known = self._subscriptions.get(chat_id)
            if known is None and len(self._taken) >= self._most:
                refused.append(chat_id)
                continue
            chat = known or self._subscriptions.want(chat_id)
            self._subscriptions.stay(chat)
            if known is None:
                self._taken.add(chat_id)
            if known is None or not chat.members:
                self._subscriptions.linger(chat)
            wanted.append(chat)
        waiting = [self._subscriptions.readiness(chat) for chat in wanted if not chat.live]
        if waiting:
            # Half of it, so that the answer arrives before the other node stops waiting.
            await asyncio.wait(waiting, timeout=TIMEOUT / 2)
        if refused:
            log.warning("chats not taken over: too many linger", chats=len(refused), limit=self._most)
        return refused + [chat.chat_id for chat in wanted if not chat.live]

    def _forget_joined(self) -> None:
        """Stop counting chats as taken over that a session has joined or that have ended."""
        for chat_id in list(self._taken):
            chat = self._subscriptions.get(chat_id)
            if chat is None or chat.members:
                self._taken.discard(chat_id)
