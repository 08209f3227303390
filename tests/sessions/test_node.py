"""The health document, and what it is made of."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import psutil
import pytest

from eclipse_ws import __version__
from eclipse_ws.backends.base import Health
from eclipse_ws.delivery.delivery import Delivery
from eclipse_ws.sessions import node
from tests.client import Client, http, running


@pytest.mark.gen_test
async def test_health_document() -> None:
    """Today's fields are there in today's shape, then ours."""
    async with running(machine="m1", region="ams") as server:
        document = (await http(server.port, "/health")).json
        assert list(document)[:5] == ["status", "uptime", "connections", "memory", "timestamp"]
        assert document["status"] == "healthy"
        assert 0 <= document["uptime"] < 60
        assert document["connections"] == {"total": 0, "byChat": [], "chats": 0}
        memory = document["memory"]
        assert 1 << 20 < memory["used"] < memory["total"]
        assert type(memory["percentage"]) is int
        assert memory["percentage"] == pytest.approx(100 * memory["used"] / memory["total"], abs=0.5)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", document["timestamp"])
        assert document["backend"]["name"] == "memory"
        assert document["backend"]["state"] == "up"
        assert document["api"] == "up"
        assert (document["version"], document["machine"], document["region"]) == (__version__, "m1", "ams")


@pytest.mark.gen_test
async def test_largest_chats() -> None:
    """At most the 20 largest chats are listed, largest first, by the beginnings of their ids."""
    async with running() as server:
        clients = [await Client.join(server.port, f"{number:04}-chat") for number in range(22)]
        clients += [await Client.join(server.port, "0007-chat") for _ in range(2)]
        document = (await http(server.port, "/health")).json
        by_chat = document["connections"]["byChat"]
        assert by_chat[0] == {"chatId": "0007-cha...", "count": 3}
        assert [each["count"] for each in by_chat[1:]] == [1] * 19
        assert (document["connections"]["total"], document["connections"]["chats"]) == (24, 22)
        await asyncio.gather(*(client.close() for client in clients))


@pytest.mark.gen_test
@pytest.mark.parametrize("state", ["connecting", "down"])
async def test_degraded(state: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that does not answer makes the node degraded, which is still 200: sessions stay here."""
    async with running() as server:
        monkeypatch.setattr(Delivery, "health", Health("redis", state, 0.25, 7))
        answer = await http(server.port, "/health")
        assert (answer.status, answer.json["status"]) == (200, "degraded")
        found = answer.json["backend"]
        assert (found["name"], found["state"], found["latency"], found["queued"]) == ("redis", state, 0.25, 7)


@pytest.mark.gen_test
@pytest.mark.parametrize("path", ["/", "/health"])
async def test_draining(path: str) -> None:
    """A draining node says so with 503, so that the proxy routes elsewhere."""
    async with running() as server:
        server.node.draining = True
        answer = await http(server.port, path)
        assert (answer.status, answer.json["status"]) == (503, "draining")


def test_memory_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is the control group's, of either version; without one it is the machine's memory."""
    files: dict[str, str] = {}

    def read_text(path: Path) -> str:
        if str(path) not in files:
            raise FileNotFoundError(path)
        return files[str(path)]

    monkeypatch.setattr(Path, "read_text", read_text)
    total = psutil.virtual_memory().total
    assert node.memory_bytes() == total
    files["/sys/fs/cgroup/memory/memory.limit_in_bytes"] = str((1 << 63) - 4096)
    assert node.memory_bytes() == total
    files["/sys/fs/cgroup/memory/memory.limit_in_bytes"] = "4096\n"
    assert node.memory_bytes() == 4096
    files["/sys/fs/cgroup/memory.max"] = "max\n"
    assert node.memory_bytes() == 4096
    files["/sys/fs/cgroup/memory.max"] = "8192\n"
    assert node.memory_bytes() == 8192


def test_memory_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Linux without /proc psutil can't tell: the peak and the machine's memory are near enough."""
    used, total = node.resident_bytes(), psutil.virtual_memory().total
    monkeypatch.setattr(Path, "read_text", lambda path: Path("/nowhere").read_bytes())
    monkeypatch.setattr(psutil, "PROCFS_PATH", "/nowhere")
    assert used // 2 < node.resident_bytes() < total
    assert node.memory_bytes() == pytest.approx(total, rel=0.01)
