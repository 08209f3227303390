"""The ledger: who holds it, whose records are kept, and what comes back."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable
from typing import Final

import pytest

from eclipse_ws.backends.ledger import MAX_RECORDS, Ledger
from eclipse_ws.testing.harness import Contract, Node, Nodes, fresh_chat, on_nodes

ODD_BYTES: Final = (b"\0", b"\0a\0", b"\xff\xfe", b"\xc3", b"\r\n", b" ", bytes(range(256)), b"x" * 100_000)
ODD_CHATS: Final = (
    " ",
    "a b  c ",
    "a:b:meta",
    "{a}b}",
    "%7B\\'\"$1",
    "\u00e9\U0001f600\u2028",
    "__proto__",
    "0",
    "\U0001f600" * 256,
)


class LedgerContract(Contract):
    """`Backend.ledger`. These tests are skipped if a backend has none."""

    @on_nodes
    async def test_one_of_several_takes_it(self, nodes: Nodes) -> None:
        """Of several that replace the same holder at once, one does, and all are told which."""
        one, other, me = await taken(nodes)
        names = [name() for _ in range(10)]
        answers = await asyncio.gather(
            *((one, other)[number % 2].take(each, me) for number, each in enumerate(names))
        )
        (winner,) = set(answers)
        assert winner in names
        for ledger in (one, other):
            for each in names:
                assert await ledger.write(each, {}) is (each == winner)

    @on_nodes
    async def test_who_may_take_it(self, nodes: Nodes) -> None:
        """Only who names the present holder replaces it; the holder stays whatever it names."""
        one, other, me = await taken(nodes)
        chat, record = fresh_chat(), b"record"
        assert await one.write(me, {chat: record})
        for instead_of in ("", name(), me.upper(), me + "x", me[:-1]):
            assert await other.take(name(), instead_of) == me
        for instead_of in ("", me, name()):
            assert await other.take(me, instead_of) == me
        assert await one.write(me, {})
        assert await other.read() == {chat: record}
        second = name()
        assert await other.take(second, me) == second
        assert await one.take(me) == second
        assert await one.take(me, me) == second
        assert await one.read() == {chat: record}

    @on_nodes
    async def test_a_former_holder_changes_nothing(self, nodes: Nodes) -> None:
        """Nothing of a write is kept, or removed, if another one is the holder by then."""
        one, other, me = await taken(nodes)
        kept, new, second = fresh_chat(), fresh_chat(), name()
        assert await one.write(me, {kept: b"1"})
        assert await other.take(second, me) == second
        for holder in (me, name(), ""):
            assert await one.write(holder, {kept: b"2", new: b"2"}) is False
            assert await one.write(holder, {kept: b""}) is False
            assert await one.write(holder, {}) is False
        assert await other.read() == await one.read() == {kept: b"1"}
        assert await other.write(second, {kept: b"3"})
        assert await one.take(me, second) == me
        assert await other.write(second, {kept: b"4"}) is False
        assert await other.read() == {kept: b"3"}

    @on_nodes
    async def test_a_change_of_holders_between_writes(self, nodes: Nodes) -> None:
        """While the holder writes, another one takes its place: what it finds is what stays."""
        one, other, me = await taken(nodes)
        chats = [fresh_chat() for _ in range(50)]

        async def write() -> int:
            number = 0
            while await one.write(me, dict.fromkeys(chats, b"%d" % number)):
                number += 1
                await asyncio.sleep(0)  # in memory nothing waits
            return number

        writing = asyncio.create_task(write())
        await asyncio.sleep(0.05)
        second = name()
        assert await other.take(second, me) == second
        found = await other.read()
        last = b"%d" % (await writing - 1)
        assert found == await other.read() == dict.fromkeys(chats, last)

    @on_nodes
    async def test_records_change_and_go(self, nodes: Nodes) -> None:
        """A write replaces its own chats' records, and removes those that are empty; others remain."""
        one, other, me = await taken(nodes)
        a, b, c = (fresh_chat() for _ in range(3))
        assert await one.write(me, {a: b"a", b: b"b"})
        assert await other.write(me, {b: b"longer than before", c: b"c"})
        assert await one.read() == {a: b"a", b: b"longer than before", c: b"c"}
        assert await one.write(me, {a: b"", c: b"d", fresh_chat(): b""})
        assert await other.read() == {b: b"longer than before", c: b"d"}
        assert await one.write(me, {})
        assert await one.write(me, {b: b"", c: b""})
        assert await other.read() == {}
        assert await other.write(me, {a: b"again"})
        assert await one.read() == {a: b"again"}

    @on_nodes
    async def test_any_bytes(self, nodes: Nodes) -> None:
        """Records come back as they were given."""
        one, other, me = await taken(nodes)
        records = {fresh_chat(): record for record in ODD_BYTES}
        assert await one.write(me, records)
        assert await other.read() == records

    @on_nodes
    async def test_any_chat(self, nodes: Nodes) -> None:
        """Chats of any name have a record each, which can be removed."""
        one, other, me = await taken(nodes)
        records = {chat_id: chat_id.encode() for chat_id in ODD_CHATS}
        assert await one.write(me, records)
        assert await other.read() == records
        assert await other.write(me, dict.fromkeys(ODD_CHATS[1:], b""))
        assert await one.read() == {ODD_CHATS[0]: ODD_CHATS[0].encode()}

    @on_nodes
    async def test_how_many_at_once(self, nodes: Nodes) -> None:
        """So many records are written in one step, and one more is an error that changes nothing."""
        one, other, me = await taken(nodes)
        records = {fresh_chat(): b"%d" % number for number in range(MAX_RECORDS)}
        assert await one.write(me, records)
        assert await other.read() == records
        with pytest.raises(ValueError, match=str(MAX_RECORDS + 1)):
            await one.write(me, {**dict.fromkeys(records, b"no"), fresh_chat(): b"no"})
        assert await other.read() == records
        assert await one.write(me, dict.fromkeys(records, b""))
        assert await other.read() == {}

    @on_nodes
    async def test_many_records_while_others_change(self, nodes: Nodes) -> None:
        """Who reads thousands of records finds each that was there before and is not changed."""
        one, other, me = await taken(nodes)
        records = {fresh_chat(): b"record %d" % number for number in range(10 * MAX_RECORDS)}
        passing = [fresh_chat() for _ in range(100)]
        await write_all(one, me, records)

        async def change() -> None:
            number = 0
            while True:
                number += 1
                assert await one.write(me, dict.fromkeys(passing, b"%d" % number if number % 2 else b""))
                await asyncio.sleep(0)

        changing = asyncio.create_task(change())
        try:
            for _ in range(3):
                found = await other.read()
                assert {chat_id: found.get(chat_id) for chat_id in records} == records
                assert found.keys() <= {*records, *passing}
        finally:
            changing.cancel()
            await asyncio.wait([changing])
        assert changing.cancelled()
        await write_all(one, me, dict.fromkeys([*records, *passing], b""))
        assert await other.read() == {}

    @on_nodes
    async def test_it_outlives_nodes(self, nodes: Nodes) -> None:
        """A node that starts later finds the holder and the records of one that is gone."""
        one, me, chat = await nodes.one(), name(), fresh_chat()
        await take(ledger_of(one), me)
        assert await ledger_of(one).write(me, {chat: b"record"})
        if not one.backend.is_shared:
            pytest.skip("the backend has one node only")
        await one.backend.close()
        later = ledger_of(await nodes.one())
        assert await later.take(name()) == me
        assert await later.read() == {chat: b"record"}


def name() -> str:
    """The name of a holder that no other test uses."""
    return secrets.token_hex(6)


def ledger_of(node: Node) -> Ledger:
    """The node's ledger; skips the test if the backend has none."""
    if node.backend.ledger is None:
        pytest.skip("the backend has no ledger")
    return node.backend.ledger


async def taken(nodes: Nodes) -> tuple[Ledger, Ledger, str]:
    """The ledger on two nodes, without records, and the name of its holder."""
    one, other = (ledger_of(node) for node in await nodes.two())
    me = name()
    await take(one, me)
    return one, other, me


async def take(ledger: Ledger, holder: str) -> None:
    """Hold the ledger in place of its present holder, and remove all records."""
    assert await ledger.take(holder, await ledger.take(holder)) == holder
    await write_all(ledger, holder, dict.fromkeys(await ledger.read(), b""))


async def write_all(ledger: Ledger, holder: str, records: dict[str, bytes]) -> None:
    """Write any number of records."""
    for piece in pieces(records):
        assert await ledger.write(holder, {chat_id: records[chat_id] for chat_id in piece})


def pieces(chat_ids: Iterable[str]) -> list[list[str]]:
    """Chats of one write each."""
    all_of_them = list(chat_ids)
    return [all_of_them[at : at + MAX_RECORDS] for at in range(0, len(all_of_them), MAX_RECORDS)]
