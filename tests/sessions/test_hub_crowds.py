"""The hub with several sessions in motion: sessions that join, resume or leave change nothing for others."""

from __future__ import annotations

import asyncio

import pytest

from eclipse_ws.protocol import CloseCode, Cursor
from tests.backends.harness import typing
from tests.sessions.test_hub import CHAT, gen_test, greet, on_stage, turn


async def until_joined(*joining: asyncio.Task[bool]) -> None:
    """All of them have joined."""
    assert await asyncio.gather(*joining) == [True] * len(joining)


@gen_test
@pytest.mark.parametrize("order", ["fresh, resuming, back", "resuming, fresh, back", "back, resuming, fresh"])
async def test_some_join_while_others_resume(order: str) -> None:
    """In any order, a session that resumes gets what came meanwhile, and one that doesn't starts after it."""
    async with on_stage() as stage:
        await stage.join("one")
        start = stage.start()
        await stage.publish("m1", "m2")
        after = {"fresh": None, "resuming": start, "back": Cursor(start.epoch, 1)}
        sessions = {name: stage.session(name) for name in order.split(", ")}
        late, subscribe = asyncio.Event(), stage.delivery.subscribe

        async def slow(chat_id: str) -> None:
            await late.wait()
            await subscribe(chat_id)

        stage.backend.gate.clear()
        joining = []
        for name, session in sessions.items():
            stage.delivery.subscribe = slow if name == "fresh" else subscribe  # type: ignore[method-assign]
            joining.append(await stage.begin_join(session, after[name]))
        await stage.publish("m3")
        late.set()
        await turn()
        await stage.publish("m4")
        stage.backend.gate.set()
        await until_joined(*joining)
        await stage.publish("m5")
        await turn()
        assert sessions["resuming"].events == ["m1", "m2", "m3", "m4", "m5"]
        assert sessions["back"].events == ["m2", "m3", "m4", "m5"]
        assert sessions["fresh"].got[0]["greeting"] == f"{start.epoch}.3"
        assert sessions["fresh"].events == ["m4", "m5"]


@gen_test
@pytest.mark.parametrize("who", ["ahead", "member", "joining"])
async def test_leaving_while_others_resume(who: str) -> None:
    """Who leaves has nothing more, and the others have every event once, however far their clients are."""
    async with on_stage() as stage:
        member, stays = await stage.join("member"), await stage.join("stays")
        start = stage.start()
        await stage.publish("m0")
        stage.backend.held = []
        await stage.publish("x")
        stage.backend.gate.clear()
        joining, ahead = stage.session("joining"), stage.session("ahead")
        first = await stage.begin_join(joining, start)
        second = await stage.begin_join(ahead, Cursor(start.epoch, 2))
        leaving = {"ahead": ahead, "member": member, "joining": joining}[who]
        stage.hub.leave(leaving)
        stage.backend.let_go()
        stage.backend.gate.set()
        assert [await first, await second] == [who != "joining", who != "ahead"]
        await stage.publish("m1")
        await turn()
        for session in {member, stays, joining} - {leaving}:
            assert session.events == ["m0", "x", "m1"], session.id
        assert ahead.events == ([] if who == "ahead" else ["m1"])
        assert leaving.events == (["m0"] if who == "member" else [])
        assert stage.hub.sessions == stage.hub.size(CHAT) == 3


@gen_test
async def test_an_interrupted_chat_begins_anew() -> None:
    """After an interrupt those who come back are served as ever, local copies of before included."""
    async with on_stage() as stage:
        one = await stage.join("one")
        stage.begin_outage()
        await stage.publish("m1")
        stage.hub.interrupt(CHAT)
        back, fresh = await stage.join("back", stage.start()), await stage.join("fresh")
        await stage.end_outage()
        await stage.publish("m2")
        await turn()
        assert one.events == ["m1"]
        assert back.events == fresh.events == ["m1", "m2"]
        assert stage.hub.sessions == stage.hub.size(CHAT) == 2


@gen_test
@pytest.mark.parametrize("joins", [False, True])
async def test_who_reads_nothing_loses_typing_alone(joins: bool) -> None:
    """Typing may be dropped for a client that reads nothing, and kept events may not; others have both."""
    async with on_stage() as stage:
        reader, slow = await stage.join("reader"), await stage.join("slow")
        for session in (reader, slow) if joins else ():
            stage.hub.name_chats(session)
        slow.wire.reads = False
        for number in range(3):
            stage.delivery.broadcast(CHAT, typing())
            await stage.publish(f"m{number}")
        await turn()
        assert slow.events == ["m0", "m1", "m2"]
        assert reader.events == ["typing", "m0", "typing", "m1", "typing", "m2"]


@gen_test
async def test_typing_of_a_session_that_has_used_join() -> None:
    """It comes to others, whether they have used it or not, and not back; the chat's sessions are counted."""
    async with on_stage() as stage:
        one, two, old = [await stage.join(name) for name in ("one", "two", "old")]
        for session in (one, two):
            stage.hub.name_chats(session)
        stage.delivery.broadcast(CHAT, typing("one"))
        await turn()
        assert (one.events, two.events, old.events) == ([], ["typing"], ["typing"])
        assert stage.hub.deliveries == 3


@gen_test
async def test_every_resume_is_counted() -> None:
    """Resumes, those that failed and sessions that were sent away are counted, each of them once."""
    async with on_stage() as stage:
        await stage.join("one")
        start = stage.start()
        await stage.publish("m1")
        for number in range(3):
            await stage.join(f"back {number}", start)
            await stage.join(f"lost {number}", "nonsense.1")
            await stage.join(f"fresh {number}")
        assert (stage.hub.resumed, stage.hub.not_resumed) == (3, 3)
        stage.hub.interrupt(CHAT)
        assert stage.hub.interrupted == 10


@gen_test
async def test_a_member_of_two_chats_is_interrupted_in_one() -> None:
    """It is sent away as a whole, and gets nothing of the other chat any more, whose members stay."""
    async with on_stage() as stage:
        both, other = stage.session("both"), await stage.join("other", chat="other chat")
        for chat in (CHAT, "other chat"):
            assert await stage.hub.join(chat, both, None, greet)
        stage.hub.interrupt(CHAT)
        await stage.publish("m1", chat="other chat")
        await turn()
        assert both.ended == [(CloseCode.RESUME_NEEDED, None)]
        assert "m1" not in both.got
        assert other.events == ["m1"]
        assert (stage.hub.sessions, stage.hub.size("other chat"), stage.hub.chats) == (1, 1, 1)
