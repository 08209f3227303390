"""compose.yaml: checked against Compose's schema, and its processes started as it says, no containers."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests import needs
from tests.client import WAIT, Answer, Client, http
from tests.portable import inherited
from tests.servers import RedisServer, free_port

ROOT = Path(__file__).parents[2]
FILE = ROOT / "compose.yaml"
BIN = Path(sys.executable).parent


def services(**variables: str) -> dict[str, Any]:
    """The file's services, its ``${NAME:-default}`` filled in."""

    def fill(found: re.Match[str]) -> str:
        return variables.get(found[1]) or found[2]

    text = re.sub(r"\$\{(\w+):-([^}]*)\}", fill, FILE.read_text())
    assert "$" not in text, "a variable without a default: `docker compose up` alone would not do"
    found: dict[str, Any] = yaml.safe_load(text)["services"]
    return found


class Local:
    """The services as processes of this machine: other addresses, and nothing else that is different."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inner = {"server": 8080, "application": 3000, "redis": 6379}
        self.ports = {name: free_port() for name in self.inner}
        self.services = services(
            CHAT_PORT=str(self.ports["server"]), APPLICATION_PORT=str(self.ports["application"])
        )

    def here(self, service: str, text: str) -> str:
        """A value of a service, with this machine's ports and files instead of the containers'."""
        for name, inner in self.inner.items():
            for host in (name, "127.0.0.1") if name == service else (name,):
                text = text.replace(f"//{host}:{inner}", f"//127.0.0.1:{self.ports[name]}")
        for volume in self.services[service].get("volumes", ()):
            source, target, _ = volume.split(":")
            text = text.replace(target, str(ROOT / source))
        return text

    def environment(self, service: str) -> dict[str, str]:
        """Only the service's variables, and what a program needs to be found."""
        given = self.services[service]["environment"]
        assert given["PORT"] == str(self.inner[service])
        found = {"PATH": f"{BIN}:{os.environ['PATH']}", **inherited(), "LANG": "C.UTF-8"}
        values = {name: self.here(service, value) for name, value in given.items()}
        return {**found, **values, "PORT": str(self.ports[service])}

    @asynccontextmanager
    async def started(self, service: str) -> AsyncIterator[None]:
        """The service's process, once its health check passes; killed at the end."""
        about = self.services[service]
        command, check = (
            [self.here(service, word) for word in words]
            for words in (about["command"], about["healthcheck"]["test"][1:])
        )
        environ, log = self.environment(service), self.folder / f"{service}.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *command, cwd=self.folder, env=environ, stdout=output, stderr=output
            )
        try:
            deadline = time.monotonic() + 3 * WAIT
            while await self.code(check, environ) != 0:
                assert time.monotonic() < deadline, f"{check} never passes; it said: {log.read_text()}"
            yield
        finally:
            process.kill()
            await process.wait()

    async def code(self, check: list[str], environ: dict[str, str]) -> int:
        """The exit code of a health check."""
        asking = await asyncio.create_subprocess_exec(
            *check,
            cwd=self.folder,
            env=environ,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        return await asking.wait()


@asynccontextmanager
async def up(folder: Path) -> AsyncIterator[Local]:
    """All services, in the order of `depends_on`, each healthy before the next is started."""
    local = Local(folder)
    # A server of this machine, with the container's options; its check is a program of the container.
    program, *options = local.services["redis"]["command"]
    assert program == "valkey-server"
    redis = RedisServer(needs.server(), local.ports["redis"], *options).start()
    try:
        async with local.started("server"), local.started("application"):
            yield local
    finally:
        redis.stop()


async def join(application: int, page: str) -> tuple[Client, str]:
    """A session as the page's widget begins it: the page, the widget's file, the token, the socket."""
    answer = await http(application, page)
    html = answer.body.decode()
    origin = f"http://localhost:{application}"
    script = urlsplit(re.findall(r'<script type="module" src="([^"]+)"', html)[0])
    assert script.port is not None
    widget: Answer = await http(script.port, script.path, headers={"Origin": origin})
    assert (widget.status, widget.headers["access-control-allow-origin"]) == (200, "*")
    (token_url,), (chat,) = re.findall(r'token-url="([^"]+)"', html), re.findall(r'chat-id="([^"]+)"', html)
    asked = f"{token_url}{'&' if '?' in token_url else '?'}chatId={chat}"
    token = (
        await http(application, asked, headers={"Cookie": answer.headers["set-cookie"].partition(";")[0]})
    ).json
    socket = urlsplit(token["wsUrl"])
    assert (socket.scheme, socket.port) == ("ws", script.port)
    query = f"token={token['token']}"
    return await Client.open(script.port, query, path=socket.path, greet=True, origin=origin), chat


def test_the_file_is_valid() -> None:
    """Compose's own schema, which check-jsonschema includes, accepts it."""
    command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", FILE]
    checked = subprocess.run(command, check=False, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("name", sorted(services()))
def test_a_service_is_restricted(name: str) -> None:
    """A read-only root, no new privileges, limits, a health check, and no port for the network."""
    service = services()[name]
    assert service["read_only"] is True
    assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"])
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert service["healthcheck"]["test"][0] == "CMD"
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    for secret in ("JWT_SECRET", "INTERNAL_API_SECRET"):
        assert service.get("environment", {}).get(secret, "demo-only").startswith("demo-only")


@pytest.mark.slow
@pytest.mark.gen_test
async def test_a_message_goes_through(tmp_path: Path) -> None:
    """A customer's message reaches the agent, and is in the history of a page opened later."""
    async with up(tmp_path) as local:
        application = local.ports["application"]
        customer, chat = await join(application, "/")
        agent, _ = await join(application, "/agent")
        async with customer, agent:
            await customer.say(type="message", content="Is anybody there?", role="USER", clientMessageId="k1")
            for session in (customer, agent):
                assert (await session.seek("message"))["data"]["content"] == "Is anybody there?"
            # The ack may come before the message, which takes the way through Redis.
            acks = [event for event in customer.skipped if event["type"] == "ack"]
            assert (acks[0] if acks else await customer.seek("ack"))["delivery"] == "published"
            await agent.say(type="message", content="Yes", role="AGENT", clientMessageId="k2")
            assert (await customer.seek("message"))["data"]["content"] == "Yes"
        history = (await http(application, f"/api/chats/{chat}/messages")).json["messages"]
        assert [message["content"] for message in history] == ["Is anybody there?", "Yes"]
        health = (await http(local.ports["server"], "/health")).json
        assert (health["status"], health["backend"]["name"]) == ("healthy", "redis")


def test_no_two_builds_share_a_name() -> None:
    """Compose builds services in parallel: two that write one image would collide."""
    built = [service["image"] for service in services().values() if "build" in service]
    assert len(built) > 1
    assert len(set(built)) == len(built)
