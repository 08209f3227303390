"""The operator's load tool: against a real server, and against peers that refuse, stall or talk nonsense."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from eclipse_ws.cli import main
from eclipse_ws.commands import bench, bench_client
from eclipse_ws.commands.bench import Plan
from eclipse_ws.commands.bench_client import BenchError, Progress
from eclipse_ws.commands.bench_report import Outcome
from tests.client import running
from tests.conftest import SECRET

UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
GREETING = b'{"type":"connected"}'


def frame(payload: bytes, opcode: int = 1) -> bytes:
    """A server's frame."""
    length = bytes([len(payload)]) if len(payload) < 126 else b"\x7e" + len(payload).to_bytes(2, "big")
    return bytes([0x80 | opcode]) + length + payload


@contextlib.asynccontextmanager
async def peer(*answers: bytes, stay: bool = True) -> AsyncIterator[str]:
    """A server that answers each upgrade with these bytes; its URL."""

    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())  # type: ignore[arg-type]
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            for answer in answers:
                writer.write(answer)
                await writer.drain()
                await asyncio.sleep(0)
            if stay:
                await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await asyncio.gather(*serving)


async def measure(url: str, **changed: object) -> Outcome:
    """A short run, whose progress is checked."""
    told: list[tuple[str, int, int]] = []
    values: dict[str, object] = {"sessions": 4, "rate": 40.0, "seconds": 0.3, **changed}
    plan = Plan(url, SECRET, **values)  # type: ignore[arg-type]
    outcome = await bench.bench(plan, lambda *progress: told.append(progress))
    assert all(0 <= done <= all_of_it for _, done, all_of_it in told)
    assert told[-1][1] == told[-1][2]
    return outcome


@pytest.mark.gen_test
@pytest.mark.parametrize("mode", ["typing", "message"])
@pytest.mark.parametrize("per_chat", [2, 4])
async def test_everything_arrives(mode: str, per_chat: int) -> None:
    """On a healthy server each event reaches each of the others, and each latency is counted."""
    async with running() as server:
        outcome = await measure(f"ws://127.0.0.1:{server.port}", mode=mode, per_chat=per_chat, rate=30.0)
    assert outcome.good
    assert outcome.ready == 4
    assert outcome.sent > 3
    assert outcome.received == outcome.expected == outcome.sent * (per_chat - 1)
    assert outcome.latency.total == outcome.received
    assert not outcome.errors


@pytest.mark.gen_test
async def test_errors_are_counted_by_their_code() -> None:
    """The report names the exceeded limits, and that not everything arrived."""
    async with running(message_rate=0.5) as server:
        outcome = await measure(f"ws://127.0.0.1:{server.port}", mode="message", sessions=2)
    assert not outcome.good
    assert 0 < outcome.errors["rate_limited"] <= outcome.sent - outcome.received


@pytest.mark.gen_test
async def test_a_wrong_secret() -> None:
    """If no session is accepted the error names the reason and the fix."""
    async with running() as server:
        plan = Plan(f"ws://127.0.0.1:{server.port}", SECRET + "x", sessions=2)
        with pytest.raises(BenchError, match=r"4002 Invalid token \(2\).*JWT_SECRET"):
            await bench.bench(plan, lambda *_: None)


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ((b"HTTP/1.1 503 Busy\r\n\r\n",), "HTTP 503"),
        ((b"\r\n\r\n",), r"HTTP \?"),
        ((UPGRADED + frame(b"\x0f\xa6", 8),), "4006"),
        ((UPGRADED + b"\x81\x7f" + (1 << 40).to_bytes(8, "big"),), "event too long"),
    ],
)
async def test_refusals(answers: tuple[bytes, ...], why: str) -> None:
    """A refusal is reported with the server's text, before and after the upgrade."""
    async with peer(*answers) as url:
        with pytest.raises(BenchError, match=why):
            await measure(url)


@pytest.mark.gen_test
async def test_a_peer_that_leaves() -> None:
    """A connection that ends before its greeting counts as lost."""
    async with peer(UPGRADED, stay=False) as url:
        with pytest.raises(BenchError, match=r"connection lost \(4\)"):
            await measure(url)


@pytest.mark.gen_test
async def test_a_peer_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that does not answer is waited for until a timeout."""
    monkeypatch.setattr(bench_client, "CONNECT_TIMEOUT", 0.05)
    async with peer() as url:
        with pytest.raises(BenchError, match=r"no answer within 0\.05 s"):
            await measure(url)


@pytest.mark.gen_test
async def test_a_closed_port() -> None:
    """A closed port is reported with the system's error."""
    async with peer() as url:
        pass
    with pytest.raises(BenchError, match="Connect"):
        await measure(url)


@pytest.mark.gen_test
async def test_lost_messages_end_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that delivers nothing is not waited for; pings and invalid frames do no harm."""
    monkeypatch.setattr(bench, "DRAIN", 0.05)
    noise = frame(b"hi", 9) + frame(b"{", 1) + frame(b'{"type":"error",', 1) + frame(b'["type":"error"]', 1)
    long = frame(b'{"type":"pong","x":"' + b"y" * 200 + b'"}')
    async with peer(UPGRADED, frame(GREETING)[:5], frame(GREETING)[5:] + noise, long[:3], long[3:]) as url:
        outcome = await measure(url)
    assert outcome.expected == outcome.sent > 0
    assert outcome.received == 0
    assert outcome.errors == {"unknown": 8}
    assert not outcome.good


@pytest.mark.gen_test
async def test_sessions_that_end_during_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is sent for a session that has ended, and its end is counted."""
    monkeypatch.setattr(bench, "DRAIN", 0.01)
    async with peer(UPGRADED + frame(GREETING), frame(b"\x0f\xa3gone", 8)) as url:
        outcome = await measure(url)
    assert outcome.refused == {"4003 gone": 4}
    assert not outcome.good


@pytest.mark.gen_test
async def test_a_chat_of_one() -> None:
    """If no chat has two sessions nothing can arrive, which is reported."""
    async with peer(UPGRADED + frame(GREETING)) as url:
        with pytest.raises(BenchError, match="No chat has two sessions"):
            await measure(url, per_chat=1)


@pytest.mark.gen_test
async def test_awaited_messages_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that is no longer awaited is dropped."""
    monkeypatch.setattr(bench, "WAITING", 2)
    monkeypatch.setattr(bench, "DRAIN", 0.01)
    late = frame(b'{"type":"message","data":{"content":"bench 1"}}')
    async with peer(UPGRADED + frame(GREETING), late) as url:
        outcome = await measure(url, mode="message", rate=100.0)
    assert outcome.sent > 4
    assert outcome.received == 0


# -- the command --------------------------------------------------------------------------------


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variables and no .env of the developer's."""
    monkeypatch.chdir(tmp_path)
    for name in [n for n in os.environ if n.startswith("ECLIPSE_") or n.endswith("_SECRET")]:
        monkeypatch.delenv(name)
    for name in ("REDIS_URL", "PORT", "NODE_ENV"):
        monkeypatch.delenv(name, raising=False)


def call(*arguments: str, **environ: str) -> Result:
    """`eclipse-ws bench`, run in this process."""
    with ThreadPoolExecutor() as thread:  # asyncio.run would take this thread's loop from other tests
        return thread.submit(CliRunner().invoke, main, ["bench", *arguments], env=environ).result()


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("url", ["wss://chat.example.com", "chat.example.com:443", "http://192.0.2.1"])
def test_another_host(url: str) -> None:
    """Only this machine is load-tested, unless the user confirms owning the other one."""
    result = call(url, JWT_SECRET=SECRET)
    assert result.exit_code == 2
    assert "is not this machine" in result.stderr
    assert "--yes-i-run-this" in result.stderr


@pytest.mark.usefixtures("bare")
def test_a_confirmed_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A confirmed host is load-tested, over TLS if the URL has https."""
    plans: list[Plan] = []
    monkeypatch.setattr(bench, "run", lambda plan, plot: plans.append(plan) or 0)
    asked = ["--sessions", "6", "--mode", "message", "--yes-i-run-this"]
    for more in ([], ["--presence"]):
        assert call("https://chat.example.com", *asked, *more, JWT_SECRET=SECRET).exit_code == 0
    plan = Plan("wss://chat.example.com", SECRET, 6, 2, 100.0, 10.0, "message")
    assert plans == [plan, replace(plan, presence=True)]


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["ftp://127.0.0.1"], "is not a server's address"),
        (["ws://"], "is not a server's address"),
        (["ws://[::1"], "is not a server's address"),
        (["127.0.0.1:99999"], "is not a server's address"),
        (["127.0.0.1:1", "--sessions", "1"], "2<=x<=20000"),
        (["127.0.0.1:1", "--seconds", "1e9"], "0.1<=x<=3600"),
        (["127.0.0.1:1"], "JWT_SECRET is not set"),
    ],
)
def test_invalid_options(arguments: list[str], says: str) -> None:
    """Invalid options are reported before anything is done."""
    result = call(*arguments)
    assert result.exit_code == 2
    assert says in result.stderr


@pytest.mark.usefixtures("bare")
def test_no_server() -> None:
    """Without a server the exit code is 1, and one sentence says why."""
    result = call("127.0.0.1:1", "--sessions", "2", JWT_SECRET=SECRET)
    assert result.exit_code == 1
    assert "No session was accepted at ws://127.0.0.1:1" in result.stderr


def measured() -> Outcome:
    """The result of a run."""
    outcome = Outcome(planned=2, ready=2, connect_seconds=1, sent=2, expected=2, received=2, seconds=1)
    outcome.latency.add(0.001)
    outcome.latency.add(0.004)
    return outcome


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("lost", [0, 1])
def test_output(lost: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The summary and the plot go to stdout, the picture to its file; the exit code reports losses."""

    async def pretend(plan: Plan, progress: Progress) -> Outcome:
        progress("load", 1, 1)
        outcome = measured()
        outcome.expected += lost
        return outcome

    monkeypatch.setattr(bench, "bench", pretend)
    result = call("127.0.0.1:1", "--plot", str(tmp_path / "plot.svg"), JWT_SECRET=SECRET)
    assert result.exit_code == lost
    assert f"received    2 of {2 + lost} expected" in result.stdout
    assert "█" in result.stdout
    assert (tmp_path / "plot.svg").read_text(encoding="utf-8").startswith("<svg")
    result = call("127.0.0.1:1", "--plot", str(tmp_path / "none" / "plot.svg"), JWT_SECRET=SECRET)
    assert result.exit_code == 2
    assert "can't write the plot" in result.stderr


@pytest.mark.usefixtures("bare")
def test_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends it like any program."""

    def interrupted(plan: Plan, plot: str | None) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "run", interrupted)
    assert call("127.0.0.1:1", JWT_SECRET=SECRET).exit_code == 130


def test_no_plot_without_a_latency(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a latency only the summary is printed."""

    async def pretend(plan: Plan, progress: Progress) -> Outcome:
        return Outcome(planned=2, ready=2, connect_seconds=1, sent=1, expected=1, seconds=1)

    monkeypatch.setattr(bench, "bench", pretend)
    with ThreadPoolExecutor() as thread:
        assert thread.submit(bench.run, Plan("ws://127.0.0.1:1", SECRET), None).result() == 1
    assert "–" not in capsys.readouterr().out


def test_the_bench_profile() -> None:
    """`--profile bench` takes production's path with limits out of the way, and Redis only if it is given."""
    from eclipse_ws.config.loading import load

    environ = {
        "JWT_SECRET": SECRET,
        "INTERNAL_API_SECRET": SECRET + "2",
        "NEXT_API_URL": "http://127.0.0.1:3000",
    }
    settings = load("bench", environ=environ, dotenv=Path("none")).settings
    assert settings.production
    assert (settings.backend, settings.api, settings.log_level) == ("memory", "http", "error")
    assert settings.message_rate == settings.command_rate == 1_000_000
    with_redis = load("bench", environ={**environ, "REDIS_URL": "redis://h:1"}, dotenv=Path("none")).settings
    assert with_redis.backend == "redis"
