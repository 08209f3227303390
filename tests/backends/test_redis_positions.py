"""Where a chat is on a real Redis, without delivery above the backend: positions, epochs, letting go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from eclipse_ws.backends.base import Position, Unavailable
from eclipse_ws.protocol import Cursor
from tests.backends.alone import alone, guards, position, until_up
from tests.backends.harness import body, event, fresh_chat, number_of, until
from tests.servers import RedisServer

gen_test = pytest.mark.gen_test(timeout=30)
Expect = Callable[..., None]
Servers = Callable[..., RedisServer]
LOST = "Redis connection lost"


@gen_test
async def test_missed_events(redis_server: RedisServer, chat: str) -> None:
    """A node that subscribes again learns what came since the position that it knows."""
    async with alone(redis_server) as made:
        (one, _), (other, _) = await made.start(), await made.start()
        first = await position(one, chat)
        assert await position(other, chat) == first  # guarded by the first node
        for number in (1, 2):
            await other.append(chat, event(number))
        found = await one.subscribe(chat, first)
        assert found.position == Position(Cursor(first.cursor.epoch, 2), "message:2")
        assert found.missed is not None
        assert [number_of(each) for each in found.missed] == ["1", "2"]
        assert not found.renewed
        assert (await one.subscribe(chat, found.position)).missed == []
        await other.unsubscribe([chat])
        assert await position(one, chat) == found.position  # it has guarded the chat itself
        assert (await one.subscribe(chat)).missed is None
        # Another event was at that place: Redis has gone back in time, and all have to look again.
        found = await one.subscribe(chat, Position(Cursor(first.cursor.epoch, 2), "message:other"))
        assert found.position.cursor.epoch != first.cursor.epoch
        assert (found.missed, found.renewed) == (None, True)


@gen_test
async def test_a_chat_that_nobody_guarded(redis_server: RedisServer, chat: str) -> None:
    """After all nodes have unsubscribed a chat, the next one that subscribes begins a new epoch."""
    async with alone(redis_server) as made:
        (one, _), (other, _) = await made.start(), await made.start()
        first = await position(one, chat)
        await other.subscribe(chat)
        await one.unsubscribe([chat])
        assert await position(one, chat) == first
        await one.unsubscribe([chat])
        await other.unsubscribe([chat])
        again = await one.subscribe(chat, first)
        assert again.position.cursor.epoch != first.cursor.epoch
        assert (again.missed, again.renewed) == (None, False)  # nobody else is there to be told


@gen_test
async def test_renewing(redis_server: RedisServer, chat: str) -> None:
    """A lost event ends an epoch: in any case, or if the chat is still in the epoch that is known."""
    async with alone(redis_server, app_publishes_over_http=True) as made:
        (one, _), (other, _) = await made.start(), await made.start()
        first = await position(one, chat)
        await other.subscribe(chat)
        second = await one.subscribe(chat, renew=True)
        assert second.renewed
        assert second.position.cursor.epoch != first.cursor.epoch
        # Another node, which knows the earlier epoch, finds it done.
        found = await other.subscribe(chat, first, renew=True)
        assert (found.position, found.renewed) == (second.position, False)
        found = await other.subscribe(chat, second.position, renew=True)
        assert found.position.cursor.epoch not in (first.cursor.epoch, second.position.cursor.epoch)
        assert found.renewed


@gen_test
@pytest.mark.parametrize("guard", ["none", "before", "late"])
async def test_a_cut(redis_server: RedisServer, chat: str, guard: str, expect_log: Expect) -> None:
    """A cut that another node bridges loses nothing; one that no node bridges ends the epoch."""
    expect_log(LOST)
    async with alone(redis_server, redis_ping_interval=0.1) as made:
        backend, told = await made.start()
        other, _ = await made.start()
        if guard != "none":
            await other.subscribe(chat)
            await asyncio.sleep(0.05)
        at = await position(backend, chat)
        heard = backend._connections.heard
        await until(lambda: backend._connections.heard > heard + 0.2, "a time surely after the guard")
        before = backend.address
        await made.kill(backend)
        await until(lambda: "lost" in told.states)
        with pytest.raises(Unavailable):
            await backend.subscribe(chat, at)
        if guard == "late":
            meta, since = guards(other, chat)
            until_then = backend._subscriptions._chats[f"chat:{chat}".encode()].heard_until
            await made.client.hset(meta, since, until_then)
        await other.append(chat, event(1))
        await until_up(backend)
        assert told.states == ["restored", "restored", "lost", "restored"]
        assert backend.address != before
        found = await backend.subscribe(chat, at)
        if guard == "before":
            assert found.position == Position(Cursor(at.cursor.epoch, 1), "message:1")
            assert [number_of(each) for each in found.missed or ()] == ["1"]
        else:
            assert found.position.cursor.epoch != at.cursor.epoch
            assert found.missed is None


@gen_test
async def test_a_cut_without_raw_events(redis_server: RedisServer, chat: str, expect_log: Expect) -> None:
    """If the application publishes only over HTTP, a lone node's cut ends no epoch: Redis has all."""
    expect_log(LOST)
    async with alone(redis_server, app_publishes_over_http=True) as made:
        backend, told = await made.start()
        at = await position(backend, chat)
        await made.kill(backend)
        await until(lambda: "lost" in told.states)
        await until_up(backend)
        found = await backend.subscribe(chat, at)
        assert (found.position, found.missed, found.renewed) == (at, [], False)


@gen_test
async def test_a_connection_that_goes_during_a_join(
    redis_server: RedisServer, chat: str, expect_log: Expect
) -> None:
    """A position that was told for a connection that has gone is not answered."""
    expect_log(LOST)
    async with alone(redis_server) as made:
        backend, told = await made.start()
        await backend.subscribe(chat)
        joining = asyncio.create_task(backend.subscribe(chat))
        await asyncio.sleep(0)
        subscriber = backend._connections.subscriber
        assert subscriber is not None
        subscriber.close("a test")
        backend._connections._subscriber_down()
        with pytest.raises(Unavailable, match="changed"):
            await joining
        await until_up(backend)
        assert told.states.count("lost") >= 1


@gen_test
async def test_many_in_one_turn(own_server: Servers) -> None:
    """Chats that are subscribed in one turn of the loop share commands, of at most 500 chats each."""
    async with alone(own_server()) as made:
        backend, _ = await made.start()
        await made.client.config_resetstat()
        chats = [fresh_chat() for _ in range(1200)]
        await asyncio.gather(*map(backend.subscribe, chats))
        stats = await made.client.info("commandstats")
        assert stats["cmdstat_subscribe"]["calls"] == 3
        assert 1200 <= stats["cmdstat_evalsha"]["calls"] <= 1202  # and heartbeats
        await backend.unsubscribe(chats)
        await backend.subscribe(chats[0])  # behind it
        stats = await made.client.info("commandstats")
        assert stats["cmdstat_unsubscribe"]["calls"] == 3
        assert len(await made.client.pubsub_channels("chat:*")) == 1


@gen_test
async def test_one_subscription_for_all_that_wait(own_server: Servers, chat: str) -> None:
    """Several calls for a chat that is being subscribed wait for the same confirmation."""
    async with alone(own_server()) as made:
        backend, _ = await made.start()
        await made.client.config_resetstat()
        await asyncio.gather(*(backend.subscribe(chat) for _ in range(3)))
        assert (await made.client.info("commandstats"))["cmdstat_subscribe"]["calls"] == 1


@gen_test
async def test_subscribed_again_while_it_is_unsubscribed(redis_server: RedisServer, chat: str) -> None:
    """A chat that is subscribed again before it is unsubscribed stays guarded and heard."""
    async with alone(redis_server) as made:
        backend, heard = await made.start()
        first = await position(backend, chat)
        letting_go = asyncio.create_task(backend.unsubscribe([chat]))
        await asyncio.sleep(0)
        again = await backend.subscribe(chat, first)
        await letting_go
        assert again.missed == []
        assert await made.client.hexists(*guards(backend, chat))
        await made.client.publish(f"chat:{chat}", body(1))
        await until(lambda: heard.received)


@gen_test
async def test_unsubscribed_while_it_is_being_subscribed(redis_server: RedisServer, chat: str) -> None:
    """A chat whose subscription is in progress is not unsubscribed."""
    async with alone(redis_server) as made:
        backend, _ = await made.start()
        subscribing = asyncio.create_task(backend.subscribe(chat))
        await asyncio.sleep(0)
        await backend.unsubscribe([chat])
        await subscribing
        assert await made.client.hexists(*guards(backend, chat))


@gen_test
async def test_unsubscribing_during_an_outage(
    redis_server: RedisServer, chat: str, expect_log: Expect
) -> None:
    """Without connections a node unsubscribes nothing, nor under a name that is no longer its own."""
    expect_log(LOST)
    async with alone(redis_server) as made:
        backend, _ = await made.start()
        at = await position(backend, chat)
        await made.kill(backend)
        await until(lambda: backend._connections.subscriber is None)
        with pytest.raises(Unavailable):
            await backend.unsubscribe([chat])
        await until_up(backend)
        await backend.subscribe(chat, at)
        letting_go = asyncio.create_task(backend.unsubscribe([chat]))
        await asyncio.sleep(0)
        backend._connections.name = "another:2"
        with pytest.raises(Unavailable, match="changed"):
            await letting_go
