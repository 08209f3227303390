"""`python -m benchmarks.attack`: 100 honest pairs chat while 3,000 sockets attack the same node.

1,000 sessions flood as fast as they can and come back as often as they are closed; 1,000 join busy chats
and never read; 1,000 send half of an upgrade and wait, again and again. The attack comes from 20 addresses,
named in a header that the server is told to trust. The server runs on one core with the limits of
production, everything else on another, where the honest pairs go first. Latency is from a sender's
`message` to its partner's, through a chat API that is never the bottleneck (nginx).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import secrets
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.processes import (
    LOAD_CORE,
    SERVER_CORE,
    Process,
    command,
    free_port,
    nginx,
    pinned,
    raise_file_limit,
)
from eclipse_ws.tokens import mint

LATENCY, RSS = 25.0, 256.0
"""Targets: the honest pairs' p99 in ms, and the server's memory in MB."""
ADDRESSES = 20
KINDS = ["flood", "never_read", "half_open"]
HEADER = "X-Client-Address"
API = Path(__file__).parent / "peers" / "api.conf"
PROFILE = f"""
host = "127.0.0.1"
log_level = "info"
client_address_header = "{HEADER}"
"""


def frame(text: bytes) -> bytes:
    """A client's text frame, masked with zeros."""
    size = bytes((0x80 | len(text),)) if len(text) < 126 else struct.pack("!BH", 0xFE, len(text))
    return b"\x81" + size + bytes(4) + text


def upgrade(token: str, address: str) -> bytes:
    """An upgrade's request."""
    key = base64.b64encode(secrets.token_bytes(16)).decode()
    return (
        f"GET /ws?token={token} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
        f"{HEADER}: {address}\r\n\r\n"
    ).encode()


async def frames(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The next frame's opcode and payload."""
    first, size = await reader.readexactly(2)
    if size == 126:
        size = int.from_bytes(await reader.readexactly(2), "big")
    elif size == 127:
        size = int.from_bytes(await reader.readexactly(8), "big")
    return first & 15, await reader.readexactly(size)


async def session(
    port: int, token: str, address: str, window: int = 0
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """An upgraded session; raises OSError or EOFError if it is refused."""
    import socket

    bare = socket.socket()
    bare.setblocking(False)
    if window:
        bare.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    await asyncio.get_running_loop().sock_connect(bare, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=bare, limit=1 << 16)
    writer.write(upgrade(token, address))
    head = await reader.readuntil(b"\r\n\r\n")
    if b" 101 " not in head:
        writer.close()
        raise OSError(head[:40])
    return reader, writer


# -- the attack ---------------------------------------------------------------------------------


class Attack:
    """What the attackers' process runs until it is killed."""

    def __init__(self, port: int, secret: str, count: int, kinds: list[str]) -> None:
        self.port, self.secret, self.count, self.kinds = port, secret, count, kinds
        self.done = dict.fromkeys(("floods", "refused", "closed", "never_read", "half_open", "cut_off"), 0)

    def address(self, number: int) -> str:
        """One of a few addresses."""
        return f"93.184.{number % ADDRESSES}.1"

    async def run(self) -> None:
        """All three kinds at once."""
        kinds = [getattr(self, kind) for kind in self.kinds]
        async with asyncio.TaskGroup() as group:
            for kind in kinds:
                for number in range(self.count):
                    group.create_task(self.again(kind, number))
            group.create_task(self.say())

    async def again(self, kind: object, number: int) -> None:
        """Come back whatever happens."""
        while True:
            with contextlib.suppress(OSError, EOFError, asyncio.LimitOverrunError):
                await kind(number)  # type: ignore[operator]
            self.done["refused"] += 1
            await asyncio.sleep(0.5)

    async def flood(self, number: int) -> None:
        """Commands of every kind, as fast as they are taken."""
        token = mint(self.secret, f"flood-{number % 100}", f"f{number}", False)
        reader, writer = await session(self.port, token, self.address(number))
        burst = b"".join(
            (
                frame(b'{"type":"typing","isTyping":true}'),
                frame(b'{"type":"message","content":"spam","role":"USER","clientMessageId":"x"}'),
                frame(b'{"type":"message","content":"spam","role":"AGENT"}'),
                frame(b"not json"),
                frame(b'{"type":"ping"}'),
            )
        )
        try:
            while not reader.at_eof():
                writer.write(burst * 20)
                self.done["floods"] += 100
                await writer.drain()
                await asyncio.sleep(0)
                if len(reader._buffer) > 0:  # type: ignore[attr-defined]
                    await reader.read(1 << 16)
        finally:
            self.done["closed"] += 1
            writer.transport.abort()

    async def never_read(self, number: int) -> None:
        """Join a chat in which every tenth speaks at length, and read nothing."""
        token = mint(self.secret, f"slow-{number // 10}", f"s{number}", False)
        _, writer = await session(self.port, token, self.address(number), window=4096)
        self.done["never_read"] += 1
        text = json.dumps({"type": "message", "role": "USER", "content": "x" * 16000}).encode()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        try:
            while not writer.transport.is_closing():
                if number % 10 == 0:
                    writer.write(frame(text))
                    await writer.drain()
                await asyncio.sleep(1)
        finally:
            writer.transport.abort()

    async def half_open(self, number: int) -> None:
        """Half of an upgrade, then silence until the server has had enough."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"GET /ws?token=x HTTP/1.1\r\nHost: x\r\nUpgrade: webso")
        self.done["half_open"] += 1
        try:
            await reader.read()
        finally:
            self.done["cut_off"] += 1
            writer.transport.abort()

    async def say(self) -> None:
        """What was done so far, once a second."""
        while True:
            await asyncio.sleep(1)
            sys.stdout.write(json.dumps(self.done) + "\n")
            sys.stdout.flush()


# -- the honest ---------------------------------------------------------------------------------


@dataclass
class Honest:
    """What the pairs have seen."""

    latencies: list[float] = field(default_factory=list)
    sent: int = 0
    received: int = 0
    refused: int = 0

    def p(self, share: float) -> float:
        """A percentile of the latencies, in ms."""
        ordered = sorted(self.latencies) or [float("nan")]
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def pair(port: int, secret: str, number: int, seconds: float, seen: Honest) -> None:
    """Two who talk in turns, a message a second between them."""
    chat = f"honest-{number}"
    ends = [
        await session(port, mint(secret, chat, f"h{number}-{side}", True), f"203.0.113.{number}")
        for side in (0, 1)
    ]
    for reader, _ in ends:
        await frames(reader)  # connected
    await asyncio.sleep(secrets.randbelow(1000) / 1000)
    end, turn = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        _, writer = ends[turn % 2]
        began = time.perf_counter()
        text = json.dumps({"type": "message", "role": "USER", "content": f"hello {turn}"}).encode()
        writer.write(frame(text))
        seen.sent += 1
        for side in (1, 0):  # the partner first: that is what is timed
            opcode, payload = await asyncio.wait_for(frames(ends[(turn + side) % 2][0]), 30)
            while opcode != 1:
                opcode, payload = await asyncio.wait_for(frames(ends[(turn + side) % 2][0]), 30)
            event = json.loads(payload)
            if event["type"] != "message":
                seen.refused += 1
                break
            if side:
                seen.latencies.append(time.perf_counter() - began)
                seen.received += 1
        turn += 1
        await asyncio.sleep(max(0.0, 1 - (time.perf_counter() - began)))
    for _, writer in ends:
        writer.close()


async def talk(port: int, secret: str, pairs: int, seconds: float) -> Honest:
    """All pairs at once."""
    seen = Honest()
    results = await asyncio.gather(
        *(pair(port, secret, number, seconds, seen) for number in range(pairs)), return_exceptions=True
    )
    seen.refused += sum(isinstance(result, BaseException) for result in results)
    return seen


def main() -> int:
    """Measure alone, then under attack; 1 if a target was missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1000, help="attackers of each kind (1000)")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS, help="of attackers (all three)")
    parser.add_argument("--pairs", type=int, default=100, help="honest pairs (100)")
    parser.add_argument("--seconds", type=float, default=30, help="of the attack (30)")
    parser.add_argument("--attack", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    raise_file_limit(20_000)
    if options.attack:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(Attack(options.attack, os.environ["JWT_SECRET"], options.count, options.kinds).run())
        return 0
    secret, port = secrets.token_urlsafe(48), free_port()
    env = {"JWT_SECRET": secret, "INTERNAL_API_SECRET": secrets.token_urlsafe(48), "PORT": str(port)}
    with TemporaryDirectory() as folder, nginx(API, LOAD_CORE) as api:
        env["NEXT_API_URL"] = f"http://127.0.0.1:{api.port}"
        profile = Path(folder) / "test.toml"
        profile.write_text(PROFILE)
        server = Process([*command(), "run", "--profile", str(profile)], port, SERVER_CORE, env, Path(folder))
        os.sched_setaffinity(0, {LOAD_CORE})
        attackers = None
        try:
            alone = asyncio.run(talk(port, secret, options.pairs, options.seconds / 3))
            idle = server.memory()
            argv = [sys.executable, "-m", "benchmarks.attack", "--attack", str(port)]
            argv += ["--count", str(options.count), "--kinds", *options.kinds]
            attackers = subprocess.Popen(
                pinned(["nice", "-n", "19", *argv], LOAD_CORE),
                env={**os.environ, **env},
                stdout=subprocess.PIPE,
            )
            time.sleep(5)  # let all of them arrive
            busy = asyncio.run(talk(port, secret, options.pairs, options.seconds))
            memory = server.memory() / 1e6
        finally:
            said = b""
            if attackers is not None:
                attackers.kill()
                said = attackers.communicate()[0].splitlines()[-1:][0] if attackers.stdout else b""
            server.stop()
    lost = busy.sent - busy.received
    missed = alone.sent - alone.received + alone.refused, lost + busy.refused
    print(f"attack: {said.decode()}")
    print(f"{'':24}{'alone':>12}{'attacked':>12}{'target':>12}")
    print(f"{'honest p50, ms':24}{alone.p(0.5):12.2f}{busy.p(0.5):12.2f}{'':>12}")
    print(f"{'honest p99, ms':24}{alone.p(0.99):12.2f}{busy.p(0.99):12.2f}{f'< {LATENCY:.0f}':>12}")
    print(f"{'messages':24}{alone.sent:12}{busy.sent:12}{'':>12}")
    print(f"{'lost or refused':24}{missed[0]:12}{missed[1]:12}{'0':>12}")
    print(f"{'RSS, MB':24}{idle / 1e6:12.0f}{memory:12.0f}{f'< {RSS:.0f}':>12}")
    return int(bool(lost or busy.refused) or busy.p(0.99) >= LATENCY or memory >= RSS)


if __name__ == "__main__":
    sys.exit(main())
