"""Presence on several nodes over a network with every fault, on its own clock."""

from __future__ import annotations

import asyncio
import inspect
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar

from eclipse_ws.backends.base import Backend
from eclipse_ws.delivery.census import Census
from eclipse_ws.delivery.cluster import Cluster
from eclipse_ws.delivery.presence import Presence
from eclipse_ws.delivery.presence_notes import LISTED, Here
from eclipse_ws.delivery.presence_view import Came, Count, News, Roster, Went
from eclipse_ws.protocol import Event
from tests.delivery.world import Hurried

S = TypeVar("S")


class Seen:
    """What one session that watches a chat was told, all in all."""

    def __init__(self) -> None:
        self.news: list[News] = []
        self.users: dict[str, str] = {}
        self.count = 0
        self.is_crowd = False
        self.begun = False

    def take(self, news: News) -> None:
        """Take the next, as a client does."""
        self.news.append(news)
        if isinstance(news, Roster):
            assert len(news.users) == min(news.total, LISTED), news
            self.users = {user_id: here.role for user_id, here in news.users}
            self.count, self.is_crowd = news.total, news.total > LISTED
            self.begun = True
            return
        assert self.begun, f"{news} came before the roster"
        if isinstance(news, Count):
            assert self.is_crowd or news.total > LISTED, f"{news} without a crowd"
            assert news.total != self.count or not self.is_crowd, f"{news} says nothing"
            self.is_crowd, self.count = True, news.total
            return
        assert not self.is_crowd, f"{news} in a crowd"
        if isinstance(news, Came):
            assert self.users.get(news.user_id) != news.here.role, f"{news} says nothing"
            self.users[news.user_id] = news.here.role
        else:
            assert self.users.pop(news.user_id, None) == news.role, f"{news} of nobody"
        self.count = len(self.users)

    def went(self, user_id: str) -> bool:
        """Whether it was told that a user has gone."""
        return any(isinstance(each, Went) and each.user_id == user_id for each in self.news)


class Node:
    """A node with users and watchers; it stands for the backend's listener, and for the hub."""

    def __init__(self, backend: Backend, clock: Any) -> None:
        self.backend = backend
        self.cluster = Cluster(backend)
        self.presence = Presence(backend, self.cluster, clock)
        self.here: dict[str, dict[str, Here]] = defaultdict(dict)
        self.seen: dict[str, Seen] = {}
        self.census: Census | None = None
        self.counted: list[str] = []  # chats of which the census has told that they may have changed
        self.clock = clock
        self.dead = False

    async def start(self) -> Node:
        """Begin."""
        self.presence.start(self)
        await self.backend.start(self)
        return self

    async def close(self) -> None:
        """Its sessions end, and so does it."""
        for chat_id in list(self.here):
            self.here.pop(chat_id)
            self.presence.changed(chat_id)
        await self.presence.close()
        await self.cluster.close()
        await self.backend.close()

    async def kill(self) -> None:
        """It is gone without a word."""
        self.dead = True
        backend: Any = self.backend
        backend.send = self._never
        await self.presence.close()
        await self.cluster.close()
        await self.backend.close()

    async def _never(self, note: bytes, address: str = "") -> int:
        return 0

    # -- sessions ---------------------------------------------------------------------------------

    def come(self, chat_id: str, user_id: str, role: Any = "user") -> None:
        """A user has a session here, or another role."""
        self.here[chat_id][user_id] = Here(role, 1000 + self.clock())
        self.presence.changed(chat_id)

    def go(self, chat_id: str, user_id: str) -> None:
        """A user has none any more."""
        if self.here[chat_id].pop(user_id, None) is not None:
            self.presence.changed(chat_id)

    def watch(self, chat_id: str) -> Seen:
        """A session watches a chat."""
        if chat_id not in self.seen:
            self.seen[chat_id] = Seen()
            self.presence.watch(chat_id)
            roster = self.presence.roster(chat_id)
            if roster is not None:
                self.seen[chat_id].take(roster)
        return self.seen[chat_id]

    def count(self) -> None:
        """Take the census."""
        if self.census is None:
            self.census = self.presence.take_census(self.counted.append)

    def stop_counting(self) -> None:
        """Take it no longer."""
        self.census = None
        self.presence.end_census()

    def unwatch(self, chat_id: str) -> None:
        """No session watches a chat."""
        if self.seen.pop(chat_id, None) is not None:
            self.presence.unwatch(chat_id)

    # -- the hub ----------------------------------------------------------------------------------

    def occupied(self) -> list[str]:
        """See `Audience`."""
        return list(self.here)

    def users(self, chat_id: str) -> Mapping[str, Here]:
        """See `Audience`."""
        return self.here[chat_id]

    def present(self, chat_id: str, news: News) -> None:
        """See `Audience`."""
        self.seen[chat_id].take(news)

    # -- the backend's listener -------------------------------------------------------------------

    def notice(self, raw: bytes) -> None:
        """See `Listener`."""
        note = None if self.dead else self.cluster.read(raw)
        if note is not None and note.presence is not None:
            self.presence.hear(note.presence)

    def restored(self) -> None:
        """See `Listener`."""
        if not self.dead:
            self.presence.restored()

    def lost(self, chat_ids: Iterable[str] | None = None) -> None:
        """See `Listener`."""

    def deliver(self, chat_id: str, event: Event) -> None:
        """See `Listener`."""

    def receive(self, chat_id: str, raw: bytes) -> None:
        """See `Listener`."""


def truth(nodes: list[Node], chat_id: str) -> dict[str, str]:
    """Who is really in a chat."""
    found: dict[str, Here] = {}
    for node in nodes:
        for user_id, here in node.here[chat_id].items():
            found[user_id] = here.merged(found[user_id]) if user_id in found else here
    return {user_id: here.role for user_id, here in found.items()}


def played_on(stage: Callable[[], S]) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., None]]:
    """Makes tests that get a new stage, and fixtures, and run in a hurried loop."""

    def decorate(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
        def run(**given: Any) -> None:
            async def play() -> None:
                await test(stage(), **given)
                for task in asyncio.all_tasks() - {asyncio.current_task()}:
                    task.cancel()

            with asyncio.Runner(loop_factory=Hurried) as runner:
                runner.run(play())

        run.__name__, run.__doc__ = test.__name__, test.__doc__
        fixtures = list(inspect.signature(test).parameters.values())[1:]
        run.__signature__ = inspect.Signature(fixtures)  # type: ignore[attr-defined]
        return run

    return decorate


async def settled(condition: Any, what: object = "") -> None:
    """Wait, on a hurried clock, until something is so."""
    for _ in range(400):
        if condition():
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"not so: {what or condition}")
