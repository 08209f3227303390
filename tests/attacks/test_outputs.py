"""What comes out: no secret, token or content anywhere, no forged lines, and headers that pages need."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from typing import Any

import pytest
import structlog

from eclipse_ws.observability.logging import configure_logging
from tests.client import UPGRADE, Client, exchange, http, running, token, until
from tests.conftest import make_settings

SECRETS = {
    "jwt_secret": "first-secret-of-the-outputs-test-0123456",
    "internal_api_secret": "second-secret-of-the-outputs-test-01234",
    "jwt_previous_secrets": "third-secret-of-the-outputs-test-012345,fourth-secret-of-the-outputs-test-01234",
}
CONTENT = "what-only-the-two-of-us-should-know"
FORGED = 'x\n{"event":"forged","level":"error"}\r\n\x1b[31m\u2028forged'


def leaks(text: str, *tokens: str) -> list[str]:
    """The texts that must not be there, and are."""
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
        async with running(**SECRETS, **{"security.limits.GUESSES_PER_MINUTE": 2}) as server:
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

                async def broken(*_: object, **__: object) -> None:
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
async def test_a_flood_does_not_flood_the_log(expect_log: Any) -> None:
    """Of the log lines that strangers can cause at will a few are written, the others are counted."""
    expect_log("message not saved", "agent not found")
    out, now = io.StringIO(), 1000.0
    configure_logging(make_settings(), out, lambda: now)
    count = 80
    try:
        async with running(**{"server.sweeper.INTERVAL": 0.01}) as server:
            for _ in range(count):
                await (await Client.join(server.port)).close()
                await (await Client.open(server.port, "token=wrong")).ended()
                assert (await http(server.port, "/api/chats/c/events", "POST", {})).status in (401, 429)
                assert (await http(server.port, "/nowhere")).status == 404
            async with await Client.join(server.port) as client:
                await server.api.close()
                for _ in range(count):
                    await client.say(type="message", content="hello", role="USER")
                    await client.say(type="agent_joined")
                    assert {(await client.next("error"))["code"] for _ in range(2)} == {"api_unavailable"}
            now += 10
            await until(lambda: out.getvalue().count("log lines suppressed") == 2)
    finally:
        configure_logging(make_settings(log_level="debug"), io.StringIO())
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    summed = [line["lines"] for line in lines if line["event"] == "log lines suppressed"]
    for kind, most in (
        ("eclipse_ws.session: session started", count + 1),
        ("eclipse_ws.session: session ended", count + 1),
        ("eclipse_ws.session: session refused", count),
        ("eclipse_ws.internal_auth: call refused", count),
        ("eclipse_ws.access: Request", count),
        ("eclipse_ws.chat: message not saved", count),
        ("eclipse_ws.chat: agent not found", count),
    ):
        logger, _, event = kind.partition(": ")
        written = [line for line in lines if (line["logger"], line["event"]) == (logger, event)]
        assert len(written) == 50, kind
        told = sum(line.get("suppressed", 0) for line in written) + sum(told.get(kind, 0) for told in summed)
        assert len(written) + told == most, kind


@pytest.mark.gen_test
async def test_pages_have_security_headers() -> None:
    """No inline script, no framing, no sniffing, no referrer; and no header that names the software."""
    async with running(profile="dev") as server:
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
async def test_a_traceback_shows_no_local_variables() -> None:
    """Local variables may hold tokens and content."""
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
