"""Run the contests, and write their report: `python -m benchmarks.contests [jitter] [deploy]`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from benchmarks.contests import report
from benchmarks.contests.contestants import CONTESTANTS, Contestant
from benchmarks.contests.runs import Values, deploy, jitter
from benchmarks.loads import ARTEFACTS
from benchmarks.processes import (
    LOAD_CORE,
    CannotRunError,
    NotInstalledError,
    family,
    machine,
    raise_file_limit,
    strangers_seconds,
)
from benchmarks.versions import versions

RESULTS = Path(__file__).parents[1] / "results" / "contests.json"
CONTESTS: dict[str, tuple[Callable[[Contestant, int, float], Awaitable[Values]], float]] = {
    "jitter": (jitter, 60.0),
    "deploy": (deploy, 5.0),
}
"""What runs, and for how many seconds: of broadcasts and cuts; and of broadcasts before the restart."""


def main() -> int:
    """Run what was asked for; 1 if a contestant could not take part."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contests", description=__doc__)
    parser.add_argument("contests", nargs="*", choices=[*CONTESTS, []], help="which (both)")
    parser.add_argument("--clients", type=int, default=5000, help="(5000)")
    parser.add_argument("--runs", type=int, default=3, help="of each contest with each server (3)")
    parser.add_argument("--server", default="", metavar="NAME", help="only servers whose name holds it")
    parser.add_argument("--short", action="store_true", help="500 clients, one run; docs stay as they are")
    given = parser.parse_args()
    if given.short:
        given.clients, given.runs = 500, 1
    raise_file_limit()
    is_whole = not (given.short or given.contests or given.server)
    results: dict[str, Any] = {
        "when": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "machine": machine(),
        **{name: {} for name in CONTESTS},
    }
    failed = _run(given, results)
    results["versions"] = versions()
    path = RESULTS if is_whole and not failed else ARTEFACTS / "contests.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if path == RESULTS:
        report.write(results)
    print(f"\n{report.tables(results)}\n\nResults: {path}")
    return 1 if failed else 0


def _run(given: argparse.Namespace, results: dict[str, Any]) -> int:
    """Contest by contest and run by run, so that what is compared is close in time; how many failed."""
    failed, began = 0, time.monotonic()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {LOAD_CORE})
    for name in given.contests or CONTESTS:
        contest, seconds = CONTESTS[name]
        for run in range(given.runs):
            for contestant in CONTESTANTS:
                if given.server not in contestant.name:
                    continue
                title = f"{time.monotonic() - began:4.0f} s  {name} · {contestant.name} · run {run + 1}"
                print(title, end="", flush=True)
                busy, started = strangers_seconds(family(os.getpid())), time.monotonic()
                try:
                    values = _loop()(contest(contestant, given.clients, seconds))
                except CannotRunError as error:
                    failed += 1
                    word = "left out" if isinstance(error, NotInstalledError) else "failed"
                    print(f": {word}, {error}", flush=True)
                    continue
                busy = strangers_seconds(family(os.getpid())) - busy
                values["others"] = max(0.0, busy) / (time.monotonic() - started)
                said = ", ".join(f"{key} {value:.5g}" for key, value in values.items())
                print(f": {said}", flush=True)
                kept = results[name].setdefault(contestant.name, {})
                for key, value in values.items():
                    kept.setdefault(key, []).append(round(value, 6))
    return failed


def _loop() -> Callable[[Any], Values]:
    """The faster loop, if it is installed: the clients need their core for themselves."""
    with contextlib.suppress(ImportError):
        import uvloop

        run: Callable[[Any], Values] = uvloop.run
        return run
    return asyncio.run


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
