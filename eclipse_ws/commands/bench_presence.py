"""The load test of presence: a watcher in each chat, and how soon it is told who comes and goes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from eclipse_ws.commands.bench_client import CONNECTING, BenchError, Progress, Session, Target, decoded
from eclipse_ws.commands.bench_report import Outcome, Presence
from eclipse_ws.delivery.presence_notes import LISTED

MOST_PER_CHAT = LISTED - 1
"""Sessions in each chat beside its watcher; in a crowd only the count is told."""
LIST_WAIT = 5.0
"""Seconds in which a watcher must have its list; a server that has presence takes at most 2."""
ONLINE_WAIT = 5.0
"""Seconds in which it must be told about those who have come."""
GONE_WAIT = 25.0
"""Seconds in which it must be told about those who have left; a server takes 10."""
SETTLE = 1.0
"""Further seconds in which it must not be told about reloads."""
RELOAD = 5.0
"""Seconds that a reload may take; a user who returns later is expected to be seen."""


class _Watcher(Session):
    """A session that asks for presence."""

    def __init__(self, outcome: Outcome, told: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(outcome)
        self.listed = False
        self._told = told

    def on_event(self, event: bytes) -> None:
        """Take a list, or a change."""
        if b'"type":"presence"' not in event:
            return
        data = decoded(event).get("data")
        if not isinstance(data, dict):
            return
        users = data.get("users")
        self.listed = self.listed or isinstance(users, list)
        for user in users if isinstance(users, list) else [data]:
            if isinstance(user, dict):
                self._told(user)


class Watching:
    """The watchers of a run, and what they were told about its sessions."""

    def __init__(self, target: Target) -> None:
        self.found = target.outcome.presence = Presence()
        self._target = target
        self._outcome = target.outcome
        self._watchers: list[_Watcher] = []
        self._sessions: dict[str, Session] = {}
        """Each user's first session."""
        self._online: set[str] = set()
        self._left: dict[str, float] = {}
        """When a user has left, until their watcher is told."""
        self._reloaded: set[str] = set()
        self._seen: set[str] = set()
        """Those whose reload was told."""
        self._returned: list[Session] = []

    async def begin(self, chat_ids: Sequence[str], progress: Progress) -> None:
        """Open a watcher in each chat. Raises BenchError if none is accepted, or none is told anything."""
        done = 0

        async def watch(number: int, chat_id: str) -> None:
            nonlocal done
            watcher = _Watcher(self._outcome, self._told)
            if await self._target.connect(watcher, chat_id, f"bench_watcher_{number}", "&events=presence"):
                self._watchers.append(watcher)
            done += 1
            progress("watchers", done, len(chat_ids))

        await asyncio.gather(*(watch(number, chat_id) for number, chat_id in enumerate(chat_ids)))
        if not self._watchers:
            raise self._target.refusal()
        self.found.watchers = len(chat_ids)
        await _until(lambda: all(watcher.listed for watcher in self._watchers), LIST_WAIT)
        self.found.listed = sum(watcher.listed for watcher in self._watchers)
        if not self.found.listed:
            raise BenchError(
                f"The server at {self._target.url} doesn't tell presence: no session that connected with "
                f"events=presence got the list of its chat's users within {LIST_WAIT:g} s. "
                "Fix: use a version that has presence, or leave out --presence."
            )

    def follow(self, session: Session, user_id: str) -> None:
        """Expect to be told about a user whose session is about to connect."""
        self._sessions[user_id] = session

    async def came(self) -> None:
        """Wait until the watchers have been told about everybody who has connected, for a bounded time."""
        accepted = {
            user_id
            for user_id, session in self._sessions.items()
            if session.ready.done() and not session.ready.cancelled()
        }
        self.found.came = len(accepted)
        await _until(lambda: accepted <= self._online, ONLINE_WAIT)

    async def leave(self, pairs: Iterable[tuple[Session, Session]], progress: Progress) -> None:
        """Reload the first session of each pair, close the second, and wait until watchers know of these."""
        pairs = [pair for pair in pairs if all(session.transport is not None for session in pair)]
        for start in range(0, len(pairs), CONNECTING):
            await asyncio.gather(*(self._reload(first) for first, _ in pairs[start : start + CONNECTING]))
            progress("reloading", start, len(pairs))
        for _, session in pairs:
            self._left[session.user_id] = time.perf_counter()
            session.end()
        self.found.left = len(pairs)

        def are_gone() -> bool:
            progress("leaving", len(pairs) - len(self._left), len(pairs))
            return not self._left

        await _until(are_gone, GONE_WAIT)
        await asyncio.sleep(SETTLE)
        self.found.seen = len(self._seen)
        progress("leaving", len(pairs), len(pairs))

    async def _reload(self, session: Session) -> None:
        user_id, began = session.user_id, time.perf_counter()
        self.found.reloads += 1
        self._reloaded.add(user_id)
        session.end()
        again = Session(self._outcome)
        self._returned.append(again)
        is_back = await self._target.connect(again, session.chat_id, user_id)
        if not is_back or time.perf_counter() - began > RELOAD:
            self._reloaded.discard(user_id)
            self.found.slow += 1

    def _told(self, user: dict[str, Any]) -> None:
        user_id, now = str(user.get("userId")), time.perf_counter()
        is_online = user.get("online", True)  # a list has no such member
        session = self._sessions.get(user_id)
        if session is None:  # a watcher
            return
        if is_online and user_id not in self._online:
            self._online.add(user_id)
            self.found.online.add(now - session.asked)
        elif not is_online and user_id in self._left:
            self.found.gone.add(now - self._left.pop(user_id))
        elif user_id in self._reloaded:
            self._seen.add(user_id)

    def end(self) -> None:
        """Close the watchers, and the sessions that have returned."""
        for session in [*self._watchers, *self._returned]:
            session.end()


async def _until(is_done: Callable[[], bool], seconds: float) -> None:
    deadline = time.perf_counter() + seconds
    while not is_done() and time.perf_counter() < deadline:  # noqa: ASYNC110 - as in `bench`
        await asyncio.sleep(0.01)
