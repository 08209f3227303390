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

    return TEMPLATE.format(
        table=table(list(rows), COLUMNS),
        told=table(list(rows), TOLD),
        about="\n".join(map(about, rows)),
        server=server,
    )


TEMPLATE = """# Fleet

{server}

{table}

{told}

{about}
"""
