"""Lingering: how long a chat that nobody is in is heard, and what becomes of it then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from eclipse_ws.backends.base import Unavailable
from eclipse_ws.delivery import presence, subscriptions
from tests.backends.harness import until
from tests.delivery.asked import LIFETIME, known, on_stage, turn

gen_test = pytest.mark.gen_test(timeout=20)
Expect = Callable[..., None]
CHAT = "chat"


@gen_test
async def test_a_chat_without_members_is_unsubscribed_in_time() -> None:
    """A chat is unsubscribed at the end of its lifetime, not before; chats with members stay."""
    async with on_stage(history_seconds=0.2) as stage:
        for chat in ("a", "b", "c"):
            await stage.delivery.subscribe(chat)
        stage.delivery.unsubscribe("a")
        stage.now += 0.1
        stage.delivery.unsubscribe("b")
        stage.now += 0.1
        await until(lambda: stage.backend.left)
        await turn()
        assert stage.backend.left == [["a"]]
        assert list(stage.subscriptions) == ["b", "c"]
        assert len(stage.subscriptions) == 2


@gen_test
async def test_many_are_let_go_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands that are due at once go in pieces, each chat once."""
    monkeypatch.setattr(subscriptions, "BATCH", 2)
    async with on_stage(history_seconds=0.2) as stage:
        for chat in "abcde":
            await stage.delivery.subscribe(chat)
            stage.delivery.unsubscribe(chat)
        stage.now += 1
        await until(lambda: not len(stage.subscriptions))
        assert stage.backend.left == [["a", "b"], ["c", "d"], ["e"]]


@gen_test
async def test_joining_a_chat_while_it_is_unsubscribed() -> None:
    """A session that joins meanwhile has the chat subscribed to again, and it goes live only after that."""
    async with on_stage(history_seconds=0.2) as stage:
        for chat in (CHAT, "other"):
            await stage.delivery.subscribe(chat)
            stage.delivery.unsubscribe(chat)
        stage.now += 1
        stage.backend.leaving.clear()
        await until(lambda: stage.backend.left)
        stage.backend.gate.clear()
        joining = asyncio.ensure_future(stage.delivery.subscribe(CHAT))
        await turn()
        assert not known(stage).live
        assert not joining.done()
        stage.backend.leaving.set()
        await turn()
        stage.backend.gate.set()
        await joining
        assert known(stage).members
        assert list(stage.subscriptions) == [CHAT]


@gen_test
@pytest.mark.parametrize("failure", [Unavailable(), ValueError("of the test")])
async def test_a_chat_that_can_not_be_unsubscribed_stays(failure: Exception, expect_log: Expect) -> None:
    """It is heard again at once if it was heard before, and the next sweep unsubscribes from it."""
    if isinstance(failure, ValueError):
        expect_log("chats not unsubscribed")
    async with on_stage(history_seconds=0.2) as stage:
        await stage.delivery.subscribe(CHAT)
        stage.delivery.unsubscribe(CHAT)
        stage.backend.failures = [failure]
        stage.now += 1
        await until(lambda: stage.backend.left)
        await turn()
        assert known(stage).live
        assert not known(stage).leaving
        assert len(stage.backend.asked) == 2
        await until(lambda: stage.subscriptions.get(CHAT) is None)
        assert stage.backend.left == [[CHAT]] * 2


@gen_test
async def test_what_can_not_be_let_go_during_an_outage() -> None:
    """A chat that isn't heard anyway is asked for when the backend is back, and no sooner."""
    async with on_stage(history_seconds=0.2) as stage:
        await stage.delivery.subscribe(CHAT)
        stage.delivery.unsubscribe(CHAT)
        stage.delivery.lost()
        stage.backend.is_up = False
        stage.backend.failures = [Unavailable()]
        stage.now += 0.2
        await until(lambda: not stage.backend.failures)
        await turn()
        assert not known(stage).leaving
        assert len(stage.backend.asked) == 1


@gen_test
async def test_an_unsubscription_without_an_answer_is_repaired() -> None:
    """A backend that fails may have unsubscribed from the chat: a session that joins then hears it."""
    async with on_stage(history_seconds=0.2) as stage:
        await stage.delivery.subscribe(CHAT)
        unsubscribe = stage.backend.unsubscribe

        async def fail(chat_ids: Sequence[str]) -> None:
            await unsubscribe(chat_ids)
            raise Unavailable(asked=True)

        stage.backend.unsubscribe = fail  # type: ignore[method-assign]
        stage.delivery.unsubscribe(CHAT)
        stage.now += 0.2
        await until(lambda: stage.backend.left)
        await stage.delivery.subscribe(CHAT)
        await stage.publish(CHAT, 1)
        await until(lambda: stage.heard.numbers(CHAT) == ["1"])


@gen_test
async def test_what_is_being_subscribed_is_not_let_go() -> None:
    """A chat whose lifetime ends while the backend is asked for it stays until that is answered."""
    async with on_stage(history_seconds=0.2) as stage:
        stage.backend.gate.clear()
        stage.backend.timeout = 0.01
        await stage.delivery.subscribe(CHAT)
        stage.delivery.unsubscribe(CHAT)
        stage.now += 1
        await asyncio.sleep(0.2)  # a few sweeps
        assert stage.backend.left == []
        stage.backend.gate.set()
        await until(lambda: stage.subscriptions.get(CHAT) is None)


@gen_test
async def test_lingering_is_as_long_as_the_history() -> None:
    """Leaving notes when a chat ends; leaving again, or leaving what is unknown, changes nothing."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        stage.delivery.unsubscribe("unknown")
        stage.delivery.unsubscribe(CHAT)
        assert (known(stage).members, known(stage).expires) == (False, 1000 + LIFETIME)
        stage.now += 1
        stage.delivery.unsubscribe(CHAT)
        assert known(stage).expires == 1000 + LIFETIME
        await stage.delivery.subscribe(CHAT)
        assert known(stage).members
        assert len(stage.subscriptions) == 1


@gen_test
async def test_closing_ends_all_waiting() -> None:
    """Nobody waits for a chat any more, nothing is subscribed to any more, and no task is left."""
    async with on_stage() as stage:
        stage.backend.gate.clear()
        joining = asyncio.ensure_future(stage.delivery.subscribe(CHAT))
        await turn()
        chat = known(stage)
        await stage.delivery.close()
        await joining
        assert not len(stage.subscriptions)
        stage.subscriptions.resubscribe(chat)
        assert not chat.subscribing
        assert [t for t in asyncio.all_tasks() if t is not asyncio.current_task()] == []


@gen_test
@pytest.mark.parametrize(("lifetime", "interval"), [(0.1, 0.05), (1.0, 0.25), (20.0, 5.0), (3600.0, 5.0)])
async def test_the_interval_of_the_sweep(
    lifetime: float, interval: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four times in a lifetime: not all the time, and not so seldom that many chats are due together."""
    slept: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        if not seconds:
            await sleep(0)
            return
        slept.append(seconds)
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio, "sleep", noted)
    async with on_stage(history_seconds=lifetime):
        await turn()
        assert slept == [interval, presence.TICK]


@gen_test
async def test_joining_a_chat_before_it_is_unsubscribed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chat that is due, and joined or taken over while those before it are let go, stays; so does one that
    is being subscribed.
    """
    monkeypatch.setattr(subscriptions, "BATCH", 1)
    async with on_stage(history_seconds=0.2) as stage:
        for chat in "abcd":
            await stage.delivery.subscribe(chat)
            stage.delivery.unsubscribe(chat)
        stage.now += 1
        stage.backend.leaving.clear()
        await until(lambda: stage.backend.left)
        await stage.delivery.subscribe("b")
        assert await stage.delivery._handover.take_over(["c"]) == []
        stage.backend.gate.clear()
        stage.subscriptions.look_again(["d"])
        stage.backend.leaving.set()
        await turn()
        assert list(stage.subscriptions) == ["b", "c", "d"]
        assert stage.backend.left == [["a"]]
        await stage.publish("b", 1)
        assert stage.heard.numbers("b") == ["1"]
