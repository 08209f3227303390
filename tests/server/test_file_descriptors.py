"""The limit of open files: raised as far as it is needed and may be."""

from __future__ import annotations

import resource
from unittest.mock import patch

import pytest

from eclipse_ws.server import file_descriptors
from tests.conftest import make_settings

SETTINGS = make_settings(max_sessions=5000, api_max_connections=50)


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "lacks"),
    [
        (1024, 20000, 9650, False),
        (1024, resource.RLIM_INFINITY, 9650, False),
        (20000, 20000, None, False),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None, False),
        (1024, 4096, 4096, True),
    ],
)
def test_the_limit_is_raised_as_needed(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, raised: int | None, lacks: bool
) -> None:
    """The soft limit becomes what is needed; if the hard one is lower, that is logged and used."""
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    fitting, http, said = file_descriptors.fit(SETTINGS)
    assert asked == ([] if raised is None else [(raised, hard)])
    assert ("5000 sessions and 2000 HTTP connections need 9650" in said) is lacks
    assert (fitting == SETTINGS) is not lacks
    assert (http < 2000) is lacks


def test_a_limit_that_the_system_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS reports an unlimited hard limit but rejects a high one: the server starts with a warning."""

    def refuse(_: int, limits: tuple[int, int]) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    fitting, http, said = file_descriptors.fit(SETTINGS)
    assert "5000 sessions and 2000 HTTP connections need 9650 open files, but the limit is 256" in said
    assert (fitting.max_sessions, http) == (48, 8)


@pytest.mark.parametrize(
    ("most", "sessions", "http"), [(9650, 5000, 2000), (9150, 5000, 1750), (4650, 3000, 500), (10, 48, 8)]
)
def test_a_node_accepts_only_what_fits(most: int, sessions: int, http: int) -> None:
    """With fewer descriptors a node accepts fewer HTTP connections, then fewer sessions."""
    assert file_descriptors.fitting(SETTINGS, most) == (sessions, http)


@patch("eclipse_ws.server.file_descriptors.HTTP_CONNECTIONS", 10)
def test_internal_ports_have_their_descriptors() -> None:
    """The connections of the admin port and the metrics port are counted too."""
    inside = make_settings(max_sessions=10, admin_port=1, metrics_port=2)
    assert file_descriptors.needed(inside) == 30 + inside.api_max_connections + file_descriptors.SPARE + 400
