"""Runs all fuzz targets, or the named ones, at the same time, each for the given seconds."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

TARGETS = ("frames", "commands", "cursors", "tokens", "bodies", "redis", "upgrades")


def fuzz(seconds: float, targets: list[str]) -> bool:
    """Run the targets and print their results. Returns whether none failed; logs of failures are kept."""
    logs = Path(tempfile.mkdtemp(prefix="eclipse-fuzz-"))
    running = {}
    for target in targets:
        command = [sys.executable, "-m", f"tests.fuzz.fuzz_{target}", "--seconds", str(seconds)]
        with (logs / target).open("w") as output:
            running[target] = subprocess.Popen(command, stdout=output, stderr=output)
    passed = True
    for target, process in running.items():
        failed, log = process.wait() != 0, logs / target
        lines = log.read_text(errors="replace").splitlines()
        if failed:
            passed = False
            print(*lines[-40:], f"{target:10} FAILED, see {log}", sep="\n", flush=True)
        else:
            results = [line for line in lines if "inputs," in line or line.startswith("Done ")]
            print(f"{target:10} {results[-1] if results else 'found nothing'}", flush=True)
            log.unlink()
    if passed:
        logs.rmdir()
    return passed


def main() -> int:
    """Run the requested targets. Returns 0 if none failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of: {', '.join(TARGETS)}")
    given = parser.parse_args()
    if unknown := sorted(set(given.targets) - set(TARGETS)):
        parser.error(f"unknown targets: {', '.join(unknown)}; known: {', '.join(TARGETS)}")
    return 0 if fuzz(given.seconds, given.targets or list(TARGETS)) else 1


if __name__ == "__main__":
    sys.exit(main())
