"""Two server processes, a backend's server, a proxy between each node and it, and the application."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from signal import SIGUSR1, Signals
from typing import Any

import psutil

from tests.application.stub import SECRET as API_SECRET
from tests.chaos.application import Application
from tests.portable import inherited
from tests.provider import Provider
from tests.servers import lasting_port

ROOT = Path(__file__).parents[2]
PROFILE = Path(__file__).parent / "chaos.toml"
JWT_SECRET = "a-secret-of-the-chaos-suite-which-is-long-enough"
HISTORY_SECONDS = 20
"""As in chaos.toml."""
START_SECONDS = 45.0
STOP_SECONDS = 10.0


class NodeProcess:
    """One server process on a port of its own, which can be stopped in every way and started again."""

    processes = 1
    """How many processes it has that connect to the backend."""

    def __init__(self, name: str, folder: Path, environment: dict[str, str]) -> None:
        self.name = name
        self.port = lasting_port()
        self.folder = folder
        self.log = folder / f"node-{name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._environment = environment

    def command(self) -> list[str]:
        """What is run, after Python itself."""
        tasks = self.folder / f"node-{self.name}.tasks"
        return ["-m", "tests.chaos.node", str(tasks), "run", "--profile", str(PROFILE)]

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: ASYNC220 - a fork takes no time that matters here
                [sys.executable, *self.command()],
                cwd=self.folder,  # where no .env is
                env={**self._environment, "PORT": str(self.port), **inherited()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        while await self.health() is None:
            if self.process.poll() is not None:
                raise RuntimeError(f"node {self.name} ended with {self.process.returncode}; see {self.log}")
            if asyncio.get_running_loop().time() > deadline:
                raise RuntimeError(f"node {self.name} did not answer in {START_SECONDS:g} s; see {self.log}")
            await asyncio.sleep(0.05)

    async def until_healthy(self) -> None:
        """Wait until it is connected to the backend: before that, not all of its tasks exist."""
        async with asyncio.timeout(START_SECONDS):
            while (await self.health() or {}).get("status") != "healthy":  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    def send(self, number: Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        os.kill(self.process.pid, number)

    async def end(self, number: Signals) -> None:
        """End it by a signal, and wait until it is gone."""
        if self.process is None:
            return
        self.process.send_signal(number)
        try:
            await asyncio.to_thread(self.process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise RuntimeError(f"node {self.name} outlived {number.name}; see {self.log}") from None
        finally:
            self.process = None

    def kill(self) -> None:
        """End it in any state, for good."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    async def health(self) -> dict[str, Any] | None:
        """Its health document; None if it doesn't answer."""
        try:
            return await asyncio.to_thread(self._health)
        except (OSError, ValueError):
            return None

    def _health(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2) as answer:
            document: dict[str, Any] = json.load(answer)
        return document

    async def tasks(self) -> list[str]:
        """The names of its tasks, in order."""
        path = self.folder / f"node-{self.name}.tasks"
        path.unlink(missing_ok=True)
        self.send(SIGUSR1)
        for _ in range(1000):
            if path.exists():
                return path.read_text().splitlines()
            await asyncio.sleep(0.02)
        raise RuntimeError(f"node {self.name} did not write down its tasks")

    def sockets(self) -> list[tuple[int, int]]:
        """Its TCP sockets other than listeners, as (local port, remote port)."""
        assert self.process is not None
        return [
            (each.laddr.port, each.raddr.port)
            for each in psutil.Process(self.process.pid).net_connections("tcp")
            if each.status != psutil.CONN_LISTEN and each.raddr
        ]


class Cluster(ABC):
    """Everything that a scenario runs on, and what can be done to the backend's server; ``folder`` keeps the
    nodes' logs.
    """

    node_process: type[NodeProcess] = NodeProcess
    backend: str
    harmless: tuple[str, ...] = ()
    """How errors begin that a library logs in an outage, and that mean nothing."""
    server_name: str
    outage: float
    """Seconds for which scenarios keep it from answering: longer than nodes wait for it."""
    links: range
    """How many sockets to the backend a node may hold."""

    def __init__(self, folder: Path, proxies: Sequence[Provider], application: Application) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.proxies = list(proxies)
        self.application = application
        self.nodes: list[NodeProcess] = []

    # -- the backend's server -------------------------------------------------------------------

    @abstractmethod
    def start_server(self) -> None:
        """Start it, for the first time or again."""

    @abstractmethod
    def crash(self) -> None:
        """End it without a chance to clean up."""

    @abstractmethod
    def freeze(self) -> None:
        """Suspend it; its sockets stay open."""

    @abstractmethod
    def thaw(self) -> None:
        """Resume it."""

    @abstractmethod
    async def kick(self, turn: int, chance: random.Random) -> None:
        """Make it close connections, in one way after the other."""

    @abstractmethod
    def remove_server(self) -> None:
        """End it, whatever state it is in, and remove its files."""

    @abstractmethod
    def reach(self, proxy: Provider) -> dict[str, str]:
        """Settings of a node that reaches it through this proxy."""

    @abstractmethod
    async def places(self, chats: Iterable[str]) -> dict[str, str]:
        """The kept events' names by cursor, as it has them now."""

    @abstractmethod
    async def kept_too_long(self) -> list[str]:
        """What it still holds after the history's lifetime; a sentence each."""

    # -- all of it ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start all of it."""
        await self.start_neighbours()
        await self.start_nodes()

    async def start_neighbours(self) -> None:
        """Start the backend's server, the application, and what is between the server and the nodes."""
        await asyncio.to_thread(self.start_server)
        await self.application.start()
        for proxy in self.proxies:
            await proxy.start()

    def environment(self, proxy: Provider) -> dict[str, str]:
        """What a node behind this proxy is started with."""
        return {
            "PATH": os.environ.get("PATH", ""),
            "JWT_SECRET": JWT_SECRET,
            "INTERNAL_API_SECRET": API_SECRET,
            "NEXT_API_URL": self.application.url,
            **self.reach(proxy),
        }

    async def is_quiet(self) -> bool:
        """Whether every node is healthy, and nothing waits in its outbox."""
        healths = [await node.health() or {} for node in self.nodes]
        return all(each.get("status") == "healthy" and not each["backend"]["queued"] for each in healths)

    async def start_nodes(self) -> None:
        """Start the nodes, and wait until they are healthy."""
        self.nodes = [
            self.node_process(name, self.folder, self.environment(proxy))
            for name, proxy in zip("AB", self.proxies, strict=True)
        ]
        await asyncio.gather(*(node.start() for node in self.nodes))
        await asyncio.gather(*(node.until_healthy() for node in self.nodes))

    async def stop(self) -> None:
        """End every process of it."""
        for node in self.nodes:
            node.kill()
        for proxy in self.proxies:
            await proxy.stop()
        await self.application.stop()
        await asyncio.to_thread(self.remove_server)

    # -- what is left behind --------------------------------------------------------------------

    async def leftovers(self) -> list[str]:
        """What clients have left behind on the nodes: sessions, sockets; a sentence each."""
        found = []
        for node in self.nodes:
            health = await node.health()
            if health is None:
                found.append(f"node {node.name} does not answer")
                continue
            if health["status"] != "healthy":
                found.append(f"node {node.name} is {health['status']}: {health['backend']}")
            for what in ("total", "chats"):
                if health["connections"][what]:
                    found.append(f"node {node.name} has {health['connections'][what]} {what} left")
            sockets = node.sockets()
            clients = sum(1 for local, _ in sockets if local == node.port)
            if clients:
                found.append(f"node {node.name} has {clients} clients' sockets left")
            links = sum(1 for _, remote in sockets if remote in (p.port for p in self.proxies))
            if links not in self.links:
                most = self.links.stop - 1
                found.append(f"node {node.name} has {links} sockets to {self.server_name}, not {most}")
        return found

    async def remains(self, tasks: dict[str, list[str]]) -> list[str]:
        """What is left after the history's lifetime, in the backend and of tasks; a sentence each."""
        found = await self.kept_too_long()
        for node in self.nodes:
            now = await node.tasks()
            more = len(now) - len(tasks.get(node.name, now))
            if more > 0:
                found.append(f"node {node.name} has {more} more tasks than at its start")
        return found
