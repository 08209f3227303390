"""Settings: every value that can be configured. `loading` says where the values come from.

Each size holds what the one before it on a message's way lets through, see `validation.SIZES`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from eclipse_ws.config import profiles
from eclipse_ws.config.problems import MASK, mask_url

LEVELS = {"warn": "warning", "fatal": "critical", "trace": "debug", "verbose": "debug"}  # Node's names


def _level(value: object) -> object:
    name = value.strip().lower() if isinstance(value, str) else value
    return LEVELS.get(name, name) if isinstance(name, str) else name


def _origins(value: object) -> object:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    return [_origin(v) if isinstance(v, str) else v for v in value] if isinstance(value, list) else value


def _hosts(value: object) -> object:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    return (
        [v.lower().rstrip(".") if isinstance(v, str) else v for v in value]
        if isinstance(value, list)
        else value
    )


def _roles(value: object) -> object:
    if isinstance(value, str):
        value = [part.strip().upper() for part in value.split(",") if part.strip()]
    return value


def _origin(value: str) -> str:
    # As browsers write it: in lower case, without a path, and without the port that the scheme has anyway.
    value = re.sub(r"(?<=[^:/])/+$", "", value.lower())
    return re.sub(r"^(https://.*):443$|^(http://.*):80$", lambda found: found[1] or found[2], value)


def _cookie_names(value: object) -> object:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    for name in value if isinstance(value, list | tuple) else ():
        if not (isinstance(name, str) and re.fullmatch(r"[\w!#$%&'+.^`|~-]+\*?", name, re.ASCII)):
            raise ValueError("each must be a cookie's name, or the beginning of one and *")
    return value


Seconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]
SecondsOrZero = Annotated[float, Field(ge=0, le=86400, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
Bytes = Annotated[int, Field(ge=1024, le=1 << 30)]
PerSecond = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
Level = Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_level)]
Origins = Annotated[tuple[str, ...], BeforeValidator(_origins)]
Hosts = Annotated[tuple[str, ...], BeforeValidator(_hosts)]
Roles = Annotated[tuple[Literal["USER", "ASSISTANT", "AGENT"], ...], BeforeValidator(_roles)]
CookieNames = Annotated[tuple[str, ...], BeforeValidator(_cookie_names)]


class Settings(BaseSettings):
    """Validated values, immutable. `Settings(...)` reads nothing; `load()` reads all sources."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True
    )

    # Profile and platform
    profile: str = Field("dev", description="name or path of the profile that is read")
    node_env: str = Field("", description="the platform's NODE_ENV; production selects the profile prod")
    region: str = Field("", description="region of this machine, as its platform names it")
    machine: str = Field("", description="id of this machine, as its platform names it")
    event_loop: Literal["asyncio", "uvloop"] = Field(
        "asyncio", description="event loop; uvloop needs the extra `speed`"
    )

    # Listening
    host: str = Field("127.0.0.1", description="address to listen on", max_length=255)
    port: int = Field(8080, description="TCP port to listen on; 0 takes a free one", ge=0, le=65535)
    allowed_origins: Origins = Field(
        (),
        description="allowed origins of pages, exact or https://*.example.com; unset: the application's own",
    )
    allowed_hosts: Hosts = Field(
        (),
        description="names under which development answers, besides localhost and this machine's own",
    )
    trusted_proxies: int = Field(
        0, description="proxies in front that append to X-Forwarded-For; 0 ignores that header", ge=0, le=10
    )
    client_address_header: str = Field(
        "",
        description="header in which the proxy names its client, such as Fly-Client-IP",
        max_length=100,
        pattern=r"^[A-Za-z0-9-]*$",
    )
    tls_cert: str = Field("", description="PEM file with the certificate chain, to serve wss without a proxy")
    tls_key: str = Field("", description="PEM file with the certificate's key")
    admin_host: str = Field("127.0.0.1", description="address of ECLIPSE_ADMIN_PORT", max_length=255)
    admin_port: int | None = Field(
        None,
        description="port for the routes that the application calls and for /metrics; unset: the public port",
        ge=0,
        le=65535,
    )
    metrics_port: int | None = Field(
        None,
        description="port for /metrics and /health only; unset: where ECLIPSE_ADMIN_PORT is",
        ge=0,
        le=65535,
    )
    drain_seconds: SecondsOrZero = Field(
        15,
        description="seconds over which a stopping server closes its sessions; "
        "it does so at once where no other node takes its chats over",
    )
    hand_over_timeout: Seconds = Field(
        5, description="seconds that other nodes have to take over a stopping node's chats"
    )
    demo: bool = Field(False, description="serve the demo pages; only in development, with the embedded API")

    # Logs
    log_level: Level = Field("info", description="lowest level that is logged")
    log_format: Literal["console", "json"] = Field(
        "json", description="format of the log: readable text, or one JSON object per line"
    )

    # Secrets
    jwt_secret: SecretStr = Field(SecretStr(""), description="HS256 key of the application's tokens")
    internal_api_secret: SecretStr = Field(
        SecretStr(""), description="secret shared with the application, for calls in both directions"
    )

    # Tokens
    jwt_previous_secrets: SecretStr = Field(
        SecretStr(""),
        description="earlier JWT_SECRETs that stay valid during a rotation, separated by commas or in JSON",
    )
    jwt_public_key: str = Field(
        "", description="PEM, or a file with it: public keys for RS256, ES256 and EdDSA", max_length=65536
    )
    jwt_issuer: str = Field("", description="`iss` that tokens must have; unset: any", max_length=1024)
    jwt_audience: str = Field("", description="`aud` that tokens must have; unset: any", max_length=1024)
    jwt_leeway: float = Field(
        2, description="seconds by which the application's clock may differ", ge=0, le=300
    )
    jwt_require_exp: bool = Field(False, description="refuse tokens without `exp`; production always does")
    jwt_max_lifetime: float = Field(
        86400,
        description="longest life of a token in seconds, from `iat`, else from its first use; its session's "
        "grace comes on top",
        gt=0,
        le=366 * 86400,
        allow_inf_nan=False,
    )
    default_roles: Roles = Field(
        ("USER", "ASSISTANT", "AGENT"),
        description="roles in which an account may write whose token has no claim `roles`",
    )
    expiry_grace: SecondsOrZero = Field(
        25, description="seconds that a session outlives its token, so that its client can refresh it"
    )
    expiry_grace_without_resume: float = Field(
        86400,
        description="the same of a session whose client has never shown that it can resume or refresh, and "
        "would lose messages by a reconnect; 0: as ECLIPSE_EXPIRY_GRACE",
        ge=0,
        le=366 * 86400,
        allow_inf_nan=False,
    )

    # Limits (a rate of 0 means no limit)
    message_rate: PerSecond = Field(
        10,
        description="chat messages per second of one account, or of the visitors of one address, in one chat",
    )
    message_burst: Count = Field(20, description="chat messages at once of such a sender")
    message_bytes: PerSecond = Field(
        16384, description="bytes of content per second of such a sender, over all its messages"
    )
    message_bytes_burst: Bytes = Field(1 << 19, description="bytes of content at once of such a sender")
    typing_rate: PerSecond = Field(10, description="typing commands per second of one session")
    typing_burst: Count = Field(20, description="typing commands at once of one session")
    chat_typing: PerSecond = Field(
        2000,
        description="typing events times their receivers that one chat may cause a second on this node",
    )
    command_rate: PerSecond = Field(10, description="commands of all kinds per second of one session")
    command_burst: Count = Field(20, description="commands of all kinds at once of one session")
    rate_patience: Count = Field(
        10,
        description="refused commands until a session is closed with 4009; one per second is forgiven",
    )
    rate_penalty: SecondsOrZero = Field(
        30,
        description="seconds for which an account that was closed with 4009, or a chat's visitors from that "
        "address, are refused",
    )
    max_sessions_per_chat: Count = Field(1000, description="sessions of one chat on this node")
    max_sessions_per_address: Count | None = Field(
        None,
        description="sessions of one client address (IPv6: /64); unset: 200, private ones unlimited",
    )
    upgrades_per_minute: Count | None = Field(
        None,
        description="upgrades per minute of one client address; unset: 600, private ones unlimited",
    )
    max_addresses: Count = Field(100_000, description="client addresses that are remembered")
    guesses_per_minute: Count = Field(10, description="wrong X-Internal-Secrets per minute of one address")
    handshake_timeout: Seconds = Field(
        10,
        description="seconds within which a request, including its TLS handshake, must arrive, "
        "and its answer be taken",
    )
    idle_timeout: Seconds = Field(75, description="seconds that a connection may wait between two requests")
    max_handshakes: Count = Field(
        2000, description="HTTP connections at once, beside the sessions; one more cuts off the slowest"
    )
    max_header_bytes: Bytes = Field(16384, description="bytes of all headers of a request")
    max_body: Bytes = Field(1 << 21, description="bytes of a request's body")
    node_input_bytes: Bytes = Field(
        1 << 26,
        description="bytes of all sessions' messages that are unfinished or wait for the application; "
        "above it those with the most are closed",
    )
    node_queue_bytes: Bytes = Field(
        1 << 26,
        description="bytes queued for all sessions; above it the sessions with the longest queues are closed",
    )
    sweep_interval: Seconds = Field(
        1, description="seconds between checks for expired tokens and long queues"
    )

    # Sessions
    max_sessions: Count = Field(5000, description="sessions on this node; more are refused with 503")
    ping_interval: Seconds = Field(25, description="seconds between the server's pings")
    ping_timeout: Seconds = Field(
        20, description="seconds without a byte after a ping until the peer counts as dead"
    )
    close_timeout: Seconds = Field(5, description="seconds that a peer has to answer a close frame")
    max_frame: Bytes = Field(5 << 18, description="bytes of one incoming message, all its fragments together")
    max_content: Count = Field(100_000, description="characters in one chat message")
    queue_bytes: Bytes = Field(
        1 << 22, description="bytes queued for one session until it is closed as too slow (4008)"
    )
    compression: bool = Field(
        False, description="offer permessage-deflate: fewer bytes for more processor time"
    )

    # History
    history_events: Count = Field(100, description="events kept per chat")
    history_bytes: Bytes = Field(
        1 << 19, description="bytes of the events kept per chat; the newest one is kept whatever its size"
    )
    history_seconds: Seconds = Field(300, description="seconds for which a kept event can be resumed")

    max_attempts: Count = Field(
        100_000,
        description="clientMessageIds that this node remembers; with the memory backend, more are put off",
    )
    attempt_margin: Seconds = Field(
        5, description="seconds beyond api_timeout until the outcome of a send counts as unknown"
    )

    # Application
    api: Literal["http", "embedded"] = Field(
        "http",
        description="where messages are saved: http is the application, embedded a store for development",
    )
    next_api_url: str = Field("http://localhost:3000", description="address of the application")
    api_ca: str = Field(
        "",
        description="PEM file of the authorities that the application's certificate is held to; unset: "
        "SSL_CERT_FILE, SSL_CERT_DIR, or else the system's",
    )
    api_connect_timeout: Seconds = Field(3, description="seconds to connect to the application")
    api_timeout: Seconds = Field(10, description="seconds for a whole call to the application")
    api_max_connections: Count = Field(50, description="connections to the application")
    api_max_waiting: Count = Field(
        1000,
        description="calls that wait for a connection, a tenth of one user or chat; more fail at once; "
        "a long one counts as several",
    )
    api_max_answer: Bytes = Field(3 << 19, description="bytes of one answer of the application")
    api_idle_seconds: Seconds = Field(
        4, description="seconds that an unused connection is kept; must be less than the application keeps it"
    )
    api_headers: SecretStr = Field(
        SecretStr(""),
        description="further headers of each call to the application, such as one that lets it through "
        "deployment protection: `Name: value`, one a line, or a JSON object",
    )
    api_max_cookies: Count = Field(50, description="cookies kept for the application's load balancer")
    api_cookies: CookieNames = Field(
        (),
        description="names of further cookies kept for the application's load balancer; name* for a prefix",
    )
    api_breaker_failures: Count = Field(
        5, description="failures in a row, of three users or chats at least, that open the circuit"
    )
    api_breaker_seconds: Seconds = Field(
        5, description="seconds for which an open circuit fails calls at once"
    )
    api_honours_idempotency: bool = Field(False, description="the application honours Idempotency-Key")
    app_publishes_over_http: bool = Field(
        False, description="the application publishes its events over HTTP only"
    )
    embedded_db: str = Field(":memory:", description="file of the embedded store, or :memory:", min_length=1)
    embedded_max_bytes: Bytes = Field(
        1 << 28, description="bytes of the embedded store; a full one refuses messages"
    )
    allow_embedded_api: bool = Field(False, description="let production use the embedded store")

    # Backend
    backend: str = Field(
        "auto",
        description="memory, redis, an installed one, or auto: redis if REDIS_URL is set, else memory",
    )
    allow_memory_backend: bool = Field(False, description="let production use the memory backend")
    redis_url: SecretStr = Field(SecretStr(""), description="redis://, rediss:// or unix:// URL")
    redis_ca: str = Field(
        "",
        description="PEM file of the authorities that Redis's certificate is held to; unset: SSL_CERT_FILE, "
        "SSL_CERT_DIR, or else the system's",
    )
    redis_prefix: str = Field(
        "",
        description="put before the name of every channel and key in Redis, so that environments can share "
        "one; the application must then publish to <prefix>chat:<chatId>",
        max_length=32,
        pattern=r"^[A-Za-z0-9_.:-]*$",
    )
    redis_timeout: Seconds = Field(2, description="seconds for one command, and to connect")
    redis_ping_interval: Seconds = Field(
        10, description="seconds between pings of a connection with subscriptions"
    )
    redis_idle_ping_interval: Seconds = Field(30, description="seconds between pings of an idle connection")
    max_event: Bytes = Field(1 << 21, description="bytes of one event published to a chat")
    outage_queue_events: Count = Field(10000, description="events kept for Redis while it is unavailable")

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
    def has_demo(self) -> bool:
        """Whether the demo pages are served: only the embedded API gives them tokens."""
        return self.demo and self.api == "embedded"


def is_production(profile: str) -> bool:
    """Whether a profile (name or path) is held to production's rules."""
    return profiles.base_name(profile) not in ("dev", "test")


def masked(settings: Settings, name: str) -> Any:
    """A field's value as it may be shown: secrets masked, of a URL the password alone."""
    value = getattr(settings, name)
    if not isinstance(value, SecretStr):
        return list(value) if isinstance(value, tuple) else value
    if name.endswith("_url"):
        return mask_url(value.get_secret_value()) if value else ""
    return MASK if value else ""
