"""The report: a table that a person can read, as text and for docs/chaos.md."""

from __future__ import annotations

from tests.chaos.judge import Verdict
from tests.chaos.scenarios import PLANS

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
        f"{mark} {verdict.scenario:<22} saved {verdict.saved:>6}  delivered {_floor(verdict.percent):.3f} %  "
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


def document(verdicts: list[Verdict], server: str, seconds: float, command: str) -> str:
    """docs/chaos.md."""
    reasons = {plan.name: plan for plan in PLANS}
    about = "\n".join(
        f"- **{v.scenario}**: {(reasons[v.scenario].run.__doc__ or '').strip()}" for v in verdicts
    )
    why = "\n".join(
        f"- **{v.scenario}**: "
        + "; ".join(
            part
            for part in (
                f"`recovered: false` {v.not_recovered}: {reasons[v.scenario].unresumed or 'none allowed'}"
                if v.not_recovered
                else "",
                f"`outcome_unknown` {v.unknown}: {reasons[v.scenario].unknowns or BUSY}" if v.unknown else "",
            )
            if part
        )
        for v in verdicts
        if v.not_recovered or v.unknown
    )
    return TEMPLATE.format(
        table=table(verdicts),
        told=table(verdicts, TOLD),
        about=about,
        why=why or "Nobody was told either.",
        server=server,
        seconds=f"{seconds:g}",
        command=command,
        clients=verdicts[0].clients if verdicts else 0,
    )


BUSY = "the API's answer did not come within its three seconds, the machine being busy"

TEMPLATE = """# Chaos

Two server processes, a real Redis ({server}), a stand-in for the application that knows what was saved, and
{clients} clients in chats of two, who send a message every two seconds, hand back their cursors, send again
what was not acked, load the chat where they are told to, and come back as the close code asks, to either
node. But for the first two scenarios, the application also publishes raw events of its own on Redis: what
was saved, messages that no node has seen, and changes. Each scenario lasts {seconds} s. Made by `{command}`;
`python -m tests.chaos --help` tells more.

## Targets

Delivered has to be 100.000, and everything right of it 0.

{table}

- **delivered**: of all (saved event, member) pairs that were owed, those that the member got: live, by a
  replay, or by the load that `recovered: false` told it to do. Owed is what was saved, but for messages whose
  sender was told `outcome_unknown`, and for events of the application's own that Redis did not confirm to it.
- **duplicates**: the same event twice on one connection, or again after a resume though it had come with a
  cursor.
- **disorders**: one cursor that means two events, a cursor that doesn't grow, an offset that is left out.
- **false errors**: an error for a message that was saved by then (`outcome_unknown` is none), or an ack for
  one that was not.
- **saved twice**: one `clientMessageId` that was saved more than once: see [delivery.md](delivery.md).
- **left behind**: sessions, sockets, tasks, subscriptions and keys that outlive the clients or the history's
  lifetime; clients that could not settle.

## What clients were told

{told}

**repeated as allowed**: events that came again on a later connection: after a load, or because their first
copy had no cursor.

Where the truth was `recovered: false` or `outcome_unknown`, and why it could not be another:

{why}

## The scenarios

{about}
"""
