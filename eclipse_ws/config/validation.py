"""Validates settings beyond their types: combinations, production's requirements; and generates defaults."""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Mapping
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Any
from urllib.parse import parse_qsl

from pydantic import SecretStr

from eclipse_ws.config import application_headers
from eclipse_ws.config.invocation import program
from eclipse_ws.config.key_material import (
    MAX_SECRETS,
    KeyMaterialError,
    client_context,
    load_certificate,
    previous_secrets,
    public_keys,
    tls_context,
)
from eclipse_ws.config.problems import (
    Problem,
    check_api_url,
    check_database_url,
    check_events_url,
    check_host,
    check_origin,
    check_secret,
    check_secret_text,
    check_text,
    nearest,
    origin_of,
)
from eclipse_ws.config.redis_url import WHERE_REDIS_URL, check_redis_url, is_sharded
from eclipse_ws.config.settings import AROUND, HAS_LINES, LITERAL, Settings, variable


def check(settings: Settings, sources: Mapping[str, str], given: Mapping[str, str]) -> list[Problem]:
    """Problems beyond types: secrets, addresses, and production's requirements."""
    problems: list[Problem] = []
    production = settings.production
    secret_needed = {
        "JWT_SECRET": not settings.jwt_public_key,
        "INTERNAL_API_SECRET": settings.api == "http" or bool(settings.app_events_url),
    }
    for name, needed in secret_needed.items():
        value = getattr(settings, name.lower()).get_secret_value()
        if value:
            problems += check_secret(name, value, production)
        elif production and needed:
            fix = f"set it to the application's {name} (`{program()} secrets` prints fresh ones for both)"
            problems.append(Problem(name, "is not set", fix))

    url = settings.redis_url.get_secret_value()
    if url:
        problems += check_redis_url(url) or _check_redis_files(url)
        if is_sharded(url) and not settings.app_publishes_over_http:
            problem = "has pubsub=sharded, so nothing hears what the application publishes on Redis itself"
            fix = "publish over HTTP and set ECLIPSE_APP_PUBLISHES_OVER_HTTP=true, or remove the option"
            problems.append(Problem("REDIS_URL", problem, fix))
    elif given.get("UPSTASH_REDIS_REST_URL") and sources["backend"] in ("default", "generated"):
        problem = "is not set; UPSTASH_REDIS_REST_URL is, but the REST API is another protocol"
        problems.append(Problem("REDIS_URL", problem, WHERE_REDIS_URL))
    elif production and settings.backend == "redis":
        problems.append(Problem("REDIS_URL", "is not set", WHERE_REDIS_URL))
    elif production and settings.backend == "memory" and not settings.allow_memory_backend:
        fix = f"{WHERE_REDIS_URL}, or set ECLIPSE_ALLOW_MEMORY_BACKEND=true for a single node"
        problems.append(
            Problem("REDIS_URL", "is not set, and the memory backend can't connect several nodes", fix)
        )
    if production and url and settings.backend == "memory" and not settings.allow_memory_backend:
        fix = "remove it to use Redis, or set ECLIPSE_ALLOW_MEMORY_BACKEND=true to run a single node"
        problems.append(Problem("ECLIPSE_BACKEND", "is memory, which is not permitted in production", fix))
    problems += _check_backend(settings.backend) + _check_workers(settings)
    if settings.backend == "postgres":
        problems += _check_postgres(settings)
    if settings.event_loop == "uvloop" and find_spec("uvloop") is None:
        fix = "install it (pip install 'eclipse-ws[speed]'), or set it to asyncio"
        problems.append(Problem("ECLIPSE_EVENT_LOOP", "is uvloop, which is not installed", fix))

    if settings.api == "http":
        problems += check_api_url(settings.next_api_url)
        if production and sources["next_api_url"] == "default":
            fix = "set it to the application's address, such as https://app.example.com"
            problems.append(Problem("NEXT_API_URL", "is not set", fix))
    elif production and not settings.allow_embedded_api:
        fix = "use http, or set ECLIPSE_ALLOW_EMBEDDED_API=true to save messages in this server"
        problems.append(Problem("ECLIPSE_API", "is embedded, which is not permitted in production", fix))
    if settings.app_events_url:
        problems += check_events_url(settings.app_events_url)
    try:
        application_headers.parse(settings.api_headers.get_secret_value())
    except application_headers.HeadersError as error:
        fix = "write `Name: value`, one header a line, or a JSON object in one line"
        problems.append(Problem("ECLIPSE_API_HEADERS", str(error), fix))
    for pattern in settings.allowed_origins:
        problems += check_origin(pattern)
    for name in settings.allowed_hosts:
        problems += check_host(name)
    return problems + _check_keys(settings)


def _check_backend(name: str) -> list[Problem]:
    """A problem unless a package provides the backend; the built-in ones are listed in pyproject.toml."""
    installed = sorted(entry_points(group="eclipse_ws.backends").names)
    if name in installed:
        return []
    near = nearest(name, installed)
    fix = (
        f"write {near}"
        if near
        else f"use one of {', '.join(installed)}, or install the package that provides it"
    )
    return [Problem("ECLIPSE_BACKEND", f"is {name[:40]!r}, which is not installed", fix)]


def _check_workers(settings: Settings) -> list[Problem]:
    """A problem if there are to be several workers that could not reach each other."""
    name, text = "ECLIPSE_WORKERS", f"is {settings.workers}, and"
    if settings.workers in (1, "auto"):
        return []
    if settings.backend == "memory":
        fix = "set REDIS_URL, or DATABASE_URL and ECLIPSE_BACKEND=postgres, or run one worker"
        return [Problem(name, f"{text} the memory backend can't connect several workers", fix)]
    if settings.api == "embedded":
        fix = "use ECLIPSE_API=http, or run one worker"
        return [Problem(name, f"{text} the embedded store is for one process", fix)]
    return []


def _check_postgres(settings: Settings) -> list[Problem]:
    """Problems of the backend postgres: its library, and its URL."""
    if find_spec("asyncpg") is None:
        fix = "install it (pip install 'eclipse-ws[postgres]'), or use redis"
        return [Problem("ECLIPSE_BACKEND", "is postgres, but asyncpg is not installed", fix)]
    if not settings.database_url:
        fix = "set it to postgresql://user:password@host:5432/database"
        return [Problem("DATABASE_URL", "is not set, and the backend is postgres", fix)]
    return check_database_url(settings.database_url.get_secret_value())


def check_texts(values: Mapping[str, Any], sources: Mapping[str, str]) -> list[Problem]:
    """Problems of texts with invisible characters, or that other programs parse differently."""
    problems: list[Problem] = []
    for field, value in values.items():
        if not isinstance(value, str) or field in HAS_LINES:
            continue
        name = variable(field)
        if field not in LITERAL:
            problems += check_text(name, value)
            continue
        # Parsing a file removes quotes: remaining ones are intended.
        quoted = sources[field] == "environment"
        parts = previous_secrets(value) if field == "jwt_previous_secrets" else [value]
        wrong = [problem for part in parts for problem in check_secret_text(name, part, quoted=quoted)]
        problems += wrong[:1]
    return problems


def _check_keys(settings: Settings) -> list[Problem]:
    """Problems of previous secrets, public keys and certificates."""
    problems: list[Problem] = []
    previous = previous_secrets(settings.jwt_previous_secrets.get_secret_value())
    name = "ECLIPSE_JWT_PREVIOUS_SECRETS"
    wrong = [
        problem for value in previous for problem in check_secret("JWT_SECRET", value, settings.production)
    ]
    if wrong:
        fix = 'write a list in JSON, ["...", "..."], if a secret contains a comma, or remove that secret'
        problems.append(wrong[0]._replace(name=name, fix=fix))
    if len(previous) > MAX_SECRETS and not problems:
        problem = f"lists {len(previous)} secrets, expected at most {MAX_SECRETS}"
        problems.append(Problem(name, problem, "remove secrets that no longer sign tokens"))
    try:
        public_keys(settings.jwt_public_key)
    except KeyMaterialError as error:
        fix = "set it to the application's public key, or to the path of a PEM file with it"
        problems.append(Problem("ECLIPSE_JWT_PUBLIC_KEY", str(error), fix))
    for field in ("api_ca", "redis_ca"):
        problems += _check_authorities(variable(field), getattr(settings, field))
    if bool(settings.tls_cert) != bool(settings.tls_key):
        missing = "ECLIPSE_TLS_KEY" if settings.tls_cert else "ECLIPSE_TLS_CERT"
        fix = "set both to PEM files, or neither if a proxy terminates TLS"
        problems.append(Problem(missing, "is not set, but its counterpart is", fix))
    elif settings.tls_cert:
        try:
            tls_context(settings.tls_cert, settings.tls_key)
        except KeyMaterialError as error:
            fix = "set the paths of two matching PEM files, the key without a password"
            problems.append(Problem("ECLIPSE_TLS_CERT", str(error), fix))
    return problems


def _check_authorities(name: str, path: str) -> list[Problem]:
    try:
        if path:
            client_context(path)
    except KeyMaterialError as error:
        fix = "set it to a PEM file with the certificate of the authority, or unset it"
        return [Problem(name, str(error), fix)]
    return []


def _check_redis_files(url: str) -> list[Problem]:
    """Problems of the files that a REDIS_URL names for TLS."""
    options = dict(parse_qsl(url.partition("?")[2])) if url.startswith("rediss") else {}
    name = "REDIS_URL"
    problems = [
        problem._replace(name=name, text=f"has an ssl_ca_certs that {problem.text}")
        for problem in _check_authorities(name, options.get("ssl_ca_certs", ""))
    ]
    certificate, key = options.get("ssl_certfile", ""), options.get("ssl_keyfile", "")
    if certificate or key:
        try:
            load_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), certificate, key or certificate)
        except KeyMaterialError as error:
            fix = "give both the paths of PEM files that belong together, the key without a password"
            problem = f"has an ssl_certfile with ssl_keyfile that {error}"
            problems.append(Problem(name, problem, fix))
    return problems


def generate(settings: Settings, sources: Mapping[str, str], notes: list[str]) -> dict[str, Any]:
    """Values for optional settings that are missing, each with a note; notes never contain a secret."""
    generated: dict[str, Any] = {}
    for name in ("jwt_secret", "internal_api_secret"):
        if not getattr(settings, name):
            generated[name] = SecretStr(secrets.token_urlsafe(48))
            notes.append(
                f"{variable(name)} is not set: a new one was generated until the next start "
                f"(`{program()} secrets >> .env` saves one)."
            )
    if settings.backend == "redis" and not settings.redis_url:
        generated["redis_url"] = SecretStr("redis://127.0.0.1:6379/0")
        notes.append("REDIS_URL is not set: using redis://127.0.0.1:6379/0.")
    if settings.api == "http" and sources["allowed_origins"] == "default":
        # An empty list must not allow everything, and the application's own pages must work.
        generated["allowed_origins"] = (origin_of(settings.next_api_url),)
    return generated


def find_warnings(settings: Settings) -> list[str]:
    """Warnings about valid settings that are probably mistakes."""
    found = []
    if settings.jwt_secret.get_secret_value() == settings.internal_api_secret.get_secret_value():
        found.append("JWT_SECRET and INTERNAL_API_SECRET are the same. Fix: use two different secrets.")
    if settings.production and not settings.allowed_origins:
        found.append("ALLOWED_ORIGINS is empty: no web page may open a session.")
    if settings.production and settings.api == "embedded":
        found.append(
            "ECLIPSE_API is embedded in production, which is for trials only: it has no accounts, and all of "
            "its routes, including the one for tokens, require X-Internal-Secret."
        )
    if settings.workers == "auto" and not settings.allows_workers:
        found.append(
            "ECLIPSE_WORKERS is auto, and there is one worker: several need Redis or PostgreSQL, and "
            "ECLIPSE_API=http. Fix: use both, or set ECLIPSE_WORKERS=1."
        )
    for field, urls, scheme in (
        ("redis_ca", [settings.redis_url.get_secret_value()], "rediss"),
        ("api_ca", [settings.next_api_url, settings.app_events_url], "https"),
    ):
        secure = any(url.startswith((f"{scheme}://", f"{scheme}+")) for url in urls)
        if getattr(settings, field) and not secure:
            found.append(f"{variable(field)} is set, but its URL does not begin with {scheme}://.")
    if settings.client_address_header and settings.trusted_proxies > 1:
        found.append(
            "ECLIPSE_TRUSTED_PROXIES counts from the right end of ECLIPSE_CLIENT_ADDRESS_HEADER: "
            "set it to 0 if that header contains one address."
        )
    least = settings.max_event + AROUND
    if settings.queue_bytes < least:
        found.append(
            f"ECLIPSE_QUEUE_BYTES is {settings.queue_bytes}, too small for ECLIPSE_MAX_CONTENT "
            f"({settings.max_content}): the longest messages are lost. Fix: set at least {least}."
        )
    return found
