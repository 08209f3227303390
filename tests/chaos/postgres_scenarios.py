"""The scenarios of PostgreSQL."""

from __future__ import annotations

from tests.chaos.postgres_cluster import PostgresCluster
from tests.chaos.scenarios import (
    api_breaks_off,
    api_fails,
    black_hole,
    frozen,
    kick,
    killed,
    one_after_the_other,
    restart_backend,
    slow,
    stopped,
    terminated,
)
from tests.chaos.stage import Scenario, Stage


async def _shut_down(stage: Stage, away: float) -> None:
    assert isinstance(stage.cluster, PostgresCluster)
    await restart_backend(stage, stage.cluster.shut_down, away)


async def postgres_stopped(stage: Stage) -> None:
    """PostgreSQL is stopped as an administrator would (mode fast), and started again after three seconds."""
    await _shut_down(stage, stage.away)


async def postgres_restarted(stage: Stage) -> None:
    """PostgreSQL is stopped in the same way, and started again at once."""
    await _shut_down(stage, 0)


async def postgres_crashed(stage: Stage) -> None:
    """PostgreSQL is stopped as in a crash (mode immediate), and recovers when it is started again."""
    await restart_backend(stage, stage.cluster.crash, stage.away)


async def postgres_kicks(stage: Stage) -> None:
    """PostgreSQL ends connections (pg_terminate_backend): those for commands, those that listen, one, all."""
    await kick(stage)


async def postgres_mixed(stage: Stage) -> None:
    """All of these, one after the other, while clients are cut."""
    kinds: list[Scenario] = [killed, postgres_kicks, black_hole, terminated, stopped, api_breaks_off]
    kinds += [frozen, api_fails, slow, postgres_stopped, postgres_restarted, postgres_crashed]
    await one_after_the_other(stage, kinds)
