"""What the application has to learn about who is in its chats: who is there, less what it was told."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from eclipse_ws.delivery.presence_notes import Here
from eclipse_ws.protocol import PresentRole
from eclipse_ws.protocol.reports import ReportType

HOLD: Final = 5.0
"""Seconds without a session on any node until a user counts as gone: so long a reload or a cut may take."""


class Turn(NamedTuple):
    """A change of a chat that the application has to be told. ``ago``: how many seconds ago it happened."""

    type: ReportType
    chat_id: str
    user_id: str = ""
    role: str = ""
    ago: float = 0.0


class Occupancy:
    """The users of whom the application knows, by their chats.

    A user::

        unknown ──is there──▶ told ──is nowhere──▶ leaving ──HOLD is over──▶ unknown
                                ▲                     │
                                └─────is there────────┘

    It looks at states, not at steps: what nobody has collected in time, because too much is waiting, is
    forgotten if it has passed, and what is true in the end is told.
    """

    def __init__(self, users: Callable[[str], Mapping[str, Here]]) -> None:
        """``users`` finds the users of a chat on all nodes."""
        self.told: dict[str, dict[str, PresentRole]] = {}
        """The occupied chats, with their users, as the application knows them once it has all turns."""
        self._users = users
        self._changed: dict[str, None] = {}
        self._leaving: dict[str, dict[str, float]] = {}
        """By chat and user, when they are gone."""
        self._due: list[tuple[float, str]] = []
        """A heap: when to look at a chat again."""

    def changed(self, chat_id: str) -> None:
        """Note that a chat may have other users than before."""
        self._changed[chat_id] = None

    @property
    def next_due(self) -> float | None:
        """When something will happen by itself."""
        return self._due[0][0] if self._due else None

    def collect(self, now: float, limit: int, is_full: Callable[[str], bool]) -> list[Turn]:
        """What has to be told: about ``limit`` turns, and none of chats of which too much is waiting.

        A chat's turns are in order.
        """
        while self._due and self._due[0][0] <= now:
            self.changed(heapq.heappop(self._due)[1])
        found: list[Turn] = []
        for chat_id in list(self._changed) if limit > 0 else ():
            if len(found) >= limit:
                break
            if not is_full(chat_id):
                del self._changed[chat_id]
                found += self._turns(chat_id, now)
        return found

    def _turns(self, chat_id: str, now: float) -> list[Turn]:
        here, told = self._users(chat_id), self.told.get(chat_id)
        leaving = self._leaving.pop(chat_id, {})
        found: list[Turn] = []
        if told is None:
            if not here:
                return []
            told = self.told[chat_id] = {}
            found.append(Turn("chat_occupied", chat_id))
        for user_id, user in sorted(here.items(), key=lambda each: (each[1].since, each[0])):
            if user_id not in told:
                told[user_id] = user.role
                found.append(Turn("user_joined", chat_id, user_id, user.role))
        still: dict[str, float] = {}
        for user_id in [user_id for user_id in told if user_id not in here]:
            until = leaving.get(user_id, now + HOLD)
            if until > now:
                still[user_id] = until
            else:
                found.append(Turn("user_left", chat_id, user_id, told.pop(user_id), now - until + HOLD))
        if still:
            self._leaving[chat_id] = still
            heapq.heappush(self._due, (min(still.values()), chat_id))
        if not told:
            found.append(Turn("chat_vacated", chat_id, ago=found[-1].ago))
            del self.told[chat_id]
        return found
