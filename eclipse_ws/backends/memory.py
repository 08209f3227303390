"""The in-memory backend: one node, nothing outside the process. For development, tests and small sites."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence

from eclipse_ws.backends.base import Backend, Health, Key, Listener, NullListener, Position, Subscription
from eclipse_ws.config.settings import Settings
from eclipse_ws.protocol import Cursor, Event


class _Channel:
    """One chat: its last events, and which identities they had."""

    __slots__ = ("bytes", "cursors", "epoch", "events", "expires", "identity", "offset", "subscribed")

    def __init__(self) -> None:
        self.subscribed = False
        self.expires = 0.0  # monotonic; looked at only while nobody is subscribed
        self.renew()

    def renew(self) -> None:
        """Begin a new epoch, of a random name, so that no two of them (nor two chats') can be confused."""
        self.epoch, self.offset, self.identity = secrets.token_hex(6), 0, ""
        self.events: deque[Event] = deque()
        self.bytes = 0  # of the events' bodies
        self.cursors: OrderedDict[str, Cursor] = OrderedDict()  # by identity

    def after(self, cursor: Cursor) -> Sequence[Event] | None:
        """The events after a cursor, all of them; None if that can't be had."""
        missed = self.offset - cursor.offset
        if cursor.epoch != self.epoch or missed < 0 or missed > len(self.events):
            return None
        return list(self.events)[len(self.events) - missed :]


class MemoryBackend(Backend):
    """Events go straight to the listener; a chat is forgotten ``history_seconds`` after its last event.

    >>> e.1 e.2 e.3          three events of the epoch "e"; a client that hands back "e.1" gets e.2 and e.3

    Forgetting a chat ends its epoch: a cursor of before then answers None, never a part of the events.
    """

    name = "memory"
    is_shared = False

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._channels: dict[str, _Channel] = {}
        self._idle: OrderedDict[str, None] = OrderedDict()  # chats without subscribers, the oldest first
        self._listener: Listener = NullListener()

    @property
    def health(self) -> Health:
        """Always up."""
        return Health(self.name, "up")

    async def start(self, listener: Listener) -> None:
        """Begin; there is nothing that could be unavailable."""
        self._listener = listener
        listener.restored()

    async def close(self) -> None:
        """Forget every chat."""
        self._listener = NullListener()
        self._channels.clear()
        self._idle.clear()

    async def subscribe(
        self, chat_id: str, known: Position | None = None, *, renew: bool = False
    ) -> Subscription:
        """See the contract."""
        channel = self._channel(chat_id)
        channel.subscribed = True
        self._idle.pop(chat_id, None)
        missed = None if known is None else channel.after(known.cursor)
        renewed = renew and (known is None or known.cursor.epoch == channel.epoch)
        if renewed:
            channel.renew()
        position = Position(Cursor(channel.epoch, channel.offset), channel.identity)
        return Subscription(position, None if renewed else missed, renewed)

    async def unsubscribe(self, chat_ids: Sequence[str]) -> None:
        """See the contract."""
        for chat_id in chat_ids:
            self._channel(chat_id).subscribed = False
            self._idle[chat_id] = None
        self._forget()

    async def append(
        self, chat_id: str, event: Event, *, key: Key | None = None, known: Cursor | None = None
    ) -> tuple[Cursor, bool]:
        """Sequence and deliver at once."""
        channel = self._channel(chat_id)
        if (cursor := channel.cursors.get(event.identity)) is not None:
            return cursor, False
        channel.offset, channel.identity = channel.offset + 1, event.identity
        cursor = channel.cursors[event.identity] = Cursor(channel.epoch, channel.offset)
        if len(channel.cursors) > 2 * self._settings.history_events:
            channel.cursors.popitem(last=False)
        channel.expires = self._clock() + self._settings.history_seconds
        sequenced = event.sequenced(cursor)
        channel.events.append(sequenced)
        channel.bytes += len(sequenced.body)
        while len(channel.events) > self._settings.history_events or (
            channel.bytes > self._settings.history_bytes and len(channel.events) > 1
        ):
            channel.bytes -= len(channel.events.popleft().body)
        if channel.subscribed:
            self._listener.deliver(chat_id, sequenced)
        else:
            self._idle[chat_id] = None
            self._idle.move_to_end(chat_id)
            self._forget()
        return cursor, True

    async def read(self, chat_id: str, after: Cursor, known: Cursor | None = None) -> Sequence[Event] | None:
        """See the contract."""
        channel = self._channels.get(chat_id)
        return None if channel is None else channel.after(after)

    def broadcast(self, chat_id: str, event: Event) -> None:
        """Deliver at once."""
        channel = self._channels.get(chat_id)
        if channel is not None and channel.subscribed:
            self._listener.deliver(chat_id, event)

    def _channel(self, chat_id: str) -> _Channel:
        channel = self._channels.get(chat_id)
        if channel is None:
            channel = self._channels[chat_id] = _Channel()
        return channel

    def _forget(self) -> None:
        """Forget the chats without subscribers whose time is over."""
        now = self._clock()
        while self._idle and self._channels[oldest := next(iter(self._idle))].expires <= now:
            del self._idle[oldest], self._channels[oldest]
