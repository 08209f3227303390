"""The code and reason that a session ends with, on each sort of socket: what the peer reads, and what
`on_close` sees.
"""

import asyncio
import os
import socket
from typing import Any

import pytest

from eclipse_ws.websocket import Audience, text_frame
from tests.websocket.lines import KINDS, OFFER, Deflates, line
from tests.websocket.peer import CLOSE, TEXT, Peer, client_frame, close_frame, serving, upgrade

pytestmark = pytest.mark.usefixtures("both_ways")

FIN = 0x80
pytestmark = pytest.mark.parametrize("kind", KINDS)


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4999])
@pytest.mark.gen_test
async def test_the_peers_close(code: int, kind: str, sides: Any) -> None:
    """A peer's close is answered with its code, and ends the session."""
    async with line(kind, sides) as here:
        peer, session = await here.open()
        peer.send(close_frame(code, b"because"))
        assert await peer.closed() == (code, "")
        assert await session.ended() == (code, "because")


@pytest.mark.gen_test
async def test_the_peers_close_and_its_end_at_once(kind: str, sides: Any) -> None:
    """Messages right before a peer leaves are handled, and its close ends the session."""
    async with line(kind, sides) as here:
        peer, session = await here.open()
        peer.send(client_frame(TEXT, b"last words") + close_frame(4001, b"because"))
        peer.drop()
        assert await session.ended() == (4001, "because")
        assert session.events[:-1] == ["open", "last words"]


@pytest.mark.gen_test
async def test_the_peers_close_without_a_code(kind: str, sides: Any) -> None:
    """An empty close is answered with an empty one, and is 1005."""
    async with line(kind, sides) as here:
        peer, session = await here.open()
        peer.send(close_frame())
        assert await peer.closed() == (None, "")
        assert await session.ended() == (1005, "")


@pytest.mark.parametrize("answer", [close_frame(4003), close_frame(1000, b"fine"), close_frame()])
@pytest.mark.gen_test
async def test_our_close(answer: bytes, kind: str, sides: Any) -> None:
    """The session ends with our close, whatever the peer answers."""
    async with line(kind, sides) as here:
        peer, session = await here.open()
        session.close(4003, "out")
        assert await peer.frame() == (FIN | CLOSE, (4003).to_bytes(2, "big") + b"out")
        peer.send(answer)
        await peer.gone()
        assert await session.ended() == (4003, "out")


@pytest.mark.gen_test
async def test_a_violation(kind: str, sides: Any) -> None:
    """A protocol violation gets 1002 and a reason, and the session ends with both."""
    async with line(kind, sides) as here:
        peer, session = await here.open()
        peer.send(client_frame(3, b"?"))
        told = await peer.closed()
        assert told[0] == 1002
        assert told[1]
        assert await session.ended() == told


@pytest.mark.parametrize("before", [b"", client_frame(TEXT, b"half")[:5]], ids=["nothing", "half a frame"])
@pytest.mark.parametrize("leave", [Peer.drop, Peer.reset])
@pytest.mark.gen_test
async def test_no_close_frame(leave: Any, before: bytes, kind: str, sides: Any) -> None:
    """A peer that leaves or resets without a close frame, also if it ends its TLS, is 1006."""
    async with line(kind, sides) as here:
        peer, session = await here.open()
        peer.send(before)
        leave(peer)
        assert await session.ended() == (1006, "")


@pytest.mark.gen_test
async def test_an_abort(kind: str, sides: Any) -> None:
    """An abort discards everything sent in its turn, however much, and is 1006."""
    async with line(kind, sides, wire_queue_bytes=1000) as here:
        peer, session = await here.open()
        audience, wire = Audience(), session.wire
        audience.add(wire)
        wire.send(text_frame(b"own"))
        audience.send(text_frame(os.urandom(2000)))
        wire.abort()
        assert (len(audience), wire.queued, wire.is_closing, wire.is_lost) == (0, 0, True, True)
        await peer.gone()
        assert await session.ended() == (1006, "")


@pytest.mark.gen_test
async def test_a_peer_that_is_lost_after_our_close(kind: str, sides: Any) -> None:
    """A peer that leaves instead of answering our close changes neither code nor reason."""
    async with line(kind, sides) as here:
        peer, session = await here.open()
        session.close(4003, "out")
        assert (await peer.frame())[0] == FIN | CLOSE
        peer.reset()
        assert await session.ended() == (4003, "out")


def connected(port: int, kind: str, sides: Any) -> socket.socket:
    """A blocking client after its upgrade, which reads nothing that it is not asked to read."""
    client = socket.create_connection(("127.0.0.1", port))
    if "tls" in kind:
        client = sides[1].wrap_socket(client, server_hostname="localhost", suppress_ragged_eofs=False)
    client.sendall(upgrade(**(OFFER if "deflate" in kind else {})))
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += client.recv(1)
    return client


def received(client: socket.socket) -> bytes:
    """Everything up to an end in order."""
    whole = b""
    while data := client.recv(4096):
        whole += data
    return whole


@pytest.mark.gen_test
async def test_noise_below_the_frames(kind: str, sides: Any) -> None:
    """Bytes that are not a TLS record end a connection over TLS, whether the peer minds or not, and
    leave no line in the log; elsewhere they break the protocol.
    """
    async with line(kind, sides) as here:
        with await asyncio.to_thread(connected, here.server.port, kind, sides) as client:
            session = here.server.sessions[0]
            os.write(client.fileno(), b"\xff" * 64)
            assert (await session.ended())[0] == (1006 if "tls" in kind else 1002)


class Ends(Deflates):
    """Closes at the first message."""

    def on_message(self, message: str | bytes) -> None:
        """Close."""
        self.close(4003, "out")


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (close_frame(4001), 4001),
        (client_frame(TEXT, b"x") + close_frame(1000), 4003),
        (client_frame(3, b"?"), 1002),
    ],
    ids=["the peer's close", "our close", "a violation"],
)
@pytest.mark.gen_test
async def test_the_connection_ends_in_order(said: bytes, code: int, kind: str, sides: Any) -> None:
    """After the close frames comes an end that a peer can tell from a cut connection, also over TLS."""

    def visit(port: int) -> bytes:
        with connected(port, kind, sides) as client:
            client.sendall(said)
            return received(client)

    async with serving(Ends, ssl=sides[0] if "tls" in kind else None) as server:
        assert (await asyncio.to_thread(visit, server.port))[2:4] == code.to_bytes(2, "big")
        assert (await server.sessions[0].ended())[0] == code
