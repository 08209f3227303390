"""Tests of the reports' client, against real HTTP servers that answer in every way an application may."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from email.utils import formatdate
from time import time
from typing import Any

import pytest
import trustme
from pydantic import SecretStr

from eclipse_ws.application.http import HttpApi
from eclipse_ws.application.reports import MAX_BATCH, Report
from eclipse_ws.application.reports_client import (
    MAX_RETRY_AFTER,
    ApplicationBusy,
    BatchRefused,
    ReportsClient,
)
from tests.application.conftest import make_settings
from tests.application.raw_server import Peer, deaf_server, raw_server, read_request
from tests.application.stub import SECRET
from tests.needs import program

AT = "2026-01-01T00:00:00.000Z"
JOINED = Report("r-1", "user_joined", "chat ü", AT, user_id="user-1", role="user")
REPORTS = [
    Report("r-0", "chat_occupied", "chat ü", AT),
    JOINED,
    Report("r-2", "read", "chat ü", AT, user_id="user-1", role="user", message_id="m-1"),
]
TAKEN = b"HTTP/1.1 204 No Content\r\n\r\n"


def answer(status: int, body: bytes = b"", *headers: str) -> bytes:
    """A response's bytes."""
    lines = "".join(f"{line}\r\n" for line in headers)
    return b"HTTP/1.1 %d X\r\n%bContent-Length: %d\r\n\r\n%b" % (status, lines.encode(), len(body), body)


@asynccontextmanager
async def opened(url: str, **fields: Any) -> AsyncIterator[ReportsClient]:
    """A started client."""
    client = ReportsClient(make_settings(app_events_url=url, **fields))
    await client.start()
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def telling(peer: Peer, path: str = "/events", **fields: Any) -> AsyncIterator[ReportsClient]:
    """A client whose application is this peer."""
    async with raw_server(peer) as url, opened(url + path, **fields) as client:
        yield client


def parts_of(request: bytes) -> tuple[str, dict[str, str], bytes]:
    """The first line, the headers in lower case, and the body of a request."""
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert len(headers) == len(lines)
    return first, {name.lower(): value for name, value in headers.items()}, body


def openssl_signature(secret: str, body: bytes) -> str:
    """The signature as OpenSSL's command computes it."""
    openssl = program("openssl", "Debian: apt-get install openssl")
    command = [openssl, "dgst", "-sha256", "-mac", "HMAC", "-macopt", f"hexkey:{secret.encode().hex()}"]
    done = subprocess.run(command, input=body, capture_output=True, check=True)
    return "sha256=" + done.stdout.decode().split("= ")[1].strip()


async def busy(client: ReportsClient, reports: Sequence[Report] = REPORTS) -> ApplicationBusy:
    """The ApplicationBusy that a call must end with; it shows neither a secret nor a chat."""
    with pytest.raises(ApplicationBusy) as caught:
        await client.post(reports)
    assert SECRET not in str(caught.value)
    assert "chat ü" not in str(caught.value)
    return caught.value


@pytest.mark.gen_test
async def test_a_batch_as_it_is_sent() -> None:
    """A request has the reports in order, without empty members, and no secret."""
    peer = Peer(TAKEN)
    async with telling(peer, "/api/chät events/") as client:
        await client.post(REPORTS)
    first, headers, body = parts_of(peer.requests[0][0])
    assert first == "POST /api/ch%C3%A4t%20events/ HTTP/1.1"
    assert headers["content-type"] == "application/json"
    assert headers["user-agent"].startswith("eclipse-ws/")
    assert SECRET.encode() not in peer.requests[0][0]
    sent = json.loads(body)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", sent.pop("sentAt"))
    assert sent == {
        "events": [
            {"id": "r-0", "type": "chat_occupied", "chatId": "chat ü", "at": AT},
            {
                "id": "r-1",
                "type": "user_joined",
                "chatId": "chat ü",
                "at": AT,
                "userId": "user-1",
                "role": "user",
            },
            {
                "id": "r-2",
                "type": "read",
                "chatId": "chat ü",
                "at": AT,
                "userId": "user-1",
                "role": "user",
                "messageId": "m-1",
            },
        ]
    }


@pytest.mark.gen_test
async def test_the_signature_is_what_openssl_computes() -> None:
    """The signature is the HMAC-SHA256 of the bytes that arrive, with the secret in UTF-8 as the key."""
    peer = Peer(TAKEN)
    other = "é" * 40
    async with telling(peer) as client:
        await client.post(REPORTS)
        client.reload(make_settings().model_copy(update={"internal_api_secret": SecretStr(other)}))
        await client.post([])
    for request, secret in zip(peer.requests[0], (SECRET, other), strict=True):
        _, headers, body = parts_of(request)
        assert headers["x-signature"] == openssl_signature(secret, body)


@pytest.mark.gen_test
async def test_extra_headers_are_for_their_own_origin_only() -> None:
    """ECLIPSE_API_HEADERS may contain a secret of the application's origin, which no other one gets."""
    here, there = Peer(TAKEN), Peer(TAKEN)
    headers = SecretStr("X-Bypass: hunter2")
    async with raw_server(here) as url, raw_server(there) as other:
        for at in (url, other):
            async with opened(
                f"{at}/events", api="http", next_api_url=f"{url}/base", api_headers=headers
            ) as to:
                await to.post([])
    assert parts_of(here.requests[0][0])[1]["x-bypass"] == "hunter2"
    assert b"hunter2" not in there.requests[0][0]


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
@pytest.mark.gen_test
async def test_what_is_taken(status: int) -> None:
    """Every 2xx means taken, and what the body says is of no interest; the connection is used again."""
    peer = Peer(answer(status, b"" if status == 204 else b"\x00 <garbage {", "Content-Type: text/x"))
    async with telling(peer) as client:
        await client.post(REPORTS)
        await client.post(REPORTS)
    assert [len(requests) for requests in peer.requests] == [2]


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.gen_test
async def test_what_is_refused_for_ever(status: int) -> None:
    """400, 413 and 422 say that these reports must not be sent again like this."""
    async with telling(Peer(answer(status, b'{"error":"no"}'))) as client:
        with pytest.raises(BatchRefused, match=f"status {status}"):
            await client.post(REPORTS)


@pytest.mark.parametrize("status", [401, 403, 404, 405, 408, 409, 410, 429, 500, 501, 502, 503, 504, 599])
@pytest.mark.gen_test
async def test_what_is_tried_again(status: int) -> None:
    """Every other status says nothing about these reports."""
    async with telling(Peer(answer(status, b"<html>"))) as client:
        error = await busy(client)
    assert (error.status, error.retry_after) == (status, None)
    assert f"status {status}" in str(error)


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("7", 7, 7),
        ("0", 0, 0),
        ("100000", MAX_RETRY_AFTER, MAX_RETRY_AFTER),
        (30, 1, 30),
        (-30, 0, 0),
        (10**6, MAX_RETRY_AFTER, MAX_RETRY_AFTER),
    ],
    ids=["seconds", "now", "too many", "date", "past", "far"],
)
@pytest.mark.gen_test
async def test_retry_after(header: str | int, least: float, most: float) -> None:
    """Retry-After is a number or a date, so many seconds from now, and bounded."""
    if isinstance(header, int):
        header = formatdate(time() + header, usegmt=True)
    async with telling(Peer(answer(503, b"", f"Retry-After: {header}"))) as client:
        error = await busy(client)
    assert error.retry_after is not None
    assert least <= error.retry_after <= most


@pytest.mark.gen_test
async def test_a_retry_after_that_is_none() -> None:
    """A Retry-After that is neither a number nor a date is as good as none."""
    async with telling(Peer(answer(429, b"", "Retry-After: soon"))) as client:
        assert (await busy(client)).retry_after is None


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.gen_test
async def test_no_redirect_is_followed(status: int) -> None:
    """Another address gets nothing; the error names it, without its query."""
    elsewhere = Peer(TAKEN)
    async with raw_server(elsewhere) as other:
        where = f"Location: {other}/events/?key=hunter2"
        async with telling(Peer(answer(status, b"", where))) as client:
            error = await busy(client)
        assert str(error).endswith(f"set ECLIPSE_APP_EVENTS_URL to {other}/events/")
    assert elsewhere.requests == []


@pytest.mark.parametrize("location", ["Location: http://[::1", "X: y"])
@pytest.mark.gen_test
async def test_a_redirect_to_nowhere(location: str) -> None:
    """A redirect without a usable Location is tried again like every other one."""
    async with telling(Peer(answer(308, b"", location))) as client:
        assert (await busy(client)).status == 308


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200",
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Encoding: gzip\r\n\r\nnot!",
    ],
    ids=["not HTTP", "cut body", "cut head", "nothing", "not gzip"],
)
@pytest.mark.gen_test
async def test_no_response(raw: bytes) -> None:
    """What is not a whole HTTP response may be tried again: it may not have been taken."""
    async with telling(Peer(raw, closes=True)) as client:
        assert (await busy(client)).status == 0


@pytest.mark.gen_test
async def test_an_endless_response_is_bounded() -> None:
    """A body that does not end is not read to its end."""

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n%b\r\n" % bytes(65536))
            await writer.drain()

    async with raw_server(endless) as url, opened(url) as client:
        assert "larger than" in str(await busy(client))


@pytest.mark.gen_test
async def test_a_slow_application() -> None:
    """A response that does not come within api_timeout is a timeout, and its connection is not used again."""
    release = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await release.wait()

    async with raw_server(slow) as url, opened(url, api_timeout=0.1) as client:
        assert "no response in time" in str(await busy(client))
        release.set()


@pytest.mark.gen_test
async def test_no_connection() -> None:
    """A closed port, a full one and an unknown host are tried again."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        async with opened(f"http://127.0.0.1:{taken.getsockname()[1]}/") as client:
            assert (await busy(client)).status == 0
    with deaf_server("127.0.0.1") as port:
        async with opened(f"http://127.0.0.1:{port}/", api_timeout=0.1) as client:
            assert (await busy(client)).status == 0
    async with opened("http://chat.invalid/events") as client:
        await busy(client)


@pytest.mark.gen_test
async def test_a_connection_that_was_closed_meanwhile() -> None:
    """The next batch goes over another connection if the application has closed the first."""
    peer = Peer(TAKEN, closes=True)
    async with telling(peer) as client:
        await client.post([JOINED])
        await client.post(REPORTS)
    assert [len(requests) for requests in peer.requests] == [1, 1]


@pytest.mark.gen_test
async def test_tls(authority: trustme.CA, trusted: str) -> None:
    """A certificate is verified with ECLIPSE_API_CA."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    peer = Peer(TAKEN)
    async with raw_server(peer, ssl=context) as plain:
        url = plain.replace("http:", "https:") + "/events"
        async with opened(url, api_ca=trusted) as client:
            await client.post(REPORTS)
        async with opened(url) as client:
            assert "certificate" in str(await busy(client))
    assert [len(requests) for requests in peer.requests if requests] == [1]


@pytest.mark.gen_test
async def test_its_connections_are_its_own() -> None:
    """Closing it ends no call of the API's client, whose origin may be the same."""
    peer = Peer(TAKEN)
    async with raw_server(peer) as url:
        api = HttpApi(make_settings(next_api_url=url))
        await api.start()
        async with opened(url):
            pass
        async with opened(f"{url}/events") as client:
            await client.post(REPORTS)
            assert api._session is not None
            assert api._session._httpclient is not client._client
        await api.close()
    assert parts_of(peer.requests[0][0])[0].startswith("POST /events ")


@pytest.mark.gen_test
async def test_a_call_that_is_in_progress_at_the_end() -> None:
    """Closing ends a call in progress; calls before the start and after the end fail."""
    release = asyncio.Event()
    arrived = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        arrived.set()
        await release.wait()

    async with raw_server(slow) as url:
        client = ReportsClient(make_settings(app_events_url=url))
        await busy(client)
        await client.start()
        call = asyncio.ensure_future(busy(client))
        await arrived.wait()
        await client.close()
        await client.close()
        assert "stopping" in str(await call)
        await busy(client)
        release.set()


@pytest.mark.gen_test
async def test_text_that_json_can_not_carry() -> None:
    """A report with lone surrogates can never be sent."""
    async with telling(Peer(TAKEN)) as client:
        with pytest.raises(BatchRefused):
            await client.post([Report("r", "chat_occupied", "\ud800", AT)])


@pytest.mark.gen_test
async def test_a_whole_batch() -> None:
    """A batch of the largest size and of long ids is sent in one piece."""
    peer = Peer(TAKEN)
    reports = [
        Report(f"r-{number}", "user_joined", "c" * 1000, AT, user_id="u" * 1000, role="user")
        for number in range(MAX_BATCH)
    ]
    async with telling(peer) as client:
        await client.post(reports)
    sent = json.loads(parts_of(peer.requests[0][0])[2])["events"]
    assert [report["id"] for report in sent] == [report.id for report in reports]
