"""Settings: every value that can be configured. `loading` says where the values come from.

Each size on a message's way holds what the one before it lets through: they follow from `max_content`.
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
)

MAX_FRAME: Final = 5 << 18
"""Bytes of one incoming message, all its fragments together, unless ``max_content`` needs more."""
MAX_ANSWER: Final = 3 << 19
"""Bytes of one answer of the application likewise: the longest content, and its sender's picture."""
MAX_EVENT: Final = 1 << 21
"""Bytes of one event published to a chat likewise."""
ESCAPED: Final = 12
"""Bytes of a character at most: JSON may write it as two escapes of six bytes each."""
AROUND: Final = 1024
"""Bytes of what is around the content."""
KEPT_EVENT: Final = 5 << 10
"""Bytes of a kept event on average, for the bound of a chat's history."""
PONG: Final = 0.8
"""The part of ``ping_interval`` within which a peer must answer: 20 s by default."""


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
    """A field with all that is known of its setting; it is a secret if its type is SecretStr.

    ``variable`` is its environment variable, ``ECLIPSE_<FIELD>`` if empty; ``env_only``: a profile can't set
    it; ``reload``: a running node takes a new value; ``lines``: the text may have several lines; ``url``: of
    the secret the password alone is masked; ``hidden``: errors don't repeat the value, which may hold a
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
        "name or path of the profile that is read; unset: prod if NODE_ENV is production",
        env_only=True,
    )
    region: str = _setting(
        "", "region of this machine, as its platform names it", variable="FLY_REGION", env_only=True
    )
    machine: str = _setting(
        "", "id of this machine, as its platform names it", variable="FLY_MACHINE_ID", env_only=True
    )
    event_loop: Literal["asyncio", "uvloop"] = _setting(
        "asyncio", "event loop; uvloop needs the extra `speed`"
    )

    # Listening
    host: str = _setting("127.0.0.1", "address to listen on", max_length=255)
    port: int = _setting(8080, "TCP port to listen on; 0 takes a free one", ge=0, le=65535, variable="PORT")
    allowed_origins: Origins = _setting(
        (),
        "allowed origins of pages, exact or https://*.example.com; unset: the application's own",
        variable="ALLOWED_ORIGINS",
        reload=True,
    )
    allowed_hosts: Hosts = _setting(
        (), "names under which development answers, besides localhost and this machine's own"
    )
    trusted_proxies: int = _setting(
        0, "proxies in front that append to X-Forwarded-For; 0 ignores that header", ge=0, le=10, reload=True
    )
    client_address_header: str = _setting(
        "",
        "header in which the proxy names its client, such as Fly-Client-IP",
        max_length=100,
        pattern=r"^[A-Za-z0-9-]*$",
        reload=True,
    )
    tls_cert: str = _setting(
        "", "PEM file with the certificate chain, to serve wss without a proxy", reload=True
    )
    tls_key: str = _setting("", "PEM file with the certificate's key", reload=True)
    admin_host: str = _setting("127.0.0.1", "address of ECLIPSE_ADMIN_PORT", max_length=255)
    admin_port: int | None = _setting(
        None,
        "port for the routes that the application calls and for /metrics; unset: the public port",
        ge=0,
        le=65535,
    )
    metrics_port: int | None = _setting(
        None, "port for /metrics and /health only; unset: where ECLIPSE_ADMIN_PORT is", ge=0, le=65535
    )
    drain_seconds: SecondsOrZero = _setting(
        15,
        "seconds over which a stopping server closes its sessions; "
        "it does so at once where no other node takes its chats over",
    )
    demo: bool = _setting(False, "serve the demo pages; only in development, with the embedded API")

    # Logs
    log_level: Level = _setting("info", "lowest level that is logged", variable="LOG_LEVEL")
    log_format: Literal["console", "json"] = _setting(
        "json", "format of the log: readable text, or one JSON object per line"
    )

    # Secrets
    jwt_secret: SecretStr = _setting(
        SecretStr(""), "HS256 key of the application's tokens", variable="JWT_SECRET", reload=True
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
        "earlier JWT_SECRETs that stay valid during a rotation, separated by commas or in JSON",
        reload=True,
    )
    jwt_public_key: str = _setting(
        "",
        "PEM, or a file with it: public keys for RS256, ES256 and EdDSA",
        max_length=65536,
        reload=True,
        lines=True,
        hidden=True,
    )
    jwt_issuer: str = _setting("", "`iss` that tokens must have; unset: any", max_length=1024, reload=True)
    jwt_audience: str = _setting("", "`aud` that tokens must have; unset: any", max_length=1024, reload=True)
    jwt_max_lifetime: float = _setting(
        86400,
        "longest life of a token in seconds, from `iat`, else from its first use; its session's "
        "grace comes on top",
        gt=0,
        le=366 * 86400,
        allow_inf_nan=False,
        reload=True,
    )
    default_roles: Roles = _setting(
        ("USER", "ASSISTANT", "AGENT"),
        "roles in which an account may write whose token has no claim `roles`",
        reload=True,
    )
    expiry_grace: SecondsOrZero = _setting(
        25, "seconds that a session outlives its token, so that its client can refresh it", reload=True
    )
    expiry_grace_without_resume: float = _setting(
        86400,
        "the same of a session whose client has never shown that it can resume or refresh, and "
        "would lose messages by a reconnect; 0: as ECLIPSE_EXPIRY_GRACE",
        ge=0,
        le=366 * 86400,
        allow_inf_nan=False,
        reload=True,
    )

    # Limits (a rate of 0 means no limit)
    message_rate: PerSecond = _setting(
        10,
        "chat messages per second of one account, or of the visitors of one address, in one chat, each with "
        "1.6 KiB of content; twice as many at once",
        reload=True,
    )
    command_rate: PerSecond = _setting(
        10, "commands of all kinds per second of one session; twice as many at once", reload=True
    )
    max_sessions_per_chat: Count = _setting(1000, "sessions of one chat on this node", reload=True)
    max_sessions_per_address: Count | None = _setting(
        None,
        "sessions of one client address (IPv6: /64), which may upgrade three times as often a minute; unset: "
        "200, private ones unlimited",
        reload=True,
    )

    # Sessions
    max_sessions: Count = _setting(5000, "sessions on this node; more are refused with 503", reload=True)
    ping_interval: Seconds = _setting(25, "seconds between the server's pings")
    max_content: Count = _setting(100_000, "characters in one chat message")
    queue_bytes: Bytes = _setting(
        1 << 22, "bytes queued for one session until it is closed as too slow (4008)"
    )
    compression: bool = _setting(False, "offer permessage-deflate: fewer bytes for more processor time")

    # History
    history_events: Count = _setting(100, "events kept per chat, and 5 KiB for each")
    history_seconds: Seconds = _setting(300, "seconds for which a kept event can be resumed")

    max_attempts: Count = _setting(
        100_000, "clientMessageIds that this node remembers; with the memory backend, more are put off"
    )

    # Application
    api: Literal["http", "embedded"] = _setting(
        "http", "where messages are saved: http is the application, embedded a store for development"
    )
    next_api_url: str = _setting(
        "http://localhost:3000", "address of the application", variable="NEXT_API_URL", hidden=True
    )
    api_ca: str = _setting(
        "",
        "PEM file of the authorities that the application's certificate is held to; unset: "
        "SSL_CERT_FILE, SSL_CERT_DIR, or else the system's",
    )
    api_timeout: Seconds = _setting(10, "seconds for a whole call to the application")
    api_max_connections: Count = _setting(50, "connections to the application")
    api_max_waiting: Count = _setting(
        1000,
        "calls that wait for a connection, a tenth of one user or chat; more fail at once; "
        "a long one counts as several",
    )
    api_headers: SecretStr = _setting(
        SecretStr(""),
        "further headers of each call to the application, such as one that lets it through "
        "deployment protection: `Name: value`, one a line, or a JSON object",
        reload=True,
        lines=True,
    )
    api_cookies: CookieNames = _setting(
        (), "names of further cookies kept for the application's load balancer; name* for a prefix"
    )
    api_honours_idempotency: bool = _setting(False, "the application honours Idempotency-Key")
    app_publishes_over_http: bool = _setting(False, "the application publishes its events over HTTP only")
    embedded_db: str = _setting(":memory:", "file of the embedded store, or :memory:", min_length=1)
    allow_embedded_api: bool = _setting(False, "let production use the embedded store")

    # Backend
    backend: str = _setting(
        "auto", "memory, redis, an installed one, or auto: redis if REDIS_URL is set, else memory"
    )
    allow_memory_backend: bool = _setting(False, "let production use the memory backend")
    redis_url: SecretStr = _setting(
        SecretStr(""), "redis://, rediss:// or unix:// URL", variable="REDIS_URL", url=True
    )
    redis_ca: str = _setting(
        "",
        "PEM file of the authorities that Redis's certificate is held to; unset: SSL_CERT_FILE, "
        "SSL_CERT_DIR, or else the system's",
    )
    redis_prefix: str = _setting(
        "",
        "put before the name of every channel and key in Redis, so that environments can share "
        "one; the application must then publish to <prefix>chat:<chatId>",
        max_length=32,
        pattern=r"^[A-Za-z0-9_.:-]*$",
    )
    redis_timeout: Seconds = _setting(2, "seconds for one command, and to connect")
    redis_ping_interval: Seconds = _setting(10, "seconds between pings of a connection with subscriptions")

    @model_validator(mode="before")
    @classmethod
    def _resolve_backend(cls, data: Any) -> Any:
        # Resolved here, so that nobody who reads `backend` has to know of "auto".
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
        """True unless the profile is dev or test: one of one's own is held to production's rules."""
        return is_production(self.profile)

    @property
    def max_frame(self) -> int:
        """Bytes of one incoming message, all its fragments together."""
        return max(MAX_FRAME, ESCAPED * self.max_content + AROUND)

    @property
    def max_answer(self) -> int:
        """Bytes of one answer of the application."""
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
        """Seconds without a byte after a ping until the peer counts as dead."""
        return PONG * self.ping_interval

    @property
    def has_demo(self) -> bool:
        """Whether the demo pages are served: only the embedded API gives them tokens."""
        return self.demo and self.api == "embedded"


def is_production(profile: str) -> bool:
    """Whether a profile (name or path) is held to production's rules."""
    return base_name(profile) not in ("dev", "test")


def base_name(profile: str) -> str:
    """What a profile is called, given its name or its path."""
    return Path(profile).name.removesuffix(".toml")


def _about(field: str) -> dict[str, Any]:
    about = Settings.model_fields[field].json_schema_extra
    return about if isinstance(about, dict) else {}


def variable(field: str) -> str:
    """The environment variable of a field: `ping_interval` -> `ECLIPSE_PING_INTERVAL`, `port` -> `PORT`."""
    return _VARIABLES[field]


_VARIABLES = {name: _about(name)["variable"] or f"ECLIPSE_{name.upper()}" for name in Settings.model_fields}
RELOADED = frozenset(name for name in _VARIABLES if _about(name)["reload"])
"""Settings that a running node can take; the others need a restart."""
SECRETS = frozenset(name for name, field in Settings.model_fields.items() if field.annotation is SecretStr)
HIDDEN = SECRETS | {name for name in _VARIABLES if _about(name)["hidden"]}
"""Settings whose values errors don't repeat."""
HAS_LINES = frozenset(name for name in _VARIABLES if _about(name)["lines"])
"""Settings whose text may have several lines."""
LITERAL = frozenset(name for name in SECRETS - HAS_LINES if not _about(name)["url"])
"""Secrets that are taken to the letter: what is left out of them would be another secret."""
ENV_ONLY = frozenset(name for name in _VARIABLES if _about(name)["env_only"])
"""Settings that a profile can't set."""


def masked(settings: Settings, name: str) -> Any:
    """A field's value as it may be shown: secrets masked, of a URL the password alone."""
    value = getattr(settings, name)
    if not isinstance(value, SecretStr):
        return list(value) if isinstance(value, tuple) else value
    if _about(name)["url"]:
        return mask_url(value.get_secret_value()) if value else ""
    return MASK if value else ""
