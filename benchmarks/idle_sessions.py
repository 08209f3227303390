"""`python -m benchmarks.idle_sessions`: with 5,000 idle sessions on one core, a new session and GET /health.

The server runs on one core, this program on another if there is one. A new session is timed from its
connect() to its `connected` event, with the token's check in between; health from its connect() to the
last byte of the document, which counts all sessions and lists the largest chats.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import resource
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from eclipse_ws.commands.tokens import mint

NEW_SESSION = 50.0  # ms
HEALTH = 20.0  # ms
SPARE = 200
"""File descriptors beside the sessions'."""
PER_CHAT = 2
WAIT = 30.0  # s for any one answer
SECRET = secrets.token_urlsafe(32)


@dataclass
class Measured:
    """Times in milliseconds, one a repetition; and what health said while all the sessions were there."""

    sessions: int
    new_session: list[float] = field(default_factory=list)
    health: list[float] = field(default_factory=list)
    document: dict[str, object] = field(default_factory=dict)


def measure(count: int, repetitions: int) -> Measured:
    """Open `count` sessions, two a chat, then time new ones and health. Raises RuntimeError."""
    raise_file_limit(count + SPARE)
    measured = Measured(count)
    with server(count + SPARE) as port:
        idle = []
        try:
            for number in range(count):
                idle.append(session(port, f"chat-{number // PER_CHAT}", f"user-{number}"))
            for _ in range(repetitions):
                measured.new_session.append(timed(lambda: session(port, "new", "new").close()))
                measured.health.append(timed(lambda: measured.document.update(health(port))))
        finally:
            for each in idle:
                each.close()
    return measured


def timed(action: Callable[[], object]) -> float:
    """Milliseconds that the action took."""
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1000


def session(port: int, chat: str, user: str) -> socket.socket:
    """A session that was greeted."""
    opened = socket.create_connection(("127.0.0.1", port), timeout=WAIT)
    key = base64.b64encode(secrets.token_bytes(16)).decode()
    opened.sendall(
        f"GET /ws?token={mint(SECRET, chat, user, True)} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    received = b""
    while b'"type":"connected"' not in received:
        more = opened.recv(4096)
        if not more:
            raise RuntimeError(f"the session was refused: {received[:500]!r}")
        received += more
    return opened


def health(port: int) -> dict[str, object]:
    """The health document."""
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT) as opened:
        opened.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        received = b""
        while more := opened.recv(65536):
            received += more
    head, _, body = received.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise RuntimeError(f"health answered {received[:500]!r}")
    document: dict[str, object] = json.loads(body)
    return document


def raise_file_limit(wanted: int) -> None:
    """Let this process, and the server that it starts, have as many file descriptors. Raises RuntimeError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise RuntimeError(f"{wanted} file descriptors are needed, {hard} are allowed: raise `ulimit -Hn`")
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextlib.contextmanager
def server(max_sessions: int) -> Iterator[int]:
    """The server on one core, as its port; ended afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    cores = sorted(os.sched_getaffinity(0))
    settings = {
        "JWT_SECRET": SECRET,
        "INTERNAL_API_SECRET": SECRET,
        "LOG_LEVEL": "error",
        "ECLIPSE_MAX_SESSIONS": str(max_sessions),
        "ECLIPSE_BACKEND": "memory",
        # The idle sessions here say nothing at all, not even pongs; none of them is dead.
        "ECLIPSE_PING_INTERVAL": "86400",
    }
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    root = str(Path(__file__).parent.parent)
    command = [sys.executable, "-m", "eclipse_ws", "run", "--profile", "test", "--port", str(port)]
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "output").open("w+") as output:
        process = subprocess.Popen(
            command, cwd=folder, env={**kept, "PYTHONPATH": root, **settings}, stdout=output, stderr=output
        )
        try:
            os.sched_setaffinity(process.pid, cores[:1])
            os.sched_setaffinity(0, cores[1:2] or cores)
            deadline = time.monotonic() + WAIT
            while True:
                try:
                    health(port)
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        output.seek(0)
                        raise RuntimeError(f"the server did not start: {output.read()}") from None
                    time.sleep(0.02)
            yield port
        finally:
            os.sched_setaffinity(0, cores)
            process.terminate()
            try:
                process.wait(WAIT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def line(name: str, times: list[float], target: float) -> tuple[str, bool]:
    """One line of the report, and whether the target was met."""
    median, worst = statistics.median(times), max(times)
    met = median < target
    said = "met" if met else "MISSED"
    return (
        f"{name:<14} median {median:6.2f} ms   worst {worst:6.2f} ms   target < {target:.0f} ms: {said}",
        met,
    )


def report(measured: Measured) -> tuple[str, bool]:
    """The two measurements against their targets, and whether both were met."""
    lines = [
        line("a new session", measured.new_session, NEW_SESSION),
        line("GET /health", measured.health, HEALTH),
    ]
    title = f"with {measured.sessions} idle sessions on one core, {len(measured.health)} times each:"
    return "\n".join([title, *(text for text, _ in lines)]), all(met for _, met in lines)


def main() -> int:
    """Measure and print; the exit code is 1 if a target was missed, 2 if nothing could be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.idle_sessions", description=__doc__)
    parser.add_argument("--sessions", type=int, default=5000, help="idle sessions (5000)")
    parser.add_argument("--repetitions", type=int, default=51, help="of each measurement (51)")
    given = parser.parse_args()
    try:
        text, met = report(measure(given.sessions, given.repetitions))
    except (RuntimeError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(text)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
