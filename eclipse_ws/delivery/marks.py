"""Marks of chats on this node: how far users have read, and who is banned."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple

from eclipse_ws.backends.base import Backend, Unavailable
from eclipse_ws.backends.marks import Mark, current
from eclipse_ws.config.settings import Settings
from eclipse_ws.delivery.chat_marks import ChatMarks
from eclipse_ws.delivery.cluster import Cluster, Note
from eclipse_ws.delivery.subscriber import Subscriber
from eclipse_ws.delivery.subscriptions import Subscriptions
from eclipse_ws.protocol import SHOWN, Cursor, PresentRole
from eclipse_ws.protocol.events import identity

READ_SECONDS: Final = 86400.0
"""How long a read position is kept at least, in seconds: as long as an untouched chat's own position."""
_READ, _BAN = "read:", "ban:"
_ROLES: Final[dict[str, PresentRole]] = {role: role for role in SHOWN.values()}


class UnknownMessageError(Exception):
    """Nobody can say where in its chat a message is."""


class ReadPosition(NamedTuple):
    """How far a user has read; ``role`` in lower case."""

    user_id: str
    role: PresentRole
    message_id: str

    @classmethod
    def of(cls, name: str, mark: Mark) -> ReadPosition | None:
        """The position that a mark stands for; None if it stands for something else."""
        shown, _, message_id = mark.value.partition(" ")
        role = _ROLES.get(shown)
        return cls(name.removeprefix(_READ), role, message_id) if name.startswith(_READ) and role else None


class Ban(NamedTuple):
    """Whom a chat refuses, until when (seconds since 1970; in the past: no longer), and why."""

    user_id: str
    until: float
    reason: str

    @classmethod
    def of(cls, name: str, mark: Mark) -> Ban | None:
        """The ban that a mark stands for; None if it stands for something else."""
        if not name.startswith(_BAN):
            return None
        return cls(name.removeprefix(_BAN), mark.expires, mark.value)


class Marks:
    """Reads and bans. Chats that this node hears have theirs in memory, so that looking costs nothing."""

    def __init__(
        self,
        settings: Settings,
        backend: Backend,
        subscriptions: Subscriptions,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._backend = backend
        self._subscriptions = subscriptions
        self._clock = clock
        self._lifetime = max(READ_SECONDS, settings.history_seconds)
        self.heard: Callable[[str, ReadPosition], None] | None = None
        """Hears how far users have read in any chat, on any node. It must not block."""
        self._subscriber: Subscriber

    def start(self, subscriber: Subscriber) -> None:
        """Begin; changes are told to the subscriber."""
        self._subscriber = subscriber

    async def read(self, chat_id: str, position: ReadPosition, given: Cursor | None = None) -> bool:
        """Note that a user has read a chat up to a message. Costs the backend one command, or none.

        ``given`` is the newest cursor that the user's client had when it showed the message, for one that
        this node doesn't know. Returns whether that is new: a position that isn't later than the one that is
        kept changes nothing, nor does the first one of a user in a chat that has `MAX_MARKS` already.
        Raises UnknownMessageError, or Unavailable.
        """
        cursor = self.cursor_of(chat_id, position.message_id, given)
        now = self._clock()
        value = f"{position.role} {position.message_id}"
        mark = Mark(value, now + self._lifetime, cursor)
        name = _READ + position.user_id
        chat = self._subscriptions.get(chat_id)
        marks = None if chat is None else chat.marks
        if marks is not None and not (
            mark.follows(marks.known.get(name)) and marks.has_room(name, mark, now)
        ):
            return False
        return await self._mark(chat_id, name, mark)

    def cursor_of(self, chat_id: str, message_id: str, given: Cursor | None) -> Cursor:
        """The cursor that stands for a message: its own if this node knows it, else a client's (see `read`).

        Raises UnknownMessageError, or Unavailable if this node doesn't know where the chat is.
        """
        chat = self._subscriptions.get(chat_id)
        at = None if chat is None else chat.position
        if chat is None or at is None:
            raise Unavailable("the chat's position isn't known now")
        cursor = chat.cursor_of(identity("message", message_id))
        if cursor is None or cursor.epoch != at.epoch:
            cursor = given
        if cursor is None or cursor.epoch != at.epoch or not 0 < cursor.offset <= at.offset:
            raise UnknownMessageError
        return cursor

    def is_later(self, chat_id: str, user_id: str, cursor: Cursor) -> bool:
        """Whether a position is later than what this node knows of a user's."""
        chat = self._subscriptions.get(chat_id)
        known = None if chat is None or chat.marks is None else chat.marks.known.get(_READ + user_id)
        return Mark("", 0, cursor).follows(known)

    def positions(self, chat_id: str) -> list[ReadPosition]:
        """How far the users of a chat have read.

        Nobody while this node may have missed something, or a session that comes from another node would see
        somebody go back: all positions are told to the subscriber once they are certain.
        """
        chat = self._subscriptions.get(chat_id)
        if chat is not None and not chat.live:
            chat.marks = chat.marks or ChatMarks()
            chat.marks.untold = True
            return []
        marks = {} if chat is None or chat.marks is None else current(chat.marks.known, self._clock())
        found = (ReadPosition.of(name, mark) for name, mark in marks.items())
        return [position for position in found if position is not None]

    async def ban(self, chat_id: str, ban: Ban) -> bool:
        """Have every node refuse a user in a chat; an end in the past lifts the ban.

        False if the chat has too many bans. Raises Unavailable.
        """
        return await self._mark(chat_id, _BAN + ban.user_id, Mark(ban.reason, ban.until))

    def ban_of(self, chat_id: str, user_id: str) -> Ban | None:
        """The ban of a user in a chat that this node hears; None if there is none."""
        chat = self._subscriptions.get(chat_id)
        mark = None if chat is None or chat.marks is None else chat.marks.known.get(_BAN + user_id)
        return Ban(user_id, mark.expires, mark.value) if mark and mark.expires > self._clock() else None

    def notice(self, marked: list[str]) -> None:
        """Take a mark that a node has set: the chat's id, the mark's name, and its text."""
        chat_id, name, text = marked
        chat, mark = self._subscriptions.get(chat_id), Mark.parse(text)
        if mark is not None and self.heard is not None and (read := ReadPosition.of(name, mark)) is not None:
            self.heard(chat_id, read)
        if chat is None or mark is None:
            return
        if chat.marks is None:
            chat.marks = ChatMarks()
        if chat.marks.note(name, mark, self._clock(), loading=chat.subscribing):
            self._subscriber.marked(chat_id, name, mark)

    async def _mark(self, chat_id: str, name: str, mark: Mark) -> bool:
        note = Cluster.encode(Note(marked=[chat_id, name, mark.text]))
        return await self._backend.mark(chat_id, name, mark, note)
