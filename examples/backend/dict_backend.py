"""A backend in a dictionary: one node, and the shortest one that keeps the contract."""

import secrets
import time

from eclipse_ws.backends.base import Backend, Position, Subscription
from eclipse_ws.backends.marks import keep
from eclipse_ws.protocol import Cursor, deletion_of, without_deleted


class DictBackend(Backend):
    """Keeps a list of events for each chat, and tells the listener at once."""

    name, is_shared = "dict", False

    def __init__(self, settings):
        self.settings, self.subscribed, self.chats, self.used, self.marks = settings, set(), {}, {}, {}

    def chat(self, chat_id):
        epoch, events = self.chats.setdefault(chat_id, (secrets.token_hex(6), []))
        return events, events[-1].cursor if events else Cursor(epoch, 0)

    async def subscribe(self, chat_id, known=None, *, renew=False):
        renewed = renew and chat_id in self.chats
        if renewed and known is not None:
            renewed = known.cursor.epoch == self.chat(chat_id)[1].epoch
        if renewed:
            del self.chats[chat_id]
        self.subscribed.add(chat_id)
        missed = await self.read(chat_id, known.cursor) if known else None
        return Subscription(
            Position(self.chat(chat_id)[1]), missed, renewed, dict(self.marks.get(chat_id, {}))
        )

    async def unsubscribe(self, chat_ids):
        self.subscribed.difference_update(chat_ids)

    async def append(self, chat_id, event, *, key=None, known=None):
        events, at = self.chat(chat_id)
        for kept in events:
            if kept.identity in (event.identity, deletion_of(event)):
                return kept.cursor, False
        events.append(event.sequenced(Cursor(at.epoch, at.offset + 1)))
        events[:] = without_deleted(events)
        most, most_bytes = self.settings.history_events, self.settings.history_bytes
        while len(events) > most or (len(events) > 1 and sum(len(kept.body) for kept in events) > most_bytes):
            del events[0]
        now = self.used[chat_id] = time.monotonic()
        for old in [each for each, then in self.used.items() if then + self.settings.history_seconds < now]:
            if old not in self.subscribed:
                del self.used[old], self.chats[old]
        self.broadcast(chat_id, events[-1])
        return events[-1].cursor, True

    async def read(self, chat_id, after, known=None):
        events, at = self.chat(chat_id)
        missed = [event for event in events if event.cursor > after]
        return missed if after.epoch == at.epoch and len(missed) == at.offset - after.offset else None

    async def mark(self, chat_id, name, mark, note):
        marks = self.marks.setdefault(chat_id, {})
        kept = keep(marks, name, mark, self.chat(chat_id)[1].epoch, time.time())
        if kept:
            self.listener.notice(note)
        return kept

    def broadcast(self, chat_id, event):
        if chat_id in self.subscribed:
            self.listener.deliver(chat_id, event)
