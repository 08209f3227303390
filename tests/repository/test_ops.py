"""The alerts and the dashboard: that Prometheus takes them, and that they ask for what a server emits."""

from __future__ import annotations

import asyncio
import functools
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import ProxyHandler, build_opener

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from eclipse_ws.server.metrics import exposition
from eclipse_ws.server.server import Server
from tests.client import WAIT, Client, running
from tests.conftest import make_settings
from tests.needs import program
from tests.servers import free_port

ROOT = Path(__file__).parents[2]
ALERTS, ALERT_TESTS = ROOT / "ops/alerts.yaml", ROOT / "ops/alerts.test.yaml"
RULES = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
BOARD = json.loads((ROOT / "ops/grafana.json").read_text())
QUERIES = [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]]
DIRECT = build_opener(ProxyHandler({}))
HOW = "Debian: apt-get install prometheus; macOS: brew install prometheus"
TARGET = {"job", "app", "instance"}
"""What Prometheus adds; on Fly app and instance, elsewhere job and instance."""


@functools.cache
def emitted() -> dict[str, dict[str, set[str]]]:
    """Every sample's name that a server has, with its labels and their values."""
    found: dict[str, dict[str, set[str]]] = {"up": {}}
    page = b"".join(exposition(Server(make_settings()).node))
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for name, value in sample.labels.items():
                labels.setdefault(name, set()).add(value)
    return found


def selectors(expression: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """The metrics of an expression, each with its label matchers."""
    found = re.findall(r"\b(up|(?:eclipse|process)_\w+)\b(?:\{([^}]*)\})?", expression)
    return [(name, re.findall(r'(\w+)[=!]~?"([^"]*)"', matchers)) for name, matchers in found]


@pytest.mark.parametrize("expression", [*(rule["expr"] for rule in RULES), *QUERIES])
def test_expressions_name_what_a_server_emits(expression: str) -> None:
    """Each metric, label and label value of the alerts and the panels is one that a server emits."""
    known = emitted()
    used = selectors(expression)
    assert used
    labels = set(TARGET)
    for name, matchers in used:
        assert name in known
        labels |= known[name].keys()
        for label, value in matchers:
            assert label in known[name].keys() | TARGET, name
            if label in known[name]:
                assert set(value.split("|")) <= known[name][label], name
    for grouped in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression):
        assert set(grouped.split(", ")) <= labels


def test_every_alert_has_an_entry_in_the_runbook() -> None:
    """The annotation leads to a heading that is there."""
    runbook = (ROOT / "docs/operate.md").read_text()
    for rule in RULES:
        assert f"\n### {rule['alert']}\n" in runbook
        assert rule["annotations"]["runbook"] == f"docs/operate.md#{rule['alert'].lower()}"
    assert re.findall(r"^### (\w+)$", runbook, re.MULTILINE) == [rule["alert"] for rule in RULES]


def test_every_alert_has_a_test_that_it_is_quiet_and_one_that_it_fires() -> None:
    """Under its own name, in the order of the rules."""
    tests = yaml.safe_load(ALERT_TESTS.read_text())["tests"]
    assert [test["name"] for test in tests] == [rule["alert"] for rule in RULES]
    for test in tests:
        checks = test["alert_rule_test"]
        assert {check["alertname"] for check in checks} == {test["name"]}
        assert {bool(check["exp_alerts"]) for check in checks} == {True, False}, test["name"]


def test_prometheus_accepts_the_alerts_and_their_tests_pass() -> None:
    """promtool checks the rules and runs their tests."""
    promtool = program("promtool", HOW)
    for arguments in (["check", "rules", str(ALERTS)], ["test", "rules", str(ALERT_TESTS)]):
        done = subprocess.run([promtool, *arguments], check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def prometheus(folder: Path, port: int, metrics_port: int) -> Iterator[None]:
    """A Prometheus that scrapes a server as one job and itself as another, with the alerts."""
    config = {
        "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [
            {"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}
            for name, target in (("eclipse-ws", metrics_port), ("prometheus", port))
        ],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    process = subprocess.Popen(
        [
            program("prometheus", HOW),
            f"--config.file={folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.kill()
        process.wait(WAIT)


def ask(port: int, path: str) -> Any:
    """The data of an answer of Prometheus' API; None while it is starting."""
    try:
        with DIRECT.open(f"http://127.0.0.1:{port}{path}", timeout=WAIT) as answer:
            return json.load(answer)["data"]
    except HTTPError as error:
        assert error.code == 503, f"{path}: {error.read().decode()}"
    except OSError:
        pass
    return None


@pytest.mark.slow
@pytest.mark.gen_test
async def test_every_panel_shows_a_real_server(tmp_path: Path) -> None:
    """A real Prometheus finds something for each panel, only of the server; and no alert is raised."""
    program("prometheus", HOW)
    port = free_port()
    async with running(metrics_port=0) as server:
        assert server.metrics_port
        with prometheus(tmp_path, port, server.metrics_port):
            client = await Client.join(server.port)
            await client.say(type="message", content="x", role="USER")
            await client.seek("message")

            async def found(query: str) -> list[dict[str, Any]]:
                data = await asyncio.to_thread(ask, port, f"/api/v1/query?query={quote(query)}")
                return data["result"] if data else []

            deadline = asyncio.get_running_loop().time() + 3 * WAIT
            for job in ("eclipse-ws", ".*"):
                for query in QUERIES:
                    expression = (
                        query.replace("$__rate_interval", "5s").replace("$job", job).replace("$app", ".*")
                    )
                    while not (result := await found(expression)):
                        assert asyncio.get_running_loop().time() < deadline, f"nothing found: {expression}"
                        await asyncio.sleep(0.1)
                    labels = [series["metric"] for series in result]
                    assert {each.get("job", "eclipse-ws") for each in labels} == {"eclipse-ws"}
                    own = f"127.0.0.1:{server.metrics_port}"
                    assert {each.get("instance", own) for each in labels} == {own}, expression
            for rule in ask(port, "/api/v1/rules")["groups"][0]["rules"]:
                assert (rule["health"], rule["state"]) == ("ok", "inactive"), rule
            variables = [each["name"] for each in BOARD["templating"]["list"] if each["type"] == "query"]
            assert variables == ["job", "app"]
            values = ask(port, f"/api/v1/label/job/values?match[]={quote('eclipse_build_info')}")
            assert values == ["eclipse-ws"]
            await client.close()
