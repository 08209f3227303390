"""The limit of open files: raised as far as it is needed and may be."""

from __future__ import annotations

import resource

import pytest

from eclipse_ws import files
from tests.conftest import make_settings

SETTINGS = make_settings(max_sessions=5000, api_max_connections=50)


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "lacks"),
    [
        (1024, 20000, 5250, False),
        (1024, resource.RLIM_INFINITY, 5250, False),
        (20000, 20000, None, False),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None, False),
        (1024, 4096, 4096, True),
    ],
)
def test_the_limit_is_raised_as_far_as_it_may(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, raised: int | None, lacks: bool
) -> None:
    """The soft limit becomes what is needed; where the hard one is too low, that is said."""
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    said = files.allow(SETTINGS)
    assert asked == ([] if raised is None else [(raised, hard)])
    assert ("5000 sessions need 5250" in said) is lacks


def test_a_limit_that_the_system_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS calls the hard limit unlimited and then refuses a high one: the server starts, and says so."""

    def refuse(_: int, limits: tuple[int, int]) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert "256 files may be open, but 5000 sessions need 5250" in files.allow(SETTINGS)
