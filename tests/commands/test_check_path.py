"""`check` connects as the server does: in each case it finds what the server's own connection finds."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
import trustme
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from eclipse_ws.application.base import ApiError
from eclipse_ws.application.http import HttpApi
from eclipse_ws.backends.base import NullListener
from eclipse_ws.backends.redis import RedisBackend
from eclipse_ws.commands import check, check_redis
from eclipse_ws.commands.report import Finding, table
from eclipse_ws.config.key_material import tls_context
from eclipse_ws.config.loading import load
from eclipse_ws.config.problems import SettingsError
from eclipse_ws.config.settings import Settings
from eclipse_ws.server.ports import StartError
from eclipse_ws.server.server import Server
from tests import needs
from tests.application.stub import SECRET as API_SECRET
from tests.application.stub import Stub
from tests.client import until
from tests.conftest import make_settings
from tests.servers import RedisServer, free_port


class Files(NamedTuple):
    """PEM files: an authority, what it has issued for 127.0.0.1 and for a client, and another authority."""

    ca: str
    certificate: str
    key: str
    client: str
    client_key: str
    other: str


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The files, each under the name of its field."""
    folder = tmp_path_factory.mktemp("tls")
    paths = Files(*(str(folder / f"{name}.pem") for name in Files._fields))
    ca = trustme.CA()
    server, client = ca.issue_cert("127.0.0.1"), ca.issue_cert("client@example.org")
    ca.cert_pem.write_to_path(paths.ca)
    trustme.CA().cert_pem.write_to_path(paths.other)
    for made, certificate, key in (
        (server, paths.certificate, paths.key),
        (client, paths.client, paths.client_key),
    ):
        made.cert_chain_pems[0].write_to_path(certificate)
        made.private_key_pem.write_to_path(key)
    return paths


@pytest.fixture(scope="module")
def tls_redis(files: Files) -> Iterator[dict[str, int]]:
    """The TLS ports of a Redis that asks clients for no certificate, and of one that does."""
    servers, ports = [], {}
    for asks in ("no", "yes"):
        ports[asks] = free_port()
        options = {
            "--tls-port": str(ports[asks]),
            "--tls-cert-file": files.certificate,
            "--tls-key-file": files.key,
            "--tls-ca-cert-file": files.ca,
            "--tls-auth-clients": asks,
        }
        flat = [part for option in options.items() for part in option]
        # Redis itself: the Valkey of the wheel is built without TLS.
        servers.append(RedisServer(needs.server("redis"), None, *flat).start())
    yield ports
    for server in servers:
        server.stop()


@asynccontextmanager
async def all_closed() -> AsyncIterator[None]:
    """Waits in the end for the sockets that were opened: TLS says goodbye before it closes one."""
    loop: Any = asyncio.get_running_loop()
    before = len(loop._selector.get_map())
    yield
    await until(lambda: len(loop._selector.get_map()) <= before)


async def server_has_redis(settings: Settings) -> bool:
    """Whether a server with these settings gets its connections."""
    backend = RedisBackend(settings)
    try:
        await backend.start(NullListener())
        return backend.health.state == "up"
    finally:
        await backend.close()


async def server_has_application(settings: Settings) -> bool:
    """Whether a server with these settings gets answers from the application."""
    api = HttpApi(settings)
    await api.start()
    try:
        await api.user("missing")
    except ApiError as error:
        return error.code == "user_not_found"
    finally:
        await api.close()
    return True


def is_well(findings: list[Finding]) -> bool:
    """Whether the findings have no problem."""
    return not any(finding.verdict == "problem" for finding in findings)


REDIS_CASES: dict[str, tuple[str, dict[str, str], str]] = {
    # options of the URL, settings and variables, what is found; {file} is a path
    "an unknown authority": ("", {}, "untrusted certificate"),
    "no verification": ("ssl_cert_reqs=none", {}, ""),
    "an authority in the URL": ("ssl_ca_certs={ca}", {}, ""),
    "an authority in a setting": ("", {"redis_ca": "{ca}"}, ""),
    "another authority": ("", {"redis_ca": "{other}"}, "untrusted certificate"),
    "the setting's authority alone": (
        "",
        {"redis_ca": "{other}", "SSL_CERT_FILE": "{ca}"},
        "untrusted certificate",
    ),
    "an authority of the process": ("", {"SSL_CERT_FILE": "{ca}"}, ""),
    "another name": ("localhost", {"redis_ca": "{ca}"}, "untrusted certificate"),
    "another name that is not checked": ("localhost&ssl_check_hostname=false", {"redis_ca": "{ca}"}, ""),
    "no certificate of the client": ("asks", {"redis_ca": "{ca}"}, "the TLS connection"),
    "a certificate of the client": (
        "asks&ssl_certfile={client}&ssl_keyfile={client_key}",
        {"redis_ca": "{ca}"},
        "",
    ),
}


@pytest.mark.gen_test
@pytest.mark.parametrize("case", REDIS_CASES)
async def test_a_redis_with_tls(
    case: str, tls_redis: dict[str, int], files: Files, monkeypatch: pytest.MonkeyPatch, expect_log: Any
) -> None:
    """Authorities, names and certificates of clients: `check` and the server find the same."""
    expect_log("Redis unavailable", "Redis connection lost", optional=True)
    options, given, says = REDIS_CASES[case]
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    places = files._asdict()
    for name in [name for name in given if name.startswith("SSL_")]:
        monkeypatch.setenv(name, given[name].format(**places))
    host = "localhost" if options.startswith("localhost") else "127.0.0.1"
    port = tls_redis["yes" if options.startswith("asks") else "no"]
    query = "&".join(each for each in options.format(**places).split("&") if "=" in each)
    settings = make_settings(
        backend="redis",
        redis_url=f"rediss://{host}:{port}?{query}".rstrip("?"),
        redis_timeout=0.3 if says else 5,  # a server without connections continues after this
        **{name: value.format(**places) for name, value in given.items() if name == "redis_ca"},
    )
    async with all_closed():
        findings = await check_redis.redis(settings)
        assert is_well(findings) is await server_has_redis(settings) is (not says), table(findings)
    assert says in findings[0].text
    assert not says or findings[0].fix


@asynccontextmanager
async def application(files: Files) -> AsyncIterator[int]:
    """The port of an application with TLS."""
    stub = Stub()
    await stub.start()
    sockets = bind_sockets(0, "127.0.0.1")
    server = HTTPServer(stub.server.request_callback, ssl_options=tls_context(files.certificate, files.key))
    server.add_sockets(sockets)
    try:
        yield sockets[0].getsockname()[1]
    finally:
        server.stop()
        await server.close_all_connections()
        await stub.stop()


APPLICATION_CASES: dict[str, tuple[str, dict[str, str], str]] = {
    # the scheme and host, settings and variables, what is found
    "an unknown authority": ("https://127.0.0.1", {}, "untrusted certificate"),
    "an authority in a setting": ("https://127.0.0.1", {"api_ca": "{ca}"}, ""),
    "another authority": ("https://127.0.0.1", {"api_ca": "{other}"}, "untrusted certificate"),
    "the setting's authority alone": (
        "https://127.0.0.1",
        {"api_ca": "{other}", "SSL_CERT_FILE": "{ca}"},
        "untrusted certificate",
    ),
    "an authority of the process": ("https://127.0.0.1", {"SSL_CERT_FILE": "{ca}"}, ""),
    "another name": ("https://localhost", {"api_ca": "{ca}"}, "untrusted certificate"),
    "no TLS where it is spoken": ("http://127.0.0.1", {}, "closed the connection"),
    "a proxy in the environment": (
        "https://127.0.0.1",
        {"api_ca": "{ca}", "https_proxy": "http://127.0.0.1:1", "ALL_PROXY": "http://127.0.0.1:1"},
        "",
    ),
}


@pytest.mark.gen_test
@pytest.mark.parametrize("case", APPLICATION_CASES)
async def test_an_application_with_tls(case: str, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """`check` and the server verify the application's certificate with the same authorities."""
    place, given, says = APPLICATION_CASES[case]
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        if name != "api_ca":
            monkeypatch.setenv(name, value.format(**files._asdict()))
    async with application(files) as port:
        settings = make_settings(
            api="http",
            internal_api_secret=API_SECRET,
            next_api_url=f"{place}:{port}",
            **{name: value.format(**files._asdict()) for name, value in given.items() if name == "api_ca"},
        )
        findings = await check.application(settings)
        assert is_well(findings) is await server_has_application(settings) is (not says), table(findings)
    assert says in findings[0].text
    assert not says or findings[0].fix


@pytest.mark.gen_test
@pytest.mark.parametrize("kind", ["a socket", "a password", "a wrong password"])
async def test_a_redis_without_tls(kind: str, tmp_path: Path) -> None:
    """A socket's path, and a password of special characters, are read by `check` as by the server."""
    password, path = "p@ss/w#rd?%:&é", tmp_path / "redis.sock"
    options = ("--unixsocket", str(path)) if kind == "a socket" else ("--requirepass", password)
    server = RedisServer(needs.server(), None, *options)
    await asyncio.to_thread(server.start)
    shown = quote(password if kind == "a password" else "wrong", safe="")
    url = f"unix://{path}" if kind == "a socket" else f"redis://default:{shown}@127.0.0.1:{server.port}"
    settings = make_settings(backend="redis", redis_url=url, redis_timeout=1)
    try:
        findings = await check_redis.redis(settings)
        assert is_well(findings) is (kind != "a wrong password"), table(findings)
        if is_well(findings):
            assert await server_has_redis(settings)
    finally:
        server.stop()


@pytest.mark.gen_test
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1", "", "no-such-host.invalid", "192.0.2.1"])
@pytest.mark.parametrize("taken", [False, True])
async def test_a_port_of_a_host(host: str, taken: bool) -> None:
    """A name, both families, and an address that is not this machine's: what `check` says, a start does."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        if taken:
            other.listen()
        else:
            other.close()
        settings = make_settings(host=host, port=port)
        found = next(each for each in check.machine(settings) if each.name == "PORT")
        server = Server(settings)
        try:
            await server.start()
            started = True
        except StartError:
            started = False
        finally:
            await server.stop()
    assert (found.verdict == "ok") is started, found
    assert (found.verdict == "warning") is (taken and host in ("localhost", "127.0.0.1", ""))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("ECLIPSE_REDIS_CA", "/none", "names a file that can't be read (No such file or directory)"),
        ("ECLIPSE_REDIS_CA", "{key}", "names a file without a certificate"),
        ("ECLIPSE_API_CA", "{folder}", "can't be read (Is a directory)"),
        ("ECLIPSE_API_CA", "{empty}", "names a file without a certificate"),
        ("REDIS_URL", "rediss://h?ssl_ca_certs=/none", "has an ssl_ca_certs that names a file that can't be"),
        (
            "REDIS_URL",
            "rediss://h?ssl_certfile={client}&ssl_keyfile={key}",
            "is not a certificate with a matching key",
        ),
        ("REDIS_URL", "rediss://h?ssl_certfile={client}", "is not a certificate with a matching key"),
        ("REDIS_URL", "rediss://h?ssl_keyfile={client_key}", "can't be read"),
    ],
)
def test_files_that_can_not_be_used(files: Files, tmp_path: Path, name: str, value: str, says: str) -> None:
    """The start finds them, rather than the first connection."""
    (tmp_path / "empty").touch()
    places = {**files._asdict(), "folder": str(tmp_path), "empty": str(tmp_path / "empty")}
    with pytest.raises(SettingsError) as caught:
        load("test", environ={name: value.format(**places)}, dotenv=tmp_path / "none")
    (problem,) = caught.value.problems
    assert problem.name == name
    assert says in problem.text


def test_files_that_can_be_used(files: Files, tmp_path: Path) -> None:
    """Valid files are accepted, with a note if the URL does not use them."""
    environ = {
        "REDIS_URL": f"rediss://h?ssl_certfile={files.client}&ssl_keyfile={files.client_key}",
        "ECLIPSE_REDIS_CA": files.ca,
        "ECLIPSE_API_CA": files.ca,
        "NEXT_API_URL": "http://app.acme.com",
    }
    loaded = load("test", environ=environ, dotenv=tmp_path / "none")
    assert loaded.warnings == ["ECLIPSE_API_CA is set, but its URL does not begin with https://."]
