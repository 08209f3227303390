"""The supervisor: restarts, stuck workers, drains, its own end, and starts that can't succeed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from tests.client import Client, http, token
from tests.server.workers.machine import Machine
from tests.server.workers.test_workers import close_code
from tests.servers import RedisServer

pytestmark = pytest.mark.slow
FRESH = "the-fresh-secret-of-these-tests-is-long-too"


def is_alive(pid: int) -> bool:
    """Whether the process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# -- one worker -------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_a_killed_worker_is_replaced(redis_server: RedisServer, tmp_path: Path) -> None:
    """Its sessions resume, the others' continue, and nobody who connects meanwhile is refused."""
    async with Machine(tmp_path, redis_server.url, "--workers", "2") as machine:
        clients = await machine.pair()
        cursor = clients[1].connected["cursor"]
        pid = machine.kill(1)
        for number in range(20):
            await machine.join("other", f"meanwhile-{number}")
        assert await close_code(clients[1]) == 1006
        await clients[2].say(type="message", content="alone", role="USER")
        await clients[2].next("message")
        back = await machine.join("c1", "back", cursor=cursor)
        assert back.connected["recovered"] is True
        assert (await back.next("message"))["data"]["content"] == "alone"
        await machine.restarted(1, pid)
        (line,) = machine.lines("worker ended")
        assert (line["worker"], line["why"], line["restart_in"]) == (1, "SIGKILL", 0)
        for number in range(8):
            await machine.join("other", f"later-{number}")
        await machine.until(lambda: len(machine.placed("later")) == 8, "all are logged")
        assert machine.spread("later")[1] >= 5, "the empty worker gets them, unless the machine is slow"


@pytest.mark.gen_test
async def test_a_stuck_worker_is_replaced(redis_server: RedisServer, tmp_path: Path) -> None:
    """It is killed after a while; until then it keeps nobody from connecting, and health answers."""
    async with Machine(tmp_path, redis_server.url, "--workers", "2") as machine:
        pid = machine.kill(1, signal.SIGSTOP)
        began = time.monotonic()
        for number in range(30):
            client = await asyncio.wait_for(machine.join("c1", f"u{number}"), 2)
            await client.close()
        assert (await machine.health())["status"] == "healthy"
        assert (await machine.metrics())["eclipse_workers"] == 2
        assert time.monotonic() - began < 3, "all of this has to be done before it is killed"
        assert set(machine.placed("u").values()) == {2}
        await machine.restarted(1, pid)
        assert not is_alive(pid)
        (line,) = machine.lines("worker is stuck")
        assert line["worker"] == 1
        assert (await machine.metrics())["eclipse_worker_ends_total{hung}"] == 1


@pytest.mark.gen_test
async def test_one_worker_drains_alone(redis_server: RedisServer, tmp_path: Path) -> None:
    """On SIGTERM it hands its chats over to the others and accepts nothing more, and is replaced."""
    drain = {"ECLIPSE_DRAIN_SECONDS": "2"}
    async with Machine(tmp_path, redis_server.url, "--workers", "2", **drain) as machine:
        clients = await machine.pair()
        for number in range(20):
            await machine.join(f"d{number}", f"more-{number}")
        pid = machine.kill(1, signal.SIGTERM)
        await machine.until(lambda: machine.lines("drain started"), "it drains")
        for number in range(20):
            await machine.join("c1", f"meanwhile-{number}")
        assert (await machine.health())["status"] == "healthy"
        assert await close_code(clients[1]) == 1012
        await machine.restarted(1, pid)
        assert len(machine.lines("drain started")) == 1
        assert machine.lines("worker ended")[0]["why"] == "exit code 0"
        assert not machine.lines("upgrade refused")
        await clients[2].quiet()


# -- all of them --------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_drain_under_load(redis_server: RedisServer, tmp_path: Path) -> None:
    """All sessions get 1012, everything that was acknowledged was saved, and the exit code is 0."""
    async with Machine(tmp_path, redis_server.url, "--workers", "2") as machine:
        clients = [await machine.join(f"c{number}", f"u{number}") for number in range(20)]
        acked = [0] * len(clients)

        async def chat(number: int) -> int | None:
            client = clients[number]
            try:
                while True:
                    await client.say(
                        type="message", content="x", role="USER", clientMessageId=os.urandom(8).hex()
                    )
                    await client.seek("ack")
                    acked[number] += 1
            except ConnectionClosed:
                return client.socket.close_code

        chatting = asyncio.gather(*(chat(number) for number in range(len(clients))))
        await asyncio.sleep(1)
        machine.process.send_signal(signal.SIGTERM)
        assert set(await chatting) == {1012}
        assert await machine.ended() == 0
        assert len(machine.lines("server stopped")) == 2
        assert not any(map(is_alive, machine.pids().values()))
        assert min(acked) > 0
        assert not [line for line in machine.lines() if line["level"] in ("warning", "error")]


@pytest.mark.gen_test
async def test_drain_of_all_workers_without_another_node(redis_server: RedisServer, tmp_path: Path) -> None:
    """They don't hand their chats to each other: all sessions are closed at once, as by one server."""
    async with Machine(tmp_path, redis_server.url, "--workers", "2", ECLIPSE_DRAIN_SECONDS="30") as machine:
        clients = await machine.pair()
        machine.process.send_signal(signal.SIGINT)
        assert [await close_code(client) for client in clients.values()] == [1012, 1012]
        assert await machine.ended() == 0
        assert len(machine.lines("no other node takes the chats over")) == 2
        left = [line["timestamp"] for line in machine.lines("no more chats are taken over")]
        assert len(left) == 2
        assert max(left) <= min(line["timestamp"] for line in machine.lines("drain started"))


@pytest.mark.gen_test
async def test_a_second_signal_stops_at_once(redis_server: RedisServer, tmp_path: Path) -> None:
    """Beside another machine a drain takes its time; SIGTERM to every process, as service managers send, is
    one signal, and another one to the supervisor ends it.
    """
    (tmp_path / "other").mkdir()
    other = Machine(tmp_path / "other", redis_server.url)
    drain = {"ECLIPSE_DRAIN_SECONDS": "60"}
    async with other, Machine(tmp_path, redis_server.url, "--workers", "2", **drain) as machine:
        clients = [await machine.join(f"c{number}", f"u{number}") for number in range(20)]
        for pid in (machine.process.pid, *machine.pids().values()):
            os.kill(pid, signal.SIGTERM)
        await machine.until(lambda: len(machine.lines("chats handed over")) == 2, "both hand over")
        assert machine.process.poll() is None
        assert (await http(machine.port, "/health")).status == 503
        began = time.monotonic()
        machine.process.send_signal(signal.SIGTERM)
        assert {await close_code(client) for client in clients} == {1012}
        assert await machine.ended() == 0
        assert time.monotonic() - began < 20


@pytest.mark.gen_test
async def test_a_worker_that_does_not_drain(redis_server: RedisServer, tmp_path: Path) -> None:
    """A worker that is stuck in a drain is killed, and the exit code says that not all went well."""
    async with Machine(tmp_path, redis_server.url, "--workers", "2") as machine:
        machine.kill(2, signal.SIGSTOP)
        machine.process.send_signal(signal.SIGTERM)
        assert await machine.ended() == 1
        assert machine.lines("worker did not drain", worker=2)


@pytest.mark.gen_test
async def test_the_supervisor_is_killed(redis_server: RedisServer, tmp_path: Path) -> None:
    """Its workers drain, and the port is free for its successor before they have ended."""
    for name in ("other", "next"):
        (tmp_path / name).mkdir()
    other = Machine(tmp_path / "other", redis_server.url)
    drain = {"ECLIPSE_DRAIN_SECONDS": "6"}
    async with other, Machine(tmp_path, redis_server.url, "--workers", "2", **drain) as machine:
        clients = [await machine.join(f"c{number}", f"u{number}") for number in range(20)]
        machine.process.kill()
        await machine.until(lambda: len(machine.lines("chats handed over")) == 2, "both workers notice")
        port = str(machine.port)
        successor = Machine(tmp_path / "next", redis_server.url, "--workers", "2", PORT=port)
        successor.port = machine.port
        async with successor:
            assert any(map(is_alive, machine.pids().values()))
            await successor.join("c1", "again")
            assert {await close_code(client) for client in clients} == {1012}
            await machine.until(lambda: not any(map(is_alive, machine.pids().values())), "they end")
        assert len(machine.lines("server stopped")) == 2


@pytest.mark.gen_test
async def test_reload(redis_server: RedisServer, tmp_path: Path) -> None:
    """SIGHUP reaches all workers, and one that is started later has the new settings, too."""
    (tmp_path / ".env").write_text("ECLIPSE_MAX_CONTENT=1000\n")
    async with Machine(tmp_path, redis_server.url, "--workers", "2") as machine:
        # The environment overrides the file: what changes has to be only in the file.
        (tmp_path / ".env").write_text(f"ECLIPSE_MAX_CONTENT=1\nECLIPSE_JWT_PREVIOUS_SECRETS={FRESH}\n")
        machine.process.send_signal(signal.SIGHUP)
        await machine.until(lambda: len(machine.lines("settings reloaded")) == 2, "both reload")
        for line in machine.lines("settings reloaded"):
            assert line["changed"] == ["ECLIPSE_JWT_PREVIOUS_SECRETS"]
            assert line["needs_restart"] == ["ECLIPSE_MAX_CONTENT"]
        await machine.restarted(1, machine.kill(1))
        users = [f"fresh-{number}" for number in range(10)]
        for user in users:
            made = token("c9", user, secret=FRESH)
            machine.clients.append(await Client.open(machine.port, f"token={made}", greet=True))
        await machine.until(lambda: len(machine.placed("fresh")) == len(users), "all are logged")
        assert set(machine.placed("fresh").values()) == {1, 2}
        (tmp_path / ".env").write_text("ECLIPSE_MAX_CONTENT=none\n")
        machine.process.send_signal(signal.SIGHUP)
        await machine.until(lambda: machine.lines("settings reload failed"), "it is refused")
        assert len(machine.lines("settings reloaded")) == 2


# -- starts that fail -----------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_workers_that_fail_at_every_start(redis_server: RedisServer, tmp_path: Path) -> None:
    """After some attempts, with growing waits, the supervisor ends with a sentence and an exit code."""
    broken = {"process.WORKER": "tests.server.workers.broken", "restarts.FIRST_WAIT": 0.05}
    async with asyncio.timeout(60):
        machine = await Machine(tmp_path, redis_server.url, "--workers", "2", constants=broken).launch()
        assert await machine.ended() == 1
    ends = machine.lines("worker ended")
    assert len(ends) >= 5
    assert {line["why"] for line in ends} == {"exit code 3"}
    waits = [line["restart_in"] for line in ends if line["worker"] == 1]
    assert waits[0] == 0
    assert waits == sorted(waits)
    assert "fail again and again at their start" in machine.log.read_text()
    assert not any(map(is_alive, machine.pids().values()))


@pytest.mark.gen_test
async def test_workers_that_are_stuck_at_every_start(redis_server: RedisServer, tmp_path: Path) -> None:
    """They have longer for their first sign of life, and are killed after that."""
    deaf = {
        "process.WORKER": "tests.server.workers.deaf",
        "process.STARTING": 1.5,
        "supervisor.PATIENCE": 0.2,
        "restarts.FIRST_WAIT": 0.05,
    }
    async with asyncio.timeout(60):
        machine = await Machine(tmp_path, redis_server.url, "--workers", "2", constants=deaf).launch()
        assert await machine.ended() == 1
    ends = machine.lines("worker ended")
    assert {line["why"] for line in ends} == {"it was stuck"}
    assert min(line["seconds"] for line in ends) >= 1.5


@pytest.mark.gen_test
async def test_a_start_that_can_not_succeed(redis_server: RedisServer, tmp_path: Path) -> None:
    """What no attempt can change is said once, and the exit code is that of one server."""
    wrong = redis_server.url.replace("redis://", "redis://user:wrong-password@")
    async with asyncio.timeout(60):
        machine = await Machine(tmp_path, wrong, "--workers", "2").launch()
        assert await machine.ended() == 1
    said = [line for line in machine.log.read_text().splitlines() if not line.startswith("{")]
    assert len(said) == 1, said
    assert "REDIS_URL" in said[0]
    assert "again and again" not in said[0]


@pytest.mark.gen_test
async def test_a_port_in_use(redis_server: RedisServer, tmp_path: Path) -> None:
    """The supervisor says so before it starts a worker."""
    async with Machine(tmp_path, redis_server.url, "--workers", "2") as machine:
        (tmp_path / "second").mkdir()
        second = Machine(tmp_path / "second", redis_server.url, "--workers", "2", PORT=str(machine.port))
        await second.launch()
        assert await second.ended() == 2
        assert "is in use" in second.log.read_text()
        assert not second.pids()


@pytest.mark.gen_test
@pytest.mark.parametrize("profile", ["test", "dev"])
async def test_the_memory_backend_is_refused(profile: str, tmp_path: Path) -> None:
    """Several workers need a backend that connects them; one worker, and auto, don't."""
    machine = await Machine(tmp_path, "", "--workers", "2", "--profile", profile).launch()
    assert await machine.ended() == 2
    assert "ECLIPSE_WORKERS is 2, and the memory backend can't connect" in machine.log.read_text()
    assert "REDIS_URL" in machine.log.read_text()
    machine = await Machine(
        tmp_path, "redis://127.0.0.1:1", "--workers", "2", ECLIPSE_API="embedded"
    ).launch()
    assert await machine.ended() == 2
    assert "ECLIPSE_WORKERS is 2, and the embedded store is for one process" in machine.log.read_text()
    for workers in ("1", "auto"):
        async with Machine(tmp_path, "", "--workers", workers) as machine:
            assert not machine.pids()
            assert not machine.lines("supervisor started")
