"""What the sessions of this node see of a chat's presence: the users of all nodes, merged."""

from __future__ import annotations

from typing import Final, NamedTuple

from eclipse_ws.delivery.presence_notes import LISTED, Change, Crowd, Here, longest
from eclipse_ws.protocol import PresentRole

GRACE: Final = 10.0
"""Seconds without a session on any node until a user counts as gone: so long a reload or a move may take."""
PAUSE: Final = 1.0
"""Seconds between two counts of a crowd."""
NOBODY: Final = Crowd()


class Came(NamedTuple):
    """A user is in the chat, or has another role now; ``since`` as in `Here`."""

    user_id: str
    here: Here


class Went(NamedTuple):
    """A user is no longer in the chat; as what they were there."""

    user_id: str
    role: PresentRole


class Count(NamedTuple):
    """How many users are in the chat, which is a crowd."""

    total: int


class Roster(NamedTuple):
    """The users who have been there longest, at most `LISTED`, and how many there are."""

    users: list[tuple[str, Here]]
    total: int


News = Came | Went | Count | Roster


class Sources:
    """A chat's users by their nodes."""

    __slots__ = ("at", "full_at", "sources")

    def __init__(self) -> None:
        self.sources: dict[str, Crowd] = {}
        """The users on each node, by the node."""
        self.at: dict[str, int] = {}
        """By node, the note that said so; see `PresenceNote.at`."""
        self.full_at: dict[str, int] = {}
        """By node, the note that named all of its users."""

    def put(self, node: str, crowd: Crowd, at: int = 0) -> None:
        """Note which users a node has."""
        self._set(node, crowd)
        self.at[node] = self.full_at[node] = at

    def change(self, node: str, change: Change, at: int) -> None:
        """Note how a node's users have changed."""
        self._set(node, self.sources.get(node, NOBODY).changed(change))
        self.at[node] = at

    def drop(self, node: str) -> None:
        """Forget a node."""
        for known in (self.sources, self.at, self.full_at):
            known.pop(node, None)

    def _set(self, node: str, crowd: Crowd) -> None:
        if crowd.users:
            self.sources[node] = crowd
        else:
            self.sources.pop(node, None)

    def merged(self) -> dict[str, Here]:
        """The users of all nodes."""
        found: dict[str, Here] = {}
        for crowd in self.sources.values():
            for user_id, here in crowd.users.items():
                found[user_id] = here.merged(found[user_id]) if user_id in found else here
        return found


class View(Sources):
    """A chat that sessions of this node watch.

    A user::

        absent ──a node has them──▶ present ──no node has them──▶ leaving ──GRACE is over──▶ absent
                                       ▲                             │
                                       └──────a node has them────────┘

    Only the first and the last step are told, and a role that changes. In a crowd nothing but the count is
    told, and when it ends a new roster. Nothing is told until the view is ``ready``: the other nodes have
    said who is there, or they had the time to.
    """

    __slots__ = (
        "_count",
        "_crowded",
        "_next",
        "_stale",
        "_unlisted",
        "leaving",
        "ready",
        "ready_by",
        "users",
    )

    def __init__(self, ready_by: float) -> None:
        super().__init__()
        self.users: dict[str, Here] = {}
        self.leaving: dict[str, float] = {}
        self.ready = False
        self.ready_by = ready_by
        self._unlisted = 0
        self._crowded = False
        self._count = 0  # that was told last
        self._next = 0.0  # from when on a crowd's count may be told
        self._stale = False  # it has changed since

    @property
    def is_due(self) -> bool:
        """Whether something will happen in it by itself."""
        return bool(self.leaving) or self._stale or not self.ready

    def roster(self) -> Roster:
        """Who is there."""
        return Roster(longest(self.users), len(self.users) + self._unlisted)

    def update(self, now: float, grace: float | None = None) -> list[News]:
        """Merge what the nodes have, and say what sessions have to hear of it.

        ``grace``: seconds for users whom no node has any more since the last update; None: as usual.
        """
        until = now + (GRACE if grace is None else grace)
        merged = self.merged()
        self._unlisted = sum(max(0, each.count - len(each.users)) for each in self.sources.values())
        news: list[News] = []
        for user_id, here in merged.items():
            self.leaving.pop(user_id, None)
            known = self.users.get(user_id)
            if known is not None and known.since < here.since:
                here = Here(here.role, known.since)  # noqa: PLW2901 - they have not been away
            self.users[user_id] = here
            if known is None or known.role != here.role:
                news.append(Came(user_id, here))
        for user_id in [user_id for user_id in self.users if user_id not in merged]:
            if self.leaving.setdefault(user_id, until) <= now:
                del self.leaving[user_id]
                news.append(Went(user_id, self.users.pop(user_id).role))
        return self._told(news, now) if self.ready else []

    def begin(self, now: float) -> Roster:
        """Be ready from now on. Returns what all sessions that watch have to hear first."""
        self.ready = True
        self.update(now)
        return self._begun(now)

    def _begun(self, now: float) -> Roster:
        roster = self.roster()
        self._count, self._crowded = roster.total, roster.total > LISTED
        self._next, self._stale = now + PAUSE, False
        return roster

    def _told(self, news: list[News], now: float) -> list[News]:
        count = len(self.users) + self._unlisted
        if not self._crowded and count <= LISTED:
            return news
        if self._crowded and now < self._next:
            self._stale = self._stale or bool(news) or count != self._count
            return []
        if count <= LISTED:
            return [self._begun(now)]
        self._stale = False
        if self._crowded and count == self._count:
            return []
        self._crowded, self._count, self._next = True, count, now + PAUSE
        return [Count(count)]
