"""Sentinels that are wrong, silent, or that refuse: what a start says, and which server is used."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from eclipse_ws.backends.base import BackendError, NullListener, Unavailable
from eclipse_ws.backends.redis import RedisBackend
from tests import needs
from tests.backends.alone import Told, until_up
from tests.backends.harness import event, until
from tests.backends.peer import Peer, command, silence
from tests.conftest import make_settings
from tests.sentinels import SERVICE, Sentinel, ask
from tests.servers import RedisServer, free_port

gen_test = pytest.mark.gen_test(timeout=30)
Servers = Callable[..., RedisServer]
Expect = Callable[..., None]
LOST = "Redis connection lost|Redis unavailable"


class Namer:
    """A stand-in for a sentinel, which names the server that it is told to."""

    def __init__(self, port: int | None) -> None:
        self.named = port
        self.answer = b""
        self._listening: list[asyncio.StreamWriter] = []
        self.peer = Peer(self._talk)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while words := await command(reader):
            if words[0] == b"SUBSCRIBE":
                writer.write(b"*3\r\n$9\r\nsubscribe\r\n$14\r\n+switch-master\r\n:1\r\n")
                self._listening.append(writer)
            elif self.answer or self.named is None:
                writer.write(self.answer or b"*-1\r\n")
            else:
                writer.write(b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%d\r\n" % (len(str(self.named)), self.named))

    def tell(self) -> None:
        """Publish that the primary has changed."""
        text = f"{SERVICE} 127.0.0.1 1 127.0.0.1 {self.named}".encode()
        for writer in self._listening:
            writer.write(b"*3\r\n$7\r\nmessage\r\n$14\r\n+switch-master\r\n$%d\r\n%b\r\n" % (len(text), text))


@asynccontextmanager
async def backend(
    *peers: Peer | int, service: str = SERVICE, options: str = "", **given: Any
) -> AsyncIterator[RedisBackend]:
    """A backend, not started, on sentinels at these ports."""
    async with AsyncExitStack() as stack:
        ports = [
            each if isinstance(each, int) else (await stack.enter_async_context(each)).port for each in peers
        ]
        url = f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in ports)}/{service}{options}"
        made = RedisBackend(make_settings(backend="redis", redis_url=url, **{"redis_timeout": 0.6, **given}))
        try:
            yield made
        finally:
            await made.close()


async def failure(*peers: Peer | int, **given: Any) -> str:
    """The text of the BackendError that a start has to end with."""
    async with backend(*peers, **given) as made:
        with pytest.raises(BackendError) as caught:
            await made.start(NullListener())
    return str(caught.value)


def port_of(made: RedisBackend) -> int:
    """The server that takes the commands; 0 if none does."""
    standing = made._connections.standing
    return 0 if standing is None or standing.server is None else standing.server.port


@pytest.fixture
def sentinel(own_server: Servers) -> Iterator[Callable[..., tuple[Sentinel, RedisServer]]]:
    """Starts a real sentinel on a primary without replicas."""
    made: list[Sentinel] = []

    def start(*lines: str) -> tuple[Sentinel, RedisServer]:
        server = own_server()
        made.append(Sentinel(needs.server(), server.port, *lines))
        made[-1].start()
        return made[-1], server

    yield start
    for each in made:
        each.stop()


@gen_test
async def test_a_majority_is_right(own_server: Servers, chat: str, expect_log: Expect) -> None:
    """One sentinel that names another primary changes nothing, however often it says so."""
    expect_log("sentinels disagree")
    right, wrong = own_server(), own_server()
    namers = [Namer(wrong.port), Namer(right.port), Namer(right.port)]
    async with backend(*(each.peer for each in namers), app_publishes_over_http=True) as made:
        await made.start(NullListener())
        assert port_of(made) == right.port
        namers[0].tell()
        await made.append(chat, event(1))
        await asyncio.sleep(0.1)
        await made.append(chat, event(2))
        assert port_of(made) == right.port
    assert ask(wrong.port, "DBSIZE") == 0


@gen_test
async def test_a_replica_is_never_used(own_server: Servers, expect_log: Expect) -> None:
    """If all name a replica, nothing is written to it; if one names the primary, that is used."""
    expect_log(LOST, "sentinels disagree", optional=True)
    primary = own_server("--repl-diskless-sync-delay", "0")
    replica = own_server("--replicaof", "127.0.0.1", str(primary.port), "--replica-read-only", "no")
    await until(lambda: ask(replica.port, "INFO", "replication")["master_link_status"] == "up")
    namers = [Namer(replica.port) for _ in range(3)]
    async with backend(*(each.peer for each in namers)) as made:
        await made.start(NullListener())
        await asyncio.sleep(0.3)
        assert (made.health.state, port_of(made)) == ("connecting", 0)
        assert ask(replica.port, "DBSIZE") == 0
        namers[2].named = primary.port
        await until_up(made)
        assert port_of(made) == primary.port


@gen_test
async def test_a_primary_that_becomes_a_replica(own_server: Servers, chat: str, expect_log: Expect) -> None:
    """If it answers READONLY, the sentinels are asked again, and the nodes follow."""
    expect_log("Redis refuses commands|Redis connection lost")
    before, after = own_server(), own_server()
    namers = [Namer(before.port) for _ in range(3)]
    async with backend(*(each.peer for each in namers)) as made:
        told = Told()
        await made.start(told)
        await made.subscribe(chat)
        for each in namers:
            each.named = after.port  # without a word: as if it had not been heard
        ask(before.port, "REPLICAOF", "127.0.0.1", str(after.port))
        with pytest.raises(BackendError):
            await made.append(chat, event(1))
        await until(lambda: port_of(made) == after.port, "the new primary")
        async with asyncio.timeout(10):
            subscribed = False
            while not subscribed:  # the subscriber's connection may be replaced meanwhile
                await until_up(made)
                with contextlib.suppress(Unavailable):
                    await made.subscribe(chat)
                    subscribed = True
        await made.append(chat, event(2))
        await until(lambda: told.events)


@gen_test
@pytest.mark.parametrize("over_http", [True, False])
async def test_a_failover_that_sentinels_announce(
    own_server: Servers, expect_log: Expect, over_http: bool
) -> None:
    """An old primary that still takes writes is left as soon as most sentinels name another one, but not if
    the application may still publish there.
    """
    expect_log("sentinels disagree", optional=True)
    before, after = own_server(), own_server()
    namers = [Namer(before.port) for _ in range(3)]
    async with backend(*(each.peer for each in namers), app_publishes_over_http=over_http) as made:
        await made.start(NullListener())
        for count, each in enumerate(namers[:2]):
            await asyncio.sleep(0.1)
            assert (count, port_of(made)) == (count, before.port)
            each.named = after.port
            each.tell()
        if not over_http:
            await asyncio.sleep(0.2)
            assert port_of(made) == before.port
            ask(before.port, "CLIENT", "KILL", "TYPE", "normal")  # as a sentinel does that demotes it
            ask(before.port, "CLIENT", "KILL", "TYPE", "pubsub")
            expect_log(LOST)
        await until(lambda: port_of(made) == after.port, "the new primary")
        await until_up(made)
        assert made._connections.subscriber.server.port == after.port


@gen_test
async def test_a_tie(own_server: Servers, expect_log: Expect) -> None:
    """While two sentinels disagree, a connection stays where it is, whatever they announce."""
    expect_log("sentinels disagree", optional=True)
    before, other = own_server(), own_server()
    namers = [Namer(before.port) for _ in range(2)]
    async with backend(*(each.peer for each in namers), app_publishes_over_http=True) as made:
        await made.start(NullListener())
        standing = made._connections.standing
        namers[0].named = other.port
        for each in namers:
            each.tell()
        await asyncio.sleep(0.1)
        assert made._connections.standing is standing


@gen_test
async def test_silent_sentinels(own_server: Servers, expect_log: Expect) -> None:
    """Two of three that accept and say nothing only cost a part of the timeout."""
    server = own_server()
    async with backend(Peer(silence, greet=False), Peer(silence), Namer(server.port).peer) as made:
        await made.start(NullListener())
        assert port_of(made) == server.port


@gen_test
@pytest.mark.parametrize("answer", [b"*2\r\n$1\r\na\r\n$1\r\nb\r\n", b":1\r\n", b"*0\r\n", b"+OK\r\n"])
async def test_nonsense(answer: bytes, expect_log: Expect) -> None:
    """What is not an address is reported, and tried again."""
    expect_log("no sentinel names a primary.*which is not an address")
    expect_log(LOST)
    namer = Namer(None)
    namer.answer = answer
    async with backend(namer.peer) as made:
        await made.start(NullListener())
        assert made.health.state == "connecting"


@gen_test
async def test_no_sentinel_can_be_reached(own_server: Servers, expect_log: Expect) -> None:
    """The server starts without them, names each in the log, and connects once one answers."""
    first, second = free_port(), free_port()
    expect_log(f"no sentinel names a primary: sentinel 127.0.0.1:{first}: .*; sentinel 127.0.0.1:{second}: ")
    expect_log(LOST)
    server = own_server()
    namer = Namer(server.port)
    async with backend(first, second) as made:
        await made.start(NullListener())
        assert made.health.state == "connecting"
        namer.peer.port = second
        async with namer.peer:
            await until_up(made)
            await made.close()


@gen_test
async def test_an_unknown_service(sentinel: Any, expect_log: Expect) -> None:
    """A name that no sentinel knows ends the start; if a sentinel is silent, it may know it."""
    expect_log(LOST)
    real, _ = sentinel()
    await until(lambda: ask(real.port, "PING"))
    text = await failure(real.port, service="mine")
    assert f"sentinel 127.0.0.1:{real.port}: it knows no service 'mine'" in text
    assert "sentinel monitor <name>" in text
    async with backend(real.port, free_port(), service="mine") as made:
        await made.start(NullListener())
        assert made.health.state == "connecting"


@gen_test
async def test_sentinels_with_a_password(sentinel: Any, chat: str) -> None:
    """Their account is not Redis's: without it, and with a wrong one, the start ends and says so."""
    real, server = sentinel("requirepass the-sentinels", "sentinel auth-pass chats of-redis")
    await until(lambda: ask(real.port, "PING") or True)
    ask(server.port, "CONFIG", "SET", "requirepass", "of-redis")
    for options in ("", "?sentinel_password=wrong-one"):
        text = await failure(real.port, options=options)
        assert "it refuses this server" in text
        assert "sentinel_password=..." in text
        assert "wrong-one" not in text
    right = "?sentinel_password=the-sentinels"
    assert "user and password in REDIS_URL" in await failure(real.port, options=right)
    url = f"redis+sentinel://:of-redis@127.0.0.1:{real.port}/{SERVICE}{right}"
    made = RedisBackend(make_settings(backend="redis", redis_url=url))
    await made.start(NullListener())
    await made.append(chat, event(1))
    assert made.health.state == "up"
    await made.close()


@gen_test
async def test_a_server_that_is_not_a_sentinel(own_server: Servers) -> None:
    """Redis itself in place of its sentinels ends the start, and says what to write."""
    text = await failure(own_server().port)
    assert "it is not a sentinel" in text
    assert "not Redis itself" in text


@gen_test
async def test_an_account_that_may_not_ask_for_the_role(own_server: Servers) -> None:
    """Without ROLE nobody knows what a server is, so the start ends and names the right."""
    server = own_server("--user", "default", "on", "nopass", "~*", "&*", "+@all", "-role")
    text = await failure(Namer(server.port).peer)
    assert "'role' command" in text
    assert "grant the account" in text
