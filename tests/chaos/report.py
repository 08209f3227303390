"""The report: a table that a person can read, as text and for docs/chaos.md."""

from __future__ import annotations

from tests.chaos.cluster import HISTORY_SECONDS
from tests.chaos.judge import Verdict
from tests.chaos.plans import plans_of
from tests.chaos.stage import Plan

COLUMNS = [
    ("scenario", lambda v: v.scenario),
    ("s", lambda v: f"{v.seconds:.0f}"),
    ("saved", lambda v: v.saved),
    ("acked", lambda v: v.acked),
    ("delivered %", lambda v: f"{_floor(v.percent):.3f}"),
    ("duplicates", lambda v: v.duplicates),
    ("disorders", lambda v: v.disorders),
    ("false errors", lambda v: v.false_errors),
    ("saved twice", lambda v: v.saved_twice),
    ("backwards", lambda v: v.backwards),
    ("ghosts", lambda v: v.ghosts),
    ("left behind", lambda v: v.left + v.unresolved),
]
TOLD = [
    ("scenario", lambda v: v.scenario),
    ("connects", lambda v: v.connects),
    ("resumed", lambda v: v.resumed),
    ("recovered: false", lambda v: v.not_recovered),
    ("4010", lambda v: v.resume_needed),
    ("acked local", lambda v: v.acked_locally),
    ("outcome_unknown", lambda v: v.unknown),
    ("of these saved", lambda v: v.unknown_saved),
    ("errors told", lambda v: v.errors),
    ("repeated as allowed", lambda v: v.allowed),
]


def _floor(percent: float) -> float:
    """Three digits, never rounded up: 99.9999 is not 100."""
    return int(percent * 1000) / 1000


def progress(verdict: Verdict) -> str:
    """One line for one scenario."""
    mark = "ok  " if not verdict.missed_targets else "MISS"
    line = (
        f"{mark} {verdict.backend:<8} {verdict.scenario:<27} saved {verdict.saved:>6}  "
        f"delivered {_floor(verdict.percent):.3f} %  "
        f"duplicates {verdict.duplicates}  disorders {verdict.disorders}  "
        f"false errors {verdict.false_errors}  saved twice {verdict.saved_twice}  "
        f"unknown {verdict.unknown}  recovered:false {verdict.not_recovered}"
    )
    return line if mark == "ok  " else f"{line}\n     missed: {'; '.join(verdict.missed_targets)}"


def table(verdicts: list[Verdict], columns: list = COLUMNS) -> str:  # type: ignore[type-arg]
    """A table in Markdown, aligned, so that it reads as text as well."""
    rows = [[name for name, _ in columns], *[[str(get(v)) for _, get in columns] for v in verdicts]]
    widths = [max(len(row[at]) for row in rows) for at in range(len(columns))]

    def line(cells: list[str]) -> str:
        return (
            "| "
            + " | ".join(
                cell.ljust(width) if at == 0 else cell.rjust(width)
                for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
            )
            + " |"
        )

    rule = (
        "|"
        + "|".join(
            "-" * (width + 2) if at == 0 else "-" * (width + 1) + ":" for at, width in enumerate(widths)
        )
        + "|"
    )
    return "\n".join([line(rows[0]), rule, *map(line, rows[1:])])


def document(
    by_backend: dict[str, list[Verdict]], servers: dict[str, str], seconds: float, command: str
) -> str:
    """docs/chaos.md; ``servers`` are names with versions, by backend."""
    about: dict[str, str] = {}
    why, tables, told = [], [], []
    for backend, verdicts in by_backend.items():
        plans = {plan.name: plan for plan in plans_of(backend)}
        for v in verdicts:
            about[v.scenario] = " ".join((plans[v.scenario].run.__doc__ or "").split())
        why += [f"- {backend}, **{v.scenario}**: {reason}" for v in verdicts if (reason := _why(v, plans))]
        tables.append(f"### On {servers[backend]}\n\n{table(verdicts)}")
        told.append(f"### On {servers[backend]}\n\n{table(verdicts, TOLD)}")
    return TEMPLATE.format(
        table="\n\n".join(tables),
        told="\n\n".join(told),
        about="\n".join(f"- **{name}**: {sentence}" for name, sentence in about.items()),
        why="\n".join(why) or "Nobody was told either.",
        servers=" or ".join(servers[backend] for backend in by_backend),
        seconds=f"{seconds:g}",
        command=command,
        clients=max((v.clients for verdicts in by_backend.values() for v in verdicts), default=0),
    )


def _why(verdict: Verdict, plans: dict[str, Plan]) -> str:
    plan, parts = plans[verdict.scenario], []
    if verdict.not_recovered:
        why = plan.unresumed or ("none allowed" if verdict.not_recovered > verdict.expired else AWAY)
        parts.append(f"`recovered: false` {verdict.not_recovered}: {why}")
    if verdict.saved_twice:
        parts.append(f"saved twice {verdict.saved_twice}: {plan.repeats or 'none allowed'}")
    if verdict.unknown:
        parts.append(f"`outcome_unknown` {verdict.unknown}: {plan.unknowns or BUSY}")
    return "; ".join(parts)


AWAY = f"the clients were away for longer than the {HISTORY_SECONDS} s for which events are kept"
BUSY = "the API's answer did not come within its three seconds, the machine being busy"

TEMPLATE = """# Chaos

Two server processes, a real server for their backend ({servers}), a stand-in for the application
that records what was saved, and {clients} clients in chats of two. The clients send a message every two
seconds, reconnect to either node as the close code demands, send their cursors, resend what was not acked as
the JavaScript client does, and load the chat when told to. Except in the first two scenarios, the application
also publishes events: saved messages, messages that no node has seen, and changes; on Redis as raw events,
with PostgreSQL through `POST /api/chats/{{chatId}}/events`. A member of every second chat is an agent, whose
socket is in five chats; it is told who is there and what was read, and tells what it has read. Each scenario
lasts {seconds} s. Generated by `{command}`; `python -m tests.chaos --help` shows the options.

## Targets

Delivered has to be 100.000, and everything to the right of it 0. Where two faults meet, one message in a
thousand may be saved twice.

{table}

- **delivered**: the share of all expected (saved event, member) pairs that the member got: live, by a
  replay, or by the load that `recovered: false` demands. All saved events are expected, except messages whose
  sender got `outcome_unknown`, and the application's own events that were not confirmed to it.
- **duplicates**: the same event twice on one connection, or again after a resume although it had arrived with
  a cursor.
- **disorders**: two events with one cursor, a cursor that doesn't grow, an offset that is left out.
- **false errors**: an error for a message that was already saved (other than `outcome_unknown`), or an ack
  for one that was not.
- **saved twice**: one `clientMessageId` that was saved more than once: see [delivery.md](delivery.md).
- **backwards**: a user's read position that one connection is told, or an agent shows, after a later one.
- **ghosts**: users whom an agent takes to be in a chat at the end, but who are not, and those whom it misses.
- **left behind**: sessions, sockets, tasks, subscriptions, keys and rows that outlive the clients or the
  history's lifetime; clients whose messages were never settled.

## What clients were told

{told}

**repeated as allowed**: events that arrived again on a later connection: after a load, or because their first
copy had no cursor.

Why `recovered: false` or `outcome_unknown` was unavoidable:

{why}

## The scenarios

{about}
"""
