"""The load generator against a small server: what it counts as a delivery, and what each member says."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.loads import SOURCE
from tests import needs

ACCEPT = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
PUSH = '{"push":{"channel":"c","pub":{"data":{}}}}'


def frame(text: str) -> bytes:
    """A server's text frame."""
    data = text.encode()
    return (
        b"\x81" + (bytes([len(data)]) if len(data) < 126 else b"\x7e" + len(data).to_bytes(2, "big")) + data
    )


class Chat:
    """A chat of all who connect, in Centrifugo's protocol; keeps what it was sent."""

    def __init__(self) -> None:
        self.members: list[asyncio.StreamWriter] = []
        self.heard: list[str] = []
        self.peers: list[str] = []
        self.asked: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One member."""
        head = await reader.readuntil(b"\r\n\r\n")
        if b"Upgrade: " not in head:
            await self._answer(head, reader, writer)
            return
        writer.write(ACCEPT)
        self.peers.append(writer.get_extra_info("peername")[0])
        while True:
            try:
                text = await self._text(reader)
            except EOFError:
                break
            self.heard.append(text)
            if "connect" in text:
                writer.write(frame('{"id":1,"connect":{}}'))
                self.members.append(writer)
            elif "publish" in text:
                for member in self.members:
                    # A reply, the message and a ping in one frame, as a batch.
                    reply = '{"id":2,"publish":{}}\n' if member is writer else ""
                    member.write(frame(f"{reply}{PUSH}\n{{}}"))
        writer.close()

    async def _answer(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Every request of a connection, the third with an error, in pieces; then end the connection."""
        for number in range(5):
            self.asked.append(head.decode())
            status = "404 Not Found" if number == 2 else "200 OK"
            answer = f"HTTP/1.1 {status}\r\nContent-Length: 3000\r\n\r\n" + 3000 * "x"
            for piece in (answer[:20], answer[20:2000], answer[2000:]):
                writer.write(piece.encode())
                await asyncio.sleep(0.01)
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except (EOFError, OSError):
                break
        writer.close()

    async def _text(self, reader: asyncio.StreamReader) -> str:
        _, size = await reader.readexactly(2)
        size &= 127
        if size == 126:
            size = int.from_bytes(await reader.readexactly(2), "big")
        mask = await reader.readexactly(4)
        return bytes(byte ^ mask[at % 4] for at, byte in enumerate(await reader.readexactly(size))).decode()


async def run(program: Path, targets: Path, phase: str, *more: str) -> tuple[Chat, list[dict[str, Any]]]:
    """The generator on a chat of two."""
    chat = Chat()
    server = await asyncio.start_server(chat.serve, "127.0.0.1", 0)
    argv = ["--ports", str(server.sockets[0].getsockname()[1]), "--targets", str(targets), "--per-chat", "2"]
    argv += ["--centrifugo", "--ready", '"connect":', "--from", "7", *more, phase]
    process = await asyncio.create_subprocess_exec(
        program, *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    said = (await process.communicate())[0]
    await asyncio.sleep(0.1)
    server.close()
    return chat, [json.loads(line) for line in said.splitlines()]


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled load generator."""
    compiler = needs.program("gcc", "Debian: apt-get install gcc libc6-dev")
    program = tmp_path_factory.mktemp("load") / "load"
    subprocess.run([compiler, "-O2", "-Wall", "-Werror", "-o", str(program), str(SOURCE)], check=True)
    return program


@pytest.mark.skipif(sys.platform != "linux", reason="the load generator needs epoll")
def test_centrifugo_is_spoken(generator: Path, tmp_path: Path) -> None:
    """Each member sends its own greeting, the sender its own payload; only a push is a delivery."""
    lines = [f'/\t{{"id":1,"connect":{{"token":"{name}"}}}}\t{{"publish":"{name}"}}' for name in "ab"]
    targets = tmp_path / "targets"
    targets.write_text("\n".join(lines))
    chat, (connects, rate) = asyncio.run(run(generator, targets, "rate:10:1"))
    assert (connects["ready"], connects["failed"]) == (2, 0)
    assert sorted(text for text in chat.heard if "token" in text) == [line.split("\t")[1] for line in lines]
    assert rate["sends"] == chat.heard.count('{"publish":"a"}') > 5
    assert '{"publish":"b"}' not in chat.heard
    assert rate["deliveries"] == 2 * rate["sends"]
    assert rate["latency_us"]["count"] == rate["sends"]
    assert chat.heard.count("{}") == 2 * rate["sends"]
    assert set(chat.peers) == {"127.0.0.7"}


@pytest.mark.skipif(sys.platform != "linux", reason="the load generator needs epoll")
def test_http_is_fetched_beside_the_load(generator: Path, tmp_path: Path) -> None:
    """By each client one request at a time, on new connections too; every second a scrape with its header."""
    targets = tmp_path / "targets"
    targets.write_text('/\t{"connect":1}\t{"publish":1}\n' * 2)
    more = ("--fetchers", "3", "--fetch", "/file", "--scrape", "/scraped", "--header", "X-Secret: s")
    chat, (_, beside) = asyncio.run(run(generator, targets, "beside:10:1.5", *more))
    files = [request for request in chat.asked if request.startswith("GET /file ")]
    scrapes = [request for request in chat.asked if request.startswith("GET /scraped ")]
    assert beside["scraped"] == len(scrapes) == 2
    assert beside["fetched"] > 15  # more than three connections of five requests
    assert beside["fetched"] <= len(files) <= beside["fetched"] + 3
    assert beside["refused"] == pytest.approx(len(files) / 5, abs=3)
    assert all("X-Secret: s\r\n" in request for request in scrapes)
    assert not any("X-Secret" in request for request in files)
    assert beside["deliveries"] == 2 * beside["sends"] > 10
