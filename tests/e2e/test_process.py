"""The process as a platform sees it: signals, exit codes, restarts."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tests.client import UPGRADE, Client, http, token
from tests.e2e.process import Program, away, program

GONE = (1012, "Server restarting")


@pytest.mark.gen_test
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal(tmp_path: Path, number: signal.Signals) -> None:
    """A signal closes all sessions with 1012 and ends the process with 0 and no traceback."""
    async with program(tmp_path) as server:
        clients = [await Client.join(server.port, f"c{n}") for n in range(3)]
        server.signal(number)
        for client in clients:
            assert await client.ended() == GONE
        assert await server.ended() == 0
        assert "Traceback" not in server.printed


@pytest.mark.gen_test
async def test_the_only_node_closes_sessions_at_once(tmp_path: Path) -> None:
    """If no other node takes them, all sessions end at once, so that the server is back sooner."""
    async with program(tmp_path, drain_seconds=3600) as server:
        clients = [await Client.join(server.port, f"c{n}") for n in range(3)]
        server.signal(signal.SIGTERM)
        assert [await client.ended() for client in clients] == [GONE] * 3
        assert await server.ended() == 0


@pytest.mark.gen_test
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_second_signal(tmp_path: Path, second: signal.Signals) -> None:
    """During the first signal's drain health and upgrades report it; the second ends it at once."""
    async with program(tmp_path, drain_seconds=3600, **away()) as server:
        clients = [await Client.join(server.port) for _ in range(4)]
        server.signal(signal.SIGTERM)
        gone, left = await asyncio.wait(
            {asyncio.create_task(client.ended()) for client in clients}, return_when=asyncio.FIRST_COMPLETED
        )
        assert [task.result() for task in gone] == [GONE]
        health = await http(server.port, "/health")
        assert (health.status, health.json["status"]) == (503, "draining")
        refused = await http(server.port, f"/ws?token={token()}", headers=UPGRADE)
        assert refused.status == 503
        assert "retry-after" in refused.headers
        server.signal(second)
        assert [await task for task in left] == [GONE] * 3
        assert await server.ended() == 0
        assert "Traceback" not in server.printed


@pytest.mark.gen_test
async def test_port_in_use(tmp_path: Path) -> None:
    """A port in use is exit code 2 and one sentence, and the server that has it continues."""
    other = tmp_path / "other"
    other.mkdir()
    async with program(tmp_path) as first:
        second = Program(other, port=first.port)
        assert await second.ended() == 2
        assert f"{first.port} is in use" in second.printed
        assert "--port" in second.printed
        assert "Traceback" not in second.printed
        async with await Client.join(first.port) as client:
            await client.quiet()


@pytest.mark.gen_test
@pytest.mark.parametrize("profile", ["nowhere.toml", "folder", "broken.toml", "binary.toml", "nobody"])
async def test_unreadable_profile(tmp_path: Path, profile: str) -> None:
    """A missing or invalid profile is exit code 2 and a sentence that names it."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken.toml").write_text("port = = 5")
    (tmp_path / "binary.toml").write_bytes(b"\xff\x00")
    path = profile if profile == "nobody" else str(tmp_path / profile)
    failed = Program(tmp_path, "--profile", path)
    assert await failed.ended() == 2
    assert profile in failed.printed
    assert "Traceback" not in failed.printed


@pytest.mark.gen_test
@pytest.mark.parametrize("path", ["nowhere/db.sqlite3", "text.sqlite3", "."])
async def test_invalid_database(tmp_path: Path, path: str) -> None:
    """An invalid database is exit code 2 and a sentence."""
    (tmp_path / "text.sqlite3").write_text("this isn't a database but a text that is long enough " * 50)
    failed = Program(tmp_path, embedded_db=str(tmp_path / path))
    assert await failed.ended() == 2
    assert "ECLIPSE_EMBEDDED_DB" in failed.printed
    assert "Traceback" not in failed.printed


@pytest.mark.gen_test
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_restart(tmp_path: Path, how: signal.Signals) -> None:
    """Clients that reconnect to the restarted process learn that they must reload, miss nothing, and chat."""
    database = str(tmp_path / "chat.sqlite3")
    async with program(tmp_path, embedded_db=database) as first:
        port = first.port
        one, two = await Client.join(port), await Client.join(port, user="u2")
        cursor = ""
        for number in range(3):
            await one.say(type="message", content=str(number), role="USER", clientMessageId=f"k{number}")
            await one.next("message")
            cursor = (await one.next("ack"))["cursor"]
            await two.next("message")
        first.signal(how)
        code = (await one.ended())[0]
        assert code == (1012 if how == signal.SIGTERM else 1006)
        await two.ended()
        assert await first.ended() == (0 if how == signal.SIGTERM else -9)
    async with program(tmp_path, port=port, embedded_db=database):
        async with (
            await Client.join(port, cursor=cursor) as one,
            await Client.join(port, user="u2", cursor=cursor) as two,
        ):
            for client in (one, two):
                assert client.connected["recovered"] is False
                assert client.connected["cursor"] != cursor
            history = (await http(port, "/api/chats/c1/messages")).json["messages"]
            assert [each["content"] for each in history] == ["0", "1", "2"]
            # A retry of what was saved before is saved no second time: the API knows its key.
            await one.say(type="message", content="2", role="USER", clientMessageId="k2")
            assert (await one.next("message"))["data"]["id"] == history[-1]["id"]
            await one.next("ack")
            await two.next("message")
            await one.say(type="typing", isTyping=True)
            await two.next("typing")
        assert len((await http(port, "/api/chats/c1/messages")).json["messages"]) == 3


@pytest.mark.gen_test
async def test_reconnecting_crowd(tmp_path: Path) -> None:
    """A whole crowd is back after a restart, each in its chat, and everybody hears everybody again."""
    chats, each = 10, 3
    async with program(tmp_path) as first:
        port = first.port
        crowd = [await Client.join(port, f"c{n % chats}", f"u{n}") for n in range(chats * each)]
        first.signal(signal.SIGTERM)
        assert {await client.ended() for client in crowd} == {GONE}
        await first.ended()
    async with program(tmp_path, port=port):
        joining = (Client.join(port, f"c{n % chats}", f"u{n}") for n in range(chats * each))
        crowd = list(await asyncio.gather(*joining))
        for number in range(chats):
            await crowd[number].say(type="message", content=f"back in c{number}", role="USER")
        for number, client in enumerate(crowd):
            assert (await client.next("message"))["data"]["content"] == f"back in c{number % chats}"
            await client.quiet()
            await client.close()
        health = await http(port, "/health")
        assert health.status == 200


@pytest.mark.gen_test
async def test_command_in_progress_in_a_drain(tmp_path: Path) -> None:
    """A process that gets a signal while it saves a message sends the ack before it ends."""
    async with program(tmp_path) as server:
        clients = [await Client.join(server.port, f"c{n}") for n in range(20)]
        for number, client in enumerate(clients):
            await client.say(type="message", content="x", role="USER", clientMessageId=f"k{number}")
        server.signal(signal.SIGTERM)
        for client in clients:
            # Whatever was heard before the drain is answered; the rest was not heard at all.
            got = []
            try:
                while True:
                    got.append((await client.receive())["type"])
            except Exception:
                assert got in (["message", "ack"], [])
            await client.socket.wait_closed()
            assert client.socket.close_code == 1012
        assert await server.ended() == 0


@pytest.mark.gen_test
async def test_on_uvloop(tmp_path: Path) -> None:
    """On uvloop a message is saved, delivered and acknowledged, and a signal drains."""
    async with program(tmp_path, event_loop="uvloop") as server:
        sender, other = [await Client.join(server.port) for _ in range(2)]
        await sender.say(type="message", content="hello", role="USER", clientMessageId="m1")
        heard = await other.seek("message")
        assert heard["data"]["content"] == "hello"
        assert (await sender.seek("ack"))["cursor"] == heard["cursor"]
        server.signal(signal.SIGTERM)
        for client in (sender, other):
            assert await client.ended() == GONE
        assert await server.ended() == 0
        assert "Traceback" not in server.printed
