"""The Redis backend by itself: what each method of the contract does on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from unittest.mock import patch

import pytest

from eclipse_ws.backends.base import Key, Position, Record, Rejected, Unavailable
from eclipse_ws.backends.redis import RedisBackend
from eclipse_ws.protocol import Cursor, Receipt
from tests.backends.alone import alone, until_up
from tests.backends.harness import body, event, fresh_chat, number_of, typing, until
from tests.provider import Provider
from tests.servers import RedisServer

gen_test = pytest.mark.gen_test(timeout=30)
Expect = Callable[..., None]
Servers = Callable[..., RedisServer]
LOST = "Redis connection lost"
REFUSES = "Redis refuses commands"


async def position(backend: RedisBackend, chat: str) -> Position:
    """Where a chat is, as a subscription tells it."""
    return (await backend.subscribe(chat)).position


def guards(backend: RedisBackend, chat: str) -> tuple[str, str]:
    """The key of a chat's guards, and the field of this backend's own."""
    return f"eclipse:{{{chat}}}:meta", f"guard:{backend.address}"


# -- events ---------------------------------------------------------------------------------------


@gen_test
async def test_appending(redis_server: RedisServer, chat: str) -> None:
    """Events are numbered without gaps, heard by those that are subscribed, and once per identity."""
    async with alone(redis_server) as made:
        (one, heard), (other, unheard) = await made.start(), await made.start()
        at = (await one.subscribe(chat)).position
        assert at == Position(Cursor(at.cursor.epoch, 0), "")
        for number in (1, 2, 3):
            expected = Cursor(at.cursor.epoch, number)
            assert await other.append(chat, event(number)) == (expected, True)
        assert await one.append(chat, event(2)) == (Cursor(at.cursor.epoch, 2), False)
        await until(lambda: len(heard.received) == 3)
        wanted = [event(n).sequenced(Cursor(at.cursor.epoch, n)).body for n in (1, 2, 3)]
        assert heard.received == [(chat, raw) for raw in wanted]
        assert not unheard.received
        assert not heard.events


@gen_test
async def test_appending_where_redis_went_back_in_time(redis_server: RedisServer, chat: str) -> None:
    """A node that knows a later position than Redis begins a new epoch."""
    async with alone(redis_server) as made:
        backend, _ = await made.start()
        epoch = (await position(backend, chat)).cursor.epoch
        cursor, _ = await backend.append(chat, event(1), known=Cursor(epoch, 0))
        assert cursor == (epoch, 1)
        cursor, fresh = await backend.append(chat, event(2), known=Cursor(epoch, 5))
        assert fresh
        assert cursor.epoch != epoch
        assert cursor.offset == 1
        # Who begins an epoch of a chat that it hears guards it.
        assert await made.client.hexists(*guards(backend, chat))


@gen_test
async def test_reading(redis_server: RedisServer, chat: str) -> None:
    """What is kept after a cursor is read in order, whole or not at all."""
    async with alone(redis_server, history_events=3) as made:
        backend, _ = await made.start()
        epoch = (await position(backend, chat)).cursor.epoch
        for number in range(1, 6):
            await backend.append(chat, event(number))
        read = await backend.read(chat, Cursor(epoch, 2))
        assert read is not None
        assert [number_of(each) for each in read] == ["3", "4", "5"]
        assert [each.cursor for each in read] == [Cursor(epoch, n) for n in (3, 4, 5)]
        assert await backend.read(chat, Cursor(epoch, 5)) == []
        for missing in (Cursor(epoch, 1), Cursor(epoch, 6), Cursor("other", 2)):
            assert await backend.read(chat, missing) is None
        assert await backend.read(chat, Cursor(epoch, 5), Cursor(epoch, 6)) is None  # Redis has lost one
        assert await backend.read(chat, Cursor(epoch, 5), Cursor("other", 6)) == []
        await made.client.xadd(f"eclipse:{{{chat}}}:events", {"e": "{}"}, id="6-0")
        await made.client.hset(f"eclipse:{{{chat}}}:meta", "offset", 6)
        assert await backend.read(chat, Cursor(epoch, 4)) is None  # one of them is malformed


@gen_test
async def test_broadcasting(redis_server: RedisServer, chat: str) -> None:
    """What is ephemeral comes as it is, with its origin, to whoever hears the chat."""
    async with alone(redis_server) as made:
        (one, heard), (other, _) = await made.start(), await made.start()
        await one.subscribe(chat)
        other.broadcast(chat, typing("session"))
        one.broadcast(chat, typing())
        await until(lambda: len(heard.received) == 2)
        plain = typing().body
        assert sorted(heard.received) == sorted([(chat, plain), (chat, plain[:-1] + b',"origin":"session"}')])
        assert one.broadcasts_dropped == other.broadcasts_dropped == 0


@gen_test
async def test_what_is_not_subscribed_is_not_heard(redis_server: RedisServer, chat: str) -> None:
    """Nothing comes of a chat before it is subscribed, nor after it is let go."""
    async with alone(redis_server) as made:
        backend, heard = await made.start()
        await backend.append(chat, event(1))
        await backend.subscribe(chat)
        await backend.append(chat, event(2))
        await until(lambda: heard.received)
        meta, guard = guards(backend, chat)
        assert await made.client.hexists(meta, guard)
        await backend.unsubscribe([chat, "unknown"])
        assert not await made.client.hexists(meta, guard)
        while (await made.client.pubsub_numsub(f"chat:{chat}"))[0][1]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await backend.append(chat, event(3))
        await backend.send(b"{}")
        await until(lambda: heard.notes)
        assert [number_of_raw(raw) for _, raw in heard.received] == ["2"]


def number_of_raw(raw: bytes) -> str:
    """The ``data.id`` of what was heard."""
    return raw.partition(b'"id": "')[2].partition(b'"')[0].decode()


# -- positions and epochs -------------------------------------------------------------------------


@gen_test
async def test_what_was_missed(redis_server: RedisServer, chat: str) -> None:
    """Who subscribes again learns what came since the position that it knows."""
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
    """After everybody has let a chat go, whoever subscribes begins a new epoch."""
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
        # Another node, which knows the epoch of before, finds it done.
        found = await other.subscribe(chat, first, renew=True)
        assert (found.position, found.renewed) == (second.position, False)
        found = await other.subscribe(chat, second.position, renew=True)
        assert found.position.cursor.epoch not in (first.cursor.epoch, second.position.cursor.epoch)
        assert found.renewed


@gen_test
@pytest.mark.parametrize("guard", ["none", "before", "late"])
async def test_a_cut(redis_server: RedisServer, chat: str, guard: str, expect_log: Expect) -> None:
    """A cut that another node bridges is made up for; one that nobody bridges ends the epoch."""
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
    """What is subscribed in one turn of the loop shares commands, of 500 chats at the most."""
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
    """Whoever asks for a chat while it is being subscribed waits for the same confirmation."""
    async with alone(own_server()) as made:
        backend, _ = await made.start()
        await made.client.config_resetstat()
        await asyncio.gather(*(backend.subscribe(chat) for _ in range(3)))
        assert (await made.client.info("commandstats"))["cmdstat_subscribe"]["calls"] == 1


# -- letting go -----------------------------------------------------------------------------------


@gen_test
async def test_subscribed_again_while_it_is_let_go(redis_server: RedisServer, chat: str) -> None:
    """A chat that is wanted again before it is let go stays guarded and heard."""
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
async def test_let_go_while_it_is_subscribed(redis_server: RedisServer, chat: str) -> None:
    """A chat whose subscription is under way is not let go."""
    async with alone(redis_server) as made:
        backend, _ = await made.start()
        subscribing = asyncio.create_task(backend.subscribe(chat))
        await asyncio.sleep(0)
        await backend.unsubscribe([chat])
        await subscribing
        assert await made.client.hexists(*guards(backend, chat))


@gen_test
async def test_letting_go_during_an_outage(redis_server: RedisServer, chat: str, expect_log: Expect) -> None:
    """Without its connections a node lets nothing go, nor under a name that is no longer its own."""
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


# -- idempotency keys -----------------------------------------------------------------------------


def done(saved: str, cursor: str) -> Record:
    """What is known of a key whose message is saved."""
    return Record("done", Receipt(saved, cursor, "published"))


@gen_test
async def test_attempts(redis_server: RedisServer, chat: str) -> None:
    """Of all nodes one attempt begins, and what it comes to is known to all."""
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
    """Anybody may record that, with or without an attempt under way; an id may have spaces."""
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
async def test_records_of_before(redis_server: RedisServer, chat: str, value: str, state: str) -> None:
    """A record without a fingerprint, as servers of before have left it, stands for anything."""
    async with alone(redis_server) as made:
        backend, _ = await made.start()
        await made.client.set(f"eclipse:{{{chat}}}:attempt:key", value, ex=60)
        record = await backend.record(chat, Key("key", "mine", "f1"), "pending")
        assert record.state == state
        assert record.receipt == (Receipt("m 1", "e.1", "published") if state == "done" else None)


@gen_test
@patch("eclipse_ws.backends.base.MARGIN", 0.1)
async def test_an_attempt_that_nobody_ends(redis_server: RedisServer, chat: str) -> None:
    """What is pending for longer than an attempt may take is unknown."""
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


# -- nodes ----------------------------------------------------------------------------------------


@gen_test
async def test_notes(redis_server: RedisServer) -> None:
    """A note comes to all nodes, or to the one at an address; the sender is told how many hear it."""
    async with alone(redis_server) as made:
        (one, told), (other, others) = await made.start(), await made.start()
        assert await one.send(b'{"a":1}') == 2
        assert await one.send(b'{"b":1}', other.address) == 1
        assert await other.send(b'{"c":1}', one.address) == 1
        assert await one.send(b"{}", "nobody:1") == 0
        await until(lambda: len(told.notes) == len(others.notes) == 2)
        assert told.notes == [b'{"a":1}', b'{"c":1}']
        assert others.notes == [b'{"a":1}', b'{"b":1}']
        await made.client.publish("eclipse:nodes", b"beat:x")  # from outside: no heartbeat of its own
        await until(lambda: len(told.notes) == 3)


# -- what fails -----------------------------------------------------------------------------------


async def failures(backend: RedisBackend, chat: str) -> list[tuple[bool, bool]]:
    """What each method raises: whether it was asked, and whether it alone is refused."""
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
async def test_a_server_that_gives_no_answer(own_server: Servers, chat: str, expect_log: Expect) -> None:
    """What was asked when the connection broke may have been done, which is said."""
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
    """Once Redis is known to refuse everything it isn't asked any more, until it accepts a heartbeat."""
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
            # What only the answer of a wrong server says at once, the next heartbeat tells of others.
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
async def test_what_is_refused_alone(own_server: Servers, chat: str) -> None:
    """What Redis refuses while it takes other things is told apart from what it can never keep."""
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
    """A chat whose position Redis refuses is refused alone, whatever the cause, and tried again later."""
    async with alone(own_server()) as made:
        backend, _ = await made.start()
        await made.client.set(f"eclipse:{{{chat}}}:meta", "no hash")
        with pytest.raises(Unavailable) as caught:
            await backend.subscribe(chat)
        assert caught.value.refused
        await made.client.delete(f"eclipse:{{{chat}}}:meta")
        assert (await backend.subscribe(chat)).position.cursor.offset == 0
