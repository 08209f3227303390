"""The command line: each command's output and exit code, in this process and as a real program."""

from __future__ import annotations

import asyncio
import json
import os
import re
import runpy
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
import trustme
from click.testing import CliRunner, Result
from tornado.web import Application, RequestHandler

from eclipse_ws import __version__
from eclipse_ws.cli import greet, local_address, main
from eclipse_ws.commands import chat, tokens
from eclipse_ws.config import dev_secrets
from eclipse_ws.config.settings import Settings
from tests.nested import TOO_DEEP, nested
from tests.portable import inherited

ROOT = Path(__file__).parent.parent
SECRET = "k3Jd8-sQ0zLxV7bNm2Wc5RtYp9Ga1Hf4Ue6Io"
COMMANDS = ["run", "token", "config", "health", "secrets", "chat", "bench", "check", "smoke"]


@pytest.fixture(autouse=True)
def _bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variables and no .env of the developer's."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if (
            name.startswith("ECLIPSE_")
            or name.endswith("_SECRET")
            or name in ("REDIS_URL", "PORT", "NODE_ENV")
        ):
            monkeypatch.delenv(name)


def call(*arguments: str, **environ: str) -> Result:
    """A command, run in this process."""
    return CliRunner().invoke(main, arguments, env=environ, prog_name="eclipse-ws")


class Program:
    """The real program, in a process of its own."""

    def __init__(self, *arguments: str, **environ: str) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in clean_up
        self._seen = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "eclipse_ws", *arguments],
            env={**os.environ, **inherited(), **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        assert self.process.stdout is not None
        self._output = self.process.stdout

    def first_line(self) -> str:
        """The first line that it prints: it is ready then."""
        self._seen = self._output.readline()
        return self._seen

    def lines(self, count: int) -> list[str]:
        """The next lines that it prints."""
        return [self._output.readline() for _ in range(count)]

    def end(self, number: int | None = None) -> tuple[int, str, str]:
        """Its exit code and output, after the signal `number` if there is one."""
        if number is not None:
            self.process.send_signal(number)
        self._seen += self._output.read()
        self.process.wait(timeout=30)
        self._errors.seek(0)
        return self.process.returncode, self._seen, self._errors.read()

    def clean_up(self) -> None:
        """No process and no open file, whatever happened."""
        self.process.kill()
        self.process.wait()
        self._output.close()
        self._errors.close()


@pytest.fixture
def programs() -> Iterator[list[Program]]:
    """A list for programs, which are gone after the test whatever happened."""
    started: list[Program] = []
    yield started
    for program in started:
        program.clean_up()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command: str) -> None:
    """Each command's help ends with a command line that can be copied."""
    result = call(command, "--help")
    assert result.exit_code == 0
    assert f"Example:\n    eclipse-ws {command}" in result.output


def test_help_lists_every_command() -> None:
    """The group's help names each command once, and -h is --help."""
    result = call("-h")
    listed = result.output.partition("Commands:")[2]
    assert re.findall(r"^  (\w+) ", listed, re.M) == sorted(COMMANDS)


def test_version() -> None:
    """--version prints the package's version."""
    assert call("--version").output == f"eclipse-ws, version {__version__}\n"


def test_the_package_is_a_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`python -m eclipse_ws` is the same program."""
    monkeypatch.setattr(sys, "argv", ["eclipse-ws", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("eclipse_ws", run_name="__main__")
    assert not ended.value.code
    assert __version__ in capsys.readouterr().out


def test_secrets_are_fresh_and_in_env_form(tmp_path: Path) -> None:
    """What `secrets` prints can be appended to .env, and is accepted by production."""
    first, second = call("secrets").output, call("secrets").output
    assert re.fullmatch(r"\nJWT_SECRET=[\w-]{64}\nINTERNAL_API_SECRET=[\w-]{64}\n", first)
    assert not set(first.split()) & set(second.split())
    (tmp_path / ".env").write_text(first)
    result = call(
        "config", "--json", "--profile", "prod", REDIS_URL="redis://h", NEXT_API_URL="https://a.acme.com"
    )
    assert result.exit_code == 0
    assert json.loads(result.stdout)["jwt_secret"]["source"] == ".env"


def test_token_prints_the_ready_url() -> None:
    """`token` prints one line, a URL with a token as the application would sign it."""
    result = call(
        "token", "--chat", "c 1", "--user", "u1", "--authenticated", "--seconds", "60", JWT_SECRET=SECRET
    )
    assert result.exit_code == 0
    url = urlsplit(result.output.strip())
    assert (url.scheme, url.netloc, url.path) == ("ws", "127.0.0.1:8080", "/ws")
    claims = jwt.decode(parse_qs(url.query)["token"][0], SECRET, algorithms=["HS256"])
    assert claims["exp"] - claims["iat"] == 60
    assert (claims["userId"], claims["chatId"], claims["isAuthenticated"]) == ("u1", "c 1", True)


def test_token_for_a_new_visitor() -> None:
    """Without --user, each token is a fresh visitor's, in the form that the application uses."""
    users = set()
    for _ in range(2):
        query = parse_qs(urlsplit(call("token", JWT_SECRET=SECRET).output.strip()).query)
        claims = jwt.decode(query["token"][0], SECRET, algorithms=["HS256"])
        assert re.fullmatch(r"anon_\d{13}_[0-9a-f]+", claims["userId"])
        assert claims["isAuthenticated"] is False
        users.add(claims["userId"])
    assert len(users) == 2


@pytest.mark.parametrize(
    ("host", "start"),
    [
        ("localhost:1", "ws://localhost:1/ws?"),
        ("127.8.8.8", "ws://127.8.8.8/ws?"),
        ("[::1]:1", "ws://[::1]:1/ws?"),
        ("chat.acme.com", "wss://chat.acme.com/ws?"),
        ("localhost.acme.com", "wss://localhost.acme.com/ws?"),
        ("10.0.0.1:8080", "wss://10.0.0.1:8080/ws?"),
    ],
)
def test_token_for_a_host(host: str, start: str) -> None:
    """The URL is ws:// only for this machine, and wss:// for every other."""
    assert call("token", "--host", host, JWT_SECRET=SECRET).output.startswith(start)


@pytest.mark.parametrize("host", ["https://h", "h/x", "h:x", "h:99999", "[::1", "a b", "u@h", "h?x"])
@pytest.mark.parametrize("command", ["token", "chat"])
def test_an_invalid_host(command: str, host: str) -> None:
    """A URL, or an invalid name or port, is refused instead of making a URL that nobody can open."""
    result = call(command, "--host", host, JWT_SECRET=SECRET)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"--host is {host!r}, expected a host" in result.stderr


@pytest.mark.parametrize("url", ["h", "http://h/ws?token=t", "ws://", "ws://h:99999", "ws://[::1"])
def test_an_invalid_chat_url(url: str) -> None:
    """`chat --url` says what it expects before it connects."""
    result = call("chat", "--url", url)
    assert result.exit_code == 2
    assert "expected a ws:// or wss:// URL" in result.stderr


@pytest.mark.parametrize("url", ["http://[::1", "http://h:99999", "http://a b", "h", "ws://h"])
def test_an_invalid_smoke_url(url: str) -> None:
    """`smoke` rejects both of its addresses if they are invalid."""
    for arguments in ([url], ["http://h", "--also", url]):
        result = call("smoke", *arguments, JWT_SECRET=SECRET)
        assert (result.exit_code, f"{url!r} is not an http:// or https:// URL" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    "origin", ["", "app.example.com", "https://app.example.com/chat", "https://*.example.com"]
)
def test_an_invalid_origin(origin: str) -> None:
    """`smoke` accepts only an origin as a browser sends it."""
    result = call("smoke", "http://h", "--origin", origin, JWT_SECRET=SECRET)
    assert (result.exit_code, f"--origin is {origin!r}, expected" in result.stderr) == (2, True)


@pytest.mark.parametrize("name", ["JWT_SECRET", "INTERNAL_API_SECRET"])
@pytest.mark.parametrize(
    ("value", "says"), [(f"'{SECRET}'", "is in quotes"), (f"{SECRET}\n", "a line break")]
)
def test_an_ambiguous_secret_ends_a_smoke_test(name: str, value: str, says: str) -> None:
    """`smoke`, which reads only the secrets, refuses what a server refuses, and shows nothing of it."""
    result = call("smoke", "http://127.0.0.1:1", **{"JWT_SECRET": SECRET, name: value})
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"{name} ")
    assert says in result.stderr
    assert SECRET not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["--chat", ""], "--chat"),
        (["--chat", "a\nb"], "--chat"),
        (["--chat", "c" * 257], "--chat"),
        (["--user", " "], "--user"),
    ],
)
@pytest.mark.parametrize("command", ["token", "chat"])
def test_ids_that_the_server_would_refuse(command: str, arguments: list[str], option: str) -> None:
    """No token is made that every server closes with 4002."""
    result = call(command, *arguments, JWT_SECRET=SECRET)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{option} is " in result.stderr


def test_token_without_a_secret_says_what_to_do() -> None:
    """A token signed with a generated secret is valid on no server, so none is made."""
    result = call("token")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "start one here (`eclipse-ws run --profile dev`), or set JWT_SECRET" in result.stderr


@pytest.mark.parametrize(
    ("host", "place"),
    [
        ("", "127.0.0.1:1"),
        ("0.0.0.0", "127.0.0.1:1"),
        ("::", "127.0.0.1:1"),
        ("::1", "[::1]:1"),
        ("a.b", "a.b:1"),
    ],
)
def test_the_servers_local_address(host: str, place: str) -> None:
    """A server on all addresses is reached on loopback."""
    assert local_address(Settings(host=host, port=1)) == place


def test_config_shows_values_and_sources() -> None:
    """`config` prints each variable, its value and its source; secrets are masked, notes go to stderr."""
    result = call("config", PORT="8099", JWT_SECRET=SECRET, REDIS_URL="redis://u:hunter2@h")
    assert result.exit_code == 0
    lines = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines()}
    assert lines["PORT"] == ["8099", "environment"]
    assert lines["JWT_SECRET"] == ['"********"', "environment"]
    assert lines["REDIS_URL"] == ['"redis://u:********@h"', "environment"]
    assert lines["ECLIPSE_API"] == ['"embedded"', "profile", "dev"]
    assert lines["ECLIPSE_QUEUE_BYTES"] == ["4194304", "default"]
    assert "INTERNAL_API_SECRET is not set" in result.stderr
    assert SECRET not in result.output


@pytest.mark.parametrize(
    ("arguments", "environ", "profile"),
    [
        ((), {}, "dev (default)"),
        (("--profile", "test"), {}, "test (--profile)"),
        ((), {"NODE_ENV": "test"}, "test (NODE_ENV)"),
        ((), {"ECLIPSE_PROFILE": "test"}, "test (ECLIPSE_PROFILE)"),
    ],
)
def test_config_and_check_show_the_same_profile(
    tmp_path: Path, arguments: tuple[str, ...], environ: dict[str, str], profile: str
) -> None:
    """Both say which profile they show: the one that `run` would use here, with or without a fly.toml."""
    (tmp_path / "fly.toml").write_bytes((ROOT / "fly.toml").read_bytes())
    shown = call("config", *arguments, **environ).stderr
    assert shown.startswith(f"Profile {profile}; --profile NAME shows another one.\n")
    command = [sys.executable, "-m", "eclipse_ws", "check", *arguments]
    given = {"PATH": os.environ["PATH"], **inherited(), "PORT": "0", **environ}
    done = subprocess.run(command, env=given, capture_output=True, text=True, check=False)
    assert (done.returncode, f"profile {profile}, " in done.stdout) == (0, True), done.stdout + done.stderr
    assert re.search(r"^- fly.toml +not checked", done.stdout, re.M)


def test_config_as_json() -> None:
    """`config --json` is one object of values, sources and variables."""
    document = json.loads(call("config", "--json", PORT="8099").stdout)
    assert document["port"] == {"value": 8099, "source": "environment", "variable": "PORT"}
    assert set(document) == set(Settings.model_fields)


@pytest.mark.parametrize("command", ["run", "token", "config", "health", "chat"])
def test_a_wrong_configuration_ends_every_command(command: str) -> None:
    """Every command that needs the settings ends with code 2 and the list of problems, only on stderr."""
    result = call(command, "--profile", "prod", PORT="x")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "The configuration has 5 problems:" in result.stderr


class Health(RequestHandler):
    """A health document set by tests."""

    document: Any = None
    status = 200

    def get(self) -> None:
        """The document."""
        self.set_status(self.status)
        self.write(self.document if isinstance(self.document, str) else json.dumps(self.document))


@pytest.fixture
def app() -> Application:
    """A server that has only a health route."""
    return Application([(r"/health", Health)], log_function=lambda handler: None)


HEALTHY = {
    "status": "healthy",
    "uptime": 12.5,
    "connections": {"total": 3},
    "backend": {"name": "memory", "state": "up"},
}


@pytest.mark.parametrize(
    ("document", "status", "code", "says"),
    [
        (HEALTHY, 200, 0, "healthy: 3 sessions, backend memory up, up 12 s\n"),
        ({**HEALTHY, "backend": "redis"}, 200, 0, "healthy: 3 sessions, backend redis, up 12 s\n"),
        ({**HEALTHY, "backend": None}, 200, 0, "healthy: 3 sessions, backend unknown, up 12 s\n"),
        ({**HEALTHY, "api": "up"}, 200, 0, "up 12 s\n"),
        ({**HEALTHY, "api": "down"}, 200, 0, "up 12 s, application down\n"),
        ({**HEALTHY, "status": "degraded"}, 200, 1, "degraded: 3 sessions"),
        ({**HEALTHY, "status": "draining"}, 503, 1, "draining: 3 sessions"),
        ({**HEALTHY, "status": "\x1b[2J"}, 200, 1, "\\x1b[2J: 3"),
        ("<html>", 200, 2, "not with a health document"),
        ({"status": "healthy"}, 200, 2, "not with a health document"),
        ([], 200, 2, "not with a health document"),
        *((nested(levels), 200, 2, "not with a health document") for levels in TOO_DEEP),
    ],
)
@pytest.mark.usefixtures("http_server")
@pytest.mark.gen_test
async def test_health_exit_codes(  # noqa: PLR0917 - pytest passes names
    base_url: str,
    monkeypatch: pytest.MonkeyPatch,
    document: Any,
    status: int,
    code: int,
    says: str,
) -> None:
    """`health` prints the state, and exits with 0 (healthy), 1 (degraded, draining) or 2."""
    monkeypatch.setattr(Health, "document", document)
    monkeypatch.setattr(Health, "status", status)
    result = await asyncio.to_thread(call, "health", "--url", base_url)
    assert result.exit_code == code
    assert says in result.output


@pytest.mark.usefixtures("http_server")
@pytest.mark.gen_test
async def test_health_asks_the_configured_server(http_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --url, `health` uses the address from the settings, and no proxy."""
    monkeypatch.setattr(Health, "document", HEALTHY)
    environ = {"PORT": str(http_port), "http_proxy": "http://127.0.0.1:9"}
    result = await asyncio.to_thread(call, "health", **environ)
    assert (result.exit_code, result.output[:7]) == (0, "healthy")


def test_health_without_a_server() -> None:
    """A missing server is unreachable, and an invalid address is a usage error."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        result = call("health", "--url", f"http://127.0.0.1:{free.getsockname()[1]}", "--timeout", "1")
    assert result.exit_code == 2
    assert "no response from" in result.stderr
    for url in ("ftp://h", "h:1", "http://", "http://[::1", "http://h:99999", "http://a b"):
        result = call("health", "--url", url)
        assert (result.exit_code, "expected an http:// or https:// URL" in result.stderr) == (2, True)


def test_run_starts_prints_its_address_and_stops_cleanly(programs: list[Program]) -> None:
    """`run` in dev needs nothing, prints where to click, answers, and ends with 0 on SIGTERM and SIGINT."""
    for number in (signal.SIGTERM, signal.SIGINT):
        program = Program("run", "--port", "0")
        programs.append(program)
        line = program.first_line()
        port = re.search(r"http://127\.0\.0\.1:(\d+) \(backend memory, API embedded\)", line)
        assert port is not None
        health = Program("health", "--url", f"http://127.0.0.1:{port[1]}")
        programs.append(health)
        assert health.end()[0] == 0
        code, out, err = program.end(number)
        assert code == 0, err
        assert f"http://127.0.0.1:{port[1]}/demo" in out
        assert "generated" not in err
        assert "Traceback" not in err


def test_a_server_with_tls(programs: list[Program], tmp_path: Path) -> None:
    """`run` prints https, and `health` uses it: otherwise the image's check would end a healthy server."""
    made = trustme.CA().issue_cert("chat.example.com")
    made.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    (tmp_path / "cert.pem").write_bytes(made.cert_chain_pems[0].bytes())
    environ = {"ECLIPSE_TLS_CERT": "cert.pem", "ECLIPSE_TLS_KEY": "key.pem", "JWT_SECRET": SECRET}
    server = Program("run", "--profile", "test", **environ)
    programs.append(server)
    found = re.search(r"https://127\.0\.0\.1:(\d+) ", server.first_line())
    assert found is not None
    health = Program("health", "--profile", "test", PORT=found[1], **environ)
    programs.append(health)
    code, out, err = health.end()
    assert (code, out[:7]) == (0, "healthy"), err
    strange = Program("health", "--url", f"https://127.0.0.1:{found[1]}")
    programs.append(strange)
    assert "certificate verify failed" in strange.end()[2]
    for command in ("token", "chat"):
        result = call(command, "--profile", "test", **environ)
        assert (result.exit_code, "as --host" in result.stderr) == (2, True)


def test_a_hangup_during_the_start(programs: list[Program], tmp_path: Path) -> None:
    """SIGHUP requests a reload of the settings, and a server that is still reading them continues."""
    profile = tmp_path / "test.toml"
    os.mkfifo(profile)
    program = Program("run", "--profile", str(profile), "--port", "0")
    programs.append(program)
    with profile.open("w") as file:  # opens when the program begins to read it, and waits for more
        program.process.send_signal(signal.SIGHUP)
        file.write('api = "embedded"\n')
    assert "listens at" in program.first_line()
    assert program.end(signal.SIGTERM)[0] == 0


def test_run_on_a_port_in_use(programs: list[Program]) -> None:
    """A port in use ends `run` with code 2 and one sentence that names it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        program = Program("run", "--profile", "test", "--port", port)
        programs.append(program)
        code, out, err = program.end()
    assert (code, out) == (2, "")
    said = [line for line in err.splitlines() if port in line]
    assert len(said) == 1
    assert "--port" in said[0]
    assert "Traceback" not in err


def test_run_with_a_wrong_configuration(programs: list[Program]) -> None:
    """The real program ends with code 2, and shows no secret."""
    program = Program("run", "--profile", "prod", JWT_SECRET="hunter2", PORT="x")
    programs.append(program)
    code, out, err = program.end()
    assert (code, out) == (2, "")
    assert "JWT_SECRET has 7 bytes" in err
    assert "hunter2" not in err


def test_exit_codes_of_a_failed_start(
    monkeypatch: pytest.MonkeyPatch, expect_log: Callable[..., None]
) -> None:
    """A start that fails, a backend that is away, and Ctrl-C during the start each have their exit code."""
    from eclipse_ws.backends.base import BackendError
    from eclipse_ws.observability import logging as logs
    from eclipse_ws.server import server
    from eclipse_ws.server.ports import StartError

    monkeypatch.setattr(logs, "configure_logging", lambda settings: None)
    for error, code in ((StartError("no"), 2), (BackendError("no"), 1), (KeyboardInterrupt(), 130)):

        async def serve(*_: Any, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr(server, "serve", serve)
        with ThreadPoolExecutor() as thread:  # asyncio.run would take this thread's loop from other tests
            result = thread.submit(call, "run", "--profile", "test", ECLIPSE_PRT="1").result()
        assert result.exit_code == code
    expect_log("unknown setting ECLIPSE_PRT in the environment: did you mean PORT")


@pytest.mark.parametrize(
    ("profile", "api", "open_at", "lines"),
    [
        ("test", "http", "", 1),
        ("dev", "embedded", "http://127.0.0.1:81/demo ", 7),
        ("dev", "http", "http://app.example.com:3000", 3),
    ],
)
def test_run_greets(
    capsys: pytest.CaptureFixture[str], profile: str, api: str, open_at: str, lines: int
) -> None:
    """The first line says where it listens; where there is a demo, the next say what to click and to type.

    The demo needs the embedded API: with an application of one's own, that is what to click.
    """
    given = {"profile": profile, "api": api, "next_api_url": "http://app.example.com:3000"}
    settings = Settings(port=0, **given)  # type: ignore[arg-type]
    greet(settings, 81)
    out = capsys.readouterr().out
    assert out.startswith(
        f"eclipse-ws {__version__} listens at http://127.0.0.1:81 (backend memory, API {api})\n"
    )
    assert f"open    {open_at}" in out or not open_at
    assert len(out.splitlines()) == lines


@pytest.mark.parametrize(
    ("arguments", "environ", "kind", "role"),
    [
        ([], {}, tokens.RequestedUrl, "USER"),
        (["--agent", "agent_1"], {}, tokens.RequestedUrl, "AGENT"),
        (["--host", "h:1"], {"JWT_SECRET": SECRET}, tokens.MintedUrl, "USER"),
        (["--url", "ws://h/ws?token=t"], {"JWT_SECRET": SECRET}, tokens.FixedUrl, "USER"),
    ],
)
def test_the_source_of_chats_token(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], environ: dict[str, str], kind: type, role: str
) -> None:
    """`chat` signs a token if a secret is configured, else asks the server, and takes --url unchanged."""
    seen: list[tuple[type, str]] = []

    async def joined(source: object, as_role: str, further: Sequence[str]) -> int:
        assert further == []
        seen.append((type(source), as_role))
        if len(seen) == 2:
            raise KeyboardInterrupt
        return 1

    monkeypatch.setattr(chat, "chat", joined)
    with ThreadPoolExecutor() as thread:
        codes = [thread.submit(call, "chat", *arguments, **environ).result().exit_code for _ in range(2)]
    assert codes == [1, 130]
    assert seen == [(kind, role)] * 2


def test_warnings_of_the_settings_are_logged(programs: list[Program]) -> None:
    """A mistyped variable is logged at the start."""
    program = Program("run", "--profile", "test", ECLIPSE_PRT="1")
    programs.append(program)
    assert "listens at" in program.first_line()
    assert "unknown setting ECLIPSE_PRT in the environment" in program.end(signal.SIGTERM)[2]


@pytest.mark.slow
def test_commands_use_the_server_in_the_same_folder(programs: list[Program], tmp_path: Path) -> None:
    """With a development server running, `token`, `chat`, `bench` and `smoke` need no settings."""
    server = Program("run", "--port", "0")
    programs.append(server)
    found = re.search(r"http://(\S+) ", server.first_line())
    assert found is not None
    place, printed = found[1], server.lines(6)
    kept = tmp_path / dev_secrets.NAME
    before = kept.read_text()
    program = f"{shlex.quote(sys.executable)} -m eclipse_ws"

    def paste(line: str, typed: str = "") -> str:
        done = subprocess.run(
            ["sh", "-c", line],
            input=typed,
            env={**os.environ, **inherited()},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    chat, smoke = (next(line for line in printed if f" {name} " in line) for name in ("chat", "smoke"))
    assert ": hello\n" in paste(chat, "hello\n")
    for line in (smoke, f"{program} smoke http://{place} --profile dev"):
        assert paste(line).endswith("\n10 ok\n")
    url = paste(f"{program} token --host {place}").strip()
    assert ": hi\n" in paste(f"{program} chat --url '{url}'", "hi\n")
    paste(f"{program} bench ws://{place} --sessions 2 --rate 10 --seconds 0.5")
    shown = json.loads(paste(f"{program} config --json"))["jwt_secret"]
    assert shown == {"value": "********", "source": dev_secrets.NAME, "variable": "JWT_SECRET"}
    server.process.send_signal(signal.SIGHUP)
    paste(smoke)
    kept.unlink()  # a reload generates others, as a start does
    server.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 30
    while not kept.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert kept.read_text() != before
    paste(smoke)
    code, out, err = server.end(signal.SIGTERM)
    assert code == 0, err
    for secret in re.findall(r"=(\S+)", before + kept.read_text()):
        assert secret not in out + err


def test_smoke_sends_no_saved_secret_to_another_machine(tmp_path: Path) -> None:
    """A development server's secrets are sent to no other server; a file that others can read is refused."""
    dev_secrets.keep(tmp_path / dev_secrets.NAME)
    assert "JWT_SECRET is not set" in call("smoke", "https://chat.example.com").stderr
    (tmp_path / dev_secrets.NAME).chmod(0o644)
    for arguments in (("smoke", "http://127.0.0.1:9"), ("token",), ("run",)):
        result = call(*arguments)
        assert (result.exit_code, "its mode is 0644, expected 0600" in result.stderr) == (2, True)


def test_chat_talks_to_a_running_server(programs: list[Program]) -> None:
    """`chat` gets its token from the server in dev, from the configured secret, or in --url."""
    environ = {"JWT_SECRET": SECRET, "ECLIPSE_EMBEDDED_DB": ":memory:"}
    server = Program("run", "--port", "0", **environ)
    programs.append(server)
    found = re.search(r"http://(\S+) ", server.first_line())
    assert found is not None
    place = found[1]
    url = call("token", "--chat", "c1", "--host", place, **environ).output.strip()
    for arguments, more in (
        (["--chat", "c1", "--host", place], {}),
        (["--chat", "c1", "--host", place, "--agent", "agent_1"], environ),
        (["--url", url], {}),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "eclipse_ws", "chat", *arguments],
            input="hello there\n\n",
            env={**os.environ, **inherited(), **more},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "* connected to the chat c1" in done.stdout
        assert ": hello there\n" in done.stdout


def test_an_unsupported_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows, which lacks such a signal, the error has a fix."""
    monkeypatch.delattr(signal, "SIGHUP")
    done = call("run", "--profile", "test")
    assert done.exit_code == 2
    assert "requires Linux, macOS or BSD" in done.stderr
    assert "WSL" in done.stderr


@pytest.mark.slow
def test_chat_without_any_input() -> None:
    """Started with closed standard input, as by cron, it ends as at the end of its input."""
    command = f"{shlex.quote(sys.executable)} -m eclipse_ws chat --url ws://127.0.0.1:1/ws?token=x <&-"
    environ = {**os.environ, **inherited()}
    done = subprocess.run(["sh", "-c", command], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
