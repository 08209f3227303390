"""The report: tables that a person can read, as text and for docs/fleet.md."""

from __future__ import annotations

import inspect

from tests.chaos.report import table
from tests.fleet.cases import CASES
from tests.fleet.judge import Row

COLUMNS = [
    ("case", lambda r: r.scenario),
    ("clients", lambda r: r.clients),
    ("sent", lambda r: r.sent),
    ("saved", lambda r: r.saved),
    ("delivered", lambda r: f"{r.delivered} of {r.owed}"),
    ("doubled", lambda r: r.duplicates),
    ("out of order", lambda r: r.disorders),
    ("false errors", lambda r: r.false_errors),
    ("saved twice", lambda r: r.saved_twice),
    ("worst gap (s)", lambda r: f"{r.gap:.1f}"),
    ("back after (s)", lambda r: "" if r.back is None else f"{r.back:.1f}"),
]
TOLD = [
    ("case", lambda r: r.scenario),
    ("errors told", lambda r: r.errors),
    ("refused", lambda r: r.refused),
    ("outcome_unknown", lambda r: r.unknown),
    ("connects", lambda r: r.connects),
    ("resumed", lambda r: r.resumed),
    ("recovered: false", lambda r: r.not_recovered),
    ("4010", lambda r: r.resume_needed),
    ("acked local", lambda r: r.acked_locally),
    ("typing", lambda r: f"{r.typing - r.typing_wrong} of {r.typing}" if r.typing else ""),
    ("copies on old", lambda r: r.copies),
    ("missed by old pages", lambda r: r.pages_missed),
    ("cut short", lambda r: r.cut_short),
]


def progress(row: Row) -> str:
    """One line for one case."""
    mark = "MISS" if row.missed_targets else "ok  "
    line = (
        f"{mark} {row.scenario:<24} {row.seconds:5.1f} s  sent {row.sent:>5}  "
        f"delivered {row.delivered} of {row.owed}  doubled {row.duplicates}  "
        f"out of order {row.disorders}  false errors {row.false_errors}  "
        f"worst gap {row.gap:.1f} s  {row.note}"
    )
    return f"{line}\n     missed: {'; '.join(row.missed_targets)}" if row.missed_targets else line


def tables(rows: list[Row]) -> str:
    """Both tables."""
    return f"{table(list(rows), COLUMNS)}\n\n{table(list(rows), TOLD)}"


def document(rows: list[Row], server: str) -> str:
    """docs/fleet.md."""
    cases = {case.name: case for case in CASES}

    def about(row: Row) -> str:
        said = " ".join((inspect.getdoc(cases[row.scenario].run) or "").split())
        note = f" Measured: {row.note}." if row.note else ""
        return f"- **{row.scenario}** ({row.seconds:.0f} s): {said}{note}"

    why = "\n".join(
        f"- **{row.scenario}**: `recovered: false` {row.not_recovered}: {cases[row.scenario].unresumed}"
        for row in rows
        if row.not_recovered
    )
    return TEMPLATE.format(
        table=table(list(rows), COLUMNS),
        told=table(list(rows), TOLD),
        about="\n".join(map(about, rows)),
        why=why or "Nobody was told `recovered: false`.",
        server=server,
    )


TEMPLATE = """# Fleet

What eclipse-ws does beside the services that it replaces, with applications as they are, and on a Redis
that somebody else runs. Everything is a process of its own on loopback: two nodes, a real Redis ({server}),
stand-ins for the application and for the service before eclipse-ws, and clients. Made by `make fleet`;
`python -m tests.fleet --help` tells more. What faults of the project's own parts do is in
[chaos.md](chaos.md).

- **New clients** hand back their cursor, name each message (`clientMessageId`), and load the chat where
  they are told to. **Old pages** do none of this: they fetch a token, connect, and show what comes.
- **The old service** saves a message, echoes it to its members, publishes it, and passes on whatever it
  sees on `chat:<chatId>`. It shows a message more than once, and `typing` also to its sender.
- **The application** saves messages and publishes them to Redis itself, too.
- **The provider** is a proxy in front of Redis, to which the nodes' connections go.

## Results

All that was owed has to be delivered, and everything from "doubled" to "saved twice" has to be 0.

{table}

- **sent**: messages that clients and the application have written. **saved**: those that the application
  holds.
- **delivered**: of all (saved event, member) pairs that were owed, those that the member got. New clients
  are owed everything, live, by a replay, or by the load that `recovered: false` tells them to do. Old pages
  are owed what was saved while they were connected, unless the connection ended soon: within a second, or
  within 15 s where Redis fails. What they never saw is counted below.
- **doubled**, **out of order**: on the nodes; the old service promises neither.
- **false errors**: an error for a message that was saved by then, or an ack for one that was not.
- **worst gap**: the longest time from when something was saved until a member had it.
- **back after**: from the beginning of the fault until all clients were connected again, the last message
  that was over a second late had come, and the last ack that said `local`. At most 15 s are allowed.

## What clients were told

{told}

- **typing**: of all (sender, member) pairs, those that were right: once to others, never to the sender; on
  the old service at least once to everybody.
- **copies on old**: how often one message came to one member on the old service.
- **missed by old pages**: what was saved while an old page was on its way back, and never came to it.
- **cut short**: messages that were not saved, as the connection of an old page, or of anybody on the old
  service, ended with them under way. Such a sender doesn't send it again.

Where the truth was `recovered: false`, and why:

{why}

## The cases

{about}
"""
