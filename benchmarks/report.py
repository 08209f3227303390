"""Tables and plots of what was measured; `docs/performance.md` holds them between two markers."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from benchmarks.growths import GROWTHS
from benchmarks.targets import GROUPS, Target
from benchmarks.works import ALL, WORKS

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "performance.md"
QUIET = 0.12  # of a core; a measurement during which strangers used more is repeated, and then marked
BEGIN, END = "<!-- made by make bench: begin -->", "<!-- made by make bench: end -->"
COLUMNS = (
    ("crowd 4", "1 × 1,000, 4 in flight: deliveries/s"),
    ("crowd 1", "1 in flight: deliveries/s"),
    ("pairs", "2,500 × 2: messages/s"),
    ("latency p50", "p50 at 5,000/s, ms"),
    ("latency p99", "p99, ms"),
    ("connects", "connects/s"),
    ("idle KB", "KB per idle session"),
)


def tables(results: dict[str, Any]) -> str:
    """Everything that goes between the markers."""
    return "\n\n".join(
        (_machine(results), *_targets(results), _all(results), _path(results), _growth(results))
    )


def write(results: dict[str, Any]) -> None:
    """Put the tables into the page."""
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else f"# Performance\n\n{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{tables(results)}\n{END}{after}", encoding="utf-8")


def judge(results: dict[str, Any], target: Target) -> tuple[float | None, bool | None]:
    """The ratio of our median to the peer's (our median where there is no peer), and whether it will do."""
    ours = measured(results, target.ours.name, target.measurement)
    theirs = [] if target.against is None else measured(results, target.against.name, target.measurement)
    if not ours or (target.against is not None and not theirs):
        return None, None
    value = statistics.median(ours) / (statistics.median(theirs) if theirs else 1)
    return value, value <= target.bound if target.at_most else value >= target.bound


def ratio(results: dict[str, Any], target: Target) -> str:
    """The ratio of the medians; in brackets that of the runs, whose two values were taken side by side."""
    value, _ = judge(results, target)
    if value is None or target.against is None:
        return "–"
    ours = measured(results, target.ours.name, target.measurement)
    runs = [
        a / b for a, b in zip(ours, measured(results, target.against.name, target.measurement), strict=False)
    ]
    low, high = times(min(runs)), times(max(runs))
    return f"{times(value)} ×" + (f" ({low}–{high})" if low != high else "")


def per_core(results: dict[str, Any], target: Target) -> float | None:
    """The ratio of what the servers do in a second of their core's time; None where that says nothing."""
    if target.at_most or target.against is None:
        return None
    medians = []
    for server in (target.ours.name, target.against.name):
        done = measured(results, server, target.measurement)
        used = measured(results, server, f"{target.measurement} cpu")
        found = [rate / share for rate, share in zip(done, used, strict=False) if share]
        if not found:
            return None
        medians.append(statistics.median(found))
    return medians[0] / medians[1]


def is_busy(results: dict[str, Any], target: Target) -> bool:
    """Whether strangers kept the machine busy in most runs of one of the two sides."""
    if target.unit in ("KB", "MB") or "per CPU second" in target.measurement:
        return False  # these don't depend on it
    names = [target.ours.name, *([] if target.against is None else [target.against.name])]
    for work in WORKS:
        if work.gives(target.measurement):
            shares = [results["others"].get(f"{work.name}: {name}", []) for name in names]
            return any(statistics.median(share) > QUIET for share in shares if share)
    return False


def _star(results: dict[str, Any], measurement: str, server: str) -> str:
    """An asterisk where strangers kept the machine busy during a server's measurement."""
    for work in WORKS:
        if measurement.partition(" p")[0] in {name.partition(" p")[0] for name in work.measurements}:
            shares = results["others"].get(f"{work.name}: {server}", [])
            return "*" if shares and statistics.median(shares) > QUIET else ""
    return ""


def measured(results: dict[str, Any], server: str, measurement: str) -> list[float]:
    """A measurement's values, one a run."""
    found: list[float] = results["values"].get(server, {}).get(measurement, [])
    return found


def number(value: float) -> str:
    """Three digits that count."""
    if value >= 1000:
        digits = max(0, len(str(int(value))) - 3)
        return f"{round(value, -digits):,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def times(value: float) -> str:
    """A ratio: two decimals, and more of a small one."""
    return f"{value:.2f}" if value >= 0.1 else number(value)


def spread(values: list[float]) -> str:
    """The median, and between what it lies."""
    if not values:
        return "–"
    middle = number(statistics.median(values))
    low, high = number(min(values)), number(max(values))
    return middle if low == high else f"{middle} ({low}–{high})"


def _machine(results: dict[str, Any]) -> str:
    seconds = results["seconds"]
    runs = max((len(values) for known in results["values"].values() for values in known.values()), default=0)
    busy = max([max(shares, default=0.0) for shares in results["others"].values()], default=0.0)
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    machine = results["machine"]
    return (
        f"Measured {results['when']} on {machine['cpu']}, {machine['cores']} cores, {machine['memory']}; "
        f"{versions}. Medians of {runs} runs of {seconds:g} s each, and in brackets the least and the most. "
        f"Other processes used at most {busy:.0%} of a core while one of these was taken; * marks where "
        "that was too much."
    )


def _targets(results: dict[str, Any]) -> list[str]:
    """A table for each group, under its title; those without a peer need fewer columns."""
    tables = []
    for title, targets in GROUPS:
        if any(target.against for target in targets):
            head = "| work | this server | against | | ratio | per CPU second | target | |"
        else:
            head = "| work | this server | target | |"
        rows = "\n".join(_row(results, target) for target in targets)
        tables.append(f"**{title}**\n\n{head}\n{'|---' * (head.count('|') - 1)}|\n{rows}")
    return tables


def _row(results: dict[str, Any], target: Target) -> str:
    ours = spread(measured(results, target.ours.name, target.measurement))
    ours += f" {target.unit}" if ours != "–" else ""
    sign = "≤" if target.at_most else "≥"
    verdict = _verdict(results, target)
    if target.against is None:
        return f"| {target.work} | {ours} | {sign} {target.bound:g} {target.unit} | {verdict} |"
    theirs = spread(measured(results, target.against.name, target.measurement))
    core = per_core(results, target)
    core_ratio = "" if core is None else f"{times(core)} ×"
    return (
        f"| {target.work} | {ours} | {target.against.name} | {theirs} "
        f"| {ratio(results, target)} | {core_ratio} | {sign} {target.bound:g} × | {verdict} |"
    )


def _verdict(results: dict[str, Any], target: Target) -> str:
    value, good = judge(results, target)
    if value is None:
        names = [server.name for server in (target.ours, target.against) if server]
        reasons = [results["skipped"].get(f"{target.measurement}: {name}") for name in names]
        return next((f"skipped: {reason}" for reason in reasons if reason), "not measured")
    if is_busy(results, target):
        # What shares its core with strangers is no measure of a server, but its own seconds are.
        core = per_core(results, target)
        if core is None:
            return "machine busy"
        return "met*" if core >= target.bound else "**missed***"
    return "met" if good else "**missed**"


def _all(results: dict[str, Any]) -> str:
    lines = [
        "| server | " + " | ".join(title for _, title in COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    for server in ALL:
        cells = [
            spread(measured(results, server.name, measurement)) + _star(results, measurement, server.name)
            for measurement, _ in COLUMNS
        ]
        lines.append(f"| {server.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _path(results: dict[str, Any]) -> str:
    lines = ["| message path | messages/s | p99, ms |", "|---|---|---|"]
    for name in results["values"]:
        for measurement, title in (("path", "one node"), ("path 2 nodes", "two nodes on one core, Redis")):
            values = measured(results, name, measurement)
            if values:
                p99 = spread(measured(results, name, f"{measurement} p99"))
                lines.append(
                    f"| {name}, {title} | {spread(values)}{_star(results, measurement, name)} | {p99} |"
                )
    return "\n".join(lines)


def _growth(results: dict[str, Any]) -> str:
    parts = []
    for growth in GROWTHS:
        curves = results.get("growth", {}).get(growth.name)
        if not curves:
            continue
        head = " | ".join(f"{size:,}" for size in growth.sizes)
        runs = max(len(values) for curve in curves.values() for values in curve.values())
        lines = [
            f"{growth.y}, by {growth.x} ({runs} {'run' if runs == 1 else 'runs'}):",
            "",
            f"| server | {head} |",
            "|---" * (len(growth.sizes) + 1) + "|",
        ]
        for server, curve in curves.items():
            cells = []
            for size in growth.sizes:
                shares = results["others"].get(f"{growth.name} {size}: {server}", [])
                busy = shares and statistics.median(shares) > QUIET
                cells.append(spread(curve.get(str(size), [])) + ("*" if busy else ""))
            lines.append(f"| {server} | " + " | ".join(cells) + " |")
        lines += ["", f"![{growth.y}, by {growth.x}](performance-{growth.name}.png)"]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def plot(results: dict[str, Any]) -> None:
    """The growth curves, as pictures in docs/."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    for growth in GROWTHS:
        curves = results.get("growth", {}).get(growth.name)
        if not curves:
            continue
        drawing, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
        for server, curve in curves.items():
            sizes = [size for size in growth.sizes if curve.get(str(size))]
            values = [statistics.median(curve[str(size)]) for size in sizes]
            low = [value - min(curve[str(size)]) for size, value in zip(sizes, values, strict=True)]
            high = [max(curve[str(size)]) - value for size, value in zip(sizes, values, strict=True)]
            axes.errorbar(sizes, values, yerr=[low, high], marker="o", capsize=3, label=server)
        axes.set_xscale("log", base=2 if max(growth.sizes) < 100 else 10)
        axes.set_xticks(growth.sizes, [f"{size:,}" for size in growth.sizes], minor=False)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_xlabel(growth.x)
        axes.set_ylabel(growth.y)
        axes.grid(alpha=0.3)
        axes.legend()
        drawing.savefig(DOCS / f"performance-{growth.name}.png", dpi=110)
        pyplot.close(drawing)
