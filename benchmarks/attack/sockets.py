"""Sessions on bare sockets, plain or over TLS: cheap enough to open thousands, and free to misbehave."""

from __future__ import annotations

import asyncio
import base64
import secrets
import socket
import ssl
import struct
from dataclasses import dataclass
from pathlib import Path

HEADER = "X-Client-Address"
"""The header in which the attackers and the honest name their addresses; the server is told to trust it."""
PROFILE = f"""
host = "127.0.0.1"
log_level = "info"
allow_memory_backend = true
client_address_header = "{HEADER}"
"""

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True)
class Target:
    """The server: its port on loopback, and the certificate authority to trust if it speaks TLS."""

    port: int
    secret: str
    authority: str = ""

    async def connect(self, address: str, window: int = 0) -> Stream:
        """A connected stream; ``window`` is the size of its receive buffer in bytes, 0 the system's own.

        Behind a proxy, which speaks TLS for the server, all come from the proxy's address. Without one each
        address is here one of loopback's.
        """
        bare = socket.socket()
        bare.setblocking(False)
        if self.authority:
            bare.bind(("127." + address.partition(".")[2], 0))
        if window:
            bare.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        try:
            await asyncio.get_running_loop().sock_connect(bare, ("127.0.0.1", self.port))
        except BaseException:
            bare.close()
            raise
        context = None
        if self.authority:
            context = ssl.create_default_context(cafile=self.authority)
        return await asyncio.open_connection(
            sock=bare, ssl=context, server_hostname="localhost" if context else None, limit=1 << 16
        )

    async def session(self, token: str, address: str, window: int = 0) -> Stream:
        """An upgraded session. Raises OSError or EOFError if it is refused."""
        reader, writer = await self.connect(address, window)
        writer.write(upgrade(token, address))
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except BaseException:
            writer.transport.abort()
            raise
        if b" 101 " not in head:
            writer.transport.abort()
            raise OSError(head[:40])
        return reader, writer


def certificate(folder: Path) -> tuple[Path, Path, Path]:
    """A certificate for localhost, its key, and the authority that signed it, as files in the folder."""
    import trustme

    authority = trustme.CA()
    made = authority.issue_cert("localhost", "127.0.0.1")
    paths = folder / "server.pem", folder / "server.key", folder / "authority.pem"
    paths[0].write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    made.private_key_pem.write_to_path(str(paths[1]))
    authority.cert_pem.write_to_path(str(paths[2]))
    return paths


def frame(payload: bytes, opcode: int = 0x81) -> bytes:
    """A client's frame, masked with zeros; ``opcode`` is its first byte, a final text frame by default."""
    size = bytes((0x80 | len(payload),)) if len(payload) < 126 else struct.pack("!BH", 0xFE, len(payload))
    return bytes((opcode,)) + size + bytes(4) + payload


def get(path: str, address: str) -> bytes:
    """A GET request."""
    lines = f"GET {path} HTTP/1.1", "Host: localhost", "Accept-Encoding: gzip", f"{HEADER}: {address}", "", ""
    return "\r\n".join(lines).encode()


def upgrade(token: str, address: str) -> bytes:
    """The request of an upgrade."""
    key = base64.b64encode(secrets.token_bytes(16)).decode()
    return (
        f"GET /ws?token={token} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
        f"{HEADER}: {address}\r\n\r\n"
    ).encode()


async def next_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The next frame's opcode and payload."""
    first, size = await reader.readexactly(2)
    if size == 126:
        size = int.from_bytes(await reader.readexactly(2), "big")
    elif size == 127:
        size = int.from_bytes(await reader.readexactly(8), "big")
    return first & 15, await reader.readexactly(size)
