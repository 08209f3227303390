"""Nodes: notes between them, health, and their end."""

from __future__ import annotations

import asyncio
import gc

import pytest

from eclipse_ws.backends.base import NullListener
from eclipse_ws.testing.harness import Contract, Nodes, fresh_chat, make_settings, on_nodes, typing, until


class NodesContract(Contract):
    """What nodes send each other, what they say about themselves, and what they leave behind."""

    @on_nodes
    async def test_a_note_to_all(self, nodes: Nodes) -> None:
        """Every node, the sender included, hears a note without an address, in the order of sending."""
        one, other = await nodes.shared()
        assert [await one.backend.send(note) for note in (b"first", b"second")] == [2, 2]
        for node in (one, other):
            await until(lambda node=node: len(node.heard.notes) >= 2, "two notes")  # type: ignore[misc]
            assert node.heard.notes == [b"first", b"second"]

    @on_nodes
    async def test_a_note_to_one(self, nodes: Nodes) -> None:
        """Only the node with its address hears a note; no node hears one with an unknown address."""
        one, other = await nodes.shared()
        assert one.backend.address
        assert one.backend.address != other.backend.address
        assert await one.backend.send(b"other", other.backend.address) == 1
        assert await one.backend.send(b"self", one.backend.address) == 1
        await until(lambda: one.heard.notes and other.heard.notes, "both notes")
        assert (one.heard.notes, other.heard.notes) == ([b"self"], [b"other"])
        assert await one.backend.send(b"nobody", "nobody") == 0

    @on_nodes
    async def test_a_closed_node_is_not_counted(self, nodes: Nodes) -> None:
        """A closed node doesn't count as hearing a note."""
        one, other = await nodes.shared()
        address = other.backend.address
        await other.backend.close()
        assert await one.backend.send(b"all") == 1
        assert await one.backend.send(b"gone", address) == 0

    @on_nodes
    async def test_notes_are_bytes_of_any_length(self, nodes: Nodes) -> None:
        """A note arrives as it was sent, whatever its content and length."""
        one, other = await nodes.shared()
        notes = [b"", bytes(range(256)), bytes(range(256)) * 1000]
        for note in notes:
            assert await one.backend.send(note, other.backend.address) == 1
        await until(lambda: len(other.heard.notes) >= 3, "three notes")
        assert other.heard.notes == notes

    @on_nodes
    async def test_a_beacon(self, nodes: Nodes) -> None:
        """Every node hears a node's beacon with each of its heartbeats, as long as it has one."""
        one, other = await nodes.shared(fresh_chat(), redis_ping_interval=0.1)
        if not 0 < one.backend.beacon_interval <= 1:
            pytest.skip("the backend leaves the beacon to delivery, or its heartbeats are rare")
        for beacon in (b"first", b"second"):
            one.backend.beacon = beacon
            for node in (one, other):
                await until(lambda: node.heard.notes.count(beacon) >= 2, "two beacons")  # noqa: B023
        one.backend.beacon = b""
        await asyncio.sleep(one.backend.beacon_interval)  # one may be on its way
        await one.backend.send(b"last")
        await asyncio.sleep(3 * one.backend.beacon_interval)
        for node in (one, other):
            assert set(node.heard.notes) == {b"first", b"second", b"last"}
            assert node.heard.notes[-1] == b"last"

    @on_nodes
    async def test_health(self, nodes: Nodes) -> None:
        """A started backend is up, and reports its name."""
        node = await nodes.one()
        health = node.backend.health
        assert health.name == node.backend.name != ""
        assert health.state == "up"
        assert health.latency is None or 0 <= health.latency < 60
        assert health.queued == 0
        assert node.backend.broadcasts_dropped == 0
        assert node.heard.times_lost == 0

    @on_nodes
    async def test_closing_leaves_nothing(self, nodes: Nodes) -> None:
        """A backend that is closed, even during an operation, has no task, and can be closed again."""
        chat = fresh_chat()
        before = asyncio.all_tasks()
        node = await nodes.one(chat)
        node.backend.broadcast(chat, typing())
        append = asyncio.create_task(node.append(chat, "m1"))
        await asyncio.sleep(0)
        await node.backend.close()
        await asyncio.gather(append, return_exceptions=True)
        await node.backend.close()
        assert asyncio.all_tasks() <= before
        heard = len(node.heard.events[chat])
        gc.collect()
        await asyncio.sleep(0.05)
        assert len(node.heard.events[chat]) == heard

    @on_nodes
    async def test_closing_what_was_not_started(self, nodes: Nodes) -> None:
        """A backend can be closed before it is started, and right after its start."""
        await nodes.new().backend.close()
        backend = self.make_backend(make_settings())
        await backend.start(NullListener())
        await backend.close()
