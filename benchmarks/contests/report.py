"""The contests' tables, which `docs/contests.md` holds between two markers."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

from benchmarks.contests.contestants import CONTESTANTS
from benchmarks.report import spread

PAGE = Path(__file__).parents[2] / "docs" / "contests.md"
BEGIN, END = "<!-- made by make contests: begin -->", "<!-- made by make contests: end -->"
EXACT = ("missed", "duplicates", "not recovered", "dropped")
SHARES = ("delivered", "back")
COLUMNS: dict[str, tuple[tuple[str, str], ...]] = {
    "jitter": (
        ("delivered", "delivered"),
        ("missed", "missed"),
        ("duplicates", "duplicates"),
        ("not recovered", "not recovered"),
        ("replay p50", "replay p50, ms"),
        ("replay p99", "replay p99, ms"),
        ("cuts", "cuts"),
    ),
    "deploy": (
        ("back", "clients back"),
        ("down p50", "down p50, s"),
        ("down p99", "down p99, s"),
        ("down max", "longest, s"),
        ("delivered", "delivered"),
        ("missed", "missed"),
        ("duplicates", "duplicates"),
        ("not recovered", "not recovered"),
        ("stopped", "node stopped after, s"),
    ),
}
TITLES = {
    "jitter": "**Jitter**: {clients} clients, each cut off for 2 s every 15 s, two broadcasts a second",
    "deploy": "**Deploy**: a node with {clients} clients is restarted, two broadcasts a second",
}


def tables(results: dict[str, Any]) -> str:
    """Everything that goes between the markers."""
    return "\n\n".join([_machine(results), *(_table(name, results.get(name, {})) for name in COLUMNS)])


def write(results: dict[str, Any]) -> None:
    """Put the tables into the page."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{tables(results)}\n{END}{after}", encoding="utf-8")


def cell(measurement: str, values: list[float]) -> str:
    """A share as percent, never rounded up; what is lost as the sum of all runs; the rest as a spread."""
    if not values:
        return "–"
    if measurement in SHARES:
        return f"{math.floor(statistics.median(values) * 100_000) / 1000:.3f} %"
    if measurement in EXACT:
        return f"{sum(values):,.0f}"
    return spread(values)


def _machine(results: dict[str, Any]) -> str:
    if "when" not in results:
        return "Not measured yet."
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    runs = max((len(values["messages"]) for name in COLUMNS for values in results[name].values()), default=0)
    stalls, others = (
        max((max(values[what]) for name in COLUMNS for values in results[name].values()), default=0.0)
        for what in ("stall", "others")
    )
    return (
        f"Measured {results['when']} on {machine['cpu']}, {machine['cores']} cores, {machine['memory']}; "
        f"{versions}. Medians of {runs} {'run' if runs == 1 else 'runs'}, in brackets the spread; "
        "what was missed, came twice or was not recovered is the sum of all runs. "
        f"The clients' program was late by at most {stalls:.0f} ms, and other processes used at most "
        f"{others:.0%} of a core during a run."
    )


def _table(contest: str, measured: dict[str, dict[str, list[float]]]) -> str:
    counts = {int(count) for values in measured.values() for count in values["clients"]}
    clients = " or ".join(f"{count:,}" for count in sorted(counts)) or "many"
    columns = COLUMNS[contest]
    lines = [
        TITLES[contest].format(clients=clients),
        "",
        "| server | " + " | ".join(title for _, title in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for contestant in CONTESTANTS:
        values = measured.get(contestant.name, {})
        cells = " | ".join(cell(name, values.get(name, [])) for name, _ in columns)
        lines.append(f"| {contestant.name} | {cells} |")
    return "\n".join(lines)
