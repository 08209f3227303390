"""Settings: precedence, every problem at once, generated values, and secrets that are never shown."""

from __future__ import annotations

import json
import os
import random
import string
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from click.testing import CliRunner
from pydantic import SecretStr, ValidationError

from eclipse_ws.cli import main
from eclipse_ws.config import problems, profiles
from eclipse_ws.config.key_material import previous_secrets
from eclipse_ws.config.loading import Loaded, load
from eclipse_ws.config.problems import SettingsError
from eclipse_ws.config.redis_url import check_redis_url
from eclipse_ws.config.settings import (
    ENV_ONLY,
    HIDDEN,
    LITERAL,
    RELOADED,
    SECRETS,
    Settings,
    masked,
    variable,
)

ROOT = Path(__file__).parents[2]
STRONG = "k3Jd8-sQ0zLxV7bNm2Wc5RtYp9Ga1Hf4Ue6Io"
OTHER = "Zq1Xw2Ce3Vr4Bt5Ny6Mu7Ki8Lo9Pa0Sd-Fg_Hj"
PROD = {
    "JWT_SECRET": STRONG,
    "INTERNAL_API_SECRET": OTHER,
    "REDIS_URL": "rediss://default:hunter2hunter2@eu1.upstash.io:6379",
    "NEXT_API_URL": "https://app.acme.com",
    "NODE_ENV": "production",
}


def read(environ: dict[str, str] | None = None, dotenv: Path | None = None, **more: Any) -> Loaded:
    """Settings of only this environment: no `.env` of the developer's, no variables of the machine's."""
    return load(environ=environ or {}, dotenv=dotenv or Path("/nonexistent/.env"), **more)


def problems_of(environ: dict[str, str], **more: Any) -> dict[str, str]:
    """The problems that loading gives: name -> the whole sentence."""
    with pytest.raises(SettingsError) as caught:
        read(environ, **more)
    found = {problem.name: str(problem) for problem in caught.value.problems}
    assert len(found) == len(caught.value.problems)
    for sentence in found.values():
        assert sentence in str(caught.value)
    return found


def prod(**changes: str | None) -> dict[str, str]:
    """A valid production environment, with changes; None removes a variable."""
    return {key: value for key, value in {**PROD, **changes}.items() if value is not None}


def test_dev_requires_nothing_and_says_what_it_generated() -> None:
    """In dev an empty environment gives working settings, and a note for each generated secret."""
    loaded = read()
    assert loaded.settings.profile == "dev"
    assert not loaded.settings.production
    assert loaded.settings.has_demo
    assert (loaded.settings.backend, loaded.settings.api) == ("memory", "embedded")
    assert [note.split()[0] for note in loaded.notes] == ["JWT_SECRET", "INTERNAL_API_SECRET"]
    assert loaded.sources["jwt_secret"] == "generated"
    secret = loaded.settings.jwt_secret.get_secret_value()
    assert len(secret) >= 32
    assert secret not in " ".join(loaded.notes)
    assert read().settings.jwt_secret != loaded.settings.jwt_secret


def test_the_test_profile_takes_a_free_port() -> None:
    """Tests run beside each other, so their profile binds port 0 and saves nothing."""
    settings = read(profile="test").settings
    assert (settings.port, settings.embedded_db, settings.host) == (0, ":memory:", "127.0.0.1")


def test_each_source_wins_over_the_one_before_it(tmp_path: Path) -> None:
    """Defaults < profile < .env < environment < flags, and each field knows where it came from."""
    profile = tmp_path / "dev.toml"
    dotenv = tmp_path / ".env"
    names = ["port", "history_events", "max_content", "max_sessions"]
    profile.write_text("".join(f"{name} = 2001\n" for name in names))
    dotenv.write_text("".join(f"{variable(name)}=2002\n" for name in names[:3]))
    environ = {variable(name): "2003" for name in names[:2]}
    loaded = read(environ, dotenv, profile=str(profile), port="2004", host=None)
    assert [getattr(loaded.settings, name) for name in names] == [2004, 2003, 2002, 2001]
    sources = [loaded.sources[name] for name in (*names, "host")]
    assert sources == ["flag", "environment", ".env", f"profile {profile}", "default"]


@pytest.mark.parametrize(
    ("node_env", "expected"), [("production", "prod"), ("test", "test"), ("development", "dev"), ("", "dev")]
)
def test_node_env_selects_the_profile(node_env: str, expected: str) -> None:
    """NODE_ENV=production selects prod where nothing else chose."""
    assert read(prod(NODE_ENV=node_env)).settings.profile == expected


def test_a_chosen_profile_wins_over_node_env() -> None:
    """--profile wins over ECLIPSE_PROFILE, and that over NODE_ENV."""
    assert read({"NODE_ENV": "production", "ECLIPSE_PROFILE": "test"}).settings.profile == "test"
    both = {"NODE_ENV": "production", "ECLIPSE_PROFILE": "prod"}
    loaded = read(both, profile="dev")
    assert (loaded.settings.profile, loaded.sources["profile"]) == ("dev", "--profile")


def test_a_valid_production_environment_loads() -> None:
    """The deployment plan's variables are enough for prod, with nothing generated but the allowed origin."""
    loaded = read(prod(FLY_REGION="iad", FLY_MACHINE_ID="m1"))
    settings = loaded.settings
    assert settings.production
    assert (settings.backend, settings.api, settings.log_format) == ("redis", "http", "json")
    assert (settings.host, settings.drain_seconds, settings.development) == ("0.0.0.0", 15, False)
    assert (settings.region, settings.machine) == ("iad", "m1")
    assert settings.allowed_origins == ("https://app.acme.com",)
    assert (loaded.notes, loaded.warnings) == ([], [])


def test_every_problem_is_listed_at_once() -> None:
    """One message names each wrong variable, what is wrong, and how to fix it."""
    found = problems_of(
        {
            "NODE_ENV": "production",
            "JWT_SECRET": "your-jwt-secret-here",
            "INTERNAL_API_SECRET": "short",
            "REDIS_URL": "https://eu1.upstash.io",
            "NEXT_API_URL": "app.acme.com",
            "PORT": "eighty",
            "LOG_LEVEL": "loud",
            "ALLOWED_ORIGINS": "*",
            "ECLIPSE_PING_INTERVAL": "-1",
        }
    )
    assert set(found) == {
        "JWT_SECRET",
        "INTERNAL_API_SECRET",
        "REDIS_URL",
        "NEXT_API_URL",
        "PORT",
        "LOG_LEVEL",
        "ALLOWED_ORIGINS",
        "ECLIPSE_PING_INTERVAL",
    }
    assert "placeholder" in found["JWT_SECRET"]
    assert "eclipse-ws secrets" in found["JWT_SECRET"]
    assert "5 bytes, expected at least 32" in found["INTERNAL_API_SECRET"]
    assert "REST API, another protocol" in found["REDIS_URL"]
    assert "rediss://" in found["REDIS_URL"]
    assert "'eighty', expected a valid integer" in found["PORT"]
    assert "TCP port" in found["PORT"]
    assert all("Fix: " in sentence for sentence in found.values())


def printable(rng: random.Random) -> str:
    """A random secret of characters that can be typed, as password managers make them."""
    return "".join(
        rng.choices(string.digits + string.ascii_letters + string.punctuation, k=rng.randint(32, 64))
    )


def test_random_secrets_are_not_placeholders() -> None:
    """Nothing in 10,000 random secrets is taken for a placeholder, for a key, or for too uniform."""
    rng = random.Random(9)
    secrets = ["Kx7<Q9!mZ2pL8@tR4vB6>nW1yC3dF5gH0j", *(printable(rng) for _ in range(10_000))]
    assert [
        secret for secret in secrets if problems.check_secret("JWT_SECRET", secret, production=True)
    ] == []


def test_random_passwords_and_previous_secrets_are_not_placeholders() -> None:
    """Neither is a password in a URL, nor a previous secret with a comma in it, in a list in JSON."""
    rng = random.Random(10)
    for _ in range(2_000):
        url = f"rediss://default:{quote(printable(rng), safe='')}@eu1.upstash.io:6379"
        assert check_redis_url(url) == []
    listed = [f"{printable(rng)},{n}" for n in range(8)]
    loaded = read(prod(ECLIPSE_JWT_PREVIOUS_SECRETS=json.dumps(listed)))
    assert previous_secrets(loaded.settings.jwt_previous_secrets.get_secret_value()) == listed
    split = problems_of(prod(ECLIPSE_JWT_PREVIOUS_SECRETS="Kx7Q9mZ2pL,8@tR4vB6nW1yC3dF5gH0jKx7Q9mZ2pL8tR4v"))
    assert "a list in JSON" in split["ECLIPSE_JWT_PREVIOUS_SECRETS"]


@pytest.mark.parametrize(
    "url",
    [
        "redis://default:your-password@your-redis-host:6379",
        "rediss://default:********@eu1.upstash.io:6379",
        "redis://:%3Cpassword%3E@h",
        "redis://default:p@<host>:6379",
        "https://<your-app>.vercel.app",
        "https://api.your-domain.com/base",
        "https://yourdomain.com",
    ],
)
def test_a_part_of_a_url_can_be_a_placeholder(url: str) -> None:
    """Its user name, its password and the labels of its host are checked one by one."""
    assert problems.is_placeholder(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://default:password@localhost:6379",
        "https://your-move.example.net",
        f"https://your{'_' * 60}.example.net",  # in no time
        f"https://yourapp{'_' * 60}!.example.net",
        "https://test.example.net/your-app",
        "http://[::1]:3000",
    ],
)
def test_a_real_url_is_not_a_placeholder(url: str) -> None:
    """Names that only sound like a placeholder are accepted."""
    assert not problems.is_placeholder(url)


@pytest.mark.parametrize(
    "value",
    [
        "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----\n",
        '{"kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKOb"}',
        "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQDJ a@b",
        "LS0tLS1CRUdJTiBQVUJMSUMgS0VZLS0tLS0KTUlJQ",
    ],
)
def test_a_public_key_is_not_a_secret(value: str) -> None:
    """A public key in JWT_SECRET's place verifies no token: the start names the right setting."""
    assert "set ECLIPSE_JWT_PUBLIC_KEY" in problems_of(prod(JWT_SECRET=value))["JWT_SECRET"]


PLACEHOLDERS = (
    "your-jwt-secret-here changeme CHANGE_ME change-this secret <jwt-secret> your-production-jwt-secret "
    "replace-me-please placeholder xxxxxxxx undefined"
)


@pytest.mark.parametrize("value", PLACEHOLDERS.split())
@pytest.mark.parametrize("profile", ["dev", "prod"])
def test_placeholders_are_refused_in_every_profile(value: str, profile: str) -> None:
    """What documentation shows as a secret is refused, and not repeated."""
    found = problems_of(prod(JWT_SECRET=value), profile=profile)
    assert "is a placeholder" in found["JWT_SECRET"]
    assert f" {value} " not in found["JWT_SECRET"]


@pytest.mark.parametrize("value", [STRONG, OTHER, "a-Secret-of-mine-that-has-changed-meanwhile-0123456789"])
def test_a_real_secret_is_not_a_placeholder(value: str) -> None:
    """A strong secret is not taken for a placeholder, whatever words it happens to hold."""
    assert problems.check_secret("JWT_SECRET", value, production=True) == []


@pytest.mark.parametrize(
    "value", ["a" * 40, "abcdefghijklm" * 3, "12345678901" * 3 + "123", "abcde" * 6 + "cb"]
)
def test_a_uniform_secret_is_refused_in_production(value: str) -> None:
    """Forty times the same letter is long, and no secret; nor is a piece that comes again and again."""
    assert "can be guessed" in problems_of(prod(JWT_SECRET=value))["JWT_SECRET"]


def test_random_digits_are_not_uniform() -> None:
    """A secret of few different characters can be random all the same."""
    rng = random.Random(11)
    for _ in range(2_000):
        value = "".join(rng.choices(string.digits, k=32))
        assert problems.check_secret("JWT_SECRET", value, production=True) == []


def test_a_uniform_secret_is_accepted_in_development() -> None:
    """For trying things out, secrets may be guessable."""
    assert read({"JWT_SECRET": "a" * 40}).settings.jwt_secret


def test_production_requires_its_variables() -> None:
    """prod with an empty environment names all four that are missing."""
    found = problems_of({"NODE_ENV": "production"})
    assert set(found) == {"JWT_SECRET", "INTERNAL_API_SECRET", "REDIS_URL", "NEXT_API_URL"}
    assert all("is not set" in sentence for sentence in found.values())
    assert "ECLIPSE_ALLOW_MEMORY_BACKEND" in found["REDIS_URL"]


@pytest.mark.parametrize("profile", ["dev", "prod"])
def test_the_rest_url_is_not_a_redis_url(profile: str) -> None:
    """UPSTASH_REDIS_REST_URL without REDIS_URL is named, with where the Redis URL is found."""
    environ = prod(REDIS_URL=None, UPSTASH_REDIS_REST_URL="https://eu1.upstash.io")
    found = problems_of(environ, profile=profile)
    assert "UPSTASH_REDIS_REST_URL is, but the REST API is another protocol" in found["REDIS_URL"]
    assert "console" in found["REDIS_URL"]


def test_the_rest_url_is_ignored_beside_a_redis_url_or_a_chosen_backend() -> None:
    """Upstash's integration sets both; and who chose the memory backend wants no Redis."""
    rest = {"UPSTASH_REDIS_REST_URL": "https://eu1.upstash.io"}
    assert read({**PROD, **rest}).settings.backend == "redis"
    assert read({**rest, "ECLIPSE_BACKEND": "memory"}).settings.backend == "memory"


@pytest.mark.parametrize("over_http", ["true", "false"])
def test_sharded_channels_need_an_application_that_publishes_over_http(over_http: str) -> None:
    """Nobody would hear what it publishes on Redis itself."""
    url = "redis+cluster://h?pubsub=sharded"
    environ = prod(REDIS_URL=url, ECLIPSE_APP_PUBLISHES_OVER_HTTP=over_http)
    if over_http == "true":
        assert read(environ).settings.app_publishes_over_http
    else:
        assert "pubsub=sharded" in problems_of(environ)["REDIS_URL"]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://h:6379", "REST API"),
        ("h:6379", "is not of the form"),
        ("redis://", "is not of the form"),
        ("redis://h:port", "not a valid URL"),
        ("redis://default:your-password@your-redis-host:6379", "placeholder"),
        ("unix://", "is not of the form"),
        ("redis://u:your-p@ss/word@h:6379", "placeholder"),
        ("redis://u:p@ss/word@h:6379", "write / @ # ? of a password as %2F"),
        ("redis://h:6379/0#x", "after its host and port"),
        ("redis://h:6379/cache", "a database number"),
        ("rediss://h:6379?family=6", "an option 'family' that"),
        ("redis://h:6379?ssl_cert_reqs=none", "an option 'ssl_cert_reqs'"),
        ("rediss://h:6379?ssl_cert_reqs=no", "a value for the option 'ssl_cert_reqs'"),
        ("unix:///run/redis.sock?db=x", "a value for the option 'db'"),
    ],
)
def test_a_wrong_redis_url_is_named_and_not_repeated(url: str, says: str) -> None:
    """Each kind of wrong REDIS_URL gets its own sentence, without the URL's password."""
    found = problems_of(prod(REDIS_URL=url))
    assert says in found["REDIS_URL"]
    assert "your-password" not in found["REDIS_URL"]


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "redis://h/",
        "rediss://default:p@h:6379/0",
        "unix:///run/redis.sock",
        "unix:///run/redis.sock?db=1",
        "rediss://h?ssl_cert_reqs=none&db=2",
    ],
)
def test_a_valid_redis_url_selects_redis(url: str) -> None:
    """A Redis URL is enough for the backend to be Redis, in every profile."""
    assert read({"REDIS_URL": url}).settings.backend == "redis"
    assert read(prod(REDIS_URL=url)).settings.backend == "redis"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://app.acme.com", "not an http:// or https:// URL"),
        ("https://", "not an http:// or https:// URL"),
        ("https://user:hunter2@app.acme.com", "user name or password"),
        ("https://app.acme.com/?a=1", "query"),
        ("https://your-app.vercel.app", "placeholder"),
        ("https://[::1", "not a valid URL"),
    ],
)
def test_a_wrong_api_url_is_named(url: str, says: str) -> None:
    """Each kind of wrong NEXT_API_URL gets its own sentence."""
    found = problems_of(prod(NEXT_API_URL=url))
    assert says in found["NEXT_API_URL"]
    assert "hunter2" not in found["NEXT_API_URL"]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://app.acme.com/events", "not an http:// or https:// URL"),
        ("https://user:hunter2@app.acme.com/events", "user name or password"),
        ("https://app.acme.com/events?key=hunter2", "query"),
        ("https://app.acme.com/events#hunter2", "fragment"),
        ("https://your-app.vercel.app/events", "placeholder"),
        ("https://[::1", "not a valid URL"),
    ],
)
def test_a_wrong_address_of_reports_is_named(url: str, says: str) -> None:
    """Each kind of wrong ECLIPSE_APP_EVENTS_URL gets its own sentence."""
    found = problems_of(prod(ECLIPSE_APP_EVENTS_URL=url))
    assert list(found) == ["ECLIPSE_APP_EVENTS_URL"]
    assert says in found["ECLIPSE_APP_EVENTS_URL"]
    assert "hunter2" not in found["ECLIPSE_APP_EVENTS_URL"]


def test_reports_need_a_secret_to_be_signed_with() -> None:
    """Production with an embedded store needs no INTERNAL_API_SECRET, unless it sends reports."""
    given: dict[str, str | None] = {"ECLIPSE_API": "embedded", "ECLIPSE_ALLOW_EMBEDDED_API": "true"}
    url = "https://app.acme.com/events"
    read(prod(INTERNAL_API_SECRET=None, **given))
    found = problems_of(prod(INTERNAL_API_SECRET=None, ECLIPSE_APP_EVENTS_URL=url, **given))
    assert list(found) == ["INTERNAL_API_SECRET"]


def test_production_refuses_what_only_development_may_use() -> None:
    """The embedded API and the memory backend need permission."""
    environ = prod(ECLIPSE_API="embedded", ECLIPSE_BACKEND="memory")
    found = problems_of(environ)
    assert set(found) == {"ECLIPSE_API", "ECLIPSE_BACKEND"}
    assert "ECLIPSE_ALLOW_EMBEDDED_API=true" in found["ECLIPSE_API"]
    assert "ECLIPSE_ALLOW_MEMORY_BACKEND=true" in found["ECLIPSE_BACKEND"]


def test_production_uses_them_with_permission() -> None:
    """With permission, one node runs in prod without Redis and without the application."""
    environ = {
        "NODE_ENV": "production",
        "JWT_SECRET": STRONG,
        "ECLIPSE_API": "embedded",
        "ECLIPSE_ALLOW_EMBEDDED_API": "1",
        "ECLIPSE_ALLOW_MEMORY_BACKEND": "yes",
    }
    loaded = read(environ)
    assert (loaded.settings.backend, loaded.settings.api) == ("memory", "embedded")
    assert loaded.sources["internal_api_secret"] == "generated"


def test_redis_asked_for_without_a_url() -> None:
    """`--backend redis` tries the usual address in dev, and is a problem in prod."""
    loaded = read(backend="redis")
    assert loaded.settings.redis_url.get_secret_value() == "redis://127.0.0.1:6379/0"
    assert "REDIS_URL is not set: using redis://127.0.0.1:6379/0." in loaded.notes
    assert "is not set" in problems_of(prod(REDIS_URL=None), backend="redis")["REDIS_URL"]


def test_an_unknown_backend_is_named() -> None:
    """An unknown backend gets the nearest name, or the list of those installed."""
    assert "write redis" in problems_of({}, backend="reddis")["ECLIPSE_BACKEND"]
    assert "memory, postgres, redis" in problems_of({}, backend="kafka")["ECLIPSE_BACKEND"]


def test_postgres_needs_its_url_and_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend postgres without DATABASE_URL or without asyncpg is named, with what to do."""
    chosen = {"ECLIPSE_BACKEND": "postgres"}
    monkeypatch.setattr("eclipse_ws.config.validation.find_spec", lambda name: name)
    assert "is not set" in problems_of(chosen)["DATABASE_URL"]
    given = {**chosen, "DATABASE_URL": "postgresql://chat:hunter2@h/db"}
    loaded = read(given)
    assert "hunter2" not in masked(loaded.settings, "database_url")
    assert read({"DATABASE_URL": "mysql://h"}).settings.backend == "memory"
    monkeypatch.setattr("eclipse_ws.config.validation.find_spec", lambda name: None)
    assert "eclipse-ws[postgres]" in problems_of(given)["ECLIPSE_BACKEND"]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://u:hunter2@h", "is not of the form postgresql://"),
        ("postgresql://", "is not of the form postgresql://"),
        ("postgresql://u:hunter2@h:port/db", "is not a valid URL"),
        ("postgresql://u:hunter2@h/db?schema=public", "'schema'"),
        ("postgresql://u:hunter2@h/db#x", "is not of the form"),
        ("postgresql://u:your-password@db.example.com/db", "placeholder"),
    ],
)
def test_a_wrong_database_url_is_named_and_not_repeated(url: str, says: str) -> None:
    """Each kind of wrong DATABASE_URL gets its own sentence, without the URL's password."""
    (problem,) = problems.check_database_url(url)
    assert (problem.name, says in str(problem)) == ("DATABASE_URL", True)
    assert "hunter2" not in str(problem)


@pytest.mark.parametrize(
    "url", ["postgresql://h", "postgres://u:p@h:5/db?sslmode=verify-full&options=-cx%3Dy"]
)
def test_a_valid_database_url(url: str) -> None:
    """URLs that libpq accepts are accepted."""
    assert problems.check_database_url(url) == []


def test_an_uninstalled_event_loop_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking for uvloop without its extra says how to install it; with it, it is taken."""
    asked = {"ECLIPSE_EVENT_LOOP": "uvloop"}
    assert read(asked).settings.event_loop == "uvloop"
    monkeypatch.setattr("eclipse_ws.config.validation.find_spec", lambda name: None)
    assert "eclipse-ws[speed]" in problems_of(asked)["ECLIPSE_EVENT_LOOP"]


def test_a_backend_of_another_package_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an installed package brings under the entry-point group is a backend like ours."""
    info = tmp_path / "nats_backend-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nats-backend\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[eclipse_ws.backends]\nnats = nats_backend:Backend\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert read(backend="nats").settings.backend == "nats"


def test_a_warning_about_an_unknown_variable_has_the_nearest_name(tmp_path: Path) -> None:
    """A mistyped ECLIPSE_ variable is a warning, wherever it is set."""
    dotenv = tmp_path / ".env"
    dotenv.write_text("ECLIPSE_PORT=1\n")
    loaded = read({"ECLIPSE_PINGINTERVAL": "3", "ECLIPSE_ZZZ": "1", "OTHER": "1"}, dotenv)
    assert loaded.warnings == [
        "unknown setting ECLIPSE_PINGINTERVAL in the environment: did you mean ECLIPSE_PING_INTERVAL?",
        "unknown setting ECLIPSE_ZZZ in the environment: `eclipse-ws config` lists the settings.",
        "unknown setting ECLIPSE_PORT in .env: did you mean PORT?",
    ]


def test_doubtful_values_are_warnings() -> None:
    """The same secret twice works, with a warning."""
    loaded = read({"JWT_SECRET": STRONG, "INTERNAL_API_SECRET": STRONG})
    assert [warning.split()[0] for warning in loaded.warnings] == ["JWT_SECRET"]
    assert STRONG not in " ".join(loaded.warnings)


@pytest.mark.parametrize("characters", [1, 100_000, 1_000_000])
def test_each_size_limit_fits_the_previous_one(characters: int) -> None:
    """The longest content, however it is escaped, fits into a frame, an answer, an event and a queue."""
    settings = read({"ECLIPSE_MAX_CONTENT": str(characters)}).settings
    for size in (settings.max_frame, settings.max_answer):
        assert size >= 12 * characters + 1024
    assert settings.max_event >= settings.max_answer + 1024


def test_a_queue_that_is_too_short_is_a_warning() -> None:
    """A warning for a queue that can't hold the largest event names the minimum."""
    least = Settings().max_event + 1024
    assert read({"ECLIPSE_QUEUE_BYTES": str(least)}).warnings == []
    (warning,) = read({"ECLIPSE_QUEUE_BYTES": str(least - 1)}).warnings
    assert warning.startswith(f"ECLIPSE_QUEUE_BYTES is {least - 1}, too small for ECLIPSE_MAX_CONTENT ")
    assert str(least) in warning


def test_a_longer_content_needs_a_longer_queue() -> None:
    """Allowing longer messages warns about the one size that doesn't follow."""
    (warning,) = read({"ECLIPSE_MAX_CONTENT": "1000000"}).warnings
    assert warning.startswith("ECLIPSE_QUEUE_BYTES is ")


def test_wrong_keys_of_a_profile_are_named(tmp_path: Path) -> None:
    """A mistyped key gets the nearest, a secret and the platform's fields have no place in a profile."""
    profile = tmp_path / "mine.toml"
    profile.write_text('prot = 1\nqwertz = 2\njwt_secret = "hunter2hunter2"\nregion = "iad"\n')
    with pytest.raises(SettingsError) as caught:
        read(PROD, profile=str(profile))
    text = str(caught.value)
    assert "4 problems" in text
    assert "unknown key 'prot'. Fix: write port" in text
    assert "unknown key 'qwertz'. Fix: remove it" in text
    assert "contains the secret jwt_secret" in text
    assert "sets region, which is not permitted in a profile" in text
    assert "hunter2" not in text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"port = = 1", "is not valid TOML"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"# " + b"x" * profiles.MAX_FILE, "has more than"),
        (None, "can't be read (No such file or directory)"),
    ],
)
def test_an_unreadable_profile_is_named(tmp_path: Path, content: bytes | None, says: str) -> None:
    """An unreadable profile is one problem, with its path."""
    profile = tmp_path / "mine.toml"
    if content is not None:
        profile.write_bytes(content)
    assert says in problems_of(PROD, profile=str(profile))[str(profile)]


def test_a_folder_is_not_a_profile(tmp_path: Path) -> None:
    """A path to a folder is one problem as well."""
    assert "can't be read (Is a directory)" in problems_of(PROD, profile=f"{tmp_path}/")[str(tmp_path)]


def test_a_wrong_value_in_a_profile_says_where(tmp_path: Path) -> None:
    """The problem names the variable and the profile that set it."""
    profile = tmp_path / "dev.toml"
    profile.write_text('port = "x"\n')
    assert f"(profile {profile})" in problems_of({}, profile=str(profile))["PORT"]


def test_unknown_profiles_are_named() -> None:
    """An unknown profile or NODE_ENV is a problem of the setting that named it."""
    assert "did you mean prod" in problems_of(PROD, profile="prodd")["--profile"]
    assert "names the unknown profile 'x'" in problems_of({"ECLIPSE_PROFILE": "x"})["ECLIPSE_PROFILE"]
    assert "expected development, test or production" in problems_of(prod(NODE_ENV="staging"))["NODE_ENV"]


def test_a_missing_installed_profile_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken installation is reported with a fix."""
    monkeypatch.setattr(profiles, "folders", list)
    assert "is not installed" in problems_of(PROD, profile="prod")["--profile"]


def test_a_broken_dotenv_is_named(tmp_path: Path) -> None:
    """An invalid line of .env is a problem with its number, and its text is not shown."""
    dotenv = tmp_path / ".env"
    dotenv.write_text('PORT=8081\nJWT_SECRET="hunter2hunter2\n')
    found = problems_of({}, dotenv=dotenv)
    assert "line 2" in found[str(dotenv)]
    assert "hunter2" not in found[str(dotenv)]


def test_an_unreadable_dotenv_is_named(tmp_path: Path) -> None:
    """A .env that is a folder is a problem, not a traceback."""
    assert "can't be read" in problems_of({}, dotenv=tmp_path)[str(tmp_path)]


def test_dotenv_values_are_literal(tmp_path: Path) -> None:
    """A dollar in a password is kept; quotes and `export` are understood; a bare name sets nothing."""
    dotenv = tmp_path / ".env"
    dotenv.write_text(f"export JWT_SECRET='{STRONG}$HOME${{X}}'\nLOG_LEVEL\n\n# PORT=1\n")
    settings = read(dotenv=dotenv).settings
    assert settings.jwt_secret.get_secret_value() == f"{STRONG}$HOME${{X}}"
    assert settings.log_level == "info"


@pytest.mark.parametrize(
    ("name", "given", "field", "expected"),
    [
        ("NEXT_API_URL", "https://app.acme.com\n", "next_api_url", "https://app.acme.com"),
        ("NEXT_API_URL", "\ufeffhttps://app.acme.com/\r\n", "next_api_url", "https://app.acme.com/"),
        ("PORT", " 8080 ", "port", 8080),
        ("PORT", '"8080"', "port", 8080),
        ("ECLIPSE_PING_INTERVAL", "\u200b20\n", "ping_interval", 20),
        ("ECLIPSE_COMPRESSION", "'true'\n", "compression", True),
        ("LOG_LEVEL", '"WARN"\n', "log_level", "warning"),
        ("ECLIPSE_HOST", "0.0.0.0\t", "host", "0.0.0.0"),
        ("ALLOWED_ORIGINS", '"https://a.acme.com, https://b.acme.com"', "allowed_origins", None),
        ("ECLIPSE_JWT_ISSUER", "'acme'", "jwt_issuer", "acme"),
        ("NODE_ENV", '"production"\n', "profile", "prod"),
        ("ECLIPSE_PROFILE", " prod\n", "profile", "prod"),
    ],
)
def test_surrounding_characters_are_removed(name: str, given: str, field: str, expected: object) -> None:
    """White space, line ends, a byte order mark and the quotes of an --env-file don't belong to a value."""
    origins = ("https://a.acme.com", "https://b.acme.com")
    settings = read(prod(**{name: given})).settings
    assert getattr(settings, field) == (origins if expected is None else expected)


def test_a_redis_url_with_a_line_end() -> None:
    """A URL as a whole is not a secret: what surrounds it is ignored too, and an empty one is unset."""
    settings = read(prod(REDIS_URL="'redis://u:p@h:1'\n")).settings
    assert settings.redis_url.get_secret_value() == "redis://u:p@h:1"
    assert read({"REDIS_URL": '""', "PORT": " "}).settings.backend == "memory"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (f'"{STRONG}"', 'is in quotes (")'),
        (f"'{STRONG}'", "is in quotes (')"),
        (f"{STRONG}\n", "ends with a line break, as `echo` writes it"),
        (f" {STRONG}", "begins with a space"),
        (f"\ufeff{STRONG}", "begins with the character U+FEFF"),
        (f"{STRONG[:9]}\u200b{STRONG[9:]}", "invisible text: the character U+200B"),
        (f"{STRONG}\udcff", "bytes that are not UTF-8"),
    ],
)
@pytest.mark.parametrize("name", ["JWT_SECRET", "INTERNAL_API_SECRET"])
def test_an_ambiguous_secret_is_refused(name: str, value: str, says: str) -> None:
    """Characters around a secret may be part of it or not: the start refuses it, and shows nothing."""
    found = problems_of(prod(JWT_SECRET=OTHER) | {name: value})
    assert set(found) == {name}
    assert says in found[name]
    assert STRONG[:9] not in found[name]


@pytest.mark.parametrize("value", [f'"{STRONG}"', f'"{STRONG}","{OTHER}"', f"{OTHER},{STRONG}\u200b"])
def test_an_ambiguous_previous_secret_is_refused(value: str) -> None:
    """The same holds for each secret of a list."""
    found = problems_of(prod(ECLIPSE_JWT_PREVIOUS_SECRETS=value))
    assert set(found) == {"ECLIPSE_JWT_PREVIOUS_SECRETS"}


@pytest.mark.parametrize("value", ["k\x01" * 20, "k€" * 20, "k\n" * 20 + "k"])
def test_an_api_secret_must_fit_a_header(value: str) -> None:
    """INTERNAL_API_SECRET goes in a header, where a control character, or one beyond Latin-1, can't."""
    assert "HTTP headers can't contain" in problems_of(prod(INTERNAL_API_SECRET=value))["INTERNAL_API_SECRET"]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("NEXT_API_URL", "https://app\u200b.acme.com", "U+200B"),
        ("NEXT_API_URL", "https://app.ac me.com", "not an http:// or https:// URL"),
        ("REDIS_URL", "redis://u:hunter2\n@h", "a line break"),
        ("ALLOWED_ORIGINS", "https://a.acme.com\nhttps://b.acme.com", "a line break"),
        ("ECLIPSE_HOST", "0.0.\u200d0.0", "U+200D"),
        ("PORT", "80\u200b80", "U+200B"),
    ],
)
def test_invisible_characters_within_a_value_are_refused(name: str, value: str, says: str) -> None:
    """A line break or an invisible character inside would otherwise fail only with the first message."""
    found = problems_of(prod(**{name: value}))
    assert set(found) == {name}
    assert says in found[name]
    assert "hunter2" not in found[name]


def test_quotes_inside_dotenv_quotes_are_kept(tmp_path: Path) -> None:
    """In .env the outer quotes are the file's; those within are a part of the secret, as Next.js reads it."""
    dotenv = tmp_path / ".env"
    dotenv.write_text(f"JWT_SECRET='\"{STRONG}\"'\n")
    loaded = read(dotenv=dotenv)
    assert loaded.settings.jwt_secret.get_secret_value() == f'"{STRONG}"'
    assert loaded.warnings == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("FOO=abcJWT_SECRET=x\n", "JWT_SECRET= is in the value of FOO"),
        ("JWT_SECRET=0123456789REDIS_URL=redis://h", "REDIS_URL= is in the value of JWT_SECRET"),
        ("NEXT_API_URL=http://localhost:3000ECLIPSE_HOST=::", "ECLIPSE_HOST= is in"),
        ("LOG_LEVEL=infoPORT=8081", "PORT= is in the value of LOG_LEVEL"),
        (
            "NEXT_API_URL=http://localhost:3000DATABASE_URL=x",
            "another NAME= is in the value of NEXT_API_URL",
        ),
    ],
)
def test_a_dotenv_line_appended_to_another(tmp_path: Path, text: str, says: str) -> None:
    """`echo NAME=value >> .env` after a last line without an end sets nothing: the line is named."""
    dotenv = tmp_path / ".env"
    dotenv.write_text(f"# a comment\n{text}")
    found = problems_of({}, dotenv=dotenv)[str(dotenv)]
    assert says in found
    assert "line 2" in found
    assert "0123456789" not in found


@pytest.mark.parametrize(
    "text",
    [
        "OPTIONS=--a JWT_SECRET=x",
        "NEXT_API_URL=http://h/base",
        "FOO='abcJWT_SECRET=x'",
        "X=aOTHER_NAME=y",
        "DATABASE_URL=postgres://h/db?PORT=5",
        "REDIS_PORT=6379",
        "JWT_SECRET=abc==",
        "JWT_SECRET=nLyEGEL16q47BbfkO3SvkJ6K-x-7xCySBDZV_5VJZ34=  # base64url",
        "ORACLE=(DESCRIPTION=(ADDRESS=(PROTOCOL=tcp)(HOST=db)(PORT=1521))(CONNECT_DATA=(SID=x)))",
        "START=node server.js --PORT=3000",
        "JAVA_OPTS=-DNODE_ENV=production -DECLIPSE_HOME=/opt/eclipse",
        "SPRING={PORT=1}|PORT=2",
    ],
)
def test_a_line_that_only_looks_like_two(tmp_path: Path, text: str) -> None:
    """An option, a query, base64, quoted text and other applications' variables are accepted."""
    dotenv = tmp_path / ".env"
    dotenv.write_text(text)
    assert read(dotenv=dotenv)


def test_fresh_secrets_begin_a_line(tmp_path: Path) -> None:
    """`secrets >> .env` works too where the file's last line has no end."""
    dotenv = tmp_path / ".env"
    dotenv.write_text("LOG_LEVEL=error" + CliRunner().invoke(main, ["secrets"]).output)
    loaded = read(dotenv=dotenv)
    assert (loaded.settings.log_level, loaded.sources["jwt_secret"]) == ("error", ".env")


@pytest.mark.parametrize("value", [f"{STRONG}#x", f"'{STRONG}$x'", f"{STRONG}\\$x", f"`{STRONG}`"])
def test_a_secret_that_next_reads_differently_is_a_warning(tmp_path: Path, value: str) -> None:
    """The same line of .env is two secrets, so that no token would be valid: said without showing it, and not
    where the environment has set another."""
    dotenv = tmp_path / ".env"
    dotenv.write_text(f"JWT_SECRET={value}\nINTERNAL_API_SECRET={OTHER}\nFOO=a#b\n")
    (sentence,) = read(dotenv=dotenv).warnings
    assert sentence.startswith("JWT_SECRET in .env is parsed differently by Next.js")
    assert STRONG not in sentence
    assert read({"JWT_SECRET": STRONG}, dotenv).warnings == []


def test_an_empty_variable_counts_as_unset() -> None:
    """A platform's form may leave PORT=, which means the default."""
    assert read({"PORT": "", "REDIS_URL": ""}).settings.port == 8080


@pytest.mark.parametrize(
    ("given", "level"), [("WARN", "warning"), ("Info", "info"), ("trace", "debug"), ("fatal", "critical")]
)
def test_log_levels_of_node_are_accepted(given: str, level: str) -> None:
    """LOG_LEVEL still accepts its earlier names."""
    assert read({"LOG_LEVEL": given}).settings.log_level == level


def test_origins_are_a_list_in_every_source(tmp_path: Path) -> None:
    """Commas in a variable, a list in a profile; a trailing slash and capitals make no difference."""
    expected = ("https://app.acme.com", "https://*.acme.com:8443")
    assert read(
        {"ALLOWED_ORIGINS": " https://App.acme.com/, https://*.acme.com:8443 ,"}
    ).settings.allowed_origins == (expected)
    profile = tmp_path / "dev.toml"
    profile.write_text('allowed_origins = ["https://app.acme.com", "https://*.acme.com:8443"]\n')
    assert read(profile=str(profile)).settings.allowed_origins == expected
    profile.write_text("allowed_origins = 3\n")
    assert "ALLOWED_ORIGINS" in problems_of({}, profile=str(profile))
    assert (
        "'https://a/b', which is not an origin"
        in problems_of({"ALLOWED_ORIGINS": "https://a/b"})["ALLOWED_ORIGINS"]
    )


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ("https://App.acme.com:443/", "https://app.acme.com"),
        ("http://app.acme.com:80", "http://app.acme.com"),
        ("https://*.acme.com:443", "https://*.acme.com"),
        ("https://[::1]:443", "https://[::1]"),
        ("https://app.acme.com:80", "https://app.acme.com:80"),
        ("https://app.acme.com:4430", "https://app.acme.com:4430"),
    ],
)
def test_an_origin_is_normalized_as_browsers_write_it(given: str, origin: str) -> None:
    """No browser names the port that the scheme has anyway: an origin with it would match none."""
    assert read({"ALLOWED_ORIGINS": given}).settings.allowed_origins == (origin,)


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "file://",
        "capacitor://localhost",
        "ionic://localhost",
        "tauri://localhost",
        "chrome-extension://aaaabbbbccccddddeeeeffffgggghhhh",
        "moz-extension://3c5b1f2e-1c1a-4e5b-8b2a-0123456789ab",
        "app://-",
        "app://obsidian.md",
        "vscode-webview://1a2b3c",
        "http://my_machine:3000",
        "https://*.acme.com",
    ],
)
def test_an_origin_need_not_be_http(origin: str) -> None:
    """Every origin that a browser, or an application with one in it, sends can be allowed as it is."""
    assert read({"ALLOWED_ORIGINS": origin}).settings.allowed_origins == (origin,)


@pytest.mark.parametrize(
    "given",
    [
        *("*", "*.acme.com", "app.acme.com", "capacitor://*", "app://*.acme.com", "https://*", "https://"),
        *("capacitor://localhost/index.html", "https://user@acme.com", "https://a.com:x", "nulls", "://x"),
        *("https://bücher.example", "data:text/html", "https://a.com?x", "file:"),
    ],
)
def test_invalid_origins(given: str) -> None:
    """An origin that no browser sends is a problem that shows a valid one."""
    text = problems_of({"ALLOWED_ORIGINS": given})["ALLOWED_ORIGINS"]
    assert "which is not an origin" in text
    assert "capacitor://localhost" in text


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://app.acme.com/base/", "https://app.acme.com"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("https://a.com:443", "https://a.com"),
        ("http://[::1]:3000", "http://[::1]:3000"),
    ],
)
def test_the_applications_own_origin(url: str, origin: str) -> None:
    """Without ALLOWED_ORIGINS only the application's own origin is allowed."""
    assert problems.origin_of(url) == origin
    assert problems.check_origin(origin) == []


def test_secrets_are_never_shown() -> None:
    """Neither repr, nor str, nor the masked form, nor a validation error holds a secret."""
    settings = read(PROD).settings
    shown = [
        repr(settings),
        str(settings),
        repr(read(PROD)),
        *(str(masked(settings, n)) for n in Settings.model_fields),
    ]
    with pytest.raises(ValidationError) as caught:
        Settings(jwt_secret=[STRONG], port=STRONG)  # type: ignore[arg-type]
    shown.append(str(caught.value))
    for text in shown:
        for secret in (STRONG, OTHER, "hunter2"):
            assert secret not in text
    assert masked(settings, "jwt_secret") == problems.MASK
    assert masked(settings, "redis_url") == f"rediss://default:{problems.MASK}@eu1.upstash.io:6379"
    assert masked(settings, "allowed_origins") == ["https://app.acme.com"]
    assert masked(Settings(), "jwt_secret") == masked(Settings(), "redis_url") == ""


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("redis://:pw@h:1", f"redis://:{problems.MASK}@h:1"),
        ("redis://pw@h:1", f"redis://{problems.MASK}:{problems.MASK}@h:1"),
        ("redis://h:1?password=pw", f"redis://h:1?{problems.MASK}"),
        ("pw", problems.MASK),
        ("redis://[pw", problems.MASK),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    """A password is masked wherever it is in a URL; text that is not a URL may be a password."""
    assert problems.mask_url(url) == shown


def test_a_wrong_secret_type_is_not_repeated() -> None:
    """A flag of a wrong type for a secret says only that it is wrong."""
    found = problems_of({}, jwt_secret=[STRONG])
    assert "has an invalid value, expected" in found["--jwt-secret"]
    assert STRONG not in found["--jwt-secret"]


def test_a_wrong_value_is_one_problem() -> None:
    """A secret of a wrong type is not also reported as missing."""
    assert set(problems_of(prod(JWT_SECRET=None), jwt_secret=[STRONG])) == {"--jwt-secret"}


def test_settings_alone_read_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Settings(...)` is a plain value: the environment is `load`'s business."""
    monkeypatch.setenv("PORT", "1234")
    monkeypatch.setenv("port", "1234")
    assert Settings().port == 8080
    assert Settings(redis_url=SecretStr("redis://h")).backend == "redis"
    assert Settings(redis_url=SecretStr("redis://h"), backend="memory").backend == "memory"
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]


def test_load_reads_the_process_environment_and_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without arguments, `load` takes the process's environment and the current folder's .env."""
    for name in os.environ:
        if name.startswith("ECLIPSE_") or name in ("NODE_ENV", "REDIS_URL"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PORT", "1234")
    (tmp_path / ".env").write_text("LOG_LEVEL=error\nPORT=1\n")
    settings = load().settings
    assert (settings.port, settings.log_level) == (1234, "error")


def test_every_field_has_a_description_and_a_variable_of_its_own() -> None:
    """A field without a unit or with another's variable would be a trap."""
    fields = Settings.model_fields
    assert all(field.description for field in fields.values())
    assert len({variable(name) for name in fields}) == len(fields)
    assert all(field.json_schema_extra for field in fields.values())


def test_fields_declare_secrets_and_derived_values() -> None:
    """Secrets, and what is derived from them, come from the fields alone."""
    secrets = {"jwt_secret", "jwt_previous_secrets", "internal_api_secret", "api_headers"}
    secrets |= {"redis_url", "database_url"}
    assert secrets == SECRETS
    assert {"jwt_secret", "jwt_previous_secrets", "internal_api_secret"} == LITERAL
    assert SECRETS | {"next_api_url", "app_events_url", "jwt_public_key"} == HIDDEN
    assert {"profile", "region", "machine"} == ENV_ONLY
    assert SECRETS - {"redis_url", "database_url"} <= RELOADED
    assert not RELOADED & {"port", "redis_url", "backend", *ENV_ONLY}


@pytest.mark.parametrize(
    ("given", "names"),
    [("", ()), ("lb", ("lb",)), (" lb* , __Host-x ", ("lb*", "__Host-x")), (["a", "b*"], ("a", "b*"))],
)
def test_names_of_cookies(given: object, names: tuple[str, ...]) -> None:
    """Names of cookies are a list, in text separated by commas."""
    assert Settings(api_cookies=given).api_cookies == names


@pytest.mark.parametrize("given", ["*", "a*b", "a=b", "a b", "ü", ["a", 5], [""], 5])
def test_invalid_cookie_names(given: object) -> None:
    """An invalid name, or one that would keep every cookie, is refused."""
    with pytest.raises(ValueError, match="api_cookies"):
        Settings(api_cookies=given)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "the memory backend can't connect several workers"),
        (
            {"REDIS_URL": "redis://127.0.0.1", "ECLIPSE_API": "embedded"},
            "the embedded store is for one process",
        ),
        ({"REDIS_URL": "redis://127.0.0.1", "ECLIPSE_API": "http"}, ""),
    ],
)
def test_workers_need_a_backend_and_an_application(given: dict[str, str], says: str) -> None:
    """Several are refused where they could not work together; ``auto`` becomes one, with a warning."""
    base = {"ECLIPSE_PROFILE": "test", "JWT_SECRET": "x1" * 20, "INTERNAL_API_SECRET": "y2" * 20, **given}
    nowhere = Path("/nonexistent/.env")
    if says:
        with pytest.raises(SettingsError, match=says):
            load(environ={**base, "ECLIPSE_WORKERS": "2"}, dotenv=nowhere)
        warnings = load(environ={**base, "ECLIPSE_WORKERS": "auto"}, dotenv=nowhere).warnings
        assert [sentence for sentence in warnings if "ECLIPSE_WORKERS is auto" in sentence]
    else:
        assert load(environ={**base, "ECLIPSE_WORKERS": "2"}, dotenv=nowhere).settings.workers == 2
        assert not load(environ={**base, "ECLIPSE_WORKERS": "auto"}, dotenv=nowhere).warnings
    for wrong in ("0", "129", "many"):
        with pytest.raises(SettingsError, match="ECLIPSE_WORKERS is"):
            load(environ={**base, "ECLIPSE_WORKERS": wrong}, dotenv=nowhere)
