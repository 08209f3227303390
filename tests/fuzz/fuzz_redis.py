"""Fuzzes what arrives on Redis: `python -m tests.fuzz.fuzz_redis --seconds 60`.

The first byte chooses between a chat's channel, the nodes' own, and a push of another kind. Whatever is
published there, by whomever: nothing is raised, what is delivered is a JSON object, and cursors only grow.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Hashable, Iterable
from typing import Any

from eclipse_ws.backends.redis.channel import Channel
from eclipse_ws.backends.redis.cluster_channel import Nodes

from eclipse_ws.backends.redis.backend import RedisBackend
from eclipse_ws.backends.redis.names import Names
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


class _Links:
    """No Redis at all: what the backend would say to one goes nowhere."""

    name = "n1"
    names = Names()
    commands = None
    state = "up"


class _Subscriptions:
    """One chat that is live, and stays so."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    def get(self, chat_id: str) -> Channel | None:
        return self.channel if chat_id == "c1" else None

    def join(self, channel: Channel) -> None:
        """A gap: the history would be asked, and the channel is live again."""
        channel.live = True

    def confirm(self, chat_id: str) -> None:
        """A subscription stands."""


class _Backend(RedisBackend):
    """The one that is fuzzed; what it would sequence goes nowhere."""

    def _sequence_raw(self, channel: Channel, event: Event) -> None:
        assert event.cursor is None


class _Target:
    """A backend whose Redis is this file."""

    def __init__(self) -> None:
        settings = make_settings(history_events=5)
        self.delivered: list[Event] = []
        self.backend = _Backend(settings)
        hub = Hub(self.backend, 5)
        channel = Channel("c1", 5, lambda _, event: self.delivered.append(event))
        channel.live = True
        channel.position = Cursor("e1", 0)
        self.channel = channel
        self.backend._listener = hub
        hub.deliver = lambda _, event: self.delivered.append(event)  # type: ignore[method-assign]
        self.delivery._subscriptions = _Subscriptions(channel)  # type: ignore[assignment]
        self.backend._connections = _Links()  # type: ignore[assignment]
        nothing: Callable[[list[str]], None] = lambda chats: None  # noqa: E731

        async def takes(chats: Iterable[str]) -> list[str]:
            return [str(chat) for chat in chats]

        take: Callable[[list[str]], Awaitable[list[str]]] = takes
        self.backend._nodes = Nodes(_Links(), 1.0, hub.answer, nothing, take)  # type: ignore[arg-type]

    async def push(self, answer: list[Any]) -> None:
        self.backend._push(answer)
        await asyncio.gather(*self.delivery._handover._taking)


_target: _Target | None = None


def check(data: bytes) -> Hashable:
    """Hold one input to what must hold for all."""
    global _target
    if _target is None:
        quiet()
        asyncio.set_event_loop(LOOP)
        _target = _Target()
    kind, rest = (data[0] % 3, data[1:]) if data else (0, data)
    target = _target
    target.delivered.clear()
    before = target.channel.position
    if kind == 0:
        target.backend._push([b"message", _Links.names.chats.encode() + b"c1", rest])
    elif kind == 1:
        LOOP.run_until_complete(target.push([b"message", b"eclipse:nodes", rest]))
    else:
        target.backend._push([b"subscribe", rest, 1])
        target.backend._push([b"message", _Links.names.chats.encode() + rest, rest])
    after = target.channel.position
    if before is not None and after is not None and after.epoch == before.epoch:
        assert after.offset >= before.offset
    for event in target.delivered:
        assert isinstance(json.loads(event.body.decode()), dict)
    assert target.channel.waiting is None or len(target.channel.waiting) <= 10
    shape = tuple((event.type[:8], event.cursor is None) for event in target.delivered)
    if after is not None and after.offset > 50:
        target.channel.position = Cursor("e1", 0)
    return kind, shape, target.delivery.counts.malformed_dropped > 0


if __name__ == "__main__":
    main(check, SEEDS, WORDS, __doc__)
