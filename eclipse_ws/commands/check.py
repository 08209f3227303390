"""`eclipse-ws check`: whether a server with these settings would work here, before it is started.

Nothing is changed anywhere: Redis is only given keys that expire within a minute, the application is asked
for a user that there is not.
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

from eclipse_ws.commands import connectivity, fly_toml
from eclipse_ws.commands.report import Finding, Verdict, of_problem
from eclipse_ws.config import profiles
from eclipse_ws.config.loading import load
from eclipse_ws.config.problems import SettingsError
from eclipse_ws.config.profiles import variable
from eclipse_ws.config.settings import Settings, is_production
from eclipse_ws.security.origins import Origins
from eclipse_ws.server import file_descriptors, server

if TYPE_CHECKING:
    from tornado.httpclient import HTTPResponse

    from eclipse_ws.application.base import ApiError
    from eclipse_ws.application.call import Call

SKEW = 2.0
"""Seconds by which clocks may differ before it is worth a word."""


async def check(
    profile: str | None, fly_file: Path | None, environ: Mapping[str, str] | None = None
) -> list[Finding]:
    """Every finding: settings, the file of the platform, this machine, Redis, the application.

    The profile is the one that a start here would have. For production, ``fly_file`` None takes ``fly.toml``
    of the working directory where there is one. Its ``[env]`` counts as variables that the environment may
    override, as on the platform.
    """
    environment = os.environ if environ is None else environ
    path = fly_file or Path(fly_toml.NAME)
    given: dict[str, Any] = {}
    findings: list[Finding] = []
    name = profiles.choose(profile, {**profiles.read_dotenv(Path(".env"))[0], **environment})[0]
    if fly_file is None and path.exists() and not is_production(name):
        text = f"not looked at: the profile {name} is for this machine. --profile prod looks at it"
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
        if loaded.sources[name] == "made up":
            findings.append(Finding(variable(name), "warning", "is not set, a start makes one up", "set it"))
        elif secret := getattr(value, name).get_secret_value():
            findings.append(Finding(variable(name), "ok", f"{len(secret.encode())} bytes"))
    findings += [
        Finding("settings", "warning", sentence, "see docs/deploy.md") for sentence in loaded.warnings
    ]
    if given:
        problems = fly_toml.check_agreement(given, value)
        findings += map(of_problem, problems)
        if not any(finding.name == fly_toml.NAME for finding in findings):
            findings.append(Finding(fly_toml.NAME, "ok", "every key is known, and agrees with the settings"))
    findings += pages(value, loaded.sources["allowed_origins"] == "made up")
    findings += machine(value)
    for some in await asyncio.gather(redis(value), application(value)):
        findings += some
    return findings


# -- pages ----------------------------------------------------------------------------------------


def pages(value: Settings, made_up: bool) -> list[Finding]:
    """Which pages may open sessions, and which are probably forgotten; ``made_up``: it is the default."""
    name, listed = "ALLOWED_ORIGINS", value.allowed_origins
    if not listed:
        if value.production:
            return []  # the settings warn of it
        return [Finding(name, "ok", "is unset: pages of this machine may open sessions")]
    text = f"pages of {', '.join(listed[:10])}{', ...' if len(listed) > 10 else ''} may open sessions"
    text += "; it is unset, so this is the application's own origin" if made_up else ""
    findings = [Finding(name, "ok", text)]
    for sibling in Origins(value).siblings(listed):
        fix = f"add {sibling} to it if the application's pages are served there too"
        findings.append(Finding(name, "warning", f"{sibling} may not open sessions", fix))
    if "null" in listed:
        text = "null lets every sandboxed frame in, whosever it is"
        findings.append(Finding(name, "warning", text, "leave it out, and list the origins that are meant"))
    return findings


# -- this machine ---------------------------------------------------------------------------------


def machine(value: Settings) -> list[Finding]:
    """File limits against the sessions asked for, memory, and whether the port is free."""
    findings = []
    most, needed = file_descriptors.allowed(), file_descriptors.needed(value)
    if most is not None and most < needed:
        fix = f"raise it (`ulimit -Hn {needed}`, or the platform's setting), or lower ECLIPSE_MAX_SESSIONS"
        verdict: Verdict = (
            "problem" if file_descriptors.fitting(value, most)[0] < value.max_sessions else "warning"
        )
        findings.append(Finding("file limit", verdict, file_descriptors.shortage(value, most), fix))
    else:
        findings.append(Finding("file limit", "ok", f"{needed} needed, {most or 'any number'} allowed"))
    if value.production and value.metrics_port is None and value.admin_port is None:
        text = "is unset: /metrics is on the public port, and answers who shows INTERNAL_API_SECRET"
        fix = "set it, or have Prometheus show the secret (docs/operate.md)"
        findings.append(Finding("ECLIPSE_METRICS_PORT", "warning", text, fix))
    hosts = {"port": value.host, "admin_port": value.admin_host, "metrics_port": value.host}
    ports = {field: getattr(value, field) for field in hosts}
    for field, port in ports.items():
        if port and list(ports.values()).count(port) > 1:
            text = f"is {port}, as another port"
            findings.append(Finding(variable(field), "problem", text, "give each its own"))
        elif port:
            findings.append(_port(field, hosts[field], port))
    return findings


def _port(field: str, host: str, port: int) -> Finding:
    name, where = variable(field), f"{host}:{port}"
    try:
        server.close(server.listen(field, host, port))
    except server.StartError as error:
        cause = error.__cause__
        if isinstance(cause, PermissionError):
            return Finding(name, "problem", f"may not listen on {port}", "choose one above 1023")
        said = getattr(cause, "strerror", None) or cause
        if getattr(cause, "errno", None) == errno.EADDRINUSE:
            fix = "stop what listens there, unless it is this very server; or choose another"
            return Finding(name, "warning", f"{where} can't be listened on ({said})", fix)
        fix = f"check it and its host; {variable('host')}=0.0.0.0 takes every address of this machine"
        return Finding(name, "problem", f"{where} can't be listened on ({said})", fix)
    return Finding(name, "ok", f"{where} is free")


# -- Redis ----------------------------------------------------------------------------------------


class _Nobody:
    """A listener to whom nothing is delivered."""

    def deliver(self, chat_id: str, event: object) -> None: ...

    def interrupt(self, chat_id: str) -> None: ...

    def answer(self, question: object) -> None: ...

    def restored(self) -> None: ...


async def redis(value: Settings) -> list[Finding]:
    """Reachable, the right protocol, every command permitted, round trip, role, memory policy, clock."""
    name = "REDIS_URL"
    if value.backend != "redis":
        return [Finding("backend", "skipped", f"{value.backend}: one node, nothing to reach")]
    from redis.exceptions import RedisError

    from eclipse_ws.backends.base import BackendError
    from eclipse_ws.backends.redis import RedisBackend
    from eclipse_ws.backends.redis.connection import Link, LinkError, connection
    from eclipse_ws.backends.redis.refusals import classify

    url = value.redis_url.get_secret_value()
    link = Link(connection(url, value.redis_timeout, value.redis_ca), value.redis_timeout)
    try:
        await link.connect()
    except LinkError as error:
        return [await connectivity.redis(url, error, value.redis_timeout)]
    except RedisError as error:
        return [Finding(name, "problem", f"Redis refuses this server: {error}", classify(error).value)]
    running = asyncio.create_task(link.run())
    try:
        findings = [*await _look_at_redis(link), *_environment(value)]
    except (LinkError, RedisError) as error:
        fix = classify(error).value if isinstance(error, RedisError) else connectivity.REDIS_FIX
        findings = [Finding(name, "problem", f"Redis does not do what it is asked: {error}", fix)]
    finally:
        link.close("looked at")
        await running
    if any(finding.verdict == "problem" for finding in findings):
        return findings
    backend = RedisBackend(value)
    try:
        await backend.start(_Nobody())
        rights = Finding("Redis rights", "ok", "every command and script that is used is permitted")
    except BackendError as error:
        rights = Finding("Redis rights", "problem", str(error), "grant what is missing, see docs/deploy.md")
    finally:
        await backend.close()
    return [*findings, rights]


def _environment(value: Settings) -> list[Finding]:
    from eclipse_ws.backends.redis.names import database

    number = database(value.redis_url.get_secret_value())
    if not number or value.redis_prefix:
        return []
    text = (
        f"names database {number}, but pub/sub knows no databases: chat events go to every environment on "
        "this Redis that has a chat of the same id"
    )
    fix = (
        "set ECLIPSE_REDIS_PREFIX, here and in what the application publishes to, or give each environment "
        "a Redis of its own"
    )
    return [Finding("REDIS_URL", "warning", text, fix)]


async def _look_at_redis(link: Any) -> list[Finding]:
    began = time.monotonic()
    seconds, micros = await link.call("TIME")
    trips = [time.monotonic() - began]
    skew = abs(int(seconds) + int(micros) / 1e6 - time.time())
    for _ in range(4):
        began = time.monotonic()
        await link.call("PING")
        trips.append(time.monotonic() - began)
    trip = sorted(trips)[2] * 1000
    fix = "put this server into Redis's region: each event waits for it"
    findings = [Finding("REDIS_URL", "ok" if trip < 20 else "warning", f"answers in {trip:.1f} ms", fix)]
    if skew > SKEW:
        findings.append(
            Finding(
                "clock", "warning", f"differs by {skew:.0f} s from Redis's", "set this machine's clock (NTP)"
            )
        )
    about = await _info(link)
    version = about.get("redis_version", "")
    if about.get("cluster_enabled") == "1":
        text = "is a cluster, which this server does not speak"
        findings.append(Finding("REDIS_URL", "problem", text, "use a database without cluster mode"))
    if about.get("role") == "slave":
        text = "is a read-only replica"
        findings.append(Finding("REDIS_URL", "problem", text, "use the primary's address"))
    if about.get("loading") == "1":
        findings.append(Finding("REDIS_URL", "warning", "is loading its data", "wait until it has"))
    policy = about.get("maxmemory_policy", "noeviction")
    if about.get("maxmemory", "0") != "0" and policy != "noeviction":
        text = f"{policy}: a full Redis forgets positions and histories, and clients have to load chats anew"
        findings.append(Finding("Redis memory", "warning", text, "turn eviction off for this database"))
    if version and tuple(int(part) for part in version.split(".")[:2] if part.isdecimal()) < (6, 2):
        findings.append(
            Finding(
                "Redis version", "warning", f"{version} is not tested with", "use 6.2 or later, or Valkey"
            )
        )
    return findings


async def _info(link: Any) -> dict[str, str]:
    from redis.exceptions import RedisError

    try:
        text = (await link.call("INFO")).decode(errors="replace")
    except RedisError:
        return {}  # not every provider permits it
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


# -- the application ------------------------------------------------------------------------------


async def application(value: Settings) -> list[Finding]:
    """Reachable, it is the chat API, our secret is right and needed; its clock."""
    if value.api != "http":
        return [Finding("chat API", "skipped", f"{value.api}: messages are saved by this server")]
    strangers = value.model_copy(update={"internal_api_secret": SecretStr(secrets.token_urlsafe(48))})
    right, wrong = await asyncio.gather(_ask(value), _ask(strangers))
    findings = [_judge(value, *right)]
    _, answer, _ = right
    if findings[0].verdict != "problem" and wrong[1] is not None and wrong[1].code not in (401, 403):
        text = f"lets anybody in: a wrong secret is answered with {wrong[1].code}"
        fix = "have its routes compare X-Internal-Secret"
        findings.append(Finding("INTERNAL_API_SECRET", "warning", text, fix))
    headers = {} if answer is None else answer.headers
    if date := headers.get("Date"):
        with contextlib.suppress(ValueError):
            skew = abs(parsedate_to_datetime(date).timestamp() - time.time())
            if skew > SKEW + 1:  # the header has whole seconds
                text = f"differs by {skew:.0f} s from the application's: tokens may seem expired"
                findings.append(Finding("clock", "warning", text, "set this machine's clock (NTP)"))
    return findings


async def _ask(value: Settings) -> tuple[ApiError | None, HTTPResponse | None, float]:
    """Ask for a user that there is not: it changes nothing, and only who knows the secret hears so.

    The error that the server would have, the answer if there was one, and the seconds that it took.
    """
    from eclipse_ws.application.base import ApiError
    from eclipse_ws.application.http import HttpApi

    class Asking(HttpApi):
        """The server's own client, which keeps the answer to be looked at."""

        answer: HTTPResponse | None = None

        async def _fetch(self, call: Call, deadline: float) -> HTTPResponse:
            try:
                return await super()._fetch(call, deadline)
            finally:
                future = call.future  # a redirect that isn't followed is an answer, too
                if future is not None and future.done() and future.exception() is None:
                    self.answer = future.result()

    api, error = Asking(value), None
    began = time.monotonic()
    try:
        await api.start()
        await api.user(f"eclipse-check-{secrets.token_hex(8)}")
    except ApiError as raised:
        error = raised
    finally:
        await api.close()
    return error, api.answer, time.monotonic() - began


def _judge(value: Settings, error: ApiError | None, answer: HTTPResponse | None, took: float) -> Finding:
    from eclipse_ws.application.response_errors import LET_IN, is_own_response

    name = "NEXT_API_URL"
    if answer is None:
        return connectivity.application(value, error, took)
    status, kind = answer.code, answer.headers.get("Content-Type", "")
    if 300 <= status < 400:
        # In the server's own words: they leave out the query, which may hold a secret.
        text, _, fix = str(error).removeprefix("GET user: ").rpartition("; ")
        return Finding(name, "problem", text, fix)
    if status in (401, 403) and "json" in kind:
        text, fix = "the application does not accept it", "set the same INTERNAL_API_SECRET here and there"
        if not is_own_response(status, answer.body):
            fix += f"; if something in front of the application answers, {LET_IN}"
        return Finding("INTERNAL_API_SECRET", "problem", text, fix)
    if "json" not in kind:
        text = f"answers {status} with {kind.split(';')[0] or 'nothing'}: this is not the chat API"
        fix = f"set it to the application's root, or {LET_IN}"
        return Finding(name, "problem", text, fix)
    if status == 404 and not is_own_response(status, answer.body):
        text = 'answers 404 without {"error": "..."}: another application, or another path of this one'
        return Finding(name, "warning", text, "set it to the address below which /api/users/<id> is")
    if error is None or error.code == "user_not_found":
        slow = took > 1
        text = f"answers in {took * 1000:.0f} ms, and accepts the secret"
        return Finding(
            name, "warning" if slow else "ok", text, "a slow first answer is one asleep; keep it awake"
        )
    if status >= 500:
        return Finding(name, "problem", f"answers {status}", "look at the application's log")
    fix = "check the address, and the application's log"
    return Finding(name, "problem", f"answers {status}, expected a user or 404 ({error.code})", fix)
