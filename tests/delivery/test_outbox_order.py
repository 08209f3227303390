"""The outbox: what goes together, what goes alone, what is said of what is lost, and how it ends."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from eclipse_ws.backends.base import Key, Rejected, Unavailable
from eclipse_ws.delivery import outbox
from eclipse_ws.delivery.outbox import Item
from eclipse_ws.protocol import Cursor, Receipt
from tests.backends.harness import event, until
from tests.delivery.asked import turn
from tests.delivery.test_outbox import CHAT, Expect, Stage, gen_test, on_stage


def put(stage: Stage, *numbers: Any, chat: str = CHAT) -> None:
    """Have events wait in the outbox."""
    for number in numbers:
        stage.outbox.put(Item(chat, event(number)))


def watch_renewals(stage: Stage) -> list[tuple[str, str]]:
    """The chats that begin a new epoch from now on, and for which one."""
    renewed: list[tuple[str, str]] = []
    stage.delivery._subscriptions.renew = lambda *named: renewed.append(named)  # type: ignore
    return renewed


def watch_appends(stage: Stage) -> tuple[list[dict[str, Any]], list[int]]:
    """What is given with each event from now on, and how many are appended at once at the most."""
    given: list[dict[str, Any]] = []
    most = [0]
    running = 0
    append = stage.backend.append

    async def watched(chat_id: str, event: Any, **named: Any) -> tuple[Cursor, bool]:
        nonlocal running
        given.append(named)
        running += 1
        most[0] = max(most[0], running)
        try:
            return await append(chat_id, event, **named)
        finally:
            running -= 1

    stage.backend.append = watched  # type: ignore[method-assign]
    return given, most


# -- handing over -----------------------------------------------------------------------------------


@gen_test
async def test_the_first_goes_alone_and_the_rest_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """An outbox begins with one item, and goes on with as many at once as a batch has once that is taken."""
    monkeypatch.setattr(outbox, "BATCH", 3)
    async with on_stage() as stage:
        _, most = watch_appends(stage)
        put(stage, 1, 2)
        await turn()
        assert (most, len(stage.outbox)) == ([1], 0)
        put(stage, *range(3, 9))
        await until(lambda: not stage.outbox)
        assert most == [3]
        assert stage.backend.asked == [str(number) for number in range(1, 9)]
        assert stage.delivery.counts.published == 8


@gen_test
async def test_items_after_a_failed_one_are_offered_again_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Earlier items are done. The failed one goes alone until it is taken; taken ones are not repeated."""
    monkeypatch.setattr(outbox, "RETRY", 0.005)
    async with on_stage() as stage:
        stage.backend.failure, stage.backend.only = Unavailable(), "3"
        put(stage, *range(1, 6))
        await until(lambda: stage.backend.asked.count("3") == 4)
        assert stage.backend.asked == ["1", "2", "3", "4", "5", "3", "3", "3"]
        assert (len(stage.outbox), stage.outbox._bytes) == (3, 3 * len(event(1).body))
        await stage.recover()
        assert stage.backend.asked[8:] == ["3"]
        assert stage.heard.numbers(CHAT) == ["1", "2", "4", "5", "3"]
        assert (stage.outbox._bytes, stage.delivery.counts.published) == (0, 5)


@gen_test
async def test_an_event_that_was_heard_is_not_appended_again() -> None:
    """Its key is settled with the cursor that the event had when it was delivered."""
    async with on_stage() as stage:
        settled: list[Any] = []
        record = stage.backend.record

        async def noted(chat_id: str, key: Key, step: Any, **named: Any) -> Any:
            settled.append((chat_id, key, step, named))
            return await record(chat_id, key, step, **named)

        stage.backend.record = noted  # type: ignore[method-assign]
        assert await stage.publish(1) == ["published"]
        at = stage.delivery.position(CHAT)
        key = Key("key", "token")
        stage.backend.asked.clear()
        stage.outbox.put(Item(CHAT, event(1), key))
        stage.outbox.put(Item(CHAT, event(1)))
        await turn()
        assert stage.backend.asked == ["key done"]
        assert settled == [(CHAT, key, "done", {"receipt": Receipt("1", str(at), "published")})]
        assert not stage.outbox
        assert stage.delivery.counts.published == 1


@gen_test
async def test_an_event_goes_with_its_key_and_the_position() -> None:
    """As it would have gone at first; of a chat that isn't heard no position is known."""
    async with on_stage() as stage:
        await stage.publish(1)
        given, _ = watch_appends(stage)
        key = Key("key", "token")
        stage.outbox.put(Item(CHAT, event(2), key))
        stage.outbox.put(Item("another", event(3)))
        at = stage.delivery.position(CHAT)
        await turn()
        assert given == [{"key": key, "known": at}, {"key": None, "known": None}]


@gen_test
async def test_an_item_without_event_and_step_is_skipped() -> None:
    """There is nothing to hand over, and later items do not wait for it."""
    async with on_stage() as stage:
        stage.outbox.put(Item(CHAT, None))
        stage.outbox.put(Item(CHAT, None, Key("key", "token")))
        put(stage, 1)
        await turn()
        assert (stage.backend.asked, len(stage.outbox)) == (["1"], 0)


@gen_test
async def test_a_failed_flush_is_tried_again_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new item does not shorten the pause; the return of the backend does, once."""
    monkeypatch.setattr(outbox, "RETRY", 0.05)
    async with on_stage() as stage:
        stage.backend.failure = Unavailable()
        began = time.monotonic()
        put(stage, 1)
        await turn()
        put(stage, 2, 3)
        await turn()
        assert stage.backend.asked == ["1"]
        await until(lambda: len(stage.backend.asked) == 2)
        assert time.monotonic() - began > 0.04
        await turn()
        stage.backend.failure = None
        stage.outbox.flush()
        stage.outbox.flush()
        await turn()
        assert stage.backend.asked == ["1", "1", "1", "2", "3"]
        assert stage.outbox._retry is None
        await asyncio.sleep(0.07)
        assert len(stage.backend.asked) == 5


@gen_test
async def test_an_internal_error_is_logged_and_the_flush_retried(
    monkeypatch: pytest.MonkeyPatch, expect_log: Expect
) -> None:
    """An unexpected error loses no event."""
    expect_log("outbox flush failed")
    monkeypatch.setattr(outbox, "RETRY", 0.005)
    async with on_stage() as stage:
        stage.backend.failure = ValueError("of the test")
        put(stage, 1)
        await until(lambda: len(stage.backend.asked) > 1)
        await stage.recover()
        assert stage.heard.numbers(CHAT) == ["1"]
        assert stage.delivery.counts.overflowed == 0


# -- what is lost -----------------------------------------------------------------------------------


@gen_test
async def test_a_lost_event_is_counted_and_its_chat_renewed() -> None:
    """For the epoch in which all nodes have lost the same; two losses that differ are this node's own."""
    async with on_stage() as stage:
        renewed = watch_renewals(stage)
        stage.backend.failure = Unavailable()
        for chat, epoch in [("a", "e1"), ("b", ""), ("c", "e1"), ("c", ""), ("d", ""), ("d", "e1")]:
            stage.outbox.lose(chat, epoch)
        stage.outbox.lose("a", "e1")
        await turn()
        assert renewed == []
        assert stage.delivery.counts.overflowed == 7
        stage.backend.failure = None
        stage.delivery.restored()
        await turn()
        assert renewed == [("a", "e1"), ("b", ""), ("c", ""), ("d", "")]
        stage.outbox.lose("a", "e2")
        await turn()
        assert renewed[4:] == [("a", "e2")]


@gen_test
async def test_a_loss_waits_for_what_waits_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chat begins its new epoch once the rest is handed over, which is tried again by itself."""
    monkeypatch.setattr(outbox, "RETRY", 0.005)
    async with on_stage() as stage:
        renewed = watch_renewals(stage)
        stage.backend.failure = Unavailable()
        stage.outbox.lose(CHAT)
        put(stage, 1)
        await turn()
        assert renewed == []
        stage.backend.failure = None
        await until(lambda: renewed)
        assert renewed == [(CHAT, "")]
        assert stage.delivery.counts.published == 1


@gen_test
async def test_a_full_outbox_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, expect_log: Expect, caplog: pytest.LogCaptureFixture
) -> None:
    """One line, however many events are lost in one outage; an outcome that doesn't fit is not a loss."""
    expect_log("outbox full")
    monkeypatch.setattr(outbox, "MAX_ITEMS", 1)
    async with on_stage() as stage:
        stage.backend.failure = Unavailable()
        put(stage, 1)
        stage.outbox.put(Item(CHAT, None, Key("key", "token"), "released"))
        assert stage.delivery.counts.overflowed == 0
        put(stage, 2, 3)
        assert stage.delivery.counts.overflowed == 2
        assert len([r for r in caplog.records if r.levelname == "ERROR"]) == 1


@gen_test
async def test_refusals_are_counted_for_each_item(
    monkeypatch: pytest.MonkeyPatch, expect_log: Expect
) -> None:
    """Each may be refused a few times; of a chat that has lost one, the next goes at the first refusal."""
    expect_log("event dropped")
    monkeypatch.setattr(outbox, "RETRY", 0.001)
    async with on_stage() as stage:
        watch_renewals(stage)
        stage.backend.failure = Unavailable(refused=True)
        put(stage, 1, 2)
        put(stage, 3, chat="another")
        await until(lambda: not stage.outbox)
        assert [stage.backend.asked.count(str(number)) for number in (1, 2, 3)] == [5, 1, 5]
        assert stage.delivery.counts.overflowed == 3
        assert stage.delivery.counts.published == 0


@gen_test
async def test_refusals_of_a_key(monkeypatch: pytest.MonkeyPatch, expect_log: Expect) -> None:
    """An outcome that can never be recorded is given up like an event."""
    expect_log("event dropped")
    async with on_stage() as stage:
        watch_renewals(stage)
        stage.backend.failure = Rejected("of the test")
        stage.outbox.put(Item(CHAT, None, Key("key", "token"), "released"))
        await turn()
        assert not stage.outbox


# -- the end ----------------------------------------------------------------------------------------


@gen_test
async def test_closing_hands_over_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """It tries again often until all is taken, and waits no longer than that."""
    monkeypatch.setattr(outbox, "LAST_RETRY", 0.005)
    async with on_stage() as stage:
        stage.backend.failure = Unavailable()
        put(stage, 1, 2)
        await turn()
        closing = asyncio.ensure_future(stage.outbox.close(10))
        await until(lambda: len(stage.backend.asked) > 3)
        stage.backend.failure = None
        async with asyncio.timeout(1):
            await closing
        assert stage.heard.numbers(CHAT) == ["1", "2"]
        assert stage.outbox._retry is None


@gen_test
@pytest.mark.parametrize("hangs", [True, False])
async def test_closing_logs_what_is_left(
    hangs: bool, monkeypatch: pytest.MonkeyPatch, expect_log: Expect
) -> None:
    """After its time it gives up, also while the backend doesn't answer, and leaves no timer and no task."""
    expect_log("'count': 2, 'event': 'events not handed over")
    monkeypatch.setattr(outbox, "LAST_RETRY", 0.005)
    async with on_stage() as stage:
        stage.backend.failure = Unavailable()
        if hangs:

            async def never(*_: Any, **__: Any) -> tuple[Cursor, bool]:
                await asyncio.Event().wait()
                raise AssertionError

            stage.backend.append = never  # type: ignore[method-assign]
        put(stage, 1, 2)
        await turn()
        began = time.monotonic()
        async with asyncio.timeout(2):
            await stage.outbox.close(0.05)
        assert time.monotonic() - began > 0.04
        await turn()
        assert stage.outbox._flushing is None
        assert stage.outbox._retry is None or stage.outbox._retry.cancelled()
        stage.outbox._items.clear()


@gen_test
async def test_closing_leaves_the_backend_some_time(
    monkeypatch: pytest.MonkeyPatch, expect_log: Expect
) -> None:
    """A backend that fails at once is not asked all the time."""
    expect_log("events not handed over")
    monkeypatch.setattr(outbox, "LAST_RETRY", 0.02)
    async with on_stage() as stage:
        stage.backend.failure = Unavailable()
        put(stage, 1)
        await turn()
        await stage.outbox.close(0.1)
        assert len(stage.backend.asked) < 8
        stage.outbox._items.clear()


@gen_test
async def test_closing_without_any_time(expect_log: Expect) -> None:
    """Nothing is tried any more, and no timer is left."""
    expect_log("events not handed over")
    async with on_stage() as stage:
        stage.backend.failure = Unavailable()
        put(stage, 1)
        await turn()
        retry = stage.outbox._retry
        assert retry is not None
        await stage.outbox.close(0)
        assert retry.cancelled()
        assert stage.backend.asked == ["1"]
        stage.outbox._items.clear()


@gen_test
async def test_closing_an_empty_outbox_takes_no_time() -> None:
    """Nothing waits, and the backend is not asked."""
    async with on_stage() as stage:
        async with asyncio.timeout(1):
            await stage.outbox.close(10)
        assert stage.backend.asked == []
