"""The short form of the suite: Redis' scenarios, and one of PostgreSQL's, for a few seconds.

``make chaos`` runs the long one.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests import needs, postgres
from tests.chaos.judge import Verdict
from tests.chaos.plans import plans_of
from tests.chaos.run import run_lanes

SECONDS = 4.0
LANES = 5
CHATS = 50
ON_POSTGRES = "postgres restarted"
HERE = [plan for plan in plans_of("redis") if not plan.topology]
"""Without those on several Redis servers, whose failovers take longer: see ``tests/backends``."""

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
Verdicts = dict[tuple[str, str], Verdict]


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> Verdicts:
    """Every scenario's verdict, by backend and name, from one run of them all, side by side."""
    return asyncio.run(_run(tmp_path_factory.mktemp("chaos"), needs.server()))


async def _run(folder: Path, server: str) -> Verdicts:
    # Clients wait longest when the application fails: if that came last, it would run alone at the end.
    plans = sorted(HERE, key=lambda plan: not plan.unknowns)
    runs = [run_lanes(plans, folder, server, SECONDS, lanes=LANES, chats=CHATS)]
    if postgres.binaries():
        plans = [plan for plan in plans_of("postgres") if plan.name == ON_POSTGRES]
        own = folder / "postgres"
        runs.append(run_lanes(plans, own, server, SECONDS, lanes=1, backend="postgres", chats=CHATS))
    found = await asyncio.gather(*runs)
    return {(verdict.backend, verdict.scenario): verdict for each in found for verdict in each}


@pytest.mark.parametrize("name", [plan.name for plan in HERE])
def test_scenario_meets_its_targets(name: str, verdicts: Verdicts) -> None:
    """Despite every fault everything saved arrives, once, in one order, without a false error or a trace."""
    verdict = verdicts["redis", name]
    assert not verdict.missed_targets, "\n".join(verdict.evidence)


def test_postgres_meets_its_targets(verdicts: Verdicts) -> None:
    """The same when PostgreSQL is restarted."""
    if ("postgres", ON_POSTGRES) not in verdicts:
        needs.missing("PostgreSQL", postgres.HOW)
    verdict = verdicts["postgres", ON_POSTGRES]
    assert not verdict.missed_targets, "\n".join(verdict.evidence)
