"""Subscriptions: a chat that is wanted is subscribed, whatever the backend does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from eclipse_ws.backends.base import Position, Unavailable
from tests.backends.harness import until
from tests.delivery.asked import Timer, known, on_stage, told, turn

gen_test = pytest.mark.gen_test(timeout=20)
Expect = Callable[..., None]
CHAT = "chat"


@gen_test
async def test_subscribing_waits_until_the_chat_is_live() -> None:
    """It returns with the answer and no sooner, and a chat that is live isn't asked for again."""
    async with on_stage() as stage:
        stage.backend.gate.clear()
        joining = [asyncio.ensure_future(stage.delivery.subscribe(CHAT)) for _ in range(3)]
        await turn()
        assert not any(task.done() for task in joining)
        stage.backend.gate.set()
        await asyncio.gather(*joining)
        assert known(stage).live
        await stage.delivery.subscribe(CHAT)
        assert stage.backend.asked == [(CHAT, None, False)]
        assert list(stage.subscriptions) == [CHAT]
        assert stage.heard.interrupts == []


@gen_test
async def test_sessions_greeted_without_a_position_resume() -> None:
    """Joining does not wait for a backend that is down. Those sessions resume later, newer ones do not."""
    async with on_stage() as stage:
        stage.backend.is_up = False
        stage.backend.failures = [Unavailable()]
        await stage.delivery.subscribe(CHAT)
        assert (known(stage).live, stage.delivery.position(CHAT)) == (False, None)
        await turn()
        assert stage.heard.interrupts == []
        stage.backend.is_up = True
        stage.delivery.restored()
        await until(lambda: known(stage).live)
        assert stage.heard.interrupts == [CHAT]
        stage.delivery.lost()
        stage.delivery.restored()
        await until(lambda: known(stage).live)
        assert stage.heard.interrupts == [CHAT]


@gen_test
async def test_sessions_greeted_with_a_position_stay() -> None:
    """A chat whose position is known is joined at it during an outage, and nobody resumes afterwards."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        stage.backend.is_up = False
        stage.delivery.lost()
        await stage.delivery.subscribe(CHAT)
        await stage.elsewhere(CHAT, 1)
        stage.backend.is_up = True
        stage.delivery.restored()
        await until(lambda: stage.heard.numbers(CHAT) == ["1"])
        assert stage.heard.interrupts == []


@gen_test
async def test_joining_waits_only_for_one_timeout() -> None:
    """Joining takes no longer than one command may; the chat goes live later."""
    async with on_stage() as stage:
        stage.backend.timeout = 0.02
        stage.backend.gate.clear()
        await stage.delivery.subscribe(CHAT)
        assert not known(stage).live
        stage.backend.gate.set()
        await until(lambda: known(stage).live)
        assert stage.heard.interrupts == [CHAT]


@gen_test
async def test_a_chat_goes_live_without_its_waiters() -> None:
    """A chat goes live whether or not a session still waits for it."""
    async with on_stage() as stage:
        stage.backend.gate.clear()
        joining = asyncio.ensure_future(stage.delivery.subscribe(CHAT))
        await turn()
        stage.subscriptions.readiness(known(stage)).cancel()
        stage.backend.gate.set()
        await joining
        await until(lambda: known(stage).live)


@gen_test
async def test_after_an_outage_what_was_missed_comes() -> None:
    """Every chat that is not live is asked for from its position, and those that are live are not."""
    async with on_stage() as stage:
        for chat in (CHAT, "other"):
            await stage.delivery.subscribe(chat)
        await stage.publish(CHAT, 1)
        at = stage.delivery.position(CHAT)
        assert at is not None
        stage.delivery.lost()
        await stage.elsewhere(CHAT, 2, 3)
        stage.backend.asked.clear()
        stage.delivery.restored()
        await until(lambda: stage.heard.numbers(CHAT) == ["1", "2", "3"])
        assert [chat for chat, _, _ in stage.backend.asked] == [CHAT, "other"]
        assert stage.backend.asked[0] == (CHAT, Position(at, "message:1"), False)
        stage.delivery.restored()
        await turn()
        assert len(stage.backend.asked) == 2
        assert stage.heard.interrupts == []


@gen_test
@pytest.mark.parametrize("losses", [1, 2])
async def test_an_answer_from_before_a_loss_is_ignored(losses: int) -> None:
    """A subscription that was lost meanwhile does not make the chat live: the backend is asked again."""
    async with on_stage() as stage:
        for _ in range(losses - 1):
            stage.delivery.lost()
        stage.backend.gate.clear()
        joining = asyncio.ensure_future(stage.delivery.subscribe(CHAT))
        await turn()
        stage.delivery.lost()
        stage.backend.gate.set()
        await turn()
        assert not known(stage).live
        assert not joining.done()
        await joining  # it is tried again soon
        assert known(stage).live
        assert len(stage.backend.asked) == 2


@gen_test
async def test_pauses_grow_with_refusals(timers: list[Timer], expect_log: Expect) -> None:
    """The pause grows up to a bound, and one warning is logged, until a subscription succeeds."""
    expect_log("chat not subscribed; trying again")
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        for _ in range(2):
            stage.backend.failures = [Unavailable(refused=True) for _ in range(8)]
            stage.delivery.lost()
            stage.delivery.restored()
            await turn()
            for _ in range(8):
                timers[-1].call()
                await turn()
            assert [timer.delay for timer in timers] == [1, 2, 4, 8, 16, 30, 30, 30]
            assert known(stage).live
            timers.clear()


@gen_test
async def test_repeated_refusals_are_logged_once(
    expect_log: Expect, caplog: pytest.LogCaptureFixture
) -> None:
    """A single refusal is not logged; many in a row are one line."""
    expect_log("chat not subscribed; trying again")
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        for count in (1, 2, 3, 4):
            known(stage).refusals = count - 1
            caplog.clear()
            stage.backend.failures = [Unavailable(refused=True)]
            stage.delivery.lost()
            stage.delivery.restored()
            await turn()
            assert len([r for r in caplog.records if r.levelname == "WARNING"]) == (count == 2)


@gen_test
async def test_other_failures_are_tried_again(timers: list[Timer], expect_log: Expect) -> None:
    """After a failure that passes, the pause is short; after an internal error, which is logged, long."""
    expect_log("chat not subscribed; trying again")
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        failures = [*(Unavailable() for _ in range(4)), ValueError("of the test")]
        stage.backend.failures = list(failures)
        stage.delivery.lost()
        stage.delivery.restored()
        await turn()
        for _ in failures:
            timers[-1].call()
            await turn()
        assert [timer.delay for timer in timers] == [0.1] * 4 + [30]
        assert known(stage).live
        asked = len(stage.backend.asked)
        timers[-1].call()  # it is live by now
        await turn()
        assert len(stage.backend.asked) == asked


@gen_test
@pytest.mark.parametrize("why", ["down", "let go", "let go and joined"])
async def test_subscriptions_that_are_not_tried_again(timers: list[Timer], why: str) -> None:
    """A backend that is down reports when it is back, and a chat that was unsubscribed is not needed."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        stage.backend.failures = [Unavailable(), Unavailable()]
        stage.delivery.lost()
        stage.delivery.restored()
        await turn()
        asked = len(stage.backend.asked)
        if why == "down":
            stage.backend.is_up = False
        else:
            del stage.subscriptions._chats[CHAT]
        if why == "let go and joined":
            stage.backend.is_up = False
            await stage.delivery.subscribe(CHAT)
            await turn()
            stage.backend.is_up = True
            asked += 1
        timers[0].call()
        await turn()
        assert len(stage.backend.asked) == asked


@gen_test
@pytest.mark.parametrize("how", ["another node", "lost", "lost too"])
async def test_a_new_epoch_during_a_subscription_is_not_missed(how: str) -> None:
    """The backend may have answered before the new epoch: the chat is subscribed to once more."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        stage.backend.gate.clear()
        if how == "lost too":
            stage.subscriptions.renew(CHAT)
        else:
            stage.subscriptions.look_again([CHAT])
        await turn()
        if how == "another node":
            stage.backend.begin_epoch(CHAT)
            stage.subscriptions.look_again([CHAT])
        else:
            stage.subscriptions.renew(CHAT)
        stage.backend.gate.set()
        await until(lambda: known(stage).live)
        assert stage.heard.interrupts == [CHAT]
        assert len(stage.backend.asked) == 3
        assert known(stage).epoch == stage.backend._channels[CHAT].epoch


@gen_test
async def test_a_new_epoch_is_announced_even_if_the_subscription_is_lost() -> None:
    """The other nodes are in an epoch that is over, although this node does not hear the chat either."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        stage.backend.gate.clear()
        stage.subscriptions.renew(CHAT, known(stage).epoch)
        await turn()
        stage.delivery.lost()
        stage.backend.gate.set()
        await turn()
        assert told(stage) == [[CHAT]]
