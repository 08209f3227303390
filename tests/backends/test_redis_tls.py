"""TLS to Redis: whose certificate is trusted, and for which name."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from eclipse_ws.backends.redis.connection import CommandConnection, DisconnectedError, connection
from tests.backends.peer import Peer, silence

gen_test = pytest.mark.gen_test(timeout=20)


def server(authority: trustme.CA, name: str) -> ssl.SSLContext:
    """The TLS files of a server with a certificate of this authority for this name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


@gen_test
@pytest.mark.parametrize(
    ("ours", "name", "options", "accepted"),
    [
        (True, "127.0.0.1", "", True),
        (True, "redis.example", "", False),
        (True, "redis.example", "?ssl_check_hostname=false", True),
        (False, "127.0.0.1", "", False),
    ],
)
async def test_certificates(tmp_path: Path, ours: bool, name: str, options: str, accepted: bool) -> None:
    """With an authority of its own a server needs its certificate, for the name that the URL has."""
    authority = trustme.CA()
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    async with Peer(silence, tls=server(authority if ours else trustme.CA(), name)) as peer:
        made = connection(f"rediss://127.0.0.1:{peer.port}{options}", 1, str(path))
        commands = CommandConnection(made, 1)
        if accepted:
            await commands.connect()
        else:
            with pytest.raises(DisconnectedError, match="certificate"):
                await commands.connect()
        await commands.disconnect()


@gen_test
async def test_a_missing_authority() -> None:
    """Without its file no connection is made, and the next attempt may find it again."""
    commands = CommandConnection(connection("rediss://127.0.0.1:1", 1, "/no/such/file.pem"), 1)
    with pytest.raises(DisconnectedError, match="can't be read"):
        await commands.connect()
