"""History: all of a range or None, positions that can't be proved, and bounds."""

from __future__ import annotations

import asyncio

from eclipse_ws.protocol import Cursor
from eclipse_ws.testing.harness import (
    Contract,
    Nodes,
    fresh_chat,
    make_settings,
    message,
    numbers_of,
    on_nodes,
    position_of,
    until,
)


class HistoryContract(Contract):
    """What `read` and `subscribe` return, and when an epoch ends."""

    @on_nodes
    async def test_read_answers_the_rest(self, nodes: Nodes) -> None:
        """Reading after any cursor of the epoch returns all later events as heard, on both nodes."""
        chat = fresh_chat()
        one, other = await nodes.two(chat)
        last = await one.append(chat, *range(5))
        await one.until_heard(chat, *range(5))
        for node in (one, other):
            for offset in range(6):
                found = await node.backend.read(chat, Cursor(last.epoch, offset), last)
                assert found is not None
                assert list(found) == one.heard.events[chat][offset:]

    @on_nodes
    async def test_read_refuses_what_it_cannot_prove(self, nodes: Nodes) -> None:
        """A cursor of the future, of another epoch or of another chat gets None, and ends no epoch."""
        chat, another = fresh_chat(), fresh_chat()
        node = await nodes.one(chat, another)
        last = await node.append(chat, "m1")
        foreign = await node.append(another, "m2")
        for cursor in (Cursor(last.epoch, 2), Cursor(last.epoch, 10**30), Cursor("another", 0), foreign):
            assert await node.backend.read(chat, cursor) is None
        assert await node.backend.read(fresh_chat(), last) is None
        assert await node.append(chat, "m3") == Cursor(last.epoch, 2)

    @on_nodes
    async def test_read_refuses_while_the_node_knows_more(self, nodes: Nodes) -> None:
        """A backend that knows less than this node has lost events: it returns None."""
        chat = fresh_chat()
        node, _ = await nodes.shared(chat)
        last = await node.append(chat, "m1")
        assert await node.backend.read(chat, Cursor(last.epoch, 0), Cursor(last.epoch, 2)) is None

    @on_nodes
    async def test_subscribing_answers_what_was_missed(self, nodes: Nodes) -> None:
        """A subscription with a known position returns all events since then; with the newest one, none."""
        chat = fresh_chat()
        one, other = await nodes.two(chat)
        known = position_of("m1", await one.append(chat, "m1"))
        await one.backend.unsubscribe([chat])
        last = await other.append(chat, "m2", "m3")
        found = await one.backend.subscribe(chat, known)
        assert (found.position.cursor, found.renewed) == (last, False)
        assert numbers_of(found.missed or ()) == ["m2", "m3"]
        assert [event.cursor for event in found.missed or ()] == [Cursor(last.epoch, n) for n in (2, 3)]
        found = await one.backend.subscribe(chat, position_of("m3", last))
        assert (found.position.cursor, list(found.missed or ()), found.missed is None) == (last, [], False)

    @on_nodes
    async def test_subscribing_with_an_unknown_epoch(self, nodes: Nodes) -> None:
        """A known position of another epoch proves nothing: no missed events, and no new epoch."""
        chat = fresh_chat()
        node = await nodes.one(chat)
        last = await node.append(chat, "m1")
        found = await node.backend.subscribe(chat, position_of("m1", Cursor("another", 1)))
        assert (found.position.cursor, found.missed, found.renewed) == (last, None, False)

    @on_nodes
    async def test_a_known_position_of_the_future_begins_a_new_epoch(self, nodes: Nodes) -> None:
        """If a node has heard more than is kept, its subscription begins a new epoch, once."""
        chat = fresh_chat()
        one, other = await nodes.shared(chat)
        last = await one.append(chat, "m1")
        known = position_of("m3", Cursor(last.epoch, 3))
        found = await one.backend.subscribe(chat, known)
        assert found.position.cursor.epoch != last.epoch
        assert (found.position.cursor.offset, found.missed, found.renewed) == (0, None, True)
        again = await other.backend.subscribe(chat, known)
        assert (again.position.cursor, again.missed, again.renewed) == (found.position.cursor, None, False)
        assert await other.append(chat, "m2") == Cursor(found.position.cursor.epoch, 1)

    @on_nodes
    async def test_an_append_from_the_future_begins_a_new_epoch(self, nodes: Nodes) -> None:
        """If a node has heard more than is kept, its next event is the first one of a new epoch."""
        chat = fresh_chat()
        one, other = await nodes.shared(chat)
        last = await one.append(chat, "m1")
        cursor = await other.append(chat, "m2", known=Cursor(last.epoch, 3))
        assert cursor == Cursor(cursor.epoch, 1)
        assert cursor.epoch != last.epoch
        assert await other.append(chat, "m3", known=Cursor(last.epoch, 3)) == Cursor(cursor.epoch, 2)
        assert await one.backend.read(chat, last) is None

    # -- new epochs -----------------------------------------------------------------------------

    @on_nodes
    async def test_renewing_begins_a_new_epoch(self, nodes: Nodes) -> None:
        """After a renewal no earlier cursor is valid, and the next event is the first one."""
        chat = fresh_chat()
        one, other = await nodes.two(chat)
        last = await one.append(chat, "m1", "m2")
        found = await one.backend.subscribe(chat, renew=True)
        assert (found.position.cursor.offset, found.missed, found.renewed) == (0, None, True)
        assert found.position.cursor.epoch != last.epoch
        assert await other.backend.read(chat, Cursor(last.epoch, 1)) is None
        assert await other.append(chat, "m3") == Cursor(found.position.cursor.epoch, 1)
        assert numbers_of(await one.backend.read(chat, found.position.cursor) or ()) == ["m3"]

    @on_nodes
    async def test_one_of_many_renews_a_known_epoch(self, nodes: Nodes) -> None:
        """If several renew the same epoch, the first one does it, and the others join the new epoch."""
        chat = fresh_chat()
        one, other = await nodes.two(chat)
        known = position_of("m1", await one.append(chat, "m1"))
        found = await asyncio.gather(
            *(node.backend.subscribe(chat, known, renew=True) for node in (one, other) * 3)
        )
        assert len({each.position.cursor for each in found}) == 1
        assert found[0].position.cursor.epoch != known.cursor.epoch
        assert sorted(each.renewed for each in found) == [False] * 5 + [True]
        assert {each.missed for each in found} == {None}

    @on_nodes
    async def test_renewing_always_without_a_known_position(self, nodes: Nodes) -> None:
        """Without a known position each renewal begins another epoch."""
        chat = fresh_chat()
        node = await nodes.one(chat)
        found = [await node.backend.subscribe(chat, renew=True) for _ in range(3)]
        assert len({each.position.cursor.epoch for each in found}) == 3

    # -- bounds ---------------------------------------------------------------------------------

    @on_nodes
    async def test_history_events(self, nodes: Nodes) -> None:
        """A history keeps as many events as it should, and not many more; after a gap it returns None."""
        chat = fresh_chat()
        node = await nodes.one(chat, history_events=10)
        last = await node.append(chat, *range(30))
        found = await node.backend.read(chat, Cursor(last.epoch, 20))
        assert numbers_of(found or ()) == [str(number) for number in range(20, 30)]
        for offset in (0, 1, 9):
            assert await node.backend.read(chat, Cursor(last.epoch, offset)) is None
        subscription = await node.backend.subscribe(chat, position_of(0, Cursor(last.epoch, 1)))
        assert (subscription.position.cursor, subscription.missed) == (last, None)

    @on_nodes
    async def test_history_bytes(self, nodes: Nodes) -> None:
        """Large events push out earlier ones; the newest one is kept, whatever its size."""
        chat = fresh_chat()
        settings = make_settings(history_events=10)
        node = await nodes.one(chat, history_events=10)
        size = settings.history_bytes // 4
        cursor = Cursor("", 0)
        for number in range(9):
            cursor, _ = await node.backend.append(chat, message(number, size))
        assert await node.backend.read(chat, Cursor(cursor.epoch, 0)) is None
        assert await node.backend.read(chat, Cursor(cursor.epoch, 3)) is None
        assert numbers_of(await node.backend.read(chat, Cursor(cursor.epoch, 8)) or ()) == ["8"]
        cursor, _ = await node.backend.append(chat, message("huge", 2 * settings.history_bytes))
        assert await node.backend.read(chat, Cursor(cursor.epoch, 8)) is None
        assert numbers_of(await node.backend.read(chat, Cursor(cursor.epoch, 9)) or ()) == ["huge"]

    @on_nodes
    async def test_history_seconds(self, nodes: Nodes) -> None:
        """The events of an empty chat are forgotten after a while, all of them at once."""
        chat = fresh_chat()
        node = await nodes.one(chat, history_seconds=1)
        last = await node.append(chat, "m1", "m2")
        await node.backend.unsubscribe([chat])
        forgotten = asyncio.Event()

        async def look() -> None:
            while (found := await node.backend.read(chat, Cursor(last.epoch, 0))) is not None:
                assert numbers_of(found) == ["m1", "m2"]
                await asyncio.sleep(0.1)
                await node.append(fresh_chat(), "m1")  # some backends forget only when something happens
            forgotten.set()

        looking = asyncio.create_task(look())
        await until(lambda: forgotten.is_set() or looking.done(), "the history to be forgotten")
        await looking
