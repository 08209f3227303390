"""Sockets that are killed in every phase leave nothing behind; `make attack` kills 10,000 of them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.attack.sockets import certificate
from tests.attacks.kills import PHASES, kill


@pytest.mark.slow
@pytest.mark.gen_test(timeout=60)
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_killed_sockets_leave_nothing(tls: bool, tmp_path: Path) -> None:
    """No task, descriptor, session or table entry is left of them."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    count = 10 * len(PHASES)
    ways = await kill(count, seed, certificate(tmp_path) if tls else None)
    assert ways.total() == count
