"""What every test may use: settings, real servers, and a log that fails a test on an unexpected warning."""

from __future__ import annotations

import asyncio
import io
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eclipse_ws.config.settings import Settings
from eclipse_ws.observability.logging import configure_logging
from tests import needs, npm_project
from tests.servers import SERVERS, RedisServer

SECRET = "a-secret-of-the-tests-which-is-long-enough"


def make_settings(**given: object) -> Settings:
    """Settings of the profile ``test`` on a free port of loopback, with the given changes."""
    values: dict[str, object] = {
        "profile": "test",
        "host": "127.0.0.1",
        "port": 0,
        "api": "embedded",
        "jwt_secret": SECRET,
        "internal_api_secret": SECRET,
        "drain_seconds": 0,
        "allowed_hosts": ["x"],  # as requests that are written byte by byte call it
        **given,
    }
    return Settings(**values)  # type: ignore[arg-type]


class _Unexpected(logging.Handler):
    """Collects every record at WARNING or above."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        # Structlog hands its event over as a dict: what a pattern may match is all of it.
        self.lines.append(str(record.msg) if isinstance(record.msg, dict) else record.getMessage())


@pytest.fixture(scope="session", autouse=True)
def _logs() -> None:
    """Sends every log line through the project's own logging, to nowhere."""
    configure_logging(make_settings(log_level="debug"), io.StringIO())


@pytest.fixture(autouse=True)
def expect_log(request: pytest.FixtureRequest) -> Iterator[Callable[..., None]]:
    """Fails a test on a warning that it did not announce: ``expect_log("a pattern", ...)``.

    What is announced must come: a pattern that no line matches fails the test too, unless ``optional=True``.
    """
    handler = _Unexpected()
    expected: list[tuple[re.Pattern[str], bool]] = []

    def expect(*patterns: str, optional: bool = False) -> None:
        expected.extend((re.compile(pattern), optional) for pattern in patterns)

    root = logging.getLogger()
    root.addHandler(handler)
    yield expect
    root.removeHandler(handler)
    lines = handler.lines
    stray = [line for line in lines if not any(pattern.search(line) for pattern, _ in expected)]
    assert not stray, f"unexpected log lines: {stray}"
    for pattern, optional in expected:
        assert optional or any(pattern.search(line) for line in lines), (
            f"no log line matches {pattern.pattern!r}"
        )


def pytest_configure() -> None:
    """Keep Tornado from making an event loop of its own before the first test, which nobody would close."""
    asyncio.set_event_loop(None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Says how to repeat this order: the header, where the plugin says it, is left out."""
    if seed := getattr(config.option, "randomly_seed", None):
        terminalreporter.write_line(f"in random order; to repeat it: pytest --randomly-seed={seed}")


@pytest.fixture(scope="session", params=SERVERS)
def redis_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A running Redis, then a running Valkey; tests that break it start one of their own instead."""
    server = RedisServer(needs.server(request.param)).start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a project that has installed the npm package; it takes seconds, once a session."""
    return npm_project.make(tmp_path_factory.mktemp("npm"))
