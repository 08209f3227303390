"""Deletions: what a history has of a message that was deleted, and what comes after its deletion."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from eclipse_ws.backends.base import Key, Record
from eclipse_ws.protocol import Cursor, Event, Receipt, parse_event
from eclipse_ws.testing.harness import Contract, Node, Nodes, fresh_chat, message, on_nodes, position_of

ODD_IDS = ("m1", "5", "a:b", 'q"\\/', "\u00e9\U0001f600", "%_.*", "x" * 600)
"""Ids that a store may have to escape, or to shorten."""


class DeletionsContract(Contract):
    """A message's content leaves the history with its deletion, and doesn't come back."""

    @pytest.mark.parametrize("number", ODD_IDS)
    @on_nodes
    async def test_a_deleted_message_leaves_the_history(self, nodes: Nodes, number: str) -> None:
        """The message and its updates become the deletion, under their own cursors; all else stays."""
        chat = fresh_chat()
        one, other = await nodes.two(chat)
        others = [message(f"{number}0"), update(f"{number}:0", "t"), about(number), message("0", 5000)]
        events = [message(number), others[0], update(number, "t1"), *others[1:], update(number, "t2")]
        for event in events:
            last, _ = await one.backend.append(chat, event)
        await other.backend.append(chat, deletion(number))
        expected = [
            msgspec.json.decode((event if event in others else deletion(number)).body)
            | {"cursor": f"{last.epoch}.{offset}"}
            for offset, event in enumerate([*events, deletion(number)], 1)
        ]
        start = Cursor(last.epoch, 0)
        for node in (one, other):
            assert await history(node, chat, start) == expected
            assert await history(node, chat, Cursor(last.epoch, 2)) == expected[2:]
            found = await node.backend.subscribe(chat, position_of(number, Cursor(last.epoch, 1)))
            assert [msgspec.json.decode(each.body) for each in found.missed or ()] == expected[1:]
            assert not found.renewed

    @on_nodes
    async def test_identities_outlive_deletions(self, nodes: Nodes) -> None:
        """A deleted message that is appended again, and the deletion, are known under their cursors."""
        chat = fresh_chat()
        one, other = await nodes.two(chat)
        first = await one.append(chat, "m1", "m2")
        second, _ = await one.backend.append(chat, deletion("m1"))
        before = await history(one, chat, Cursor(first.epoch, 0))
        for node in (one, other):
            assert await node.backend.append(chat, message("m1")) == (Cursor(first.epoch, 1), False)
            assert await node.backend.append(chat, message("m2")) == (Cursor(first.epoch, 2), False)
            assert await node.backend.append(chat, deletion("m1")) == (second, False)
            assert await history(node, chat, Cursor(first.epoch, 0)) == before
        assert await one.append(chat, "m3") == Cursor(first.epoch, 4)

    @on_nodes
    async def test_what_comes_after_its_deletion_is_not_kept(self, nodes: Nodes) -> None:
        """A message that is appended later than its deletion counts as appended with that one's cursor."""
        chat = fresh_chat()
        one, other = await nodes.two(chat)
        first, new = await one.backend.append(chat, deletion("m1"))
        assert (first.offset, new) == (1, True)
        for node in (one, other):
            for late in (message("m1"), update("m1", "t")):
                assert await node.backend.append(chat, late) == (first, False)
        await other.append(chat, "m2")
        for node in (one, other):
            await node.until_heard(chat, "message_deleted:m1", "m2")

    @on_nodes
    async def test_the_key_of_a_deleted_message_is_done(self, nodes: Nodes) -> None:
        """An attempt whose message was deleted before it was appended is done all the same."""
        one, other = await nodes.shared()
        chat, key = fresh_chat(), Key("k" * 32, "token", "f" * 32)
        cursor, _ = await one.backend.append(chat, deletion("m1"))
        assert await other.backend.append(chat, message("m1"), key=key) == (cursor, False)
        found = await one.backend.record(chat, key, "pending")
        assert found == Record("done", Receipt("m1", str(cursor), "published"))

    @on_nodes
    async def test_a_deletion_that_deletes_nothing(self, nodes: Nodes) -> None:
        """A deletion of an unknown message, or without an id, is an event like any other."""
        chat = fresh_chat()
        node = await nodes.one(chat)
        nameless = (b"{}", b"null", b"7", b'{"id":null}', b'{"id":""}', b'{"id":[1]}')
        bodies = [b'{"type":"message_deleted","data":%b}' % data for data in nameless]
        for offset, event in enumerate([deletion("m1"), *map(parse_event, bodies)], 1):
            assert (await node.backend.append(chat, event))[0].offset == offset
        last = await node.append(chat, "m2")
        assert len(await history(node, chat, Cursor(last.epoch, 0))) == len(bodies) + 2


def deletion(number: str) -> Event:
    """The deletion of the message with this number."""
    data = {"id": number, "deletedAt": "2026-01-31T00:00:00.000Z"}
    return parse_event(msgspec.json.encode({"type": "message_deleted", "data": data}))


def update(number: str, at: str) -> Event:
    """An update of that message."""
    data = {"id": number, "content": "changed", "updatedAt": at}
    return parse_event(msgspec.json.encode({"type": "message_updated", "data": data}))


def about(number: str) -> Event:
    """An event of another type that mentions that message."""
    data = {"id": number, "type": "message", "data": {"id": number}}
    return parse_event(msgspec.json.encode({"type": "reaction", "data": data}))


async def history(node: Node, chat_id: str, after: Cursor) -> list[Any]:
    """What a client that comes back with a cursor would get."""
    found = await node.backend.read(chat_id, after)
    assert found is not None
    return [msgspec.json.decode(event.body) for event in found]
