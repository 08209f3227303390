"""`eclipse-ws check`: checks the configuration and the environment before a start.

It changes nothing: it writes only Redis keys that expire within a minute, makes the table that a start would
make in PostgreSQL, requests an unknown user from the application, and sends it a batch without reports.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from eclipse_ws.commands import check_postgres, check_redis, connectivity, fly_toml
from eclipse_ws.commands.report import Finding, Verdict, of_problem
from eclipse_ws.config import profiles
from eclipse_ws.config.loading import load
from eclipse_ws.config.problems import SettingsError
from eclipse_ws.config.settings import Settings, is_production, variable
from eclipse_ws.security.origins import Origins
from eclipse_ws.server import file_descriptors, ports
from eclipse_ws.server.workers import shares

if TYPE_CHECKING:
    from eclipse_ws.application.base import ApiError
    from eclipse_ws.application.call import Call
    from eclipse_ws.application.response import ApiResponse


async def check(
    profile: str | None, fly_file: Path | None, environ: Mapping[str, str] | None = None
) -> list[Finding]:
    """All findings: settings, fly.toml, this machine, Redis, the application.

    The profile is the one of a start here. In production, ``fly_file`` None means ``fly.toml`` in the working
    directory, if it exists. Its ``[env]`` sets variables that the environment overrides, as on the platform.
    """
    from eclipse_ws.commands.check_reports import reports

    environment = os.environ if environ is None else environ
    path = fly_file or Path(fly_toml.NAME)
    given: dict[str, Any] = {}
    findings: list[Finding] = []
    name = profiles.choose(profile, {**profiles.read_dotenv(Path(".env"))[0], **environment})[0]
    if fly_file is None and path.exists() and not is_production(name):
        text = f"not checked: the profile {name} is for this machine. --profile prod checks it"
        findings.append(Finding(fly_toml.NAME, "skipped", text))
    elif fly_file is not None or path.exists():
        given, problems = fly_toml.read(path)
        problems = problems or fly_toml.check_schema(given)
        findings += [of_problem(problem) for problem in problems]
    variables = {k: v for k, v in fly_toml.variables(given).items() if isinstance(v, str)}
    variables |= environment
    try:
        loaded = load(profile, environ=variables)
    except SettingsError as error:
        return [*findings, *map(of_problem, error.problems)]
    value = loaded.settings
    findings.append(Finding("settings", "ok", f"profile {loaded.profile}, {len(loaded.sources)} settings"))
    for name in ("jwt_secret", "internal_api_secret"):
        if loaded.sources[name] == "generated":
            findings.append(
                Finding(variable(name), "warning", "is not set; each start generates one", "set it")
            )
        elif secret := getattr(value, name).get_secret_value():
            findings.append(Finding(variable(name), "ok", f"{len(secret.encode())} bytes"))
    findings += [
        Finding("settings", "warning", sentence, "see docs/deploy.md") for sentence in loaded.warnings
    ]
    if given:
        problems = fly_toml.check_agreement(given, value)
        findings += map(of_problem, problems)
        if not any(finding.name == fly_toml.NAME for finding in findings):
            findings.append(Finding(fly_toml.NAME, "ok", "all keys are known and agree with the settings"))
    findings += pages(value, loaded.sources["allowed_origins"] == "generated")
    findings += machine(value)
    backend = check_postgres.postgres if value.backend == "postgres" else check_redis.redis
    for some in await asyncio.gather(backend(value), application(value), reports(value)):
        findings += some
    return findings


# -- pages ----------------------------------------------------------------------------------------


def pages(value: Settings, generated: bool) -> list[Finding]:
    """Which pages may open sessions, and which are probably missing; ``generated``: it is the default."""
    name, listed = "ALLOWED_ORIGINS", value.allowed_origins
    if not listed:
        if value.production:
            return []  # the settings warn about it
        return [Finding(name, "ok", "is unset: pages of this machine may open sessions")]
    text = f"pages of {', '.join(listed[:10])}{', ...' if len(listed) > 10 else ''} may open sessions"
    text += "; it is unset, so this is the application's own origin" if generated else ""
    findings = [Finding(name, "ok", text)]
    for sibling in Origins(value).siblings(listed):
        fix = f"add {sibling} to it if the application's pages are served there too"
        findings.append(Finding(name, "warning", f"{sibling} may not open sessions", fix))
    if "null" in listed:
        text = "null allows every sandboxed frame of any site"
        findings.append(Finding(name, "warning", text, "remove it, and list the intended origins"))
    return findings


# -- this machine ---------------------------------------------------------------------------------


def machine(value: Settings) -> list[Finding]:
    """The workers, the file limit for their sessions, and whether the ports are free."""
    findings = []
    workers, cores = shares.count(value), shares.cores()
    if workers > 1:
        whole, value = value, shares.share(value, 1, workers)
        text = f"{workers} workers, each with {value.max_sessions} of {whole.max_sessions} sessions"
        few = workers > cores
        text += f"; this process may use {cores} core{'s' * (cores > 1)}" if few else ""
        fix = "set it to auto, or to at most the number of cores" if few else ""
        findings.append(Finding("ECLIPSE_WORKERS", "warning" if few else "ok", text, fix))
    most, needed = file_descriptors.allowed(), file_descriptors.needed(value)
    if most is not None and most < needed:
        fix = f"raise it (`ulimit -Hn {needed}`, or the platform's setting), or lower ECLIPSE_MAX_SESSIONS"
        verdict: Verdict = (
            "problem" if file_descriptors.fitting(value, most)[0] < value.max_sessions else "warning"
        )
        findings.append(Finding("file limit", verdict, file_descriptors.shortage(value, most), fix))
    else:
        each = " by each worker" if workers > 1 else ""
        text = f"{needed} needed{each}, {most or 'any number'} allowed"
        findings.append(Finding("file limit", "ok", text))
    if value.production and value.metrics_port is None and value.admin_port is None:
        text = "is unset: /metrics is on the public port, and requires INTERNAL_API_SECRET"
        fix = "set it, or configure Prometheus to send the secret (docs/operate.md)"
        findings.append(Finding("ECLIPSE_METRICS_PORT", "warning", text, fix))
    hosts = {"port": value.host, "admin_port": value.admin_host, "metrics_port": value.host}
    chosen = {field: getattr(value, field) for field in hosts}
    for field, port in chosen.items():
        if port and list(chosen.values()).count(port) > 1:
            text = f"is {port}, like another port"
            findings.append(Finding(variable(field), "problem", text, "use different ports"))
        elif port:
            findings.append(_port(field, hosts[field], port))
    return findings


def _port(field: str, host: str, port: int) -> Finding:
    name, where = variable(field), f"{host}:{port}"
    try:
        ports.close(ports.listen(field, host, port))
    except ports.StartError as error:
        cause = error.__cause__
        if isinstance(cause, PermissionError):
            return Finding(name, "problem", f"no permission to listen on {port}", "choose one above 1023")
        detail = getattr(cause, "strerror", None) or cause
        if getattr(cause, "errno", None) == errno.EADDRINUSE:
            fix = "stop the program that listens there, unless it is this server; or choose another port"
            return Finding(name, "warning", f"can't listen on {where} ({detail})", fix)
        fix = f"check it and its host; {variable('host')}=0.0.0.0 means every address of this machine"
        return Finding(name, "problem", f"can't listen on {where} ({detail})", fix)
    return Finding(name, "ok", f"{where} is free")


# -- the application ------------------------------------------------------------------------------


async def application(value: Settings) -> list[Finding]:
    """Reachability, the right API, whether it requires our secret, and its clock."""
    if value.api != "http":
        return [Finding("application", "skipped", f"{value.api}: messages are saved by this server")]
    wrong_secret = value.model_copy(update={"internal_api_secret": SecretStr(secrets.token_urlsafe(48))})
    right, wrong = await asyncio.gather(_probe(value), _probe(wrong_secret))
    findings = [_application_finding(value, *right)]
    _, answer, _ = right
    if findings[0].verdict != "problem" and wrong[1] is not None and wrong[1].code not in (401, 403):
        text = f"accepts any secret: a wrong one got {wrong[1].code}"
        fix = "make its routes check X-Internal-Secret"
        findings.append(Finding("INTERNAL_API_SECRET", "warning", text, fix))
    headers = {} if answer is None else answer.headers
    if date := headers.get("Date"):
        with contextlib.suppress(ValueError):
            skew = abs(parsedate_to_datetime(date).timestamp() - time.time())
            if skew > connectivity.SKEW + 1:  # the header has whole seconds
                text = f"differs by {skew:.0f} s from the application's: tokens may appear expired"
                findings.append(Finding("clock", "warning", text, "set this machine's clock (NTP)"))
    return findings


async def _probe(value: Settings) -> tuple[ApiError | None, ApiResponse | None, float]:
    """Request an unknown user: it changes nothing, and 404 requires the secret.

    Returns the error that the server would get, the response if there was one, and the seconds that it took.
    """
    from eclipse_ws.application.base import ApiError
    from eclipse_ws.application.http import HttpApi

    class Probe(HttpApi):
        """The server's own client, which keeps the response."""

        answer: ApiResponse | None = None

        async def _fetch(self, call: Call, deadline: float) -> ApiResponse:
            try:
                return await super()._fetch(call, deadline)
            finally:
                self.answer = call.response  # a redirect that is not followed is a response, too

    api, error = Probe(value), None
    began = time.monotonic()
    try:
        await api.start()
        await api.user(f"eclipse-check-{secrets.token_hex(8)}")
    except ApiError as raised:
        error = raised
    finally:
        await api.close()
    return error, api.answer, time.monotonic() - began


def _application_finding(
    value: Settings, error: ApiError | None, answer: ApiResponse | None, took: float
) -> Finding:
    from eclipse_ws.application.response_errors import LET_IN, is_own_response

    name = "NEXT_API_URL"
    if answer is None:
        return connectivity.application(name, value.next_api_url, value, error, took)
    status, kind = answer.code, answer.headers.get("Content-Type", "")
    if 300 <= status < 400:
        # The server's own text: it leaves out the query, which may contain a secret.
        text, _, fix = str(error).removeprefix("GET user: ").rpartition("; ")
        return Finding(name, "problem", text, fix)
    if status in (401, 403) and "json" in kind:
        text, fix = (
            "the application rejects it",
            "set the same INTERNAL_API_SECRET here and in the application",
        )
        if not is_own_response(status, answer.body):
            fix += f"; if the response comes from something in front of the application, {LET_IN}"
        return Finding("INTERNAL_API_SECRET", "problem", text, fix)
    if "json" not in kind:
        text = f"answers {status} with {kind.split(';')[0] or 'nothing'}: this is not the application's API"
        fix = f"set it to the application's root, or {LET_IN}"
        return Finding(name, "problem", text, fix)
    if status == 404 and not is_own_response(status, answer.body):
        text = 'answers 404 without {"error": "..."}: another application, or another path of this one'
        return Finding(name, "warning", text, "set it to the base address of /api/users/<id>")
    if error is None or error.code == "user_not_found":
        slow = took > 1
        text = f"answers in {took * 1000:.0f} ms, and accepts the secret"
        return Finding(name, "warning" if slow else "ok", text, "if it was asleep, keep it awake")
    if status >= 500:
        return Finding(name, "problem", f"answers {status}", "see the application's log")
    fix = "check the address, and see the application's log"
    return Finding(name, "problem", f"answers {status}, expected a user or 404 ({error.code})", fix)
