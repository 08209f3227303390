"""Internal authentication: the shared secret, guesses at it, and the admin port."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from eclipse_ws.server.ports import StartError
from eclipse_ws.server.server import Server
from tests.client import Answer, Client, http, running
from tests.conftest import SECRET, make_settings

EVENT = {"type": "note", "data": {"id": "1"}}
FLY = {"client_address_header": "Fly-Client-IP"}


async def call(port: int, secret: str | None, address: str = "93.184.216.34", chat: str = "c1") -> Answer:
    """Publish an event with this secret, from this address."""
    headers = {"Fly-Client-IP": address}
    if secret is not None:
        headers["X-Internal-Secret"] = secret
    return await http(port, f"/api/chats/{chat}/events", "POST", EVENT, headers=headers)


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "secret", [None, "", "wrong", SECRET[:-1], SECRET + "x", SECRET.upper(), "\u00e9\u00e9", "x" * 8000]
)
async def test_a_wrong_secret_publishes_nothing(secret: str | None) -> None:
    """Any wrong secret gets 401, and the chat's members receive nothing."""
    async with running() as server, await Client.join(server.port) as neighbour:
        answer = await call(server.port, secret.encode().decode("latin-1") if secret else secret)
        assert answer.status == 401
        assert SECRET not in answer.body.decode()
        await neighbour.quiet()
        assert server.node.limits.refused["secret"] == 1


@pytest.mark.gen_test
async def test_guessing_is_limited() -> None:
    """After some wrong secrets an address gets 429, even for the right one; others are not affected."""
    async with running(**{"security.limits.GUESSES_PER_MINUTE": 3}, **FLY) as server:
        assert [(await call(server.port, f"guess {n}")).status for n in range(4)] == [401, 401, 401, 429]
        blocked = await call(server.port, SECRET)
        assert (blocked.status, blocked.json["limit"]) == (429, "guesses_per_minute")
        assert blocked.headers["retry-after"] == "60"
        async with await Client.join(server.port) as neighbour:
            assert (await call(server.port, SECRET, "8.8.8.8")).status == 202
            await neighbour.next("note")
        counts = server.node.limits.refused
        assert (counts["secret"], counts["guesses_per_minute"]) == (3, 2)


@pytest.mark.gen_test
async def test_strangers_cannot_lock_the_application_out() -> None:
    """Behind an unknown proxy, wrong secrets get 429, and the right one still passes."""
    async with running(**{"security.limits.GUESSES_PER_MINUTE": 1}) as server:
        assert [(await call(server.port, "guess")).status for _ in range(3)] == [401, 429, 429]
        assert (await call(server.port, SECRET)).status == 202


@pytest.mark.gen_test
async def test_embedded_routes_share_the_guess_limit() -> None:
    """The application's own routes, where this server serves them, count guesses with the others."""
    async with running(**{"security.limits.GUESSES_PER_MINUTE": 1}, **FLY) as server:
        headers = {"Fly-Client-IP": "93.184.216.34", "X-Internal-Secret": "guess"}
        first = await http(server.port, "/api/users/agent_1", headers=headers)
        second = await http(server.port, "/api/users/agent_1", headers=headers)
        assert (first.status, second.status) == (401, 429)
        headers["Fly-Client-IP"] = "8.8.8.8"
        headers["X-Internal-Secret"] = SECRET
        assert (await http(server.port, "/api/users/agent_1", headers=headers)).status == 200


@pytest.mark.gen_test
async def test_admin_port_serves_the_internal_routes() -> None:
    """With `admin_port` the application's routes are served at that port only."""
    async with running(admin_port=0) as server, await Client.join(server.port) as neighbour:
        assert server.admin_port not in (None, 0, server.port)
        assert (await call(server.port, SECRET)).status == 404
        assert (await http(server.port, "/health")).status == 200
        assert server.admin_port is not None
        assert (await call(server.admin_port, SECRET)).status == 202
        assert (await http(server.admin_port, "/health")).status == 200
        assert (await http(server.admin_port, "/widget.js")).status == 404
        await neighbour.next("note")


@pytest.mark.gen_test
@pytest.mark.skipif(sys.platform != "linux", reason="only there has loopback more than one address")
async def test_the_admin_port_has_its_own_address() -> None:
    """`admin_port` listens only on `admin_host`, whatever the public port's address is."""
    async with running(admin_port=0, admin_host="127.0.0.2") as server:
        _, writer = await asyncio.open_connection("127.0.0.2", server.admin_port)
        writer.close()
        for host, port in (("127.0.0.1", server.admin_port), ("127.0.0.2", server.port)):
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(host, port)


@pytest.mark.gen_test
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Tornado leaves the socket
async def test_a_taken_admin_port_is_explained() -> None:
    """Two servers can't share one; the second releases the ports that it has bound."""
    async with running(admin_port=0) as server:
        second = Server(make_settings(admin_port=server.admin_port))
        with pytest.raises(StartError, match="ECLIPSE_ADMIN_PORT"):
            await second.start()
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", second.port)
        await second.stop()


@pytest.mark.gen_test
async def test_no_secret_rejects_everyone() -> None:
    """Without a configured secret every request is rejected, even with an empty one."""
    async with running(internal_api_secret="") as server:
        given: list[Any] = [(await call(server.port, secret)).status for secret in (None, "", "x")]
        assert given == [503, 503, 503]
