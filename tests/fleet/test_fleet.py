"""The short form of the suite: a small mixed fleet and a small failover. ``make fleet`` runs all cases."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests import needs
from tests.fleet.cases import CASES
from tests.fleet.run import run_case

SIZES = {"mixed fleet": 0.3, "failover": 0.06}

pytestmark = [pytest.mark.slow]


def test_all_messages_once_in_order_and_none_lost(tmp_path: Path) -> None:
    """Beside an old service, and over a failover of Redis, all get everything, without a false error."""
    server = needs.server()

    async def run() -> dict[str, list[str]]:
        rows = await asyncio.gather(
            *(
                run_case(case, tmp_path / case.name, server, SIZES[case.name])
                for case in CASES
                if case.name in SIZES
            )
        )
        return {row.scenario: row.missed_targets + row.evidence for row in rows if row.missed_targets}

    assert asyncio.run(run()) == {}
