"""docs/performance.md: that its tables are made from the stored results, and agree with themselves."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report
from benchmarks.targets import TARGETS, Target

ROOT = Path(__file__).parents[2]
RESULTS: dict[str, Any] = json.loads((ROOT / "benchmarks/results/latest.json").read_text())
P99 = next(target for target in TARGETS if target.measurement == "latency p99")


def test_the_tables_are_made_from_the_stored_results() -> None:
    """`python -m benchmarks --tables` has been run since the results or the code changed."""
    assert report.tables(RESULTS) in report.PAGE.read_text(encoding="utf-8")


def leading(cell: str) -> float:
    """The number at the beginning of a cell."""
    found = re.match(r"[\d.,]+", cell)
    assert found, cell
    return float(found[0].replace(",", ""))


def test_a_ratio_is_that_of_the_two_values_beside_it() -> None:
    """Whoever divides the printed medians gets the printed ratio, but for what rounding costs."""
    rows = [line.strip("| ").split(" | ") for line in report.tables(RESULTS).splitlines() if " × " in line]
    compared = [row for row in rows if len(row) > 4 and re.match(r"[\d.]+ × ", row[4] + " ")]
    assert len(compared) == sum(
        target.against is not None and report.judge(RESULTS, target)[0] is not None for target in TARGETS
    )
    for work, ours, _, theirs, ratio, *_ in compared:
        assert leading(ratio) == pytest.approx(leading(ours) / leading(theirs), rel=0.03), work


def results(target: Target, ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Results with only these two values."""
    assert target.against is not None
    return {
        "skipped": {},
        "values": {
            target.ours.name: {target.measurement: ours},
            target.against.name: {target.measurement: theirs},
        },
    }


def test_ratio_and_verdict_come_from_the_medians() -> None:
    """The runs' own ratios, whose median may be far from that, are in brackets."""
    given = results(P99, [0.4, 2.0, 0.9], [1.0, 0.8, 0.1])
    assert report.judge(given, P99) == (pytest.approx(0.9 / 0.8), False)
    assert report.ratio(given, P99) == "1.12 × (0.40–9.00)"
    assert report.ratio(results(P99, [1.0], [2.0]), P99) == "0.50 ×"
    assert report.ratio(results(P99, [], [2.0]), P99) == "–"
