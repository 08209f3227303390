"""`smoke` against running servers, healthy and faulty ones."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import jwt
import pytest
import trustme
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from eclipse_ws.commands import report
from eclipse_ws.commands.report import Finding
from eclipse_ws.commands.smoke import Smoke
from eclipse_ws.commands.smoke_client import Client
from eclipse_ws.commands.tokens import mint
from eclipse_ws.protocol import CommandError
from eclipse_ws.sessions.session import ChatSession
from tests.application.stub import SECRET as API_SECRET
from tests.application.stub import Fault, Stub
from tests.client import running, until
from tests.conftest import SECRET
from tests.servers import RedisServer

pytestmark = pytest.mark.slow

gen_test = pytest.mark.gen_test(timeout=60)


def smoke(port: int, **given: Any) -> Smoke:
    """A smoke test of a server on loopback with the tests' secrets."""
    values = {"jwt_secret": SECRET, "internal_secret": SECRET, "chat": None, "also": None, **given}
    return Smoke(f"http://127.0.0.1:{port}", **values)


def verdicts(findings: list[Finding]) -> dict[str, str]:
    """The verdict by name."""
    return {finding.name: finding.verdict for finding in findings}


def documented() -> list[str]:
    """The names in the last output of `smoke` in docs/deploy.md."""
    guide = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text(encoding="utf-8")
    output = re.findall(r"^```\n(✓ health .*?)^```", guide, re.MULTILINE | re.DOTALL)[-1]
    return re.findall(r"^✓ (.+?)  ", output, re.MULTILINE)


@gen_test
async def test_a_healthy_server() -> None:
    """Every check passes and is documented, and no session is left."""
    async with running() as server:
        findings = await smoke(server.port).run()
        assert report.code(findings) == 0, report.table(findings)
        assert [finding.name for finding in findings] == documented()
        assert {finding.verdict for finding in findings} == {"ok"}
        await until(lambda: server.hub.sessions == 0)


@gen_test
async def test_commands_are_sent_without_delay() -> None:
    """The reported latency is the server's, without the kernel's delay of small writes."""
    async with running() as server:
        client = Client(f"ws://127.0.0.1:{server.port}", {})
        await client.join(mint(SECRET, "c1", "u1", authenticated=True))
        connection: Any = client._connected.protocol
        option = connection.stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        client.close()
    assert option


@gen_test
async def test_machines_are_requested_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the health document names two machines, each session asks the proxy for one of them."""
    async with running(machine="m1", region="iad") as server:
        document = server.node.health
        names = iter(["m1", "m2"] * 20)
        monkeypatch.setattr(server.node, "health", lambda: {**document(), "machine": next(names)})
        test = smoke(server.port)
        findings = await test.run()
        assert report.code(findings) == 0, report.table(findings)
        assert "2 machines seen" in findings[0].text
        assert [client._headers for client in test._clients] == [
            {"fly-force-instance-id": "m1"},
            {"fly-force-instance-id": "m2"},
        ]


@gen_test
async def test_a_degraded_server_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other steps continue: a backend outage is not a chat outage."""
    async with running() as server:
        document = server.node.health
        monkeypatch.setattr(server.node, "health", lambda: {**document(), "status": "degraded"})
        findings = await smoke(server.port).run()
        assert verdicts(findings)["health"] == "warning"
        assert report.code(findings) == 0, report.table(findings)


@gen_test
async def test_a_server_without_the_application_routes() -> None:
    """If they are on another port, publishing is a problem, and so is everything that needs it."""
    async with running(admin_port=0) as server:
        findings = await smoke(server.port).run()
        assert verdicts(findings)["event over HTTP"] == verdicts(findings)["resume after a cut"] == "problem"
        assert verdicts(findings)["latency"] == "ok"  # the session that was cut has come back


@gen_test
async def test_two_nodes_and_a_drain(redis_server: RedisServer) -> None:
    """The two sessions are on two nodes; when one node stops, its session resumes on the other."""
    options = {"backend": "redis", "redis_url": redis_server.url}
    async with running(**options) as one, running(**options) as other:
        test = smoke(one.port, also=f"http://127.0.0.1:{other.port}")
        task = asyncio.create_task(test.run(drain=True))
        await until(lambda: any(finding.name == "latency" for finding in test.findings) or task.done())
        await other.drain()
        # What a proxy would do: the node that is left is where the address leads to.
        test._clients[1]._url = test._clients[0]._url
        # The first one ends too, and comes back to the same node.
        for member in list(one.hub.members()):
            if isinstance(member, ChatSession) and member.id == test._clients[0].greeting["sessionId"]:
                member.retire()
        findings = await task
        assert report.code(findings) == 0, report.table(findings)
        assert verdicts(findings)["drain"] == "ok"


@gen_test
async def test_a_chat_that_the_application_does_not_know(expect_log: Any) -> None:
    """A random chat that doesn't exist saves nothing, which is not a problem."""
    expect_log("message not saved")
    stub = Stub(API_SECRET)
    await stub.start()
    try:
        async with running(api="http", next_api_url=stub.url, internal_api_secret=API_SECRET) as server:
            test = smoke(server.port, internal_secret=API_SECRET)
            test._chat = "missing-chat"
            findings = await test.run()
        assert verdicts(findings)["message and ack"] == "skipped"
        assert report.code(findings) == 0, report.table(findings)
        assert not stub.saved
    finally:
        await stub.stop()


@asynccontextmanager
async def before(stub: Stub, **given: Any) -> AsyncIterator[int]:
    """The port of a server in front of the application."""
    await stub.start()
    try:
        options = {"next_api_url": stub.url, "internal_api_secret": API_SECRET, **given}
        async with running(api="http", **options) as server:
            yield server.port
    finally:
        await stub.stop()


@gen_test
async def test_the_application_accepts_the_tests_users() -> None:
    """The test's users are visitors, which an application with its own accounts accepts."""
    stub = Stub(API_SECRET)
    stub.users = frozenset({"u1"})
    async with before(stub) as port:
        findings = await smoke(port, internal_secret=API_SECRET, chat="a-test-chat").run()
    assert report.code(findings) == 0, report.table(findings)
    assert {saved["role"] for saved in stub.saved} == {"USER"}
    assert all(saved["userId"].startswith("anon_") for saved in stub.saved)


@gen_test
@pytest.mark.parametrize(
    ("fault", "settings", "said", "fix"),
    [
        (Fault("status", 500), {}, "api_error", "the application's log: it accepted the secret"),
        (Fault(), {"internal_api_secret": "x" * 40}, "api_unauthorized", "the same INTERNAL_API_SECRET"),
        (Fault("status", 404), {}, "chat_not_found", "a chat that the application has, with --chat"),
        (
            Fault("status", 302, "", {"Location": "https://elsewhere.example/"}),
            {},
            "api_redirected",
            "where the redirect ends",
        ),
        (Fault("close"), {}, "outcome_unknown", "check whether the chat has the message"),
        (Fault("status", 503), {}, "api_unavailable", "check NEXT_API_URL"),
        (Fault(), {"max_content": 4}, "content_too_long", "raise ECLIPSE_MAX_CONTENT"),
        (Fault(), {"message_rate": 0.01}, "rate_limited", "wait a minute"),
    ],
)
async def test_advice_follows_the_answer(
    expect_log: Any, fault: Fault, settings: dict[str, Any], said: str, fix: str
) -> None:
    """A message that is not saved does not mean wrong secrets: each error has its own advice."""
    expect_log("message not saved", "the outcome", optional=True)
    stub = Stub(API_SECRET)
    stub.fault = fault
    async with before(stub, **settings) as port:
        secret = settings.get("internal_api_secret", API_SECRET)
        findings = await smoke(port, internal_secret=secret, chat="a-test-chat").run()
    found = next(finding for finding in findings if finding.name == "message and ack")
    assert found.verdict == "problem"
    assert said in found.text
    assert fix in found.fix


@gen_test
@pytest.mark.parametrize(
    ("given", "settings", "name", "fix"),
    [
        ({"internal_secret": "another"}, {}, "event over HTTP", "set INTERNAL_API_SECRET here"),
        ({}, {"admin_port": 0}, "event over HTTP", "ECLIPSE_ADMIN_PORT"),
        ({}, {"max_sessions": 1}, "two sessions", "it is full"),
        ({}, {"max_sessions_per_address": 1}, "two sessions", "the server's limits"),
        (
            {"jwt_secret": "another-secret-which-is-long-enough-too"},
            {},
            "two sessions",
            "set JWT_SECRET here",
        ),
    ],
)
async def test_advice_about_the_other_checks(
    given: dict[str, str], settings: dict[str, Any], name: str, fix: str
) -> None:
    """Sessions and events that are refused for other reasons don't blame the secrets either."""
    async with running(**settings) as server:
        findings = await smoke(server.port, **given).run()
    found = next(finding for finding in findings if finding.name == name)
    assert (found.verdict, fix in found.fix) == ("problem", True), report.table(findings)


@gen_test
async def test_an_untrusted_certificate(tmp_path: Path) -> None:
    """It is named as such, rather than as an unreachable server."""
    made = trustme.CA().issue_cert("127.0.0.1")
    files = tmp_path / "certificate", tmp_path / "key"
    made.cert_chain_pems[0].write_to_path(str(files[0]))
    made.private_key_pem.write_to_path(str(files[1]))
    async with running(tls_cert=str(files[0]), tls_key=str(files[1])) as server:
        (found,) = await Smoke(f"https://127.0.0.1:{server.port}", SECRET, SECRET, None, None).run()
    assert "SSL_CERT_FILE" in found.fix, found


@gen_test
async def test_wrong_secrets() -> None:
    """A JWT_SECRET or INTERNAL_API_SECRET that isn't the server's is detected."""
    async with running() as server:
        findings = await smoke(server.port, jwt_secret="another-secret-which-is-long-enough-too").run()
        assert verdicts(findings)["two sessions"] == "problem"
        findings = await smoke(server.port, internal_secret="another").run()
        assert verdicts(findings)["event over HTTP"] == "problem"
        findings = await smoke(server.port, internal_secret="").run()
        assert verdicts(findings)["resume after a cut"] == "skipped"


@gen_test
@pytest.mark.parametrize("origin", ["https://app.example.com", "capacitor://localhost"])
async def test_pages_of_an_origin(origin: str) -> None:
    """With an origin, sessions come as a page of it opens them: in order if it is allowed."""
    async with running(profile="prod", allow_embedded_api=True, allowed_origins=origin) as server:
        findings = await smoke(server.port, origin=origin).run()
        assert report.code(findings) == 0, report.table(findings)
        assert verdicts(findings)["origin"] == "ok"
        findings = await smoke(server.port, origin="https://www.example.com").run()
        assert verdicts(findings) == {"health": "ok", "origin": "problem"}
        assert "https://www.example.com are refused (403)" in findings[-1].text
        assert "ALLOWED_ORIGINS" in findings[-1].fix


@gen_test
async def test_a_draining_server_and_no_server() -> None:
    """Draining is a problem of its health; an unreachable server is one too."""
    async with running() as server:
        server.node.draining = True
        findings = await smoke(server.port).run()
        assert verdicts(findings) == {"health": "problem"}
        port = server.port
    findings = await smoke(port).run()
    assert verdicts(findings) == {"health": "problem"}
    assert findings[0].fix


@gen_test
async def test_each_check_is_shown_when_it_is_done(tmp_path: Path) -> None:
    """`smoke --drain` shows its results, and then what it waits for: that the server is restarted."""
    async with running() as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "eclipse_ws", "smoke", f"http://127.0.0.1:{server.port}", "--drain"),
            env={"PATH": os.environ["PATH"], "JWT_SECRET": SECRET, "INTERNAL_API_SECRET": SECRET},
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        told = [(await process.stdout.readline()).decode() for _ in range(11)]
        assert process.returncode is None
        assert [line[0] for line in told] == [*"✓✓✓✓✓✓✓✓✓✓…"]
        assert "restart the server now" in told[-1]
        await server.drain()
        assert "closed with 1012" in (await process.stdout.readline()).decode()
        process.terminate()
        await process.communicate()


@asynccontextmanager
async def of_before() -> AsyncIterator[int]:
    """The previous service, as a client sees it: no ack, no cursor, typing for everybody."""
    members: set[ServerConnection] = set()

    async def handle(socket: ServerConnection) -> None:
        query = socket.request.path.partition("token=")[2] if socket.request else ""
        try:
            jwt.decode(query, SECRET, algorithms=["HS256"])
        except jwt.InvalidTokenError:
            await socket.close(4002 if query else 4001, "Invalid token")
            return
        await socket.send(json.dumps({"type": "connected", "chatId": "c", "timestamp": "t"}))
        members.add(socket)
        try:
            async for text in socket:
                command = json.loads(text)
                if command["type"] == "ping":
                    await socket.send('{"type":"pong"}')
                elif command["type"] in ("message", "typing", "agent_joined"):
                    for member in list(members):
                        with suppress(ConnectionClosed):
                            await member.send(json.dumps({"type": command["type"], "data": {"id": "m"}}))
                else:
                    await socket.send('{"type":"error","error":"Unknown message type"}')
        finally:
            members.discard(socket)

    def health(socket: ServerConnection, request: Request) -> Response | None:
        if request.path != "/health":
            return None
        body = {"status": "healthy", "uptime": 1, "connections": {"total": 0, "byChat": []}}
        response = socket.respond(200, json.dumps(body))
        response.headers["Content-Type"] = "application/json"
        return response

    async with serve(handle, "127.0.0.1", 0, process_request=health) as server:
        yield next(iter(server.sockets)).getsockname()[1]


@gen_test
async def test_the_previous_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is recognized by its missing features."""
    monkeypatch.setattr("eclipse_ws.commands.smoke.WAIT", 0.2)
    monkeypatch.setattr("eclipse_ws.commands.smoke.ACK_WAIT", 0.3)
    async with of_before() as port:
        findings = await smoke(port).run()
    found = verdicts(findings)
    assert found["typing"] == "warning"
    assert found["message and ack"] == found["resume after a cut"] == found["summary"] == "problem"
    assert "previous service" in findings[-1].text


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[int]:
    """A server that gives every request this answer."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@gen_test
async def test_an_earlier_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a version without `join` can't do is skipped, and nothing else."""
    on_message = ChatSession.on_message

    def earlier(session: ChatSession, message: str | bytes) -> Any:
        if json.loads(message)["type"] != "join":
            return on_message(session, message)
        session.refuse_command(CommandError("Unknown message type", "unknown_type"))
        return None

    monkeypatch.setattr(ChatSession, "on_message", earlier)
    async with running() as server:
        findings = verdicts(await smoke(server.port).run())
    skipped = [name for name, verdict in findings.items() if verdict == "skipped"]
    assert skipped == ["several chats", "presence and read"]
    assert set(findings.values()) == {"ok", "skipped"}


@gen_test
async def test_another_server() -> None:
    """A web page is not a health document."""
    async with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi") as port:
        findings = await smoke(port).run()
    assert "without a health document" in findings[0].text


@gen_test
async def test_the_command(tmp_path: Path) -> None:
    """`smoke` prints its table, or JSON; without a secret or a URL it says what is missing."""
    environ = {"PATH": os.environ["PATH"], "JWT_SECRET": SECRET, "INTERNAL_API_SECRET": SECRET}

    async def run(*arguments: str, **more: str) -> tuple[int | None, str, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "eclipse_ws",
            "smoke",
            *arguments,
            env={**environ, **more},
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        return process.returncode, out.decode(), err.decode()

    async with running() as server:
        url = f"http://127.0.0.1:{server.port}"
        code, out, err = await run(url)
        assert code == 0, out + err
        assert out.splitlines()[-1] == "10 ok"
        code, out, err = await run(
            url, "--json", "--profile", "dev", INTERNAL_API_SECRET="another-long-enough-secret"
        )
        assert code == 1, out + err
        assert json.loads(out)["ok"] is False
    required = {"ECLIPSE_JWT_ISSUER": "https://app.example.com", "ECLIPSE_JWT_AUDIENCE": "chat"}
    async with running(jwt_issuer="https://app.example.com", jwt_audience="chat") as server:
        url = f"http://127.0.0.1:{server.port}"
        code, out, err = await run(url, **required)  # its tokens name what the settings require
        assert code == 0, out + err
    for arguments in ([], ["--profile", "dev"]):  # what that profile generates is not the server's
        code, _, err = await run(url, *arguments, JWT_SECRET="")
        assert (code, "JWT_SECRET is not set" in err) == (2, True)
    code, _, err = await run("chat.example.com")
    assert (code, "not an http:// or https:// URL" in err) == (2, True)
