"""What development makes easy must stay on this machine, and out of production."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from eclipse_ws.config.loading import load
from eclipse_ws.config.problems import SettingsError
from eclipse_ws.security.hosts import Hosts
from tests.client import UPGRADE, Client, exchange, http, running, token
from tests.conftest import SECRET, make_settings

MACHINE = socket.gethostname()
EMBEDDED = (
    "/api/ws/token?chatId=c",
    "/api/ws/token?chatId=c&agent=1",
    "/api/ws/token?chatId=c&userId=u",
    "/api/chats/c/messages",
    "/api/chats",
    "/api/agents",
    "/api/users/agent_1",
)


@pytest.mark.gen_test
async def test_in_production_the_embedded_api_needs_the_secret() -> None:
    """Nobody gets a token, a history, a list or a user from a trial in production without the secret."""
    async with running(
        profile="prod", allow_embedded_api=True, **{"security.limits.GUESSES_PER_MINUTE": 100}
    ) as server:
        for path in EMBEDDED:
            for headers in ({}, {"X-Internal-Secret": "wrong"}):
                refused = await http(server.port, path, headers=headers)
                assert refused.status == 401, path
                assert list(refused.json) == ["error"]
            assert (await http(server.port, path, headers={"X-Internal-Secret": SECRET})).status == 200, path
        draft = {"content": "hello", "role": "USER", "userId": "u"}
        assert (await http(server.port, "/api/chats/c/messages/send", "POST", draft)).status == 401
        for name in ("assign", "close"):
            assert (await http(server.port, f"/api/chats/c/{name}", "POST", {"agentId": None})).status == 401
        async with await Client.join(server.port) as client:  # the application's token is enough to chat
            await client.say(type="message", content="hello", role="USER")
            await client.next("message")


@pytest.mark.gen_test
async def test_in_development_the_embedded_api_needs_no_secret() -> None:
    """On a developer's own machine the demo gets tokens, histories and lists without a secret."""
    async with running() as server:
        for path in EMBEDDED[:-1]:
            assert (await http(server.port, path)).status == 200, path


def test_a_trial_in_production_is_a_warning(tmp_path: Path) -> None:
    """The start and `check` warn that the embedded API in production is for trials."""
    environ = {
        "NODE_ENV": "production",
        "JWT_SECRET": SECRET,
        "ECLIPSE_API": "embedded",
        "ECLIPSE_ALLOW_EMBEDDED_API": "true",
        "ECLIPSE_ALLOW_MEMORY_BACKEND": "true",
    }
    dotenv = tmp_path / ".env"
    assert any("for trials" in warning for warning in load(environ=environ, dotenv=dotenv).warnings)
    assert not any("for trials" in warning for warning in load("dev", environ={}, dotenv=dotenv).warnings)


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "path", [*EMBEDDED, "/", "/ws", "/health", "/metrics", "/demo", "/demo/agent", "/widget.js", "/nowhere"]
)
async def test_a_rebound_name_gets_nothing(path: str) -> None:
    """A page whose own name resolves to this machine gets no answer, on any path, by any method."""
    async with running(profile="dev") as server:
        for method in ("GET", "HEAD", "POST", "OPTIONS"):
            for host in (
                "evil.example",
                f"evil.example:{server.port}",
                "127.0.0.1.evil.example",
                "localhost.evil",
            ):
                head = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Content-Length: 0", "", ""]
                answer = await exchange(server.port, "\r\n".join(head).encode())
                assert answer.status == 403, (method, host)
                if method == "GET":
                    assert "ECLIPSE_ALLOWED_HOSTS" in answer.json["error"]
                    assert answer.headers["x-content-type-options"] == "nosniff"
                    assert "token" not in answer.json


@pytest.mark.gen_test
async def test_a_refused_name_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A browser shows no answer to a refused upgrade: the name is logged, shortened."""
    caplog.set_level("INFO")
    async with running() as server:
        for name in ("my-laptop.lan:8080", "x" * 300):
            head = f"GET /ws?token={token()} HTTP/1.1\r\nHost: {name}\r\nUpgrade: websocket\r\n\r\n"
            assert (await exchange(server.port, head.encode())).status == 403
    lines = [record.msg for record in caplog.records if record.name == "eclipse_ws.hosts"]
    assert [line["host"] for line in lines if isinstance(line, dict)] == ["my-laptop.lan:8080", "x" * 100]
    assert all(line["limit"] == "allowed_hosts" for line in lines if isinstance(line, dict))


@pytest.mark.gen_test
async def test_a_rebound_name_gets_no_session() -> None:
    """An upgrade under such a name is refused before anything else, whatever token it has."""
    async with running() as server:
        lines = [f"GET /ws?token={token()} HTTP/1.1", "Host: evil.example", "Origin: http://evil.example"]
        lines += [f"{name}: {value}" for name, value in UPGRADE.items()]
        assert (await exchange(server.port, "\r\n".join([*lines, "", ""]).encode())).status == 403
        assert len(server.node.addresses._upgrades) == 0


@pytest.mark.gen_test
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "192.168.1.20", MACHINE, "", None])
async def test_own_names_are_served(host: str | None) -> None:
    """A browser on this machine, a phone that uses its address, and non-browsers are served."""
    async with running() as server:
        named = "" if host is None else f"Host: {host}{f':{server.port}' if host else ''}\r\n"
        version = "1.0" if host is None else "1.1"
        request = f"GET /api/ws/token?chatId=c HTTP/{version}\r\n{named}Connection: close\r\n\r\n"
        assert (await exchange(server.port, request.encode())).status == 200


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost", True),
        ("LocalHost.:8080", True),
        ("chat.localhost:8080", True),
        ("[::1]", True),
        ("[::1]:8080", True),
        ("[fe80::1]:8080", True),
        ("10.0.0.7:8080", True),
        (MACHINE.upper(), True),
        (f"{MACHINE.partition('.')[0]}.local:8080", True),
        ("chat", True),
        ("a.example.com", True),
        ("a.b.example.com:80", True),
        ("example.com", False),
        ("evilexample.com", False),
        ("xlocalhost", False),
        ("localhost.example", False),
        ("127.0.0.1.example", False),
        ("127.0.0.1,evil.example", False),
        ("evil.example", False),
        ("other", False),
        ("[::1].evil.example", False),
        ("[evil]", False),
        (":8080", False),
        ("a b", False),
    ],
)
def test_which_names_are_served(host: str, allowed: bool) -> None:
    """Addresses, localhost, the machine's own name, and those in the setting."""
    hosts = Hosts(make_settings(allowed_hosts="chat, *.Example.com."))
    assert hosts.allows(host) is allowed


@pytest.mark.parametrize(
    "given", [{"profile": "prod"}, {"profile": "mine.toml"}, {"api": "http", "next_api_url": "http://h"}]
)
def test_elsewhere_every_name_is_served(given: dict[str, Any]) -> None:
    """Production, and a server without a token route, accept any name that a proxy gives them."""
    assert Hosts(make_settings(**given)).allows("chat.example.com")


@pytest.mark.parametrize("wrong", ["http://chat", "chat:8080", "*", "a.*.example", "*example.com", "a b"])
def test_an_invalid_name_is_a_problem(tmp_path: Path, wrong: str) -> None:
    """An entry that no request could match is refused at the start."""
    with pytest.raises(SettingsError) as caught:
        load("test", environ={"ECLIPSE_ALLOWED_HOSTS": f"chat,{wrong}"}, dotenv=tmp_path / ".env")
    assert [problem.name for problem in caught.value.problems] == ["ECLIPSE_ALLOWED_HOSTS"]
