"""What the operator's load tool shows of its latencies."""

from __future__ import annotations

import io
import math
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eclipse_ws.commands import bench_report
from eclipse_ws.commands.bench_report import Bar, Histogram, Outcome


@given(st.lists(st.floats(1e-6, 100), min_size=1, max_size=200))
def test_percentiles(latencies: list[float]) -> None:
    """A percentile is right to within a bucket, and never longer than the longest."""
    histogram = Histogram()
    for latency in latencies:
        histogram.add(latency)
    ordered = sorted(latencies)
    for percent in (1, 50, 99, 100):
        true = ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
        assert true / 1.021 <= histogram.percentile(percent) <= true * 1.021
        assert histogram.percentile(percent) <= ordered[-1]


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=100), st.integers(1, 40))
def test_rows_hold_everything_once(latencies: list[float], most: int) -> None:
    """The ranges follow each other without a gap, are few enough, and hold every latency once."""
    histogram = Histogram()
    for latency in latencies:
        histogram.add(latency)
    rows = histogram.rows(most)
    assert len(rows) <= most
    assert sum(count for _, _, count in rows) == len(latencies) == histogram.total
    assert all(before[1] == after[0] for before, after in pairwise(rows))


def test_nothing_measured() -> None:
    """Without a latency there is no percentile, and plots are empty."""
    assert math.isnan(Histogram().percentile(50))
    assert bench_report.plot(Histogram()) == ""
    ElementTree.fromstring(bench_report.svg(Histogram(), "none"))


@pytest.mark.parametrize(
    ("seconds", "shown"), [(12.34, "12.3 s"), (0.0123, "12.3 ms"), (0.000045, "45 µs"), (0.999, "999 ms")]
)
def test_durations(seconds: float, shown: str) -> None:
    """A duration has the unit that fits."""
    assert bench_report.duration(seconds) == shown


def test_summary() -> None:
    """Refusals and errors are named and counted; control characters of a server are not shown."""
    outcome = Outcome(
        planned=5, ready=3, connect_seconds=2, sent=10, expected=10, received=9, seconds=5, late=0.2
    )
    outcome.refused["HTTP 503\x1b[2J"] = 2
    outcome.errors["rate_limited"] = 1
    shown = bench_report.summary(outcome)
    assert "connected   3 of 5 in 2.00 s, 2/s" in shown
    assert "sent        10 (2/s)" in shown
    assert "received    9 of 10 expected" in shown
    assert "refused     2 × HTTP 503" in shown
    assert "errors      1 × rate_limited" in shown
    assert "200 ms behind its own schedule" in shown
    assert "latency" not in shown
    assert "\x1b" not in shown
    assert "connected   0 of 0" in bench_report.summary(Outcome())


def test_plots() -> None:
    """The tallest bar is the most frequent range; the picture is well-formed and has the title escaped."""
    histogram = Histogram()
    for latency in [0.001] * 100 + [0.1]:
        histogram.add(latency)
    lines = bench_report.plot(histogram).splitlines()
    assert lines[0].count("█") == bench_report.BAR
    assert lines[-1].count("▏") == 1
    assert lines[-1].endswith(" 1")
    picture = ElementTree.fromstring(bench_report.svg(histogram, "a < b"))
    assert picture[0].text == "a < b"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """True."""
        return True


def test_the_bar_on_a_terminal() -> None:
    """The bar is drawn again only when it changes, and is gone at the end."""
    stream = Terminal()
    with Bar(stream) as bar:
        bar.show("load", 1, 2)
        bar.show("load", 1, 2)
    assert stream.getvalue() == f"\r\x1b[Kload        [{'#' * 15}{'-' * 15}] 50 %\r\x1b[K"


def test_the_bar_elsewhere() -> None:
    """In a file each stage is one line."""
    stream = io.StringIO()
    with Bar(stream) as bar:
        for stage in ("connecting", "connecting", "load"):
            bar.show(stage, 1, 2)
    assert stream.getvalue() == "connecting ...\nload ...\n"
