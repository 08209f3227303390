"""The outbox: what waits for the backend is handed over in order, once, and bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from eclipse_ws.backends.base import Health, Key, Record, Rejected, Unavailable
from eclipse_ws.backends.memory import MemoryBackend
from eclipse_ws.config.settings import Settings
from eclipse_ws.delivery import outbox
from eclipse_ws.delivery.delivery import Delivery
from eclipse_ws.delivery.outbox import Item
from eclipse_ws.protocol import Cursor
from tests.backends.harness import Recorder, event, until
from tests.conftest import make_settings

gen_test = pytest.mark.gen_test(timeout=20)
Expect = Callable[..., None]
CHAT = "chat"


class Refusing(MemoryBackend):
    """A backend in memory that fails as the test says, and notes what it was asked."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.failure: Exception | None = None
        self.only: str | None = None  # the event that fails, if not all do
        self.asked: list[str] = []

    @property
    def health(self) -> Health:
        """Down while everything fails."""
        fails = isinstance(self.failure, Unavailable) and not self.failure.refused
        return Health(self.name, "down" if fails else "up")

    async def append(self, chat_id: str, event: Any, **named: Any) -> tuple[Cursor, bool]:
        """Fail or append."""
        number = event.identity.removeprefix("message:")
        self.asked.append(number)
        await asyncio.sleep(0)
        if self.failure is not None and (self.only is None or number == self.only):
            raise self.failure
        return await super().append(chat_id, event, **named)

    async def record(self, chat_id: str, key: Key, step: Any, **named: Any) -> Record:
        """Fail or record."""
        self.asked.append(f"{key.name} {step}")
        if self.failure is not None:
            raise self.failure
        return await super().record(chat_id, key, step, **named)


class Stage:
    """Delivery over such a backend, with one chat."""

    def __init__(self) -> None:
        settings = make_settings(backend="memory")
        self.backend = Refusing(settings)
        self.delivery = Delivery(settings, self.backend)
        self.outbox = self.delivery._outbox
        self.heard = Recorder()

    async def publish(self, *numbers: Any) -> list[str]:
        """Publish, and tell what became of each."""
        return [(await self.delivery.publish(CHAT, event(number))).delivery for number in numbers]

    async def recover(self) -> None:
        """The backend takes everything again, and has taken what waited."""
        self.backend.failure = None
        self.delivery.restored()
        await until(lambda: not self.outbox)


@asynccontextmanager
async def on_stage() -> AsyncIterator[Stage]:
    """A started stage."""
    stage = Stage()
    await stage.delivery.start(stage.heard)
    await stage.delivery.subscribe(CHAT)
    yield stage
    stage.backend.failure = None
    await stage.delivery.close()


@gen_test
async def test_handed_over_in_order() -> None:
    """Waiting events come first, the oldest before the others, then newer ones, and nobody gets one twice."""
    async with on_stage() as stage:
        stage.backend.failure = Unavailable()
        assert await stage.publish(1, 2, 3) == ["local"] * 3
        assert stage.delivery.health.queued == 3
        assert stage.delivery.health.state == "down"
        stage.backend.failure = None
        assert await stage.publish(4) == ["local"]  # not past those that wait
        await stage.recover()
        assert await stage.publish(5) == ["published"]
        assert stage.heard.numbers(CHAT) == ["1", "2", "3", "4", "5"]
        position = stage.delivery.position(CHAT)
        events = await stage.delivery.resume(CHAT, position._replace(offset=0)) if position else None
        assert [e.identity for e in events or ()] == [f"message:{n}" for n in range(1, 6)]
        assert stage.delivery.counts.published == 5


@gen_test
async def test_a_full_outbox(monkeypatch: pytest.MonkeyPatch, expect_log: Expect) -> None:
    """What finds no room is lost to other nodes: it is counted, and the chat begins a new epoch for that."""
    expect_log("outbox full")
    monkeypatch.setattr(outbox, "MAX_ITEMS", 2)
    async with on_stage() as stage:
        before = stage.delivery.position(CHAT)
        stage.backend.failure = Unavailable()
        await stage.publish(1, 2, 3, 4)
        assert (len(stage.outbox), stage.delivery.counts.overflowed) == (2, 2)
        assert stage.heard.interrupts == []
        await stage.recover()
        await until(lambda: stage.heard.interrupts == [CHAT])
        after = stage.delivery.position(CHAT)
        assert before is not None
        assert after is not None
        assert after.epoch != before.epoch


@gen_test
async def test_overflow_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long events fill the outbox by their bytes, except for one alone; an outcome has none."""
    size = len(event(1).body)
    monkeypatch.setattr(outbox, "MAX_BYTES", 2 * size)
    async with on_stage() as stage:
        stage.backend.failure = Unavailable()
        lost: list[str] = []
        stage.outbox.overflow = lambda chat_id, epoch="": lost.append(chat_id)  # type: ignore[method-assign]
        await stage.publish(1, 2, 3)
        assert (len(stage.outbox), lost) == (2, [CHAT])
        stage.outbox.put(Item(CHAT, None, Key("key", "token"), "released"))
        assert len(stage.outbox) == 3
        await stage.recover()
        assert stage.backend.asked[-1] == "key released"
        stage.backend.failure = Unavailable()
        monkeypatch.setattr(outbox, "MAX_BYTES", size - 1)
        await stage.publish(6, 7)
        assert (len(stage.outbox), lost) == (1, [CHAT, CHAT])


@gen_test
async def test_one_event_that_is_refused_alone(monkeypatch: pytest.MonkeyPatch, expect_log: Expect) -> None:
    """It is offered again a few times, alone, so that nothing overtakes it; then it is given up."""
    expect_log("event not published; delivering locally", "event dropped")
    monkeypatch.setattr(outbox, "RETRY", 0.01)
    async with on_stage() as stage:
        stage.backend.failure = Unavailable("of the test", asked=True, refused=True)
        stage.backend.only = "1"
        await stage.publish(1, 2)
        await until(lambda: not stage.outbox)
        assert stage.delivery.counts.overflowed == 1
        assert stage.backend.asked[: outbox.TRIES + 1] == ["1"] * (outbox.TRIES + 1)
        assert stage.backend.asked[-1] == "2"
        await until(lambda: stage.heard.interrupts == [CHAT])


@gen_test
async def test_one_event_that_is_rejected(expect_log: Expect) -> None:
    """What the backend can never keep is not offered again, and what comes behind it is taken."""
    expect_log("event dropped")
    async with on_stage() as stage:
        stage.backend.failure = Rejected("too large")
        assert await stage.publish(1) == ["local"]
        stage.backend.asked.clear()
        await until(lambda: not stage.outbox)
        stage.backend.failure = None
        await until(lambda: stage.heard.interrupts == [CHAT])
        assert await stage.publish(2) == ["published"]
        assert stage.backend.asked == ["1", "2"]


@gen_test
async def test_what_the_operator_fixes_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, expect_log: Expect
) -> None:
    """A backend that is unavailable for long loses nothing, however often it is tried."""
    expect_log("event not published; delivering locally")
    monkeypatch.setattr(outbox, "RETRY", 0.001)
    async with on_stage() as stage:
        stage.backend.failure = Unavailable(asked=True)
        await stage.publish(1, 2)
        await until(lambda: len(stage.backend.asked) > 3 * outbox.TRIES)
        await stage.recover()
        assert stage.heard.interrupts == []
        assert stage.heard.numbers(CHAT) == ["1", "2"]
