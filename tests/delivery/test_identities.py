"""What a chat remembers of delivered events: the last ones, in few bytes, within the node's bound."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eclipse_ws.backends.base import Position
from eclipse_ws.delivery import identities
from eclipse_ws.delivery.chat import Chat
from eclipse_ws.delivery.identities import DIGEST, OVERHEAD, Budget, Identities
from eclipse_ws.protocol import Cursor
from tests.backends.harness import event, until
from tests.conftest import make_settings
from tests.delivery.asked import known, on_stage, turn
from tests.delivery.test_local_copies import come_up, go_down

gen_test = pytest.mark.gen_test(timeout=20)
Expect = Callable[..., None]
CHAT = "chat"


@settings(max_examples=300, deadline=None)
@given(
    notes=st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 30)), max_size=80),
    limit=st.integers(1, 8),
)
def test_the_last_events_of_the_last_epoch_are_remembered(notes: list[tuple[str, int]], limit: int) -> None:
    """In whatever order events are noted: each with its cursor, no other one, and no more of them."""
    had = Identities(limit, Budget())
    epoch, places = "", set[int]()
    for each, offset in notes:
        if each != epoch or offset >= max(places) + limit:
            epoch, places = each, {offset}
        elif offset > max(places) - limit:
            places.add(offset)
        had.note(f"{each}{offset}", Cursor(each, offset))
        places = {place for place in places if place > max(places) - limit}
        assert had.size <= OVERHEAD + limit * DIGEST
        for name in "ab":
            for place in range(1, 31):
                cursor = Cursor(name, place)
                here = name == epoch and place in places
                assert had.cursor_of(f"{name}{place}") == (cursor if here else None)
                assert had.has(f"{name}{place}", cursor) == here
                assert not had.has("another", cursor)


def test_an_event_is_remembered_at_its_place_only() -> None:
    """An event that has come with another cursor, or in another epoch, is not the one that was delivered."""
    had = Identities(8, Budget())
    had.note("one", Cursor("a", 1))
    had.note("two", Cursor("a", 2))
    places = [Cursor("a", 1), Cursor("a", 2), Cursor("a", 0), Cursor("a", 3), Cursor("b", 1)]
    assert [had.has("one", place) for place in places] == [True, False, False, False, False]


def test_dropped_copies_are_remembered_apart() -> None:
    """The last ones, until they are sequenced; sequenced events make none of them forgotten."""
    had = Identities(3, budget := Budget())
    for number in range(5):
        had.drop(f"copy {number}")
        had.note(f"event {number}", Cursor("a", number + 1))
    assert [n for n in range(5) if had.has_dropped(f"copy {n}")] == [2, 3, 4]
    had.forget_dropped("copy 3")
    had.forget_dropped("copy 0")
    assert [n for n in range(5) if had.has_dropped(f"copy {n}")] == [2, 4]
    had.forget_dropped()
    assert not any(had.has_dropped(f"copy {n}") for n in range(5))
    assert had.size == budget.bytes == OVERHEAD + 3 * DIGEST
    assert had.cursor_of("event 4") == Cursor("a", 5)


def test_half_of_one_digest_and_half_of_the_next_are_no_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a whole digest is found, also if the same bytes come before it."""
    monkeypatch.setattr(identities, "_digest", str.encode)
    had = Identities(8, Budget())
    for offset in (1, 2):
        had.note("aaaabbbb", Cursor("a", offset))
    assert had.cursor_of("bbbbaaaa") is None
    had.note("bbbbaaaa", Cursor("a", 3))
    assert had.cursor_of("bbbbaaaa") == Cursor("a", 3)


def test_a_busy_chat_takes_few_bytes() -> None:
    """Two histories' worth of events, as many as the default settings have it remember, take 2 KB."""
    chat = Chat(CHAT, make_settings().history_events, lambda chat_id, event: None, budget := Budget())
    chat.catch_up(Position(Cursor("a", 0)), None)
    for number in range(1000):
        chat.hear(event(number), Cursor("a", number + 1))
    assert chat.cursor_of("message:800") == Cursor("a", 801)
    assert budget.bytes == OVERHEAD + 200 * DIGEST == 2000


def test_the_chat_that_was_quiet_for_longest_forgets_first(
    monkeypatch: pytest.MonkeyPatch, expect_log: Expect, caplog: pytest.LogCaptureFixture
) -> None:
    """The node's bound holds whatever the chats do, is counted, and is logged once."""
    expect_log("delivered events forgotten")
    monkeypatch.setattr(identities, "MAX_BYTES", 3 * OVERHEAD + 10 * DIGEST)
    budget = Budget()
    chats = [Identities(100, budget) for _ in range(4)]
    for chat in chats[:3]:
        chat.note("first", Cursor("a", 1))
    chats[0].drop("copy")
    assert (budget.bytes, budget.forgotten) == (3 * OVERHEAD + 4 * DIGEST, 0)
    chats[3].note("first", Cursor("a", 1))
    assert [chat.cursor_of("first") is not None for chat in chats] == [True, False, True, True]
    assert (budget.bytes, budget.forgotten) == (3 * OVERHEAD + 4 * DIGEST, 1)
    for offset in range(2, 200):
        chats[3].note(f"event {offset}", Cursor("a", offset))
        assert budget.bytes <= identities.MAX_BYTES
    assert [chat.cursor_of("first") for chat in chats[:3]] == [None] * 3
    assert not chats[0].has_dropped("copy")
    assert (budget.bytes, budget.forgotten) == (OVERHEAD + 100 * DIGEST, 3)
    assert len(caplog.records) == 1


@gen_test
async def test_a_chat_that_is_left_is_forgotten() -> None:
    """What its events took is free again, also if a history of it is still being read."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        await stage.publish(CHAT, 1, 2)
        chat = known(stage)
        assert stage.delivery.remembered.bytes == OVERHEAD + 2 * DIGEST
        stage.delivery.unsubscribe(CHAT)
        stage.now += 1000
        chat.begin_resuming()
        await stage.subscriptions._leave([chat])
        assert stage.delivery.remembered.bytes == 0
        cursor = Cursor(chat.epoch, 1)
        chat.end_resuming(
            Cursor(chat.epoch, 0), [event(n).sequenced(cursor._replace(offset=n)) for n in (1, 2)]
        )
        assert stage.delivery.remembered.bytes == 0


@gen_test
async def test_without_memory_the_backend_decides(
    monkeypatch: pytest.MonkeyPatch, expect_log: Expect
) -> None:
    """A node that remembers nothing asks: nothing is lost, and only a copy in an outage is repeated."""
    expect_log("delivered events forgotten")
    monkeypatch.setattr(identities, "MAX_BYTES", 0)
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        await stage.publish(CHAT, 1, 2)
        asked = len(stage.backend.asked)
        stage.delivery.deliver(CHAT, event(1).sequenced(Cursor(known(stage).epoch, 1)))
        await until(lambda: known(stage).live)
        assert len(stage.backend.asked) == asked + 1
        stage.delivery.receive(CHAT, event(2).body)
        await turn()
        await stage.publish(CHAT, 1, 3)
        assert stage.heard.numbers(CHAT) == ["1", "2", "3"]
        go_down(stage)
        await stage.publish(CHAT, 3, 4)
        come_up(stage)
        await until(lambda: stage.delivery.health.queued == 0)
        await stage.publish(CHAT, 5)
        assert stage.heard.numbers(CHAT) == ["1", "2", "3", "3", "4", "5"]
