"""Starting, draining and stopping a server."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from eclipse_ws.backends.base import BackendError
from eclipse_ws.server import ports
from eclipse_ws.server import server as server_module
from eclipse_ws.server.ports import StartError
from eclipse_ws.server.server import Server, serve
from tests.client import (
    QUICK,
    UPGRADE,
    Client,
    http,
    leaving_nothing,
    running,
    token,
    until,
    with_another_node,
)
from tests.conftest import make_settings
from tests.servers import free_port

GONE = (1012, "Server restarting")


def is_free(port: int) -> bool:
    """Whether the port is free."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def is_subset(before: set[asyncio.Task[object]]) -> bool:
    """Whether no task runs now that did not run before."""
    return asyncio.all_tasks() <= before


# -- starting -----------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_port_in_use() -> None:
    """A port in use ends the start with an error that has a fix."""
    async with running() as first:
        with pytest.raises(StartError) as caught:
            await Server(make_settings(port=first.port)).start()
        assert f"127.0.0.1:{first.port} is in use" in str(caught.value)
        assert "--port" in str(caught.value)
        async with await Client.join(first.port) as client:
            await client.quiet()


@pytest.mark.gen_test
@pytest.mark.parametrize("host", ["203.0.113.1", "a..b", "x" * 64])
async def test_invalid_host(host: str) -> None:
    """An address of another machine, or an invalid one, is an error without a traceback."""
    with pytest.raises(StartError, match="--host"):
        await Server(make_settings(host=host)).start()


@pytest.mark.gen_test
async def test_privileged_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """A privileged port is reported as such."""

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(ports, "bind_sockets", denied)
    with pytest.raises(StartError, match="from 1024 on"):
        await Server(make_settings()).start()


@pytest.mark.gen_test
async def test_chat_api_that_fails_to_start(tmp_path: Path) -> None:
    """A database that can't be opened ends the start with a sentence, and the port is free again."""
    port = free_port()
    with pytest.raises(StartError, match="ECLIPSE_EMBEDDED_DB"):
        await Server(make_settings(port=port, embedded_db=str(tmp_path / "nowhere" / "db"))).start()
    assert is_free(port)


@pytest.mark.gen_test
async def test_backend_that_fails_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that can never work ends the start with its own message, and the port is free again."""
    port = free_port()
    server = Server(make_settings(port=port))

    async def broken(*_: object, **__: object) -> None:
        raise BackendError("wrong password. Fix: set REDIS_URL")

    monkeypatch.setattr(server.backend, "start", broken)
    with pytest.raises(BackendError, match="wrong password"):
        await server.start()
    assert is_free(port)


@pytest.mark.gen_test
async def test_start_and_stop_leave_nothing() -> None:
    """A server that was started and stopped leaves no task and no port, however often."""
    for _ in range(3):
        before = asyncio.all_tasks()
        async with running() as server:
            async with await Client.join(server.port) as client:
                await client.quiet()
            port = server.port
        await server.stop()
        assert is_free(port)
        await until(partial(is_subset, before))


@pytest.mark.gen_test
async def test_two_servers_on_one_chat_api() -> None:
    """Two servers in one process share nothing but the chat API that one of them embeds."""
    async with (
        running() as one,
        running(api="http", next_api_url=f"http://127.0.0.1:{one.port}") as two,
        await Client.join(one.port) as here,
        await Client.join(two.port, user="u2") as there,
    ):
        await there.say(type="message", content="from two", role="USER", clientMessageId="k")
        await there.next("message")
        saved = (await there.next("ack"))["id"]
        await here.say(type="message", content="from one", role="USER")
        await here.next("message")
        await there.quiet()
        history = (await http(one.port, "/api/chats/c1/messages")).json["messages"]
        assert [each["content"] for each in history] == ["from two", "from one"]
        assert history[0]["id"] == saved
        assert (one.hub.sessions, two.hub.sessions) == (1, 1)
        await two.drain()
        assert await there.ended() == GONE
        await here.quiet()
        assert (await http(one.port, "/health")).json["status"] == "healthy"


# -- draining -----------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_drain_closes_all_sessions() -> None:
    """Every session is ended with 1012, and nothing is left."""
    async with running() as server, leaving_nothing(server):
        clients = [await Client.join(server.port, f"c{number % 3}") for number in range(10)]
        await server.drain()
        for client in clients:
            assert await client.ended() == GONE
        assert server.hub.sessions == 0
        await server.drain()


@pytest.mark.gen_test
async def test_drain_refuses_upgrades_and_reports_it() -> None:
    """While draining, an upgrade is 503 with Retry-After, and health is 503 draining."""
    async with running() as server:
        await server.drain()
        for path in ("/", "/ws"):
            answer = await http(server.port, f"{path}?token={token()}", headers=UPGRADE)
            assert answer.status == 503
            assert int(answer.headers["retry-after"]) > 0
            assert answer.json["limit"] == "draining"
        for path in ("/", "/health"):
            answer = await http(server.port, path)
            assert (answer.status, answer.json["status"]) == (503, "draining")


@pytest.mark.gen_test
async def test_drain_is_spread() -> None:
    """Sessions are closed evenly over the drain, so that they don't reconnect all at once."""
    async with running(drain_seconds=0.6) as server:
        with_another_node(server)
        clients = [await Client.join(server.port) for _ in range(4)]
        draining = asyncio.create_task(server.drain())
        first = {asyncio.create_task(client.ended()): client for client in clients}
        done, waiting = await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) < 4
        assert not draining.done()
        assert {task.result() for task in done} == {GONE}
        assert {await task for task in waiting} == {GONE}
        await draining


@pytest.mark.gen_test
async def test_sessions_chat_until_their_turn() -> None:
    """Until its turn comes, a session's commands are carried out as usual."""
    async with running(drain_seconds=30) as server:
        with_another_node(server)
        clients = [await Client.join(server.port, user=f"u{number}") for number in range(3)]
        draining = asyncio.create_task(server.drain())
        ends = [asyncio.create_task(client.socket.wait_closed()) for client in clients]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        left = [client for client, end in zip(clients, ends, strict=True) if not end.done()]
        assert len(left) == 2
        await left[0].say(type="message", content="still here", role="USER", clientMessageId="k")
        await left[0].next("message")
        await left[0].next("ack")
        await left[1].next("message")
        draining.cancel()
        await asyncio.wait([draining])


@pytest.mark.gen_test
async def test_drain_completes_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read is saved, told and acknowledged in its order before its session is sent away; what comes
    then is not read any more.
    """
    async with running() as server:
        gate, send = asyncio.Event(), server.api.send_message

        async def slow(*given: Any, **named: Any) -> Any:
            await gate.wait()
            return await send(*given, **named)

        monkeypatch.setattr(server.api, "send_message", slow)
        client, idle = await Client.join(server.port), await Client.join(server.port, user="u2")
        await client.say(type="message", content="one", role="USER", clientMessageId="k1")
        await client.say(type="message", content="two", role="USER", clientMessageId="k2")
        await until(lambda: server.node.under_way == 2)
        draining = asyncio.create_task(server.drain())
        assert await idle.ended() == GONE
        assert not draining.done()
        await client.say(type="message", content="late", role="USER", clientMessageId="k3")
        await client.say(type="ping")
        (session,) = server._sessions()
        await until(lambda: session.wire._busy is not None)
        gate.set()
        for text, key in (("one", "k1"), ("two", "k2")):
            assert (await client.next("message"))["data"]["content"] == text
            assert (await client.next("ack"))["clientMessageId"] == key
        assert await client.ended() == GONE
        await draining
        assert server.node.commands.handled["message"] == 2


@pytest.mark.gen_test
async def test_drain_waits_for_commands_at_most_api_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A command that never ends delays a drain for api_timeout at most."""
    monkeypatch.setattr(server_module, "LAST_CLOSES", 0.05)
    async with running(api_timeout=0.1) as server:

        async def stuck(*_: object, **__: object) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(server.api, "send_message", stuck)
        client = await Client.join(server.port)
        await client.say(type="message", content="x", role="USER")
        await until(lambda: server.node.under_way)
        await asyncio.wait_for(server.drain(), 10)
        assert server.node.under_way == 1
        await server.stop()
        assert await client.ended() == GONE
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            if "_carry_out" in repr(task):
                task.cancel()


@pytest.mark.gen_test
async def test_drain_waits_only_briefly_for_close_frames(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client without a close frame delays a drain for a moment, not for api_timeout."""
    monkeypatch.setattr(server_module, "LAST_CLOSES", 0.05)
    async with running(**{"server.server.CLOSE_TIMEOUT": 60}, api_timeout=60) as server:
        deaf = await Client.join(server.port)
        deaf.socket.transport.pause_reading()
        await asyncio.wait_for(server.drain(), 10)
        assert server.node.sessions == 1
        await server.stop()
        deaf.socket.transport.abort()


@pytest.mark.gen_test
async def test_a_joining_session_is_closed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that was accepted just before the drain, and greeted during it, is closed like all others."""
    async with running() as server:
        gate, subscribe = asyncio.Event(), server.delivery.subscribe

        async def slow(chat_id: str) -> None:
            await gate.wait()
            await subscribe(chat_id)

        neighbour = await Client.join(server.port, "c2")
        monkeypatch.setattr(server.delivery, "subscribe", slow)
        late = await Client.open(server.port, f"token={token()}")
        neighbour.socket.transport.pause_reading()  # its missing answer keeps the drain waiting
        draining = asyncio.create_task(server.drain())
        await until(lambda: server.node.draining)
        gate.set()
        await late.next("connected")
        assert await late.ended() == GONE
        neighbour.socket.transport.resume_reading()
        assert await neighbour.ended() == GONE
        await draining


@pytest.mark.gen_test
async def test_stop_without_a_drain() -> None:
    """A stop closes every session with 1012, and aborts those that do not respond."""
    async with running(**{"server.server.CLOSE_TIMEOUT": 60}) as server:
        client, deaf = await Client.join(server.port), await Client.join(server.port, user="u2")
        deaf.socket.transport.pause_reading()
        await server.stop()
        assert await client.ended() == GONE
        assert server.hub.sessions == 0
        deaf.socket.transport.resume_reading()
        with pytest.raises((ConnectionClosed, AssertionError)):
            await deaf.receive()
        await server.stop()


# -- serving ------------------------------------------------------------------------------------


@pytest.mark.gen_test
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_serve_until_a_signal(number: signal.Signals) -> None:
    """A signal drains and ends; sessions hear 1012."""
    started: asyncio.Future[Server] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(make_settings(**QUICK), started=started.set_result))
    server = await started
    client = await Client.join(server.port)
    os.kill(os.getpid(), number)
    assert await client.ended() == GONE
    await serving
    assert is_free(server.port)


@pytest.mark.gen_test
async def test_a_second_signal_ends_the_drain() -> None:
    """A second signal cuts the drain short; sessions still hear 1012."""
    started: asyncio.Future[Server] = asyncio.get_running_loop().create_future()
    settings = make_settings(**QUICK, drain_seconds=3600)
    serving = asyncio.create_task(serve(settings, started=started.set_result))
    server = await started
    with_another_node(server)
    clients = [await Client.join(server.port) for _ in range(3)]
    os.kill(os.getpid(), signal.SIGTERM)
    await until(lambda: server.node.draining)
    os.kill(os.getpid(), signal.SIGTERM)
    for client in clients:
        assert await client.ended() == GONE
    await serving


@pytest.mark.gen_test
async def test_serve_logs_its_notes(expect_log: Any) -> None:
    """Generated settings are logged; a start that fails leaves nothing running."""
    expect_log("JWT_SECRET was generated")
    async with running() as first:
        with pytest.raises(StartError):
            await serve(make_settings(port=first.port), notes=["JWT_SECRET was generated"])
