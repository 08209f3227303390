"""Delivery: what it makes of what comes over a chat's wire, of failures, and of what the hub asks for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from eclipse_ws.backends.base import BackendError, Health, Rejected, Unavailable
from eclipse_ws.delivery import outbox
from eclipse_ws.protocol import Cursor, Event, Receipt
from tests.backends.harness import body, event, typing, until
from tests.delivery.asked import Stage, known, on_stage, turn

gen_test = pytest.mark.gen_test(timeout=20)
Expect = Callable[..., None]
CHAT = "chat"


def watch_losses(stage: Stage) -> list[tuple[str, str]]:
    """The chats that lose an event from now on, and the epoch in which all nodes do."""
    lost: list[tuple[str, str]] = []
    stage.delivery._outbox.lose = lambda *named: lost.append(named)  # type: ignore
    return lost


def fail(stage: Stage, error: Exception) -> list[Event]:
    """Have every event refused; those that are tried."""
    tried: list[Event] = []

    async def append(chat_id: str, event: Event, **named: Any) -> Any:
        tried.append(event)
        raise error

    stage.backend.append = append  # type: ignore[method-assign]
    return tried


# -- beginning and end ------------------------------------------------------------------------------


@gen_test
async def test_a_backend_that_can_never_work() -> None:
    """A failed start is the caller's, and leaves nothing behind."""
    stage = Stage()
    closed: list[bool] = []

    async def start(listener: Any) -> None:
        raise BackendError("of the test")

    async def close() -> None:
        closed.append(True)

    stage.backend.start, stage.backend.close = start, close  # type: ignore[method-assign]
    with pytest.raises(BackendError, match="of the test"):
        await stage.delivery.start(stage.heard)
    assert closed == [True]
    assert [t for t in asyncio.all_tasks() if t is not asyncio.current_task()] == []


@gen_test
async def test_closing_what_never_started() -> None:
    """It is not an error, and leaves nothing."""
    await Stage().delivery.close()
    assert [t for t in asyncio.all_tasks() if t is not asyncio.current_task()] == []


@gen_test
async def test_closing_twice() -> None:
    """The second call has nothing left to do; the first one cancels what is being recorded in the backend."""
    async with on_stage() as stage:
        closed: list[bool] = []
        close = stage.backend.close

        async def noted() -> None:
            closed.append(True)
            await close()

        async def record(*args: Any, **named: Any) -> Any:
            await asyncio.Event().wait()

        await stage.delivery.attempt(CHAT, "key")
        stage.backend.close = noted  # type: ignore[method-assign]
        stage.backend.record = record  # type: ignore[method-assign]
        stage.delivery.restored()
        await turn()
        for _ in range(2):
            await stage.delivery.close()
        assert closed == [True]
        assert [t for t in asyncio.all_tasks() if t is not asyncio.current_task()] == []


@gen_test
@pytest.mark.parametrize("hangs", [True, False])
async def test_closing_waits_for_what_the_application_has_published(hangs: bool) -> None:
    """What came over the wire is sequenced before the node goes, unless the backend doesn't answer."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        stage.backend.timeout = 0.05
        append, gate = stage.backend.append, asyncio.Event()

        async def slow(*args: Any, **named: Any) -> Any:
            await gate.wait()
            return await append(*args, **named)

        stage.backend.append = slow  # type: ignore[method-assign]
        stage.delivery.receive(CHAT, body("m1"))
        await turn()
        closing = asyncio.ensure_future(stage.delivery.close())
        await turn()
        assert not closing.done()
        if not hangs:
            gate.set()
        await closing
        assert stage.heard.numbers(CHAT) == ([] if hangs else ["m1"])
        assert not stage.delivery._raw


@gen_test
@pytest.mark.parametrize("kept", [True, False])
async def test_a_subscriber_that_fails(kept: bool, expect_log: Expect) -> None:
    """The sender notices nothing, the chat's sessions have to resume, and the next event arrives."""
    expect_log("event not delivered")
    async with on_stage() as stage:
        deliver, failures = stage.heard.deliver, [RuntimeError("of the test")]

        def fail_once(chat_id: str, event: Event) -> None:
            if failures:
                raise failures.pop()
            deliver(chat_id, event)

        stage.heard.deliver = fail_once  # type: ignore[method-assign]
        await stage.delivery.subscribe(CHAT)
        if kept:
            await stage.publish(CHAT, 1, 2)
        else:
            stage.delivery.broadcast(CHAT, typing())
            stage.delivery.broadcast(CHAT, typing())
        assert len(stage.heard.events[CHAT]) == 1
        assert stage.heard.interrupts == [CHAT]


# -- what the hub asks for --------------------------------------------------------------------------


@gen_test
async def test_a_cursor_at_the_position_needs_no_history() -> None:
    """A client at the position has missed nothing; for a chat that is not heard there is no answer."""
    async with on_stage() as stage:
        assert await stage.delivery.resume(CHAT, Cursor("e", 0)) is None
        await stage.delivery.subscribe(CHAT)
        await stage.publish(CHAT, 1)
        at = stage.delivery.position(CHAT)
        assert at is not None

        async def read(*args: Any) -> Any:
            raise AssertionError

        stage.backend.read = read  # type: ignore[method-assign]
        assert await stage.delivery.resume(CHAT, at) == []


@gen_test
@pytest.mark.parametrize("refused", [True, False])
async def test_a_history_that_can_not_be_read(refused: bool, expect_log: Expect) -> None:
    """The result is None, with a warning if the backend refuses only this; nothing is recorded any more."""
    if refused:
        expect_log("history not read")
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        at = stage.delivery.position(CHAT)
        assert at is not None
        await stage.publish(CHAT, 1)
        asked: list[Any] = []

        async def read(*args: Any) -> Any:
            asked.append(args)
            raise Unavailable(refused=refused)

        stage.backend.read = read  # type: ignore[method-assign]
        assert await stage.delivery.resume(CHAT, at) is None
        assert asked == [(CHAT, at, at._replace(offset=1))]
        assert (known(stage).resuming, known(stage).tail) == (0, None)


@gen_test
async def test_a_history_that_this_node_does_not_reach() -> None:
    """A client that has more than this node, which can't catch up, gets none of the history."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        at = stage.delivery.position(CHAT)
        assert at is not None
        await stage.elsewhere(CHAT, 1, 2)
        stage.backend.timeout = 0.01
        assert await stage.delivery.resume(CHAT, at._replace(offset=1)) is None
        resuming = asyncio.ensure_future(stage.delivery.resume(CHAT, at._replace(offset=1)))
        stage.backend.timeout = 5.0
        await turn()
        stage.delivery.lost()
        stage.delivery.restored()
        found = await resuming
        assert found is not None
        assert [e.identity for e in found] == ["message:2"]


@gen_test
async def test_a_cursor_of_an_epoch_that_this_node_does_not_know_yet() -> None:
    """The node catches up first, so that no event of the old epoch follows the answer."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        old = stage.backend.begin_epoch(CHAT)
        new = stage.backend._channels[CHAT].epoch
        await stage.elsewhere(CHAT, 1)
        found = await stage.delivery.resume(CHAT, Cursor(new, 0))
        assert [e.identity for e in found or ()] == ["message:1"]
        assert (known(stage).epoch, stage.heard.interrupts) == (new, [CHAT])
        stage.delivery.deliver(CHAT, event("late").sequenced(Cursor(old, 1)))
        await turn()
        assert stage.heard.numbers(CHAT) == []


@gen_test
async def test_local_copies_until_they_are_sequenced() -> None:
    """Sessions that join get them; a chat that is not heard has none."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        assert stage.delivery.local_copies(CHAT) == stage.delivery.local_copies("unknown") == ()
        append = stage.backend.append
        fail(stage, Unavailable())
        await stage.publish(CHAT, 1, 2)
        assert list(stage.delivery.local_copies(CHAT)) == [event(1), event(2)]
        stage.backend.append = append  # type: ignore[method-assign]
        stage.delivery.restored()
        await until(lambda: not stage.delivery.local_copies(CHAT))


@gen_test
async def test_what_waits_keeps_the_node_from_being_up() -> None:
    """A backend that is up counts as down while something waits; its other states are told as they are."""
    async with on_stage() as stage:
        assert stage.delivery.health == Health("memory", "up")
        fail(stage, Unavailable())
        await stage.publish(CHAT, 1)
        assert stage.delivery.health == Health("memory", "down", None, 1)
        type(stage.backend).health, before = (  # type: ignore[assignment, method-assign]
            property(lambda self: Health("memory", "connecting", 0.5)),
            type(stage.backend).health,
        )
        try:
            assert stage.delivery.health == Health("memory", "connecting", 0.5, 1)
        finally:
            type(stage.backend).health = before  # type: ignore[method-assign]


# -- publishing -------------------------------------------------------------------------------------


@gen_test
async def test_an_event_is_published_once() -> None:
    """The same again has the first receipt, and is counted as a duplicate."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        receipt = await stage.delivery.publish(CHAT, event("m1"))
        assert receipt == Receipt("m1", str(stage.delivery.position(CHAT)), "published")
        for _ in range(2):
            assert await stage.delivery.publish(CHAT, event("m1")) == receipt
        await stage.publish(CHAT, "m2")
        counts = stage.delivery.counts
        assert (counts.published, counts.duplicates_dropped) == (2, 2)


@gen_test
async def test_an_event_is_published_from_the_position() -> None:
    """The backend is told where this node is in the chat; without an attempt there is no key."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        at = stage.delivery.position(CHAT)
        attempt = await stage.delivery.attempt(CHAT, "key")
        append, given = stage.backend.append, []

        async def noted(*args: Any, **named: Any) -> Any:
            given.append(named)
            return await append(*args, **named)

        stage.backend.append = noted  # type: ignore[method-assign]
        receipt = await stage.delivery.publish(CHAT, event("m1"), attempt)
        await stage.publish("unknown", "m2")
        assert given == [{"key": attempt.key, "known": at}, {"key": None, "known": None}]
        assert (await stage.delivery.attempt(CHAT, "key")).receipt == receipt


@gen_test
async def test_what_is_delivered_already_is_published() -> None:
    """Of an event that came back during an outage the receipt has the cursor; of others it is local."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        receipt = await stage.delivery.publish(CHAT, event("m1"))
        tried = fail(stage, Unavailable())
        assert await stage.delivery.publish(CHAT, event("m1")) == receipt
        assert await stage.delivery.publish(CHAT, event("m2")) == Receipt("m2", None, "local")
        assert await stage.delivery.publish("unknown", event("m3")) == Receipt("m3", None, "local")
        assert tried == [event("m1")]  # the others wait behind it
        assert stage.heard.numbers(CHAT) == ["m1", "m2"]


@gen_test
@pytest.mark.parametrize("error", [Unavailable(), Unavailable(asked=True), Rejected("of the test")])
async def test_the_start_of_an_outage_is_logged_once(
    error: Exception, expect_log: Expect, caplog: pytest.LogCaptureFixture
) -> None:
    """One line if the backend was asked; none if it is known to be unavailable."""
    if getattr(error, "asked", False):
        expect_log("event not published; delivering locally")
    async with on_stage() as stage:
        stage.delivery._outbox.flush = lambda: None  # type: ignore[method-assign]
        fail(stage, error)
        both = await asyncio.gather(*(stage.delivery.publish(CHAT, event(number)) for number in (1, 2)))
        assert [receipt.delivery for receipt in both] == ["local"] * 2
        lines = [r for r in caplog.records if r.levelname == "WARNING"]
        assert len(lines) == bool(getattr(error, "asked", False))
        stage.delivery._outbox._items.clear()


# -- what comes over the wire -----------------------------------------------------------------------


@gen_test
async def test_what_the_application_publishes_itself() -> None:
    """It is sequenced by the node that hears it, and dropped if it was delivered before."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        stage.delivery.receive(CHAT, body("m1"))
        stage.delivery.receive("unknown", body("m1"))
        stage.delivery.receive("unknown", b"garbage")
        assert stage.delivery.counts.malformed_dropped == 0
        await until(lambda: stage.heard.numbers(CHAT) == ["m1"])
        assert stage.heard.cursors(CHAT) == [stage.delivery.position(CHAT)]
        assert stage.delivery.counts.duplicates_dropped == 0
        stage.delivery.receive(CHAT, body("m1"))
        await turn()
        assert (stage.delivery.counts.duplicates_dropped, stage.delivery.counts.published) == (1, 1)
        assert not stage.delivery._raw
        stage.delivery.receive(CHAT, b'{"type":"typing","data":{"userId":"u","isTyping":true}}')
        assert [e.type for e in stage.heard.events[CHAT]] == ["message", "typing"]


@gen_test
async def test_what_is_sequenced_already() -> None:
    """The next event is delivered, one that came before is dropped and counted, a gap is asked for."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        await stage.publish(CHAT, 1)
        first = stage.heard.events[CHAT][0]
        stage.backend.asked.clear()
        stage.delivery.deliver(CHAT, first)
        stage.delivery.deliver("unknown", first)
        await turn()
        assert (stage.delivery.counts.duplicates_dropped, stage.backend.asked) == (1, [])
        assert first.cursor is not None
        stage.delivery.deliver(CHAT, event("another").sequenced(first.cursor))
        await turn()
        assert stage.delivery.counts.duplicates_dropped == 2
        assert len(stage.backend.asked) == 1
        await stage.elsewhere(CHAT, 2)
        await stage.publish(CHAT, 3)
        await until(lambda: stage.heard.numbers(CHAT) == ["1", "2", "3"])
        assert len(stage.backend.asked) == 2
        assert stage.delivery.counts.duplicates_dropped == 2
        stage.delivery.broadcast(CHAT, typing())
        assert stage.heard.events[CHAT][-1] == typing()


@gen_test
async def test_raw_events_are_bounded(monkeypatch: pytest.MonkeyPatch, expect_log: Expect) -> None:
    """Beyond the bound an event is lost for all nodes alike, which is logged."""
    expect_log("outbox full")
    monkeypatch.setattr(outbox, "MAX_ITEMS", 2)
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        epoch = known(stage).epoch
        renewed: list[tuple[str, str]] = []
        stage.subscriptions.renew = lambda *named: renewed.append(named)  # type: ignore
        for number in range(3):
            stage.delivery.receive(CHAT, body(number))
        await until(lambda: renewed)
        assert renewed == [(CHAT, epoch)]
        assert stage.heard.numbers(CHAT) == ["0", "1"]


@gen_test
@pytest.mark.parametrize("long", [True, False])
@pytest.mark.parametrize("kind", ["ephemeral", "kept", "sequenced"])
async def test_what_can_not_be_delivered(kind: str, long: bool, expect_log: Expect) -> None:
    """An ephemeral event is left out; a kept one is in the history if it is sequenced, or else lost."""
    if kind != "sequenced":
        what = "malformed event dropped" if kind == "ephemeral" else "event dropped; the chat's sessions"
        expect_log(f"it has 1300 bytes, at most 1024.*{what}" if long else f"not UTF-8.*{what}")
    async with on_stage() as stage:
        stage.delivery._max_event = 1024
        await stage.delivery.subscribe(CHAT)
        lost, epoch = watch_losses(stage), known(stage).epoch
        stage.backend.asked.clear()
        start = b'{"type":"%s","data":{"id":"' % (b"typing" if kind == "ephemeral" else b"message")
        end = b'"},"cursor":"%s.1"}' % epoch.encode() if kind == "sequenced" else b'"}}'
        stage.delivery.receive(
            CHAT, start + (b"x" * 1300)[len(start + end) :] + end if long else start + b"\xff" + end
        )
        await turn()
        assert stage.delivery.counts.malformed_dropped == 1
        assert lost == ([(CHAT, epoch)] if kind == "kept" else [])
        assert len(stage.backend.asked) == (kind == "sequenced")
        assert stage.heard.events[CHAT] == []


@gen_test
async def test_the_longest_event_is_delivered() -> None:
    """As many bytes as the setting says."""
    async with on_stage() as stage:
        stage.delivery._max_event = len(body("m1"))
        await stage.delivery.subscribe(CHAT)
        stage.delivery.receive(CHAT, body("m1"))
        await until(lambda: stage.heard.numbers(CHAT) == ["m1"])


@gen_test
async def test_an_internal_error_does_not_stop_delivery(expect_log: Expect) -> None:
    """An event that can't be handled is logged, and its chat's sessions resume."""
    expect_log("event not delivered; the chat's sessions resume")
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)

        def deliver(chat_id: str, event: Event) -> None:
            raise ValueError("of the test")

        stage.heard.deliver = deliver  # type: ignore[method-assign]
        stage.delivery.receive(CHAT, b'{"type":"typing","data":{"userId":"u","isTyping":true}}')
        assert stage.heard.interrupts == [CHAT]


# -- notes ------------------------------------------------------------------------------------------


@gen_test
async def test_notes_go_where_they_belong() -> None:
    """Each kind of note goes to the part that handles it; the hub answers the remaining questions."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        stage.backend.asked.clear()

        def note(**fields: Any) -> None:
            stage.delivery.notice(json.dumps(fields).encode())

        note(sender="here", look_again=[CHAT])
        await turn()
        assert stage.backend.asked == []
        note(sender="there", look_again=[CHAT])
        await turn()
        assert len(stage.backend.asked) == 1
        note(id="1", sender="there", who_takes=True)
        note(id="2", sender="there", take_over=["taken"])
        note(id="3", sender="there", question={"any": 1})
        await until(lambda: len(stage.backend.sent) == 3)
        answers = {json.loads(raw)["id"]: json.loads(raw)["answer"] for raw, _ in stage.backend.sent}
        assert answers == {"1": "here", "2": [], "3": {"any": 1}}
        assert {address for _, address in stage.backend.sent} == {"there"}
        assert stage.heard.questions == [{"any": 1}]
        assert list(stage.subscriptions) == [CHAT, "taken"]


@gen_test
async def test_the_order_of_work_after_an_outage() -> None:
    """Attempts are recorded before chats catch up with the backend, and the outbox is flushed last."""
    async with on_stage() as stage:
        order: list[str] = []
        for part in ("idempotency", "subscriptions"):
            getattr(stage.delivery, f"_{part}").restored = lambda part=part: order.append(part)
        stage.delivery._outbox.flush = lambda: order.append("outbox")  # type: ignore[method-assign]
        stage.delivery.restored()
        assert order == ["idempotency", "subscriptions", "outbox"]
