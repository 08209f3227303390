"""What attacks: one method for each kind, each repeated for ever by as many tasks as there are attackers.

Run as a process of its own, which prints what it has done once a second, as JSON, until it is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import sys
import time
from collections import Counter
from typing import Final

from benchmarks.attack.sockets import Stream, Target, frame, get, upgrade
from eclipse_ws.commands.tokens import mint

KINDS: Final = {
    "flood": 1000,
    "never_read": 1000,
    "half_open": 1000,
    "unread": 500,
    "unfinished": 500,
    "requests": 20,
    "after_close": 20,
    "control": 20,
    "herd": 1000,
}
"""The kinds of attackers, and how many there are of each."""
USUAL: Final = [kind for kind in KINDS if kind != "herd"]
"""Who attacks if nothing else is asked for."""
TOGETHER: Final = 2.0
"""Seconds from one moment at which the herd comes to the next."""
ADDRESSES: Final = 20
PAUSE: Final = 0.5
"""Seconds until an attacker that was refused or cut off comes back."""
COMMANDS: Final = b"".join(
    (
        frame(b'{"type":"typing","isTyping":true}'),
        frame(b'{"type":"message","content":"spam","role":"USER","clientMessageId":"x"}'),
        frame(b'{"type":"message","content":"spam","role":"AGENT"}'),
        frame(b"not json"),
        frame(b'{"type":"ping"}'),
    )
)
# Pings, pongs, and a text message of empty fragments that never ends.
CONTROL: Final = (frame(b"", 0x89) + frame(b"", 0x8A)) * 500 + frame(b"", 0x01) + frame(b"", 0x00) * 5000
PAGES: Final = ("/health", "/metrics", "/widget.js", "/eclipse-chat.js")
GONE: Final = (OSError, EOFError, ssl.SSLError, asyncio.LimitOverrunError)


class Attackers:
    """All attackers of one target; ``scale`` multiplies how many there are of each kind."""

    def __init__(self, target: Target, kinds: list[str], scale: float) -> None:
        self.target, self.kinds, self.scale = target, kinds, scale
        self.done: Counter[str] = Counter()

    async def run(self) -> None:
        """Attack with all kinds at once."""
        async with asyncio.TaskGroup() as group:
            for kind in self.kinds:
                for number in range(max(1, round(KINDS[kind] * self.scale))):
                    group.create_task(self._repeat(kind, number))
            group.create_task(self._report())

    async def _repeat(self, kind: str, number: int) -> None:
        """Come back whatever happens."""
        attack = getattr(self, kind)
        while True:
            with contextlib.suppress(*GONE):
                await attack(number, f"93.184.{number % ADDRESSES}.1")
            self.done[f"{kind} ended"] += 1
            await asyncio.sleep(PAUSE)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(1)
            sys.stdout.write(json.dumps(self.done) + "\n")
            sys.stdout.flush()

    async def _session(self, chat: str, user: str, address: str, window: int = 0) -> Stream:
        return await self.target.session(mint(self.target.secret, chat, user, False), address, window)

    async def _send_until_cut(self, stream: Stream, data: bytes, kind: str, read: bool) -> None:
        """Send the same bytes as fast as they are taken; reading what comes, or not."""
        reader, writer = stream
        if not read:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
        try:
            while not writer.transport.is_closing() and not reader.at_eof():
                writer.write(data)
                self.done[f"{kind} KB"] += len(data) // 1000
                await writer.drain()
                await asyncio.sleep(0)
                if read and reader._buffer:  # type: ignore[attr-defined]
                    await reader.read(1 << 16)
        finally:
            writer.transport.abort()

    async def flood(self, number: int, address: str) -> None:
        """Commands of every kind, as fast as they are taken; gone when the server says so."""
        stream = await self._session(f"flood-{number % 100}", f"f{number}", address)
        await self._send_until_cut(stream, COMMANDS * 20, "flood", read=True)

    async def herd(self, number: int, address: str) -> None:
        """A flood that begins, and begins again, at the same moment as all others'."""
        await asyncio.sleep(TOGETHER - time.monotonic() % TOGETHER)
        await self.flood(number, address)

    async def after_close(self, number: int, address: str) -> None:
        """A flood that goes on after the server's close frame, which nobody reads or answers."""
        stream = await self._session(f"deaf-{number}", f"d{number}", address)
        await self._send_until_cut(stream, COMMANDS * 100, "after_close", read=False)

    async def control(self, number: int, address: str) -> None:
        """Frames that are no messages."""
        stream = await self._session(f"control-{number}", f"c{number}", address)
        await self._send_until_cut(stream, CONTROL, "control", read=True)

    async def never_read(self, number: int, address: str) -> None:
        """Join a chat in which every tenth speaks at length, and read nothing."""
        stream = await self._session(f"slow-{number // 10}", f"s{number}", address, window=4096)
        writer = stream[1]
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

    async def half_open(self, number: int, address: str) -> None:
        """Half of an upgrade, then silence until the server has had enough."""
        reader, writer = await self.target.connect(address)
        writer.write(upgrade("x", address)[:60])
        try:
            await reader.read()
        finally:
            writer.transport.abort()

    async def unread(self, number: int, address: str) -> None:
        """200 requests for a file in one piece, of whose answers nothing is read."""
        _, writer = await self.target.connect(address, window=4096)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        try:
            writer.write(get("/widget.js", address) * 200)
            await writer.drain()
            # Without reading, a close shows only when something is sent.
            while not writer.transport.is_closing():
                await asyncio.sleep(1)
                writer.write(b"G")
        finally:
            writer.transport.abort()

    async def requests(self, number: int, address: str) -> None:
        """Requests for what costs most to answer, as fast as the answers come."""
        reader, writer = await self.target.connect(address)
        asked = b"".join(get(page, address) for page in PAGES) * 10
        await self._send_until_cut((reader, writer), asked, "requests", read=True)

    async def unfinished(self, number: int, address: str) -> None:
        """A body, or a message, that is never finished."""
        if number % 2:
            reader, writer = await self._session(f"unfinished-{number}", f"u{number}", address)
            data = frame(b"x" * 60000)[:-1]
        else:
            reader, writer = await self.target.connect(address)
            head = f"POST /api/chats/c/events HTTP/1.1\r\nHost: localhost\r\nX-Client-Address: {address}\r\n"
            data = f"{head}Content-Length: 262144\r\n\r\n".encode() + b"x" * 262143
        try:
            writer.write(data)
            await reader.read()
        finally:
            writer.transport.abort()
