"""The command line. Each command imports what it needs when it runs, to start fast."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

import click

from eclipse_ws import __version__
from eclipse_ws.config.invocation import NAME, program

if TYPE_CHECKING:
    from collections.abc import Callable

    from eclipse_ws.commands.report import Finding
    from eclipse_ws.config.loading import Loaded
    from eclipse_ws.config.settings import Settings

EXIT_UNUSABLE = 2  # exit code: invalid configuration, address in use, or no response
WILDCARDS = frozenset({"", "0.0.0.0", "::", "*"})
MAX_TOKEN_SECONDS = 365 * 86400

profile_option = click.option(
    "--profile", metavar="NAME|PATH", help="dev, test, prod, bench, or a TOML file."
)


def example(lines: str) -> str:
    """Example command lines, for the text below a command's help."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines.replace(NAME, program()).splitlines())


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="eclipse-ws")
def main() -> None:
    """The real-time server of a support centre's chat."""


@main.command(short_help="Start the server.", epilog=example("eclipse-ws run --profile dev --port 8081"))
@profile_option
@click.option("--host", help="Address to listen on.")
@click.option("--port", help="Port to listen on; 0 selects a free one.")
@click.option(
    "--backend", metavar="NAME", help="memory, redis, postgres, or the name of an installed plugin."
)
@click.option("--workers", metavar="N|auto", help="Processes that share the port; auto: one per core.")
@click.option("--log-level", metavar="LEVEL", help="debug, info, warning, error or critical.")
def run(profile: str | None, **flags: str | None) -> None:
    """Start the server; Ctrl-C or SIGTERM stops it."""
    import signal

    if not hasattr(signal, "SIGHUP"):
        stop("eclipse-ws requires Linux, macOS or BSD. Fix: on Windows, run it in WSL.")
    # PID 1 of a container has no default handler: a SIGTERM during the start would be ignored.
    with contextlib.suppress(ValueError):  # called from a thread, which can't handle signals
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        # A start reads the settings anyway; the default would end the process.
        signal.signal(signal.SIGHUP, lambda *_: None)
    loaded = load(profile, starting=True, **flags)
    from eclipse_ws.observability.logging import configure_logging

    configure_logging(loaded.settings)
    # After the logging set-up: loggers cache the configuration at their first use.
    import structlog

    from eclipse_ws.backends.base import BackendError
    from eclipse_ws.config.loading import load as read
    from eclipse_ws.server import event_loop
    from eclipse_ws.server.ports import StartError
    from eclipse_ws.server.workers import shares

    for sentence in loaded.warnings:
        structlog.stdlib.get_logger("eclipse_ws").warning(sentence)
    options: dict[str, Any] = dict(flags)

    def reload() -> Loaded:
        return read(profile, starting=True, **options)

    try:
        if (workers := shares.count(loaded.settings)) > 1:
            sys.exit(supervise(loaded, workers, reload))
        from eclipse_ws.server.server import serve

        event_loop.run(
            loaded.settings,
            serve(
                loaded.settings,
                loaded.notes,
                lambda server: greet(server.settings, server.port),
                reload,
                loaded.generated,
            ),
        )
    except StartError as error:
        stop(str(error))
    except BackendError as error:
        stop(str(error), code=1)
    except KeyboardInterrupt:  # before the server installed its handler
        sys.exit(130)


def supervise(loaded: Loaded, workers: int, reload: Callable[[], Loaded]) -> int:
    """Run several workers. Returns the exit code; exits if none can be started."""
    import asyncio

    from eclipse_ws.server.workers import supervisor

    def started(settings: Settings, port: int) -> None:
        greet(settings, port, workers)

    try:
        return asyncio.run(supervisor.supervise(loaded, workers, reload, started))
    except supervisor.GaveUpError as error:
        stop(str(error), error.code)


@main.command(
    short_help="Print a URL to connect to, with a new token.",
    epilog=example(
        'eclipse-ws token --chat c1 --user agent_1 --authenticated\nwebsocat "$(eclipse-ws token --chat c1)"'
    ),
)
@profile_option
@click.option("--chat", "chat_id", default="demo", show_default=True, help="The chat's id.")
@click.option("--user", "user_id", help="The user's id; default: a new visitor.")
@click.option("--authenticated", is_flag=True, help="The user has an account.")
@click.option(
    "--seconds", type=click.IntRange(1, MAX_TOKEN_SECONDS), default=7200, show_default=True, help="Lifetime."
)
@click.option("--host", metavar="HOST[:PORT]", help="The server; default: the one of these settings.")
def token(  # noqa: PLR0917 - click passes names
    profile: str | None,
    chat_id: str,
    user_id: str | None,
    authenticated: bool,
    seconds: int,
    host: str | None,
) -> None:
    """Mint a token for a chat and a user, and print the URL to connect to."""
    loaded = load(profile)
    if lacks_secret(loaded):
        stop_without_secret()
    from eclipse_ws.commands.tokens import mint, socket_url
    from eclipse_ws.security.jwt import required

    check_ids(chat_id, user_id)
    address = server_address(host, loaded.settings)
    secret = loaded.settings.jwt_secret.get_secret_value()
    claims = required(loaded.settings.jwt_issuer, loaded.settings.jwt_audience)
    minted = mint(secret, chat_id, user_id, authenticated, seconds, more=claims)
    click.echo(socket_url(address, minted))


@main.command(
    short_help="Show the settings and their sources.",
    epilog=example("eclipse-ws config --profile prod --json\neclipse-ws config --explain PORT REDIS_URL"),
)
@profile_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--explain", is_flag=True, help="Explain all settings, or only the NAMEs.")
@click.argument("names", nargs=-1, metavar="[NAME]...")
def config(profile: str | None, as_json: bool, explain: bool, names: tuple[str, ...]) -> None:
    """Show the effective settings and their sources; secrets are masked."""
    from eclipse_ws.config.settings import masked, variable

    if explain:
        explain_settings(profile, as_json, names)
        return
    if names:
        stop(f"unexpected argument {names[0]!r}: names of settings require --explain.")
    loaded = load(profile)
    click.echo(f"Profile {loaded.profile}; --profile NAME shows another one.", err=True)
    rows = {
        name: {"value": masked(loaded.settings, name), "source": source, "variable": variable(name)}
        for name, source in loaded.sources.items()
    }
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        shown = {name: json.dumps(row["value"], ensure_ascii=False) for name, row in rows.items()}
        wide = min(44, max(map(len, shown.values())))
        long = max(len(str(row["variable"])) for row in rows.values())
        for name, row in rows.items():
            click.echo(f"{row['variable']:<{long}} {shown[name]:<{wide}}  {row['source']}")
    for sentence in loaded.notes + loaded.warnings:
        click.echo(sentence, err=True)


@main.command(
    short_help="Show the health of a running server.",
    epilog=example("eclipse-ws health --url https://chat.example.com\neclipse-ws health --live"),
)
@profile_option
@click.option("--url", help="The server's URL; default: the one of these settings.")
@click.option(
    "--timeout", type=click.FloatRange(0.1, 60), default=5, show_default=True, help="Seconds to wait."
)
@click.option("--live", is_flag=True, help="Liveness: exit with 0 in any state, if the server responds.")
def health(profile: str | None, url: str | None, timeout: float, live: bool) -> None:
    """Show the health of a running server; exits with 0 (healthy), 1 (degraded, draining) or 2 (no response).

    A supervisor that restarts a failing server must use --live: a degraded server holds events that no other
    node has, and a draining one stops by itself.
    """
    import http.client
    import ssl
    from contextlib import closing

    from eclipse_ws.commands import tokens
    from eclipse_ws.config.problems import printable
    from eclipse_ws.protocol import decode_json

    target = url if url is not None else own_url(load(profile).settings)
    address = tokens.address(target, "http", "https")
    if address is None or address.hostname is None:
        stop(f"--url is {url!r}, expected an http:// or https:// URL.")
    # Without a proxy from the environment, which might respond itself.
    client: http.client.HTTPConnection
    if address.scheme == "https":
        context = ssl.create_default_context()
        if url is None:
            # This machine's own server, by an address that is not in its certificate.
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        client = http.client.HTTPSConnection(address.hostname, address.port, timeout=timeout, context=context)
    else:
        client = http.client.HTTPConnection(address.hostname, address.port, timeout=timeout)
    try:
        with closing(client):
            client.request("GET", address.path if address.path not in ("", "/") else "/health")
            document = decode_json(client.getresponse().read(1 << 20))
        status, sessions = str(document["status"]), int(document["connections"]["total"])
        backend, uptime = document.get("backend"), float(document["uptime"])
        if isinstance(backend, dict):
            backend = f"{backend['name']} {backend['state']}"
    except (OSError, http.client.HTTPException) as error:
        stop(f"unreachable: no response from {address.netloc} ({error or type(error).__name__})")
    except (ValueError, KeyError, TypeError):
        stop(f"unreachable: {address.netloc} responds, but not with a health document")
    line = f"{status}: {sessions} sessions, backend {backend or 'unknown'}, up {uptime:.0f} s"
    if document.get("api") == "down":  # the server itself is healthy
        line += ", application down"
    click.echo(printable(line))
    sys.exit(0 if live or status == "healthy" else 1)


@main.command(short_help="Print new secrets for a .env file.", epilog=example("eclipse-ws secrets >> .env"))
def secrets() -> None:
    """Print new secrets in the format of a .env file, below an empty line."""
    from eclipse_ws.config.dev_secrets import fresh

    # The empty line separates the secrets from a file whose last line has no line break.
    click.echo("\n" + fresh(), nl=False)


@main.command(
    short_help="Check the configuration before a deploy.",
    epilog=example("eclipse-ws check --profile prod\neclipse-ws check --fly fly.toml --json"),
)
@profile_option
@click.option("--fly", "fly_file", metavar="PATH", help="The fly.toml to check.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def check(profile: str | None, fly_file: str | None, as_json: bool) -> None:
    """Check configuration and environment before starting; exits with 1 if there is a problem."""
    import asyncio
    from pathlib import Path

    from eclipse_ws.commands import check

    _quiet()
    show(asyncio.run(check.check(profile, None if fly_file is None else Path(fly_file))), as_json)


@main.command(
    short_help="Test a running server with a test chat.",
    epilog=example("eclipse-ws smoke https://chat.example.com --chat a-test-chat"),
)
@click.argument("url")
@profile_option
@click.option("--chat", "chat_id", help="A test chat of the application; default: a random one.")
@click.option("--also", metavar="URL", help="URL of another node, for the second session.")
@click.option("--origin", help="Connect as a page of this origin, such as https://app.example.com.")
@click.option("--drain", is_flag=True, help="Wait for a restart, and check that both sessions resume.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def smoke(  # noqa: PLR0917 - click passes names
    url: str,
    profile: str | None,
    chat_id: str | None,
    also: str | None,
    origin: str | None,
    drain: bool,
    as_json: bool,
) -> None:
    """Test a deployed server with two sessions of a test chat; exits with 1 if there is a problem."""
    import asyncio
    import os

    from eclipse_ws.commands import report, tokens
    from eclipse_ws.commands.smoke import WIDTH, Smoke
    from eclipse_ws.config.problems import check_origin
    from eclipse_ws.security.jwt import required

    for address in (url, also or url):
        if tokens.address(address, "http", "https") is None:
            stop(f"{address!r} is not an http:// or https:// URL.")
    if origin is not None and ("*" in origin or check_origin(origin)):
        stop(f"--origin is {origin!r}, expected an origin such as https://app.example.com, or null.")
    if profile is None:
        # Only the secrets and the required claims; the other settings concern the server only.
        from pathlib import Path

        from eclipse_ws.config import dev_secrets
        from eclipse_ws.config.problems import check_secret_text, cleaned
        from eclipse_ws.config.profiles import read_dotenv
        from eclipse_ws.config.settings import variable

        layers = [read_dotenv(Path(".env"))[0], os.environ]
        if tokens.is_loopback(urlsplit(url).netloc):  # only a local server has the secrets that it generated
            kept, problems = dev_secrets.read(Path(dev_secrets.NAME))
            if problems:
                stop(str(problems[0]))
            layers.insert(0, kept)
        given = {name: value for layer in layers for name, value in layer.items() if value}
        jwt_secret, internal_secret = (given.get(name, "") for name in dev_secrets.SECRETS)
        issuer, audience = (cleaned(given.get(variable(name), "")) for name in ("jwt_issuer", "jwt_audience"))
        for name in dev_secrets.SECRETS:
            for problem in check_secret_text(name, given.get(name, ""), quoted=bool(os.environ.get(name))):
                stop(str(problem))
    else:
        loaded = load(profile)
        # Secrets that were generated here are not the server's.
        jwt_secret, internal_secret = (
            "" if loaded.sources[name] == "generated" else getattr(loaded.settings, name).get_secret_value()
            for name in ("jwt_secret", "internal_api_secret")
        )
        issuer, audience = loaded.settings.jwt_issuer, loaded.settings.jwt_audience
    if not jwt_secret:
        stop_without_secret()
    _quiet()

    def print_finding(finding: Finding) -> None:
        if not as_json:
            click.echo(report.line(finding, WIDTH))

    claims = required(issuer, audience)
    test = Smoke(
        url, jwt_secret, internal_secret, chat_id, also, origin=origin, claims=claims, report=print_finding
    )
    show(asyncio.run(test.run(drain)), as_json, printed=True)


@main.command(
    short_help="Join a chat in the terminal.",
    epilog=example("eclipse-ws chat --chat c1\neclipse-ws chat --agent agent_1 --chat c1 --chat c2"),
)
@profile_option
@click.option(
    "--chat",
    "chat_ids",
    multiple=True,
    default=("demo",),
    show_default="demo",
    help="A chat's id; repeatable.",
)
@click.option("--user", "user_id", help="The user's id; default: a new visitor.")
@click.option("--agent", metavar="ID", help="Join as this agent.")
@click.option("--host", metavar="HOST[:PORT]", help="The server; default: the one of these settings.")
@click.option("--url", help="A URL from the command token, instead of the other options.")
def chat(  # noqa: PLR0917 - click passes names
    profile: str | None,
    chat_ids: tuple[str, ...],
    user_id: str | None,
    agent: str | None,
    host: str | None,
    url: str | None,
) -> None:
    """Join a chat in the terminal, or several: type a line to send it, Ctrl-D to leave.

    Lines go to the first chat; `/chat ID` selects another one, `/who` shows who is there.
    """
    import asyncio

    from eclipse_ws.commands import chat, tokens
    from eclipse_ws.config import dev_secrets
    from eclipse_ws.security.jwt import required

    source: tokens.Source
    chat_id, *further = dict.fromkeys(chat_ids)
    if url is not None:
        if tokens.address(url, "ws", "wss") is None:
            stop(f"--url is {url!r}, expected a ws:// or wss:// URL, as `{program()} token` prints it.")
        source = tokens.FixedUrl(url)
    else:
        loaded = load(profile)
        address = server_address(host, loaded.settings)
        if loaded.sources["jwt_secret"] in ("generated", dev_secrets.NAME):
            # The server may have generated other secrets than the ones here.
            source = tokens.RequestedUrl(address, chat_id, user_id, agent, further)
        else:
            for each in chat_ids:
                check_ids(each, agent or user_id)
            secret = loaded.settings.jwt_secret.get_secret_value()
            claims: dict[str, Any] = required(loaded.settings.jwt_issuer, loaded.settings.jwt_audience)
            if further:
                claims["chatIds"] = further
            source = tokens.MintedUrl(
                secret, address, chat_id, agent or user_id, agent is not None, more=claims
            )
    try:
        code = asyncio.run(chat.chat(source, "AGENT" if agent else "USER", further))
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


@main.command(
    short_help="Load-test a server.",
    epilog=example(
        "eclipse-ws bench ws://127.0.0.1:8080 --sessions 1000 --rate 500\neclipse-ws bench --mode message\n"
        "eclipse-ws bench --presence"
    ),
)
@profile_option
@click.argument("url", required=False)
@click.option(
    "--sessions", type=click.IntRange(2, 20_000), default=100, show_default=True, help="Number of sessions."
)
@click.option(
    "--per-chat", type=click.IntRange(2, 1000), default=2, show_default=True, help="Sessions in each chat."
)
@click.option(
    "--rate", type=click.FloatRange(0.1, 50_000), default=100, show_default=True, help="Events a second."
)
@click.option(
    "--seconds", type=click.FloatRange(0.1, 3600), default=10, show_default=True, help="Duration of the load."
)
@click.option(
    "--mode",
    type=click.Choice(["typing", "message"]),
    default="typing",
    show_default=True,
    help="message saves each one through the application.",
)
@click.option(
    "--presence",
    is_flag=True,
    help="Also open a watcher in each chat, and measure how soon it is told who comes and goes.",
)
@click.option(
    "--plot", "plot_file", type=click.Path(dir_okay=False), help="Also write the plot to this SVG file."
)
@click.option("--yes-i-run-this", is_flag=True, help="The host is not this machine, and I may load-test it.")
def bench(  # noqa: PLR0917 - click passes names
    profile: str | None,
    url: str | None,
    sessions: int,
    per_chat: int,
    rate: float,
    seconds: float,
    mode: str,
    presence: bool,
    plot_file: str | None,
    yes_i_run_this: bool,
) -> None:
    """Load-test a running server and show the latency of events; tokens are minted from JWT_SECRET."""
    from eclipse_ws.commands import tokens
    from eclipse_ws.commands.bench import Plan, run
    from eclipse_ws.commands.bench_client import BenchError
    from eclipse_ws.commands.bench_presence import MOST_PER_CHAT
    from eclipse_ws.security.jwt import required

    if presence and per_chat > MOST_PER_CHAT:
        stop(
            f"--presence needs chats of at most {MOST_PER_CHAT} sessions, not {per_chat}: in larger ones "
            "only the number of users is told. Fix: use a smaller --per-chat."
        )
    loaded = load(profile)
    url = url if url is not None else local_address(loaded.settings)
    address = tokens.address(url if "://" in url else f"ws://{url}", "ws", "wss", "http", "https")
    if address is None:
        stop(f"{url!r} is not a server's address: expected one such as wss://chat.example.com.")
    scheme = {"http": "ws", "https": "wss"}.get(address.scheme, address.scheme)
    if not tokens.is_loopback(address.netloc) and not yes_i_run_this:
        stop(
            f"{address.hostname} is not this machine. A load test of somebody else's server, or of "
            "one in use, is an attack. Fix: if the server is yours, confirm with --yes-i-run-this."
        )
    if lacks_secret(loaded):
        stop_without_secret()
    secret = loaded.settings.jwt_secret.get_secret_value()
    claims = required(loaded.settings.jwt_issuer, loaded.settings.jwt_audience)
    target = address._replace(scheme=scheme).geturl()
    plan = Plan(target, secret, sessions, per_chat, rate, seconds, mode, claims, presence)
    try:
        sys.exit(run(plan, plot_file))
    except BenchError as error:
        stop(str(error), code=1)
    except OSError as error:
        stop(f"can't write the plot {plot_file} ({error.strerror}). Fix: choose a writable file.")
    except KeyboardInterrupt:
        sys.exit(130)


def explain_settings(profile: str | None, as_json: bool, names: tuple[str, ...]) -> None:
    """Print explanations of all settings, or of the named ones."""
    from eclipse_ws.commands import config

    if as_json:
        stop("--explain and --json can't be combined.")
    try:
        found = config.find(names)
    except ValueError as error:
        stop(str(error))
    click.echo(config.explain(load(profile), found))


def show(findings: list[Finding], as_json: bool, printed: bool = False) -> NoReturn:
    """Print findings (only their summary if they were printed before), and exit: 1 if one is a problem."""
    from eclipse_ws.commands import report

    if as_json:
        click.echo(report.as_json(findings))
    else:
        if not printed:
            click.echo(report.table(findings))
        click.echo(report.summary(findings))
    sys.exit(report.code(findings))


def _quiet() -> None:
    """Disable logging: the findings contain all information."""
    import logging

    import structlog

    logging.disable(logging.CRITICAL)
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())


def load(profile: str | None, **flags: Any) -> Loaded:
    """The settings; exits with all of their problems if there are any."""
    from eclipse_ws.config import loading
    from eclipse_ws.config.problems import SettingsError

    try:
        return loading.load(profile, **flags)
    except SettingsError as error:
        stop(str(error))


def lacks_secret(loaded: Loaded) -> bool:
    """Whether JWT_SECRET is not configured, so that no token from here is valid on a running server."""
    return loaded.sources["jwt_secret"] == "generated"  # noqa: S105 - a source, not a secret


def stop_without_secret() -> NoReturn:
    """Exit a command that signs tokens, and explain where it looks for the secret."""
    stop(
        "JWT_SECRET is not set, and no development server in this folder has saved one. "
        f"Fix: start one here (`{program()} run --profile dev`), or set JWT_SECRET, here or in .env, to the "
        "server's own."
    )


def local_address(settings: Settings, port: int | None = None) -> str:
    """host:port at which this machine reaches the server of the settings."""
    host = "127.0.0.1" if settings.host in WILDCARDS else settings.host
    port = settings.port if port is None else port
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_ids(chat_id: str, user_id: str | None) -> None:
    """Exit if the server would reject a token with these ids; an empty user is a new visitor."""
    from eclipse_ws.protocol.commands import MAX_NAME
    from eclipse_ws.security.jwt import is_name

    for option, value in (("--chat", chat_id), ("--user", user_id)):
        if not is_name(value or ("" if option == "--chat" else "a visitor")):
            stop(
                f"{option} is {value!r}, expected 1 to {MAX_NAME} characters, not only blanks, "
                "without control characters: the server would reject the token."
            )


def server_address(host: str | None, settings: Settings) -> str:
    """The server that ``--host`` names, else the one of the settings; exits if it is invalid."""
    from eclipse_ws.commands import tokens

    if not host and settings.tls_cert:
        stop("ECLIPSE_TLS_CERT is set. Fix: pass the name in the certificate as --host.")
    if host and not tokens.is_address(host):
        stop(f"--host is {host!r}, expected a host, or host:port, such as chat.example.com.")
    return host or local_address(settings)


def own_url(settings: Settings, port: int | None = None) -> str:
    """The URL at which this machine reaches the server of the settings."""
    return f"{'https' if settings.tls_cert else 'http'}://{local_address(settings, port)}"


def greet(settings: Settings, port: int, workers: int = 1) -> None:
    """Print where a started server listens, and in development what to open and type."""
    address = local_address(settings, port)
    url = own_url(settings, port)
    parts = [f"backend {settings.backend}", f"API {settings.api}"] + [f"{workers} workers"] * (workers > 1)
    click.echo(f"eclipse-ws {__version__} listens at {url} ({', '.join(parts)})")
    if settings.has_demo:
        click.echo(f"  open    {url}/demo         a customer's page")
        click.echo(f"          {url}/demo/agent   the agents' page")
        click.echo("  or type, in another terminal in this folder:")
        click.echo(f"          {program()} chat --host {address}")
        click.echo(f"          {program()} smoke {url}")
        click.echo("  stop    Ctrl-C")
    elif settings.development:
        click.echo(f"  open    {settings.next_api_url}   the application, which must run, too")
        click.echo("  stop    Ctrl-C")


def stop(sentence: str, code: int = EXIT_UNUSABLE) -> NoReturn:
    """Exit with the sentence on stderr."""
    click.echo(sentence, err=True)
    sys.exit(code)
