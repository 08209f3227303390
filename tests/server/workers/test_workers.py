"""Several workers on one port: who gets a connection, chats across workers, what the machine reports."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest
import trustme
from websockets.exceptions import ConnectionClosed

from eclipse_ws.server.turnstile import AHEAD
from tests.client import Client, http, token
from tests.server.workers.machine import INTERNAL, Machine
from tests.servers import RedisServer, free_port

pytestmark = pytest.mark.slow
SECRET = {"X-Internal-Secret": INTERNAL}


async def close_code(client: Client) -> int | None:
    """Read until the session is closed; its code."""
    try:
        async with asyncio.timeout(20):
            while True:
                await client.socket.recv()
    except ConnectionClosed:
        return client.socket.close_code


@pytest.mark.gen_test
async def test_chats_across_workers(redis_server: RedisServer, tmp_path: Path) -> None:
    """A message reaches a session on another worker once, and the application disconnects both."""
    async with Machine(tmp_path, redis_server.url, "--workers", "2") as machine:
        clients = await machine.pair()
        await clients[1].say(type="message", content="from one", role="USER", clientMessageId="k1")
        assert (await clients[2].next("message"))["data"]["content"] == "from one"
        assert {(await clients[1].receive())["type"] for _ in range(2)} == {"ack", "message"}
        await clients[2].say(type="typing", isTyping=True)
        await clients[1].next("typing")
        await clients[2].quiet()
        event = {"type": "message", "data": {"id": "m", "content": "over HTTP"}}
        assert (await http(machine.port, "/api/chats/c1/events", "POST", event, headers=SECRET)).status == 202
        for client in clients.values():
            assert (await client.next("message"))["data"]["content"] == "over HTTP"
        answer = await http(machine.port, "/api/chats/c1/disconnect", "POST", {}, headers=SECRET)
        assert answer.json == {"disconnected": 2}
        assert [await close_code(client) for client in clients.values()] == [4003, 4003]


@pytest.mark.gen_test
async def test_connections_are_spread_evenly(redis_server: RedisServer, tmp_path: Path) -> None:
    """Sessions that come one by one, and at once, are on the worker with the fewest; so are later ones."""
    async with Machine(tmp_path, redis_server.url, "--workers", "3") as machine:
        clients = [await machine.join(f"c{number}", f"single-{number}") for number in range(30)]
        await machine.until(lambda: len(machine.placed("single")) == 30, "all are logged")
        spread = machine.spread("single")
        assert len(spread) == 3
        assert max(spread.values()) - min(spread.values()) <= 2 * AHEAD, spread
        for client in clients[::2]:
            await client.close()
        await asyncio.gather(*(machine.join(f"d{n}", f"crowd-{n}") for n in range(120)))
        await machine.until(lambda: len(machine.placed("crowd")) == 120, "all are logged")
        spread = machine.spread("crowd") + machine.spread("single")
        assert min(spread.values()) >= sum(spread.values()) / 6, spread


@pytest.mark.gen_test
async def test_the_machine_reports_the_sum(redis_server: RedisServer, tmp_path: Path) -> None:
    """Health and metrics are those of all workers, whichever answers and however often one asks."""
    async with Machine(tmp_path, redis_server.url, "--workers", "2", ECLIPSE_MAX_SESSIONS="101") as machine:
        clients = [await machine.join(f"c{number}", f"u{number}") for number in range(10)]
        for client in clients:
            await client.say(type="message", content="hello", role="USER", clientMessageId="k")
            await client.seek("ack")
        await machine.until(lambda: len(machine.spread("u")) == 2, "both workers have sessions")
        for _ in range(10):
            health, found = await machine.health(), await machine.metrics()
            assert health["connections"]["total"] == 10
            assert health["connections"]["chats"] == 10
            assert len(health["connections"]["byChat"]) == 10
            assert health["status"] == "healthy"
            assert found["eclipse_sessions"] == found["eclipse_sessions_started_total"] == 10
            assert found["eclipse_commands_total{message}"] == 10
            assert found["eclipse_api_calls_total{ok}"] >= 10
            assert found["eclipse_event_to_socket_seconds_count"] == found["eclipse_events_total"] == 10
            assert found["eclipse_event_to_socket_seconds_bucket{+Inf}"] == 10
            assert found["eclipse_sessions_limit"] == 101
            assert found["eclipse_workers"] == 2
            assert found["eclipse_backend_up"] == 1
        page = await http(machine.port, "/metrics")
        assert page.body.count(b"# TYPE eclipse_sessions gauge") == 1
        assert (await http(machine.port, "/", "HEAD")).status == 200


@pytest.mark.gen_test
async def test_counters_never_fall(redis_server: RedisServer, tmp_path: Path) -> None:
    """What a killed worker had counted stays in the sum, and a drained one's is complete."""
    async with Machine(tmp_path, redis_server.url, "--workers", "2") as machine:
        for number in range(10):
            await machine.join(f"c{number}", f"u{number}")
        before = await machine.metrics()
        await machine.restarted(1, machine.kill(1))
        after = await machine.metrics()
        assert after["eclipse_sessions_started_total"] == before["eclipse_sessions_started_total"] == 10
        fallen = {
            name: (value, after.get(name))
            for name, value in before.items()
            if ("_total" in name or "_bucket" in name or "_count" in name) and after.get(name, 0) < value
        }
        assert not fallen
        assert after["eclipse_sessions"] < 10
        assert after["eclipse_worker_ends_total{exited}"] == 1


@pytest.mark.gen_test
async def test_lines_of_the_log(redis_server: RedisServer, tmp_path: Path) -> None:
    """Each worker's lines say which one it is, and the greeting is printed once."""
    async with Machine(tmp_path, redis_server.url, "--workers", "2") as machine:
        assert machine.output.read_text().count("listens at") == 1
        assert "2 workers" in machine.output.read_text()
        assert sorted(line["worker"] for line in machine.lines("server started")) == [1, 2]
        assert all("worker" not in line for line in machine.lines("supervisor started"))
        assert len(machine.pids()) == 2


@pytest.mark.gen_test
async def test_tls_and_other_ports(redis_server: RedisServer, tmp_path: Path) -> None:
    """TLS works on whichever worker, and so do the other ports."""
    authority = trustme.CA()
    made = authority.issue_cert("127.0.0.1")
    made.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    made.private_key_pem.write_to_path(tmp_path / "key.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    settings = {
        "ECLIPSE_TLS_CERT": str(tmp_path / "cert.pem"),
        "ECLIPSE_TLS_KEY": str(tmp_path / "key.pem"),
        "ECLIPSE_METRICS_PORT": str(free_port()),
        "ECLIPSE_EVENT_LOOP": "asyncio",
    }
    async with Machine(tmp_path, redis_server.url, "--workers", "2", **settings) as machine:
        for number in range(12):
            uri = f"wss://127.0.0.1:{machine.port}/ws?token={token('c1', f'tls-{number}')}"
            machine.clients.append(Client(await _connect(uri, context)))
            await machine.clients[-1].next("connected")
        await machine.until(lambda: len(machine.placed("tls")) == 12, "all are logged")
        assert len(machine.spread("tls")) == 2
        machine.port = int(settings["ECLIPSE_METRICS_PORT"])
        assert (await machine.metrics())["eclipse_sessions"] == 12


async def _connect(uri: str, context: ssl.SSLContext):  # type: ignore[no-untyped-def]
    from websockets.asyncio.client import connect

    return await connect(uri, ssl=context, ping_interval=None, compression=None, proxy=None)
