"""Every work on every server, in turn, several times; then tables, plots, and the values as JSON."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.growths import GROWTHS, Growth
from benchmarks.loads import ARTEFACTS, generator
from benchmarks.measuring import Values, Work
from benchmarks.processes import CannotRunError, NotInstalledError, machine, raise_file_limit
from benchmarks.report import QUIET
from benchmarks.servers import Server
from benchmarks.versions import versions
from benchmarks.works import WORKS
from eclipse_ws.config.problems import nearest

RESULTS = Path(__file__).parent / "results" / "latest.json"
Measure = Callable[[], tuple[Values, float]]


def arguments() -> argparse.Namespace:
    """What was asked for."""
    names = [work.name for work in WORKS] + [f"growth: {growth.name}" for growth in GROWTHS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="of each measurement (3)")
    parser.add_argument("--seconds", type=float, default=3, help="of load in each phase (3)")
    parser.add_argument(
        "--patience", type=int, default=2, help="repetitions when the machine was not quiet (2)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="one run of a second, no growth; docs stay as they are"
    )
    parser.add_argument("--only", action="append", default=[], metavar="WORK", help=f"of: {', '.join(names)}")
    parser.add_argument(
        "--server", action="append", default=[], metavar="NAME", help="only servers whose name holds it"
    )
    parser.add_argument(
        "--again", action="store_true", help="keep the values of the last time for what is not measured now"
    )
    parser.add_argument("--tables", action="store_true", help="measure nothing, write tables and plots again")
    given = parser.parse_args()
    for name in given.only:
        if name not in names:
            near = nearest(name, names)
            parser.error(f"there is no work {name!r}" + (f": did you mean {near!r}?" if near else ""))
    if given.quick:
        given.runs, given.seconds, given.patience = 1, 1.0, 0
    return given


def main() -> int:
    """Measure, then write."""
    given = arguments()
    if given.tables:
        return write(json.loads(RESULTS.read_text(encoding="utf-8")), docs=True)
    raise_file_limit(120_000)  # for 100,000 sessions in one process
    try:
        generator()
    except CannotRunError as error:
        print(error, file=sys.stderr)
        return 2
    results = fresh(given)
    if given.again and RESULTS.exists():
        kept = json.loads(RESULTS.read_text(encoding="utf-8"))
        results |= {key: kept[key] for key in ("values", "others", "growth", "skipped")}
    steps = plan(given, results)
    began = time.monotonic()
    missing: dict[str, str] = {}
    for number, step in enumerate(steps, 1):
        if step.server.name in missing:
            step.skip(missing[step.server.name])
            continue
        print(f"[{number}/{len(steps)}] {time.monotonic() - began:4.0f} s  {step.label}", end="", flush=True)
        try:
            values, others = patiently(step.measure, given.patience)
        except NotInstalledError as error:
            missing[step.server.name] = str(error)
            step.skip(str(error))
            print(f": left out, {error}", flush=True)
            continue
        except CannotRunError as error:
            step.skip(str(error))
            print(f": skipped, {error}", flush=True)
            continue
        shown = {name: value for name, value in values.items() if not name.endswith("cpu")}
        said = ", ".join(f"{name} {report.number(value)}" for name, value in shown.items())
        print(f": {said}" + (f"  (others {others:.0%})" if others > QUIET else ""), flush=True)
        step.keep(values, others)
    results["versions"] = versions()
    return write(results, docs=not (given.quick or given.only or given.server) or given.again)


@dataclass(frozen=True)
class Step:
    """One measurement; `keep` puts its values where they belong."""

    label: str
    server: Server
    measure: Measure
    keep: Callable[[Values, float], None]
    skip: Callable[[str], object] = bool
    """Called with the reason if there are none."""


def plan(given: argparse.Namespace, results: dict[str, Any]) -> list[Step]:
    """The measurements, run by run and server by server, so that what is compared is close in time."""

    def wanted(name: str, server: Server) -> bool:
        return (not given.only or name in given.only) and (
            not given.server or any(part in server.name for part in given.server)
        )

    def put(known: dict[str, list[float]], run: int, name: str, value: float) -> None:
        known[name] = [*([] if run == 0 else known.get(name, [])), round(value, 4)]

    def work_step(work: Work, server: Server, run: int) -> Step:
        def keep(values: Values, others: float) -> None:
            for name, value in values.items():
                put(results["values"].setdefault(server.name, {}), run, name, value)
            put(results["others"], run, f"{work.name}: {server.name}", others)
            for measurement in work.measurements:
                results["skipped"].pop(f"{measurement}: {server.name}", None)

        def skip(why: str) -> None:
            for measurement in work.measurements:
                results["skipped"][f"{measurement}: {server.name}"] = why

        label = f"{work.name} · {server.name} · run {run + 1}"
        return Step(label, server, lambda: work.measure(server, given.seconds), keep, skip)

    def growth_step(growth: Growth, size: int, server: Server, run: int) -> Step:
        def keep(values: Values, others: float) -> None:
            curve = results["growth"].setdefault(growth.name, {}).setdefault(server.name, {})
            for name, value in values.items():
                put(curve, run, name, value)
            put(results["others"], run, f"{growth.name} {size}: {server.name}", others)

        label = f"growth: {growth.name} {size:,} · {server.name} · run {run + 1}"
        return Step(label, server, lambda: growth.measure(size)(server, given.seconds), keep)

    steps = [
        work_step(work, server, run)
        for work in WORKS
        for run in range(given.runs)
        for server in work.servers
        if wanted(work.name, server)
    ]
    if not given.quick or given.only:
        steps += [
            growth_step(growth, size, server, run)
            for growth in GROWTHS
            for run in range(given.runs)
            for size in growth.sizes
            for server in growth.servers
            if wanted(f"growth: {growth.name}", server)
        ]
    return steps


def patiently(measure: Measure, patience: int) -> tuple[Values, float]:
    """Measure, and again if strangers kept the machine busy; the quietest counts."""
    best = measure()
    while patience > 0 and best[1] > QUIET:
        patience -= 1
        print(".", end="", flush=True)
        best = min(best, measure(), key=lambda measured: measured[1])
    return best


def fresh(given: argparse.Namespace) -> dict[str, Any]:
    """Results with nothing in them yet."""
    return {
        "when": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": {},
        "runs": given.runs,
        "seconds": given.seconds,
        "values": {},
        "others": {},
        "growth": {},
        "skipped": {},
    }


def write(results: dict[str, Any], docs: bool) -> int:
    """The values as JSON, the tables on the screen, and if `docs` both where they are kept."""
    path = RESULTS if docs else ARTEFACTS / "bench.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if docs:
        report.write(results)
        try:
            report.plot(results)
        except ImportError:
            print(
                "No plots: matplotlib is not installed (pip install -r requirements/bench.txt).",
                file=sys.stderr,
            )
    print(report.tables(results))
    print(f"\nValues: {path}" + (f"; tables: {report.PAGE}" if docs else ""))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
