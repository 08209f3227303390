"""An unusable Redis is reported at the start, with the reason and the fix."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from eclipse_ws.backends import create
from eclipse_ws.backends.base import BackendError, Key, NullListener
from eclipse_ws.backends.redis import RedisBackend
from eclipse_ws.protocol import Receipt
from tests.backends.alone import Told, alone, until_up
from tests.backends.harness import event, until
from tests.conftest import make_settings
from tests.servers import RedisServer, free_port

gen_test = pytest.mark.gen_test(timeout=30)
Servers = Callable[..., RedisServer]
Expect = Callable[..., None]


async def failure(url: str, **given: Any) -> str:
    """The text of the BackendError that a start has to end with; it leaves no task behind."""
    settings = make_settings(backend="redis", redis_url=url, redis_timeout=1, **given)
    backend = RedisBackend(settings)
    try:
        with pytest.raises(BackendError) as caught:
            await backend.start(NullListener())
    finally:
        await backend.close()
    # A stand-in's own tasks end when its sockets do, on some versions of Python a moment later.
    await until(lambda: len(asyncio.all_tasks()) == 1)
    return str(caught.value)


@gen_test
@pytest.mark.parametrize("url", ["https://example.upstash.io", "localhost:6379", "redis://localhost:port"])
async def test_an_invalid_url(url: str) -> None:
    """An invalid URL is refused with the name of its setting."""
    assert "REDIS_URL" in await failure(url)


@gen_test
@pytest.mark.parametrize("given", ["", ":wrong@", "nobody:wrong@"])
async def test_wrong_passwords(own_server: Servers, given: str) -> None:
    """A missing or wrong password ends the start, and says where the right one belongs."""
    server = own_server("--requirepass", "right")
    text = await failure(f"redis://{given}127.0.0.1:{server.port}")
    assert "user and password in REDIS_URL" in text
    assert "wrong" not in text.replace("wrong number", "").replace("WRONGPASS", "").replace("invalid", "")


@gen_test
async def test_a_missing_database(own_server: Servers) -> None:
    """A number beyond the server's databases ends the start, and says what to change."""
    server = own_server("--databases", "2")
    text = await failure(f"redis://127.0.0.1:{server.port}/2")
    assert "DB index" in text and "number of the database in REDIS_URL" in text


@gen_test
async def test_the_right_password(own_server: Servers, chat: str) -> None:
    """With the right password, percent-encoded, everything works."""
    server = own_server("--requirepass", "r/ght@")
    settings = make_settings(backend="redis", redis_url=f"redis://:r%2Fght%40@127.0.0.1:{server.port}")
    backend, told = RedisBackend(settings), Told()
    await backend.start(told)
    await backend.subscribe(chat)
    await backend.append(chat, event("m1"))
    await until(lambda: told.events)
    await backend.close()


RIGHTS = ["evalsha", "eval", "time", "xadd", "xrange", "publish", "pubsub", "subscribe"]
RIGHTS += ["exists", "get", "set", "del", "expire", "ttl", "hget", "hmget", "hgetall", "hset", "hdel", "hlen"]


@gen_test
@pytest.mark.parametrize("command", RIGHTS)
async def test_an_account_without_a_right(
    redis_server: RedisServer, command: str, expect_log: Expect
) -> None:
    """An account that lacks a command is refused at the start, naming the command."""
    expect_log("Redis connection lost", "Redis refuses commands", optional=True)
    user = f"without-{command}"
    async with alone(redis_server) as made:
        await made.client.acl_setuser(
            user, enabled=True, passwords="+secret", keys="*", channels="*", commands=["+@all", f"-{command}"]
        )
    text = await failure(f"redis://{user}:secret@127.0.0.1:{redis_server.port}")
    assert "lacks a right" in text
    assert command.upper() in text
    assert "secret" not in text


@gen_test
async def test_an_account_without_any_right(redis_server: RedisServer, expect_log: Expect) -> None:
    """An account that lacks every command is told all of them at once, not one at each start."""
    expect_log("Redis connection lost", "Redis refuses commands", optional=True)
    async with alone(redis_server) as made:
        await made.client.acl_setuser(
            "without-any",
            enabled=True,
            passwords="+secret",
            keys="*",
            channels="*",
            commands=["-@all", "+@connection"],
        )
    text = await failure(f"redis://without-any:secret@127.0.0.1:{redis_server.port}")
    # EXISTS runs only where one node finds another's old guard, so its lack alone doesn't end a start.
    assert {each.lower() for each in re.findall(r"(\w+) \(", text)} == {*RIGHTS, "exists"} - {"subscribe"}


@gen_test
@pytest.mark.parametrize("rule", ["~other:*", "&other:*"])
async def test_an_account_without_keys_or_channels(
    redis_server: RedisServer, rule: str, expect_log: Expect
) -> None:
    """An account that may not touch our keys or channels is refused at the start."""
    expect_log("Redis connection lost", "Redis refuses commands", optional=True)
    rules = ["~*" if rule[0] == "&" else rule, "&*" if rule[0] == "~" else rule]
    async with alone(redis_server) as made:
        await made.client.execute_command(
            "ACL", "SETUSER", "narrow", "reset", "on", ">secret", "+@all", *rules
        )
    assert "lacks a right" in await failure(f"redis://narrow:secret@127.0.0.1:{redis_server.port}")


@gen_test
async def test_an_account_with_the_required_rights(redis_server: RedisServer, chat: str) -> None:
    """An account with only our keys, our channels and the named commands works."""
    needed = (
        "evalsha eval time get set del exists expire ttl hget hmget hgetall hset hdel hlen xadd xrange"
        " publish subscribe unsubscribe pubsub|numsub client|setname"
    )
    rights = [f"+{command}" for command in needed.split()]
    account = ("reset", "on", ">secret", "~eclipse:*", "&chat:*", "&eclipse:*", *rights)
    async with alone(redis_server) as made:
        await made.client.execute_command("ACL", "SETUSER", "enough", *account)
    settings = make_settings(
        backend="redis", redis_url=f"redis://enough:secret@127.0.0.1:{redis_server.port}"
    )
    backend, told = create("redis", settings), Told()
    await backend.start(told)
    at = (await backend.subscribe(chat)).position
    key = Key("key", "token")
    assert (await backend.record(chat, key, "pending")).state == "none"
    cursor, _ = await backend.append(chat, event("m1"), key=key)
    await until(lambda: told.events)
    read = await backend.read(chat, at.cursor)
    assert read is not None
    assert [each.cursor for each in read] == [cursor]
    receipt = Receipt("m1", str(cursor), "published")
    await backend.record(chat, key, "done", receipt=receipt)
    await backend.record(chat, Key("other", "token"), "unknown")
    assert await backend.send(b"{}") == 1
    await backend.unsubscribe([chat])
    await backend.close()


@gen_test
async def test_a_temporary_refusal(own_server: Servers, expect_log: Expect) -> None:
    """The server starts on a Redis that refuses writes for now."""
    expect_log("Redis refuses commands|Redis takes no events now")
    async with alone(own_server(), redis_timeout=0.5) as made:
        await made.client.replicaof("127.0.0.1", 1)
        backend, _ = await made.start()
        assert backend.health.state != "up"
        await made.client.replicaof("NO", "ONE")
        backend._connections.beat_soon()
        await until_up(backend)


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[str]:
    """A stand-in that greets like Redis and gives every script one of these answers; the last one again."""
    left = list(answers)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while header := await reader.readline():
                words = []
                for _ in range(int(header[1:])):
                    size = int((await reader.readline())[1:])
                    words.append((await reader.readexactly(size + 2))[:-2])
                if words[0] in (b"EVALSHA", b"EVAL"):
                    writer.write(left.pop(0) if len(left) > 1 else left[0])
                elif words[0] == b"SUBSCRIBE":
                    for at, name in enumerate(words[1:]):
                        writer.write(
                            b"*3\r\n$9\r\nsubscribe\r\n$%d\r\n%b\r\n:%d\r\n" % (len(name), name, at + 1)
                        )
                else:
                    writer.write(b"+OK\r\n")
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"redis://127.0.0.1:{port}"
    finally:
        server.close()
        await server.wait_closed()
        # Let the sockets' callbacks run, so that nothing is left to the next test.
        await until(lambda: len(asyncio.all_tasks()) == 1)


@gen_test
async def test_a_cluster_is_refused(expect_log: Expect) -> None:
    """A Redis that redirects its clients belongs to a cluster, and the error says what to write."""
    expect_log("Redis refuses commands", optional=True)
    async with answering(b"-MOVED 3999 127.0.0.1:6381\r\n") as url:
        assert "redis+cluster://" in await failure(url)


@gen_test
async def test_a_redis_without_lua_is_refused(expect_log: Expect) -> None:
    """A Redis without scripts can't be used, and the error says so."""
    expect_log("Redis refuses commands", optional=True)
    async with answering(b"-ERR unknown command 'EVALSHA'\r\n") as url:
        assert "runs Lua" in await failure(url)


@gen_test
async def test_a_loading_redis_is_waited_for(expect_log: Expect) -> None:
    """The server starts while Redis is still loading its data."""
    expect_log("Redis refuses commands|Redis takes no events now")
    async with answering(b"-LOADING Redis is loading the dataset in memory\r\n") as url:
        settings = make_settings(backend="redis", redis_url=url, redis_timeout=0.3)
        backend = RedisBackend(settings)
        await backend.start(NullListener())
        assert backend.health.state != "up"
        await backend.close()


@gen_test
async def test_no_server_listens(expect_log: Expect) -> None:
    """The server starts without Redis."""
    expect_log("Redis unavailable", "Redis connection lost")
    url = f"redis://127.0.0.1:{free_port()}"
    settings = make_settings(backend="redis", redis_url=url, redis_timeout=0.3)
    backend = RedisBackend(settings)
    await backend.start(NullListener())
    assert backend.health.state == "connecting"
    await backend.close()


def test_backends_are_found_by_name() -> None:
    """An unknown backend is refused with the names of those that are installed."""
    assert create("memory", make_settings(backend="memory")).name == "memory"
    with pytest.raises(BackendError, match=r"'carrier-pigeon'; installed are: .*memory.*redis"):
        create("carrier-pigeon", make_settings())
