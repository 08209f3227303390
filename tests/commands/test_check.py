"""`check`: every finding of a valid configuration, and of many wrong ones; against real servers."""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from eclipse_ws.commands import check as check_module
from eclipse_ws.commands import report
from eclipse_ws.commands.report import Finding
from eclipse_ws.server import file_descriptors
from tests.application.stub import Fault, Stub
from tests.commands.conftest import ROOT, SECRETS, Check, gen_test, verdicts
from tests.conftest import SECRET, make_settings
from tests.servers import free_port


def origins(findings: list[Finding]) -> list[str]:
    """The findings about pages, the passing lines first."""
    found = [finding for finding in findings if finding.name == "ALLOWED_ORIGINS"]
    return [finding.text for finding in sorted(found, key=lambda finding: finding.verdict)]


@pytest.mark.parametrize(
    ("listed", "missing"),
    [
        ("https://example.com", ["https://www.example.com"]),
        ("https://www.example.com:8443", ["https://example.com:8443"]),
        ("https://www.shop.example.com", ["https://shop.example.com"]),
        ("https://example.com,https://www.example.com", []),
        ("https://example.com,https://*.example.com", []),
        ("https://app.example.com,http://localhost:3000,https://1.2.3.4,capacitor://localhost", []),
    ],
)
def test_an_origin_without_its_sibling(listed: str, missing: list[str]) -> None:
    """`check` shows which pages may connect, and warns if the name with or without www may not."""
    value = make_settings(profile="prod", allowed_origins=listed)
    first, *others = origins(check_module.pages(value, generated=False))
    assert first == f"pages of {listed.replace(',', ', ')} may open sessions"
    assert others == [f"{origin} may not open sessions" for origin in missing]


def test_pages_of_a_sandbox_are_warned_of() -> None:
    """`null` is the origin of many pages at once."""
    value = make_settings(profile="prod", allowed_origins="null")
    assert [finding.verdict for finding in check_module.pages(value, generated=False)] == ["ok", "warning"]


def test_pages_without_a_list() -> None:
    """In development every page of this machine may connect; production already warns of an empty list."""
    (found,) = check_module.pages(make_settings(), generated=False)
    assert "pages of this machine" in found.text
    assert check_module.pages(make_settings(profile="prod"), generated=False) == []


@gen_test
async def test_the_default_origin_is_shown(check: Check) -> None:
    """Unset, it is the application's own origin, and `check` says so."""
    (text,) = origins(await check())
    assert re.fullmatch(
        r"pages of http://127.0.0.1:\d+ may open sessions; .* the application's own origin", text
    )


@gen_test
async def test_a_valid_configuration(check: Check) -> None:
    """Everything that docs/deploy.md shows is accepted."""
    findings = await check(
        ROOT / "fly.toml", PORT="8080", ECLIPSE_API_TIMEOUT=None, ALLOWED_ORIGINS="https://a.example"
    )
    problems = [finding for finding in findings if finding.verdict == "problem"]
    assert not problems, report.table(problems)
    guide = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
    output = re.search(r"^\$ eclipse-ws check .*\n((?:✓ .*\n)+)", guide, re.MULTILINE)
    assert output, "no output of check"
    documented = set(re.findall(r"^✓ (.+?)  ", output[1], re.MULTILINE))
    assert "NEXT_API_URL" in documented
    assert documented <= set(verdicts(findings))
    assert report.code(findings) == 0


@pytest.mark.parametrize(
    ("given", "name", "says"),
    [
        ({"JWT_SECRET": None}, "JWT_SECRET", "is not set"),
        ({"JWT_SECRET": "short"}, "JWT_SECRET", "at least 32"),
        ({"JWT_SECRET": "your-production-jwt-secret-goes-here"}, "JWT_SECRET", "placeholder"),
        ({"JWT_SECRET": "a" * 40}, "JWT_SECRET", "repeats"),
        ({"INTERNAL_API_SECRET": None}, "INTERNAL_API_SECRET", "is not set"),
        ({"INTERNAL_API_SECRET": "changeme"}, "INTERNAL_API_SECRET", "placeholder"),
        (
            {"INTERNAL_API_SECRET": "another-honest-secret-0123456789-abc"},
            "INTERNAL_API_SECRET",
            "the application rejects it",
        ),
        ({"JWT_SECRET": SECRET, "INTERNAL_API_SECRET": SECRET}, "settings", "are the same"),
        ({"REDIS_URL": None}, "REDIS_URL", "is not set"),
        ({"REDIS_URL": "https://eu1.upstash.io"}, "REDIS_URL", "REST API"),
        (
            {"REDIS_URL": None, "UPSTASH_REDIS_REST_URL": "https://x.upstash.io"},
            "REDIS_URL",
            "another protocol",
        ),
        ({"REDIS_URL": "redis://default:your-password@your-redis-host:6379"}, "REDIS_URL", "placeholder"),
        ({"REDIS_URL": "localhost:6379"}, "REDIS_URL", "not of the form"),
        ({"REDIS_URL": "redis://no-such-host.invalid:6379"}, "REDIS_URL", "can't be resolved"),
        ({"REDIS_URL": "unix:///no/such.sock"}, "REDIS_URL", "such.sock is not a Redis server"),
        ({"REDIS_URL": "rediss://default:p@h:6379?family=6"}, "REDIS_URL", "'family'"),
        ({"NEXT_API_URL": None}, "NEXT_API_URL", "is not set"),
        ({"NEXT_API_URL": "app.example.com"}, "NEXT_API_URL", "not an http"),
        ({"NEXT_API_URL": "https://your-app.vercel.app"}, "NEXT_API_URL", "placeholder"),
        ({"NEXT_API_URL": "http://no-such-host.invalid"}, "NEXT_API_URL", "can't be resolved"),
        ({"NEXT_API_URL": "http://u:p@127.0.0.1"}, "NEXT_API_URL", "user name"),
        ({"ALLOWED_ORIGINS": "app.example.com"}, "ALLOWED_ORIGINS", "not an origin"),
        ({"ECLIPSE_BACKEND": "memory"}, "ECLIPSE_BACKEND", "not permitted in production"),
        ({"ECLIPSE_API": "embedded"}, "ECLIPSE_API", "not permitted in production"),
        ({"ECLIPSE_PNIG_INTERVAL": "3"}, "settings", "did you mean ECLIPSE_PING_INTERVAL"),
        ({"PORT": "http"}, "PORT", "expected"),
        ({"ECLIPSE_METRICS_PORT": "1", "ECLIPSE_ADMIN_PORT": "1"}, "ECLIPSE_METRICS_PORT", "another port"),
        ({"ECLIPSE_MAX_SESSIONS": "9000000"}, "file limit", "HTTP connections need"),
        ({}, "ECLIPSE_METRICS_PORT", "requires INTERNAL_API_SECRET"),
    ],
)
@gen_test
async def test_a_wrong_configuration(
    check: Check, given: dict[str, str | None], name: str, says: str
) -> None:
    """The problem is named, with its fix."""
    findings = await check(**given)
    found = [finding for finding in findings if finding.verdict != "ok" and finding.name == name]
    assert any(says in finding.text for finding in found), report.table(findings)
    assert all(finding.fix for finding in found)


@gen_test
async def test_unreachable_servers(check: Check) -> None:
    """An unreachable Redis and an unreachable application are two separate problems."""
    port = free_port()
    findings = await check(REDIS_URL=f"redis://127.0.0.1:{port}", NEXT_API_URL=f"http://127.0.0.1:{port}")
    assert verdicts(findings)["REDIS_URL"] == verdicts(findings)["NEXT_API_URL"] == "problem"
    assert report.code(findings) == 1


@pytest.mark.parametrize(("workers", "verdict"), [("2", "ok"), ("16", "warning"), ("auto", "ok")])
@gen_test
async def test_workers(check: Check, workers: str, verdict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a part of the sessions and its own file limit; more than there are cores are too many."""
    monkeypatch.setattr("eclipse_ws.server.workers.shares.cores", lambda: 4)
    findings = {each.name: each for each in await check(ECLIPSE_WORKERS=workers)}
    count = 4 if workers == "auto" else int(workers)
    found = findings["ECLIPSE_WORKERS"]
    assert (found.verdict, bool(found.fix)) == (verdict, verdict == "warning")
    assert f"{count} workers, each with {-(-5000 // count)} of 5000 sessions" in found.text
    value = make_settings(max_sessions=-(-5000 // count), api_max_connections=-(-50 // count))
    assert f"{file_descriptors.needed(value)} needed by each worker" in findings["file limit"].text


@gen_test
async def test_a_port_in_use(check: Check) -> None:
    """It is a warning: it may be this very server."""
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        findings = await check(PORT=str(taken.getsockname()[1]))
    assert verdicts(findings)["PORT"] == "warning"


@gen_test
async def test_a_contradictory_fly_toml(check: Check, tmp_path: Path) -> None:
    """fly.toml's problems are among the findings, and one without [http_service] is invalid."""
    path = tmp_path / "fly.toml"
    path.write_text((ROOT / "fly.toml").read_text().replace("internal_port = 8080", "internal_port = 8081"))
    assert verdicts(await check(PORT="8080"))["fly.toml"] == "problem"  # taken from the working directory
    for text in ("app = 3", "env = 5", "env = []"):
        path.write_text(text)
        assert verdicts(await check(path))["fly.toml"] == "problem"
    assert verdicts(await check(tmp_path / "no.toml"))[str(tmp_path / "no.toml")] == "problem"


# -- the application ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Fault("status", 200, "<html>", {"Content-Type": "text/html"}), "this is not the application's API"),
        (
            Fault("status", 302, "", {"Location": "https://elsewhere.example"}),
            "leads to another page, https",
        ),
        (Fault("status", 307, "", {"Location": "/login?code=hidden"}), "leads to another page, /login,"),
        (Fault("status", 303, ""), "has no usable Location"),
        (Fault(delay=20), "did not answer within 1 s"),
        (Fault(mode="status", status=500), "500"),
        (Fault(mode="status", status=418), "418"),
    ],
)
@gen_test
async def test_a_wrong_application(check: Check, fault: Fault, says: str) -> None:
    """Responses with HTML, redirects, timeouts and failures are distinguished."""
    stub = Stub(SECRETS["INTERNAL_API_SECRET"])
    await stub.start()
    stub.fault = fault
    try:
        findings = await check(NEXT_API_URL=stub.url, ECLIPSE_API_TIMEOUT="1")
    finally:
        await stub.stop()
    found = [f for f in findings if f.name == "NEXT_API_URL" and f.verdict == "problem"]
    assert found, report.table(findings)
    assert says in found[0].text
    assert found[0].fix
    assert "hidden" not in str(found)
    assert ("ECLIPSE_API_HEADERS" in found[0].fix) or "page" not in says


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """A server that gives every request this answer; its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not await reader.read(4096):
            writer.close()
            return
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@pytest.mark.parametrize(
    ("status", "body", "name", "says"),
    [
        ("404 Not Found", b'{"detail":"Not Found"}', "NEXT_API_URL", "another application"),
        ("401 Unauthorized", b'{"error":{"code":401}}', "INTERNAL_API_SECRET", "ECLIPSE_API_HEADERS"),
    ],
)
@gen_test
async def test_json_of_another_server(check: Check, status: str, body: bytes, name: str, says: str) -> None:
    """Another API's 404, and the refusal of a proxy in front of the application, are named as such."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    async with answering(head.encode() + body) as url:
        findings = await check(NEXT_API_URL=url)
    found = [f for f in findings if f.name == name and f.verdict in ("warning", "problem")]
    assert any(says in f"{f.text} {f.fix}" for f in found), report.table(findings)


@gen_test
async def test_an_application_without_a_secret_check_and_with_a_wrong_clock(check: Check) -> None:
    """An unchecked secret and an old Date are warnings."""
    head = b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
    async with answering(head + b"Date: Tue, 01 Jan 2019 00:00:00 GMT\r\n\r\n{}") as url:
        found = verdicts(await check(NEXT_API_URL=url))
    assert found["INTERNAL_API_SECRET"] == found["clock"] == "warning"
    async with answering(b"") as url:
        findings = await check(NEXT_API_URL=url)
    assert any("closed the connection" in f.text for f in findings), report.table(findings)


@gen_test
async def test_development_needs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The profile dev needs no Redis and no application: both are skipped; generated secrets are warnings."""
    monkeypatch.chdir(tmp_path)
    found = verdicts(await check_module.check("dev", None, {"PORT": str(free_port())}))
    assert found["backend"] == found["application"] == "skipped"
    assert found["JWT_SECRET"] == "warning"


def test_a_privileged_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """A privileged port is a problem; an unlimited limit is not."""

    def refuse(self: socket.socket, address: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(socket.socket, "bind", refuse)
    assert check_module._port("port", "", 80).verdict == "problem"
    monkeypatch.setattr(resource, "getrlimit", lambda _: (0, resource.RLIM_INFINITY))
    from tests.conftest import make_settings

    assert check_module.machine(make_settings())[0].verdict == "ok"


def test_the_table_and_its_json() -> None:
    """One line per finding, with the fix below, and the same for machines."""
    findings = [
        Finding("a", "ok", "well"),
        Finding("bb", "warning", "so so", "do this"),
        Finding("c", "problem", "bad\nthing", "do that"),
        Finding("d", "skipped", "not now"),
    ]
    assert report.table(findings).splitlines() == [
        "✓ a   well",
        "! bb  so so",
        "      → do this",
        "✗ c   bad\\nthing",
        "      → do that",
        "- d   not now",
    ]
    assert report.summary(findings) == "1 ok, 1 warning, 1 problem, 1 skipped"
    assert json.loads(report.as_json(findings))["ok"] is False
    assert (report.code(findings), report.code(findings[:2]), report.table([])) == (1, 0, "")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`check` prints its table, or JSON, and its exit code says whether there is a problem."""
    monkeypatch.chdir(tmp_path)
    for name in (*SECRETS, "REDIS_URL", "NEXT_API_URL", "NODE_ENV"):
        monkeypatch.delenv(name, raising=False)
    environ = {"PATH": os.environ["PATH"], "PORT": str(free_port())}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "eclipse_ws", "check", *arguments]
        return subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)

    right, wrong = run("--profile", "dev"), run("--profile", "prod", "--json")
    assert (right.returncode, wrong.returncode) == (0, 1), right.stderr + wrong.stderr
    assert right.stdout.splitlines()[-1].startswith("4 ok")
    assert {row["name"] for row in json.loads(wrong.stdout)["findings"]} >= {"JWT_SECRET", "REDIS_URL"}
    assert "Traceback" not in right.stderr + wrong.stderr
