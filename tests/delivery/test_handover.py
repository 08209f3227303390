"""Handover: which chats of a stopping node others hear, how many a node takes, and how long that takes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from eclipse_ws.backends.base import Unavailable
from eclipse_ws.delivery import handover
from eclipse_ws.delivery.cluster import Note
from tests.backends.harness import until
from tests.delivery.asked import LIFETIME, Stage, on_stage, on_stages, turn

gen_test = pytest.mark.gen_test(timeout=20)
Expect = Callable[..., None]


async def join(stage: Stage, *chats: str) -> None:
    """Sessions of a node join these."""
    for chat in chats:
        await stage.delivery.subscribe(chat)


def batches(stage: Stage) -> list[tuple[str, list[str]]]:
    """What a node has asked others to take over: the address, and the chats."""
    notes = [(address, json.loads(note)) for note, address in stage.backend.sent]
    return [(address, note["take_over"]) for address, note in notes if "take_over" in note]


@gen_test
async def test_chats_are_shared_among_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """In batches, in turn; they linger there for a lifetime, and the node that leaves keeps hearing them."""
    monkeypatch.setattr(handover, "BATCH", 2)
    async with on_stages(3) as (one, two, three):
        chats = list("abcde")
        await join(one, *chats)
        assert await one.delivery.hand_over() == 5
        assert batches(one) == [("1", ["a", "b"]), ("2", ["c", "d"]), ("1", ["e"])]
        assert list(two.subscriptions) == ["a", "b", "e"]
        assert list(three.subscriptions) == ["c", "d"]
        assert list(one.subscriptions) == chats
        for stage in (two, three):
            for chat_id in stage.subscriptions:
                chat = stage.subscriptions.get(chat_id)
                assert chat is not None
                assert (chat.live, chat.members, chat.expires) == (True, False, 1000 + LIFETIME)


@gen_test
async def test_only_what_came_since_is_handed_over_again() -> None:
    """Called again, it counts all, and asks the others only if there is something new."""
    async with on_stages(2) as (one, _):
        await join(one, "a")
        assert await one.delivery.hand_over() == 1
        await join(one, "b")
        assert await one.delivery.hand_over() == 2
        sent = len(one.backend.sent)
        assert await one.delivery.hand_over() == 2
        assert len(one.backend.sent) == sent
        assert batches(one) == [("1", ["a"]), ("1", ["b"])]


@gen_test
async def test_chats_handed_over_count_when_the_others_have_stopped() -> None:
    """A second call still returns what was handed over, although no node takes the rest."""
    async with on_stages(2) as (one, two):
        await join(one, "a")
        assert await one.delivery.hand_over() == 1
        assert await two.delivery.hand_over() is None
        await join(one, "b")
        assert await one.delivery.hand_over() == 1


@gen_test
async def test_no_node_takes_over() -> None:
    """Neither this node nor another one that is stopping takes chats; then the result is None, each time."""
    async with on_stages(1) as (one,):
        await join(one, "a")
        for _ in range(2):
            assert await one.delivery.hand_over() is None
        assert batches(one) == []
    async with on_stages(1) as (one,):
        assert await one.delivery.hand_over() is None  # also without chats: its clients find no other node
    async with on_stage() as stage:
        stage.backend.is_shared = False  # type: ignore[misc]
        assert await stage.delivery.hand_over() is None
        assert stage.backend.sent == []


@gen_test
async def test_nodes_that_leave_together() -> None:
    """Once they have said so, none takes chats over from another, and each asks as if it had not."""
    async with on_stages(2) as (one, two):
        await join(two, "a")
        for stage in (one, two):
            stage.delivery.leave()
        assert await one.delivery.hand_over() is None
        assert await two.delivery.hand_over() is None
        assert batches(one) == batches(two) == []


@gen_test
async def test_a_node_that_has_begun_to_stop_takes_nothing() -> None:
    """It had offered to take chats, but now answers that it hears none of them."""
    async with on_stages(2) as (one, two):
        await join(one, "a")
        taking = two.delivery._handover
        say = taking.who_takes

        def say_and_leave(note: Note) -> None:
            say(note)
            taking._leaving = True

        taking.who_takes = say_and_leave  # type: ignore[method-assign]
        assert await one.delivery.hand_over() == 0
        assert batches(one) == [("1", ["a"])]
        assert list(two.subscriptions) == []


@gen_test
async def test_a_node_without_chats_asks_whether_others_take_over() -> None:
    """It returns 0 if there are others, so that the node knows that its clients find one."""
    async with on_stages(2) as (one, _):
        assert await one.delivery.hand_over() == 0
        assert batches(one) == []


@gen_test
@pytest.mark.parametrize("address", [7, "", ["1"], True])
async def test_a_node_that_answers_nonsense_takes_nothing(address: Any) -> None:
    """Nothing can be sent to an answer that isn't an address."""
    async with on_stages(2) as (one, two):
        await join(one, "a")
        cluster = two.delivery._cluster
        two.delivery._handover.who_takes = (  # type: ignore[method-assign]
            lambda note: cluster.answer(note, address)
        )
        assert await one.delivery.hand_over() is None
        assert batches(one) == []


@gen_test
async def test_without_a_backend_nothing_is_handed_over() -> None:
    """If the backend is down, or the question is lost, nothing is handed over; another call may do it."""
    async with on_stages(2) as (one, _):
        await join(one, "a")
        one.backend.is_up = False
        assert await one.delivery.hand_over() == 0
        assert one.backend.sent == []
        one.backend.is_up = True
        one.backend.sending = Unavailable()
        assert await one.delivery.hand_over() == 0
        one.backend.sending = None
        assert await one.delivery.hand_over() == 1


@gen_test
@pytest.mark.parametrize("bound", ["TIMEOUT", "the backend's"])
async def test_a_node_that_does_not_say_whether_it_takes(
    bound: str, monkeypatch: pytest.MonkeyPatch, expect_log: Expect
) -> None:
    """It is waited for as long as one command may take, and the chats go to those that have answered."""
    expect_log("not every node has answered")
    if bound == "TIMEOUT":
        monkeypatch.setattr(handover, "TIMEOUT", 0.1)
    async with on_stages(3) as (one, two, three):
        if bound != "TIMEOUT":
            one.backend.timeout = 0.1
        two.backend.deaf = True
        await join(one, "a")
        async with asyncio.timeout(2):
            assert await one.delivery.hand_over() == 1
        assert list(three.subscriptions) == ["a"]


@gen_test
async def test_a_taker_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, expect_log: Expect) -> None:
    """Its batch doesn't count; the others' do."""
    expect_log("not every node has answered")
    monkeypatch.setattr(handover, "TIMEOUT", 0.1)
    monkeypatch.setattr(handover, "BATCH", 1)
    async with on_stages(3) as (one, two, _):
        await join(one, "a", "b")

        async def never(chat_ids: Any) -> list[str]:
            await asyncio.Event().wait()
            return []

        two.delivery._handover.take_over = never  # type: ignore[method-assign]
        async with asyncio.timeout(2):
            assert await one.delivery.hand_over() == 1


@gen_test
@pytest.mark.parametrize("answer", [None, 7, "all", {"a": 1}])
async def test_a_taker_that_answers_nonsense(answer: Any) -> None:
    """An answer that isn't a list of chats promises nothing."""
    async with on_stages(2) as (one, two):
        await join(one, "a")

        async def nonsense(chat_ids: Any) -> Any:
            return answer

        two.delivery._handover.take_over = nonsense  # type: ignore[method-assign]
        assert await one.delivery.hand_over() == 0


@gen_test
async def test_chats_that_a_taker_does_not_hear_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers in time that it doesn't hear them, so they don't count; it still subscribes to them."""
    monkeypatch.setattr(handover, "TIMEOUT", 0.2)
    async with on_stages(2) as (one, two):
        await join(one, "a", "b")
        await join(two, "b")
        two.backend.gate.clear()
        assert await one.delivery.hand_over() == 1
        assert one.delivery._handover._handed_over == {"b"}
        two.backend.gate.set()
        await until(lambda: two.delivery.position("a") is not None)


@gen_test
async def test_taking_over_keeps_members_and_lingers_anew() -> None:
    """A chat with sessions here stays as it is; for one that lingers, the time begins again."""
    async with on_stage() as stage:
        await join(stage, "joined", "left")
        stage.delivery.unsubscribe("left")
        stage.now += 10
        assert await stage.delivery._handover.take_over(["joined", "left", "new"]) == []
        chats = {chat_id: stage.subscriptions.get(chat_id) for chat_id in stage.subscriptions}
        assert {chat_id: chat.members for chat_id, chat in chats.items() if chat} == {
            "joined": True,
            "left": False,
            "new": False,
        }
        for name in ("left", "new"):
            assert (chat := chats[name]) is not None
            assert chat.expires == 1010 + LIFETIME
        assert len(stage.backend.asked) == 3
        assert stage.delivery._handover._taken == {"new"}


@gen_test
async def test_what_is_being_let_go_is_heard_again() -> None:
    """A chat whose lifetime ends while it is taken over is subscribed again, and stays."""
    async with on_stage(history_seconds=0.2) as stage:
        await join(stage, "a")
        stage.delivery.unsubscribe("a")
        stage.now += 1
        stage.backend.leaving.clear()
        await until(lambda: stage.backend.left)
        taking = asyncio.ensure_future(stage.delivery._handover.take_over(["a"]))
        await turn()
        stage.backend.leaving.set()
        assert await taking == []
        assert len(stage.backend.asked) == 2
        assert stage.subscriptions.get("a") is not None


@gen_test
async def test_taken_chats_are_bounded(expect_log: Expect) -> None:
    """Twice `max_sessions`; chats that it hears anyway do not count, and those that are joined make room."""
    expect_log("'chats': 2, .*'limit': 4.*|'limit': 4.*'chats': 2")
    async with on_stage(max_sessions=2) as stage:
        take_over = stage.delivery._handover.take_over
        await join(stage, "joined")
        assert await take_over(["a", "b", "c", "joined", "d", "e", "joined", "f"]) == ["e", "f"]
        assert list(stage.subscriptions) == ["joined", "a", "b", "c", "d"]
        await join(stage, "a")
        del stage.subscriptions._chats["b"]
        assert await take_over(["e", "f"]) == []
        assert stage.delivery._handover._taken == {"c", "d", "e", "f"}


@gen_test
async def test_takeovers_in_progress_are_bounded(monkeypatch: pytest.MonkeyPatch, expect_log: Expect) -> None:
    """One note too many is dropped with a warning; the others go on."""
    expect_log("malformed note of another node dropped")
    monkeypatch.setattr(handover, "MAX_TAKING", 2)
    async with on_stage() as stage:
        stage.backend.gate.clear()
        for chat in "abc":
            stage.delivery.notice(json.dumps({"sender": "x", "take_over": [chat]}).encode())
            await turn()
        assert list(stage.subscriptions) == ["a", "b"]
        stage.backend.gate.set()
        await until(lambda: len(stage.backend.sent) == 2)
        assert [json.loads(note) for note, _ in stage.backend.sent] == [{"answer": []}] * 2
        stage.delivery._handover.take(Note(take_over=["d"]), b"")
        await until(lambda: len(stage.backend.sent) == 3)


@gen_test
async def test_closing_ends_a_takeover() -> None:
    """A takeover in progress is cancelled, and its chats are gone."""
    async with on_stage() as stage:
        stage.backend.gate.clear()
        stage.delivery._handover.take(Note(take_over=["a"]), b"")
        await turn()
        assert len(stage.delivery._handover._taking) == 1
        await stage.delivery._handover.close()
        await turn()
        assert not stage.delivery._handover._taking
        assert stage.backend.sent == []
