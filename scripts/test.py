"""The whole check, as `make test` runs it: lock, linters, types, layers, tests and coverage, fuzzers.

The suite runs in six lanes, two at a time: Playwright keeps an event loop running in its process, so other
tests' coroutines need another process. Failovers, whose tests mostly wait, run beside them. Then chaos runs
by itself, because its faults need a quiet machine. Then all fuzzers run at once: 20 seconds each in CI, a
moment elsewhere.

    python -m scripts.test            everything
    python -m scripts.test --quick    linters, types, and the tests that start no browser, cluster or fuzzer
    python -m scripts.test PATH ...   only these tests

SEED=n repeats the order of an earlier run.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

from scripts.fuzz import TARGETS, fuzz

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
LOGS = ROOT / "artefacts" / "test"
IN_CI = os.environ.get("CI") == "true"
SEED = os.environ.get("SEED") or str(random.randrange(2**32))
BROWSER = ["tests/browser", "tests/js"]
FRAMEWORKS = [
    "tests/browser/test_frameworks.py",
    "tests/browser/test_hooks_shared.py",
    "tests/browser/test_example_nextjs.py",
    "tests/js",
]
"""Those of BROWSER that share npm packages."""
SETUP = ["tests/repository/test_setup.py", "tests/packaging"]
CHAOS = ["tests/chaos", "tests/fleet"]
PROCESSES = ["tests/backends", "tests/drain", "tests/e2e", "tests/fuzz", "tests/attacks"]
"""Folders whose tests start Redis, whole nodes or fuzzers; `make quick` leaves them out, like BROWSER."""
FAILOVERS = [
    "tests/backends/test_redis_cluster.py",
    "tests/backends/test_redis_sentinel.py",
    "tests/backends/test_redis_sentinel_answers.py",
    "tests/server/workers",
]
"""Tests that mostly wait until something lost has been replaced, so that they take little of a core."""
QUICK_LANES = 4
"""More than run at a time, because files of the same size don't take the same time."""
USUAL_MINUTES = 8
TELL_EVERY = 15.0
"""Seconds between two lines about the lanes' progress if the output is not a terminal."""


def without(*folders: str) -> list[str]:
    """Arguments that make pytest leave out the folders."""
    return [f"--ignore={folder}" for folder in folders]


@dataclass
class Lane:
    """One pytest in its own process, whose log and results go to files."""

    name: str
    arguments: list[str]
    cover: bool = True
    waits: bool = False
    """Whether its tests mostly wait, so that it takes no other lane's place."""
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        """Start it."""
        self.log, self.results = LOGS / f"{self.name}.log", LOGS / f"{self.name}.xml"
        self.results.unlink(missing_ok=True)
        launch = [BIN / "coverage", "run", "-m"] if self.cover else [sys.executable, "-m"]
        options = ["-vv", "--tb=short", "--show-capture=no", f"--randomly-seed={SEED}"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*launch, "pytest", *options, f"--junitxml={self.results}", *self.arguments],
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )

    def progress(self) -> str:
        """Its progress: `main 42 % after 80 s`."""
        done = re.findall(r"\[ *(\d+)%\]$", self.log.read_text(errors="replace")[-20_000:], re.MULTILINE)
        return f"{self.name} {done[-1] if done else 0} % after {time.monotonic() - self.began:.0f} s"

    def finish(self) -> bool:
        """Print the result. Returns whether it passed."""
        passed = self.process.returncode == 0
        lines = self.log.read_text(errors="replace").rstrip().splitlines() or ["no output"]
        if not passed:
            say(*lines[-150:])
        outcome = "passed" if passed else "FAILED"
        say(f"{self.name}: {outcome} after {time.monotonic() - self.began:.0f} s: {lines[-1].strip('= ')}")
        return passed

    def skipped(self) -> dict[str, int]:
        """How many tests were skipped, by reason."""
        found: dict[str, int] = defaultdict(int)
        if self.results.exists():
            for skip in ElementTree.parse(self.results).iter("skipped"):
                found[skip.get("message") or "no reason"] += 1
        return found


def say(*lines: str) -> None:
    """Print at once: what follows may take minutes."""
    for line in lines:
        print(line, flush=True)


def step(title: str, *command: str | Path, stderr: int | None = None) -> bool:
    """Run a command under a title. Returns whether it succeeded."""
    say(f"\n== {title}")
    return subprocess.run(command, cwd=ROOT, stderr=stderr, check=False).returncode == 0


def wait(lanes: list[Lane], later: Sequence[Callable[[], Lane]] = ()) -> bool:
    """Wait for the lanes, and print their progress. A lane that ends, unless its tests only wait, starts the
    next of ``later``, which is added to ``lanes``. Returns whether all passed.
    """
    passed, told, live, running, due = True, time.monotonic(), sys.stdout.isatty(), list(lanes), list(later)
    while running:
        time.sleep(0.2)
        for lane in [lane for lane in running if lane.process.poll() is not None]:
            running.remove(lane)
            print("\r\033[K" if live else "", end="")
            passed &= lane.finish()
            if due and not lane.waits:
                lanes.append(due.pop(0)())
                running.append(lanes[-1])
        if running and time.monotonic() - told > (1 if live else TELL_EVERY):
            told = time.monotonic()
            line = ", ".join(lane.progress() for lane in running)
            print(f"\r\033[K{line}\r" if live else line, end="" if live else "\n", flush=True)
    return passed


def tell_skipped(lanes: list[Lane]) -> None:
    """List what was skipped in all lanes, by reason."""
    reasons: dict[str, int] = defaultdict(int)
    for lane in lanes:
        for reason, count in lane.skipped().items():
            reasons[reason] += count
    if reasons:
        say(f"\n== skipped: {sum(reasons.values())} tests; in CI none of them is skipped")
        say(*(f"{count:5} x {reason}" for reason, count in sorted(reasons.items(), key=lambda row: -row[1])))


def lint() -> bool:
    """Run linters and types, until one fails. Returns whether all passed."""
    return (
        step("lint", BIN / "ruff", "check", ".")
        and step("format", BIN / "ruff", "format", "--check", ".")
        and step("types", BIN / "mypy")
        and step("layers", BIN / "lint-imports", "--no-logo")
    )


def known_weaknesses() -> bool:
    """Run Bandit. Its findings are on stdout; stderr only warns about words in our comments."""
    command = (BIN / "bandit", "--quiet", "--recursive", "eclipse_ws")
    return step("known weaknesses", *command, stderr=subprocess.DEVNULL)


def coverage() -> bool:
    """Report the coverage of all lanes. Returns whether it is enough."""
    subprocess.run([BIN / "coverage", "combine", "--quiet"], cwd=ROOT, check=False)
    return step("branch coverage", BIN / "coverage", "report")


def everything() -> bool:
    """Run everything, with coverage. Continues after a lane that fails, but not after a linter."""
    say(f"about {USUAL_MINUTES} minutes on two cores; logs in {LOGS.relative_to(ROOT)}")
    say(f"random order, SEED={SEED}")
    locked = step("lock", BIN / "pip", "--disable-pip-version-check", "check")
    if not (locked and lint() and known_weaknesses()):
        return False
    say("\n== tests, two lanes at a time beside those that mostly wait, then chaos")
    subprocess.run([BIN / "coverage", "erase"], cwd=ROOT, check=True)
    others = [*PROCESSES, *BROWSER, *SETUP, *CHAOS, *FAILOVERS]
    # The longest first, so that none runs by itself at the end.
    # Tests in browsers, and those that build packages, run almost none of our code in their own process.
    lanes = [
        Lane("browser", ["tests/browser", *without(*FRAMEWORKS)], cover=False),
        Lane("processes", [*PROCESSES, *without(*FAILOVERS)]),
        Lane("failovers", FAILOVERS, waits=True),
    ]
    later = [
        partial(Lane, "main", ["tests", *without(*others)]),
        partial(Lane, "frameworks", FRAMEWORKS, cover=False),
        partial(Lane, "setup", SETUP, cover=False),
    ]
    passed = wait(lanes, later)
    lanes.append(Lane("chaos", CHAOS))
    passed &= wait(lanes[-1:])
    say("\n== fuzzing")
    passed &= fuzz(20 if IN_CI else 3, list(TARGETS))
    passed &= coverage()
    tell_skipped(lanes)
    return passed


def quick() -> bool:
    """Run the linters, and at the same time the tests that start no other process, two lanes at a time."""
    sizes = {str(path.relative_to(ROOT)): path.stat().st_size for path in ROOT.glob("tests/**/test_*.py")}
    # The largest first, each into the smallest lane: a new file does not move all others.
    parts: list[list[str]] = [[] for _ in range(QUICK_LANES)]
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        if not name.startswith((*BROWSER, *CHAOS, *PROCESSES)):
            min(parts, key=lambda part: sum(sizes[each] for each in part)).append(name)
    due = [
        partial(Lane, f"quick-{number}", ["-m", "not slow", *part], cover=False)
        for number, part in enumerate(parts, 1)
    ]
    lanes = [begin() for begin in due[:2]]
    passed = lint()
    say(f"\n== tests that aren't marked slow, without {', '.join([*BROWSER, *CHAOS, *PROCESSES])}")
    passed &= wait(lanes, due[2:])
    tell_skipped(lanes)
    return passed


def only(tests: list[str]) -> bool:
    """Run only these tests."""
    say(f"random order, SEED={SEED}")
    lanes = [Lane("some", tests, cover=False)]
    passed = wait(lanes)
    tell_skipped(lanes)
    return passed


def main(arguments: list[str]) -> int:
    """Run what the arguments name. Returns 0 if everything passed."""
    began = time.monotonic()
    LOGS.mkdir(parents=True, exist_ok=True)
    if arguments == ["--quick"]:
        passed = quick()
    elif arguments:
        passed = only(arguments)
    else:
        passed = everything()
    say(f"\n{'passed' if passed else 'FAILED'} after {time.monotonic() - began:.0f} s")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
