"""wss without a proxy: real certificates, TLS 1.2 and later, and a new certificate by a reload."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import trustme
from tornado.iostream import SSLIOStream

from eclipse_ws.config.key_material import tls_context
from eclipse_ws.config.loading import Loaded, load
from eclipse_ws.config.problems import SettingsError
from eclipse_ws.server.acceptor import RECORDS_PER_TURN
from tests.client import UPGRADE, Client, exchange, running, token, until
from tests.conftest import make_settings


class Authority:
    """A certificate authority, and the two files that a server gets of it."""

    def __init__(self, folder: Path, name: str = "server") -> None:
        self.ca = trustme.CA()
        self.certificate, self.key = folder / f"{name}.pem", folder / f"{name}.key"
        self.issue()

    def issue(self) -> int:
        """Write a fresh certificate to the same files; its serial number."""
        made = self.ca.issue_cert("localhost", "127.0.0.1")
        made.private_key_pem.write_to_path(str(self.key))
        self.certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        der = ssl.PEM_cert_to_DER_cert(made.cert_chain_pems[0].bytes().decode())
        from cryptography.x509 import load_der_x509_certificate

        return load_der_x509_certificate(der).serial_number

    @property
    def settings(self) -> dict[str, str]:
        """The server's settings."""
        return {"tls_cert": str(self.certificate), "tls_key": str(self.key)}

    def context(self) -> ssl.SSLContext:
        """What a client trusts."""
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        return context


async def join(port: int, context: ssl.SSLContext, user: str = "u1") -> Client:
    """A greeted session over TLS."""
    from websockets.asyncio.client import connect

    uri = f"wss://localhost:{port}/ws?token={token(user=user)}"
    client = Client(await connect(uri, ssl=context, ping_interval=None, compression=None, proxy=None))
    client.connected = await client.next("connected")
    return client


def serial(client: Client) -> int:
    """The serial number of the certificate that the session's server showed."""
    return int(client.socket.transport.get_extra_info("peercert")["serialNumber"], 16)


@pytest.mark.gen_test
async def test_a_chat_over_tls(tmp_path: Path) -> None:
    """Two sessions talk over wss; plain HTTP on the same port gets nothing."""
    authority = Authority(tmp_path)
    async with (
        running(**authority.settings) as server,
        await join(server.port, authority.context()) as one,
        await join(server.port, authority.context(), "u2") as two,
    ):
        await one.say(type="message", content="hello", role="USER", clientMessageId="k")
        assert (await two.next("message"))["data"]["content"] == "hello"
        await one.seek("ack")
        with pytest.raises((OSError, EOFError)):
            await exchange(server.port, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        await two.quiet()


@pytest.mark.gen_test
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_old_tls_is_refused(tmp_path: Path) -> None:
    """TLS 1.1 ends in the handshake, 1.2 and 1.3 don't."""
    authority = Authority(tmp_path)
    async with running(**authority.settings) as server:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = authority.context()
            context.minimum_version = context.maximum_version = version
            await (await join(server.port, context)).close()
        old = authority.context()
        old.set_ciphers("ALL:@SECLEVEL=0")
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await join(server.port, old)


@pytest.mark.gen_test
async def test_broken_records_write_no_warnings(tmp_path: Path) -> None:
    """A peer that has done the handshake and then sends no TLS is cut off, at any time, without a line that
    an operator would have to read (the fixture of all tests fails on a warning)."""
    authority = Authority(tmp_path)
    context = authority.context()
    request = [f"GET /ws?token={token()} HTTP/1.1", "Host: x", *(f"{k}: {v}" for k, v in UPGRADE.items())]
    upgrade = "\r\n".join(request).encode() + b"\r\n\r\n"
    garbage = b"not a TLS record" * 10

    def visit(port: int, first: bytes, wait: bool) -> bytes:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
        with socket.create_connection(("127.0.0.1", port)) as raw:
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    raw.sendall(outgoing.read())
                    incoming.write(raw.recv(65536))
            if first:
                tls.write(first)
            if wait:
                raw.sendall(outgoing.read())
                answer = b""
                while b" 101 " not in answer:
                    incoming.write(raw.recv(65536))
                    with contextlib.suppress(ssl.SSLWantReadError):
                        answer += tls.read(65536)
            raw.sendall(outgoing.read() + garbage)
            received = b""
            with contextlib.suppress(ConnectionError):
                while data := raw.recv(65536):
                    received += data
            return received

    async with running(**authority.settings) as server:
        for first, wait in ((b"", False), (upgrade[:50], False), (upgrade, False), (upgrade, True)):
            await asyncio.to_thread(visit, server.port, first, wait)
        await until(lambda: server.hub.sessions == 0)
        await (await join(server.port, context)).close()


def test_renegotiation_is_refused(tmp_path: Path) -> None:
    """A handshake within a connection, which costs the server more than the client, is refused."""
    settings = Authority(tmp_path).settings
    options = tls_context(settings["tls_cert"], settings["tls_key"]).options
    assert options & ssl.OP_NO_RENEGOTIATION
    usual = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).options
    assert options & usual == usual  # what Python forbids stays forbidden


def loaded(**given: Any) -> Loaded:
    """Freshly loaded settings."""
    settings = make_settings(**given)
    return Loaded(settings, dict.fromkeys(type(settings).model_fields, "environment"))


@pytest.mark.gen_test
async def test_a_new_certificate_without_a_new_session(tmp_path: Path) -> None:
    """After a reload new sessions see the new certificate, and the old session continues."""
    authority = Authority(tmp_path)
    async with (
        running(**authority.settings) as server,
        await join(server.port, authority.context()) as client,
    ):
        before = serial(client)
        fresh = authority.issue()
        server.reload(loaded(**authority.settings))
        async with await join(server.port, authority.context(), "u2") as other:
            assert serial(other) == fresh != before
        await client.quiet()


@pytest.mark.gen_test
async def test_a_broken_certificate_leaves_the_good_one(tmp_path: Path, expect_log: Any) -> None:
    """A reload with a key that does not match is reported, and the server keeps its certificate."""
    expect_log("certificate reload failed")
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    async with (
        running(**authority.settings) as server,
        await join(server.port, authority.context()) as client,
    ):
        authority.key.write_bytes(other.key.read_bytes())
        server.reload(loaded(**authority.settings))
        async with await join(server.port, authority.context(), "u2") as late:
            assert serial(late) == serial(client)


@pytest.mark.parametrize(
    ("given", "name", "problem"),
    [
        ({"ECLIPSE_TLS_CERT": "{cert}"}, "ECLIPSE_TLS_KEY", "counterpart"),
        ({"ECLIPSE_TLS_KEY": "{key}"}, "ECLIPSE_TLS_CERT", "counterpart"),
        ({"ECLIPSE_TLS_CERT": "/none", "ECLIPSE_TLS_KEY": "{key}"}, "ECLIPSE_TLS_CERT", "can't be read"),
        (
            {"ECLIPSE_TLS_CERT": "{cert}", "ECLIPSE_TLS_KEY": "{cert}"},
            "ECLIPSE_TLS_CERT",
            "not a certificate",
        ),
        ({"ECLIPSE_TLS_CERT": "{key}", "ECLIPSE_TLS_KEY": "{key}"}, "ECLIPSE_TLS_CERT", "not a certificate"),
        ({"ECLIPSE_TLS_CERT": "{big}", "ECLIPSE_TLS_KEY": "{key}"}, "ECLIPSE_TLS_CERT", "more than"),
        ({"ECLIPSE_JWT_PUBLIC_KEY": "/none"}, "ECLIPSE_JWT_PUBLIC_KEY", "can't be read"),
        ({"ECLIPSE_JWT_PREVIOUS_SECRETS": "changeme"}, "ECLIPSE_JWT_PREVIOUS_SECRETS", "placeholder"),
        (
            {"ECLIPSE_JWT_PREVIOUS_SECRETS": ",".join(f"{n}" * 40 for n in range(9))},
            "ECLIPSE_JWT_PREVIOUS_SECRETS",
            "at most 8",
        ),
    ],
)
def test_a_mismatched_certificate_is_a_problem(
    tmp_path: Path, given: dict[str, str], name: str, problem: str
) -> None:
    """Half a pair, a missing file, the wrong file: a sentence at the start that names the variable."""
    authority = Authority(tmp_path)
    big = tmp_path / "big"
    big.write_bytes(b"x" * 70000)
    places = {"cert": str(authority.certificate), "key": str(authority.key), "big": str(big)}
    environ = {key: value.format(**places) for key, value in given.items()}
    with pytest.raises(SettingsError) as caught:
        load("test", environ=environ, dotenv=tmp_path / "none")
    assert [problem.name for problem in caught.value.problems] == [name]
    assert problem in str(caught.value)


def test_production_with_a_public_key_needs_no_secret(tmp_path: Path) -> None:
    """JWT_SECRET may be missing if a public key verifies; an empty list of origins is a warning."""
    from tests.attacks.test_identity import RSA, pem

    environ = {
        "ECLIPSE_JWT_PUBLIC_KEY": pem(RSA),
        "ECLIPSE_ALLOW_EMBEDDED_API": "true",
        "ECLIPSE_API": "embedded",
        "ECLIPSE_ALLOW_MEMORY_BACKEND": "true",
        "ECLIPSE_CLIENT_ADDRESS_HEADER": "Fly-Client-IP",
        "ECLIPSE_TRUSTED_PROXIES": "2",
    }
    found = load("prod", environ=environ, dotenv=tmp_path / "none")
    assert any("ALLOWED_ORIGINS is empty" in warning for warning in found.warnings)
    assert any("ECLIPSE_TRUSTED_PROXIES" in warning for warning in found.warnings)
    assert json.dumps(found.warnings)


@pytest.mark.gen_test
@pytest.mark.parametrize("head", ["Content-Length: 2000\r\n\r\n", "X: "])
async def test_records_of_a_request_take_turns(
    head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body or headers in TLS records of one byte each are answered, and don't block others for long."""
    authority = Authority(tmp_path)
    turns, reads = 0, Counter[int]()

    def turn() -> None:
        nonlocal turns
        turns += 1
        timer[0] = asyncio.get_running_loop().call_soon(turn)

    read = SSLIOStream.read_from_fd

    def counted(stream: SSLIOStream, buf: Any) -> int | None:
        size = read(stream, buf)
        reads[turns] += size is not None
        return size

    monkeypatch.setattr(SSLIOStream, "read_from_fd", counted)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = authority.context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    async with running(**authority.settings) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                incoming.write(await reader.read(65536))
        for byte in f"POST /nope HTTP/1.1\r\nHost: x\r\n{head}{'x' * 2000}\r\n\r\n".encode():
            tls.write(bytes((byte,)))
        timer = [asyncio.get_running_loop().call_soon(turn)]
        writer.write(outgoing.read())
        answer = b""
        while b"404" not in answer:
            incoming.write(await reader.read(65536))
            with contextlib.suppress(ssl.SSLWantReadError):
                answer += tls.read(65536)
        timer[0].cancel()
        writer.close()
    assert sum(reads.values()) > 2000
    assert max(reads.values()) <= 2 * RECORDS_PER_TURN
