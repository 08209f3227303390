"""The page at /metrics."""

from __future__ import annotations

import asyncio
import builtins
import io
import math
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import psutil
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from eclipse_ws.delivery.identities import DIGEST, OVERHEAD
from eclipse_ws.delivery.marks import Ban
from eclipse_ws.observability.histogram import SLICE, Cached, CachedPage, Histogram, LoopLag
from eclipse_ws.server import file_descriptors
from eclipse_ws.server.metrics import NodeCollector, exposition
from eclipse_ws.server.server import Server
from eclipse_ws.sessions.node import UPGRADE_LIMITS
from tests.client import UPGRADE, Client, http, running, token, until
from tests.conftest import make_settings


def page_of(server: Server) -> bytes:
    """The whole page."""
    return b"".join(exposition(server.node))


def samples(page: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of a page by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def value(page: bytes, name: str, **labels: str) -> float:
    """One sample's value."""
    return samples(page)[name, tuple(sorted(labels.items()))]


@pytest.mark.gen_test
async def test_the_page_counts_what_happens() -> None:
    """Sessions, commands, events, deliveries, resumes, API calls and refusals are on the page."""
    async with running() as server:
        one = await Client.join(server.port, "c1", "u1")
        two = await Client.join(server.port, "c1", "u2")
        await one.say(type="message", content="x", role="USER", clientMessageId="k")
        cursor = (await one.seek("ack"))["cursor"]
        await two.seek("message")
        await two.close()
        await until(lambda: server.hub.sessions == 1)
        two = await Client.join(server.port, "c1", "u2", cursor=cursor)
        wrong = await Client.open(server.port, "token=wrong")
        await wrong.ended()
        stats = server.node.wire_stats
        before = stats.too_big
        large = await Client.join(server.port, "c2", "u3")
        await large.raw("x" * (server.settings.max_frame + 1))
        await large.ended()
        answer = await http(server.port, "/metrics")
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/plain")
        page = answer.body
        assert value(page, "eclipse_sessions") == 2
        assert value(page, "eclipse_http_connections") == 1  # this very request
        assert value(page, "eclipse_chats") == 1
        assert value(page, "eclipse_commands_total", type="message") == 1
        assert value(page, "eclipse_events_total") == 1
        assert value(page, "eclipse_deliveries_total") == 2
        assert value(page, "eclipse_identities_bytes") == OVERHEAD + DIGEST
        assert value(page, "eclipse_identities_forgotten_total") == 0
        assert value(page, "eclipse_resumes_total", outcome="recovered") == 1
        assert value(page, "eclipse_api_calls_total", outcome="ok") >= 1
        assert value(page, "eclipse_api_seconds_count") >= 1
        assert value(page, "eclipse_event_to_socket_seconds_count") == 1
        assert value(page, "eclipse_refusals_total", reason="token") == 1
        assert value(page, "eclipse_refusals_total", reason="max_frame") == before + 1
        assert value(page, "eclipse_refusals_total", reason="queue_bytes") == stats.closed_slow
        assert value(page, "eclipse_backend_up") == 1
        assert value(page, "eclipse_draining") == 0
        await one.close()
        await two.close()


@pytest.mark.gen_test
async def test_refused_upgrades_are_counted_by_reason() -> None:
    """Whether an HTTP status or a close code refused it; commands and refreshes do not count."""
    async with running(max_sessions_per_chat=1) as server:
        node, good = server.node, f"token={token()}"

        async def refused(query: str = good, **headers: str) -> None:
            answer = await http(server.port, f"/ws?{query}", headers={**UPGRADE, **headers})
            assert answer.status in {101, 403, 429, 503}

        one = await Client.join(server.port)
        await one.say(type="refresh", token="x")
        await one.next("error")
        await refused("token=x")
        await refused(Origin="https://example.com")
        await refused()  # the chat is full
        with patch.object(node.penalties, "waits", return_value=True):
            await refused()
        for limit in ("max_sessions_per_address", "upgrades_per_minute"):
            with patch.object(node.addresses, "upgrade", return_value=limit):
                await refused()
        with patch.object(node, "settings", node.settings.model_copy(update={"max_sessions": 1})):
            await refused()
        with patch.object(node, "draining", True):
            await refused()
        await node.delivery.marks.ban("c2", Ban("u1", time.time() + 60, "why"))
        banned = await Client.open(server.port, f"token={token('c2')}")
        assert await banned.ended() == (4003, "why")
        page = samples((await http(server.port, "/metrics")).body)
        counts = {
            dict(labels)["reason"]: count for (name, labels), count in page.items() if "upgrades" in name
        }
        assert counts == dict.fromkeys(UPGRADE_LIMITS, 1)
        await one.close()


@pytest.mark.gen_test
async def test_the_page_does_not_grow_with_sessions() -> None:
    """No metric has a label that grows with chats or users."""
    async with running() as server:
        first = samples((await http(server.port, "/metrics")).body)
        clients = [await Client.join(server.port, f"c{number}", f"u{number}") for number in range(30)]
        for client in clients:
            await client.say(type="message", content="x", role="USER")
            await client.seek("message")
        page = (await http(server.port, "/metrics")).body
        assert samples(page).keys() == first.keys()
        assert not re.search(rb'"(c|u)\d+"', page)
        for client in clients:
            await client.close()


@pytest.mark.gen_test
@pytest.mark.parametrize("path", ["/metrics", "/health", "/"])
async def test_very_many_requests_share_a_page(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request gets a fresh page until making them has cost too much; then one is made for all."""
    now, made = [100.0], []
    async with running() as server:

        def slow(node: Any) -> Any:
            made.append(now[0])
            now[0] += 0.01
            return {} if path != "/metrics" else []

        monkeypatch.setattr(
            "eclipse_ws.observability.histogram.time", SimpleNamespace(monotonic=lambda: now[0])
        )
        monkeypatch.setattr("eclipse_ws.server.metrics.exposition", slow)
        server.node._health = Cached(lambda: slow(server.node))
        for _ in range(100):
            assert (await http(server.port, path)).status == 200
        assert len(made) == 11  # a tenth of a second in all
        now[0] += 0.3
        await http(server.port, path)
        assert len(made) == 11
        now[0] += 60
        for _ in range(5):
            await http(server.port, path)
        assert len(made) == 16


def test_the_page_is_what_prometheus_would_make(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own library makes the same text of the same metrics, whatever their values and labels are."""
    server = Server(make_settings(machine='a "quoted" \\ machine\nof two lines', region=""))
    server.hub.latency.seconds = 1e-9
    server.hub.events = 12345678901234567890
    server.node.wire_stats.bytes_in = 10**21
    families = list(NodeCollector(server.node).collect())
    monkeypatch.setattr(NodeCollector, "collect", lambda _: families)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(NodeCollector(server.node))
    assert page_of(server) == generate_latest(registry)


@pytest.mark.gen_test
async def test_other_work_is_done_while_a_page_is_made() -> None:
    """A page of many pieces takes several turns of the loop, each a short one; who asks meanwhile waits."""
    turns, made = [0], []

    async def work() -> None:
        while True:
            turns[0] += 1
            await asyncio.sleep(0)

    def pieces() -> Iterator[bytes]:
        made.append(turns[0])
        for number in range(9):
            until = time.monotonic() + 2 * SLICE
            while time.monotonic() < until:
                pass
            made.append(turns[0])
            yield b"%d" % number

    page = CachedPage(pieces)
    working = asyncio.create_task(work())
    first = asyncio.create_task(page.fetch())
    await asyncio.sleep(0)  # it has begun
    others = [asyncio.create_task(page.fetch()) for _ in range(5)]
    assert await first == b"012345678"
    assert len(set(made[:10])) == 9
    assert await asyncio.gather(*others) == [b"012345678"] * 5
    assert len(made) == 20  # the others came while the first page was made, and share the second
    working.cancel()


@pytest.mark.gen_test
async def test_all_pieces_of_a_page_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a page has cost is the time of all its turns."""
    now, made = [100.0], []
    monkeypatch.setattr("eclipse_ws.observability.histogram.time", SimpleNamespace(monotonic=lambda: now[0]))

    def pieces() -> Iterator[bytes]:
        made.append(now[0])
        for _ in range(6):
            now[0] += 0.01
            yield b""

    page = CachedPage(pieces)
    for _ in range(5):
        await page.fetch()
    assert len(made) == 2


def test_a_page_is_at_most_a_second_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """However expensive it is, a page is at most a second old."""
    now = [100.0]
    monkeypatch.setattr("eclipse_ws.observability.histogram.time", SimpleNamespace(monotonic=lambda: now[0]))

    def make() -> float:
        began = now[0]
        now[0] += 1
        return began

    cached = Cached(make)
    assert cached.get() == 100
    now[0] = 100.9
    assert cached.get() == 100
    now[0] = 101
    assert cached.get() == 101


@pytest.mark.gen_test
async def test_a_port_for_metrics() -> None:
    """With metrics_port the page is there, with the health document, and nowhere else."""
    async with running(metrics_port=0) as server:
        assert server.metrics_port
        assert (await http(server.metrics_port, "/metrics")).status == 200
        assert (await http(server.metrics_port, "/health")).status == 200
        assert (await http(server.metrics_port, "/api/chats/c/events", "POST", {})).status == 404
        assert (await http(server.port, "/metrics")).status == 404


@pytest.mark.gen_test
async def test_the_page_moves_with_the_admin_port() -> None:
    """With only admin_port the page is there, and the public port has none."""
    async with running(admin_port=0) as server:
        assert (await http(server.admin_port, "/metrics")).status == 200
        assert (await http(server.port, "/metrics")).status == 404


def test_an_unknown_outcome_is_counted_as_other() -> None:
    """The labels stay the same for unknown error codes."""
    server = Server(make_settings())
    server.api.stats.count("never_heard_of", 0.1)
    page = page_of(server)
    assert value(page, "eclipse_api_calls_total", outcome="other") == 1
    assert b"never_heard_of" not in page


def test_a_histogram_puts_durations_into_their_buckets() -> None:
    """A bound belongs to its own bucket, and what is slower than all to the last."""
    histogram = Histogram((0.1, 1.0))
    for seconds in (0.05, 0.1, 0.5, 7):
        histogram.count(seconds)
    assert histogram.buckets == [2, 1, 1]
    assert histogram.seconds == pytest.approx(7.65)


@pytest.mark.gen_test
async def test_a_busy_loop_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lag's histogram fills by itself, until it is stopped."""
    monkeypatch.setattr("eclipse_ws.observability.histogram.LAG_INTERVAL", 0.001)
    lag = LoopLag()
    lag.stop()
    lag.start()
    await until(lambda: sum(lag.histogram.buckets) >= 3)
    lag.stop()


def hide_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take /proc away as on macOS, except from psutil, which does without it there."""

    def hidden(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any = ".", *arguments: Any, **named: Any) -> Any:
            caller = sys._getframe(1).f_globals["__name__"]
            if str(path).startswith("/proc") and not caller.startswith("psutil"):
                raise FileNotFoundError(2, "hidden", str(path))
            return function(path, *arguments, **named)

        return call

    monkeypatch.setattr(
        "eclipse_ws.server.metrics.memory_bytes", lambda: 1 << 30
    )  # tests/sessions/test_node.py has its own
    for module, name in ((builtins, "open"), (io, "open"), (os, "listdir"), (os, "stat"), (os, "readlink")):
        monkeypatch.setattr(module, name, hidden(getattr(module, name)))


PROCESS = (
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_cpu_seconds_total",
    "process_start_time_seconds",
    "process_open_fds",
)


def test_the_process_is_measured_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then only psutil measures the process; its metrics have the names that alerts use."""
    server = Server(make_settings())
    mebibyte, now = 1 << 20, time.time()
    hide_proc(monkeypatch)
    with pytest.raises(FileNotFoundError):
        Path("/proc/self/stat").read_text()
    page = page_of(server)
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert 20 * mebibyte < value(page, "process_resident_memory_bytes") < 4096 * mebibyte
    assert value(page, "process_virtual_memory_bytes") > value(page, "process_resident_memory_bytes")
    assert 0 < value(page, "process_cpu_seconds_total") <= time.process_time() + 1
    assert now - 86400 < value(page, "process_start_time_seconds") < now
    assert 3 < value(page, "process_open_fds") < value(page, "process_max_fds") == limit
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert value(page_of(server), "process_max_fds") == math.inf


def test_open_descriptors_are_counted() -> None:
    """One more open file is one more."""
    server = Server(make_settings())
    before = value(page_of(server), "process_open_fds")
    with Path(os.devnull).open():
        assert value(page_of(server), "process_open_fds") == before + 1


def test_a_system_that_does_not_know_the_number_of_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """There they are counted; if that takes long, once a minute."""
    now, counted = [100.0], []

    class Process:
        cost = 0.0

        def num_fds(self) -> int:
            counted.append(now[0])
            now[0] += self.cost
            return 1000 + len(counted)

    monkeypatch.setattr(file_descriptors, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(file_descriptors, "psutil", SimpleNamespace(Process=Process))
    monkeypatch.setattr(file_descriptors, "_keep_until", 0.0)
    if known := Path("/proc/self/fd").stat().st_size:
        assert (file_descriptors.opened(), counted) == (known, [])
    hide_proc(monkeypatch)
    assert [file_descriptors.opened() for _ in range(3)] == [1001, 1002, 1003]
    Process.cost = 0.001
    assert [file_descriptors.opened() for _ in range(3)] == [1004, 1004, 1004]
    now[0] += 59
    assert file_descriptors.opened() == 1004
    now[0] += 1
    assert file_descriptors.opened() == 1005


def test_the_page_omits_what_the_system_does_not_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """If even psutil finds nothing, the rest of the page is there."""
    server = Server(make_settings())
    monkeypatch.setattr(psutil, "PROCFS_PATH", "/nowhere")
    page = page_of(server)
    assert value(page, "eclipse_sessions") == 0
    assert not {name for name, _ in samples(page)} & set(PROCESS)


def test_histograms_are_cumulative() -> None:
    """The exposition's histograms are cumulative and end at their count."""
    node = Server(make_settings()).node
    node.hub.latency.count(0.003)
    node.hub.latency.count(100)
    page = samples(b"".join(exposition(node)))
    name = "eclipse_event_to_socket_seconds"
    assert page[f"{name}_bucket", (("le", "0.005"),)] == 1
    assert page[f"{name}_bucket", (("le", "+Inf"),)] == page[f"{name}_count", ()] == 2
    assert page[f"{name}_sum", ()] == pytest.approx(100.003)


def test_the_first_scrape_imports_nothing() -> None:
    """What a page needs is imported with the server: that takes longer than all of the page."""
    script = """
import sys
from eclipse_ws.server.server import Server
from tests.conftest import make_settings
node = Server(make_settings()).node
before = set(sys.modules)
from eclipse_ws.server.metrics import exposition
b"".join(exposition(node))
assert set(sys.modules) == before, set(sys.modules) - before
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])
