"""One chat on this node: which events are delivered, in which order, and where a gap is."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from enum import Enum, auto
from typing import Final

from eclipse_ws.backends.base import Position
from eclipse_ws.delivery.chat_marks import ChatMarks
from eclipse_ws.delivery.identities import Budget, Identities
from eclipse_ws.protocol import Cursor, Event, deleted_id, deletion_of, has_content_of, without_deleted

EARLIER_EPOCHS: Final = 4
"""Epochs of a chat that are remembered after they have ended."""


class Heard(Enum):
    """What became of a sequenced event."""

    DELIVERED = auto()
    DUPLICATE = auto()
    GAP = auto()
    """Events before it are missing: the chat has to be subscribed to again."""
    BEHIND = auto()
    """Its place has passed, and it isn't known to have been delivered there: subscribe again, too."""
    WAITING = auto()
    """The chat is being subscribed."""


class Loss(Enum):
    """Whether an event is lost, so that the next subscription has to begin a new epoch."""

    NONE = auto()
    SHARED = auto()
    """Every node has lost it: the first one that subscribes in this epoch begins another."""
    OWN = auto()
    """Only this node knows of it, or the epoch is over: this node begins another in any case."""


class Chat:
    """A chat's position on this node, and the events that wait for it.

    A chat is *live* when its position is known and everything up to it was delivered; only then are events
    delivered as they come. Until then they wait, at most twice ``limit`` of them. If there are more, the
    oldest are dropped; this leaves a gap, and the backend is asked for the missing events.
    """

    __slots__ = (
        "again",
        "budget",
        "chat_id",
        "deliver",
        "earlier",
        "expires",
        "had",
        "held",
        "identity",
        "leaving",
        "limit",
        "live",
        "local",
        "loss",
        "marks",
        "members",
        "position",
        "ready",
        "refusals",
        "resuming",
        "subscribing",
        "tail",
        "unsure",
        "waiting",
    )

    def __init__(
        self, chat_id: str, limit: int, deliver: Callable[[str, Event], None], budget: Budget
    ) -> None:
        self.chat_id = chat_id
        self.limit = limit
        self.budget = budget
        self.deliver = deliver
        self.position: Cursor | None = None
        self.identity = ""  # of the event at the position, if it is known
        self.earlier: tuple[str, ...] = ()  # epochs that have ended, the last few
        self.live = False
        self.loss = Loss.NONE
        self.held = False  # sessions got events that other nodes lost: deliver nothing before the renewal
        self.subscribing = False
        self.again = False  # the answer that the backend is about to give may be out of date
        self.leaving = False
        self.members = True  # sessions are in the chat; without, it lingers until `expires`
        self.unsure = False  # sessions were greeted before the position was known
        self.refusals = 0  # subscriptions that the backend has refused in a row
        self.expires = 0.0
        self.ready: asyncio.Future[None] | None = None
        self.had: Identities | None = None  # events that its sessions had
        self.local: dict[str, Event] | None = None  # local copies by identity, until they are sequenced
        self.marks: ChatMarks | None = None
        self.resuming = 0  # sessions whose history is being read
        self.tail: deque[Event] | None = None  # what was delivered since the first of them began
        self.waiting: deque[Event] | None = None

    @property
    def epoch(self) -> str:
        """The epoch of its position; "" where that isn't known."""
        return "" if self.position is None else self.position.epoch

    def hear(self, event: Event, cursor: Cursor) -> Heard:
        """Take a sequenced event: deliver it if it is the next one."""
        at = self.position
        if not self.live or at is None:
            (self.wait_for(()) if self.waiting is None else self.waiting).append(event)
            return Heard.WAITING
        if cursor.epoch == at.epoch:
            if cursor.offset == at.offset + 1:
                self._advance(event, cursor)
                return Heard.DELIVERED
            if cursor.offset <= at.offset:
                if self.had is not None and self.had.has(event.identity, cursor):
                    return Heard.DUPLICATE
                self.live = False
                return Heard.BEHIND
        self.live = False
        self.wait_for((event,))
        return Heard.GAP

    def wait_for(self, events: Iterable[Event]) -> deque[Event]:
        """Keep events until `catch_up` says where they belong."""
        self.waiting = deque(events, maxlen=2 * self.limit)
        return self.waiting

    def catch_up(
        self, position: Position, missed: Sequence[Event] | None, before: Collection[Event] = ()
    ) -> tuple[list[Event], list[Event]]:
        """Deliver the ``missed`` events (None: they are not available), and go live at a position.

        Then the waiting events are delivered as long as each follows the one before. ``before``: the events
        that were already waiting when the backend was asked for the position. Returns the events after a gap,
        and the forged ones: those in ``before`` that the backend doesn't know.
        """
        for event in missed or ():
            if event.cursor is not None:
                self._advance(event, event.cursor)
        if self.position is not None and self.position.epoch != position.cursor.epoch:
            self.earlier = (*self.earlier[1 - EARLIER_EPOCHS :], self.position.epoch)
        self.position, self.identity = position
        self.live = True
        waiting, self.waiting = self.waiting, None
        left, forged = [], []
        for event in waiting or ():
            cursor, at = event.cursor, self.position
            if cursor is None or (cursor.epoch == at.epoch and cursor.offset <= at.offset):
                continue
            if event in before:
                forged.append(event)
            elif cursor == (at.epoch, at.offset + 1):
                self._advance(event, cursor)
            else:
                left.append(event)
        return left, forged

    def note(self, identity: str, cursor: Cursor) -> None:
        """Remember that sessions of this node have had a sequenced event."""
        if self.position is None or self.position.epoch == cursor.epoch:
            self._remembered().note(identity, cursor)

    def has_seen(self, identity: str) -> bool:
        """Whether an event was delivered here, with or without a cursor."""
        return self.cursor_of(identity) is not None or self._has_copy(identity)

    def cursor_of(self, identity: str) -> Cursor | None:
        """The cursor with which an event was delivered here."""
        return None if self.had is None else self.had.cursor_of(identity)

    def deliver_locally(self, event: Event) -> Cursor | None:
        """Deliver a local copy, unless the event was delivered before; its cursor if it had one.

        What has the content of a message whose deletion was delivered is not delivered.
        """
        identity = event.identity
        if not self.has_seen(identity) and not self.has_seen(deletion_of(event)):
            self._drop_deleted(event)
            if self.local is None:
                self.local = {}
            self.local[identity] = event
            self.deliver(self.chat_id, event)
        return self.cursor_of(identity)

    def settle(self, identity: str, cursor: Cursor) -> None:
        """Note an event's cursor in the backend: up to the position it is no longer a local copy."""
        at = self.position
        if at is not None and (cursor.epoch != at.epoch or cursor <= at):
            self.drop_copy(identity)

    def drop_copy(self, identity: str) -> None:
        """Stop giving a local copy to sessions that join."""
        if self.local is not None and self.local.pop(identity, None) is not None:
            self.local = self.local or None
            self._remembered().drop(identity)

    def _drop_deleted(self, event: Event) -> None:
        """Stop giving the content of a message that this event deletes to sessions that join."""
        if self.local is not None and (message_id := deleted_id(event)):
            for copy in list(self.local.values()):
                if has_content_of(copy, message_id):
                    self.drop_copy(copy.identity)

    def forget_copies(self) -> None:
        """Forget local copies: the sessions that got them are gone, so their events must be delivered."""
        self.local = None
        if self.had is not None:
            self.had.forget_dropped()

    def forget(self) -> None:
        """Forget which events it has delivered: this node no longer hears it."""
        if self.had is not None:
            self.had.forget()
        self.had, self.budget = None, Budget()  # a resume that still ends notes nothing for the node

    def begin_resuming(self) -> None:
        """Record what is delivered while a history is being read."""
        if self.tail is None:
            self.tail = deque(maxlen=self.limit)
        self.resuming += 1

    def end_resuming(self, after: Cursor, missed: Sequence[Event] | None) -> list[Event] | None:
        """The events after a cursor, up to the chat's position; None if they are not available.

        ``missed`` was read from the backend meanwhile. It may end before the position, if events were
        delivered since, or after it, if this node hasn't heard the last ones yet.
        """
        tail, self.resuming = self.tail or (), self.resuming - 1
        if not self.resuming:
            self.tail = None
        if missed is None:
            return None
        found = list(missed)
        if self.position is not None and self.position.epoch == after.epoch:
            last = missed[-1].cursor if missed else after
            found = [event for event in missed if event.cursor and event.cursor <= self.position]
            found += [event for event in tail if event.cursor and last and event.cursor > last]
            if len(found) != self.position.offset - after.offset:
                return None
        for event in found:
            self.drop_copy(event.identity)  # who joins resumes it
            if event.cursor and not self.has_seen(event.identity):
                self.note(event.identity, event.cursor)  # who resumes it must not get a copy as well
        return without_deleted(found)  # the history may be older than a deletion that was delivered since

    def is_ready(self) -> None:
        """Wake the tasks that wait for the chat to be live."""
        ready, self.ready = self.ready, None
        if ready is not None and not ready.done():
            ready.set_result(None)

    def _advance(self, event: Event, cursor: Cursor) -> None:
        self.position = cursor
        self.identity = event.identity
        self.note(event.identity, cursor)
        self._drop_deleted(event)
        if self.tail is not None:
            self.tail.append(event)
        if self._has_copy(event.identity):
            if self.local is not None:
                self.local.pop(event.identity, None)
                self.local = self.local or None
            if self.had is not None:
                self.had.forget_dropped(event.identity)
        else:
            self.deliver(self.chat_id, event)

    def _has_copy(self, identity: str) -> bool:
        """Whether sessions got a local copy of an event that is not sequenced yet."""
        if self.local is not None and identity in self.local:
            return True
        return self.had is not None and self.had.has_dropped(identity)

    def _remembered(self) -> Identities:
        if self.had is None:
            self.had = Identities(2 * self.limit, self.budget)
        return self.had
