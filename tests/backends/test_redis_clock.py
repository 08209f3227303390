"""How the scripts use the time, which is Redis's own: here it is stopped where a test sets it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest

from eclipse_ws.backends import base
from eclipse_ws.backends.base import Key
from eclipse_ws.backends.redis import scripts
from tests.backends.alone import alone
from tests.backends.harness import event
from tests.servers import RedisServer

gen_test = pytest.mark.gen_test(timeout=30)
NOW = 1_700_000_000_005
"""Milliseconds in the first tenth of a second, where a number is too short if its zeros are left out."""
STOPPED = """
local redis = setmetatable({call = function(command, ...)
  if command == 'TIME' then return {'%d', '%06d'} end
  return redis.call(command, ...)
end}, {__index = redis})
"""


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets Redis's clock to a time in milliseconds, and stops it."""
    loaded = [scripts.PUBLISH, scripts.JOIN, scripts.ATTEMPT, scripts.HEARTBEAT]
    sources = {script: script.source for script in loaded}

    def stop_at(milliseconds: int) -> None:
        seconds, rest = divmod(milliseconds, 1000)
        for script, source in sources.items():
            stopped = (STOPPED % (seconds, rest * 1000)).encode() + source
            monkeypatch.setattr(script, "source", stopped)
            monkeypatch.setattr(script, "digest", hashlib.sha1(stopped, usedforsecurity=False).hexdigest())

    return stop_at


@gen_test
async def test_a_guard_begins_when_it_joins(
    redis_server: RedisServer, chat: str, stop: Callable[[int], None]
) -> None:
    """A guard is recorded with the exact time of its first join, which later joins don't change."""
    async with alone(redis_server) as made:
        backend, _ = await made.start()
        stop(NOW)
        at = (await backend.subscribe(chat)).position
        meta, guard = f"eclipse:{{{chat}}}:meta", f"guard:{backend.address}"
        assert await made.client.hget(meta, guard) == str(NOW).encode()
        stop(NOW + 60_000)
        await backend.subscribe(chat, at)
        assert await made.client.hget(meta, guard) == str(NOW).encode()


@gen_test
async def test_an_epoch_that_an_event_begins_has_its_guard(
    redis_server: RedisServer, chat: str, stop: Callable[[int], None]
) -> None:
    """A node that publishes without a position guards it from then on, if it hears the chat."""
    async with alone(redis_server) as made:
        (hears, _), (other, _) = await made.start(), await made.start()
        await hears.subscribe(chat)
        stop(NOW)
        for backend in (hears, other):
            await made.client.delete(f"eclipse:{{{chat}}}:meta", f"eclipse:{{{chat}}}:events")
            await backend.append(chat, event(backend.address))
            noted = await made.client.hgetall(f"eclipse:{{{chat}}}:meta")
            guards = {name: value for name, value in noted.items() if name.startswith(b"guard:")}
            expected = {f"guard:{hears.address}".encode(): str(NOW).encode()}
            assert guards == (expected if backend is hears else {})


@gen_test
async def test_a_heartbeat_reports_the_time_in_milliseconds(
    redis_server: RedisServer, stop: Callable[[int], None]
) -> None:
    """A node learns Redis's time to the millisecond, and its lease is renewed with each heartbeat."""
    async with alone(redis_server) as made:
        backend, _ = await made.start()
        lease = f"eclipse:node:{backend.address}"
        stop(NOW)
        for _ in range(2):
            await made.client.expire(lease, 1)
            with backend._connections.asking() as commands:
                told, hearers = await scripts.HEARTBEAT(commands, [lease], 40, "{}")
            assert (int(told), hearers) == (NOW, 1)
            assert 30 < await made.client.ttl(lease) <= 40


@gen_test
async def test_an_attempt_is_pending_until_its_time_is_over(
    redis_server: RedisServer, chat: str, stop: Callable[[int], None]
) -> None:
    """To the last millisecond it is pending for other nodes; in the next one it is unknown."""
    async with alone(redis_server) as made:
        backend, _ = await made.start()
        patience = int(base.patience(backend._settings)) * 1000
        stop(NOW)
        assert (await backend.record(chat, Key("k", "one"), "pending")).state == "none"
        stop(NOW + patience)
        assert (await backend.record(chat, Key("k", "other"), "pending")).state == "pending"
        stop(NOW + patience + 1)
        assert (await backend.record(chat, Key("k", "other"), "pending")).state == "unknown"
