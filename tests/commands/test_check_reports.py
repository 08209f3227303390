"""`check`: whether the application takes reports; against real servers."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import pytest
from pydantic import SecretStr

from eclipse_ws.commands.check_reports import reports
from eclipse_ws.commands.report import Finding
from tests.application.raw_server import Peer, deaf_server, raw_server, read_request
from tests.commands.conftest import gen_test
from tests.conftest import make_settings
from tests.servers import free_port

SECRET = "the-secret-of-reports-that-are-checked-0123456789"


def settings(url: str, **given: Any) -> Any:
    """Settings with reports for this address."""
    return make_settings(app_events_url=url, internal_api_secret=SecretStr(SECRET), **given)


async def found(status: int, *headers: str, refusal: int = 401) -> list[Finding]:
    """The findings if a valid batch gets this status, and one with a wrong signature the other."""

    async def handle(reader: Any, writer: Any) -> None:
        head, _, body = (await read_request(reader)).partition(b"\r\n\r\n")
        assert json.loads(body)["events"] == []
        right = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
        code = status if f"X-Signature: sha256={right}".encode() in head.split(b"\r\n") else refusal
        lines = "".join(f"{line}\r\n" for line in headers)
        writer.write(f"HTTP/1.1 {code} X\r\nContent-Length: 0\r\n{lines}\r\n".encode())

    async with raw_server(handle) as url:
        return await reports(settings(f"{url}/events"))


@gen_test
async def test_none_are_sent() -> None:
    """Without an address there is nothing to check."""
    assert await reports(make_settings()) == []


@gen_test
async def test_an_application_that_takes_reports() -> None:
    """A batch without reports is taken, and one with a wrong signature is not."""
    (finding,) = await found(204)
    assert (finding.name, finding.verdict) == ("ECLIPSE_APP_EVENTS_URL", "ok")


@gen_test
async def test_an_application_that_verifies_nothing() -> None:
    """An application that takes a wrong signature takes reports of anybody."""
    fine, finding = await found(200, refusal=200)
    assert (fine.verdict, finding.verdict) == ("ok", "warning")
    assert "wrong signature" in finding.text


@pytest.mark.parametrize(
    ("status", "headers", "says", "fix"),
    [
        (401, (), "answers status 401", "HMAC-SHA256 of the body's bytes"),
        (403, (), "answers status 403", "ECLIPSE_API_HEADERS"),
        (404, (), "answers status 404", "a route of the application"),
        (405, (), "answers status 405", "takes a POST"),
        (400, (), "answers status 400", "with a status of 2xx"),
        (422, (), "answers status 422", "with a status of 2xx"),
        (500, (), "answers status 500", "the application's log"),
        (308, ("Location: /events/?key=hunter2",), "(status 308) is not followed", "/events/"),
        (307, (), "(status 307)", "set ECLIPSE_APP_EVENTS_URL to"),
    ],
)
@gen_test
async def test_an_application_that_does_not(
    status: int, headers: tuple[str, ...], says: str, fix: str
) -> None:
    """Each refusal is explained, with its fix."""
    (finding,) = await found(status, *headers)
    assert finding.verdict == "problem"
    assert says in finding.text
    assert fix in finding.fix
    assert "hunter2" not in str(finding)


@gen_test
async def test_an_application_that_is_not_there() -> None:
    """No connection, no answer and no HTTP are three different problems."""
    (closed,) = await reports(settings(f"http://127.0.0.1:{free_port()}/events"))
    assert (closed.name, closed.verdict) == ("ECLIPSE_APP_EVENTS_URL", "problem")
    assert "can't be reached" in closed.text
    with deaf_server("127.0.0.1") as port:
        (deaf,) = await reports(settings(f"http://127.0.0.1:{port}/events", api_timeout=0.1))
    assert "not answer within 0.1 s" in deaf.text
    async with raw_server(Peer(b"SSH-2.0-OpenSSH\r\n")) as url:
        (other,) = await reports(settings(url))
    assert "not valid HTTP" in other.text
    (unknown,) = await reports(settings("https://no-such-host.invalid/events"))
    assert "can't be resolved" in unknown.text
