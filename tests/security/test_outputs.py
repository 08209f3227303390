"""What comes out: no secret, token or content anywhere, no forged lines, and headers that pages need."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from typing import Any

import pytest
import structlog

from eclipse_ws.observe import configure_logging
from tests.client import UPGRADE, Client, exchange, http, running, token
from tests.conftest import make_settings

SECRETS = {
    "jwt_secret": "first-secret-of-the-outputs-test-0123456",
    "internal_api_secret": "second-secret-of-the-outputs-test-01234",
    "jwt_previous_secrets": "third-secret-of-the-outputs-test-012345,fourth-secret-of-the-outputs-test-01234",
}
CONTENT = "what-only-the-two-of-us-should-know"
FORGED = 'x\n{"event":"forged","level":"error"}\r\n\x1b[31m\u2028forged'


def leaks(text: str, *tokens: str) -> list[str]:
    """What of all that must not be there is there."""
    parts = [part for made in tokens for part in made.split(".")[1:]]
    hidden = [CONTENT, *",".join(SECRETS.values()).split(","), *parts]
    return [each for each in hidden if each in text]


@pytest.mark.gen_test
@pytest.mark.parametrize("form", ["json", "console"])
async def test_nothing_secret_comes_out(form: str, expect_log: Any) -> None:
    """Tokens in every place, wrong secrets and failures show in no log, error, health page or metric."""
    expect_log("command failed", "look at this", optional=True)
    out = io.StringIO()
    configure_logging(make_settings(log_level="debug", log_format=form, **SECRETS), out)
    logging.getLogger("websockets").setLevel(logging.WARNING)  # the client's own log shows what it sends
    made = token(secret=SECRETS["jwt_secret"])
    wrong = token(secret="x" * 40)
    answers = []
    try:
        async with running(**SECRETS, guesses_per_minute=2) as server:
            for bad in (wrong, made[:-3], f"{made}x"):
                await (await Client.open(server.port, f"token={bad}")).ended()
            async with await Client.open(
                server.port, "", additional_headers={"Authorization": f"Bearer {made}"}, greet=True
            ) as client:
                await client.say(type="message", content=CONTENT, role="USER", clientMessageId="k")
                await client.seek("ack")
                await client.say(type="message", content=CONTENT, role="NOBODY")
                await client.say(type="refresh", token=wrong)
                await client.raw(f'{{"type":"{CONTENT}","token":"{made}"')
                answers += [json.dumps(await client.next("error")) for _ in range(3)]

                async def broken(*_: object) -> None:
                    raise RuntimeError(f"a crash with {made} and {SECRETS['jwt_secret']}")

                server.api.send_message = broken  # type: ignore[method-assign,assignment]
                await client.say(type="message", content=CONTENT, role="USER")
                answers.append(json.dumps(await client.seek("error")))
            offer = f"eclipse.v1, bearer.{made}"
            answer = await http(server.port, "/ws", headers={**UPGRADE, "Sec-WebSocket-Protocol": offer})
            answers.append(json.dumps(answer.headers))
            for path in ("/health", "/", "/metrics", f"/nowhere?token={made}", f"/{made}"):
                answers.append((await http(server.port, path)).body.decode())
            for secret in ("second-secret", "y" * 40, "z" * 40, SECRETS["internal_api_secret"]):
                answer = await http(
                    server.port,
                    "/api/chats/c1/events",
                    "POST",
                    {"type": "note", "token": made},
                    headers={"X-Internal-Secret": secret},
                )
                answers.append(answer.body.decode())
            answer = await http(server.port, "/api/chats/c1/events", "POST", b'{"token":"' + made.encode())
            answers.append(answer.body.decode())
            structlog.get_logger("x").info("look at this", value={"secrets": list(SECRETS.values())}, t=made)
    finally:
        configure_logging(make_settings(log_level="debug"), io.StringIO())
        logging.getLogger("websockets").setLevel(logging.NOTSET)
    assert out.getvalue().count("session refused") == 3
    assert leaks(out.getvalue(), made, wrong) == []
    assert leaks("\n".join(answers), made, wrong) == []


@pytest.mark.gen_test
async def test_log_lines_cannot_be_forged() -> None:
    """Names with line breaks, escapes and direction marks stay within their line, in both forms."""
    for form in ("json", "console"):
        out = io.StringIO()
        configure_logging(make_settings(log_level="debug", log_format=form), out)
        try:
            structlog.get_logger("x").info("look", name=FORGED, **{"key": [FORGED]})
            async with running() as server:
                path = "/%0a%7b%22event%22%3a%22forged%22%7d%1b%5b31m"
                request = f"GET {path} HTTP/1.1\r\nHost: x\r\nUser-Agent: {FORGED[0]}\r\n\r\n".encode()
                await exchange(server.port, request)
                bad = await Client.open(server.port, "token=%0a%7b%22event%22%3a%22forged%22%7d")
                await bad.ended()
        finally:
            configure_logging(make_settings(log_level="debug"), io.StringIO())
        lines = out.getvalue().splitlines()
        assert not any(line.lstrip().startswith('{"event":"forged') for line in lines)
        assert "\x1b" not in out.getvalue()
        assert "\u2028" not in out.getvalue()
        if form == "json":
            assert all(json.loads(line)["event"] != "forged" for line in lines)


@pytest.mark.gen_test
async def test_a_flood_of_refusals_does_not_flood_the_log() -> None:
    """Of many refusals a few lines are written, and the next one says how many were not."""
    out = io.StringIO()
    configure_logging(make_settings(), out)
    try:
        async with running(max_sessions_per_address=1) as server, await Client.join(server.port):
            for _ in range(100):
                assert (await http(server.port, f"/ws?token={token()}", headers=UPGRADE)).status == 429
            server.node.limits._notes = 0.0
            assert (await http(server.port, "/ws", headers=UPGRADE)).status == 429
            assert server.node.limits.refused["max_sessions_per_address"] == 101
    finally:
        configure_logging(make_settings(log_level="debug"), io.StringIO())
    lines = [line for line in out.getvalue().splitlines() if "upgrade refused" in line]
    assert 50 <= len(lines) < 90
    assert sum(json.loads(line)["unsaid"] for line in lines) + len(lines) == 101


@pytest.mark.gen_test
async def test_a_flood_of_requests_does_not_flood_the_log() -> None:
    """Of many requests that are refused a few lines are written; at debug all of them."""
    for level in ("info", "debug"):
        out = io.StringIO()
        configure_logging(make_settings(log_level=level), out)
        try:
            async with running() as server:
                server._request_log.clock = lambda: 1000.0
                for _ in range(100):
                    assert (await http(server.port, "/nowhere")).status == 404
                server._request_log.clock = lambda: 1000.2
                for _ in range(2):
                    assert (await http(server.port, "/nowhere")).status == 404
        finally:
            configure_logging(make_settings(log_level="debug"), io.StringIO())
        lines = [json.loads(line) for line in out.getvalue().splitlines() if '"/nowhere"' in line]
        told = [line for line in lines if line["level"] == "info"]
        assert 50 <= len(told) <= 52
        assert sum(line.get("unsaid", 0) for line in told) + len(told) == 102
        assert len(lines) == (102 if level == "debug" else len(told))


@pytest.mark.gen_test
async def test_pages_have_the_headers_that_they_need() -> None:
    """No inline script, no framing, no sniffing, no referrer; and no header that names the software."""
    async with running(demo=True) as server:
        for path in ("/demo", "/demo/agent"):
            page = await http(server.port, path)
            policy = page.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe-inline" not in policy
            assert "frame-ancestors 'none'" in policy
            assert page.headers["x-content-type-options"] == "nosniff"
            assert page.headers["referrer-policy"] == "no-referrer"
            assert page.headers["x-frame-options"] == "DENY"
            text = page.body.decode()
            assert " onclick" not in text
            assert "<script>" not in text
            assert "javascript:" not in text
        for path in ("/health", "/", "/widget.js", "/nowhere", "/demo", "/api/ws/token?chatId=c"):
            assert "server" not in (await http(server.port, path)).headers, path


@pytest.mark.gen_test
async def test_a_task_that_dies_tells_no_values() -> None:
    """A traceback has no local variables, where tokens and content are."""
    out = io.StringIO()
    configure_logging(make_settings(log_level="debug", **SECRETS), out)
    try:

        async def dies() -> None:
            content = CONTENT
            raise ValueError(len(content))

        try:
            await asyncio.create_task(dies())
        except ValueError:
            structlog.get_logger("x").info("it died", exc_info=True)
    finally:
        configure_logging(make_settings(log_level="debug"), io.StringIO())
    assert "ValueError" in out.getvalue()
    assert leaks(out.getvalue()) == []
