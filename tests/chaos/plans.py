"""The plans: which scenario runs on which backend, and what can't be avoided in it."""

from __future__ import annotations

from tests.chaos.postgres_scenarios import (
    postgres_crashed,
    postgres_kicks,
    postgres_mixed,
    postgres_restarted,
    postgres_stopped,
)
from tests.chaos.redis_scenarios import (
    redis_flushed,
    redis_kicks,
    redis_mixed,
    redis_paused,
    redis_primary_lost,
    redis_resharded,
    redis_restarted,
)
from tests.chaos.scenarios import (
    api_breaks_off,
    api_fails,
    api_failure_then_black_hole,
    api_hangs,
    application_publishes,
    black_hole,
    calm,
    cuts,
    frozen,
    killed,
    slow,
    stopped,
    terminated,
)
from tests.chaos.stage import Plan
from tests.chaos.workers import worker_killed

UNGUARDED = (
    "a killed node no longer guards its chats: a chat whose members were all on it has no reliable history"
)
EMPTIED = "Redis lost its data, so nobody knows what was missed"
CRASHED = "the last commits were not yet on the disk, so a new epoch begins"
CUT_OFF = "a client came with a cursor that its node, which was cut off, had not heard of yet"
FAILED_OVER = "the replica that was promoted may lack the last events, and nobody heard raw events meanwhile"
DEAF = "raw events published while no node was subscribed to the chat would be lost unnoticed"
POST_LOST = "the API's response was lost, and the API ignores the key"
NODE_DIED = "the node took the answer along"
NOT_READ = "the API's answer came while it could not read"
TWO_FAULTS = (
    "a node that the backend does not reach saves a message, and its client sends it again elsewhere before "
    "that node is heard again: the last exception in delivery.md"
)
REDIS, POSTGRES = ("redis",), ("postgres",)

PLANS = [
    Plan("calm", calm, publishes=False),
    Plan("clients cut", cuts, publishes=False),
    Plan("node terminated", terminated, REDIS, unresumed=UNGUARDED),
    Plan("node terminated", terminated, POSTGRES),
    Plan("node killed", killed, REDIS, unresumed=UNGUARDED, unknowns=NODE_DIED),
    Plan("node killed", killed, POSTGRES, unknowns=NODE_DIED),
    Plan("worker killed", worker_killed, REDIS, unresumed=UNGUARDED, unknowns=NODE_DIED, workers=True),
    Plan("worker killed", worker_killed, POSTGRES, unknowns=NODE_DIED, workers=True),
    Plan("node stopped", stopped, REDIS, unresumed=UNGUARDED, unknowns=NOT_READ),
    Plan("node stopped", stopped, POSTGRES, unknowns=NOT_READ),
    Plan("redis restarted empty", redis_restarted, REDIS, unresumed=EMPTIED),
    Plan("redis restarted", redis_restarted, REDIS, ("--appendonly", "yes"), unresumed=DEAF),
    Plan("redis frozen", frozen, REDIS, unresumed=DEAF),
    Plan("redis paused", redis_paused, REDIS, unresumed=DEAF),
    Plan("redis flushed", redis_flushed, REDIS, unresumed=EMPTIED),
    Plan("redis primary lost", redis_primary_lost, REDIS, topology="sentinels", unresumed=FAILED_OVER),
    Plan("cluster primary lost", redis_primary_lost, REDIS, topology="cluster", unresumed=FAILED_OVER),
    Plan("cluster resharded", redis_resharded, REDIS, topology="cluster"),
    Plan("redis slow", slow, REDIS),
    Plan("redis kicks", redis_kicks, REDIS, unresumed=DEAF),
    Plan("black hole to redis", black_hole, REDIS, unresumed=DEAF),
    Plan("postgres stopped", postgres_stopped, POSTGRES),
    Plan("postgres restarted", postgres_restarted, POSTGRES),
    Plan("postgres crashed", postgres_crashed, POSTGRES, unresumed=CRASHED),
    Plan("postgres frozen", frozen, POSTGRES),
    Plan("postgres slow", slow, POSTGRES),
    Plan("postgres kicks", postgres_kicks, POSTGRES),
    Plan("black hole to postgres", black_hole, POSTGRES),
    Plan("api fails", api_fails, unknowns=POST_LOST),
    Plan("api hangs", api_hangs, unknowns=POST_LOST),
    Plan("api breaks off", api_breaks_off, unknowns=POST_LOST),
    Plan(
        "api failure then black hole",
        api_failure_then_black_hole,
        REDIS,
        unresumed=DEAF,
        unknowns=POST_LOST,
        repeats=TWO_FAULTS,
    ),
    Plan(
        "api failure then black hole",
        api_failure_then_black_hole,
        POSTGRES,
        unresumed=CUT_OFF,
        unknowns=POST_LOST,
        repeats=TWO_FAULTS,
    ),
    Plan("application publishes", application_publishes, publishes=False),
    Plan("mixed", redis_mixed, REDIS, unresumed="all of these", unknowns="all of these"),
    Plan(
        "mixed",
        postgres_mixed,
        POSTGRES,
        unresumed=CRASHED,
        unknowns="all of these",
        repeats=TWO_FAULTS,
    ),
]


def plans_of(backend: str) -> list[Plan]:
    """Those that apply to it."""
    return [plan for plan in PLANS if backend in plan.backends]
