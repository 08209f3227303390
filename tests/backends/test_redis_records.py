"""What is known of an idempotency key on a real Redis, without delivery above the backend."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from unittest.mock import patch

import pytest

from eclipse_ws.backends.base import Key, Record
from eclipse_ws.protocol import Receipt
from tests.backends.alone import alone
from tests.backends.harness import event
from tests.servers import RedisServer

gen_test = pytest.mark.gen_test(timeout=30)
Expect = Callable[..., None]
LOST = "Redis connection lost"


def done(saved: str, cursor: str) -> Record:
    """What is known of a key whose message is saved."""
    return Record("done", Receipt(saved, cursor, "published"))


@gen_test
async def test_attempts(redis_server: RedisServer, chat: str) -> None:
    """One node of all begins the attempt, and all learn its outcome."""
    async with alone(redis_server) as made:
        (one, _), (other, _) = await made.start(), await made.start()
        mine, theirs = Key("k", "mine", "f1"), Key("k", "theirs", "f1")
        assert (await one.record(chat, mine, "pending")).state == "none"
        assert (await one.record(chat, mine, "pending")).state == "none"  # its own token
        assert (await other.record(chat, theirs, "pending")).state == "pending"
        await other.record(chat, theirs, "released")  # not its own to end
        assert (await other.record(chat, theirs, "pending")).state == "pending"
        await one.record(chat, mine, "released")
        assert (await other.record(chat, theirs, "pending")).state == "released"
        await other.record(chat, theirs, "unknown")
        assert (await one.record(chat, mine, "pending")).state == "unknown"
        assert (await one.record(chat, mine, "pending", retry_unknown=True)).state == "none"
        await one.record(chat, mine, "forgotten")
        assert (await other.record(chat, theirs, "pending")).state == "none"
        cursor, _ = await other.append(chat, event("m1"), key=theirs)
        assert await one.record(chat, mine, "pending") == done("m1", str(cursor))
        assert (await one.record(chat, Key("k", "t", "f2"), "pending")).state == "reused"
        assert await one.record(chat, Key("k", "t"), "pending") == done("m1", str(cursor))


@gen_test
async def test_recording_that_a_message_is_saved(redis_server: RedisServer, chat: str) -> None:
    """Any node may record that, with or without an attempt in progress; an id may have spaces."""
    async with alone(redis_server) as made:
        backend, _ = await made.start()
        await backend.record(chat, Key("k", "t", "f"), "done", receipt=Receipt("m 1", "e.7", "published"))
        assert await backend.record(chat, Key("k", "u", "f"), "pending") == done("m 1", "e.7")
        assert await made.client.get(f"eclipse:{{{chat}}}:attempt:k") == b"done:f e.7 m 1"
        assert 0 < await made.client.ttl(f"eclipse:{{{chat}}}:attempt:k") <= 300
        await backend.record(chat, Key("unheard", "t"), "unknown")
        assert (await backend.record(chat, Key("unheard", "u"), "pending")).state == "unknown"


@gen_test
@pytest.mark.parametrize(
    ("value", "state"),
    [("done e.1 m 1", "done"), ("unknown", "unknown"), ("released", "released"), ("pending t 1", "unknown")],
)
async def test_records_of_earlier_servers(
    redis_server: RedisServer, chat: str, value: str, state: str
) -> None:
    """Without a fingerprint, as earlier servers write it, matches any message."""
    async with alone(redis_server) as made:
        backend, _ = await made.start()
        await made.client.set(f"eclipse:{{{chat}}}:attempt:key", value, ex=60)
        record = await backend.record(chat, Key("key", "mine", "f1"), "pending")
        assert record.state == state
        assert record.receipt == (Receipt("m 1", "e.1", "published") if state == "done" else None)


@gen_test
@patch("eclipse_ws.backends.base.MARGIN", 0.1)
async def test_an_attempt_that_nobody_ends(redis_server: RedisServer, chat: str) -> None:
    """An attempt that is pending for longer than it may take is unknown."""
    async with alone(redis_server, api_timeout=0.1) as made:
        backend, _ = await made.start()
        await backend.record(chat, Key("k", "gone"), "pending")
        assert (await backend.record(chat, Key("k", "t"), "pending")).state == "pending"
        await asyncio.sleep(0.3)
        assert (await backend.record(chat, Key("k", "t"), "pending")).state == "unknown"


@gen_test
async def test_an_attempt_outlives_its_connection(
    redis_server: RedisServer, chat: str, expect_log: Expect
) -> None:
    """An attempt whose connection breaks under it is recorded over the next one."""
    expect_log(LOST)
    async with alone(redis_server) as made:
        (one, _), (other, _) = await made.start(), await made.start()
        beginning = asyncio.create_task(one.record(chat, Key("k", "mine"), "pending"))
        await asyncio.sleep(0)
        commands = one._connections.commands
        assert commands is not None
        commands.close("a test")
        assert (await beginning).state == "none"
        assert (await other.record(chat, Key("k", "theirs"), "pending")).state == "pending"
