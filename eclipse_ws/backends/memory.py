"""The in-memory backend: one node, nothing outside the process. For development, tests and small sites."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Any

from eclipse_ws.backends.base import Answers, Backend, Health, Key, Listener, Outcome, Record
from eclipse_ws.config.settings import Settings
from eclipse_ws.protocol import Cursor, Event, Receipt, saved_id


def new_epoch() -> str:
    """Name an epoch: random, so that no two of them (nor two chats') can be confused."""
    return secrets.token_hex(6)


class _Channel:
    """One chat: its position, its last events, and which identities they had."""

    __slots__ = ("bytes", "epoch", "events", "expires", "offset", "receipts", "subscribed")

    def __init__(self, expires: float) -> None:
        self.epoch = new_epoch()
        self.offset = 0
        self.events: deque[Event] = deque()
        self.bytes = 0  # of the events' bodies
        self.receipts: OrderedDict[str, Receipt] = OrderedDict()  # by identity
        self.subscribed = False
        self.expires = expires  # monotonic; looked at only while nobody is subscribed

    def keep(self, event: Event, most: int, most_bytes: int) -> None:
        """Keep an event, and the ones before it as far as both bounds allow."""
        self.events.append(event)
        self.bytes += len(event.body)
        while len(self.events) > most or (self.bytes > most_bytes and len(self.events) > 1):
            self.bytes -= len(self.events.popleft().body)


class MemoryBackend(Backend):
    """Events go straight to the hub; a chat is forgotten ``history_seconds`` after its last sign of life.

    >>> e.1 e.2 e.3          three events of the epoch "e"; a client that hands back "e.1" gets e.2 and e.3

    Forgetting a chat ends its epoch: a cursor of before then answers None, never a part of the events.
    """

    name = "memory"
    is_shared = False

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._channels: dict[str, _Channel] = {}
        self._listener: Listener | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    async def start(self, listener: Listener) -> None:
        """Begin; there is nothing that could be away."""
        self._listener = listener
        self._sweep()

    async def close(self) -> None:
        """Forget every chat."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._listener = None
        self._channels.clear()

    async def subscribe(self, chat_id: str) -> None:
        """Hear the chat; it keeps its epoch if it is still remembered."""
        self._channel(chat_id).subscribed = True

    def unsubscribe(self, chat_id: str) -> None:
        """Let the chat linger."""
        channel = self._channels.get(chat_id)
        if channel is not None and channel.subscribed:
            channel.subscribed = False
            channel.expires = self._clock() + self._settings.history_seconds

    def position(self, chat_id: str) -> Cursor | None:
        """Tell the chat's last cursor; None for a chat that isn't remembered."""
        channel = self._channels.get(chat_id)
        return None if channel is None else Cursor(channel.epoch, channel.offset)

    async def history(self, chat_id: str, after: Cursor) -> Sequence[Event] | None:
        """Answer from the chat's deque."""
        channel = self._channels.get(chat_id)
        if channel is None or after.epoch != channel.epoch:
            return None
        missed = channel.offset - after.offset
        if missed < 0 or missed > len(channel.events):
            return None
        return list(channel.events)[len(channel.events) - missed :]

    async def publish(self, chat_id: str, event: Event, key: Key | None = None) -> Receipt:
        """Sequence and deliver at once."""
        channel = self._channel(chat_id)
        receipt = channel.receipts.get(event.identity)
        if receipt is None:
            channel.offset += 1
            cursor = Cursor(channel.epoch, channel.offset)
            receipt = Receipt(saved_id(event), str(cursor), "published")
            channel.receipts[event.identity] = receipt
            if len(channel.receipts) > 2 * self._settings.history_events:
                channel.receipts.popitem(last=False)
            sequenced = event.sequenced(cursor)
            channel.keep(sequenced, self._settings.history_events, self._settings.history_bytes)
            self.published += 1
            self._deliver(chat_id, channel, sequenced)
        else:
            self.duplicates_dropped += 1
        return receipt

    def broadcast(self, chat_id: str, event: Event) -> None:
        """Deliver at once."""
        channel = self._channels.get(chat_id)
        if channel is not None and channel.subscribed and self._listener is not None:
            self._listener.deliver(chat_id, event)

    async def reserve(
        self, chat_id: str, key: Key, *, retry_unknown: bool = False, certain: bool = False
    ) -> Record:
        """Know of nothing: what this node's own table does not know, nobody does."""
        return Record("none")

    async def settle(self, chat_id: str, key: Key, outcome: Outcome) -> None:
        """Do nothing: this node's own table knows it."""

    async def ask(self, question: Any) -> Answers:
        """Ask the only node that there is."""
        return Answers([] if self._listener is None else [self._listener.answer(question)], True)

    def health(self) -> Health:
        """Always up."""
        return Health(self.name, "up")

    def _channel(self, chat_id: str) -> _Channel:
        channel = self._channels.get(chat_id)
        if channel is None:
            expires = self._clock() + self._settings.history_seconds
            channel = self._channels[chat_id] = _Channel(expires)
        elif not channel.subscribed:
            channel.expires = self._clock() + self._settings.history_seconds
        return channel

    def _deliver(self, chat_id: str, channel: _Channel, event: Event) -> None:
        if channel.subscribed and self._listener is not None:
            self._listener.deliver(chat_id, event)

    def _sweep(self) -> None:
        """Forget the chats whose lingering is over; costs a look at each, a few times per lifetime."""
        now = self._clock()
        for chat_id in [c for c, ch in self._channels.items() if not ch.subscribed and ch.expires <= now]:
            del self._channels[chat_id]
        interval = max(0.05, min(30.0, self._settings.history_seconds / 4))
        self._sweeper = asyncio.get_running_loop().call_later(interval, self._sweep)
