"""Findings, and the table that `check` and `smoke` print."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

from eclipse_ws.config.problems import Problem, printable

Verdict = Literal["ok", "warning", "problem", "skipped", "waiting"]
SIGNS: Final[dict[Verdict, str]] = {"ok": "✓", "warning": "!", "problem": "✗", "skipped": "-", "waiting": "…"}


class Finding(NamedTuple):
    """The result of one check; ``fix`` says what to do about a warning or problem."""

    name: str
    verdict: Verdict
    text: str
    fix: str = ""


def of_problem(problem: Problem, verdict: Verdict = "problem") -> Finding:
    """A configuration's problem as a finding."""
    return Finding(problem.name, verdict, problem.text, problem.fix)


def table(findings: Iterable[Finding]) -> str:
    """All findings, one per line."""
    rows = list(findings)
    width = max((len(row.name) for row in rows), default=0)
    return "\n".join(line(row, width) for row in rows)


def line(row: Finding, width: int) -> str:
    """A finding as a line, and its fix below."""
    text = f"{SIGNS[row.verdict]} {row.name:<{width}}  {printable(row.text)}"
    if row.fix and row.verdict in ("warning", "problem"):
        text += f"\n  {'':<{width}}  → {printable(row.fix)}"
    return text


def summary(findings: Iterable[Finding]) -> str:
    """The number of findings of each verdict."""
    rows = list(findings)
    count = {verdict: sum(row.verdict == verdict for row in rows) for verdict in SIGNS}
    parts = [f"{count['ok']} ok"]
    parts += [
        f"{count[kind]} {kind}{'s' if count[kind] != 1 else ''}"
        for kind in ("warning", "problem")
        if count[kind]
    ]
    if count["skipped"]:
        parts.append(f"{count['skipped']} skipped")
    return ", ".join(parts)


def as_json(findings: Iterable[Finding]) -> str:
    """The findings as JSON: ``{ok, findings: [{name, verdict, text, fix}]}``."""
    rows = [row._asdict() for row in findings]
    return json.dumps(
        {"ok": not any(row["verdict"] == "problem" for row in rows), "findings": rows}, indent=2
    )


def code(findings: Iterable[Finding]) -> int:
    """The exit code: 1 with a problem, else 0."""
    return int(any(row.verdict == "problem" for row in findings))
