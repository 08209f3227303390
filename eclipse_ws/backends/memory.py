"""The in-memory backend: one node, nothing outside the process. For development, tests and small sites."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence

from eclipse_ws.backends.base import Backend, Key, Position, Subscription
from eclipse_ws.backends.ledger import MemoryLedger
from eclipse_ws.backends.marks import Mark, current, keep
from eclipse_ws.config.settings import Settings
from eclipse_ws.protocol import Cursor, Event, deleted_id, deletion_of, has_content_of, replaced


class _Channel:
    """One chat in one epoch, whose random name no other epoch or chat has."""

    __slots__ = ("bytes", "cursors", "epoch", "events", "expires", "offset", "subscribed")

    def __init__(self, *, subscribed: bool = False) -> None:
        self.epoch = secrets.token_hex(6)
        self.offset = 0
        self.events: deque[Event] = deque()
        self.bytes = 0  # of the events' bodies
        self.cursors: OrderedDict[str, Cursor] = OrderedDict()  # by identity
        self.subscribed = subscribed
        self.expires = 0.0  # monotonic; only matters while nobody is subscribed

    def after(self, cursor: Cursor) -> Sequence[Event] | None:
        """All events after a cursor; None if they are not available."""
        missed = self.offset - cursor.offset
        if cursor.epoch != self.epoch or not 0 <= missed <= len(self.events):
            return None
        return list(self.events)[len(self.events) - missed :]

    def known(self, event: Event) -> Cursor | None:
        """The cursor with which an event, or the deletion of its message, was appended."""
        cursor = self.cursors.get(event.identity)
        return cursor or self.cursors.get(deletion_of(event))

    def remove(self, message_id: str, deletion: Event) -> None:
        """Replace what has the content of a message."""
        for at, event in enumerate(self.events):
            if has_content_of(event, message_id):
                self.events[at] = replaced(event, deletion)
                self.bytes += len(self.events[at].body) - len(event.body)


class MemoryBackend(Backend):
    """Events go straight to the listener.

    A chat without subscribers is forgotten ``history_seconds`` after its last event, which ends its epoch.
    """

    name = "memory"
    is_shared = False

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self.ledger = MemoryLedger()
        self._settings = settings
        self._clock = clock
        self._channels: dict[str, _Channel] = {}
        self._idle: OrderedDict[str, None] = OrderedDict()  # chats without subscribers, the oldest first
        self._marks: dict[str, dict[str, Mark]] = {}
        self._marks_swept = 0  # chats that had marks after the last sweep

    async def subscribe(
        self, chat_id: str, known: Position | None = None, *, renew: bool = False
    ) -> Subscription:
        """See the contract."""
        channel = self._channels.get(chat_id)
        renewed = channel is not None and renew and (known is None or known.cursor.epoch == channel.epoch)
        if channel is None or renewed:
            channel = self._channels[chat_id] = _Channel(subscribed=True)
        channel.subscribed = True
        self._idle.pop(chat_id, None)
        missed = None if known is None else channel.after(known.cursor)
        marks = dict(self._marks.get(chat_id, {}))
        return Subscription(Position(Cursor(channel.epoch, channel.offset)), missed, renewed, marks)

    async def unsubscribe(self, chat_ids: Sequence[str]) -> None:
        """See the contract."""
        for chat_id in filter(self._channels.__contains__, chat_ids):
            self._channels[chat_id].subscribed = False
            self._linger(chat_id)

    async def append(
        self, chat_id: str, event: Event, *, key: Key | None = None, known: Cursor | None = None
    ) -> tuple[Cursor, bool]:
        """Sequence and deliver at once."""
        channel = self._channels.get(chat_id) or self._channels.setdefault(chat_id, _Channel())
        if (cursor := channel.known(event)) is not None:
            return cursor, False
        if message_id := deleted_id(event):
            channel.remove(message_id, event)
        most, most_bytes = self._settings.history_events, self._settings.history_bytes
        channel.offset += 1
        cursor = channel.cursors[event.identity] = Cursor(channel.epoch, channel.offset)
        if len(channel.cursors) > 2 * most:
            channel.cursors.popitem(last=False)
        channel.events.append(event.sequenced(cursor))
        channel.bytes += len(channel.events[-1].body)
        while len(channel.events) > most or (channel.bytes > most_bytes and len(channel.events) > 1):
            channel.bytes -= len(channel.events.popleft().body)
        channel.expires = self._clock() + self._settings.history_seconds
        if channel.subscribed:
            self.listener.deliver(chat_id, channel.events[-1])
        else:
            self._linger(chat_id)
        return cursor, True

    async def read(self, chat_id: str, after: Cursor, known: Cursor | None = None) -> Sequence[Event] | None:
        """See the contract."""
        channel = self._channels.get(chat_id)
        return None if channel is None else channel.after(after)

    def broadcast(self, chat_id: str, event: Event) -> None:
        """Deliver at once."""
        if (channel := self._channels.get(chat_id)) is not None and channel.subscribed:
            self.listener.deliver(chat_id, event)

    async def mark(self, chat_id: str, name: str, mark: Mark, note: bytes) -> bool:
        """Keep and tell at once."""
        channel, now = self._channels.get(chat_id), time.time()
        marks = self._marks.setdefault(chat_id, {})
        kept = keep(marks, name, mark, None if channel is None else channel.epoch, now)
        if len(self._marks) > 2 * self._marks_swept + 100:
            self._marks = {chat: left for chat, all in self._marks.items() if (left := current(all, now))}
            self._marks_swept = len(self._marks)
        if kept:
            self.listener.notice(note)
        return kept

    def _linger(self, chat_id: str) -> None:
        """Keep a chat without subscribers for a while, and forget those that have expired."""
        self._idle[chat_id] = None
        self._idle.move_to_end(chat_id)
        while self._idle and self._channels[oldest := next(iter(self._idle))].expires <= self._clock():
            del self._idle[oldest], self._channels[oldest]
