"""`eclipse-ws health`, and with --live, which asks only whether the server answers: as HEALTHCHECK does."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path

import pytest

from tests import needs
from tests.client import WAIT, Client, http
from tests.e2e.process import away, environment, program
from tests.servers import RedisServer, free_port


async def health(port: int, *arguments: str) -> tuple[int, str]:
    """The command's exit code and output for the server of a port."""
    asking = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "eclipse_ws", "health", "--url", f"http://127.0.0.1:{port}", *arguments),
        env=environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asking.communicate()
    assert asking.returncode is not None
    return asking.returncode, said.decode()


async def until_status(port: int, status: str) -> None:
    """Wait until the health document says so."""
    deadline = time.monotonic() + WAIT
    while (found := (await http(port, "/health")).json["status"]) != status:
        assert time.monotonic() < deadline, f"the server stays {found}, expected {status}"
        await asyncio.sleep(0.01)


@pytest.mark.gen_test
async def test_a_server_without_redis_is_alive(tmp_path: Path) -> None:
    """It is degraded, and holds what no other node has: nothing may end it for that."""
    redis = RedisServer(needs.server()).start()
    try:
        (tmp_path / ".env").write_text(f"REDIS_URL={redis.url}\n")
        async with program(tmp_path) as server:
            await until_status(server.port, "healthy")
            assert [(await health(server.port, *more))[0] for more in ([], ["--live"])] == [0, 0]
            redis.kill()
            await until_status(server.port, "degraded")
            code, said = await health(server.port)
            assert (code, said.partition(":")[0]) == (1, "degraded")
            code, said = await health(server.port, "--live")
            assert (code, said.partition(":")[0]) == (0, "degraded")
    finally:
        redis.stop()


@pytest.mark.gen_test
async def test_a_draining_server_is_alive(tmp_path: Path) -> None:
    """A drain takes its time, and ends by itself."""
    async with program(tmp_path, drain_seconds=3600, **away()) as server:
        clients = [await Client.join(server.port) for _ in range(4)]
        server.signal(signal.SIGTERM)
        await until_status(server.port, "draining")
        assert (await health(server.port))[0] == 1
        assert (await health(server.port, "--live"))[0] == 0
        server.signal(signal.SIGTERM)
        for client in clients:
            await client.ended()
        assert await server.ended() == 0


@pytest.mark.gen_test
async def test_a_server_that_does_not_answer_is_not_alive(tmp_path: Path) -> None:
    """A port that nobody listens on, and a server that is stuck."""
    code, said = await health(free_port(), "--live")
    assert (code, "no response from" in said) == (2, True)
    async with program(tmp_path) as server:
        server.signal(signal.SIGSTOP)
        code, said = await health(server.port, "--live", "--timeout", "0.5")
        assert (code, "no response from" in said) == (2, True)
