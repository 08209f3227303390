"""A Redis that can't be used: said at the start, with what is wrong and what to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from eclipse_ws.backends import create
from eclipse_ws.backends.base import BackendError
from eclipse_ws.backends.redis import RedisBackend
from eclipse_ws.delivery.delivery import Delivery
from tests.backends.harness import Cluster, Recorder, event, until
from tests.conftest import make_settings
from tests.servers import free_port

gen_test = pytest.mark.gen_test(timeout=30)
Make = Callable[..., Cluster]
Expect = Callable[..., None]


async def failure(url: str, **given: Any) -> str:
    """The text of the BackendError that a start has to end with; it leaves no task behind."""
    settings = make_settings(backend="redis", redis_url=url, redis_timeout=1, **given)
    backend = RedisBackend(settings)
    try:
        with pytest.raises(BackendError) as caught:
            await Delivery(settings, backend).start(Recorder())
    finally:
        await backend.close()
    # A stand-in's own tasks end when its sockets do, on some versions of Python a moment later.
    await until(lambda: len(asyncio.all_tasks()) == 1)
    return str(caught.value)


@gen_test
@pytest.mark.parametrize("url", ["https://example.upstash.io", "localhost:6379", "redis://localhost:port"])
async def test_a_url_that_is_none(url: str) -> None:
    """A URL that Redis can't have is refused, naming the setting."""
    assert "REDIS_URL" in await failure(url)


@gen_test
@pytest.mark.parametrize("given", ["", ":wrong@", "nobody:wrong@"])
async def test_wrong_passwords(own_cluster: Make, given: str) -> None:
    """A missing or wrong password ends the start, and says where the right one belongs."""
    made = own_cluster("--requirepass", "right")
    text = await failure(f"redis://{given}127.0.0.1:{made.server.port}")
    assert "user and password in REDIS_URL" in text
    assert "wrong" not in text.replace("wrong number", "").replace("WRONGPASS", "").replace("invalid", "")
    made.server.kill()


@gen_test
async def test_a_database_that_is_not_there(own_cluster: Make) -> None:
    """A number that the server's databases don't reach ends the start, and says what to change."""
    made = own_cluster("--databases", "2")
    text = await failure(f"redis://127.0.0.1:{made.server.port}/2")
    assert "DB index" in text and "number of the database in REDIS_URL" in text
    made.server.kill()


@gen_test
async def test_the_right_password(own_cluster: Make, chat: str) -> None:
    """With the right password, percent-encoded, everything works."""
    made = own_cluster("--requirepass", "r/ght@")
    settings = make_settings(backend="redis", redis_url=f"redis://:r%2Fght%40@127.0.0.1:{made.server.port}")
    backend, heard = RedisBackend(settings), Recorder()
    delivery = Delivery(settings, backend)
    await delivery.start(heard)
    await backend.subscribe(chat)
    await delivery.publish(chat, event("m1"))
    await until(lambda: heard.events[chat])
    await backend.close()
    made.server.kill()


RIGHTS = ["evalsha", "eval", "xadd", "xrange", "publish", "pubsub", "hset", "time", "subscribe"]


@gen_test
@pytest.mark.parametrize("command", RIGHTS)
async def test_an_account_without_a_right(cluster: Make, command: str, expect_log: Expect) -> None:
    """An account that lacks a command is refused at the start, naming the command."""
    expect_log("redis link lost", "redis refuses commands", optional=True)
    made = cluster()
    user = f"without-{command}"
    await made.client.execute_command(
        "ACL", "SETUSER", user, "on", ">secret", "~*", "&*", "+@all", f"-{command}"
    )
    text = await failure(f"redis://{user}:secret@127.0.0.1:{made.server.port}")
    assert "lacks a right" in text
    assert command.upper() in text
    assert "secret" not in text


@gen_test
@pytest.mark.parametrize("rule", ["~other:*", "&other:*"])
async def test_an_account_without_keys_or_channels(cluster: Make, rule: str, expect_log: Expect) -> None:
    """An account that may not touch our keys or channels is refused at the start."""
    expect_log("redis link lost", "redis refuses commands", optional=True)
    made = cluster()
    rules = ["~*" if rule[0] == "&" else rule, "&*" if rule[0] == "~" else rule]
    await made.client.execute_command("ACL", "SETUSER", "narrow", "reset", "on", ">secret", "+@all", *rules)
    assert "lacks a right" in await failure(f"redis://narrow:secret@127.0.0.1:{made.server.port}")


@gen_test
async def test_an_account_with_just_enough(cluster: Make, chat: str) -> None:
    """An account with our keys, our channels and the named commands alone does."""
    made = cluster()
    needed = (
        "evalsha eval time get set del exists expire hget hmget hgetall hset hdel xadd xrange publish"
        " subscribe unsubscribe pubsub|numsub client|setname"
    )
    rights = [f"+{command}" for command in needed.split()]
    await made.client.execute_command(
        *(
            "ACL",
            "SETUSER",
            "enough",
            "reset",
            "on",
            ">secret",
            "~eclipse:*",
            "&chat:*",
            "&eclipse:*",
            *rights,
        )
    )
    settings = make_settings(
        backend="redis", redis_url=f"redis://enough:secret@127.0.0.1:{made.server.port}", history_seconds=0.2
    )
    backend, heard = create("redis", settings), Recorder()
    delivery = Delivery(settings, backend)
    await delivery.start(heard)
    await backend.subscribe(chat)
    attempt = await delivery.attempt(chat, "key")
    assert (await delivery.publish(chat, event("m1"), attempt)).delivery == "published"
    await until(lambda: heard.events[chat])
    assert (await backend.ask("x")).values == ["x"]
    backend.unsubscribe(chat)
    await until(lambda: backend.position(chat) is None)
    await backend.close()


@gen_test
async def test_a_refusal_that_passes(own_cluster: Make, expect_log: Expect) -> None:
    """A Redis that takes no writes for now is no reason not to start."""
    expect_log("redis refuses commands|redis does not take events now")
    made = own_cluster(redis_timeout=0.5)
    await made.client.execute_command("REPLICAOF", "127.0.0.1", "1")
    node = await made.node()
    assert node.backend.health().state != "up"
    await made.client.execute_command("REPLICAOF", "NO", "ONE")
    node.backend._links.beat_soon()
    await node.until_up()


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
    """A Redis that sends its clients elsewhere can't be used, which is said."""
    expect_log("redis refuses commands", optional=True)
    async with answering(b"-MOVED 3999 127.0.0.1:6381\r\n") as url:
        assert "without a cluster" in await failure(url)


@gen_test
async def test_a_redis_without_lua_is_refused(expect_log: Expect) -> None:
    """A Redis that doesn't know scripts can't be used, which is said."""
    expect_log("redis refuses commands", optional=True)
    async with answering(b"-ERR unknown command 'EVALSHA'\r\n") as url:
        assert "runs Lua" in await failure(url)


@gen_test
async def test_a_loading_redis_is_waited_for(expect_log: Expect) -> None:
    """A Redis that is still loading its data is away, and no reason not to start."""
    expect_log("redis refuses commands|redis does not take events now")
    async with answering(b"-LOADING Redis is loading the dataset in memory\r\n") as url:
        settings = make_settings(backend="redis", redis_url=url, redis_timeout=0.3)
        backend = RedisBackend(settings)
        await Delivery(settings, backend).start(Recorder())
        assert backend.health().state != "up"
        await backend.close()


@gen_test
async def test_nobody_listens(expect_log: Expect) -> None:
    """A Redis that isn't there is no reason not to start."""
    expect_log("redis is away", "redis link lost")
    url = f"redis://127.0.0.1:{free_port()}"
    settings = make_settings(backend="redis", redis_url=url, redis_timeout=0.3)
    backend = RedisBackend(settings)
    await Delivery(settings, backend).start(Recorder())
    assert backend.health().state == "connecting"
    await backend.close()


def test_backends_are_found_by_name() -> None:
    """An unknown backend is refused with the names of those that are installed."""
    assert create("memory", make_settings(backend="memory")).name == "memory"
    with pytest.raises(BackendError, match=r"'carrier-pigeon'; installed are: .*memory.*redis"):
        create("carrier-pigeon", make_settings())
