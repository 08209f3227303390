"""Which events a node has delivered: digests of their identities, few bytes each, bounded for the whole node.

A cursor alone says whether a sequenced event was delivered: its offset is at most the chat's position. An
identity is needed for what comes without a cursor although the event has one: the application's own PUBLISH
of it, an append whose answer was lost, an item of the outbox that the backend has taken, and a local copy. It
also shows that a backend which went back in time has given an offset to another event.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from hashlib import blake2b
from typing import Final

import structlog

from eclipse_ws.protocol import Cursor

log = structlog.get_logger("eclipse_ws.delivery")

MAX_BYTES: Final = 1 << 25
"""What all chats of a node remember at most: 20,000 chats of 200 events each."""
OVERHEAD: Final = 400
"""Bytes that a chat which remembers anything takes beside its digests."""
DIGEST: Final = 8
"""Bytes that stand for an identity.

If two identities of a chat had the same digest, an event could be taken for one that was delivered, and be
lost. Nobody can look for two such identities without the key, and by chance it happens once in 2 ** 64 / 200
events that come without a cursor: at 10,000 of them a second, once in 290,000 years.
"""
_KEY: Final = secrets.token_bytes(16)


def _digest(identity: str) -> bytes:
    return blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=DIGEST, key=_KEY).digest()


def _find(digests: bytearray, digest: bytes) -> int:
    """The number of a digest; -1 if there is none."""
    at = digests.find(digest)
    while at >= 0 and at % DIGEST:
        at = digests.find(digest, at + 1)
    return at // DIGEST


class Budget:
    """Bounds what all chats of a node remember: the chat that has heard nothing for longest forgets first."""

    def __init__(self) -> None:
        self._chats: OrderedDict[Identities, int] = OrderedDict()  # with their bytes
        self.bytes = 0
        self.forgotten = 0
        """How many chats had to forget; a plain counter, read when metrics are scraped."""

    def charge(self, chat: Identities) -> None:
        """Note what a chat remembers now."""
        chats = self._chats
        size = chat.size
        self.bytes += size - chats.get(chat, 0)
        chats[chat] = size
        chats.move_to_end(chat)
        while self.bytes > MAX_BYTES:
            if not self.forgotten:  # one line; the metric has the rest
                log.warning("delivered events forgotten: too many chats are busy", limit=MAX_BYTES)
            self.forgotten += 1
            next(iter(chats)).forget()

    def release(self, chat: Identities) -> None:
        """Note that a chat remembers nothing any more."""
        self.bytes -= self._chats.pop(chat, 0)


class Identities:
    """What a chat remembers: the last ``limit`` sequenced events of one epoch, and as many dropped copies.

    The digests of sequenced events are in the order of their offsets, so that no cursor is kept. Those of
    earlier epochs are forgotten: the sessions that had their events were interrupted.
    """

    __slots__ = ("_budget", "_dropped", "_epoch", "_first", "_limit", "_sequenced")

    def __init__(self, limit: int, budget: Budget) -> None:
        self._limit = limit
        self._budget = budget
        self._epoch = ""
        self._first = 0  # the offset of the first digest
        self._sequenced = bytearray()  # zeros where an event is not known
        self._dropped = bytearray()  # the newest last

    @property
    def size(self) -> int:
        """Bytes."""
        return OVERHEAD + len(self._sequenced) + len(self._dropped)

    def forget(self) -> None:
        """Forget everything."""
        self._sequenced, self._dropped = bytearray(), bytearray()
        self._budget.release(self)

    # -- sequenced events -----------------------------------------------------------------------

    def note(self, identity: str, cursor: Cursor) -> None:
        """Remember a sequenced event; of another epoch than the last one, only this one."""
        epoch, offset = cursor
        digests, limit = self._sequenced, self._limit
        at, count = offset - self._first, len(digests) // DIGEST
        if epoch != self._epoch or not count or at >= count + limit:
            self._epoch, self._first = epoch, offset
            digests[:] = _digest(identity)
        elif at >= count:
            digests += bytes(DIGEST * (at - count)) + _digest(identity)
            if at >= limit:
                del digests[: DIGEST * (at + 1 - limit)]
                self._first += at + 1 - limit
        elif at >= 0:
            digests[DIGEST * at : DIGEST * (at + 1)] = _digest(identity)
        elif count - at <= limit:  # it was resumed: older than what was delivered
            digests[:0] = _digest(identity) + bytes(DIGEST * (-at - 1))
            self._first = offset
        else:
            return
        self._budget.charge(self)

    def cursor_of(self, identity: str) -> Cursor | None:
        """The cursor of a sequenced event; None if it isn't remembered."""
        at = _find(self._sequenced, _digest(identity)) if self._sequenced else -1
        return None if at < 0 else Cursor(self._epoch, self._first + at)

    def has(self, identity: str, cursor: Cursor) -> bool:
        """Whether this event is remembered at this place."""
        at = DIGEST * (cursor.offset - self._first)
        here = self._sequenced[at : at + DIGEST] if at >= 0 and cursor.epoch == self._epoch else b""
        return here == _digest(identity)

    # -- copies that joining sessions no longer get ---------------------------------------------

    def drop(self, identity: str) -> None:
        """Remember a local copy that is no longer kept for sessions that join."""
        self._dropped += _digest(identity)
        if len(self._dropped) > DIGEST * self._limit:
            del self._dropped[:DIGEST]
        self._budget.charge(self)

    def has_dropped(self, identity: str) -> bool:
        """Whether such a copy is remembered."""
        return bool(self._dropped) and _find(self._dropped, _digest(identity)) >= 0

    def forget_dropped(self, identity: str = "") -> None:
        """Forget such a copy; all of them without an identity."""
        at = DIGEST * _find(self._dropped, _digest(identity)) if identity else 0
        if self._dropped and at >= 0:
            del self._dropped[at : at + DIGEST if identity else None]
            self._budget.charge(self)
