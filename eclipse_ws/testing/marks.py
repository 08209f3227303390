"""Marks: which one is kept, who is told, who finds them, and bounds."""

from __future__ import annotations

import asyncio
import time
from typing import Final
from unittest.mock import patch

import pytest

from eclipse_ws.backends.marks import Mark, current
from eclipse_ws.protocol import Cursor
from eclipse_ws.testing.harness import Contract, Node, Nodes, fresh_chat, on_nodes, until

LATER: Final = float(int(time.time()) + 100_000)
ODD: Final = ("u", "", " a  b ", 'q"\\', "\u00e9\U0001f600", "\u2028\n%_{}", "x" * 1000)


class MarksContract(Contract):
    """`mark`, and what `subscribe` says of marks."""

    @on_nodes
    async def test_a_mark_is_kept_and_told(self, nodes: Nodes) -> None:
        """A mark comes with each later subscription, and its note reaches both nodes."""
        chat = fresh_chat()
        one, other = await nodes.two()
        last = await one.append(chat, "m1", "m2")
        marks = {
            "read:u": Mark("user m1", LATER, Cursor(last.epoch, 1)),
            "ban:u": Mark("reason", LATER + 0.25),
        }
        for name, mark in marks.items():
            assert await one.backend.mark(chat, name, mark, name.encode())
        for node in (one, other):
            assert (await node.backend.subscribe(chat)).marks == marks
            await until(lambda node=node: len(node.heard.notes) >= 2, "both notes")  # type: ignore[misc]
            assert node.heard.notes == [b"read:u", b"ban:u"]
        assert (await one.backend.subscribe(fresh_chat())).marks == {}

    @on_nodes
    async def test_a_mark_with_a_cursor_moves_forward(self, nodes: Nodes) -> None:
        """An earlier or equal position changes nothing and tells nobody, whichever node gives it."""
        chat = fresh_chat()
        one, other = await nodes.two()
        last = await one.append(chat, *range(12))
        outcomes = []
        for number, (node, offset) in enumerate(
            ((one, 9), (other, 9), (one, 8), (other, 2), (other, 10), (one, 9), (one, 0), (other, 12))
        ):
            mark = Mark(str(number), LATER, Cursor(last.epoch, offset))
            outcomes.append(await node.backend.mark(chat, "read:u", mark, str(number).encode()))
        assert outcomes == [True, False, False, False, True, False, False, True]
        for node in (one, other):
            await until(lambda node=node: len(node.heard.notes) >= 3, "three notes")  # type: ignore[misc]
            assert node.heard.notes == [b"0", b"4", b"7"]
        assert (await one.backend.subscribe(chat)).marks == {
            "read:u": Mark("7", LATER, Cursor(last.epoch, 12))
        }

    @on_nodes
    async def test_one_of_many_is_the_latest(self, nodes: Nodes) -> None:
        """Of positions that are given at the same time, the latest stays."""
        chat = fresh_chat()
        one, other = await nodes.two()
        last = await one.append(chat, *range(20))
        await asyncio.gather(
            *(
                node.backend.mark(chat, "read:u", Mark(str(offset), LATER, Cursor(last.epoch, offset)), b"")
                for offset in (5, 20, 11, 1, 19, 2)
                for node in (one, other)
            )
        )
        assert (await other.backend.subscribe(chat)).marks["read:u"].value == "20"

    @on_nodes
    async def test_marks_and_epochs(self, nodes: Nodes) -> None:
        """Marks outlive their epoch; then any position of the new one, and no other, replaces them."""
        chat = fresh_chat()
        one, other = await nodes.two()
        last = await one.append(chat, "m1", "m2")
        first = Mark("old", LATER, last)
        assert await one.backend.mark(chat, "read:u", first, b"")
        epoch = (await one.backend.subscribe(chat, renew=True)).position.cursor.epoch
        for cursor in (Cursor(last.epoch, 9), Cursor("another", 1)):
            assert not await other.backend.mark(chat, "read:u", Mark("no", LATER, cursor), b"no")
            assert not await other.backend.mark(chat, "read:v", Mark("no", LATER, cursor), b"no")
        assert not await one.backend.mark(fresh_chat(), "read:u", first, b"no")
        assert (await other.backend.subscribe(chat)).marks == {"read:u": first}
        await other.append(chat, "m3")
        second = Mark("new", LATER, Cursor(epoch, 1))
        assert await other.backend.mark(chat, "read:u", second, b"yes")
        assert (await one.backend.subscribe(chat)).marks == {"read:u": second}
        await until(lambda: b"yes" in one.heard.notes, "the last note")
        assert b"no" not in one.heard.notes + other.heard.notes

    @on_nodes
    async def test_a_mark_without_a_cursor_replaces_any(self, nodes: Nodes) -> None:
        """Also by an earlier end, and in a chat that has nothing else; one that has expired removes it."""
        chat = fresh_chat()
        one, other = await nodes.two()
        for node, expires in ((one, LATER), (other, LATER - 500), (one, LATER + 500)):
            assert await node.backend.mark(chat, "ban:u", Mark("x", expires), b"")
            assert (await other.backend.subscribe(chat)).marks == {"ban:u": Mark("x", expires)}
        assert await other.backend.mark(chat, "ban:u", Mark("x", 0.0), b"gone")
        assert await unexpired(one, chat) == {}
        await until(lambda: b"gone" in one.heard.notes, "the note")

    @on_nodes
    async def test_marks_expire(self, nodes: Nodes) -> None:
        """A mark counts no longer once it has expired, and a position may then be given again."""
        chat = fresh_chat()
        one, other = await nodes.two()
        last = await one.append(chat, "m1")
        soon = time.time() + 1.2
        assert await one.backend.mark(chat, "read:u", Mark("1", soon, last), b"")
        assert await one.backend.mark(chat, "ban:u", Mark("", LATER), b"")
        again = Mark("2", LATER, last)
        assert not await other.backend.mark(chat, "read:u", again, b"")
        async with asyncio.timeout(15):
            while not await other.backend.mark(chat, "read:u", again, b""):  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.1)
        assert await unexpired(one, chat) == {"read:u": again, "ban:u": Mark("", LATER)}

    @pytest.mark.parametrize("text", ODD)
    @on_nodes
    async def test_names_and_values_are_any_text(self, nodes: Nodes, text: str) -> None:
        """A name and a value come back as they were given."""
        chat = fresh_chat()
        node = await nodes.one()
        last = await node.append(chat, "m1")
        marks = {f"ban:{text}": Mark(text, LATER), f"read:{text}": Mark(text, LATER, last)}
        for name, mark in marks.items():
            assert await node.backend.mark(chat, name, mark, b"")
        assert (await node.backend.subscribe(chat)).marks == marks

    @on_nodes
    async def test_a_chat_has_only_so_many_marks(self, nodes: Nodes) -> None:
        """New names get no positions in a full chat, and bans still do; what has expired makes room."""
        with patch("eclipse_ws.backends.marks.MAX_MARKS", 3):
            chat = fresh_chat()
            node = await nodes.one()
            last = await node.append(chat, "m1", "m2")
            first, second = Cursor(last.epoch, 1), last
            for name, expires in (("a", LATER), ("b", LATER), ("c", time.time() + 1.2)):
                assert await node.backend.mark(chat, name, Mark("", expires, first), b"")
            full = await node.backend.mark(chat, "d", Mark("", LATER, second), b"full")
            assert await node.backend.mark(chat, "a", Mark("", LATER, second), b"")
            bans = [await node.backend.mark(chat, f"ban:{n}", Mark("", LATER), b"") for n in range(4)]
            assert (full, bans) == (False, [True, True, True, False])
            assert await node.backend.mark(chat, "ban:0", Mark("", 0.0), b"")
            async with asyncio.timeout(15):
                while not await node.backend.mark(chat, "ban:3", Mark("", LATER), b""):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
                while not await node.backend.mark(chat, "ban:4", Mark("", LATER), b""):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            assert await unexpired(node, chat) == {
                "a": Mark("", LATER, second),
                "b": Mark("", LATER, first),
                **{f"ban:{n}": Mark("", LATER) for n in (1, 2, 3, 4)},
            }
            assert b"full" not in node.heard.notes


async def unexpired(node: Node, chat_id: str) -> dict[str, Mark]:
    """The marks that count."""
    return current((await node.backend.subscribe(chat_id)).marks, time.time())
