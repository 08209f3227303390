"""The scenarios of PostgreSQL."""

from __future__ import annotations

from tests.chaos.postgres_cluster import PostgresCluster
from tests.chaos.scenarios import kick, one_after_the_other, restart_backend
from tests.chaos.stage import Stage


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
    own = postgres_kicks, postgres_stopped, postgres_restarted, postgres_crashed
    await one_after_the_other(stage, *own)
