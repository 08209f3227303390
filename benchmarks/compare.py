"""This tree next to another revision of it: `make compare BASE=main~10`.

Each run measures one work on both trees, one right after the other and in turns first, since a machine's
speed drifts by more than most changes cost. The values are those of `make bench`, by each tree's own code.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.report import number, spread

ROOT = Path(__file__).parents[1]
WORKS = ("fan-out", "pairs", "message path", "message path, two nodes")
LONGEST = 300  # s for one work on one tree
Values = dict[tuple[str, str], list[float]]  # by a server and a measurement, one a run


class CompareError(Exception):
    """A tree can't be measured; the message says why."""


@contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """The tree of a revision, in a folder that goes away. Raises CompareError if there is none."""
    with tempfile.TemporaryDirectory(prefix="eclipse-compare-") as folder:
        tree = Path(folder) / "base"
        made = subprocess.run(
            ["git", "worktree", "add", "--quiet", "--detach", str(tree), revision],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            raise CompareError(f"git has no revision {revision!r}: {made.stderr.strip()}")
        try:
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)


def measure(tree: Path, work: str, seconds: float, server: str) -> dict[tuple[str, str], float]:
    """One run of a work on a tree. Raises CompareError with what the benchmark said if it fails."""
    command = [sys.executable, "-m", "benchmarks", "--runs", "1", "--seconds", f"{seconds:g}"]
    command += ["--patience", "0", "--only", work, "--server", server]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, timeout=LONGEST, check=False
    )
    if done.returncode:
        raise CompareError(f"{work} failed in {tree}: {(done.stdout + done.stderr)[-500:]}")
    document = json.loads((tree / "artefacts" / "bench.json").read_text(encoding="utf-8"))
    values = document["values"]
    if not values:  # such as when the tree needs packages that are not installed
        raise CompareError(f"{work} measured nothing in {tree}: {(done.stdout + done.stderr)[-500:]}")
    return {(name, what): runs[0] for name, known in values.items() for what, runs in known.items()}


def table(before: Values, now: Values) -> str:
    """Medians side by side. A ratio above 1 is faster, a latency's is slower."""
    lines = ["| server | measurement | before | now | ratio | per CPU second |", "|---|---|---|---|---|---|"]
    for server, measurement in now:
        pair = [known.get((server, measurement), []) for known in (before, now)]
        if measurement.endswith(" cpu") or not all(pair):
            continue
        ratio = statistics.median(pair[1]) / statistics.median(pair[0])
        shares = [known.get((server, f"{measurement} cpu"), []) for known in (before, now)]
        rates = [
            statistics.median([rate / share for rate, share in zip(*each, strict=True)])
            for each in zip(pair, shares, strict=True)
            if len(each[0]) == len(each[1]) and all(each[1])
        ]
        per_cpu = f"{rates[1] / rates[0]:.2f}" if len(rates) == 2 else ""
        lines.append(
            f"| {server} | {measurement} | {spread(pair[0])} | {spread(pair[1])} | {ratio:.2f} | {per_cpu} |"
        )
    return "\n".join(lines)


def measure_both(base: Path, given: argparse.Namespace) -> tuple[Values, Values]:
    """All runs of all works: the values of the base, and those of this tree."""
    before: Values = defaultdict(list)
    now: Values = defaultdict(list)
    began = time.monotonic()
    for run in range(given.runs):
        for work in given.only or WORKS:
            sides = [("before", base, before), ("now", ROOT, now)]
            for side, tree, values in sides if run % 2 == 0 else reversed(sides):
                print(f"{time.monotonic() - began:5.0f} s  {work}, {side} {run + 1}: ", end="", flush=True)
                measured = measure(tree, work, given.seconds, given.server)
                for key, value in measured.items():
                    values[key].append(value)
                print(
                    ", ".join(f"{k[1]} {number(v)}" for k, v in measured.items() if not k[1].endswith("cpu"))
                )
    return before, now


def main() -> int:
    """Compare, and print the table; 2 where a tree can't be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("base", help="the revision to compare with")
    parser.add_argument("--runs", type=int, default=5, help="of each work on each tree (5)")
    parser.add_argument("--seconds", type=float, default=2, help="of load in each phase (2)")
    parser.add_argument("--only", action="append", default=[], choices=WORKS, help="instead of all works")
    parser.add_argument("--server", default="eclipse-ws", help="only servers whose name holds it")
    given = parser.parse_args()
    try:
        with checkout(given.base) as base:
            before, now = measure_both(base, given)
    except (CompareError, subprocess.TimeoutExpired) as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 2
    print(f"\n{table(before, now)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
