"""Fuzzes what arrives on Redis: `python -m tests.fuzz.fuzz_redis --seconds 60`.

The first byte chooses between a chat's channel, the nodes' own, and a push of another kind. Whatever is
published there, by whomever: nothing is raised, what is delivered is a JSON object, and cursors only grow.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Hashable, Sequence
from typing import Any

from eclipse_ws.backends.base import Health, Key, Position, Subscription
from eclipse_ws.backends.marks import Mark
from eclipse_ws.backends.redis import RedisBackend
from eclipse_ws.backends.redis.subscriptions import Subscriptions, _Chat
from eclipse_ws.delivery.delivery import Delivery
from eclipse_ws.protocol import Cursor, Event
from eclipse_ws.sessions.hub import Hub
from tests.conftest import make_settings
from tests.fuzz.loop import main, quiet

SEEDS = [
    b'\x00{"type":"message","data":{"id":"m1"},"cursor":"e1.1"}',
    b'\x00{"type":"message","data":{"id":"m2"},"cursor":"e1.2"}',
    b'\x00{"type":"message","data":{"id":"m3"}}',
    b'\x00{"type":"typing","data":{"userId":"u"},"origin":"s"}',
    b'\x00{"type":"message","cursor":"e2.1"}',
    b'\x01{"id":"1","sender":"n2","question":{"disconnect":{"chatId":"c1","userId":null,"reason":"x"}}}',
    b'\x01{"id":"1","sender":"n2","question":{"presence":{"chatId":"c1"}}}',
    b'\x01{"id":"1","answer":5}',
    b'\x01{"sender":"n2","look_again":["c1"]}',
    b'\x01{"sender":"n2","id":"1","take_over":["c1"]}',
    b'\x01{"sender":"n2","id":"1","who_takes":true}',
    b'\x01{"marked":["c1","read:u","1.5 e1 2 user m1"]}',
    b"\x02x",
]
WORDS = [
    *(
        b'"%b":' % word
        for word in b"type data id cursor origin sender question answer look_again take_over".split()
    ),
    b'"disconnect":',
    b'"presence":',
    b'"chatId":',
    b'"userId":',
    b'"reason":',
    b"null",
    b"e1.",
    b"99999999999999999999",
    b"[" * 600,
    b"\xed\xa0\x80",
    b"\xff",
    b'"c1"',
    b"{}",
    b"[]",
    b"1e999",
    b'"\\ud800"',
]
LOOP = asyncio.new_event_loop()
CHAT, CHANNEL, LIMIT = "c1", b"chat:c1", 5


class _Backend(RedisBackend):
    """A backend whose Redis is this file: what it would hear of a command comes at once."""

    epochs = 1

    @property
    def health(self) -> Health:
        return Health(self.name, "up")

    async def start(self, listener: Any) -> None:
        self._subscriptions = Subscriptions(self._settings, self._connections, listener, self._own)
        self._connections._hearer = self._subscriptions
        self._connections.name = "n1:1"
        self._subscriptions._chats[CHANNEL] = _Chat(CHAT)

    def push(self, *push: Any) -> None:
        """Take what Redis pushes."""
        self._connections._push(list(push))

    async def subscribe(
        self, chat_id: str, known: Position | None = None, *, renew: bool = False
    ) -> Subscription:
        """A gap is one that nobody knows of; a lost event begins a new epoch."""
        if renew:
            self.epochs += 1
        if renew or known is None:
            return Subscription(Position(Cursor(f"e{self.epochs}", 0)))
        return Subscription(known, [])

    async def append(
        self, chat_id: str, event: Event, *, key: Key | None = None, known: Cursor | None = None
    ) -> tuple[Cursor, bool]:
        """Every event is a new one, and is heard before its answer."""
        assert event.cursor is None
        assert known is not None
        cursor = Cursor(known.epoch, known.offset + 1)
        self.push(b"message", CHANNEL, event.sequenced(cursor).body)
        return cursor, True

    async def send(self, note: bytes, address: str = "") -> int:
        """No other node is there."""
        return 0


class _Target:
    """Delivery over that backend, with one chat."""

    def __init__(self) -> None:
        settings = make_settings(backend="redis", history_events=LIMIT)
        self.delivered: list[Event] = []
        self.backend = _Backend(settings)
        self.delivery = Delivery(settings, self.backend)
        self._hub = Hub(self.delivery)
        self._subscriptions = self.delivery._subscriptions

    async def start(self) -> None:
        """Begin, with the chat live."""
        await self.delivery.start(self)
        await self.delivery.subscribe(CHAT)
        self.chat = self._subscriptions._chats[CHAT]
        self._lasting = asyncio.all_tasks()

    def deliver(self, chat_id: str, event: Event) -> None:
        """See `Subscriber`."""
        self.delivered.append(event)

    def interrupt(self, chat_id: str) -> None:
        """See `Subscriber`."""

    def marked(self, chat_id: str, name: str, mark: Mark) -> None:
        """See `Subscriber`."""
        assert mark.follows(None)

    def answer(self, question: Any) -> Any:
        """See `Subscriber`."""
        return self._hub.answer(question)

    async def push(self, pushes: Sequence[tuple[Any, ...]]) -> None:
        """Take what Redis pushes, and do all that follows from it."""
        for push in pushes:
            self.backend.push(*push)
        while tasks := asyncio.all_tasks() - self._lasting - {asyncio.current_task()}:
            await asyncio.wait(tasks)

    def tidy(self) -> None:
        """Reset, so that the next input begins as the first did."""
        at = self.chat.position
        if at is None or at.epoch != "e1" or at.offset > 3:
            self.chat.position, self.chat.earlier, self.backend.epochs = Cursor("e1", 0), (), 1
        for other in list(self._subscriptions):
            if other != CHAT:
                del self._subscriptions._chats[other]


_target: _Target | None = None


def check(data: bytes) -> Hashable:
    """Check what must hold for every input."""
    global _target
    if _target is None:
        quiet()
        asyncio.set_event_loop(LOOP)
        _target = _Target()
        LOOP.run_until_complete(_target.start())
    target = _target
    kind, rest = (data[0] % 3, data[1:]) if data else (0, data)
    target.delivered.clear()
    counts = target.delivery.counts
    before, malformed = target.chat.position, counts.malformed_dropped
    pushes: list[tuple[Any, ...]] = [(b"message", CHANNEL if kind == 0 else b"eclipse:nodes", rest)]
    if kind == 2:
        pushes = [(b"subscribe", rest, 1), (b"message", b"chat:" + rest, rest)]
    LOOP.run_until_complete(target.push(pushes))
    after = target.chat.position
    assert target.chat.live
    assert before is not None and after is not None
    assert after.epoch != before.epoch or after.offset >= before.offset
    at = before
    for event in target.delivered:
        assert isinstance(json.loads(event.body.decode()), dict)
        if event.cursor is not None:
            assert event.cursor.epoch != at.epoch or event.cursor.offset == at.offset + 1
            at = event.cursor
    assert target.chat.waiting is None
    shape = tuple((event.type[:8], event.cursor is None) for event in target.delivered)
    target.tidy()
    return kind, shape, counts.malformed_dropped > malformed


if __name__ == "__main__":
    main(check, SEEDS, WORDS, __doc__)
