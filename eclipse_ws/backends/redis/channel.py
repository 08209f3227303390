"""One chat's channel as this node hears it: what is delivered, in which order, and what is a gap."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable
from enum import Enum, auto

from eclipse_ws.protocol import Cursor, Event, MalformedEventError, parse_event


def parse_events(bodies: Iterable[bytes] | None) -> list[Event] | None:
    """Read the events of a history, all of them; None if that can't be had."""
    try:
        return None if bodies is None else [parse_event(body) for body in bodies]
    except MalformedEventError:
        return None  # a server with wider limits has kept it


MOST_LEFT = 4
"""Epochs of a chat that are remembered after they were left."""


class Heard(Enum):
    """What became of a sequenced event that came over the channel."""

    DELIVERED = auto()
    DUPLICATE = auto()
    GAP = auto()  # it isn't the next one: the history has to be asked
    BEHIND = auto()  # another event was delivered at its place, or which one isn't known: the same
    WAITING = auto()  # the history is being asked already


class Channel:
    """A chat's position on this node, and the events that wait for it.

    A channel is *live* when its position is known and everything up to it was delivered; only then are
    events delivered as they come. Until then they wait, at most twice ``limit`` of them: of more, the oldest
    are dropped, which leaves a gap, and what doesn't follow is asked of the history.
    """

    __slots__ = (
        "broken",
        "chat_id",
        "confirmed",
        "deliver",
        "expires",
        "heard_until",
        "joining",
        "last",
        "left",
        "limit",
        "link",
        "live",
        "members",
        "position",
        "ready",
        "refusals",
        "seen",
        "unsure",
        "waiting",
    )

    def __init__(self, chat_id: str, limit: int, deliver: Callable[[str, Event], None]) -> None:
        self.chat_id = chat_id
        self.limit = limit
        self.deliver = deliver
        self.position: Cursor | None = None
        self.last = ""  # identity of the event at the position, if it is known
        self.left: tuple[str, ...] = ()  # epochs that were left for another one, the last few
        self.live = False
        self.confirmed = False  # Redis has said that the subscription stands
        self.joining = False  # a join is under way
        self.members = True  # sessions are in the chat; without, it lingers until `expires`
        self.unsure = False  # sessions were greeted before the position was known
        self.link = ""  # the subscription's link at the last join: without a change, without a gap
        self.heard_until = ""  # Redis's ms at which an earlier link surely still heard it
        self.broken = False  # its continuity is known to be lost
        self.refusals = 0  # joins that Redis has refused in a row
        self.expires = 0.0
        self.ready: asyncio.Future[None] | None = None
        self.seen: OrderedDict[str, Cursor | None] | None = None
        self.waiting: deque[Event] | None = None

    @property
    def epoch(self) -> str:
        """The epoch of its position; "" where that isn't known."""
        return "" if self.position is None else self.position.epoch

    def hear(self, event: Event) -> Heard:
        """Take a sequenced event from the channel: deliver it if it is the next one."""
        cursor = event.cursor
        assert cursor is not None
        if not self.live or self.position is None:
            (self.wait_for(()) if self.waiting is None else self.waiting).append(event)
            return Heard.WAITING
        if cursor.epoch == self.position.epoch:
            if cursor.offset <= self.position.offset:
                if self.seen is not None and self.seen.get(event.identity) == cursor:
                    return Heard.DUPLICATE
                self.live = False
                return Heard.BEHIND
            if cursor.offset == self.position.offset + 1:
                self._advance(event, cursor)
                return Heard.DELIVERED
        self.live = False
        self.wait_for((event,))
        return Heard.GAP

    def wait_for(self, events: Iterable[Event]) -> deque[Event]:
        """Keep events until `catch_up` says where they belong."""
        self.waiting = deque(events, maxlen=2 * self.limit)
        return self.waiting

    def catch_up(
        self, position: Cursor, missed: list[Event] | None, before: Collection[Event] = (), last: str = ""
    ) -> tuple[list[Event], list[Event]]:
        """Go live at ``position`` after delivering what was ``missed``; None: that can't be had.

        ``last`` is the identity of the event at that position, as far as it is known. Then what waited
        meanwhile is delivered as far as it follows. ``before`` waited already when Redis was asked for the
        position. Answers what came after a gap, and what is forged: it was there before, and Redis doesn't
        know of it.
        """
        for event in missed or ():
            if event.cursor is not None:
                self._advance(event, event.cursor)
        if self.position is not None and self.position.epoch != position.epoch:
            self.left = (*self.left[1 - MOST_LEFT :], self.position.epoch)
        self.position, self.last = position, last
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

    def note(self, identity: str, cursor: Cursor | None) -> None:
        """Remember that an event was delivered here; without a cursor, as a local copy."""
        if self.seen is None:
            self.seen = OrderedDict()
        self.seen[identity] = cursor
        if len(self.seen) > 2 * self.limit:
            self.seen.popitem(last=False)

    def _advance(self, event: Event, cursor: Cursor) -> None:
        self.position = cursor
        self.last = event.identity
        self.note(event.identity, cursor)
        self.deliver(self.chat_id, event)
