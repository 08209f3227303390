"""The outbox: events and outcomes that the backend has not taken yet, in order, bounded."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Final, NamedTuple

import structlog

from eclipse_ws.backends.base import Backend, BackendError, Key, Step, Unavailable
from eclipse_ws.delivery.counts import DeliveryCounts
from eclipse_ws.delivery.subscriptions import Subscriptions
from eclipse_ws.protocol import Event, Receipt, deleted_id, has_content_of, saved_id

log = structlog.get_logger("eclipse_ws.delivery")

MAX_ITEMS: Final = 10_000
"""Events and outcomes that wait: minutes of a busy node."""
MAX_BYTES: Final = 1 << 26
"""Bytes of the events that wait; a single one may be larger."""
BATCH: Final = 250
"""Items that are handed to the backend at once."""
TRIES: Final = 5
"""How often the backend may refuse only this item, for an unknown reason, before it is given up."""
RETRY, LAST_RETRY = 1.0, 0.05
"""Seconds until an item that the backend didn't take is offered again; the second while the node closes."""


class Item(NamedTuple):
    """One thing to do when the backend is back: append ``event``, or else record ``step`` for ``key``."""

    chat_id: str
    event: Event | None
    key: Key | None = None
    step: Step | None = None

    @property
    def size(self) -> int:
        """Bytes of its event."""
        return 0 if self.event is None else len(self.event.body)


class Outbox:
    """Hands items to the backend, the oldest first. An event that doesn't fit is lost to the other nodes.

    A chat that has lost an event begins a new epoch, once the rest is handed over.
    """

    def __init__(self, backend: Backend, subscriptions: Subscriptions, counts: DeliveryCounts) -> None:
        self._backend = backend
        self._subscriptions = subscriptions
        self._counts = counts
        self._items: deque[Item] = deque()
        self._bytes = 0
        self._begun = 0  # of the oldest items: the backend has been asked to take them
        self._lost: dict[str, str] = {}  # chats, and the epoch in which every node has lost the same event
        self._flushing: asyncio.Task[None] | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._alone = False  # the oldest item goes alone: it wasn't taken, and no other may overtake it
        self._refusals = 0  # how often the backend has refused the oldest item alone
        self._closed = False

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Item) -> bool:
        """Hand over an item as soon as possible; False if there is no room for it."""
        self._alone = self._alone or not self._items
        fits = not self._items or self._bytes + item.size <= MAX_BYTES
        fits = fits and len(self._items) < MAX_ITEMS
        if fits:
            later = self._take_out(item)
            self._items.extend((item, *later))
            self._bytes += item.size
        elif item.event is not None:
            self.overflow(item.chat_id)
        self._flush_in_time()
        return fits

    def _take_out(self, deletion: Item) -> list[Item]:
        """Take out what has a deleted message's content: after the deletion the backend keeps none of it."""
        message_id = "" if deletion.event is None else deleted_id(deletion.event)
        stay: deque[Item] = deque()
        found: list[Item] = []
        for at, item in enumerate(self._items if message_id else ()):
            is_about = item.event is not None and has_content_of(item.event, message_id)
            after = is_about and item.chat_id == deletion.chat_id and at >= self._begun
            (found if after else stay).append(item)
        if found:
            self._items = stay
        return found

    def overflow(self, chat_id: str, epoch: str = "") -> None:
        """Give an event up because there is no room for it; see `lose`."""
        if not self._lost:
            log.error(
                "outbox full: other nodes lose events, and their sessions resume",
                chat=chat_id,
                limit=MAX_ITEMS,
            )
        self.lose(chat_id, epoch)

    def lose(self, chat_id: str, epoch: str = "") -> None:
        """Count an event that is lost, and have its chat begin a new epoch once the rest is handed over.

        ``epoch``: the one in which every node that hears the chat has lost the same event. The first of them
        begins another one.
        """
        self._counts.overflowed += 1
        self._lost[chat_id] = epoch if self._lost.get(chat_id, epoch) else ""
        if not epoch:
            self._subscriptions.hold(chat_id)
        self._flush_in_time()

    def flush(self) -> None:
        """Begin to hand over now."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if (self._items or self._lost) and self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())
            self._flushing.add_done_callback(self._flushed)

    async def close(self, seconds: float) -> None:
        """Hand over until nothing waits and what is lost is told, or the time is over; say what is left."""
        deadline = time.monotonic() + seconds
        self._closed = True
        while self._is_unfinished and (left := deadline - time.monotonic()) > 0:
            self.flush()
            if self._flushing is not None:
                await asyncio.wait([self._flushing], timeout=left)
            if self._is_unfinished:
                await asyncio.sleep(LAST_RETRY)
        if self._retry is not None:
            self._retry.cancel()
        if self._flushing is not None:
            self._flushing.cancel()
            await asyncio.gather(self._flushing, return_exceptions=True)
        if self._items:
            log.error("events not handed over to the other nodes", count=len(self._items))
        elif self._is_unfinished:
            log.error("other nodes not told about lost events: their sessions do not resume")

    @property
    def _is_unfinished(self) -> bool:
        return bool(self._items or self._lost) or self._subscriptions.is_renewing

    def _flush_in_time(self) -> None:
        """Begin to hand over, unless that was tried just now."""
        if self._retry is None:
            self.flush()

    def _flushed(self, done: asyncio.Task[None]) -> None:
        self._flushing = None
        if not done.cancelled() and done.exception() is not None:
            log.error("outbox flush failed", exc_info=done.exception())
        if (self._items or self._lost) and not self._closed:
            self._retry = asyncio.get_running_loop().call_later(RETRY, self.flush)

    async def _flush(self) -> None:
        """Hand over until nothing waits; stops at what the backend doesn't take now."""
        while self._items:
            count = 1 if self._alone else min(BATCH, len(self._items))
            batch = [self._items[at] for at in range(count)]
            self._begun = count
            try:
                outcomes = await asyncio.gather(*map(self._hand_over, batch), return_exceptions=True)
            finally:
                self._begun = 0
            for item, error in zip(batch, outcomes, strict=True):
                if error is not None and not self._gives_up(item, error):
                    self._alone = True
                    return
                self._bytes -= self._items.popleft().size
                self._alone, self._refusals = False, 0
        if self._lost and self._backend.health.state == "up":
            lost, self._lost = self._lost, {}
            for chat_id, epoch in lost.items():
                self._subscriptions.renew(chat_id, epoch)

    async def _hand_over(self, item: Item) -> None:
        chat_id, event, key, step = item
        if event is None:
            if key is not None and step is not None:
                await self._backend.record(chat_id, key, step)
            return
        chat = self._subscriptions.get(chat_id)
        # The event may have arrived although our own call failed. The backend may have forgotten its identity
        # by now, and would append it a second time.
        cursor = None if chat is None else chat.cursor_of(event.identity)
        if cursor is None:
            known = None if chat is None else chat.position
            cursor, new = await self._backend.append(chat_id, event, key=key, known=known)
            self._counts.count(new)
            if (chat := self._subscriptions.get(chat_id)) is not None:
                chat.settle(event.identity, cursor)
        elif key is not None:
            receipt = Receipt(saved_id(event), str(cursor), "published")
            await self._backend.record(chat_id, key, "done", receipt=receipt)

    def _gives_up(self, item: Item, error: BaseException) -> bool:
        """Whether an item is lost, because the backend refuses it alone."""
        if not isinstance(error, BackendError):
            raise error
        if isinstance(error, Unavailable):
            if not error.refused:
                return False
            self._refusals += 1
            # If the chat has lost an event already, another attempt is useless: its sessions resume.
            if self._refusals < TRIES and item.chat_id not in self._lost:
                return False
        log.error("event dropped: the backend will never take it", chat=item.chat_id, why=str(error))
        self.lose(item.chat_id)
        return True
