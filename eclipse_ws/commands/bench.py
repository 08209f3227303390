"""Load-tests a running server from outside: sessions in chats, a rate of events, and their latency."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import os
import re
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from eclipse_ws.commands import bench_report
from eclipse_ws.commands.bench_report import Outcome
from eclipse_ws.commands.tokens import mint

CONNECTING = 100  # concurrent handshakes
CONNECT_TIMEOUT = 10.0  # s for one
DRAIN = 2.0  # seconds to wait for the last events
WAITING = 1000  # awaited events of each session; older ones count as lost
MAX_FRAME = 1 << 22  # bytes of one event
TICK = 0.002  # seconds between checks of the schedule
SENT_AS = re.compile(rb'"content":"bench ([0-9]+)"')

Progress = Callable[[str, int, int], None]
"""Called with a stage, how much of it is done, and its total."""


class BenchError(Exception):
    """The measurement failed; the text says why, and how to fix it."""


@dataclass(frozen=True)
class Plan:
    """The parameters, each bounded by the command line."""

    url: str
    secret: str
    sessions: int = 100
    per_chat: int = 2
    rate: float = 100
    seconds: float = 10
    mode: str = "typing"
    """typing (nothing is saved) or message (each is saved through the application)."""
    claims: Mapping[str, str] = field(default_factory=dict)
    """Additional claims of the tokens."""


class _Session(asyncio.Protocol):
    """A minimal WebSocket client; Tornado's would need ten times the memory and time."""

    def __init__(self, outcome: Outcome, chat: _Chat, request: bytes) -> None:
        self.outcome = outcome
        self.chat = chat
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.awaited: deque[float] = deque(maxlen=WAITING)
        """Send times of typing events that have not arrived yet, oldest first."""
        self.transport: asyncio.Transport | None = None
        self._request = request
        self._buffer = b""
        self._upgraded = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._upgraded:
            head, separator, rest = self._buffer.partition(b"\r\n\r\n")
            if not separator:
                return
            if b" 101 " not in head.split(b"\r\n")[0]:
                status = head.split(b" ", 2)[1:2] or [b"?"]
                self.end(f"HTTP {status[0].decode('latin-1')[:20]}")
                return
            self._upgraded, self._buffer = True, rest
        for opcode, payload in self._frames():
            if opcode == 1:
                self._on_event(payload)
            elif opcode == 9:
                self.write(10, payload)
            elif opcode == 8:
                code = int.from_bytes(payload[:2], "big")
                self.end(f"{code} {payload[2:].decode('utf-8', 'replace')}".strip())

    def _frames(self) -> Iterator[tuple[int, bytes]]:
        """The complete frames so far; a server never masks, and ours never fragments."""
        buffer, start = self._buffer, 0
        while len(buffer) - start >= 2:
            length, head = buffer[start + 1] & 127, 2
            if length >= 126:
                head = 4 if length == 126 else 10
                if len(buffer) - start < head:
                    break
                length = int.from_bytes(buffer[start + 2 : start + head], "big")
            if length > MAX_FRAME:
                self.end("event too long")
                return
            if len(buffer) - start < head + length:
                break
            yield buffer[start] & 15, buffer[start + head : start + head + length]
            start += head + length
        self._buffer = buffer[start:]

    def _on_event(self, event: bytes) -> None:
        if not self.ready.done():
            if b'"connected"' in event:
                self.ready.set_result(None)
            return
        outcome, now = self.outcome, time.perf_counter()
        if b'"type":"error"' in event:
            outcome.errors[str(_decoded(event).get("code", "unknown"))] += 1
        elif b'"type":"message"' in event:
            found = SENT_AS.search(event)
            sent = None if found is None else self.chat.sent.get(int(found[1]))
            if sent is not None and self is not self.chat.sender:
                outcome.received += 1
                outcome.latency.add(now - sent)
        elif b'"type":"typing"' in event and self.awaited:
            outcome.received += 1
            outcome.latency.add(now - self.awaited.popleft())

    def write(self, opcode: int, payload: bytes) -> None:
        """Send one frame, masked as RFC 6455 section 5.3 requires."""
        if self.transport is None:
            return
        mask = os.urandom(4)
        size = len(payload)
        key = (mask * (size // 4 + 1))[:size]
        masked = (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")
        length = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
        self.transport.write(bytes((0x80 | opcode,)) + length + mask + masked)

    def end(self, reason: str | None = None) -> None:
        """Close the connection; a reason counts as a refusal by the server."""
        if self.transport is None:
            return
        if reason is not None:
            self.outcome.refused[reason] += 1
        else:
            self.write(8, b"\x03\xe8")
        self.transport.close()
        self.transport = None
        if not self.ready.done():
            self.ready.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.transport is not None:
            self.end("connection lost")


class _Chat:
    """The sessions of one chat; the first one sends."""

    def __init__(self) -> None:
        self.sessions: list[_Session] = []
        self.sent: dict[int, float] = {}
        """Send times of the last messages, by number."""

    @property
    def sender(self) -> _Session:
        return self.sessions[0]

    def send(self, outcome: Outcome, mode: str) -> None:
        """Send an event, and let the other sessions await it."""
        if self.sender.transport is None:
            return
        now = time.perf_counter()
        others = [session for session in self.sessions[1:] if session.transport is not None]
        outcome.sent += 1
        outcome.expected += len(others)
        if mode == "typing":
            for session in others:
                session.awaited.append(now)
            self.sender.write(1, b'{"type":"typing","isTyping":true}')
            return
        number = outcome.sent
        self.sent[number] = now
        if len(self.sent) > WAITING:
            del self.sent[next(iter(self.sent))]
        command = {"type": "message", "content": f"bench {number}", "role": "USER"}
        self.sender.write(1, json.dumps(command).encode())


def run(plan: Plan, plot_file: str | None) -> int:
    """Run the plan in the terminal: 0 if everything arrived, else 1. Raises BenchError and OSError."""
    with bench_report.Bar() as bar:
        outcome = asyncio.run(bench(plan, bar.show))
    print(bench_report.summary(outcome))
    if outcome.latency.total:
        print(bench_report.plot(outcome.latency))
    if plot_file is not None:
        title = f"{plan.sessions:,} sessions, {plan.rate:,g} {plan.mode} events/s: latency distribution"
        Path(plot_file).write_text(bench_report.svg(outcome.latency, title), encoding="utf-8")
    return 0 if outcome.good else 1


async def bench(plan: Plan, progress: Progress) -> Outcome:
    """Run the plan. Raises BenchError if no session could connect."""
    outcome = Outcome(planned=plan.sessions)
    chats = [_Chat() for _ in range(math.ceil(plan.sessions / plan.per_chat))]
    try:
        await _connect(plan, chats, outcome, progress)
        if not outcome.ready:
            why = "; ".join(f"{reason} ({count})" for reason, count in outcome.refused.most_common(3))
            raise BenchError(
                f"No session was accepted at {plan.url}: {why}. "
                "Fix: check that a server runs there, and that JWT_SECRET is the server's own."
            )
        await _load(plan, [chat for chat in chats if len(chat.sessions) > 1], outcome, progress)
    finally:
        for chat in chats:
            for session in chat.sessions:
                session.end()
    return outcome


async def _connect(plan: Plan, chats: list[_Chat], outcome: Outcome, progress: Progress) -> None:
    address = urlsplit(plan.url)
    secure = address.scheme == "wss"
    host, port = address.hostname or "", address.port or (443 if secure else 80)
    context = ssl.create_default_context() if secure else None
    gate = asyncio.Semaphore(CONNECTING)
    loop = asyncio.get_running_loop()
    run = os.urandom(4).hex()
    done = 0

    async def connect(number: int) -> None:
        nonlocal done
        chat = chats[number // plan.per_chat]
        name = f"bench-{run}-{number // plan.per_chat}"
        token = mint(plan.secret, name, f"bench_{number}", True, more=plan.claims)
        request = (
            f"GET {address.path or '/ws'}?token={quote(token)} HTTP/1.1\r\nHost: {address.netloc}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n\r\n"
        ).encode()
        async with gate:
            session = _Session(outcome, chat, request)
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    await loop.create_connection(lambda: session, host, port, ssl=context)
                    await session.ready
            except TimeoutError:
                session.end()
                outcome.refused[f"no answer within {CONNECT_TIMEOUT:g} s"] += 1
            except OSError as error:
                outcome.refused[error.strerror or str(error) or type(error).__name__] += 1
            except asyncio.CancelledError:
                if not session.ready.cancelled():  # otherwise it was refused, which is counted
                    raise
            else:
                chat.sessions.append(session)
                outcome.ready += 1
        done += 1
        progress("connecting", done, plan.sessions)

    began = time.perf_counter()
    await asyncio.gather(*(connect(number) for number in range(plan.sessions)))
    outcome.connect_seconds = time.perf_counter() - began


async def _load(plan: Plan, chats: list[_Chat], outcome: Outcome, progress: Progress) -> None:
    if not chats:
        raise BenchError("No chat has two sessions, so nothing can arrive. Fix: use more --sessions.")
    began = time.perf_counter()
    scheduled = 0
    while (elapsed := time.perf_counter() - began) < plan.seconds:
        due = math.ceil(elapsed * plan.rate)
        if due > scheduled:
            outcome.late = max(outcome.late, elapsed - scheduled / plan.rate)
        while scheduled < due:
            chats[scheduled % len(chats)].send(outcome, plan.mode)
            scheduled += 1
        progress("load", int(elapsed * 10), int(plan.seconds * 10))
        await asyncio.sleep(TICK)
    outcome.seconds = time.perf_counter() - began
    deadline = time.perf_counter() + DRAIN
    while outcome.received < outcome.expected and time.perf_counter() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    progress("load", int(plan.seconds * 10), int(plan.seconds * 10))


def _decoded(event: bytes) -> dict[str, Any]:
    try:
        decoded = json.loads(event)
    except ValueError:
        return {}
    return decoded if isinstance(decoded, dict) else {}
