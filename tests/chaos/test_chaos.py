"""The short form of the suite: every scenario for a few seconds. ``make chaos`` runs the long one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests import needs
from tests.chaos.judge import Verdict
from tests.chaos.run import run_lanes
from tests.chaos.scenarios import PLANS

SECONDS = 4.0
LANES = 5
CHATS = 50

pytestmark = [pytest.mark.chaos, pytest.mark.slow]


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Verdict]:
    """Every scenario's verdict, from one run of them all, side by side."""
    folder = tmp_path_factory.mktemp("chaos")
    run = run_lanes(list(PLANS), Path(folder), needs.server(), SECONDS, lanes=LANES, chats=CHATS)
    return {verdict.scenario: verdict for verdict in asyncio.run(run)}


@pytest.mark.parametrize("name", [plan.name for plan in PLANS])
def test_scenario_meets_its_targets(name: str, verdicts: dict[str, Verdict]) -> None:
    """Whatever goes wrong: everything saved arrives, once, in one order, without a false error or a trace."""
    verdict = verdicts[name]
    assert not verdict.missed_targets, "\n".join(verdict.evidence)
