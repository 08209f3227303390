"""Read positions and bans: which cursor a read has, what a node knows of them, and who is told."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from unittest.mock import patch

import pytest

from eclipse_ws.backends.base import Subscription, Unavailable
from eclipse_ws.backends.marks import Mark
from eclipse_ws.delivery.cluster import Cluster, Note
from eclipse_ws.delivery.marks import Ban, ReadPosition, UnknownMessageError
from eclipse_ws.protocol import Cursor
from tests.backends.harness import event, until
from tests.delivery.asked import Stage, known, on_stage, turn

gen_test = pytest.mark.gen_test(timeout=20)
CHAT = "chat"
LATER = float(int(time.time()) + 1000)


def at(stage: Stage, offset: int) -> Cursor:
    """A cursor of the present epoch."""
    position = stage.delivery.position(CHAT)
    assert position is not None
    return Cursor(position.epoch, offset)


async def read(stage: Stage, number: object, given: Cursor | None = None, user: str = "u") -> bool:
    """A user reads up to a message."""
    return await stage.delivery.marks.read(CHAT, ReadPosition(user, "user", str(number)), given)


def read_up_to(stage: Stage) -> dict[str, str]:
    """The message up to which each user has read."""
    return {each.user_id: each.message_id for each in stage.delivery.marks.positions(CHAT)}


@gen_test
async def test_positions_move_forward() -> None:
    """A message that this node has delivered has its cursor; only a later one than before is news."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        await stage.publish(CHAT, 1, 2, 3)
        outcomes = [await read(stage, number) for number in (2, 1, 2, 3)]
        assert outcomes == [True, False, False, True]
        assert await read(stage, 1, user="v")
        assert read_up_to(stage) == {"u": "3", "v": "1"}
        told = [(name, mark.value) for name, mark in stage.heard.marks[CHAT]]
        assert told == [("read:u", "user 2"), ("read:u", "user 3"), ("read:v", "user 1")]


@gen_test
async def test_the_cursor_of_a_message_that_is_not_known() -> None:
    """Then the client's cursor counts, if it is of this epoch and not in the future; a known message's own
    cursor comes before it.
    """
    async with on_stage() as stage:
        await stage.elsewhere(CHAT, 1, 2)
        await stage.delivery.subscribe(CHAT)
        await stage.publish(CHAT, 3)
        epoch = at(stage, 0).epoch
        for bad in (None, Cursor(epoch, 4), Cursor(epoch, 0), Cursor("another", 1)):
            with pytest.raises(UnknownMessageError):
                await read(stage, 1, bad)
        assert await read(stage, 1, Cursor(epoch, 2))
        assert not await read(stage, 1, Cursor(epoch, 1))
        assert await read(stage, 3, Cursor("another", 9))
        assert not await read(stage, 1, Cursor(epoch, 3))
        assert read_up_to(stage) == {"u": "3"}


@gen_test
async def test_a_message_of_an_epoch_that_has_ended() -> None:
    """Its cursor counts no longer; the position stays until the user reads something of the new epoch."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        await stage.publish(CHAT, 1, 2)
        assert await read(stage, 2)
        stage.subscriptions.renew(CHAT)
        await until(lambda: known(stage).live)
        with pytest.raises(UnknownMessageError):
            await read(stage, 2)
        assert read_up_to(stage) == {"u": "2"}
        await stage.publish(CHAT, 3)
        assert await read(stage, 1, at(stage, 1))
        assert read_up_to(stage) == {"u": "1"}


@gen_test
async def test_without_a_position() -> None:
    """A chat that isn't heard, or whose position isn't known yet, takes no reads now."""
    async with on_stage() as stage:
        with pytest.raises(Unavailable):
            await read(stage, 1)
        stage.backend.is_up = False
        stage.backend.failures.append(Unavailable())
        await stage.delivery.subscribe(CHAT)
        await turn()
        with pytest.raises(Unavailable):
            await read(stage, 1)
        assert read_up_to(stage) == {}
        assert stage.delivery.marks.ban_of(CHAT, "u") is None


@gen_test
async def test_bans() -> None:
    """A ban is known at once, counts until its end, can be changed, and lifted by an end in the past."""
    async with on_stage() as stage:
        marks = stage.delivery.marks
        assert await marks.ban(CHAT, Ban("u", LATER, "early"))
        assert marks.ban_of(CHAT, "u") is None  # nobody is in the chat
        await stage.delivery.subscribe(CHAT)
        assert marks.ban_of(CHAT, "u") == Ban("u", LATER, "early")
        assert marks.ban_of(CHAT, "v") is None
        assert await marks.ban(CHAT, Ban("u", LATER - 10, "why"))
        assert marks.ban_of(CHAT, "u") == Ban("u", LATER - 10, "why")
        with patch.object(marks, "_clock", lambda: LATER - 10):
            assert marks.ban_of(CHAT, "u") is None
        assert marks.positions(CHAT) == []
        await marks.ban(CHAT, Ban("u", 0, ""))
        assert marks.ban_of(CHAT, "u") is None
        assert known(stage).marks.known == {}  # type: ignore[union-attr]
        assert [mark.expires for _, mark in stage.heard.marks[CHAT]] == [LATER, LATER - 10, 0]


@gen_test
async def test_marks_are_loaded_again_with_each_subscription() -> None:
    """What other nodes have set meanwhile is found and told; what has not changed isn't told again."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        await stage.publish(CHAT, 1, 2)
        assert await read(stage, 1)
        assert await read(stage, 1, user="v")
        stage.backend._marks[CHAT] |= {
            "read:u": Mark("user 2", LATER, at(stage, 2)),
            "ban:w": Mark("", LATER),
        }
        stage.heard.marks.clear()
        stage.delivery.lost()
        stage.delivery.restored()
        await until(lambda: known(stage).live)
        assert sorted(name for name, _ in stage.heard.marks[CHAT]) == ["ban:w", "read:u"]
        assert read_up_to(stage) == {"u": "2", "v": "1"}
        del stage.backend._marks[CHAT]["ban:w"]
        stage.delivery.lost()
        stage.delivery.restored()
        await until(lambda: known(stage).live)
        assert stage.delivery.marks.ban_of(CHAT, "w") is None
        assert len(stage.heard.marks[CHAT]) == 2


@gen_test
async def test_a_backend_that_has_lost_its_last_writes() -> None:
    """Positions that a node knows stay, unless it has later ones, or of another epoch; bans follow it."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        await stage.publish(CHAT, 1, 2, 3)
        for user, number in (("u", 2), ("v", 2), ("w", 2), ("x", 2)):
            assert await read(stage, number, user=user)
        stage.backend._marks[CHAT] |= {
            "read:u": Mark("user 1", LATER, at(stage, 1)),
            "read:v": Mark("user 3", LATER, at(stage, 3)),
            "read:w": Mark("user 9", LATER, Cursor("another", 9)),
            "ban:w": Mark("", LATER),
        }
        del stage.backend._marks[CHAT]["read:x"]
        stage.heard.marks.clear()
        stage.delivery.lost()
        stage.delivery.restored()
        await until(lambda: known(stage).live)
        assert read_up_to(stage) == {"u": "2", "v": "3", "w": "9", "x": "2"}
        assert sorted(name for name, _ in stage.heard.marks[CHAT]) == ["ban:w", "read:v", "read:w"]
        assert not await read(stage, 1)
        assert await read(stage, 3)
        assert read_up_to(stage)["u"] == "3"


@gen_test
async def test_positions_that_have_expired_are_not_lost() -> None:
    """The backend has dropped them, and so does the node."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        await stage.publish(CHAT, 1)
        assert await read(stage, 1)
        known(stage).marks.known["read:u"] = Mark("user 1", 1, at(stage, 1))  # type: ignore[union-attr]
        del stage.backend._marks[CHAT]["read:u"]
        stage.delivery.lost()
        stage.delivery.restored()
        await until(lambda: known(stage).live)
        assert known(stage).marks.known == {}  # type: ignore[union-attr]


@gen_test
async def test_lost_positions_are_bounded() -> None:
    """Those that the backend has lost take no room from those that it has."""
    async with on_stage() as stage:
        with patch("eclipse_ws.delivery.chat_marks.MAX_MARKS", 3):
            await stage.delivery.subscribe(CHAT)
            await stage.publish(CHAT, 1)
            for user in "abc":
                assert await read(stage, 1, user=user)
            stage.backend._marks[CHAT] = {
                f"read:{user}": Mark("user 1", LATER, at(stage, 1)) for user in "de"
            }
            stage.delivery.lost()
            stage.delivery.restored()
            await until(lambda: known(stage).live)
            assert len(read_up_to(stage)) == 3
            assert {"d", "e"} < set(read_up_to(stage))


@gen_test
async def test_positions_that_may_be_old_are_not_shown() -> None:
    """While a node may have missed reads it shows none, and tells all of them once it is certain."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        await stage.publish(CHAT, 1, 2)
        assert await read(stage, 1)
        assert await read(stage, 1, user="v")
        stage.delivery.lost()
        stage.backend._marks[CHAT]["read:u"] = Mark("user 2", LATER, at(stage, 2))
        stage.heard.marks.clear()
        assert read_up_to(stage) == {}
        stage.delivery.restored()
        await until(lambda: known(stage).live)
        assert sorted(name for name, _ in stage.heard.marks[CHAT]) == ["read:u", "read:v"]
        assert read_up_to(stage) == {"u": "2", "v": "1"}


@gen_test
async def test_a_note_that_overtakes_the_answer() -> None:
    """A mark that is set while the backend's answer is on its way is newer than the answer."""
    async with on_stage() as stage:
        marks = stage.delivery.marks
        await stage.delivery.subscribe(CHAT)
        await marks.ban(CHAT, Ban("u", LATER, "old"))
        await marks.ban(CHAT, Ban("v", LATER, "old"))
        stage.backend.gate.clear()
        stage.delivery.lost()
        stage.delivery.restored()
        await turn()
        await marks.ban(CHAT, Ban("u", 0, ""))
        await marks.ban(CHAT, Ban("w", LATER, "new"))
        stage.backend.gate.set()
        await until(lambda: known(stage).live)
        banned = {user for user in "uvw" if marks.ban_of(CHAT, user)}
        assert banned == {"v", "w"}


@gen_test
async def test_a_full_chat_asks_nothing() -> None:
    """A read that a full chat would not keep costs the backend nothing, until one of its marks expires."""
    async with on_stage() as stage:
        with patch("eclipse_ws.backends.marks.MAX_MARKS", 2):
            await stage.delivery.subscribe(CHAT)
            await stage.publish(CHAT, 1, 2)
            for user in "uv":
                assert await read(stage, 1, user=user)
            asked: list[Any] = []
            mark = stage.backend.mark

            async def count(*given: Any) -> bool:
                asked.append(given)
                return await mark(*given)

            stage.backend.mark = count  # type: ignore[method-assign]
            assert not await read(stage, 1, user="w")
            assert not asked
            assert await read(stage, 2, user="v")
            with patch.object(stage.delivery.marks, "_clock", lambda: time.time() + 2 * 86400):
                await read(stage, 1, user="w")
            assert len(asked) == 2


@gen_test
async def test_odd_notes_are_ignored(expect_log: Any) -> None:
    """Marks that can't be read, of chats that are not heard, or that are older than what is known."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        await stage.delivery.publish(CHAT, event(1))
        await read(stage, 1)
        epoch = at(stage, 0).epoch
        for marked in (
            ["another", "read:u", "1 e 1 x"],
            *([CHAT, "read:u", text] for text in ("", "x", "x e 1 y", "1 e x y", "1 e. 1 y", "1 - 0")),
            [CHAT, "read:u", f"{LATER} {epoch} 1 user other"],
        ):
            stage.delivery.notice(Cluster.encode(Note(marked=marked)))
        expect_log("malformed note of another node dropped")
        stage.delivery.notice(b'{"marked":["a"]}')
        stage.delivery.notice(b'{"marked":["a","b","c","d"]}')
        assert len(stage.heard.marks[CHAT]) == 1
        assert read_up_to(stage) == {"u": "1"}
        stage.delivery.notice(Cluster.encode(Note(marked=[CHAT, "read:v", f"{LATER} {epoch} 1 oddvalue"])))
        assert read_up_to(stage) == {"u": "1"}


def test_a_subscription_has_no_marks_by_itself() -> None:
    """A backend that keeps none need not say so."""
    assert Subscription(position=Any).marks == {}  # type: ignore[arg-type]


@gen_test
async def test_the_memory_of_chats_with_marks_is_bounded() -> None:
    """Chats all of whose marks have expired are forgotten, also if nobody comes back."""
    async with on_stage() as stage:
        soon = time.time() + 0.05
        for number in range(120):
            await stage.backend.mark(f"chat {number}", "ban:u", Mark("", soon), b"{}")
        await asyncio.sleep(0.1)
        await stage.backend.mark(CHAT, "ban:u", Mark("", LATER), b"{}")
        for number in range(300):
            await stage.backend.mark(f"other {number}", "ban:u", Mark("", LATER), b"{}")
        assert not any(chat_id.startswith("chat ") for chat_id in stage.backend._marks)
        assert len(stage.backend._marks) == 301
