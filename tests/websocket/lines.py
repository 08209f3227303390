"""A server of each kind of socket, and peers that connect to it: plain, over TLS, compressed, or both."""

import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import Any

from tests.websocket.peer import Peer, Recorder, serving, until

KINDS = ("plain", "tls", "deflate", "tls and deflate")
OFFER = {"Sec_WebSocket_Extensions": "permessage-deflate"}


class Counts(Recorder):
    """Keeps its messages, answers none, and counts its floods."""

    floods = 0

    def on_message(self, message: str | bytes) -> Any:
        """Keep it."""
        self.events.append(message)

    def on_flood(self) -> None:
        """Count it."""
        self.floods += 1


class Deflates(Counts):
    """Compresses if the client wants it."""

    def get_compression_options(self) -> dict[str, Any] | None:
        """Yes."""
        return {}


class Line:
    """A server of one kind, and how to reach it."""

    def __init__(self, server: Any, kind: str, client_side: ssl.SSLContext) -> None:
        self.server = server
        self.options: dict[str, Any] = {"ssl": client_side} if "tls" in kind else {}
        if "deflate" in kind:
            self.options |= OFFER

    async def open(self, **more: Any) -> tuple[Peer, Any]:
        """A peer, and its session."""
        peer = await Peer.open(self.server.port, **self.options, **more)
        await until(lambda: self.server.sessions)
        return peer, self.server.sessions[-1]


@contextlib.asynccontextmanager
async def line(
    kind: str,
    sides: tuple[ssl.SSLContext, ssl.SSLContext],
    handler: type[Recorder] | None = None,
    **bounds: Any,
) -> AsyncIterator[Line]:
    """Serve one sort of socket; a handler of one's own compresses if it is one that `Deflates`."""
    if handler is None:
        handler = Deflates if "deflate" in kind else Counts
    async with serving(handler, ssl=sides[0] if "tls" in kind else None, **bounds) as server:
        yield Line(server, kind, sides[1])
