"""One connection to Redis, against stand-ins that break in every way a network can."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio.connection import Connection, UnixDomainSocketConnection
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from eclipse_ws.backends.redis.connection import (
    CommandConnection,
    DisconnectedError,
    connection,
)
from tests.backends.harness import until
from tests.backends.peer import Peer, command, run, silence

gen_test = pytest.mark.gen_test(timeout=20)


@gen_test
async def test_answers_reach_their_commands() -> None:
    """Each command of one turn gets its own answer, an error being one too."""

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
async def test_many_answers_at_once_leave_others_their_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that came in one read are handled over several turns of the loop."""
    turns, handled = [0], list[int]()
    take = CommandConnection._take

    def slow(commands: CommandConnection, answer: Any) -> None:
        time.sleep(0.0002)
        handled.append(turns[0])
        take(commands, answer)

    async def tick() -> None:
        while True:
            turns[0] += 1
            await asyncio.sleep(0)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(200):
            await command(reader)
        writer.write(b":1\r\n" * 200)
        await silence(reader, writer)

    monkeypatch.setattr(CommandConnection, "_take", slow)
    async with Peer(talk) as peer:
        commands = peer.commands(timeout=10)
        running = await run(commands)
        calls = [commands.call("ECHO", 1) for _ in range(200)]
        ticking = asyncio.create_task(tick())
        await asyncio.gather(*calls)
        ticking.cancel()
        assert max(map(handled.count, handled)) < 20
        commands.close("done")
        await running


@gen_test
async def test_silence_ends_the_connection() -> None:
    """A command that isn't answered in time ends the connection, and every caller gets the error."""
    async with Peer(silence) as peer:
        commands = peer.commands()
        running = await run(commands)
        calls = [commands.call("ECHO", n) for n in range(3)]
        assert "no answer within 0.3 s" in await running
        for call in calls:
            with pytest.raises(DisconnectedError, match="no answer"):
                await call


@gen_test
async def test_a_peer_that_works_off_a_queue_is_not_silent() -> None:
    """A peer that answers one command after another is waited for, however long the last one takes."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while words := await command(reader):
            await asyncio.sleep(0.1)
            writer.write(b":%d\r\n" % int(words[1]))

    async with Peer(talk) as peer:
        commands = peer.commands(timeout=0.4)
        running = await run(commands)
        assert await asyncio.gather(*(commands.call("ECHO", n) for n in range(8))) == [*range(8)]
        commands.close("done")
        await running


@gen_test
async def test_a_pause_of_this_process_does_not_count_as_silence() -> None:
    """After a pause a peer has the rest of its time, not none."""
    asked = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await command(reader)
        asked.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0.5)
        writer.write(b":1\r\n")
        await silence(reader, writer)

    async with Peer(talk) as peer:
        commands = peer.commands(timeout=1)
        running = await run(commands)
        call = commands.call("ECHO", 1)
        await asked.wait()
        time.sleep(1.2)  # noqa: ASYNC251 - this is the stop
        await asyncio.sleep(0.3)
        assert await call == 1
        commands.close("done")
        await running


@gen_test
async def test_waiting_callers_learn_that_the_connection_ended() -> None:
    """A connection that is stopped from outside leaves no caller waiting."""
    async with Peer(silence) as peer:
        commands = peer.commands(timeout=10)
        running = await run(commands)
        call = commands.call("ECHO", 1)
        await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(DisconnectedError, match="closed"):
            await call


@gen_test
async def test_an_idle_connection_stays() -> None:
    """A connection without open commands isn't ended for its silence."""
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
async def test_an_unsolicited_answer() -> None:
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
async def test_a_peer_that_reads_nothing() -> None:
    """A peer that reads nothing while megabytes wait is ended by the timeout, before memory runs out."""

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
async def test_connecting_to_a_closed_port() -> None:
    """A port that nobody listens on is a DisconnectedError."""
    async with Peer(silence) as peer:
        commands = peer.commands()
    with pytest.raises(DisconnectedError):
        await commands.connect()


@gen_test
async def test_connecting_to_a_silent_peer() -> None:
    """A peer that accepts and sends nothing is given up after the timeout."""
    async with Peer(silence, greet=False) as peer:
        with pytest.raises(DisconnectedError):
            await peer.commands(timeout=0.1).connect()


@gen_test
async def test_a_greeting_that_is_not_accepted() -> None:
    """A peer that answers a password with neither yes nor no has refused it, and isn't merely away."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await command(reader)
        writer.write(b"+PERHAPS\r\n")
        await silence(reader, writer)

    async with Peer(talk, greet=False) as peer:
        commands = CommandConnection(connection(f"redis://:secret@127.0.0.1:{peer.port}", 1), 1)
        with pytest.raises(AuthenticationError):
            await commands.connect()


@gen_test
async def test_a_cancelled_connect_leaves_no_socket() -> None:
    """A cancelled connect leaves nothing open."""
    ended = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await silence(reader, writer)
        ended.set()

    async with Peer(talk, greet=False) as peer:
        commands = peer.commands(timeout=10)  # held, or its end closes the socket
        connecting = asyncio.create_task(commands.connect())
        await asyncio.sleep(0.05)
        connecting.cancel()
        await asyncio.wait([connecting])
        assert connecting.cancelled()
        await ended.wait()


@gen_test
async def test_pushes_and_refusals() -> None:
    """A subscriber gets pushes and refusals in order."""

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
    expect_log("Redis push not handled")

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
    """An invalid command fails by itself: later answers still come to their commands."""

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


def test_urls() -> None:
    """Each kind of URL makes its kind of connection, and an invalid one is refused."""
    assert type(connection("redis://localhost", 1)) is Connection
    assert "SSL" in type(connection("rediss://localhost", 1)).__name__
    assert type(connection("unix:///run/redis.sock", 1)) is UnixDomainSocketConnection
    with pytest.raises(ValueError, match="scheme"):
        connection("https://localhost", 1)
