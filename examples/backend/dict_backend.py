"""A backend in a dictionary: one node, and the shortest one that keeps the contract."""

import secrets
import time

from eclipse_ws.backends.base import Backend, Health, Position, Subscription
from eclipse_ws.protocol import Cursor


class Chat:
    """A chat's epoch, its number of events, and the last ones, which end at ``expires``."""

    def __init__(self):
        self.epoch, self.offset, self.events, self.expires = secrets.token_hex(6), 0, [], 0.0


class DictBackend(Backend):
    """Appends to lists, and tells the listener at once."""

    name = "dict"
    is_shared = False

    def __init__(self, settings):
        self.settings, self.listener, self.chats, self.subscribed = settings, None, {}, set()

    @property
    def health(self):
        return Health(self.name, "up")

    async def start(self, listener):
        self.listener = listener
        listener.restored()

    async def close(self):
        self.listener, self.chats, self.subscribed = None, {}, set()

    def chat(self, chat_id, known=None):
        chat = self.chats.setdefault(chat_id, Chat())
        if known is not None and known.epoch == chat.epoch and known.offset > chat.offset:
            chat = self.chats[chat_id] = Chat()
        return chat

    async def subscribe(self, chat_id, known=None, *, renew=False):
        self.subscribed.add(chat_id)
        before = self.chats.get(chat_id)
        if renew and before is not None and (known is None or known.cursor.epoch == before.epoch):
            del self.chats[chat_id]
        chat = self.chat(chat_id, known and known.cursor)
        missed = await self.read(chat_id, known.cursor) if known else None
        position = Position(Cursor(chat.epoch, chat.offset))
        return Subscription(position, missed, renewed=before is not None and before is not chat)

    async def unsubscribe(self, chat_ids):
        self.subscribed.difference_update(chat_ids)

    async def append(self, chat_id, event, *, key=None, known=None):
        chat = self.chat(chat_id, known)
        for kept in chat.events:
            if kept.identity == event.identity:
                return kept.cursor, False
        chat.offset += 1
        event = event.sequenced(Cursor(chat.epoch, chat.offset))
        chat.events = [*chat.events, event][-self.settings.history_events :]
        while (
            len(chat.events) > 1 and sum(len(kept.body) for kept in chat.events) > self.settings.history_bytes
        ):
            del chat.events[0]
        chat.expires = time.monotonic() + self.settings.history_seconds
        self.broadcast(chat_id, event)
        return event.cursor, True

    async def read(self, chat_id, after, known=None):
        chat = self.chats.get(chat_id)
        if (
            chat is None
            or after.epoch != chat.epoch
            or (known and known.epoch == chat.epoch and known.offset > chat.offset)
        ):
            return None
        if time.monotonic() > chat.expires:
            chat.events = []
        missing = chat.offset - after.offset
        return chat.events[len(chat.events) - missing :] if 0 <= missing <= len(chat.events) else None

    def broadcast(self, chat_id, event):
        if chat_id in self.subscribed and self.listener is not None:
            self.listener.deliver(chat_id, event)
