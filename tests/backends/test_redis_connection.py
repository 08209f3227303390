"""One connection to Redis, against stand-ins that break in every way a network can."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio.connection import Connection, UnixDomainSocketConnection
from redis.exceptions import RedisError, ResponseError

from eclipse_ws.backends.redis.connection import (
    CommandConnection,
    DisconnectedError,
    SubscriberConnection,
    connection,
)
from tests.backends.harness import until

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
gen_test = pytest.mark.gen_test(timeout=20)


class Peer:
    """Greets as Redis does, then does with the connection what a test says."""

    def __init__(self, talk: Talk, greet: bool = True) -> None:
        self._talk = talk
        self._greet = greet
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None
        self.port = 0

    async def __aenter__(self) -> Peer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()
        await self._server.wait_closed()
        await until(lambda: len(asyncio.all_tasks()) == 1, "the end of all tasks")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            if self._greet:
                for _ in range(3):  # CLIENT SETNAME, and twice CLIENT SETINFO
                    await command(reader)
                    writer.write(b"+OK\r\n")
            await self._talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass

    def commands(self, timeout: float = 0.3) -> CommandConnection:
        """A connection to this peer, for commands."""
        return CommandConnection(connection(f"redis://127.0.0.1:{self.port}", timeout), timeout)

    def subscriber(self, on_push: Any, on_refused: Any = None) -> SubscriberConnection:
        """A connection to this peer, for subscriptions."""
        made = connection(f"redis://127.0.0.1:{self.port}", 0.3)
        return SubscriberConnection(made, 0.3, on_push, on_refused)


async def command(reader: asyncio.StreamReader) -> list[bytes]:
    """Read one command."""
    words = []
    for _ in range(int((await reader.readuntil(b"\r\n"))[1:])):
        size = int((await reader.readuntil(b"\r\n"))[1:])
        words.append((await reader.readexactly(size + 2))[:-2])
    return words


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read everything and answer nothing."""
    while await reader.read(65536):
        pass


async def run(current: CommandConnection | SubscriberConnection) -> asyncio.Task[str]:
    """Connect, and let it run."""
    await current.connect()
    return asyncio.create_task(current.run())


@gen_test
async def test_answers_come_to_their_commands() -> None:
    """What is called in one turn is answered each with its own answer, an error being one too."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while words := await command(reader):
            writer.write(b"-ERR no\r\n" if words[0] == b"FAIL" else b":%d\r\n" % int(words[1]))

    async with Peer(talk) as peer:
        commands = peer.commands()
        running = await run(commands)
        calls = [commands.call("ECHO", 1), commands.call("FAIL"), commands.call("ECHO", 2)]
        assert await calls[0] == 1
        with pytest.raises(ResponseError, match="no"):
            await calls[1]
        assert await calls[2] == 2
        cancelled = commands.call("ECHO", 3)
        cancelled.cancel()
        assert await commands.call("ECHO", 4) == 4
        commands.close("done")
        assert await running == "done"


@gen_test
async def test_silence_ends_the_connection() -> None:
    """A command that isn't answered in time ends the connection, and every caller is told."""
    async with Peer(silence) as peer:
        commands = peer.commands()
        running = await run(commands)
        calls = [commands.call("ECHO", n) for n in range(3)]
        assert "no answer within 0.3 s" in await running
        for call in calls:
            with pytest.raises(DisconnectedError, match="no answer"):
                await call


@gen_test
async def test_an_idle_connection_stays() -> None:
    """A connection on which nothing is asked isn't ended for its silence."""
    async with Peer(silence) as peer:
        commands = peer.commands()
        running = await run(commands)
        done, _ = await asyncio.wait([running], timeout=1)
        assert not done
        running.cancel()
        await asyncio.wait([running])


@gen_test
@pytest.mark.parametrize("answer", [b"$100\r\nhalf", b"*2\r\n:1\r\n", b":1", b"", b"?garbage\r\n"])
async def test_broken_in_the_middle_of_an_answer(answer: bytes) -> None:
    """A connection that breaks within an answer, or answers nonsense, ends it with DisconnectedError."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await command(reader)
        writer.write(answer)
        writer.close()

    async with Peer(talk) as peer:
        commands = peer.commands()
        running = await run(commands)
        with pytest.raises(DisconnectedError):
            await commands.call("ECHO", 1)
        assert await running


@gen_test
async def test_an_answer_that_nobody_asked_for() -> None:
    """An answer without a command ends the connection: what came after would go to the wrong callers."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b":1\r\n")
        await silence(reader, writer)

    async with Peer(talk) as peer:
        assert "reading failed" in await (await run(peer.commands()))


@gen_test
async def test_calling_after_the_end() -> None:
    """A connection that has ended refuses at once."""
    async with Peer(silence) as peer:
        commands = peer.commands()
        running = await run(commands)
        commands.close("gone")
        commands.close("once more")
        assert await running == "gone"
        with pytest.raises(DisconnectedError, match="gone"):
            await commands.call("ECHO", 1)


@gen_test
async def test_a_peer_that_takes_no_bytes() -> None:
    """A peer that reads nothing while megabytes are due ends it by its silence, not the memory."""

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(3600)

    async with Peer(silence) as peer:
        commands = peer.commands()
        await commands.connect()
        # Broken from below: what is written now meets a transport that is gone.
        await commands.disconnect()
        running = asyncio.create_task(commands.run())
        call = commands.call("ECHO", b"x" * 1_000_000)
        with pytest.raises(DisconnectedError):
            await call
        assert await running


@gen_test
async def test_connecting_to_nobody() -> None:
    """A port that nobody listens on is a DisconnectedError."""
    async with Peer(silence) as peer:
        commands = peer.commands()
    with pytest.raises(DisconnectedError):
        await commands.connect()


@gen_test
async def test_connecting_to_silence() -> None:
    """A peer that accepts and says nothing is given up after the timeout."""
    async with Peer(silence, greet=False) as peer:
        with pytest.raises(DisconnectedError):
            await peer.commands(timeout=0.1).connect()


@gen_test
async def test_a_cancelled_connect_leaves_no_socket() -> None:
    """Whoever stops connecting leaves nothing open."""
    ended = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await silence(reader, writer)
        ended.set()

    async with Peer(talk, greet=False) as peer:
        connecting = asyncio.create_task(peer.commands(timeout=10).connect())
        await asyncio.sleep(0.05)
        connecting.cancel()
        await asyncio.wait([connecting])
        assert connecting.cancelled()
        await ended.wait()


@gen_test
async def test_pushes_and_refusals() -> None:
    """What a subscriber is told and what it is refused come in order."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await command(reader)
        writer.write(b"*3\r\n$7\r\nmessage\r\n$1\r\nx\r\n$1\r\n1\r\n")
        writer.write(b"-NOPERM no such right\r\n")
        writer.write(b"*3\r\n$7\r\nmessage\r\n$1\r\nx\r\n$1\r\n2\r\n")
        await silence(reader, writer)

    taken: list[Any] = []

    def refused(error: RedisError) -> None:
        taken.append(str(error))

    async with Peer(talk) as peer:
        subscriber = peer.subscriber(taken.append, refused)
        running = await run(subscriber)
        subscriber.send("SUBSCRIBE", "x")
        await until(lambda: len(taken) == 3)
        assert taken == [[b"message", b"x", b"1"], "no such right", [b"message", b"x", b"2"]]
        subscriber.close("done")
        assert await running == "done"


@gen_test
async def test_a_push_that_can_not_be_handled(expect_log: Callable[..., None]) -> None:
    """An error in what takes a push is logged, and the next push is taken."""
    expect_log("push of Redis not handled")

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b":1\r\n:2\r\n")
        await silence(reader, writer)

    taken: list[Any] = []

    def take(push: Any) -> None:
        taken.append(push)
        if push == 1:
            raise ValueError("a test")

    async with Peer(talk) as peer:
        subscriber = peer.subscriber(take)
        running = await run(subscriber)
        await until(lambda: taken == [1, 2])
        subscriber.close("done")
        await running


@gen_test
async def test_a_command_that_can_not_be_written() -> None:
    """A command that is no text for Redis fails alone: later answers still come to their commands."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while words := await command(reader):
            writer.write(b":%d\r\n" % int(words[1]))

    async with Peer(talk) as peer:
        commands = peer.commands()
        running = await run(commands)
        with pytest.raises(UnicodeEncodeError):
            commands.call("ECHO", "\ud800")
        assert await commands.call("ECHO", 2) == 2
        commands.close("done")
        await running


@pytest.mark.gen_test
async def test_an_authority_that_has_gone() -> None:
    """Without its file no connection comes about, and the next attempt may find it again."""
    commands = CommandConnection(connection("rediss://127.0.0.1:1", 1, "/no/such/file.pem"), 1)
    with pytest.raises(DisconnectedError, match="can't be read"):
        await commands.connect()


def test_urls() -> None:
    """Each kind of URL makes its kind of connection, and what is none is refused."""
    assert type(connection("redis://localhost", 1)) is Connection
    assert "SSL" in type(connection("rediss://localhost", 1)).__name__
    assert type(connection("unix:///run/redis.sock", 1)) is UnixDomainSocketConnection
    with pytest.raises(ValueError, match="scheme"):
        connection("https://localhost", 1)
