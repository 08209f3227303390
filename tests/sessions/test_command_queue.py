"""What waits for the application, and what doesn't: commands of one session behind one that takes long."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from unittest.mock import patch

import pytest

from eclipse_ws.protocol import CloseCode
from eclipse_ws.server import server as server_module
from eclipse_ws.server.server import Server
from eclipse_ws.sessions import command_queue
from eclipse_ws.sessions.command_queue import CommandQueue
from eclipse_ws.sessions.session import ChatSession
from tests.client import Client, leaving_nothing, running, token, until


class Gate:
    """Holds every call to the chat API until it is opened; ``saved`` is what it was asked to save.

    ``passing``: chats whose messages it lets through.
    """

    def __init__(self, server: Server, *passing: str) -> None:
        self.saved: list[str] = []
        self.open = asyncio.Event()
        self.calls = 0
        send, user = server.api.send_message, server.api.user

        async def slow_send(chat_id: str, user_id: str, content: str, *given: Any, **named: Any) -> Any:
            self.calls += 1
            if chat_id not in passing:
                await self.open.wait()
            self.saved.append(content)
            return await send(chat_id, user_id, content, *given, **named)

        async def slow_user(*given: Any, **named: Any) -> Any:
            self.calls += 1
            await self.open.wait()
            return await user(*given, **named)

        server.api.send_message = slow_send  # type: ignore[method-assign]
        server.api.user = slow_user  # type: ignore[method-assign]


async def say(client: Client, *keys: str, content: str = "") -> None:
    """Send a message under each key."""
    for key in keys:
        await client.say(type="message", content=content or key, role="USER", clientMessageId=key)


def session_of(server: Server, user: str = "u1") -> ChatSession:
    """The user's only session."""
    (session,) = [each for each in server._sessions() if each.user_id == user]
    return session


# -- what doesn't wait --------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_typing_waits_for_no_message() -> None:
    """Behind messages that the application holds up typing reaches the others at once; acks keep the
    messages' order.
    """
    async with (
        running() as server,
        await Client.join(server.port) as one,
        await Client.join(server.port, user="u2") as two,
    ):
        gate = Gate(server)
        await say(one, "k1", "k2", "k3")
        await one.say(type="typing", isTyping=True)
        assert (await two.next("typing"))["data"]["isTyping"] is True
        await one.quiet()
        gate.open.set()
        for key in ("k1", "k2", "k3"):
            assert (await one.next("message"))["data"]["content"] == key
            assert (await one.next("ack"))["clientMessageId"] == key
        await until(lambda: session_of(server).under_way is None)
        assert server.node.under_way == 0


@pytest.mark.gen_test
async def test_a_ping_waits_for_no_agent() -> None:
    """A ping behind `agent_joined` is answered while the application looks the agent up; a message waits."""
    async with running() as server, await Client.join(server.port, user="agent_1") as agent:
        gate = Gate(server)
        await agent.say(type="agent_joined")
        await say(agent, "k1")
        await agent.quiet()
        assert gate.calls == 1
        gate.open.set()
        assert (await agent.next("agent_joined"))["data"]["agentName"] == "Ada Okafor"
        await agent.next("message")
        await agent.next("ack")


@pytest.mark.gen_test
async def test_a_refresh_waits_for_no_message() -> None:
    """A session whose message hangs takes its new token in time, and doesn't expire meanwhile."""
    async with running() as server:
        soon = int(time.time()) + 100
        async with await Client.open(server.port, f"token={token(exp=soon)}", greet=True) as client:
            gate = Gate(server)
            await say(client, "k1")
            await client.say(type="refresh", token=token(exp=soon + 1000))
            await client.next("refreshed")
            await server._sweeper.sweep(soon + 500, 0.0)
            gate.open.set()
            await client.next("message")
            await client.next("ack")


@pytest.mark.gen_test
async def test_a_ping_waits_for_no_earlier_attempt() -> None:
    """A retry waits for the first attempt, on another session; a ping behind the retry doesn't."""
    async with (
        running() as server,
        await Client.join(server.port) as one,
        await Client.join(server.port) as again,
    ):
        gate = Gate(server)
        await say(one, "k1")
        await until(lambda: gate.calls)
        await say(again, "k1")
        await again.quiet()
        gate.open.set()
        await again.next("message")
        assert (await again.next("ack"))["id"] == (await one.seek("ack"))["id"]
        assert gate.saved == ["k1"]


@pytest.mark.gen_test
async def test_a_message_keeps_the_claims_with_which_it_was_read() -> None:
    """A new token without the right, sent after a message that waits, does not change that message."""
    async with running() as server, await Client.join(server.port) as client:
        gate = Gate(server)
        shares: list[Any] = []
        send = server.api.send_message

        async def noting(*given: Any, share: Any, **named: Any) -> Any:
            shares.append(share.who)
            return await send(*given, share=share, **named)

        server.api.send_message = noting  # type: ignore[method-assign]
        await say(client, "k1", "k2")
        await client.say(type="refresh", token=token(isAuthenticated=False))
        await client.next("refreshed")
        await say(client, "k3")
        await client.quiet()
        gate.open.set()
        for _ in range(3):
            await client.seek("ack")
        assert shares == ["user:u1", "user:u1", "chat:c1"]


@pytest.mark.gen_test
async def test_typing_waits_for_no_long_message() -> None:
    """Typing does not wait for several of the longest messages either."""
    async with (
        running(max_content=60_000) as server,
        await Client.join(server.port) as one,
        await Client.join(server.port, user="u2") as two,
    ):
        gate = Gate(server)
        await say(one, "k1", "k2", "k3", content="x" * 60_000)
        await one.say(type="typing", isTyping=True)
        await two.next("typing")
        gate.open.set()
        for _ in range(3):
            await one.seek("ack")


# -- bounds -------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_a_full_queue_is_not_read_into(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that wait are bounded in number; what comes then stays unread, and all come in their order."""
    monkeypatch.setattr(command_queue, "MOST_WAITING", 3)
    async with running() as server, await Client.join(server.port) as client:
        gate = Gate(server)
        keys = [f"k{number}" for number in range(20)]
        await say(client, *keys)
        await client.say(type="ping")
        session = session_of(server)
        await until(lambda: session.wire._busy is not None)
        assert (session.commands_in, server.node.under_way) == (4, 4)
        gate.open.set()
        events = [await client.receive() for _ in range(2 * len(keys) + 1)]
        assert [each["clientMessageId"] for each in events if each["type"] == "ack"] == keys
        assert gate.saved == keys
        await until(lambda: session.under_way is None)
        assert (session.queue, session.held, server.node.under_way) == (None, 0, 0)


@pytest.mark.gen_test
async def test_what_waits_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long commands fill the queue by their bytes, which count as the node's held input; those who hold the
    most are closed.
    """
    monkeypatch.setattr(command_queue, "MOST_BYTES", 65536)
    async with (
        running(**{"server.sweeper.INPUT_BYTES": 145_000}, **{"server.sweeper.INTERVAL": 3600}) as server,
        await Client.join(server.port, user="n") as neighbour,
    ):
        gate = Gate(server)
        clients = [await Client.join(server.port, user=f"u{number}") for number in (1, 2)]
        for client in clients:
            await say(client, *(f"k{number}" for number in range(1, 9)), content="x" * 10_000)
        sessions = [session_of(server, f"u{number}") for number in (1, 2)]
        await until(lambda: all(session.wire._busy is not None for session in sessions))
        for session in sessions:
            assert command_queue.MOST_BYTES <= session.held < command_queue.MOST_BYTES + 11_000
            assert session.wire.held >= session.held
        await server._sweeper.sweep(time.time(), 0.0)
        assert server.node.limits.refused["node_input_bytes"] == 1
        (closed,) = [session for session in sessions if session.wire.is_closing]
        assert closed.held == 0
        await neighbour.quiet()
        gate.open.set()
        (other,) = [
            client for client, session in zip(clients, sessions, strict=True) if session is not closed
        ]
        while (await other.seek("ack"))["clientMessageId"] != "k8":
            pass
        for client in clients:
            await client.close()


@pytest.mark.gen_test
async def test_a_queue_has_room_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for room is told when there is some, no earlier; a wide character counts with its bytes."""
    monkeypatch.setattr(command_queue, "MOST_BYTES", 65536)
    queue = CommandQueue("c1")

    async def nothing() -> None:
        """Do nothing."""

    assert queue.put(nothing(), "k1", "c1", "\U0001f600" * 10_000) is None
    room = queue.put(nothing(), "k2", "c1", "x" * 30_000)
    assert room is not None
    assert queue.put(nothing(), "k3", "c1", "x" * 40_000) is room
    assert queue.held > 100_000
    for key in ("k1", "k2"):
        assert not room.done()  # without the first one it is still full
        waiting = queue.take()
        assert waiting.key == key
        await waiting.work
    assert room.done()
    assert queue.put(nothing(), "k4", "c1", "") is None
    while queue:
        await queue.take().work
    assert queue.held == 0


# -- several chats ------------------------------------------------------------------------------


def test_one_command_of_each_chat_is_in_progress() -> None:
    """What may begin does, the oldest first; a chat's own commands keep their order."""

    def put(queue: CommandQueue, *names: str) -> None:
        for name in names:
            if not queue.begin(name[0]):
                queue.put(None, name, name[0], "")  # type: ignore[arg-type]

    def ended(queue: CommandQueue, chat_id: str) -> str | None:
        waiting = queue.after(chat_id)
        return waiting and waiting.key

    with patch.object(command_queue, "MOST_RUNNING", 2):
        queue = CommandQueue("a")
        put(queue, "a2", "b1", "c1", "b2", "a3", "d1")
        assert len(queue) == 5
        assert ended(queue, "b") == "c1"
        assert ended(queue, "c") == "b2"
        assert ended(queue, "a") == "a2"
        assert ended(queue, "a") == "a3"
        assert ended(queue, "b") == "d1"
        assert ended(queue, "a") is None
        assert (len(queue), queue.held) == (0, 0)
        assert queue.begin("a")
        assert not queue.begin("d")


async def several(server: Server, *chats: str) -> Client:
    """A session that has joined these chats."""
    opening = token(user="u1", chatId=None, chatIds=list(chats))
    client = await Client.open(server.port, f"token={opening}", greet=True)
    await client.say(type="join", chats=[{"chatId": chat} for chat in chats])
    for _ in chats:
        await client.next("joined")
    return client


async def say_in(client: Client, *keys: str) -> None:
    """Send a message under each key, in the chat of its first letter."""
    for key in keys:
        await client.say(type="message", content=key, role="USER", clientMessageId=key, chatId=key[0])


@pytest.mark.gen_test
async def test_a_slow_chat_holds_no_other_up() -> None:
    """A message that the application holds up delays those of its own chat only."""
    async with running() as server, await several(server, "a", "b") as client:
        gate = Gate(server, "b")
        await say_in(client, "a1", "a2", "b1", "b2")
        for key in ("b1", "b2"):
            assert (await client.seek("ack"))["clientMessageId"] == key
        assert server.node.under_way == 2
        gate.open.set()
        for key in ("a1", "a2"):
            assert (await client.seek("ack"))["clientMessageId"] == key
        await until(lambda: session_of(server).under_way is None)
        assert (session_of(server).queue, server.node.under_way) == (None, 0)


@pytest.mark.gen_test
async def test_the_first_chat_ends_first() -> None:
    """The session's work goes on as long as any chat's does, and takes what comes meanwhile."""
    async with running() as server, await several(server, "a", "b", "c") as client:
        gate = Gate(server)
        await say_in(client, "a1")
        await until(lambda: gate.calls == 1)
        first, gate.open = gate.open, asyncio.Event()
        await say_in(client, "b1")
        await until(lambda: gate.calls == 2)
        first.set()
        assert (await client.seek("ack"))["clientMessageId"] == "a1"
        await say_in(client, "c1", "b2")
        await until(lambda: server.node.under_way == 3)
        session_of(server).retire()
        gate.open.set()
        assert {(await client.seek("ack"))["clientMessageId"] for _ in range(3)} == {"b1", "b2", "c1"}
        assert await client.ended() == (1012, "Server restarting")
        assert server.node.under_way == 0


@pytest.mark.gen_test
async def test_cancelled_work_ends_in_all_chats() -> None:
    """What is in progress is cancelled, and what waits is answered."""
    async with running() as server, await several(server, "a", "b") as client:
        Gate(server)
        await say_in(client, "a1", "b1", "b2")
        await until(lambda: server.node.under_way == 3)
        work = session_of(server).under_way
        assert work is not None
        work.cancel()
        error = await client.next("error")
        assert (error["code"], error["clientMessageId"], error["chatId"]) == ("session_ended", "b2", "b")
        assert await client.ended() == (4000, "Internal server error")
        await until(lambda: server.node.under_way == 0)


# -- the end ------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_a_fault_holds_nothing_up(expect_log: Any) -> None:
    """A command that raises is answered, those behind it are carried out, and the counts are right."""
    expect_log("command failed")
    async with running() as server, await Client.join(server.port) as client:
        gate = Gate(server)
        send = server.api.send_message

        async def broken(chat_id: str, user_id: str, content: str, *given: Any, **named: Any) -> Any:
            if content == "k2":
                raise RuntimeError("a bug")
            return await send(chat_id, user_id, content, *given, **named)

        server.api.send_message = broken  # type: ignore[method-assign]
        await say(client, "k1", "k2", "k3")
        await client.quiet()
        gate.open.set()
        assert (await client.seek("ack"))["clientMessageId"] == "k1"
        error = await client.next("error")
        assert (error["code"], error["clientMessageId"]) == ("internal_error", "k2")
        assert (await client.seek("ack"))["clientMessageId"] == "k3"
        await until(lambda: session_of(server).under_way is None)
        assert server.node.under_way == 0


@pytest.mark.gen_test
async def test_a_client_that_closes_behind_its_messages() -> None:
    """What was said before the close frame is saved and acknowledged before that is answered."""
    async with running() as server, leaving_nothing(server):
        client = await Client.join(server.port)
        gate = Gate(server)
        await say(client, "k1", "k2")
        await until(lambda: server.node.under_way == 2)
        closing = asyncio.create_task(client.socket.close(1001))
        await until(lambda: session_of(server).wire._busy is not None)
        gate.open.set()
        for key in ("k1", "k2"):
            await client.next("message")
            assert (await client.next("ack"))["clientMessageId"] == key
        assert await client.ended() == (1001, "")
        await closing


@pytest.mark.gen_test
async def test_a_message_that_is_too_big_behind_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was said before it is saved and acknowledged, and then the session is closed with 1009."""
    async with running() as server:
        client = await Client.join(server.port)
        gate = Gate(server)
        await say(client, "k1", "k2")
        await client.raw("x" * (server.settings.max_frame + 1))
        session = session_of(server)
        await until(lambda: session.wire._busy is not None)
        gate.open.set()
        for key in ("k1", "k2"):
            assert (await client.seek("ack"))["clientMessageId"] == key
        assert (await client.ended())[0] == 1009


@pytest.mark.gen_test
async def test_what_a_lost_client_said_is_saved() -> None:
    """All that was read of a client that is gone is saved; until then it counts as a session."""
    async with running() as server, await Client.join(server.port, user="u2") as neighbour:
        gate = Gate(server)
        client = await Client.join(server.port)
        await say(client, "k1", "k2", "k3")
        await until(lambda: server.node.under_way == 3)
        session = session_of(server)
        client.socket.transport.abort()
        await until(lambda: session.wire.is_lost)
        assert server.node.sessions == 2
        gate.open.set()
        for key in ("k1", "k2", "k3"):
            assert (await neighbour.next("message"))["data"]["content"] == key
        await until(lambda: server.node.sessions == 1)
        assert server.node.under_way == 0


@pytest.mark.gen_test
async def test_a_disconnected_session_saves_nothing_more() -> None:
    """Messages that wait when the application ends the session are not saved, and their sender is told."""
    async with running() as server:
        client = await Client.join(server.port)
        gate = Gate(server)
        await say(client, "k1", "k2", "k3")
        await until(lambda: server.node.under_way == 3)
        session_of(server).end(CloseCode.KICKED)
        for key in ("k2", "k3"):
            error = await client.next("error")
            assert (error["code"], error["retryable"], error["clientMessageId"]) == (
                "session_ended",
                True,
                key,
            )
        assert (await client.ended())[0] == 4003
        gate.open.set()
        await until(lambda: not server.node.under_way)
        assert gate.saved == ["k1"]


@pytest.mark.gen_test
async def test_who_is_closed_for_its_rate_has_its_answers() -> None:
    """Messages that were within the rate are acknowledged before 4009, and nothing more is read meanwhile."""
    given = {
        "message_rate": 0.001,
        "security.limits.BURST_SECONDS": 2000,
        "security.limits.RATE_PATIENCE": 1,
    }
    async with running(**given) as server:
        client = await Client.join(server.port)
        gate = Gate(server)
        await say(client, "k1", "k2", "k3", "k4", "k5")
        for key in ("k3", "k4"):
            assert (await client.next("error"))["clientMessageId"] == key
        gate.open.set()
        for key in ("k1", "k2"):
            assert (await client.seek("ack"))["clientMessageId"] == key
        assert await client.ended() == (4009, "Rate limit exceeded: message_rate")
        assert server.node.limits.refused["message_rate"] == 2


@pytest.mark.gen_test
async def test_a_drain_that_waited_for_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that were read have the chat API's time to begin, and the last one again as much to end; whose
    turn hasn't come is told so.
    """
    monkeypatch.setattr(server_module, "LAST_CLOSES", 0.01)
    async with running(api_timeout=0.05) as server:
        client = await Client.join(server.port)
        gate = Gate(server)
        await say(client, "k1", "k2")
        await until(lambda: server.node.under_way == 2)
        work = session_of(server).under_way
        assert work is not None
        await server.drain()
        assert server.node.under_way == 1
        await server.stop()
        error = await client.next("error")
        assert (error["code"], error["clientMessageId"]) == ("session_ended", "k2")
        assert await client.ended() == (1012, "Server restarting")
        work.cancel()
        await asyncio.wait((work,))
        assert (gate.calls, server.node.under_way) == (1, 0)


@pytest.mark.gen_test
async def test_a_drain_waits_for_what_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command whose turn comes late in a drain has the whole time of a call: what the application saves is
    delivered and acknowledged.
    """
    monkeypatch.setattr(server_module, "LAST_CLOSES", 0.0)
    async with running(api_timeout=1.0) as server:
        client = await Client.join(server.port)
        gate = Gate(server)
        await say(client, "k1", "k2", "k3")
        await until(lambda: server.node.under_way == 3)
        draining = asyncio.create_task(server.drain())
        await until(lambda: session_of(server).retiring)
        gate.open.set()
        gate.open = asyncio.Event()
        await until(lambda: gate.calls == 2)
        assert (await client.seek("ack"))["clientMessageId"] == "k1"
        assert (await client.seek("error"))["clientMessageId"] == "k3"
        await asyncio.wait((draining,), timeout=0.05)
        assert not draining.done()
        gate.open.set()
        assert (await client.seek("message"))["data"]["content"] == "k2"
        assert (await client.seek("ack"))["clientMessageId"] == "k2"
        assert await client.ended() == (1012, "Server restarting")
        await draining


@pytest.mark.gen_test
async def test_a_retired_session_waits_only_for_its_command_in_progress() -> None:
    """An application that hangs doesn't keep a session whose key was removed: it has the time of one call,
    and the command in progress its answer.
    """
    async with running() as server:
        server.node.settings = server.settings.model_copy(update={"api_timeout": 0.02})
        client = await Client.join(server.port)
        gate = Gate(server)
        await say(client, "k1", "k2", "k3")
        await until(lambda: server.node.under_way == 3)
        session_of(server).retire(CloseCode.INVALID_TOKEN)
        for key in ("k2", "k3"):
            error = await client.next("error")
            assert (error["code"], error["clientMessageId"]) == ("session_ended", key)
        gate.open.set()
        assert (await client.seek("ack"))["clientMessageId"] == "k1"
        assert await client.ended() == (4002, "Invalid token")
        assert gate.saved == ["k1"]


@pytest.mark.gen_test
async def test_a_cancelled_command_ends_its_session() -> None:
    """Who cancels a session's work leaves nothing behind: what waits is answered, the counts are right."""
    async with running() as server:
        client = await Client.join(server.port)
        Gate(server)
        await say(client, "k1", "k2")
        await until(lambda: server.node.under_way == 2)
        work = session_of(server).under_way
        assert work is not None
        work.cancel()
        assert (await client.next("error"))["code"] == "session_ended"
        assert await client.ended() == (4000, "Internal server error")
        assert (work.cancelled(), server.node.under_way) == (True, 0)
