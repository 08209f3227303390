"""What the memory backend remembers and forgets, on a clock of the tests' own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import pytest
from tornado.ioloop import IOLoop

from eclipse_ws.backends.base import Key, Record, Step
from eclipse_ws.backends.memory import MemoryBackend
from eclipse_ws.protocol import Cursor
from tests.backends.harness import Node, event, fresh_chat, number_of, until
from tests.conftest import make_settings

gen_test = pytest.mark.gen_test(timeout=30)
LIFETIME = 0.2
"""Seconds that chats are remembered; the sweep itself looks after them in real time, as often as it can."""


class Stage:
    """A node in memory, whose clock stands still unless a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0
        settings = make_settings(backend="memory", history_seconds=LIFETIME)
        self.node = Node(settings, MemoryBackend(settings, lambda: self.now), lambda: self.now)
        self.backend, self.delivery = self.node.backend, self.node.delivery

    async def until_swept(self) -> None:
        """Wait until the sweep has checked every chat, at the clock's time."""
        over = fresh_chat()
        self.now -= 2 * LIFETIME
        await self.delivery.subscribe(over)
        self.delivery.unsubscribe(over)
        self.now += 2 * LIFETIME
        await until(lambda: self.delivery.position(over) is None, "the sweep")


@pytest.fixture
def stage(io_loop: IOLoop) -> Iterator[Stage]:
    """A started node."""
    made = Stage()
    io_loop.run_sync(lambda: made.node.delivery.start(made.node.heard))
    yield made
    io_loop.run_sync(made.delivery.close)


@gen_test
async def test_a_chat_with_members_is_never_forgotten(stage: Stage, chat: str) -> None:
    """A chat that somebody is in keeps its epoch and its events forever, however quiet it is."""
    await stage.delivery.subscribe(chat)
    at = stage.delivery.position(chat)
    await stage.delivery.publish(chat, event("m1"))
    for _ in range(3):
        stage.now += 10 * LIFETIME
        await stage.until_swept()
    assert [number_of(e) for e in await stage.delivery.resume(chat, at)] == ["m1"]
    receipt = await stage.delivery.publish(chat, event("m2"))
    assert receipt.cursor == str(Cursor(at.epoch, 2))
    await stage.node.until_heard(chat, "m1", "m2")


@gen_test
@pytest.mark.parametrize("joined", [True, False], ids=["lingering", "never joined"])
async def test_a_chat_that_was_published_to_lately_is_remembered(
    stage: Stage, chat: str, joined: bool
) -> None:
    """Each event prolongs the life of a chat that nobody is in; a lifetime after the last one it ends."""
    if joined:
        await stage.delivery.subscribe(chat)
        stage.delivery.unsubscribe(chat)
    receipt = await stage.delivery.publish(chat, event(0))
    at = Cursor.parse(receipt.cursor)
    for number in range(1, 5):
        stage.now += 0.6 * LIFETIME
        await stage.until_swept()
        await stage.delivery.publish(chat, event(number))
    assert [number_of(e) for e in await stage.backend.read(chat, at)] == ["1", "2", "3", "4"]
    stage.now += LIFETIME
    await stage.until_swept()
    assert await stage.backend.read(chat, at) is None


@gen_test
async def test_the_lingering_counts_from_when_the_last_member_left(stage: Stage, chat: str) -> None:
    """A chat lingers for a whole lifetime, however long it had members; leaving again prolongs nothing."""
    await stage.delivery.subscribe(chat)
    at = stage.delivery.position(chat)
    stage.now += 10 * LIFETIME
    stage.delivery.unsubscribe(chat)
    stage.now += 0.6 * LIFETIME
    await stage.until_swept()
    assert stage.delivery.position(chat) == at
    stage.delivery.unsubscribe(chat)
    stage.now += 0.6 * LIFETIME
    await until(lambda: stage.delivery.position(chat) is None, "the chat to be forgotten")


@gen_test
@pytest.mark.parametrize("step", get_args(Step))
async def test_no_attempt_is_recorded(stage: Stage, chat: str, step: Step) -> None:
    """A backend of one node leaves the keys to that node: it knows of none, whatever it is told."""
    for _ in range(2):
        assert await stage.backend.record(chat, Key("key", "token"), step) == Record("none")


@gen_test
async def test_an_outcome_is_remembered_for_a_lifetime(stage: Stage, chat: str) -> None:
    """A message that is sent again within a lifetime gets the first receipt; afterwards its key is new."""
    receipt = await stage.delivery.publish(chat, event("m1"), await stage.delivery.attempt(chat, "key"))
    stage.now += 0.9 * LIFETIME
    assert (await stage.delivery.attempt(chat, "key")).receipt == receipt
    stage.now += 0.2 * LIFETIME
    assert (await stage.delivery.attempt(chat, "key")).state == "new"
