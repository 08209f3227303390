"""The output of `eclipse-ws bench`: a summary, a plot in the terminal, and the same plot as SVG."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape
from typing import TextIO

from eclipse_ws.config.problems import printable

BAR = 40  # characters
PERCENTILES = (50, 90, 99, 99.9)
STEP = 1.02  # a bucket of the histogram is 2 % wide


class Histogram:
    """Latencies in logarithmic buckets, each 2 % wide: any number of them in a few KB."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self.total = 0
        self.longest = 0.0

    def add(self, seconds: float) -> None:
        """Count one latency."""
        self.counts[math.floor(math.log(max(seconds, 1e-6), STEP))] += 1
        self.total += 1
        self.longest = max(self.longest, seconds)

    def percentile(self, percent: float) -> float:
        """The percentile in seconds; nan without any latency."""
        wanted, seen = self.total * percent / 100, 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= wanted:
                return min(float(STEP ** (bucket + 1)), self.longest)
        return math.nan

    def rows(self, most: int = 16) -> list[tuple[float, float, int]]:
        """At most ``most`` ranges of equal ratio, as (from, to, count) in seconds, including empty ones."""
        if not self.counts:
            return []
        low, high = min(self.counts), max(self.counts) + 1
        wide = max(1, math.ceil((high - low) / most))
        return [
            (STEP**start, STEP ** (start + wide), sum(self.counts[b] for b in range(start, start + wide)))
            for start in range(low, high, wide)
        ]


@dataclass
class Presence:
    """What the watchers of a run were told about its sessions."""

    watchers: int = 0
    listed: int = 0
    """Those that got the list of their chat's users."""
    came: int = 0
    online: Histogram = field(default_factory=Histogram)
    """From a session's request until its watcher was told that the user is there."""
    left: int = 0
    gone: Histogram = field(default_factory=Histogram)
    """From a session's close until its watcher was told that the user has gone."""
    reloads: int = 0
    slow: int = 0
    """Reloads that failed, or took so long that they may be seen."""
    seen: int = 0
    """The others that watchers were told about; there should be none."""

    @property
    def good(self) -> bool:
        """Whether watchers were told everything that they should be, and nothing else."""
        told = (self.listed, self.online.total, self.gone.total) == (self.watchers, self.came, self.left)
        return told and self.reloads > self.slow and not self.seen


@dataclass
class Outcome:
    """The result of a run."""

    planned: int = 0
    ready: int = 0
    connect_seconds: float = 0.0
    refused: Counter[str] = field(default_factory=Counter)
    """Sessions that were refused or ended, by reason."""
    errors: Counter[str] = field(default_factory=Counter)
    """Error events, by code."""
    sent: int = 0
    expected: int = 0
    """Expected deliveries to other sessions."""
    received: int = 0
    seconds: float = 0.0
    late: float = 0.0
    """The largest delay of this program behind its schedule, in seconds."""
    latency: Histogram = field(default_factory=Histogram)
    presence: Presence | None = None
    """Only if the plan asks for it."""

    @property
    def good(self) -> bool:
        """Whether all sessions connected, everything arrived, and presence is good."""
        arrived = self.ready == self.planned and not self.refused and self.received >= self.expected > 0
        return arrived and (self.presence is None or self.presence.good)


def summary(outcome: Outcome) -> str:
    """Connects, deliveries, errors and percentiles, a line each."""
    rate = outcome.ready / outcome.connect_seconds if outcome.connect_seconds else 0
    seconds = outcome.seconds or 1
    took = f"{outcome.connect_seconds:.2f} s, {rate:,.0f}/s"
    lines = [
        f"connected   {outcome.ready:,} of {outcome.planned:,} in {took}",
        f"sent        {outcome.sent:,} ({outcome.sent / seconds:,.0f}/s)",
        f"received    {outcome.received:,} of {outcome.expected:,} expected",
    ]
    lines += [f"refused     {count:,} × {printable(why)}" for why, count in outcome.refused.most_common(5)]
    lines += [f"errors      {count:,} × {printable(code)}" for code, count in outcome.errors.most_common(5)]
    if outcome.latency.total:
        lines.append(f"latency     {_spread(outcome.latency)}")
    if outcome.presence is not None:
        lines += _presence(outcome.presence)
    if outcome.late > 0.05:
        late = duration(outcome.late)
        lines.append(
            f"This program was {late} behind its own schedule: it, or its machine, was the bottleneck."
        )
    return "\n".join(lines)


def _presence(found: Presence) -> list[str]:
    lines = [f"watchers    {found.listed:,} of {found.watchers:,} got the list of their chat's users"]
    for name, told, total in (("online", found.online, found.came), ("gone", found.gone, found.left)):
        times = f"   {_spread(told, (50, 99))}" if told.total else ""
        never = f", {total - told.total:,} never" if told.total < total else ""
        lines.append(f"{name:<11} {told.total:,} of {total:,} told{never}{times}")
    slow = f"; {found.slow:,} failed or were too slow to count" if found.slow else ""
    lines.append(f"reloads     {found.seen:,} of {found.reloads - found.slow:,} told, expected 0{slow}")
    return lines


def _spread(latency: Histogram, percents: Iterable[float] = PERCENTILES) -> str:
    found = [f"p{percent:g} {duration(latency.percentile(percent))}" for percent in percents]
    return f"{'   '.join(found)}   longest {duration(latency.longest)}"


def plot(latency: Histogram) -> str:
    """The latencies' distribution, as lines for a terminal."""
    rows = latency.rows()
    most = max((count for _, _, count in rows), default=0)
    lines = []
    for low, high, count in rows:
        bar = "█" * round(BAR * count / most) or ("▏" if count else "")
        lines.append(f"{duration(low):>8} – {duration(high):<8} {bar:<{BAR}} {count:,}")
    return "\n".join(lines)


def svg(latency: Histogram, title: str) -> str:
    """The distribution of latencies as an SVG image."""
    rows = latency.rows(32)
    most = max((count for _, _, count in rows), default=1)
    boxes = []
    for place, (low, high, count) in enumerate(rows):
        y, wide = 40 + place * 18, 480 * count / most
        boxes.append(
            f'<text x="150" y="{y + 12}" text-anchor="end">{duration(low)} – {duration(high)}</text>'
            f'<rect x="160" y="{y}" width="{wide:.1f}" height="14" fill="#4c78a8"/>'
            f'<text x="{166 + wide:.0f}" y="{y + 12}">{count:,}</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {50 + len(rows) * 18}" '
        f'font-family="sans-serif" font-size="12"><text x="10" y="22" font-size="15">{escape(title)}</text>'
        f"{''.join(boxes)}</svg>\n"
    )


class Bar:
    """A progress bar on stderr, on a terminal only; elsewhere a line for each stage."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._shown = ""

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown and self._stream.isatty():
            self._stream.write("\r\x1b[K")

    def show(self, stage: str, done: int, total: int) -> None:
        """Draw the progress of a stage."""
        if self._stream.isatty():
            full = 30 * done // max(1, total)
            line = f"\r\x1b[K{stage:<11} [{'#' * full}{'-' * (30 - full)}] {100 * done // max(1, total)} %"
        else:
            line = f"{stage} ...\n"
        if line != self._shown:
            self._shown = line
            self._stream.write(line)
            self._stream.flush()


def duration(seconds: float) -> str:
    """A duration with three significant digits, in a suitable unit."""
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} µs"
