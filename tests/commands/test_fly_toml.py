"""fly.toml against the documented schema and the settings; and the problems of wrong files."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from eclipse_ws.commands import fly_toml
from eclipse_ws.config.loading import load

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    "JWT_SECRET": "an-honest-jwt-secret-0123456789-abcdef",
    "INTERNAL_API_SECRET": "an-honest-internal-secret-0123456789-ab",
    "REDIS_URL": "rediss://default:pass@host.upstash.io:6379",
    "NEXT_API_URL": "https://app.example.com",
}


@pytest.fixture
def given() -> dict[str, Any]:
    """The file of this repository."""
    parsed, problems = fly_toml.read(ROOT / "fly.toml")
    assert not problems
    return parsed


def judged(given: dict[str, Any], **more: str) -> list[str]:
    """The problems of a file, one sentence each."""
    environ = {**fly_toml.variables(given), **ENVIRONMENT, **more}
    problems = fly_toml.check_schema(given)
    if not problems:
        problems = fly_toml.check_agreement(
            given, load(environ=environ, dotenv=Path("/nonexistent")).settings
        )
    return [str(problem) for problem in problems]


def test_the_file_matches_the_deployment_plan(given: dict[str, Any]) -> None:
    """App, region, port, limits, checks, machine and stopping are the deployment plan's."""
    assert judged(given) == []
    service = given["http_service"]
    assert (given["app"], given["primary_region"]) == ("eclipse-ws-server", "iad")
    assert (service["internal_port"], service["force_https"]) == (8080, True)
    assert service["concurrency"] == {"type": "connections", "soft_limit": 4000, "hard_limit": 5000}
    assert (service["auto_stop_machines"], service["min_machines_running"]) == ("off", 1)
    assert [check["path"] for check in service["checks"]] == ["/health"]
    assert given["vm"] == [{"cpu_kind": "shared", "cpus": 1, "memory": "512mb"}]
    assert given["kill_signal"] == "SIGTERM"
    assert given["metrics"]["path"] == "/metrics"


def test_the_dockerfile_runs_the_command(given: dict[str, Any]) -> None:
    """The build's Dockerfile exists, runs in exec form as a user that is not root, and checks its health."""
    text = (ROOT / given["build"]["dockerfile"]).read_text()
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    assert re.search(r'^CMD \["eclipse-ws", "run"\]$', text, re.MULTILINE)
    assert re.search(r'^HEALTHCHECK .*CMD \["eclipse-ws", "health", "--live"\]$', text, re.MULTILINE)
    assert "--require-hashes" in text
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for name in source.split():
            assert f"!{name}" in ignored, f"{name} is copied, but ignored"


def put(given: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The file with one value changed; None takes it out."""
    changed = copy.deepcopy(given)
    *tables, key = path.split(".")
    at: Any = changed
    for name in tables:
        at = at[name][0] if isinstance(at[name], list) else at[name]
    if value is None:
        at.pop(key)
    else:
        at[key] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("kill_timeout", 30, "expected a duration"),
        ("kill_timeout", "10s", "a drain may take"),
        ("kill_timeout", "400s", "at most 300 s"),
        ("kill_timeout", None, "kill_timeout is 5 s"),
        ("kill_signal", "SIGQUIT", "neither SIGTERM nor SIGINT"),
        ("kill_signal", 15, "expected str"),
        ("primary_regoin", "iad", "write primary_region"),
        ("zzz", 1, "remove it"),
        ("env", 5, "env is 5"),
        ("env.PORT", 8080, 'write it as text: "8080"'),
        ("env.FLY_REGION", "iad", "reserved by the platform"),
        ("env.JWT_SECRET", "x", "fly secrets set JWT_SECRET"),
        ("env.NEXT_API_URL", "https://your-app.vercel.app", "placeholder"),
        ("env.PORT", "9000", "internal_port is 8080"),
        ("env.ECLIPSE_HOST", "127.0.0.1", "can't reach"),
        ("env.ECLIPSE_METRICS_PORT", "9092", "the page is 9092/metrics"),
        ("env.ECLIPSE_MAX_SESSIONS", "3000", "a node accepts 3000 sessions"),
        ("env.ECLIPSE_MAX_SESSIONS", "90000", "sessions need"),
        ("env.ECLIPSE_DRAIN_SECONDS", "60", "a drain may take 82 s"),
        ("http_service.force_https", False, "unencrypted"),
        ("http_service.auto_stop_machines", "stop", "machines with open sockets"),
        ("http_service.min_machines_running", 0, "below 1"),
        ("http_service.min_machines_running", True, "expected int"),
        ("http_service.concurrency.hard_limit", None, "lacks a limit"),
        ("http_service.concurrency.soft_limit", 6000, "keep soft_limit"),
        ("http_service.concurrency.type", "requests", "a socket is one request"),
        ("http_service.checks.path", "/healthz", "no GET /health"),
        ("http_service.checks.timeout", 5, "expected a duration"),
        ("http_service.checks", {}, "not a list of tables"),
        ("http_service", "yes", "expected a table"),
        ("http_service", None, "has no [http_service]"),
        ("vm.memory", "half", 'write "512mb"'),
        ("vm.memory", True, "expected str or int"),
        ("deploy.max_unavailable", True, "expected int or float"),
        ("vm.memory", 128, "vm.memory is 128 MB"),
        ("metrics.path", "/health", "the page is 9091/metrics"),
    ],
)
def test_a_wrong_file_names_the_fix(given: dict[str, Any], path: str, value: Any, says: str) -> None:
    """One wrong value is named, with its fix."""
    found = judged(put(given, path, value))
    assert any(says in sentence for sentence in found), found
    assert all("Fix: " in sentence for sentence in found)


def test_workers_need_cores_and_memory(given: dict[str, Any]) -> None:
    """As many cores as workers, and memory for each process."""
    (sentence,) = judged(put(given, "vm.memory", "1gb"), ECLIPSE_WORKERS="2")
    assert "vm.cpus is 1, but ECLIPSE_WORKERS is 2" in sentence
    for workers in ("4", "auto"):
        four = put(given, "vm.cpus", 4)
        (sentence,) = judged(four, ECLIPSE_WORKERS=workers)
        assert "vm.memory is 512 MB, but 5000 sessions need 680 MB" in sentence
        assert judged(put(four, "vm.memory", "1gb"), ECLIPSE_WORKERS=workers) == []


def test_an_unreadable_file(tmp_path: Path) -> None:
    """A missing file, or one that is not TOML, is one problem."""
    assert "can't be read" in str(fly_toml.read(tmp_path / "fly.toml")[1][0])
    (tmp_path / "fly.toml").write_text("app = ")
    assert "not valid TOML" in str(fly_toml.read(tmp_path / "fly.toml")[1][0])


def test_memory_and_durations() -> None:
    """Units are read as the platform reads them."""
    assert [fly_toml.megabytes(v) for v in ("512mb", "1gb", 256, "1 GB", "x")] == [512, 1024, 256, 1024, None]
    assert [fly_toml.seconds(v) for v in ("30s", "1m", "250ms", "30", 30)] == [30, 60, 0.25, None, None]
