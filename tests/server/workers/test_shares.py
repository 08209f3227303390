"""How many workers there are, and what each has of the machine's limits."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from eclipse_ws.server.workers import shares
from eclipse_ws.server.workers.start import Start, plain
from tests.conftest import make_settings

SHARED = {"backend": "redis", "redis_url": "redis://127.0.0.1:1", "api": "http"}


@pytest.mark.parametrize("field", shares.DIVIDED)
@pytest.mark.parametrize(("whole", "of"), [(100, 3), (3, 3), (7, 2)])
def test_what_is_divided(field: str, whole: int, of: int) -> None:
    """The parts differ by at most one, and their sum is the whole."""
    settings = make_settings(**{field: whole})
    parts = [getattr(shares.share(settings, number, of), field) for number in range(1, of + 1)]
    assert sum(parts) == whole
    assert max(parts) - min(parts) <= 1


def test_what_is_not_divided() -> None:
    """A part is at least 1, other settings stay, and one worker has everything."""
    settings = make_settings(max_sessions=1, max_sessions_per_chat=7)
    assert shares.share(settings, 2, 2).max_sessions == 1
    assert shares.share(settings, 2, 2).max_sessions_per_chat == 7
    assert shares.share(settings, 1, 1) is settings


def test_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """``auto`` is one worker per core, if several could work together."""
    monkeypatch.setattr(shares, "cores", lambda: 6)
    assert shares.count(make_settings(**SHARED, workers=3)) == 3
    assert shares.count(make_settings(**SHARED, workers=" Auto ")) == 6
    assert shares.count(make_settings(**{**SHARED, "api": "embedded"}, workers="auto")) == 1
    assert shares.count(make_settings(api="http", workers="auto")) == 1
    assert shares.count(make_settings()) == 1


@pytest.mark.parametrize(
    ("quota", "expected"), [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1), ("", 8)]
)
def test_cores(quota: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The affinity and the control group's quota, in whole cores, at least one."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(shares, "CPU_QUOTA", tmp_path / "cpu.max")
    if quota:
        (tmp_path / "cpu.max").write_text(quota)
    assert shares.cores() == expected


def test_cores_without_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS has neither."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    monkeypatch.setattr(shares, "CPU_QUOTA", tmp_path / "cpu.max")
    assert shares.cores() == 5


def test_settings_that_were_sent() -> None:
    """A worker's settings are the supervisor's, secrets included, but for its share."""
    settings = make_settings(
        **SHARED, workers=2, allowed_origins="https://a.example,https://b.example", max_sessions=10
    )
    start = Start(2, 2, plain(settings), [], {}, 0)
    assert start.settings() == shares.share(settings, 2, 2)
    assert start.settings().jwt_secret == settings.jwt_secret
    assert start.settings().max_sessions == 5
