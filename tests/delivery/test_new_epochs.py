"""New epochs: who begins one, who hears of it, and what happens to events of other epochs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from eclipse_ws.backends.base import Position, Subscription, Unavailable
from eclipse_ws.delivery import subscriptions
from eclipse_ws.protocol import Cursor
from tests.backends.harness import event, until
from tests.delivery.asked import Timer, known, on_stage, told, turn

gen_test = pytest.mark.gen_test(timeout=20)
Expect = Callable[..., None]
CHAT = "chat"


@gen_test
async def test_what_can_not_be_had_interrupts_before_anything_new() -> None:
    """Sessions resume before an event of the new epoch comes; local copies of the old one are forgotten."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        known(stage).deliver_locally(event("local"))
        order: list[str] = []
        stage.heard.interrupt = order.append  # type: ignore[method-assign]
        deliver = known(stage).deliver
        known(stage).deliver = lambda chat_id, e: (order.append(e.identity), deliver(chat_id, e))[0]
        stage.backend.gate.clear()
        stage.backend.begin_epoch(CHAT)
        await stage.publish(CHAT, 1)  # of another epoch: the backend is asked
        await turn()
        await stage.publish(CHAT, 2)
        stage.backend.gate.set()
        await until(lambda: known(stage).live)
        assert order == [CHAT, "message:2"]
        assert stage.delivery.local_copies(CHAT) == ()
        assert told(stage) == []  # another node has begun it


@gen_test
async def test_an_own_loss_begins_an_epoch_and_tells_it() -> None:
    """The backend begins one whatever it knows, sessions resume, and the other nodes look again."""
    async with on_stage() as stage:
        for chat in ("a", "b", "c"):
            await stage.delivery.subscribe(chat)
        epoch = known(stage, "a").epoch
        stage.backend.asked.clear()
        for chat in ("a", "b", "c"):
            stage.subscriptions.renew(chat)
            assert not known(stage, chat).live
        await until(lambda: len(told(stage)) == 1)
        assert stage.backend.asked == [(chat, None, True) for chat in ("a", "b", "c")]
        assert told(stage) == [["a", "b", "c"]]
        assert stage.heard.interrupts == ["a", "b", "c"]
        assert known(stage, "a").epoch != epoch
        assert known(stage, "a").earlier == (epoch,)
        stage.delivery.lost()
        stage.delivery.restored()
        await until(lambda: known(stage, "c").live)
        assert not any(renew for _, _, renew in stage.backend.asked[3:])


@gen_test
async def test_many_new_epochs_are_announced_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chats of one turn share notes, at most as many as fit into one, and each is announced once."""
    monkeypatch.setattr(subscriptions, "BATCH", 2)
    async with on_stage() as stage:
        chats = [f"chat-{number}" for number in range(5)]
        for chat in chats:
            stage.subscriptions._tell_renewed(chat)
        await turn()
        assert told(stage) == [chats[:2], chats[2:4], chats[4:]]
        stage.subscriptions._tell_renewed("later")
        await turn()
        assert told(stage)[3:] == [["later"]]


@gen_test
async def test_a_shared_loss_renews_only_its_epoch() -> None:
    """A node that is in that epoch renews the chat; one in another epoch, or without the chat, does not."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        at = stage.delivery.position(CHAT)
        assert at is not None
        stage.backend.asked.clear()
        stage.subscriptions.renew(CHAT, "another")
        stage.subscriptions.renew("unknown", at.epoch)
        await turn()
        assert (stage.backend.asked, stage.subscriptions.get("unknown")) == ([], None)
        assert known(stage).live
        stage.subscriptions.renew(CHAT, at.epoch)
        await until(lambda: known(stage).live)
        assert stage.backend.asked == [(CHAT, Position(at), True)]
        assert stage.heard.interrupts == [CHAT]


@gen_test
@pytest.mark.parametrize("order", [("", "epoch"), ("epoch", "")])
async def test_an_own_loss_counts_more_than_a_shared_one(order: tuple[str, str]) -> None:
    """Of both, the chat begins a new epoch even if another node has begun one."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        stage.backend.is_up = False
        stage.backend.asked.clear()
        epoch = known(stage).epoch
        for each in order:
            stage.subscriptions.renew(CHAT, each and epoch)
        await until(lambda: known(stage).live)
        assert stage.backend.asked == [(CHAT, None, True)]


@gen_test
async def test_a_loss_while_the_backend_answers() -> None:
    """An answer that was asked for before the loss doesn't count: the backend is asked to renew."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        epoch = known(stage).epoch
        stage.delivery.lost()
        stage.backend.asked.clear()
        stage.backend.gate.clear()
        stage.delivery.restored()
        await turn()
        stage.subscriptions.renew(CHAT)
        stage.backend.gate.set()
        await until(lambda: known(stage).live)
        assert [renew for _, _, renew in stage.backend.asked] == [False, True]
        assert known(stage).epoch != epoch


@gen_test
async def test_a_loss_in_a_chat_without_sessions() -> None:
    """It is subscribed to for the new epoch, and unsubscribed a lifetime later."""
    async with on_stage(history_seconds=0.2) as stage:
        await stage.backend.append(CHAT, event(0))
        stage.subscriptions.renew(CHAT)
        assert not known(stage).members
        await until(lambda: known(stage).live)
        assert stage.backend.asked == [(CHAT, None, True)]
        await turn()
        assert told(stage) == [[CHAT]]
        stage.now += 0.3
        await until(lambda: stage.subscriptions.get(CHAT) is None)


@gen_test
async def test_a_loss_in_a_chat_with_sessions() -> None:
    """A chat with sessions does not begin to linger with a new epoch."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        stage.subscriptions.renew(CHAT)
        assert known(stage).members


@gen_test
async def test_a_backend_that_goes_back_in_time() -> None:
    """An epoch that was over begins no second time: another one does, which the other nodes are told."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        old = stage.backend.begin_epoch(CHAT)
        stage.delivery.lost()
        stage.delivery.restored()
        await until(lambda: known(stage).live)
        new = known(stage).epoch
        assert (known(stage).earlier, stage.heard.interrupts) == ((old,), [CHAT])
        stage.backend._channels[CHAT].epoch = old
        stage.backend.asked.clear()
        stage.delivery.lost()
        stage.delivery.restored()
        await until(lambda: known(stage).live)
        await turn()
        assert [(at, renew) for _, at, renew in stage.backend.asked] == [
            (Position(Cursor(new, 0)), False),
            (None, True),
        ]
        assert known(stage).epoch not in (old, new)
        assert told(stage) == [[CHAT]]
        assert stage.heard.interrupts == [CHAT, CHAT]


@gen_test
async def test_going_back_in_time_is_always_announced() -> None:
    """A node that replaces an epoch that was over announces the new one, whatever the backend answers."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        known(stage).earlier = ("before",)
        answers = iter(["before", "after"])
        stage.backend.answer = lambda answer: Subscription(Position(Cursor(next(answers), 0)))
        stage.delivery.lost()
        stage.delivery.restored()
        await until(lambda: known(stage).epoch == "after")
        await turn()
        assert told(stage) == [[CHAT]]


@gen_test
async def test_looking_again() -> None:
    """Of the chats of a note those that are live are asked for, and no others."""
    async with on_stage() as stage:
        for chat in ("a", "b", "c"):
            await stage.delivery.subscribe(chat)
        stage.backend.asked.clear()
        known(stage, "b").live = False
        stage.subscriptions.look_again(["unknown", "b", "a"])
        assert not known(stage, "a").live
        await until(lambda: known(stage, "a").live)
        assert [chat for chat, _, _ in stage.backend.asked] == ["a"]
        assert known(stage, "c").live
        assert not known(stage, "b").live


@gen_test
@pytest.mark.parametrize("epoch", ["", "another"])
async def test_forged_events_are_dropped(epoch: str, expect_log: Expect) -> None:
    """Waiting events that the backend doesn't know are dropped with a warning, and hide no real event."""
    if not epoch:
        expect_log("'count': 2, 'event': 'events with forged cursors dropped'")
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        stage.backend.gate.clear()
        for offset in (7, 9):
            cursor = Cursor(epoch or known(stage).epoch, offset)
            stage.delivery.deliver(CHAT, event(f"forged {offset}").sequenced(cursor))
        stage.backend.gate.set()
        await until(lambda: known(stage).live)
        assert stage.heard.numbers(CHAT) == []
        await stage.publish(CHAT, "honest")
        assert stage.heard.cursors(CHAT) == [Cursor(known(stage).epoch, 1)]


@gen_test
async def test_the_backend_is_asked_until_all_follows() -> None:
    """What is heard after a gap while the backend answers is asked for again, until it follows."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        stage.backend.gate.clear()
        stage.delivery.lost()
        stage.delivery.restored()
        await turn()
        await stage.elsewhere(CHAT, 1)
        await stage.publish(CHAT, 2)
        stage.backend.asked.clear()
        stage.backend.gate.set()
        await until(lambda: stage.heard.numbers(CHAT) == ["1", "2"])
        assert known(stage).live
        assert len(stage.backend.asked) == 1  # beside the first one, which knew of nothing


@gen_test
async def test_the_backend_has_a_pause_between_rounds(timers: list[Timer], expect_log: Expect) -> None:
    """However fast gaps come, the backend has a pause after a few rounds, and no wrong event is delivered."""
    expect_log("events with forged cursors dropped")
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        stage.backend.asked.clear()
        far = iter(range(100, 200, 2))

        def answer(given: Subscription) -> Subscription:
            cursor = Cursor(given.position.cursor.epoch, next(far))
            stage.delivery.deliver(CHAT, event(cursor.offset).sequenced(cursor))
            return given

        stage.backend.answer = answer
        stage.delivery.lost()
        stage.delivery.restored()
        await turn()
        assert len(stage.backend.asked) == subscriptions.ROUNDS
        assert [timer.delay for timer in timers] == [0.1]
        assert not known(stage).live
        assert stage.heard.numbers(CHAT) == []


@gen_test
async def test_reaching_a_cursor() -> None:
    """Another node's cursor is waited for until its event is heard, no longer than a command may take."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        at = stage.delivery.position(CHAT)
        assert at is not None
        chat, next_one = known(stage), at._replace(offset=1)
        reaching = asyncio.ensure_future(stage.subscriptions.reached(chat, next_one))
        await asyncio.sleep(0.02)
        assert not reaching.done()
        await stage.publish(CHAT, 1)
        assert await reaching
        assert await stage.subscriptions.reached(chat, next_one)
        chat.earlier = ("over",)
        async with asyncio.timeout(2):
            assert not await stage.subscriptions.reached(chat, Cursor("over", 1))
        stage.backend.timeout = 0.01
        assert not await stage.subscriptions.reached(chat, Cursor("~another", 0))
        assert not await stage.subscriptions.reached(chat, at._replace(offset=2))


@gen_test
async def test_a_new_epoch_is_told_until_it_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """A note that the backend doesn't take is sent again, with what is due by then."""
    monkeypatch.setattr(subscriptions, "RETRY", 0.01)
    async with on_stage() as stage:
        for chat in ("a", "b"):
            await stage.delivery.subscribe(chat)
        stage.backend.sending = Unavailable()
        stage.subscriptions.renew("a")
        await until(lambda: told(stage)[1:] == [["a"]])
        stage.subscriptions.renew("b")
        await until(lambda: told(stage)[-1] == ["a", "b"])
        stage.backend.sending = None
        count = len(told(stage))
        await until(lambda: not stage.subscriptions.is_renewing)
        assert told(stage)[count:] == [["a", "b"]]
