"""Events: their order, who hears them, and subscriptions."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from eclipse_ws.protocol import Cursor
from eclipse_ws.testing.harness import (
    Contract,
    Nodes,
    fresh_chat,
    make_settings,
    message,
    numbers_of,
    on_nodes,
    typing,
    until,
)

ODD_CHATS = (
    "x" * 256,
    "\U0001f600" * 256,
    "{a}:{b}",
    "a b",
    "a/b\\c",
    "*?[a-z]^$%s%00",
    "'; DROP TABLE chats; --",
    '"\x80\u2028\ufeff\uffff',
    ".",
)
"""Ids that a store or pattern may misinterpret. Ids have no ASCII control characters."""
NEIGHBOURS = ("a", "A", "a ", "{a}", "%61", "\u00e9", "e\u0301")
"""Different ids that a store may take for the same."""


class EventsContract(Contract):
    """Order, identities, who hears what, and subscriptions."""

    @on_nodes
    async def test_one_order_without_gaps(self, nodes: Nodes) -> None:
        """Both nodes hear the events that they append at the same time in one order, without gaps."""
        chat = fresh_chat()
        one, other = await nodes.two(chat)
        answers = await asyncio.gather(
            *(
                node.backend.append(chat, message(f"{name}{number}"))
                for number in range(75)
                for name, node in (("a", one), ("b", other))
            )
        )
        assert all(new for _, new in answers)
        for node in (one, other):
            await until(lambda node=node: len(node.heard.events[chat]) >= 150, "150 events")  # type: ignore[misc]
        heard = one.heard.events[chat]
        assert [event.cursor.offset for event in heard if event.cursor] == list(range(1, 151))
        assert {event.cursor for event in heard} == {cursor for cursor, _ in answers}
        assert len({cursor.epoch for cursor, _ in answers}) == 1
        assert heard == other.heard.events[chat]
        assert one.heard.times_lost == other.heard.times_lost == 0

    @on_nodes
    async def test_one_nodes_order_is_kept(self, nodes: Nodes) -> None:
        """A node that awaits each append gets offsets that go up by one."""
        node = await nodes.one()
        chat = fresh_chat()
        cursors = [await node.append(chat, number) for number in range(5)]
        assert cursors == [Cursor(cursors[0].epoch, offset) for offset in range(1, 6)]

    @on_nodes
    async def test_an_identity_is_appended_once(self, nodes: Nodes) -> None:
        """The same event, appended twice by two nodes, is one event with one cursor, and new only once."""
        chat = fresh_chat()
        one, other = await nodes.two(chat)
        first, second = await asyncio.gather(
            one.backend.append(chat, message("m1")), other.backend.append(chat, message("m1"))
        )
        assert first[0] == second[0]
        assert {first[1], second[1]} == {True, False}
        await other.append(chat, "m2")
        assert await one.backend.append(chat, message("m1")) == (first[0], False)
        await one.append(chat, "m3")
        for node in (one, other):
            await node.until_heard(chat, "m1", "m2", "m3")

    @on_nodes
    async def test_an_identity_belongs_to_its_chat(self, nodes: Nodes) -> None:
        """The same identity in another chat is another event."""
        node = await nodes.one()
        for chat in (fresh_chat(), fresh_chat()):
            cursor, new = await node.backend.append(chat, message("m1"))
            assert (cursor.offset, new) == (1, True)

    @on_nodes
    async def test_a_publisher_hears_itself(self, nodes: Nodes) -> None:
        """Both nodes hear the event with its cursor, which is also in its body."""
        chat = fresh_chat()
        one, other = await nodes.two(chat)
        event = message("m1")
        cursor, _ = await one.backend.append(chat, event)
        for node in (one, other):
            await node.until_heard(chat, "m1")
            (heard,) = node.heard.events[chat]
            assert (heard.type, heard.identity, heard.cursor) == (event.type, event.identity, cursor)
            body = msgspec.json.decode(heard.body)
            assert body.pop("cursor") == str(cursor)
            assert body == msgspec.json.decode(event.body)

    @on_nodes
    async def test_only_subscribed_chats_are_heard(self, nodes: Nodes) -> None:
        """A node gets no events of chats to which it isn't subscribed."""
        chat, another = fresh_chat(), fresh_chat()
        node = await nodes.one(chat)
        await node.append(another, "m1")
        node.backend.broadcast(another, typing())
        await node.append(chat, "m2")
        await node.until_heard(chat, "m2")
        assert set(node.heard.events) == {chat}

    @on_nodes
    async def test_a_broadcast_is_heard_and_not_kept(self, nodes: Nodes) -> None:
        """An ephemeral event reaches both nodes with its origin, has no cursor, and takes no offset."""
        chat = fresh_chat()
        one, other = await nodes.two(chat)
        one.backend.broadcast(chat, typing("session-1"))
        for node in (one, other):
            await until(lambda node=node: node.heard.events[chat], "the broadcast")  # type: ignore[misc]
            (heard,) = node.heard.events[chat]
            assert (heard.type, heard.origin, heard.cursor) == ("typing", "session-1", None)
            assert msgspec.json.decode(heard.body) == msgspec.json.decode(typing().body)
        assert (await one.append(chat, "m1")).offset == 1
        assert one.backend.broadcasts_dropped == 0

    @on_nodes
    async def test_the_largest_event(self, nodes: Nodes) -> None:
        """An event of the largest permitted size arrives complete and in order, and is kept."""
        chat = fresh_chat()
        one, other = await nodes.two(chat)
        largest = message("large", make_settings().max_event)
        start = (await one.backend.subscribe(chat)).position.cursor
        await asyncio.gather(
            *(one.backend.append(chat, each) for each in (message(1), largest, message(2), message(3)))
        )
        for node in (one, other):
            await until(lambda node=node: len(node.heard.events[chat]) >= 4, "4 events")  # type: ignore[misc]
            heard = node.heard.events[chat]
            assert [event.cursor for event in heard] == [Cursor(start.epoch, n) for n in (1, 2, 3, 4)]
            (found,) = (event for event in heard if event.identity == largest.identity)
            assert msgspec.json.decode(found.body)["data"] == msgspec.json.decode(largest.body)["data"]
        await one.backend.append(chat, message("larger", make_settings().max_event))
        assert numbers_of(await one.backend.read(chat, Cursor(start.epoch, 4)) or ()) == ["larger"]

    @on_nodes
    async def test_odd_chat_ids(self, nodes: Nodes) -> None:
        """Ids of up to 256 characters of any kind work like others."""
        prefix = fresh_chat()
        chats = [*ODD_CHATS, *(prefix + each for each in NEIGHBOURS)]
        one, other = await nodes.two(*chats)
        for number, chat in enumerate(chats):
            start = (await other.backend.subscribe(chat)).position.cursor
            one.backend.broadcast(chat, typing())
            cursor = await one.append(chat, f"{prefix}-{number}")
            assert cursor == Cursor(start.epoch, start.offset + 1)
            for node in (one, other):
                await until(lambda heard=node.heard.events[chat]: len(heard) == 2, repr(chat))  # type: ignore[misc]
            assert numbers_of(await one.backend.read(chat, start) or ()) == [f"{prefix}-{number}"]
        assert {chat: len(events) for chat, events in one.heard.events.items()} == dict.fromkeys(chats, 2)

    # -- subscriptions --------------------------------------------------------------------------

    @on_nodes
    async def test_subscribing_tells_the_position(self, nodes: Nodes) -> None:
        """A new chat's position is before its first event; later, it is the last event, on both nodes."""
        chat = fresh_chat()
        one, other = await nodes.two()
        start = await one.backend.subscribe(chat)
        assert (start.position.cursor.offset, start.position.identity, start.missed) == (0, "", None)
        cursor = await other.append(chat, "m1", "m2")
        assert cursor == Cursor(start.position.cursor.epoch, 2)
        assert cursor == Cursor.parse(str(cursor)), "an epoch has ASCII letters and digits only"
        for node in (one, other):
            found = await node.backend.subscribe(chat)
            assert (found.position.cursor, found.missed, found.renewed) == (cursor, None, False)
            assert found.position.identity in ("", message("m2").identity)

    @on_nodes
    async def test_subscribing_is_idempotent(self, nodes: Nodes) -> None:
        """After many subscriptions, some at the same time, each event is heard once."""
        chat = fresh_chat()
        node = await nodes.one()
        found = await asyncio.gather(*(node.backend.subscribe(chat) for _ in range(20)))
        assert len({each.position.cursor for each in found}) == 1
        await node.backend.subscribe(chat)
        await node.append(chat, "m1", "m2")
        await node.until_heard(chat, "m1", "m2")

    @on_nodes
    async def test_nothing_falls_between_position_and_hearing(self, nodes: Nodes) -> None:
        """If another node appends meanwhile, all events after the position are heard."""
        chat = fresh_chat()
        one, other = await nodes.two()
        await other.append(chat, *range(10))
        appending = asyncio.create_task(other.append(chat, *range(10, 100)))
        await asyncio.sleep(0)
        found = await one.backend.subscribe(chat)
        await appending
        after = found.position.cursor.offset
        await one.append(chat, "last")

        def offsets() -> list[int]:
            return [event.cursor.offset for event in one.heard.events[chat] if event.cursor]

        await until(lambda: offsets()[-1:] == [101], "the last event")
        assert [offset for offset in offsets() if offset > after] == list(range(after + 1, 102))

    @on_nodes
    async def test_unsubscribed_chats_are_not_heard(self, nodes: Nodes) -> None:
        """After unsubscribing, also twice or from unknown chats, only the other chats are heard."""
        chat, used, another = fresh_chat(), fresh_chat(), fresh_chat()
        node = await nodes.one(chat, used, another)
        await node.append(used, "m0")
        await node.until_heard(used, "m0")
        await node.backend.unsubscribe([chat, used, fresh_chat()])
        await node.backend.unsubscribe([chat])
        await node.backend.unsubscribe([])
        await node.append(chat, "m1")
        await node.append(used, "m1")
        await node.append(another, "m2")
        await node.until_heard(another, "m2")
        assert set(node.heard.events) == {used, another}
        await node.until_heard(used, "m0")

    @pytest.mark.parametrize("pause", [0, 1, 5])
    @on_nodes
    async def test_subscribing_again_wins(self, nodes: Nodes, pause: int) -> None:
        """A chat that is subscribed to again while it is being unsubscribed is heard."""
        chat = fresh_chat()
        node = await nodes.one(chat)
        leaving = asyncio.create_task(node.backend.unsubscribe([chat]))
        for _ in range(pause):
            await asyncio.sleep(0)
        await asyncio.gather(leaving, node.backend.subscribe(chat))
        await node.append(chat, "m1")
        await node.until_heard(chat, "m1")
