"""What others publish to a chat's channel: the application's events, an old server's view, and bad input."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from unittest.mock import patch

import pytest

from eclipse_ws.protocol import Cursor, Event, parse_event
from tests.backends.harness import PATIENCE, Cluster, body, event, fresh_chat, typing, until
from tests.nested import DEEPEST, TOO_DEEP, nested

gen_test = pytest.mark.gen_test(timeout=30)
Make = Callable[..., Cluster]
DROPPED = "malformed event dropped"


@gen_test
@pytest.mark.parametrize("count", [1, 2, 3])
async def test_raw_events_are_sequenced_once(cluster: Make, chat: str, count: int) -> None:
    """What the application publishes is sequenced once, however many nodes hear it, in one order."""
    made = cluster()
    nodes = await made.nodes(count, chat)
    await made.raw_many(chat, map(body, range(100)))
    for node in nodes:
        await until(lambda node=node: len(node.heard.events[chat]) >= 100)
        assert node.heard.numbers(chat) == nodes[0].heard.numbers(chat)
        assert [c.offset for c in node.heard.cursors(chat) if c] == list(range(1, 101))
    assert sorted(nodes[0].heard.numbers(chat), key=int) == [str(n) for n in range(100)]
    await until(lambda: sum(node.delivery.counts.published for node in nodes) == 100)
    assert await made.client.xlen(f"eclipse:{{{chat}}}:events") == 100


@gen_test
async def test_own_publish_and_the_applications_are_one_event(cluster: Make, chat: str) -> None:
    """The application publishes what our call to it has saved: the chat sees it once, in either order."""
    made = cluster()
    one, other = await made.nodes(2, chat)
    await made.raw(chat, body("m1"))
    await one.until_heard(chat, "m1")
    receipt = await one.delivery.publish(chat, event("m1"))
    assert receipt.cursor == str(one.heard.cursors(chat)[0])
    await other.delivery.publish(chat, event("m2"))
    await made.raw(chat, body("m2"))
    await made.raw(chat, body("m2", "message_updated"))
    for node in (one, other):
        await node.until_heard(chat, "m1", "m2", "m2")


@gen_test
async def test_an_old_server_sees_todays_events(cluster: Make, chat: str) -> None:
    """A plain subscriber sees each event as before, with only the fields that we add."""
    made = cluster()
    node = await made.node(chat)
    old = made.client.pubsub(ignore_subscribe_messages=True)
    await old.subscribe(f"chat:{chat}")
    while await old.get_message(timeout=0.05) is not None:
        pass
    receipt = await node.delivery.publish(chat, event("m1"))
    node.delivery.broadcast(chat, typing("session-1"))
    heard = []
    while len(heard) < 2:
        message = await old.get_message(timeout=PATIENCE)
        if message is not None:
            heard.append(json.loads(message["data"]))
    await old.aclose()
    assert heard[0] == {**json.loads(body("m1")), "cursor": receipt.cursor}
    assert heard[1] == {**json.loads(typing().body), "origin": "session-1"}


@gen_test
async def test_unknown_types_are_kept(cluster: Make, chat: str) -> None:
    """An event of a type that we don't know is passed on unchanged, with a cursor, and can be resumed."""
    made = cluster()
    node = await made.node(chat)
    start = node.delivery.position(chat)
    await made.raw(chat, b' {"type":"survey","x":[1,2,{"y":null}],"timestamp":"t"}\n')
    await until(lambda: node.heard.events[chat])
    (heard,) = node.heard.events[chat]
    assert json.loads(heard.body) == {
        "type": "survey",
        "x": [1, 2, {"y": None}],
        "timestamp": "t",
        "cursor": f"{start.epoch}.1",
    }
    assert await node.delivery.resume(chat, start) == [heard]


NO_EVENT = {
    "not JSON": b"hello",
    "nothing": b"",
    "an array": b'[{"type":"message"}]',
    "a number": b"1",
    "no type": b'{"data":{"id":"x"}}',
    "a type that isn't text": b'{"type":7}',
    "UTF-16": '{"type":"message"}'.encode("utf-16"),
    "half of an object": b'{"type":"message","data":{',
    "two objects": body("x") + body("y"),
    "4 MiB without an object": b"x" * (1 << 22),
    "typing of 4 MiB": body("x", "typing", filler="x" * (1 << 22)),
    "typing in invalid UTF-8": b'{"type":"typing","data":{"userId":"\xff"}}',
    "typing with a garbage cursor": body("x", "typing", cursor="garbage"),
}


@gen_test
@pytest.mark.parametrize("what", NO_EVENT)
async def test_malformed_events_are_dropped(
    cluster: Make, chat: str, what: str, expect_log: Callable[..., None]
) -> None:
    """Input that is not an event, or not one to keep, is dropped and counted; the events around it arrive."""
    expect_log(DROPPED)
    made = cluster()
    one, other = await made.nodes(2, chat)
    await made.raw(chat, body("m1"))
    await made.raw(chat, NO_EVENT[what])
    await made.raw(chat, body("m2"))
    for node in (one, other):
        await node.until_heard(chat, "m1", "m2")
        assert node.delivery.counts.malformed_dropped == 1
        assert not node.heard.interrupts
        assert node.delivery.health.state == "up"


DAMAGED = {
    "too large": body("x", filler="x" * 40_000),
    "too large, with other types in it": b'{"data":{"type":"typing"},"x":"%b","type":"survey"}'
    % (b"x" * 40_000),
    "no UTF-8": b'{"type":"message","data":{"id":"\xff\xfe"}}',
    "deep nesting": b'{"type":"message","data":%b}' % nested(TOO_DEEP[0]).encode(),
    "very deep nesting": b'{"type":"message","data":%b}' % nested(TOO_DEEP[1]).encode(),
    "a cursor that is a number": body("x", cursor=5),
    "a garbage cursor": body("x", cursor="garbage"),
    "a negative cursor": body("x", cursor="abc.-1"),
    "a cursor in other digits": body("x", cursor="abc.\u0661"),
    "a very long cursor": body("x", cursor="a" * 1000 + ".1"),
}


@gen_test
@pytest.mark.parametrize("what", DAMAGED)
@patch("eclipse_ws.config.settings.Settings.max_event", 30_000)
async def test_a_kept_event_that_is_dropped_is_a_gap(
    cluster: Make, chat: str, what: str, expect_log: Callable[..., None]
) -> None:
    """A kept event that can't be delivered interrupts the sessions of every node, once, in one new epoch."""
    expect_log("event dropped; the chat's sessions resume")
    made = cluster(redis_timeout=5)
    nodes = await made.nodes(3, chat)
    one = nodes[0]
    await one.delivery.publish(chat, event("m1"))
    for node in nodes:
        await node.until_heard(chat, "m1")
    before = one.delivery.position(chat)
    await made.raw(chat, DAMAGED[what])
    await until(lambda: all(node.heard.interrupts for node in nodes), "the interrupts")
    for node in nodes:
        await node.delivery.publish(chat, event(node.connection()))
    for node in nodes:
        await until(lambda node=node: len(node.heard.numbers(chat)) == 4, "the events after it")
        # Were there a second epoch, offsets would begin anew, and sessions be interrupted again.
        assert [c.offset for c in node.heard.cursors(chat)[1:]] == [1, 2, 3]
        assert node.heard.cursors(chat)[1:] == one.heard.cursors(chat)[1:]
        assert node.heard.interrupts == [chat]
        assert await node.delivery.resume(chat, before) is None
        assert node.delivery.counts.malformed_dropped == 1


@gen_test
async def test_a_sequenced_event_beyond_the_limit(cluster: Make, chat: str) -> None:
    """An event that a node with a higher limit has sequenced is taken from the history, in its place."""
    made = cluster()
    one = await made.node(chat)
    other = await made.node(chat)
    other.delivery._max_event = 2000
    large = parse_event(body("large", filler="x" * 5000))
    for each in (event("m1"), large, event("m2")):
        await one.delivery.publish(chat, each)
    for node in (one, other):
        await node.until_heard(chat, "m1", "large", "m2")
        assert not node.heard.interrupts
        assert node.heard.cursors(chat) == one.heard.cursors(chat)


@gen_test
@patch("eclipse_ws.config.settings.Settings.max_event", 2000)
async def test_an_event_of_exactly_the_limit(cluster: Make, chat: str) -> None:
    """An event that is as large as the limit before it has a cursor is delivered with one."""
    made = cluster()
    one, other = await made.nodes(2, chat)
    raw = body("m1", filler="")
    raw = body("m1", filler="x" * (2000 - len(raw)))
    await made.raw(chat, raw)
    for node in (one, other):
        await node.until_heard(chat, "m1")
        assert not node.heard.interrupts


@gen_test
async def test_a_history_that_cannot_be_read(cluster: Make, chat: str) -> None:
    """An event that a server with wider limits has kept is a gap, and doesn't stop the chat."""
    made = cluster()
    wider, node = await made.nodes(2, chat)
    await wider.delivery.publish(chat, event("m1"))
    await node.until_heard(chat, "m1")
    at = node.delivery.position(chat)
    deep = b'{"type":"message","data":%b}' % nested(TOO_DEEP[0]).encode()
    await wider.delivery.publish(chat, Event("message", deep, "message:deep"))
    await until(lambda: node.heard.interrupts == [chat], "the interrupt")
    assert await node.delivery.resume(chat, at) is None
    await wider.delivery.publish(chat, event("m2"))
    await node.until_heard(chat, "m1", "m2")
    assert node.heard.interrupts == [chat]


@gen_test
async def test_deepest_event(cluster: Make, chat: str) -> None:
    """An event as deep as the limit is passed on and kept, and so is a question to the nodes."""
    made = cluster()
    one, other = await made.nodes(2, chat)
    start = one.delivery.position(chat)
    await made.raw(chat, b'{"type":"x","data":%b}' % nested(DEEPEST).encode())
    for node in (one, other):
        await until(lambda node=node: node.heard.events[chat])
        assert await node.delivery.resume(chat, start) == node.heard.events[chat]
    question = json.loads(nested(DEEPEST))
    assert (await one.delivery.ask(question)).values == [question, question]


@gen_test
@pytest.mark.parametrize("cursor", ["{epoch}.9", "{epoch}.1000000000000", "another.1", "another.0"])
async def test_forged_cursors_are_dropped(
    cluster: Make, chat: str, cursor: str, expect_log: Callable[..., None]
) -> None:
    """An event whose cursor Redis never gave is dropped; what follows arrives in order."""
    if "epoch" in cursor:  # with another epoch it could be a real one, from earlier
        expect_log("forged cursors dropped")
    made = cluster()
    one, other = await made.nodes(2, chat)
    epoch = one.delivery.position(chat).epoch
    await one.delivery.publish(chat, event("m1"))
    await made.raw(chat, body("forged", cursor=cursor.format(epoch=epoch)))
    await made.raw(chat, body("m2"))
    await one.delivery.publish(chat, event("m3"))
    for node in (one, other):
        await until(lambda node=node: len(node.heard.events[chat]) >= 3)
        assert sorted(node.heard.numbers(chat)) == ["m1", "m2", "m3"]
        assert node.heard.cursors(chat) == [Cursor(epoch, n) for n in (1, 2, 3)]
        assert not node.heard.interrupts
        await until(lambda node=node: node.delivery._subscriptions.get(chat).live)
    await one.delivery.publish(chat, event("m4"))
    for node in (one, other):
        await until(lambda node=node: node.heard.cursors(chat)[3:] == [Cursor(epoch, 4)])


@gen_test
async def test_old_cursors_are_duplicates(cluster: Make, chat: str) -> None:
    """An event with a cursor that was delivered already is dropped when Redis knows of no such event."""
    made = cluster()
    node = await made.node(chat)
    for number in range(3):
        await node.delivery.publish(chat, event(number))
    epoch = node.delivery.position(chat).epoch
    dropped = node.delivery.counts.duplicates_dropped
    channel = node.delivery._subscriptions.get(chat)
    for count, offset in enumerate((2, 0), 1):
        await made.raw(chat, body("forged", cursor=f"{epoch}.{offset}"))
        await until(
            lambda count=count: channel.live and node.delivery.counts.duplicates_dropped == dropped + count
        )
    await made.raw(chat, body("m3"))
    await node.until_heard(chat, 0, 1, 2, "m3")
    assert not node.heard.interrupts


@gen_test
async def test_a_flood_of_forged_cursors_loses_nothing(
    cluster: Make, chat: str, expect_log: Callable[..., None]
) -> None:
    """Hundreds of forged events in one go leave every true one in its place."""
    expect_log("forged cursors dropped", optional=True)
    made = cluster(history_events=20)
    one, other = await made.nodes(2, chat)
    epoch = one.delivery.position(chat).epoch
    sending = []
    for number in range(10):
        forged = [body(f"x{n}", cursor=f"{epoch}.{9000 + n}") for n in range(50 * number, 50 * number + 50)]
        sending += [made.raw_many(chat, forged), one.delivery.publish(chat, event(number))]
    await asyncio.gather(*sending)
    await one.delivery.publish(chat, event("last"))
    for node in (one, other):
        await until(lambda node=node: len(node.heard.events[chat]) >= 11)
        assert [c.offset for c in node.heard.cursors(chat) if c] == list(range(1, 12))
        assert not node.heard.interrupts


@gen_test
async def test_notes_from_outside(cluster: Make, expect_log: Callable[..., None]) -> None:
    """What others publish to the nodes' own channel disturbs nobody: nodes still answer."""
    expect_log("malformed note")
    made = cluster()
    one, _ = await made.nodes(2)
    deep = [b'{"id":"a","sender":"b","question":%b}' % nested(levels).encode() for levels in TOO_DEEP]
    for garbage in (b"", b"\xff", b"[]", b"[" * 5000, *deep, b'{"look_again":7}', b'{"id":{}}', b"{}"):
        await made.client.publish("eclipse:nodes", garbage)
        await made.client.publish(f"eclipse:node:{one.connection()}", garbage)
    await made.client.publish("eclipse:nodes", b'{"id":"never asked","answer":1}')
    assert (await one.delivery.ask("x")).values == ["x", "x"]


@gen_test
async def test_a_subscriber_that_fails_does_not_stop_delivery(
    cluster: Make, chat: str, expect_log: Callable[..., None]
) -> None:
    """An error while one event is handled is logged, sessions have to resume, and the next event arrives."""
    expect_log("event not delivered")
    made = cluster()
    node = await made.node(chat)

    def fail(chat_id: str, event: object) -> None:
        del node.heard.deliver
        raise RuntimeError("of the test")

    node.heard.deliver = fail  # type: ignore[method-assign]
    node.delivery.broadcast(chat, typing())
    node.delivery.broadcast(chat, typing())
    await until(lambda: node.heard.events[chat])
    assert node.heard.interrupts == [chat]


@gen_test
async def test_awkward_chats_stay_separate(cluster: Make) -> None:
    """Chats whose names look like patterns, keys or hash tags are chats like any other."""
    made = cluster()
    node = await made.node()
    chats = ["*", "{}", "a}:meta{", "a b", "漢字🙂", "../x", "[a-z]", "x" * 200]
    for name in chats:
        await node.delivery.subscribe(name)
        await node.delivery.publish(name, event(name))
    for name in chats:
        await node.until_heard(name, name)
    await made.client.flushdb()


@gen_test
async def test_ephemeral_events_of_the_application(cluster: Make, chat: str) -> None:
    """A typing event that the application publishes is delivered as it is, and isn't kept."""
    made = cluster()
    node = await made.node(chat)
    await made.raw(chat, typing().body)
    await until(lambda: node.heard.events[chat])
    assert node.heard.events[chat][0].body == typing().body
    assert await made.client.exists(f"eclipse:{{{chat}}}:events") == 0


@gen_test
async def test_events_that_nobody_hears_are_not_kept(cluster: Make) -> None:
    """Events of a chat that no node has subscribed change nothing."""
    made = cluster()
    chat = fresh_chat()
    await made.node()
    await made.raw(chat, body("m1"))
    assert await made.client.keys(f"eclipse:*{chat}*") == []
