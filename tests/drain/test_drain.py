"""Drains of whole servers under load: two nodes, clients that come back, senders that get true answers."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.drain import busiest
from benchmarks.drain_parts import Application, Client, _decode
from eclipse_ws.server.server import Server, unless
from tests.backends.harness import fresh_chat
from tests.client import Client as Session
from tests.client import http, running, token, until, with_another_node
from tests.portable import inherited
from tests.servers import RedisServer, free_port

gen_test = pytest.mark.gen_test(timeout=90)
ROOT = Path(__file__).parents[2]


class Fleet:
    """What a client must know of the nodes: which of them accept sessions, and what is saved."""

    def __init__(self, nodes: list[Server], application: type[Application]) -> None:
        self.nodes = nodes
        self.saved, self.by_key = application.saved, application.by_key
        self.over = False
        self.tasks: set[asyncio.Task[None]] = set()

    def pick(self) -> Any:
        """The first node that accepts sessions."""
        return SimpleNamespace(port=next(node for node in self.nodes if not node.node.draining).port)

    def spawn(self, work: Any) -> None:
        """Keep a task until it is done."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


@gen_test
async def test_nothing_is_lost_and_all_answers_are_true(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty members of thirty chats send while their node drains: all return, have all, acks hold."""
    monkeypatch.setattr("benchmarks.drain_parts.RECONNECT", 0.2)
    api, application = await Application.start()
    options: dict[str, Any] = {
        "backend": "redis",
        "redis_url": redis_server.url,
        "api": "http",
        "next_api_url": f"http://127.0.0.1:{api.sockets[0].getsockname()[1]}",
        "drain_seconds": 1,
    }
    async with running(**options) as one, running(**options) as other:
        fleet = Fleet([one, other], application)
        chats = [f"drain-{n // 2}" for n in range(60)]
        clients = [Client(fleet, chat, token(chat, f"u{n}")) for n, chat in enumerate(chats)]
        await asyncio.gather(*(client.connect() for client in clients))
        assert one.hub.sessions == 60
        draining = asyncio.create_task(one.drain())
        number = 0
        while not draining.done():
            for client in clients:
                number += 1
                client.say(f"k{number}")
            await asyncio.sleep(0.1)
        await draining
        assert one.node.handed_over == 30
        assert one.hub.sessions == 0
        await one.stop()
        await until(lambda: all(client.open and not client.outbox for client in clients), "every answer")

        def complete() -> bool:
            return all(set(application.saved[client.chat]) <= client.heard for client in clients)

        await until(complete, "every message at both members")
        assert {code for client in clients for _, code in client.closes} == {1012}
        assert sum(client.recovered for client in clients) == 60
        assert not any(
            client.lost or client.duplicates or client.false or client.unknown for client in clients
        )
        assert all(len(saved) == 1 for saved in application.by_key.values())
        assert len(application.by_key) == number
        fleet.over = True
    await asyncio.gather(*fleet.tasks)
    await until(lambda: all(client.gone for client in clients) and not application.connections)
    api.close()
    await api.wait_closed()


@gen_test
async def test_a_chat_that_was_joined_during_the_drain_is_handed_over(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that was joining during the hand-over can still resume on the other node."""
    options: dict[str, Any] = {"backend": "redis", "redis_url": redis_server.url}
    async with running(**options) as going, running(**options) as staying:
        neighbour = await Session.join(going.port, fresh_chat())
        gate, subscribe, chat = asyncio.Event(), going.delivery.subscribe, fresh_chat()

        async def slow(chat_id: str) -> None:
            await gate.wait()
            await subscribe(chat_id)

        monkeypatch.setattr(going.delivery, "subscribe", slow)
        late = await Session.open(going.port, f"token={token(chat)}")
        neighbour.socket.transport.pause_reading()  # its missing answer keeps the drain waiting
        draining = asyncio.create_task(going.drain())
        await until(lambda: going.node.handed_over == 1)
        gate.set()
        cursor = (await late.next("connected"))["cursor"]
        assert (await late.ended())[0] == 1012
        neighbour.socket.transport.resume_reading()
        await draining
        assert going.node.handed_over == 2
        await going.stop()
        async with await Session.join(staying.port, chat, cursor=cursor) as back:
            assert (back.connected["recovered"], back.connected["cursor"]) == (True, cursor)


@gen_test
async def test_sessions_are_closed_one_after_the_other() -> None:
    """While half of the sessions are closed, the others go on; metrics and health show the progress."""
    async with running(drain_seconds=2) as server:
        with_another_node(server)
        clients = [await Session.join(server.port, f"c{number}", "u") for number in range(10)]
        draining = asyncio.create_task(server.drain())
        await clients[0].ended()
        health = await http(server.port, "/health")
        assert (health.status, health.json["status"]) == (503, "draining")
        page = (await http(server.port, "/metrics")).body.decode()
        assert "eclipse_draining 1.0" in page
        assert "eclipse_drain_sessions 10.0" in page
        await clients[-1].quiet()
        assert not draining.done()
        for client in clients[1:]:
            assert (await client.ended())[0] == 1012
        await draining
        for client in clients:
            await client.close()


@gen_test
async def test_closing_is_paced_after_a_stall() -> None:
    """A loop that was blocked doesn't close all sessions at once afterwards."""
    async with running(drain_seconds=20) as server:
        told: list[float] = []
        clock = asyncio.get_running_loop().time
        sessions: Any = [SimpleNamespace(retire=lambda: told.append(clock())) for _ in range(2000)]
        sending = asyncio.create_task(server._close_evenly(sessions))
        await until(lambda: told)
        began = clock()
        while clock() - began < 1:  # a stall: nothing else has a turn
            pass
        before = len(told)
        await until(lambda: len(told) > before)
        assert len(told) - before <= 0.02 * len(sessions)
        sending.cancel()


@gen_test
async def test_a_failed_hand_over_does_not_stop_a_drain(
    monkeypatch: pytest.MonkeyPatch, expect_log: Callable[..., None]
) -> None:
    """Whatever a backend does, the sessions are closed."""
    expect_log("handover failed")
    async with running() as server:

        async def fail() -> int:
            raise RuntimeError("of the test")

        monkeypatch.setattr(server.delivery, "hand_over", fail)
        client = await Session.join(server.port)
        await server.drain()
        assert (await client.ended())[0] == 1012


@gen_test
async def test_work_that_an_event_ends() -> None:
    """Work is done unless the event comes first; what it raises is raised."""
    event, done = asyncio.Event(), []

    async def work() -> None:
        await asyncio.sleep(0)
        done.append(1)

    async def fail() -> None:
        raise ValueError("of the test")

    assert await unless(event, work())
    with pytest.raises(ValueError, match="of the test"):
        await unless(event, fail())
    event.set()

    async def hang() -> None:
        await asyncio.Event().wait()

    assert not await unless(event, hang())
    assert done == [1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_start_waits_for_redis(number: signal.Signals, tmp_path: Path) -> None:
    """A signal during a start that waits for a silent Redis ends it, without a traceback."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        environ = {
            "PATH": "/usr/bin:/bin",
            **inherited(),
            "PORT": str(free_port()),
            "REDIS_URL": f"redis://127.0.0.1:{silent.getsockname()[1]}",
            "ECLIPSE_REDIS_TIMEOUT": "60",
        }
        command = [sys.executable, "-m", "eclipse_ws", "run", "--profile", "dev"]
        process = subprocess.Popen(command, env=environ, cwd=tmp_path, stderr=subprocess.PIPE)
        accepted, _ = silent.accept()  # it has come this far
        process.send_signal(number)
        _, log = process.communicate(timeout=20)
        accepted.close()
    assert process.returncode == 0, log.decode()
    assert b"Traceback" not in log


@gen_test
async def test_only_a_message_that_is_heard_twice_is_a_duplicate() -> None:
    """One that is loaded with the chat may come as well: it is saved a moment before it is published."""
    client = Client(SimpleNamespace(saved={"chat": ["m1", "m2"]}), "chat", "token")
    client._refused = asyncio.get_running_loop().create_future()

    def hear(**event: Any) -> int:
        client._hear(_decode(json.dumps(event).encode()))
        return client.duplicates

    hear(type="connected", recovered=False)
    assert hear(type="message", data={"id": "m2"}) == 0
    assert hear(type="message", data={"id": "m3"}) == 0
    assert hear(type="message", data={"id": "m2"}) == 1
    assert client.heard | client.loaded == {"m1", "m2", "m3"}


def test_the_busiest_second() -> None:
    """The share is measured over a sliding second, not the clock's."""
    assert busiest([]) == 0
    assert busiest([0.9, 1.1, 5, 6, 7]) == 0.4
    assert busiest([float(number) for number in range(10)]) == 0.1
