"""Settings: every value that can be configured. `loading` says where the values come from.

Each size limit on a message's path admits what the one before it admits: all follow from `max_content`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from eclipse_ws.config.problems import MASK, mask_url
from eclipse_ws.config.values import (
    Bytes,
    CookieNames,
    Count,
    Hosts,
    Level,
    Origins,
    PerSecond,
    Roles,
    Seconds,
    SecondsOrZero,
    Workers,
)

MAX_FRAME: Final = 5 << 18
"""Bytes of one incoming message, all its fragments together, unless ``max_content`` needs more."""
MAX_ANSWER: Final = 3 << 19
"""Bytes of one response of the application, likewise: the longest content and its sender's picture."""
MAX_EVENT: Final = 1 << 21
"""Bytes of one event published to a chat, likewise."""
ESCAPED: Final = 12
"""Maximum bytes of a character: JSON may write it as two escapes of six bytes each."""
AROUND: Final = 1024
"""Bytes allowed around the content."""
KEPT_EVENT: Final = 5 << 10
"""Average bytes of a kept event, for the bound of a chat's history."""
PONG: Final = 0.8
"""The fraction of ``ping_interval`` within which a peer must answer: 20 s by default."""


def _setting(
    default: Any,
    description: str,
    *,
    variable: str = "",
    env_only: bool = False,
    reload: bool = False,
    lines: bool = False,
    url: bool = False,
    hidden: bool = False,
    **bounds: Any,
) -> Any:
    """A field that defines everything about its setting; it is a secret if its type is SecretStr.

    ``variable`` is its environment variable, ``ECLIPSE_<FIELD>`` if empty; ``env_only``: a profile can't set
    it; ``reload``: a running node applies a new value; ``lines``: the text may have several lines; ``url``:
    only the password of the secret is masked; ``hidden``: errors don't repeat the value, which may contain a
    secret. ``bounds`` are pydantic's.
    """
    about: dict[str, Any] = {
        "variable": variable,
        "env_only": env_only,
        "reload": reload,
        "lines": lines,
        "url": url,
        "hidden": hidden,
    }
    return Field(default, description=description, json_schema_extra=about, **bounds)


class Settings(BaseSettings):
    """Validated values, immutable. `Settings(...)` reads nothing; `load()` reads all sources."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True
    )

    # Profile and platform
    profile: str = _setting(
        "dev",
        "name or path of the profile; unset: prod if NODE_ENV is production",
        env_only=True,
    )
    region: str = _setting(
        "", "region of this machine, set by its platform", variable="FLY_REGION", env_only=True
    )
    machine: str = _setting(
        "", "ID of this machine, set by its platform", variable="FLY_MACHINE_ID", env_only=True
    )
    event_loop: Literal["asyncio", "uvloop"] = _setting(
        "asyncio", "event loop; uvloop requires the extra `speed`"
    )

    workers: Workers = _setting(
        1,
        "processes that share the ports of this machine, each a node; auto: one per core; "
        "more than one require Redis or PostgreSQL, and ECLIPSE_API=http",
    )

    # Listening
    host: str = _setting("127.0.0.1", "address to listen on", max_length=255)
    port: int = _setting(8080, "TCP port to listen on; 0 picks a free one", ge=0, le=65535, variable="PORT")
    allowed_origins: Origins = _setting(
        (),
        "page origins that may connect, exact or https://*.example.com; unset: the application's origin",
        variable="ALLOWED_ORIGINS",
        reload=True,
    )
    allowed_hosts: Hosts = _setting(
        (), "host names accepted in development, besides localhost and this machine's own name"
    )
    trusted_proxies: int = _setting(
        0, "number of proxies that append to X-Forwarded-For; 0 ignores the header", ge=0, le=10, reload=True
    )
    client_address_header: str = _setting(
        "",
        "header in which the proxy passes the client's address, such as Fly-Client-IP",
        max_length=100,
        pattern=r"^[A-Za-z0-9-]*$",
        reload=True,
    )
    tls_cert: str = _setting(
        "", "PEM file with the certificate chain, to serve wss without a proxy", reload=True
    )
    tls_key: str = _setting("", "PEM file with the certificate's private key", reload=True)
    admin_host: str = _setting("127.0.0.1", "address of ECLIPSE_ADMIN_PORT", max_length=255)
    admin_port: int | None = _setting(
        None,
        "port for the routes called by the application and for /metrics; unset: the public port",
        ge=0,
        le=65535,
    )
    metrics_port: int | None = _setting(
        None, "port for /metrics and /health only; unset: same as ECLIPSE_ADMIN_PORT", ge=0, le=65535
    )
    drain_seconds: SecondsOrZero = _setting(
        15,
        "seconds over which a stopping server closes its sessions; "
        "it closes them at once if no other node takes over its chats",
    )

    # Logs
    log_level: Level = _setting("info", "lowest level to log", variable="LOG_LEVEL")
    log_format: Literal["console", "json"] = _setting(
        "json", "format of the log: readable text, or one JSON object per line"
    )

    # Secrets
    jwt_secret: SecretStr = _setting(
        SecretStr(""), "HS256 key for the application's tokens", variable="JWT_SECRET", reload=True
    )
    internal_api_secret: SecretStr = _setting(
        SecretStr(""),
        "secret shared with the application, for calls in both directions",
        variable="INTERNAL_API_SECRET",
        reload=True,
    )

    # Tokens
    jwt_previous_secrets: SecretStr = _setting(
        SecretStr(""),
        "previous JWT_SECRETs that stay valid during a rotation, separated by commas or as a JSON list",
        reload=True,
    )
    jwt_public_key: str = _setting(
        "",
        "public keys for RS256, ES256 and EdDSA: PEM, or the path of a PEM file",
        max_length=65536,
        reload=True,
        lines=True,
        hidden=True,
    )
    jwt_issuer: str = _setting("", "required `iss` of tokens; unset: any", max_length=1024, reload=True)
    jwt_audience: str = _setting("", "required `aud` of tokens; unset: any", max_length=1024, reload=True)
    jwt_max_lifetime: float = _setting(
        86400,
        "maximum lifetime of a token in seconds, from `iat` or else from its first use; "
        "the session's grace period is added to it",
        gt=0,
        le=366 * 86400,
        allow_inf_nan=False,
        reload=True,
    )
    default_roles: Roles = _setting(
        ("USER", "ASSISTANT", "AGENT"),
        "roles of an account whose token has no `roles` claim",
        reload=True,
    )
    expiry_grace: SecondsOrZero = _setting(
        25, "seconds that a session outlives its token, so that the client can refresh it", reload=True
    )
    expiry_grace_without_resume: float = _setting(
        86400,
        "the same for a session whose client has not shown that it can resume or refresh, and would "
        "lose messages when it reconnects; 0: same as ECLIPSE_EXPIRY_GRACE",
        ge=0,
        le=366 * 86400,
        allow_inf_nan=False,
        reload=True,
    )

    # Limits (a rate of 0 means no limit)
    message_rate: PerSecond = _setting(
        10,
        "chat messages per second from one account, or from the visitors at one address, in one chat, with "
        "1.6 KiB of content each; bursts of twice as many",
        reload=True,
    )
    command_rate: PerSecond = _setting(
        10, "commands of all kinds per second from one session; bursts of twice as many", reload=True
    )
    max_sessions_per_chat: Count = _setting(1000, "sessions per chat on this node", reload=True)
    max_sessions_per_address: Count | None = _setting(
        None,
        "sessions per client address (IPv6: per /64), with three times as many upgrades per minute; unset: "
        "200, and no limit for private addresses",
        reload=True,
    )

    # Sessions
    max_sessions: Count = _setting(5000, "sessions on this node; more are refused with 503", reload=True)
    ping_interval: Seconds = _setting(25, "seconds between the server's pings")
    max_content: Count = _setting(
        100_000, "characters in one chat message; the widget's field has a limit of its own: 100,000"
    )
    queue_bytes: Bytes = _setting(
        1 << 22, "bytes queued for one session before it is closed as too slow (4008)"
    )
    compression: bool = _setting(False, "offer permessage-deflate: fewer bytes, more CPU time")

    # History
    history_events: Count = _setting(100, "events kept per chat, with 5 KiB for each on average")
    history_seconds: Seconds = _setting(300, "seconds for which a kept event can be resumed")

    max_attempts: Count = _setting(
        100_000, "clientMessageIds that this node remembers; the memory backend defers further ones"
    )

    # Application
    api: Literal["http", "embedded"] = _setting(
        "http", "where messages are saved: http (the application) or embedded (a store for development)"
    )
    next_api_url: str = _setting(
        "http://localhost:3000", "address of the application", variable="NEXT_API_URL", hidden=True
    )
    api_ca: str = _setting(
        "",
        "PEM file of the certificate authorities to verify the application with; unset: "
        "SSL_CERT_FILE, SSL_CERT_DIR, or else the system's",
    )
    api_timeout: Seconds = _setting(10, "timeout of a whole call to the application, in seconds")
    api_max_connections: Count = _setting(50, "connections to the application")
    api_max_waiting: Count = _setting(
        1000,
        "calls that may wait for a connection, a tenth of them for one user or chat; more fail at once; "
        "a long one counts as several",
    )
    api_headers: SecretStr = _setting(
        SecretStr(""),
        "extra headers for each call to the application, such as one that bypasses "
        "deployment protection: `Name: value`, one per line, or a JSON object",
        reload=True,
        lines=True,
    )
    api_cookies: CookieNames = _setting(
        (), "additional cookies to keep for the application's load balancer; name* matches a prefix"
    )
    api_honours_idempotency: bool = _setting(False, "the application honours Idempotency-Key")
    app_publishes_over_http: bool = _setting(False, "the application publishes its events over HTTP only")
    app_events_url: str = _setting(
        "",
        "address that is told who is in each chat and what they have read; unset: nobody is told, or, in "
        "development with the embedded store, this server itself",
        hidden=True,
    )
    embedded_db: str = _setting(":memory:", "file of the embedded store, or :memory:", min_length=1)
    allow_embedded_api: bool = _setting(False, "allow the embedded store in production")

    # Backend
    backend: str = _setting(
        "auto",
        "memory, redis, postgres, an installed backend, or auto (redis if REDIS_URL is set, else memory)",
    )
    allow_memory_backend: bool = _setting(False, "allow the memory backend in production")
    redis_url: SecretStr = _setting(
        SecretStr(""),
        "URL that begins with redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://",
        variable="REDIS_URL",
        url=True,
    )
    redis_ca: str = _setting(
        "",
        "PEM file of the certificate authorities to verify Redis with; unset: SSL_CERT_FILE, "
        "SSL_CERT_DIR, or else the system's",
    )
    redis_prefix: str = _setting(
        "",
        "prefix of every channel and key in Redis, so that several environments can share one Redis; "
        "the application must then publish to <prefix>chat:<chatId>",
        max_length=32,
        pattern=r"^[A-Za-z0-9_.:-]*$",
    )
    redis_timeout: Seconds = _setting(2, "timeout of a command and of connecting, in seconds")
    redis_ping_interval: Seconds = _setting(10, "seconds between pings of a connection with subscriptions")
    database_url: SecretStr = _setting(
        SecretStr(""), "postgresql:// URL, for the backend postgres", variable="DATABASE_URL", url=True
    )

    @model_validator(mode="before")
    @classmethod
    def _resolve_backend(cls, data: Any) -> Any:
        # Resolved here, so that code that reads `backend` never sees "auto".
        if isinstance(data, dict) and data.get("backend", "auto") == "auto":
            url = data.get("redis_url", "")
            url = url.get_secret_value() if isinstance(url, SecretStr) else url
            data = {**data, "backend": "redis" if url else "memory"}
        return data

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only the arguments: `load()` reads the rest, so that it can say where each value came from."""
        return (init_settings,)

    @property
    def production(self) -> bool:
        """True unless the profile is dev or test: a custom profile follows production's rules."""
        return is_production(self.profile)

    @property
    def development(self) -> bool:
        """True if the profile is dev."""
        return base_name(self.profile) == "dev"

    @property
    def max_frame(self) -> int:
        """Bytes of one incoming message, all its fragments together."""
        return max(MAX_FRAME, ESCAPED * self.max_content + AROUND)

    @property
    def max_answer(self) -> int:
        """Bytes of one response of the application."""
        return max(MAX_ANSWER, ESCAPED * self.max_content + AROUND)

    @property
    def max_event(self) -> int:
        """Bytes of one event published to a chat, and of a request's body."""
        return max(MAX_EVENT, self.max_answer + AROUND)

    @property
    def history_bytes(self) -> int:
        """Bytes of the events kept per chat; the newest one is kept whatever its size."""
        return KEPT_EVENT * self.history_events

    @property
    def ping_timeout(self) -> float:
        """Seconds without a byte after a ping until the peer is considered dead."""
        return PONG * self.ping_interval

    @property
    def allows_workers(self) -> bool:
        """Whether several workers could reach each other's sessions and messages."""
        return self.backend != "memory" and self.api != "embedded"

    @property
    def has_demo(self) -> bool:
        """Whether the demo pages are served: only in development; only the embedded API gives them tokens."""
        return self.development and self.api == "embedded"


def is_production(profile: str) -> bool:
    """Whether a profile (name or path) follows production's rules."""
    return base_name(profile) not in ("dev", "test")


def base_name(profile: str) -> str:
    """A profile's name, given its name or its path."""
    return Path(profile).name.removesuffix(".toml")


def _about(field: str) -> dict[str, Any]:
    about = Settings.model_fields[field].json_schema_extra
    return about if isinstance(about, dict) else {}


def variable(field: str) -> str:
    """The environment variable of a field: `ping_interval` -> `ECLIPSE_PING_INTERVAL`, `port` -> `PORT`."""
    return _VARIABLES[field]


_VARIABLES = {name: _about(name)["variable"] or f"ECLIPSE_{name.upper()}" for name in Settings.model_fields}
RELOADED = frozenset(name for name in _VARIABLES if _about(name)["reload"])
"""Settings that a running node can apply; the others need a restart."""
SECRETS = frozenset(name for name, field in Settings.model_fields.items() if field.annotation is SecretStr)
HIDDEN = SECRETS | {name for name in _VARIABLES if _about(name)["hidden"]}
"""Settings whose values errors don't repeat."""
HAS_LINES = frozenset(name for name in _VARIABLES if _about(name)["lines"])
"""Settings whose text may have several lines."""
LITERAL = frozenset(name for name in SECRETS - HAS_LINES if not _about(name)["url"])
"""Secrets that are used exactly as given: stripping anything would make another secret of them."""
ENV_ONLY = frozenset(name for name in _VARIABLES if _about(name)["env_only"])
"""Settings that a profile can't set."""


def masked(settings: Settings, name: str) -> Any:
    """A field's value as it is shown: secrets masked, or only the password of a URL."""
    value = getattr(settings, name)
    if not isinstance(value, SecretStr):
        return list(value) if isinstance(value, tuple) else value
    if _about(name)["url"]:
        return mask_url(value.get_secret_value()) if value else ""
    return MASK if value else ""
