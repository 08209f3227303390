"""Tools of the contract suite: nodes, what they have heard, and events."""

from __future__ import annotations

import asyncio
import functools
import inspect
import secrets
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

import msgspec
import pytest
from pydantic import SecretStr

from eclipse_ws.backends.base import Backend, Position
from eclipse_ws.config.settings import Settings
from eclipse_ws.protocol import Cursor, Event, parse_event

TEST_TIMEOUT: Final = 60.0
"""Maximum seconds of one test."""
WAIT: Final = 15.0
"""Maximum seconds to wait for anything."""


class Recorder:
    """A listener that records its calls."""

    def __init__(self) -> None:
        self.events: dict[str, list[Event]] = defaultdict(list)
        self.notes: list[bytes] = []
        self.times_lost = 0
        self.times_restored = 0

    def deliver(self, chat_id: str, event: Event) -> None:
        """See `Listener`."""
        self.events[chat_id].append(event)

    def receive(self, chat_id: str, raw: bytes) -> None:
        """See `Listener`."""
        self.deliver(chat_id, parse_event(raw))

    def notice(self, note: bytes) -> None:
        """See `Listener`."""
        self.notes.append(note)

    def lost(self, chat_ids: Iterable[str] | None = None) -> None:
        """See `Listener`."""
        self.times_lost += 1

    def restored(self) -> None:
        """See `Listener`."""
        self.times_restored += 1


class Node:
    """A started backend, and what its listener has heard."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.heard = Recorder()

    async def append(self, chat_id: str, *numbers: object, **given: Any) -> Cursor:
        """Append an event for each number, one after another. Returns the last one's cursor."""
        cursor = Cursor("", 0)
        for number in numbers:
            cursor, _ = await self.backend.append(chat_id, message(number), **given)
        return cursor

    async def until_heard(self, chat_id: str, *numbers: object) -> None:
        """Wait until this node has heard exactly these events of the chat, in this order."""
        expected = [str(number) for number in numbers]
        await until(lambda: numbers_of(self.heard.events[chat_id]) == expected, f"{expected} in {chat_id!r}")


class Nodes:
    """The nodes of one test, which are closed after it."""

    def __init__(self, make: Callable[[Settings], Backend]) -> None:
        self._make = make
        self._made: list[Node] = []

    def new(self, **given: Any) -> Node:
        """A node that is not started yet; ``given`` are settings."""
        node = Node(self._make(make_settings(**given)))
        self._made.append(node)
        return node

    async def one(self, *chat_ids: str, **given: Any) -> Node:
        """A node that hears these chats."""
        node = self.new(**given)
        await node.backend.start(node.heard)
        await until(lambda: node.heard.times_restored > 0, "restored() after the start")
        for chat_id in chat_ids:
            await node.backend.subscribe(chat_id)
        return node

    async def two(self, *chat_ids: str, **given: Any) -> tuple[Node, Node]:
        """Two nodes that hear these chats; the same node twice if the backend isn't shared."""
        one = await self.one(*chat_ids, **given)
        return one, (await self.one(*chat_ids, **given) if one.backend.is_shared else one)

    async def shared(self, *chat_ids: str, **given: Any) -> tuple[Node, Node]:
        """Two nodes that hear these chats; skips the test if the backend isn't shared."""
        one, other = await self.two(*chat_ids, **given)
        if one is other:
            pytest.skip("the backend has one node only")
        return one, other

    async def close(self) -> None:
        """Close every node."""
        for node in self._made:
            await node.backend.close()


def on_nodes(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make a plain test of a coroutine that takes `Nodes`; it runs in its own event loop."""

    @functools.wraps(test)
    def run(self: Any, **given: Any) -> None:
        async def bounded() -> None:
            nodes = Nodes(self.make_backend)
            try:
                async with asyncio.timeout(TEST_TIMEOUT):
                    await test(self, nodes, **given)
            finally:
                await nodes.close()

        asyncio.run(bounded())

    signature = inspect.signature(test)
    parameters = [each for each in signature.parameters.values() if each.name != "nodes"]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return run


class Contract:
    """A part of the suite."""

    def make_backend(self, settings: Settings) -> Backend:
        """Make one more node with these settings; it is not started yet."""
        raise NotImplementedError


def make_settings(**given: Any) -> Settings:
    """Settings for a node.

    The application publishes only over HTTP: a backend on which it may publish itself need not trust a
    history while no node listens.
    """
    secret = SecretStr("a-secret-of-the-tests-which-is-long-enough")
    values: dict[str, Any] = {
        "profile": "test",
        "api": "embedded",
        "jwt_secret": secret,
        "internal_api_secret": secret,
        "app_publishes_over_http": True,
        **given,
    }
    return Settings(**values)


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Wait until a condition holds, at most `WAIT` seconds."""
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, (
            f"waited without success for {what or inspect.getsource(condition).strip()}"
        )
        await asyncio.sleep(0.005)


def fresh_chat() -> str:
    """A chat that no other test uses."""
    return f"chat-{secrets.token_hex(6)}"


def message(number: object, size: int = 0) -> Event:
    """A kept event about the message with this number; its body has at least ``size`` bytes."""
    body = {"type": "message", "data": {"id": str(number), "content": "é"}}
    missing = size - len(msgspec.json.encode(body))
    if missing > 0:
        body["data"]["content"] += "x" * missing  # type: ignore[index]
    return parse_event(msgspec.json.encode(body))


def typing(origin: str = "") -> Event:
    """An ephemeral event; the session ``origin`` must not get it."""
    return Event("typing", b'{"type":"typing","data":{"isTyping":true}}', origin=origin)


def numbers_of(events: Sequence[Event]) -> list[str]:
    """The numbers of the messages that events are about."""
    return [event.identity.removeprefix("message:") for event in events]


def position_of(number: object, cursor: Cursor) -> Position:
    """The position of a node that has last heard this message."""
    return Position(cursor, message(number).identity)
