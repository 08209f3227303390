"""Everything except commands: control frames, fragments, pieces of frames, and what comes after a close."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from eclipse_ws.server.server import Server
from tests.attacks.test_tls import Authority, join
from tests.client import Client, running, token, until
from tests.websocket.peer import CONTINUATION, PING, PONG, TEXT, Peer, client_frame

KINDS = ("plain", "tls", "compressed")
CLOSE = 0x88
REASON = (4009).to_bytes(2, "big") + b"Rate limit exceeded: frame_rate"
BIG = client_frame(TEXT, b"x" * 60_000)
FLOODS = {
    "pings": [client_frame(PING)] * 1000,
    "pongs": [client_frame(PONG)] * 1000,
    "fragments": [client_frame(TEXT, fin=False), *[client_frame(CONTINUATION, fin=False)] * 1000],
    "bytes": [BIG[at : at + 1] for at in range(1000)],
    "buffered": [client_frame(PING) * 10_000],
}


class Site:
    """A server of one kind, with a neighbour in another chat."""

    def __init__(self, server: Server, neighbour: Client, options: dict[str, Any]) -> None:
        self.server = server
        self.neighbour = neighbour
        self.options = options

    async def visit(self, user: str = "f") -> Peer:
        """A greeted peer that sends exactly what it is told to."""
        peer = await Peer.open(self.server.port, f"/ws?token={token(user=user)}", **self.options)
        assert (await peer.frame())[0] & 0x0F == TEXT
        return peer


@contextlib.asynccontextmanager
async def site(kind: str, folder: Path, **given: object) -> AsyncIterator[Site]:
    """Serve plain, over TLS, or with compression."""
    options: dict[str, Any] = {}
    context: ssl.SSLContext | None = None
    if kind == "tls":
        authority = Authority(folder)
        context = authority.context()
        given |= authority.settings
        options = {"ssl": context}
    elif kind == "compressed":
        given["compression"] = True
        options = {"sec_websocket_extensions": "permessage-deflate"}
    async with running(**{"server.server.CLOSE_TIMEOUT": 0.3}, **given) as server:
        if context is None:
            neighbour = await Client.join(server.port, "c2", "n")
        else:
            neighbour = await join(server.port, context, "n")
        try:
            yield Site(server, neighbour, options)
        finally:
            await neighbour.close()
            while Peer.alive:
                await Peer.alive.pop().forget()


async def say(peer: Peer, pieces: list[bytes]) -> None:
    """Send each in a packet of its own, until the server stops reading."""
    for piece in pieces:
        if peer.writer.transport.is_closing():
            return
        peer.send(piece)
        for _ in range(3):
            await asyncio.sleep(0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flood", FLOODS)
@pytest.mark.gen_test
async def test_a_flood_of_control_frames_is_closed(flood: str, kind: str, tmp_path: Path) -> None:
    """4009 names the limit, the refusal is counted, it ends in time, and the neighbour notices nothing."""
    async with site(kind, tmp_path) as here:
        peer = await here.visit()
        stats = here.server.node.wire_stats
        before = stats.frames_in
        await say(peer, FLOODS[flood])
        while (frame := await peer.frame())[0] != CLOSE:
            pass
        assert frame[1] == REASON
        assert stats.frames_in - before < 700  # of a thousand and more
        limits = here.server.node.limits
        assert (limits.refused["frame_rate"], limits.closed) == (1, 1)
        await here.neighbour.quiet()
        await until(lambda: here.server.hub.sessions == 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.gen_test
async def test_a_sender_that_flooded_with_frames_must_wait(kind: str, tmp_path: Path) -> None:
    """The user's next session is refused, as after a flood of commands; another user's is not."""
    async with site(kind, tmp_path) as here:
        peer = await here.visit()
        peer.send(client_frame(PING) * 1000)
        while (await peer.frame())[0] != CLOSE:
            pass
        again = await Peer.open(here.server.port, f"/ws?token={token(user='f')}", **here.options)
        assert (await again.frame())[1][2:] == b"Rate limit exceeded: rate_penalty"
        await here.visit("other")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.gen_test
async def test_honest_clients_are_not_closed(kind: str, tmp_path: Path) -> None:
    """Large messages in fragments and over slow connections pass, with a few pings each second."""
    async with site(kind, tmp_path) as here:
        peer = await here.visit()
        text = b'{"type": "typing", "isTyping": true, "padding": "' + b"x" * 60_000 + b'"}'
        parts = [text[at : at + 1024] for at in range(0, len(text), 1024)]
        frames = [
            client_frame(CONTINUATION if number else TEXT, part, fin=number == len(parts) - 1)
            for number, part in enumerate(parts)
        ]
        whole = client_frame(TEXT, text)
        slow = [whole[at : at + 1400] for at in range(0, len(whole), 1400)]
        for _ in range(4):
            await say(peer, [*frames, client_frame(PING), *slow, client_frame(TEXT, b'{"type": "ping"}')])
        for _ in range(4):
            while (frame := await peer.frame())[0] & 0x0F != TEXT:
                assert frame[0] & 0x0F != CLOSE & 0x0F
        assert here.server.node.limits.refused["frame_rate"] == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["frames", "bytes"])
@pytest.mark.gen_test
async def test_a_closed_flooder_is_not_read(how: str, kind: str, tmp_path: Path) -> None:
    """After 4009 a flooder is read a bounded number of times, and is gone after `close_timeout`."""
    rates = {"command_rate": 0.001, "security.limits.RATE_PATIENCE": 1}
    async with site(kind, tmp_path, **rates) as here:
        peer = await here.visit()
        await say(peer, [client_frame(TEXT, b'{"type": "ping"}')] * 3)
        while (await peer.frame())[0] != CLOSE:
            pass
        stats = here.server.node.wire_stats
        before, frames = stats.bytes_in, stats.frames_in
        spam = [client_frame(TEXT, b"spam") * 1000] * 100
        await say(peer, spam if how == "frames" else FLOODS["bytes"])
        assert stats.bytes_in - before < (300_000 if how == "frames" else 600)
        assert stats.frames_in - frames < 300
        await here.neighbour.quiet()
        await until(lambda: here.server.hub.sessions == 1)
