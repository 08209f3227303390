"""This node's idempotency records: which messages are being saved, and who waits for the outcome."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Literal

import msgspec

from eclipse_ws.backends.base import Key, KeyState
from eclipse_ws.delivery.decisions import Case, Decision, decide
from eclipse_ws.protocol import Receipt


class Attempt(msgspec.Struct):
    """A try at saving a message under its key.

    ``new``: the caller saves the message, and then publishes it with this attempt, releases it, or abandons
    it. ``done``: it was saved before, ``receipt`` says what became of it. ``unknown``: nobody can know
    whether an earlier try has saved it. ``later``: that can't be known now, because the other nodes can't be
    asked, or this one has no room to remember it; nothing was begun. ``reused``: the key stands for another
    message.
    """

    chat_id: str
    key: Key
    state: Literal["new", "done", "unknown", "later", "reused"]
    receipt: Receipt | None = None


class _Entry:
    __slots__ = ("attempt", "expires", "released", "settled")

    def __init__(self, attempt: Attempt, expires: float, released: bool) -> None:
        self.attempt = attempt
        self.expires = expires
        self.released = released
        self.settled: asyncio.Future[None] | None = None

    def state(self, fingerprint: str) -> KeyState:
        """What this node knows of the key, for a message with this fingerprint."""
        if self.attempt.key.differs(fingerprint):
            return "reused"
        if self.released:
            return "released"
        match self.attempt.state:
            case "done" | "unknown" as settled:
                return settled
        return "pending"


_Place = tuple[str, str]  # chat and name of the key


SHARE: Final = 100
"""One chat may use a hundredth of the table, or this many entries of a small one."""


class Records:
    """A bounded table of (chat, key) -> attempt, whose entries live for ``lifetime`` seconds.

    At most ``limit`` are kept. If a chat has used up its share, or the table is full, the chat's own oldest
    settled entry is forgotten. An entry that is in progress, or another chat's, is kept, because its message
    could be saved twice: a new attempt without room is put off instead (``later``). If the records are kept
    in another place, too (``elsewhere``), the oldest settled entry of any chat makes room.
    """

    def __init__(
        self,
        lifetime: float,
        limit: int,
        clock: Callable[[], float] = time.monotonic,
        *,
        elsewhere: bool = False,
    ) -> None:
        self._lifetime = lifetime
        self._limit = limit
        self._share = max(SHARE, limit // SHARE)
        self._clock = clock
        self._elsewhere = elsewhere
        self._pending: OrderedDict[_Place, _Entry] = OrderedDict()
        self._settled: OrderedDict[_Place, _Entry] = OrderedDict()
        self._settled_of: dict[str, dict[str, None]] = {}  # each chat's keys, the oldest first

    def __len__(self) -> int:
        return len(self._pending) + len(self._settled)

    async def take(self, chat_id: str, key: Key, *, retry_unknown: bool, patience: float) -> Attempt:
        """Return the known outcome, wait for an attempt that is in progress, or begin a new one.

        ``later``: there is no room for a new one. Waits at most ``patience`` seconds; an attempt that
        outlives that is unknown.
        """
        deadline = self._clock() + patience
        while entry := self._live(chat_id, key.name):
            left = deadline - self._clock()
            case = Case(here=entry.state(key.fingerprint), retry_unknown=retry_unknown, expired=left <= 0)
            match decide(case):
                case Decision.REUSED:
                    return Attempt(chat_id, key, "reused")
                case Decision.DONE:
                    return entry.attempt
                case Decision.UNKNOWN:
                    return Attempt(chat_id, key, "unknown")
                case Decision.ASK_BACKEND:
                    break
            if entry.settled is None:
                entry.settled = asyncio.get_running_loop().create_future()
            # Shielded by wait(): one waiter's cancellation must not settle the others.
            await asyncio.wait([entry.settled], timeout=left)
        known = (chat_id, key.name) in self._settled
        if not known and not self._make_room(chat_id):
            return Attempt(chat_id, key, "later")
        attempt = Attempt(chat_id, key, "new")
        self._put(attempt)
        return attempt

    def known(self, chat_id: str, name: str) -> Attempt | None:
        """What is known of a key now, by its name; ``new`` while an attempt is in progress."""
        entry = self._live(chat_id, name)
        return None if entry is None or entry.released else entry.attempt

    def in_progress(self) -> list[Attempt]:
        """The attempts that are not settled yet."""
        return [entry.attempt for entry in self._pending.values()]

    def settle(
        self, attempt: Attempt, state: Literal["done", "unknown"], receipt: Receipt | None = None
    ) -> None:
        """Remember an outcome, ``done`` with its receipt, and wake the tasks that wait for it."""
        outcome = Attempt(attempt.chat_id, attempt.key, state, receipt)
        place = (attempt.chat_id, attempt.key.name)
        if place in self._pending or place in self._settled or self._make_room(attempt.chat_id):
            self._put(outcome)

    def release(self, attempt: Attempt) -> None:
        """End an attempt that has saved nothing: the next one for the same message is new."""
        self._put(attempt, released=True)

    def forget(self, attempt: Attempt) -> None:
        """Drop an attempt, so that the next one is new, for whatever message."""
        self._drop((attempt.chat_id, attempt.key.name))

    def _live(self, chat_id: str, name: str) -> _Entry | None:
        entry = self._pending.get((chat_id, name)) or self._settled.get((chat_id, name))
        if entry is not None and entry.expires <= self._clock():
            self._drop((chat_id, name))
            return None
        return entry

    def _make_room(self, chat_id: str) -> bool:
        """Whether the chat may have one more entry; forgets an older one if necessary."""
        now = self._clock()
        for table in (self._settled, self._pending):
            while table and table[oldest := next(iter(table))].expires <= now:
                self._drop(oldest)
        own = self._settled_of.get(chat_id)
        full = len(self) >= self._limit
        if own and (full or len(own) >= self._share):
            self._drop((chat_id, next(iter(own))))
        elif full and self._elsewhere and self._settled:
            self._drop(next(iter(self._settled)))
        elif full:
            return False
        return True

    def _put(self, attempt: Attempt, *, released: bool = False) -> None:
        place = (attempt.chat_id, attempt.key.name)
        self._drop(place)
        entry = _Entry(attempt, self._clock() + self._lifetime, released)
        if attempt.state == "new" and not released:
            self._pending[place] = entry
        else:
            self._settled[place] = entry
            self._settled_of.setdefault(attempt.chat_id, {})[attempt.key.name] = None

    def _drop(self, place: _Place) -> None:
        entry = self._pending.pop(place, None)
        if entry is None and (entry := self._settled.pop(place, None)) is not None:
            chat_id, key = place
            own = self._settled_of[chat_id]
            del own[key]
            if not own:
                del self._settled_of[chat_id]
        if entry is not None and entry.settled is not None and not entry.settled.done():
            entry.settled.set_result(None)
