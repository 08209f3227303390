"""Validates `fly.toml`, and compares it with the settings. Pure: a parsed file in, findings out.

Keys and types are from https://fly.io/docs/reference/configuration/, as far as this server uses them. The
platform silently ignores a misspelled key, so this module checks them.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from eclipse_ws.config.problems import Problem, is_placeholder, nearest
from eclipse_ws.config.settings import SECRETS, Settings, variable

NAME: Final = "fly.toml"
MAX_KILL_TIMEOUT: Final = 300.0
"""Maximum seconds that the platform gives a machine to stop."""
SESSION_BYTES: Final = 16_000
"""Upper estimate of a session's memory, kernel buffers included."""
BASE_BYTES: Final = 120_000_000
"""Upper estimate of the memory of a server without sessions."""

_DURATION: Final = "duration"
_CHECK: Final = {
    "grace_period": _DURATION,
    "interval": _DURATION,
    "timeout": _DURATION,
    "method": str,
    "path": str,
    "protocol": str,
    "port": int,
    "tls_skip_verify": bool,
    "headers": dict,
}
SCHEMA: Final[dict[str, Any]] = {
    "app": str,
    "primary_region": str,
    "kill_signal": str,
    "kill_timeout": _DURATION,
    "swap_size_mb": int,
    "console_command": str,
    "build": {"dockerfile": str, "image": str, "args": dict, "build-target": str, "ignorefile": str},
    "deploy": {
        "strategy": str,
        "max_unavailable": (int, float),
        "release_command": str,
        "wait_timeout": _DURATION,
    },
    "env": dict,
    "http_service": {
        "internal_port": int,
        "force_https": bool,
        "auto_stop_machines": (str, bool),
        "auto_start_machines": bool,
        "min_machines_running": int,
        "processes": list,
        "concurrency": {"type": str, "soft_limit": int, "hard_limit": int},
        "checks": [_CHECK],
        "tls_options": dict,
        "http_options": dict,
    },
    "checks": dict,
    "vm": [
        {
            "size": str,
            "cpu_kind": str,
            "cpus": int,
            "memory": (str, int),
            "memory_mb": int,
            "processes": list,
        }
    ],
    "metrics": {"port": int, "path": str, "https": bool},
    "processes": dict,
    "restart": [{"policy": str, "retries": int, "processes": list}],
}
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def read(path: Path) -> tuple[dict[str, Any], list[Problem]]:
    """The parsed file, or what is wrong with it."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")), []
    except OSError as error:
        return {}, [Problem(str(path), f"can't be read ({error.strerror})", "name the file with --fly")]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        return {}, [
            Problem(str(path), f"is not valid TOML: {error}", "start from the one of this repository")
        ]


def variables(given: dict[str, Any]) -> dict[str, Any]:
    """The unchecked content of ``[env]``; empty if it is not a table."""
    env = given.get("env")
    return env if isinstance(env, dict) else {}


def seconds(text: object) -> float | None:
    """A duration such as "30s" in seconds; None for anything else: a bare number's unit varies."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text) if isinstance(text, str) else None
    return None if found is None else float(found[1]) * _UNITS[found[2]]


def megabytes(value: object) -> float | None:
    """Memory such as "512mb", "1gb" or 512."""
    if isinstance(value, int):
        return float(value)
    found = re.fullmatch(r"(\d+)\s*(mb|gb)", value.lower()) if isinstance(value, str) else None
    return None if found is None else float(found[1]) * (1024 if found[2] == "gb" else 1)


def check_schema(given: dict[str, Any]) -> list[Problem]:
    """Unknown keys, wrong types, and forbidden variables."""
    problems = list(_walk(given, SCHEMA, ""))
    for name, value in variables(given).items():
        if not isinstance(value, str):
            problems.append(_problem(f"env.{name} is {value!r}", f'write it as text: "{value}"'))
        elif name.startswith("FLY_"):
            problems.append(_problem(f"env.{name} is reserved by the platform", "remove it"))
        elif name in {variable(field) for field in SECRETS}:
            problems.append(
                _problem(f"env.{name} is a secret", f"remove it; use `fly secrets set {name}=...`")
            )
        elif is_placeholder(value):
            problems.append(_problem(f"env.{name} is a placeholder", "replace it with the value"))
    return problems


def _walk(given: Any, schema: Any, at: str) -> Iterator[Problem]:
    if schema == _DURATION:
        if seconds(given) is None:
            yield _problem(
                f'{at} is {given!r}, expected a duration with its unit, "30s"', f'write {at} = "30s"'
            )
    elif isinstance(schema, dict):
        if not isinstance(given, dict):
            yield _problem(f"{at} is {given!r}, expected a table", f"write [{at}]")
            return
        for key, value in given.items():
            where = f"{at}.{key}" if at else key
            if key not in schema:
                near = nearest(key, schema)
                yield _problem(f"has the unknown key {where}", f"write {near}" if near else "remove it")
            else:
                yield from _walk(value, schema[key], where)
    elif isinstance(schema, list):
        if not isinstance(given, list):
            yield _problem(f"{at} is not a list of tables", f"write [[{at}]]")
            return
        for value in given:
            yield from _walk(value, schema[0], at)
    elif not _is_of(given, kinds := schema if isinstance(schema, tuple) else (schema,)):
        expected = " or ".join(kind.__name__ for kind in kinds)
        yield _problem(f"{at} is {given!r}, expected {expected}", f"change {at} to that type")


def _is_of(given: Any, kinds: tuple[type, ...]) -> bool:
    """Whether a value is of one of the types; true and false are not numbers, unlike in Python."""
    return type(given) in kinds if isinstance(given, bool) else isinstance(given, kinds)


def check_agreement(given: dict[str, Any], settings: Settings) -> list[Problem]:
    """Contradictions between the file and the settings."""
    if check_schema(given):
        return []
    return [*_service(given, settings), *_stopping(given, settings), *_machine(given, settings)]


def _service(given: dict[str, Any], settings: Settings) -> Iterator[Problem]:
    service = given.get("http_service")
    if service is None:
        yield _problem("has no [http_service]", "copy it from the one of this repository")
        return
    port = service.get("internal_port")
    if port != settings.port:
        fix = f"make both {settings.port}"
        yield _problem(
            f"http_service.internal_port is {port}, but the server listens on {settings.port}", fix
        )
    if settings.host not in ("", "0.0.0.0", "::", "*"):  # nosec B104 - compared, not listened on
        yield Problem(
            "ECLIPSE_HOST", f"is {settings.host}, which the platform's proxy can't reach", "set it to 0.0.0.0"
        )
    if service.get("force_https") is not True:
        yield _problem(
            "http_service.force_https is not true: tokens would be sent unencrypted", "set it to true"
        )
    if service.get("auto_stop_machines") not in ("off", False):
        yield _problem(
            'http_service.auto_stop_machines is not "off": machines with open sockets would be stopped',
            'set it to "off"',
        )
    if service.get("min_machines_running", 0) < 1:
        yield _problem(
            "http_service.min_machines_running is below 1", "set it to 1, or to 2 for two machines"
        )
    limits = service.get("concurrency", {})
    soft, hard = limits.get("soft_limit"), limits.get("hard_limit")
    if soft is None or hard is None:
        yield _problem("http_service.concurrency lacks a limit: the default is 20 connections", "set both")
    elif not soft <= hard <= settings.max_sessions:
        yield _problem(
            f"http_service.concurrency is {soft} and {hard}, a node accepts {settings.max_sessions} sessions",
            "keep soft_limit <= hard_limit <= ECLIPSE_MAX_SESSIONS",
        )
    if limits.get("type") != "connections":
        yield _problem(
            'http_service.concurrency.type is not "connections": a socket is one request',
            'set it to "connections"',
        )
    checks = service.get("checks", [])
    if not any(
        each.get("path") in ("/health", "/") and each.get("method", "GET").upper() == "GET" for each in checks
    ):
        yield _problem(
            "http_service.checks has no GET /health: a draining machine would get sessions", "add it"
        )
    metrics = given.get("metrics")
    page = settings.metrics_port or settings.admin_port or settings.port
    if metrics and (metrics.get("port"), metrics.get("path", "/metrics")) != (page, "/metrics"):
        yield _problem(
            f"metrics is {metrics.get('port')}{metrics.get('path', '')}, but the page is {page}/metrics",
            "make them the same (ECLIPSE_METRICS_PORT)",
        )


def _stopping(given: dict[str, Any], settings: Settings) -> Iterator[Problem]:
    timeout = seconds(given.get("kill_timeout", "5s")) or 0.0
    needed = settings.drain_seconds + 2 * settings.api_timeout + 2  # as in Server.drain
    if timeout < needed:
        yield _problem(
            f"kill_timeout is {timeout:g} s, but a drain may take {needed:g} s",
            f'set it to "{min(MAX_KILL_TIMEOUT, needed + 3):.0f}s", or ECLIPSE_DRAIN_SECONDS lower',
        )
    elif timeout > MAX_KILL_TIMEOUT:
        yield _problem(
            f"kill_timeout is {timeout:g} s, expected at most {MAX_KILL_TIMEOUT:g} s", 'write "300s"'
        )
    if given.get("kill_signal", "SIGINT") not in ("SIGINT", "SIGTERM"):
        yield _problem("kill_signal is neither SIGTERM nor SIGINT: there would be no drain", "write SIGTERM")


def _machine(given: dict[str, Any], settings: Settings) -> Iterator[Problem]:
    for machine in given.get("vm", []):
        memory = megabytes(machine.get("memory", machine.get("memory_mb", 256)))
        cpus = machine.get("cpus", 1)
        workers = cpus if settings.workers == "auto" else settings.workers
        if workers > cpus:
            yield _problem(
                f"vm.cpus is {cpus}, but ECLIPSE_WORKERS is {workers}",
                "make them the same, or set ECLIPSE_WORKERS=auto",
            )
        processes = workers + 1 if workers > 1 else 1  # with the supervisor
        needed = (processes * BASE_BYTES + settings.max_sessions * SESSION_BYTES) / 1e6
        if memory is None:
            yield _problem(f"vm.memory is {machine.get('memory')!r}", 'write "512mb"')
        elif memory < needed:
            yield _problem(
                f"vm.memory is {memory:.0f} MB, but {settings.max_sessions} sessions need {needed:.0f} MB",
                "increase it, or lower ECLIPSE_MAX_SESSIONS",
            )


def _problem(problem: str, fix: str) -> Problem:
    return Problem(NAME, problem, fix)
