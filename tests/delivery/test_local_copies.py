"""Local copies: who gets them, and how long they are kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from eclipse_ws.backends.base import Unavailable
from eclipse_ws.delivery import outbox
from eclipse_ws.protocol import Cursor
from tests.backends.harness import event, number_of, until
from tests.delivery.asked import Stage, known, on_stage, turn

gen_test = pytest.mark.gen_test(timeout=20)
Expect = Callable[..., None]
CHAT = "chat"


def go_down(stage: Stage) -> None:
    """Make every append fail."""
    stage.backend.is_up = False

    async def append(*_: Any, **__: Any) -> tuple[Cursor, bool]:
        raise Unavailable

    stage.backend.append = append  # type: ignore[method-assign]


def come_up(stage: Stage) -> None:
    """Let every append succeed."""
    del stage.backend.append  # type: ignore[method-assign]
    stage.backend.is_up = True
    stage.delivery.restored()


def copies(stage: Stage) -> list[str]:
    """What a session that joins now gets without a cursor."""
    return [number_of(each) for each in stage.delivery.local_copies(CHAT)]


@gen_test
@pytest.mark.parametrize("ended", [False, True])
async def test_an_appended_event_is_no_longer_a_local_copy(ended: bool) -> None:
    """The backend has taken it without saying so, at a place that this node is past, or in an epoch that is
    over: it does not come again, and no session that joins later gets it.
    """
    async with on_stage() as stage:
        await stage.elsewhere(CHAT, 1)
        if ended:
            cursors = dict(stage.backend._channels[CHAT].cursors)
            stage.backend.begin_epoch(CHAT)
            stage.backend._channels[CHAT].cursors.update(cursors)
        await stage.delivery.subscribe(CHAT)
        go_down(stage)
        await stage.publish(CHAT, 1, 2)
        assert copies(stage) == ["1", "2"]
        come_up(stage)
        await until(lambda: stage.delivery.health.queued == 0)
        assert copies(stage) == []
        assert stage.heard.numbers(CHAT) == ["1", "2"]


@gen_test
async def test_an_appended_but_unheard_event_stays_a_local_copy() -> None:
    """It has still to arrive: until then a joining session gets the copy, and the event only once."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        await stage.elsewhere(CHAT, 1)
        go_down(stage)
        await stage.publish(CHAT, 1)
        come_up(stage)
        await until(lambda: stage.delivery.health.queued == 0)
        assert copies(stage) == ["1"]
        await stage.publish(CHAT, 2)
        await until(lambda: known(stage).live)
        assert copies(stage) == []
        assert stage.heard.numbers(CHAT) == ["1", "2"]


@gen_test
async def test_local_copies_are_bounded_with_the_outbox(
    monkeypatch: pytest.MonkeyPatch, expect_log: Expect
) -> None:
    """An event without room in the outbox is delivered, but not kept: its sessions resume afterwards."""
    expect_log("outbox full")
    monkeypatch.setattr(outbox, "MAX_ITEMS", 3)
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        go_down(stage)
        await stage.publish(CHAT, *range(10))
        assert stage.heard.numbers(CHAT) == [str(number) for number in range(10)]
        assert copies(stage) == ["0", "1", "2"]
        come_up(stage)
        await until(lambda: stage.heard.interrupts == [CHAT])
        await turn()
        assert copies(stage) == []


@gen_test
async def test_a_resumed_event_is_no_longer_a_local_copy() -> None:
    """A session that resumes an event gets no copy of it as well, though the outbox still holds it."""
    async with on_stage() as stage:
        await stage.elsewhere(CHAT, 1)
        await stage.delivery.subscribe(CHAT)
        go_down(stage)
        await stage.publish(CHAT, 1, 2)
        missed = await stage.delivery.resume(CHAT, Cursor(known(stage).epoch, 0))
        assert missed is not None
        assert [number_of(each) for each in missed] == ["1"]
        assert copies(stage) == ["2"]


@gen_test
async def test_a_resumed_event_is_not_repeated_as_a_local_copy() -> None:
    """The backend has an event older than the subscription, and its answer to the publisher is lost."""
    async with on_stage() as stage:
        await stage.elsewhere(CHAT, 1, 2)
        await stage.delivery.subscribe(CHAT)
        missed = await stage.delivery.resume(CHAT, Cursor(known(stage).epoch, 0))
        assert missed is not None
        assert [number_of(each) for each in missed] == ["1", "2"]
        go_down(stage)
        receipt = await stage.delivery.publish(CHAT, event(1))
        assert (receipt.cursor, receipt.delivery) == (str(missed[0].cursor), "published")
        assert stage.heard.numbers(CHAT) == copies(stage) == []


@gen_test
@pytest.mark.parametrize("how", ["live", "restored", "being subscribed"])
async def test_no_event_is_delivered_between_a_loss_and_the_new_epoch(
    how: str, monkeypatch: pytest.MonkeyPatch, expect_log: Expect
) -> None:
    """The backend may have what found no room: those who had it don't get it again, and who has joined since
    gets nothing that comes behind it, but everything of the new epoch.
    """
    expect_log("outbox full")
    monkeypatch.setattr(outbox, "MAX_ITEMS", 3)
    async with on_stage(history_events=2) as stage:
        await stage.delivery.subscribe(CHAT)
        epoch = known(stage).epoch
        if how == "being subscribed":
            stage.backend.gate.clear()
            stage.delivery.lost()
            stage.delivery.restored()
            await turn()
        go_down(stage)
        await stage.publish(CHAT, *range(10))
        stage.backend.gate.set()
        if how == "restored":
            stage.subscriptions.restored()
            await stage.delivery.subscribe(CHAT)
        await turn()
        for offset, number in enumerate([4, 9, "another"], 1):
            stage.delivery.deliver(CHAT, event(number).sequenced(Cursor(epoch, offset)))
        await turn()
        assert stage.heard.numbers(CHAT) == [str(number) for number in range(10)]
        assert stage.heard.interrupts == []
        come_up(stage)
        await until(lambda: known(stage).live)
        assert (stage.heard.interrupts, known(stage).epoch == epoch) == ([CHAT], False)
        await stage.publish(CHAT, "new")
        assert stage.heard.cursors(CHAT)[10:] == [Cursor(known(stage).epoch, 1)]


@gen_test
async def test_a_chat_joined_while_it_is_unsubscribed_stays(
    monkeypatch: pytest.MonkeyPatch, expect_log: Expect
) -> None:
    """A session that joins during the unsubscribe stays, and gets the new epoch."""
    expect_log("outbox full")
    monkeypatch.setattr(outbox, "MAX_ITEMS", 1)
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        go_down(stage)
        await stage.publish(CHAT, 1, 2)
        stage.delivery.unsubscribe(CHAT)
        stage.now += 1000
        stage.backend.leaving.clear()
        leaving = asyncio.create_task(stage.subscriptions._leave([known(stage)]))
        await turn()
        await stage.delivery.subscribe(CHAT)
        stage.backend.leaving.set()
        await leaving
        come_up(stage)
        await until(lambda: stage.heard.interrupts == [CHAT])
        assert known(stage).live
