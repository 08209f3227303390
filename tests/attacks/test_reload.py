"""SIGHUP: new secrets, keys, origins and limits, without a session that notices."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import structlog

from eclipse_ws.config.loading import Loaded
from eclipse_ws.observability.logging import configure_logging
from tests.client import Client, http, running, token
from tests.conftest import SECRET, make_settings

FRESH = "the-fresh-secret-of-these-tests-is-long-too"


def loaded(generated: tuple[str, ...] = (), **given: Any) -> Loaded:
    """Freshly loaded settings."""
    settings = make_settings(**given)
    sources = dict.fromkeys(type(settings).model_fields, "environment")
    return Loaded(settings, {**sources, **dict.fromkeys(generated, "generated")})


async def code(port: int, made: str) -> int | None:
    """The close code of a session with this token; None if it was greeted."""
    client = await Client.open(port, f"token={made}")
    try:
        await client.next("connected")
    except Exception:
        return client.socket.close_code
    await client.close()
    return None


@pytest.mark.gen_test
async def test_a_rotation_disconnects_nobody() -> None:
    """The new secret and the previous one verify and nobody is disconnected; then only the new one does."""
    async with running() as server, await Client.join(server.port) as client:
        server.reload(loaded(jwt_secret=FRESH, jwt_previous_secrets=SECRET))
        assert await code(server.port, token(secret=FRESH)) is None
        assert await code(server.port, token()) is None
        await server._sweeper.sweep(time.time(), 0.0)
        await client.quiet()
        server.reload(loaded(jwt_secret=FRESH))
        assert await code(server.port, token()) == 4002
        await server._sweeper.sweep(time.time(), 0.0)
        assert await client.ended() == (4002, "Invalid token")


@pytest.mark.gen_test
async def test_internal_auth_takes_the_new_secret() -> None:
    """The application's secret changes for calls in both directions; limits and origins follow too."""
    async with running() as server:
        given: dict[str, Any] = {"internal_api_secret": FRESH, "max_sessions": 1, "command_rate": 5}
        server.reload(loaded(**given, allowed_origins=("https://a.example",)))
        for secret, status in ((SECRET, 401), (FRESH, 202)):
            headers = {"X-Internal-Secret": secret}
            answer = await http(server.port, "/api/chats/c/events", "POST", {"type": "x"}, headers=headers)
            assert answer.status == status
        assert server.node.limits.rated
        assert server.node.origins.allows("https://a.example")
        assert server.node.settings.max_sessions == 1
        assert server.api.settings.internal_api_secret.get_secret_value() == FRESH  # type: ignore[attr-defined]


@pytest.mark.gen_test
async def test_the_calls_to_the_application_show_the_new_secret() -> None:
    """The HTTP API's header is the fresh one from the next call on."""
    async with running(api="http") as server:
        server.reload(loaded(api="http", internal_api_secret=FRESH))
        assert server.api._headers["X-Internal-Secret"] == FRESH  # type: ignore[attr-defined]


@pytest.mark.gen_test
async def test_generated_settings_stay() -> None:
    """A generated secret is not generated again, or no token would stay valid."""
    async with running() as server:
        server.reload(loaded(("jwt_secret",), jwt_secret=FRESH))
        assert await code(server.port, token()) is None


@pytest.mark.gen_test
async def test_a_removed_setting_is_no_longer_valid() -> None:
    """A secret or an origin that was set at the start and then removed no longer applies."""
    async with running(allowed_origins=("https://old.example",)) as server:
        server.generated = frozenset({"internal_api_secret"})
        names = ("jwt_secret", "internal_api_secret", "allowed_origins")
        server.reload(loaded(names, jwt_secret=FRESH, internal_api_secret=FRESH, allowed_origins=()))
        assert await code(server.port, token()) == 4002
        assert not server.node.origins.allows("https://old.example")
        assert server.node.settings.internal_api_secret.get_secret_value() == SECRET
        server.reload(loaded(names, jwt_secret="another-one-that-is-made-up-this-time"))
        assert server.node.settings.jwt_secret.get_secret_value() == FRESH


@pytest.mark.gen_test
async def test_the_log_names_what_needs_a_restart_and_no_secret() -> None:
    """Settings that need a restart are named; the new secret is masked from the first line on."""
    out = io.StringIO()
    configure_logging(make_settings(log_level="debug"), out)
    try:
        async with running() as server:
            server.reload(loaded(jwt_secret=FRESH, history_events=7))
            structlog.get_logger("x").info("look", value=FRESH)
    finally:
        configure_logging(make_settings(log_level="debug"), io.StringIO())
    text = out.getvalue()
    assert "JWT_SECRET" in text
    assert "ECLIPSE_HISTORY_EVENTS" in text
    assert FRESH not in text


def test_sighup_on_a_real_process(tmp_path: Path) -> None:
    """The signal makes a running server reload its files; a problem is logged, and it continues."""
    (tmp_path / ".env").write_text(f"JWT_SECRET={SECRET}\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "eclipse_ws", "run", "--profile", "test"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "ECLIPSE_LOG_FORMAT": "json"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None

    def wait_for(what: str) -> str:
        for line in process.stderr or ():
            if what in line:
                return line
        raise AssertionError(f"{what!r} was never logged")

    try:
        wait_for('"server started"')
        (tmp_path / ".env").write_text(f"JWT_SECRET={FRESH}\n")
        process.send_signal(signal.SIGHUP)
        assert "JWT_SECRET" in wait_for('"settings reloaded"')
        (tmp_path / ".env").write_text("JWT_SECRET=changeme\n")
        process.send_signal(signal.SIGHUP)
        assert "placeholder" in wait_for('"settings reload failed"')
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait(10)
        process.stderr.close()
    assert process.returncode == 0
