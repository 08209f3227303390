"""What the scripts make of the time, which is Redis's own: here it stands still where a test puts it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable

import pytest

from eclipse_ws.backends import base
from eclipse_ws.backends.redis import scripts
from tests.backends.harness import Cluster, Node, event

gen_test = pytest.mark.gen_test(timeout=30)
Make = Callable[..., Cluster]
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
    """Puts Redis's clock to a time in milliseconds, and stops it."""
    loaded = [scripts.PUBLISH, scripts.JOIN, scripts.ATTEMPT, scripts.HEARTBEAT]
    sources = {script: script.source for script in loaded}

    def stop_at(milliseconds: int) -> None:
        seconds, rest = divmod(milliseconds, 1000)
        for script, source in sources.items():
            stopped = (STOPPED % (seconds, rest * 1000)).encode() + source
            monkeypatch.setattr(script, "source", stopped)
            monkeypatch.setattr(script, "digest", hashlib.sha1(stopped, usedforsecurity=False).hexdigest())

    return stop_at


def meta(node: Node, chat: str) -> str:
    """The key of a chat's position and guards."""
    return str(node.backend._names.chat_keys(chat)[0])


@gen_test
async def test_a_guard_begins_when_it_joins(cluster: Make, chat: str, stop: Callable[[int], None]) -> None:
    """A guard is noted with the whole time of its first join, which later joins leave."""
    made = cluster()
    stop(NOW)
    node = await made.node(chat)
    guard = f"guard:{node.link()}"
    assert await made.client.hget(meta(node, chat), guard) == str(NOW).encode()
    stop(NOW + 60_000)
    node.backend._subscriptions.look_again([chat])
    await node.backend.subscribe(chat)
    assert await made.client.hget(meta(node, chat), guard) == str(NOW).encode()


@gen_test
async def test_an_epoch_that_an_event_begins_has_its_guard(
    cluster: Make, chat: str, stop: Callable[[int], None]
) -> None:
    """Who publishes where there is no position guards it from then on, if it hears the chat."""
    made = cluster()
    node = await made.node()
    stop(NOW)
    first = event("m1")
    keys = node.backend._names.chat_keys(chat)
    for link in ("", "node:1"):
        await made.client.delete(*keys)
        await scripts.PUBLISH(
            node.backend._links.commands,
            keys,
            *(f"chat:{chat}", first.body, first.identity, "newepoch", 100, 300, 600, link, "m1", 10000, ""),
            *("", 0),
        )
        noted = await made.client.hgetall(keys[0])
        guards = {name: value for name, value in noted.items() if name.startswith(b"guard:")}
        assert guards == ({b"guard:node:1": str(NOW).encode()} if link else {})


@gen_test
async def test_a_heartbeat_tells_the_whole_time(cluster: Make, stop: Callable[[int], None]) -> None:
    """A node learns Redis's time to the millisecond, and its lease is renewed with each heartbeat."""
    made = cluster()
    node = await made.node()
    lease = f"eclipse:node:{node.link()}"
    stop(NOW)
    for _ in range(2):
        await made.client.expire(lease, 1)
        told, hearers = await scripts.HEARTBEAT(node.backend._links.commands, [lease], 40, "{}")
        assert (int(told), hearers) == (NOW, 1)
        assert 30 < await made.client.ttl(lease) <= 40


@gen_test
async def test_an_attempt_is_under_way_for_as_long_as_it_may(
    cluster: Make, chat: str, stop: Callable[[int], None]
) -> None:
    """To the last millisecond other nodes wait for it; in the next one nobody knows what became of it."""
    made = cluster()
    one, other = await made.nodes(2)
    patience = int(base.patience(one.backend._settings)) * 1000
    stop(NOW)
    assert (await one.delivery.attempt(chat, "key")).state == "new"
    stop(NOW + patience)
    waiting = asyncio.ensure_future(other.delivery.attempt(chat, "key"))
    assert not (await asyncio.wait([waiting], timeout=0.2))[0]
    stop(NOW + patience + 1)
    assert (await waiting).state == "unknown"
