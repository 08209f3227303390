"""How long a start takes."""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import tempfile
import time

from benchmarks import servers
from benchmarks.measuring import Measured
from benchmarks.processes import (
    LOAD_CORE,
    SERVER_CORE,
    CannotRunError,
    command,
    cpu_seconds,
    family,
    nginx,
    pinned,
    strangers_seconds,
)
from benchmarks.servers import OURS, Server
from tests.servers import free_port


def start_up(server: Server, seconds: float) -> Measured:
    """From `eclipse-ws run` to the first accepted session's greeting; the median of five starts."""
    took, cpu, others = [], [], []
    with nginx(servers.PEERS / "api.conf", LOAD_CORE) as api, tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, **servers.environment(api.port)}
        for _ in range(5):
            port = free_port()
            target = OURS.target("c", "u")
            began, busy = time.perf_counter(), strangers_seconds([])
            process = subprocess.Popen(
                pinned([*command(), "run", "--profile", "bench", "--port", str(port)], SERVER_CORE),
                env=env,
                cwd=folder,
                stdout=subprocess.DEVNULL,
            )
            try:
                _first_session(port, target)
                took.append(time.perf_counter() - began)
                cpu.append(cpu_seconds(family(process.pid)))
                others.append((strangers_seconds(family(process.pid)) - busy) / took[-1])
            finally:
                process.terminate()
                process.wait(10)
    values = {"start s": statistics.median(took), "start cpu": statistics.median(cpu)}
    return values, max(0.0, statistics.median(others))


def _first_session(port: int, target: str) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
                client.sendall(
                    f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
                    "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
                )
                said = b""
                while b"connected" not in said:
                    more = client.recv(4096)
                    if not more:
                        raise CannotRunError("the server refused its first session")
                    said += more
                return
        except ConnectionRefusedError:
            time.sleep(0.002)
    raise CannotRunError("the server did not start within 20 s")
