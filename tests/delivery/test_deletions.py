"""Deletions where delivery itself holds a message: histories on their way, local copies, and the outbox."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from eclipse_ws.protocol import Cursor, Event, deletion_of, has_content_of, parse_event
from tests.backends.harness import body, event, until
from tests.delivery.asked import Stage, on_stage
from tests.delivery.test_local_copies import come_up, copies, go_down

gen_test = pytest.mark.gen_test(timeout=20)
CHAT = "chat"


def deletion(number: int | str) -> Event:
    """The deletion of a message."""
    return parse_event(json.dumps({"type": "message_deleted", "data": {"id": str(number)}}).encode())


def kinds(events: Sequence[Event] | None) -> list[tuple[str, str]]:
    """The type and the id of each event, as clients get them."""
    texts = [json.loads(each.body) for each in events or ()]
    return [(text["type"], text["data"]["id"]) for text in texts]


async def history(stage: Stage) -> list[tuple[str, str]]:
    """What the backend keeps."""
    (epoch,) = {each.cursor.epoch for each in stage.backend._channels[CHAT].events if each.cursor}
    return kinds(await stage.backend.read(CHAT, Cursor(epoch, 0)))


@gen_test
async def test_a_history_that_was_read_before_the_deletion() -> None:
    """A message that is deleted while a session's history is read is not in its replay."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        await stage.publish(CHAT, 1, 2)
        at = stage.delivery.position(CHAT)
        assert at is not None
        read, seen, go_on = stage.backend.read, asyncio.Event(), asyncio.Event()

        async def slowly(*given: Any) -> Sequence[Event] | None:
            found = await read(*given)
            seen.set()
            await go_on.wait()
            return found

        stage.backend.read = slowly  # type: ignore[method-assign]
        resuming = asyncio.create_task(stage.delivery.resume(CHAT, Cursor(at.epoch, 0)))
        await seen.wait()
        await stage.publish(CHAT, 3)
        for number in (1, 3):
            await stage.delivery.publish(CHAT, deletion(number))
        go_on.set()
        found = await resuming
        gone = "message_deleted"
        assert kinds(found) == [(gone, "1"), ("message", "2"), (gone, "3"), (gone, "1"), (gone, "3")]
        assert [each.cursor for each in found or ()] == [Cursor(at.epoch, number) for number in range(1, 6)]


@gen_test
async def test_a_message_and_its_deletion_wait_together() -> None:
    """A message that is deleted during the outage in which it was sent reaches no other node, and no history;
    who joins this one gets the deletion, and who was here gets each event once.
    """
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        go_down(stage)
        await stage.publish(CHAT, 1, 2)
        await stage.delivery.publish(CHAT, event(1, "message_updated"))
        receipt = await stage.delivery.publish(CHAT, deletion(1))
        assert receipt.delivery == "local"
        assert copies(stage) == ["2", "1"]
        assert [each.type for each in stage.delivery.local_copies(CHAT)] == ["message", "message_deleted"]
        come_up(stage)
        await until(lambda: stage.delivery.health.queued == 0)
        assert await history(stage) == [("message", "2"), ("message_deleted", "1")]
        await stage.publish(CHAT, 1)
        assert kinds(stage.heard.events[CHAT]) == [
            ("message", "1"),
            ("message", "2"),
            ("message_updated", "1"),
            ("message_deleted", "1"),
        ]
        assert copies(stage) == []


@gen_test
async def test_a_deletion_while_its_message_is_handed_over() -> None:
    """A message that the backend is just taking is deleted after it: its content is in no history."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        go_down(stage)
        await stage.publish(CHAT, 1)
        del stage.backend.append  # type: ignore[method-assign]
        append, begun, go_on = stage.backend.append, asyncio.Event(), asyncio.Event()

        async def slowly(*given: Any, **named: Any) -> tuple[Cursor, bool]:
            begun.set()
            await go_on.wait()
            return await append(*given, **named)

        stage.backend.append = slowly  # type: ignore[method-assign]
        stage.backend.is_up = True
        stage.delivery.restored()
        await begun.wait()
        await stage.delivery.publish(CHAT, deletion(1))
        await stage.publish(CHAT, 2)
        go_on.set()
        await until(lambda: stage.delivery.health.queued == 0)
        assert await history(stage) == [("message_deleted", "1"), ("message_deleted", "1"), ("message", "2")]
        assert stage.delivery._outbox._bytes == 0


@gen_test
async def test_a_deletion_from_elsewhere_reaches_local_copies() -> None:
    """A deletion that another node has published takes the message's local copy from those who join."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        go_down(stage)
        await stage.publish(CHAT, 1, 2)
        taken = stage.delivery._outbox._items.copy()
        stage.delivery._outbox._items.clear()  # they wait
        come_up(stage)
        await stage.delivery.publish(CHAT, deletion(1))
        assert copies(stage) == ["2"]
        stage.delivery._outbox._items.extend(taken)
        stage.delivery.restored()
        await until(lambda: stage.delivery.health.queued == 0)
        assert await history(stage) == [("message_deleted", "1"), ("message", "2")]
        assert len(stage.heard.events[CHAT]) == 3


@gen_test
async def test_a_message_after_its_deletion_is_not_delivered() -> None:
    """A message that comes later than its deletion, by whatever way, reaches no session."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        await stage.delivery.publish(CHAT, deletion(1))
        stage.delivery.receive(CHAT, body(1))
        await stage.publish(CHAT, 1)
        go_down(stage)
        receipt = await stage.delivery.publish(CHAT, event(1))
        assert (receipt.id, receipt.delivery) == ("1", "local")
        come_up(stage)
        await until(lambda: stage.delivery.health.queued == 0)
        await stage.publish(CHAT, 2)
        assert kinds(stage.heard.events[CHAT]) == [("message_deleted", "1"), ("message", "2")]


@pytest.mark.parametrize(
    ("raw", "deletes"),
    [
        (b'{"type":"message","data":{"id":"m1"}}', "message_deleted:m1"),
        (b'{"type":"message_updated","data":{"id":7,"updatedAt":8}}', "message_deleted:7"),
        (b'{"type":"message","data":{"id":"%b"}}' % (b"x" * 600), f"message_deleted:{'x' * 600}"),
        (b'{"type":"message","data":{}}', ""),
        (b'{"type":"message","data":[]}', ""),
        (b'{"type":"message_deleted","data":{"id":"m1"}}', ""),
        (b'{"type":"agent_joined","data":{"id":"m1"}}', ""),
    ],
)
def test_which_deletion_ends_an_event(raw: bytes, deletes: str) -> None:
    """Messages and their updates end with the deletion that has their id; other events with none."""
    found = parse_event(raw)
    if len(deletes) > 500:
        deletes = parse_event(b'{"type":"message_deleted","data":{"id":"%b"}}' % (b"x" * 600)).identity
    assert deletion_of(found) == deletes
    assert has_content_of(found, "m1") == (deletes == "message_deleted:m1")


def test_a_deletion_happens_once() -> None:
    """A deletion is the same event whatever it says about the time."""
    one, other = (
        parse_event(json.dumps({"type": "message_deleted", "data": {"id": "m1", **more}}).encode())
        for more in ({}, {"updatedAt": "t", "deletedAt": "t"})
    )
    assert one.identity == other.identity == "message_deleted:m1"
