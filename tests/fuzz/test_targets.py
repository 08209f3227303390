"""The fuzz targets, briefly: they find nothing in the code, and they find planted bugs."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest

from eclipse_ws.security.jwt import Claims, Verifier
from tests.fuzz import (
    fuzz_bodies,
    fuzz_commands,
    fuzz_cursors,
    fuzz_redis,
    fuzz_tokens,
    fuzz_upgrades,
    loop,
)

TARGETS = [fuzz_commands, fuzz_cursors, fuzz_tokens, fuzz_redis, fuzz_bodies, fuzz_upgrades]


@pytest.fixture(autouse=True)
def _logs() -> Iterator[None]:
    """The targets discard log lines; restore logging for the other tests."""
    yield
    logging.disable(logging.NOTSET)
    import io

    from eclipse_ws.observability.logging import configure_logging
    from tests.conftest import make_settings

    configure_logging(make_settings(log_level="debug"), io.StringIO())


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__.rpartition("_")[2])
def test_a_short_run_of_each(target: ModuleType) -> None:
    """A short run tries inputs, keeps those with new outcomes, and finds nothing."""
    # In a thread: a target has an event loop of its own, which would take this thread's from other tests.
    with ThreadPoolExecutor() as thread:
        tried, kept = thread.submit(loop.fuzz, target.check, target.SEEDS, target.WORDS, 0.3, seed=1).result()
    assert tried > len(target.SEEDS)
    assert kept >= len(target.SEEDS)


def test_a_verifier_that_checks_nothing_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A verifier that accepts any signature is detected; the input is left in a file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Verifier, "verify", lambda *_: Claims("u1", "c1", ends=time.time() + 60))
    with pytest.raises(AssertionError, match="nobody has signed"):
        loop.fuzz(fuzz_tokens.check, fuzz_tokens.SEEDS[:1], fuzz_tokens.WORDS, 30, seed=1)
    assert (tmp_path / "fuzz-failure.bin").exists()


def test_a_leak_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that grows with the inputs is a failure."""
    kept: list[bytes] = []
    monkeypatch.setattr(loop, "MOST_GROWTH", 1 << 20)

    def leaks(data: bytes) -> int:
        kept.append(bytes(2000) + data)
        return 0

    with pytest.raises(AssertionError, match="memory grew"):
        loop.fuzz(leaks, [b"x"], [b"y"], 2, seed=1)
