"""What each method of the contract raises if a real Redis is unavailable or refuses something."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from unittest.mock import patch

import pytest

from eclipse_ws.backends.base import Key, Rejected, Unavailable
from eclipse_ws.backends.redis import RedisBackend
from tests.backends.alone import alone, position, until_up
from tests.backends.harness import body, event, fresh_chat, typing, until
from tests.provider import Provider
from tests.servers import RedisServer

gen_test = pytest.mark.gen_test(timeout=30)
Expect = Callable[..., None]
Servers = Callable[..., RedisServer]
LOST = "Redis connection lost"
REFUSES = "Redis refuses commands"


async def failures(backend: RedisBackend, chat: str) -> list[tuple[bool, bool]]:
    """What each method raises: whether it was asked, and whether only that call is refused."""
    found = []
    for call in (
        lambda: backend.append(chat, event(1)),
        lambda: backend.subscribe(chat),
        lambda: backend.record(chat, Key("k", "t"), "pending"),
        lambda: backend.record(chat, Key("k", "t"), "released"),
        lambda: backend.send(b"{}"),
    ):
        with pytest.raises(Unavailable) as caught:
            await call()
        found.append((caught.value.asked, caught.value.refused))
    return found


@gen_test
async def test_an_outage(own_server: Servers, chat: str, expect_log: Expect) -> None:
    """Without Redis everything is unavailable at once, and nothing was asked; then all is restored."""
    expect_log(LOST)
    server = own_server()
    async with alone(server, redis_timeout=0.5) as made:
        backend, told = await made.start()
        assert backend.health.state == "up"
        assert backend.health.latency is not None
        first = await position(backend, chat)
        server.kill()
        await until(lambda: backend.health.state == "down")
        assert set(await failures(backend, chat)) == {(False, False)}
        for call in (backend.read(chat, first.cursor), backend.unsubscribe([chat])):
            with pytest.raises(Unavailable):
                await call
        backend.broadcast(chat, typing())
        assert backend.broadcasts_dropped == 1
        assert told.states == ["restored", "restored", "lost"]
        server.start()
        await until_up(backend)
        assert told.states == ["restored", "restored", "lost", "restored", "restored"]
        assert (await backend.subscribe(chat, first)).position.cursor.epoch != first.cursor.epoch


@gen_test
async def test_a_server_that_does_not_answer(own_server: Servers, chat: str, expect_log: Expect) -> None:
    """What was asked when the connection broke may have been done, which the error says."""
    expect_log(LOST)
    server = own_server()
    async with alone(server, redis_timeout=0.3) as made:
        backend, _ = await made.start()
        await backend.subscribe(chat)
        server.freeze()
        backend.broadcast(chat, typing())
        with pytest.raises(Unavailable) as caught:
            await backend.append(chat, event(1))
        assert (caught.value.asked, caught.value.refused) == (True, False)
        assert backend.broadcasts_dropped == 1
        await until(lambda: backend.health.state == "down")
        server.thaw()
        await until_up(backend)


@gen_test
async def test_a_subscription_that_is_not_confirmed(own_server: Servers, chat: str) -> None:
    """A confirmation is waited for as long as a command may take; a late one is good for the next call."""
    server = own_server()
    provider = await Provider(server.port).start()
    try:
        async with alone(server, redis_url=provider.url, redis_timeout=0.5) as made:
            backend, _ = await made.start()
            await backend.subscribe(fresh_chat())
            subscriber = backend._connections.subscriber
            assert subscriber is not None
            held: list[tuple[bytes | str, ...]] = []
            holding = patch.object(subscriber, "send", lambda *command: held.append(command))
            with holding, pytest.raises(Unavailable, match="in time"):
                await backend.subscribe(chat)
            for command in held:
                subscriber.send(*command)
            found = await backend.subscribe(chat)
            assert found.position.cursor.offset == 0
    finally:
        await provider.stop()


@gen_test
@pytest.mark.parametrize(
    "answer", ["ERR max requests limit exceeded.", "OOM command not allowed", "LOADING x"]
)
async def test_a_redis_that_refuses_everything(
    own_server: Servers, chat: str, answer: str, expect_log: Expect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once Redis is known to refuse everything it is no longer asked, until it accepts a heartbeat."""
    monkeypatch.setattr("eclipse_ws.backends.redis.heartbeat.WHILE_REFUSED", 0.1)
    expect_log(REFUSES)
    server = own_server()
    provider = await Provider(server.port).start()
    try:
        async with alone(server, redis_url=provider.url, redis_timeout=1) as made:
            backend, told = await made.start()
            first = await position(backend, chat)
            provider.refuse(answer)
            with pytest.raises(Unavailable) as caught:
                await backend.append(chat, event(1))
            # Only the answer of a wrong server says so at once; for others the next heartbeat does.
            assert caught.value.asked == (not answer.startswith("LOADING"))
            await until(lambda: backend.health.state == "down")
            assert set(await failures(backend, chat)) == {(False, False)}
            provider.accept()
            await until_up(backend)
            assert told.states == ["restored"] * 3
            assert (await backend.subscribe(chat, first)).missed == []
            await backend.append(chat, event(1))
    finally:
        await provider.stop()


@gen_test
async def test_a_single_refusal(own_server: Servers, chat: str) -> None:
    """What Redis refuses while it accepts other things is distinguished from what it can never keep."""
    async with alone(own_server()) as made:
        backend, _ = await made.start()
        await backend.append(chat, event(0))
        await made.client.xadd(f"eclipse:{{{chat}}}:events", {"e": "{}"}, id="9999-0")
        with pytest.raises(Unavailable) as caught:
            await backend.append(chat, event(1))
        assert (caught.value.asked, caught.value.refused) == (True, True)
        await made.client.delete(f"eclipse:{{{chat}}}:events")
        await made.client.set(f"eclipse:{{{chat}}}:events", "no stream")
        with pytest.raises(Rejected, match="leave the keys eclipse"):
            await backend.append(chat, event(1))
        await made.client.lpush(f"eclipse:{{{chat}}}:attempt:k", "no string")
        for step in ("pending", "unknown"):
            with pytest.raises(Unavailable) as caught:
                await backend.record(chat, Key("k", "t"), step)
            assert (caught.value.asked, caught.value.refused) == (True, True)
        # An operator grants it: no event is given up for that.
        await made.client.execute_command("ACL", "SETUSER", "default", "-xadd")
        with pytest.raises(Unavailable) as caught:
            await backend.append(fresh_chat(), event(2))
        assert (caught.value.asked, caught.value.refused) == (True, False)
        assert backend.health.state == "up"


@gen_test
async def test_subscriptions_that_are_refused(own_server: Servers, chat: str, expect_log: Expect) -> None:
    """A refused subscription fails those that wait, and the chats that are heard stay so."""
    server = own_server()
    async with alone(server) as made:
        backend, told = await made.start()
        await backend.subscribe(chat)
        await made.client.execute_command("ACL", "SETUSER", "default", "-subscribe")
        elsewhere = [fresh_chat(), fresh_chat()]
        outcomes = await asyncio.gather(*map(backend.subscribe, elsewhere), return_exceptions=True)
        for outcome in outcomes:
            assert isinstance(outcome, Unavailable)
            assert outcome.refused
        await made.client.publish(f"chat:{chat}", body(1))
        await until(lambda: told.received)
        await made.client.execute_command("ACL", "SETUSER", "default", "+subscribe")
        await backend.subscribe(elsewhere[0])
        assert "lost" not in told.states


@gen_test
async def test_joins_that_are_refused(own_server: Servers, chat: str) -> None:
    """A chat whose position Redis refuses is refused by itself, whatever the cause, and retried later."""
    async with alone(own_server()) as made:
        backend, _ = await made.start()
        await made.client.set(f"eclipse:{{{chat}}}:meta", "no hash")
        with pytest.raises(Unavailable) as caught:
            await backend.subscribe(chat)
        assert caught.value.refused
        await made.client.delete(f"eclipse:{{{chat}}}:meta")
        assert (await backend.subscribe(chat)).position.cursor.offset == 0
