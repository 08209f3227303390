"""What nodes tell each other about presence: the notes, and the users of a chat on one node."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from heapq import nsmallest
from typing import Annotated, Final

import msgspec

from eclipse_ws.protocol import RANKED, SHOWN, PresentRole
from eclipse_ws.security.jwt import is_name

LISTED: Final = 100
"""Users of a chat that are named, on each node and to clients; of more, the count is told."""
MAX_CHATS: Final = 500
"""Chats of one note."""
MAX_BYTES: Final = 300_000
"""Bytes of one note after which another begins; the last chat may add `LISTED` users of 1,100 bytes."""

_RANKS: Final = [SHOWN[role] for role in RANKED]

_Name = Annotated[str, msgspec.Meta(max_length=100)]
_Chats = Annotated[list[str], msgspec.Meta(max_length=MAX_CHATS)]
_Number = Annotated[int, msgspec.Meta(ge=0)]


class Here(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A user who is in a chat: as what, and since when (seconds since 1970)."""

    role: PresentRole
    since: Annotated[float, msgspec.Meta(ge=0)]

    def merged(self, other: Here) -> Here:
        """The same user by two accounts: the higher role, the earlier time."""
        return Here(min(self.role, other.role, key=_RANKS.index), min(self.since, other.since))


class Crowd(msgspec.Struct, array_like=True):
    """The users of a chat on one node: those who have been there longest, and how many there are."""

    users: Annotated[dict[str, Here], msgspec.Meta(max_length=LISTED)] = {}
    count: _Number = 0

    @classmethod
    def of(cls, users: Mapping[str, Here]) -> Crowd:
        """A node's users of a chat."""
        return cls(dict(longest(users)), len(users))

    def changes(self, told: Crowd) -> Change | None:
        """What has changed since this was told; None if nothing has."""
        found: dict[str, Here | None] = dict.fromkeys(told.users.keys() - self.users.keys())
        for user_id, here in self.users.items():
            known = told.users.get(user_id)
            if known is None or known.role != here.role:
                found[user_id] = here
        return Change(found, self.count) if found or self.count != told.count else None

    def changed(self, change: Change) -> Crowd:
        """The users after a change."""
        users = {
            **self.users,
            **{user_id: here for user_id, here in change.users.items() if here is not None},
        }
        for user_id, here in change.users.items():
            if here is None:
                users.pop(user_id, None)
        listed = dict(longest(users))
        # Where the users before are not known yet, fewer are named than there are; those will be told.
        return Crowd(listed, max(change.count, LISTED) if len(listed) == LISTED else len(listed))


class Change(msgspec.Struct, array_like=True):
    """Users who have come or whose role is another (None: who have gone), and how many there are now."""

    users: Annotated[dict[str, Here | None], msgspec.Meta(max_length=2 * LISTED)]
    count: _Number


def longest(users: Mapping[str, Here]) -> list[tuple[str, Here]]:
    """The users who have been there longest, at most `LISTED`, the longest first."""
    return nsmallest(LISTED, users.items(), key=lambda user: (user[1].since, user[0]))


class PresenceNote(msgspec.Struct, omit_defaults=True):
    """What a node says about presence.

    ``node`` is the sending process, whatever its address is at the moment. ``at`` counts its notes in the
    order in which they were made, and ``last`` is the newest note of its stream before this one. Its
    ``stream`` goes to all nodes and has the chats that it watches or no longer does, and the changes of its
    users in chats that others watch. All other notes go to one node, except ``hello`` and ``bye``.
    """

    node: _Name
    at: _Number
    last: _Number
    address: _Name = ""
    stream: bool = False
    watch: _Chats = []
    unwatch: _Chats = []
    changes: dict[str, Change] = {}
    hello: bool = False
    """Asks for any note, as a sign of life."""
    bye: bool = False
    """The node ends."""
    ask: bool = False
    """Asks for everything: ``parts`` notes with all chats that the receiver watches, and its users in those
    that the sender watches.
    """
    fresh: bool = False
    """With ``ask``: the node knew nothing of the receiver, and may have told it nothing for a while."""
    census: bool | None = None
    """Of its stream, and of what answers ``ask``: whether the node has to hear of the users in all chats;
    None: as before.
    """
    complete: bool = False
    """Of what answers ``ask``: these are the node's users in all chats."""
    here: dict[str, Crowd] = {}
    """The node's users in chats of the receiver: all of them, whatever was said before."""
    answers: _Number = 0
    """The newest note of the receiver's stream whose watched chats this answers."""
    part: _Number = 0
    parts: _Number = 0

    def is_sound(self) -> bool:
        """Whether all ids in it are valid."""
        chats = (*self.watch, *self.unwatch, *self.changes, *self.here)
        users: list[Iterable[str]] = [each.users for each in self.changes.values()]
        users += [each.users for each in self.here.values()]
        return all(map(is_name, chats)) and all(is_name(user_id) for some in users for user_id in some)


def size(chat_id: str, crowd: Crowd | Change | None = None) -> int:
    """Bytes of a note that a chat takes at most."""
    users = () if crowd is None else crowd.users
    return 4 * len(chat_id) + 30 + sum(4 * len(user_id) + 60 for user_id in users)


def batches(chats: Iterable[tuple[str, Crowd | None]]) -> Iterator[list[tuple[str, Crowd | None]]]:
    """Chats, with the users to be told or without, in lists that fit into a note each."""
    batch: list[tuple[str, Crowd | None]] = []
    room = MAX_BYTES
    for chat_id, crowd in chats:
        batch.append((chat_id, crowd))
        room -= size(chat_id, crowd)
        if len(batch) == MAX_CHATS or room <= 0:
            yield batch
            batch, room = [], MAX_BYTES
    if batch:
        yield batch
