"""The report says what ran on which backend."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.chaos.judge import Verdict
from tests.chaos.plans import plans_of
from tests.chaos.report import document
from tests.chaos.stage import BACKENDS


@pytest.mark.parametrize("backend", BACKENDS)
def test_names_are_unique_within_a_backend(backend: str) -> None:
    """Folders and verdicts are named after scenarios, and ``--only`` separates them with commas."""
    names = Counter(plan.name for plan in plans_of(backend))
    assert [name for name, count in names.items() if count > 1 or "," in name] == []


def test_why_a_client_could_not_resume() -> None:
    """A plan that allows no `recovered: false` names a reason only if each of them has expired."""
    for expired, why in ((2, "`recovered: false` 2: the clients were away"), (1, "2: none allowed")):
        verdict = Verdict("calm", not_recovered=2, expired=expired)
        assert why in document({"redis": [verdict]}, {"redis": "redis 1.2.3"}, 60, "make chaos")


def test_every_scenario_is_in_the_table_of_its_backend() -> None:
    """With its description and its reason."""
    by_backend = {
        backend: [Verdict(plan.name, backend=backend, unknown=1) for plan in plans_of(backend)]
        for backend in BACKENDS
    }
    text = document(by_backend, {"redis": "redis 1.2.3", "postgres": "PostgreSQL 4.5"}, 60, "make chaos")
    targets, told = text.split("## What clients were told")
    for part in (targets, told):
        _, redis, postgres = part.split("### On ")
        assert redis.startswith("redis 1.2.3\n")
        assert postgres.startswith("PostgreSQL 4.5\n")
        for table, backend in ((redis, "redis"), (postgres, "postgres")):
            rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")]
            assert rows[2:] == [plan.name for plan in plans_of(backend)]
    for backend in BACKENDS:
        for plan in plans_of(backend):
            assert f"- {backend}, **{plan.name}**: `outcome_unknown` 1: " in told
            assert f"- **{plan.name}**: {str(plan.run.__doc__).split()[0]} " in told
