"""Makes small mistakes, one at a time, in a copy of the tree, and shows those that no test notices.

mutmut makes them in the modules of pyproject.toml's [tool.mutmut], about ten thousand, of which a random
sample is tried; those in Redis' scripts are written by hand, in tests/mutants/lua.toml.

    python -m scripts.mutants          the sample, then the scripts
    python -m scripts.mutants --lua    only the scripts

SHARE=0.05 is the share of the core to try; SEED=n repeats a sample; MODULE=glob tries all of these modules
("sessions.hub", "websocket.*") or, with --lua, of these scripts; JOBS=n processes run at a time.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from difflib import unified_diff
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from tests.servers import SERVERS, default_server

ROOT = Path(__file__).parents[1]
WORK = ROOT / "artefacts" / "mutants"
LUA = Path("eclipse_ws") / "backends" / "redis"
LIST = ROOT / "tests" / "mutants" / "lua.toml"
MUTMUT = str(Path(sys.executable).with_name("mutmut"))
FIRST = (
    "redis_positions",
    "redis_records",
    "redis_clock",
    "redis_joins",
    "redis_kept",
    "redis_guard",
    "contract",
)
"""The backends' tests that notice most in the least time; they run first."""
OTHERS = (
    "redis_connection",
    "redis_connections",
    "redis_heartbeat",
    "redis_names",
    "redis_start",
    "redis_tls",
)
"""Tests that run none of the scripts, or only at the start."""
SHARE = float(os.environ.get("SHARE") or 0.05)
SEED = os.environ.get("SEED") or str(random.randrange(2**32))
MODULE = os.environ.get("MODULE") or ""
JOBS = int(os.environ.get("JOBS") or min(4, os.cpu_count() or 1))
TELL_EVERY = 15.0
PATIENCE = 10
"""How many times longer than without a mistake the tests may take; a test that hangs has noticed it, too."""


class MutantsError(Exception):
    """The mistakes can't be tried; the message says why."""


class Mutant(NamedTuple):
    """A mistake in a script: ``text``, which occurs once, is replaced by ``by``."""

    file: str
    text: str
    by: str
    causes: str

    def made_in(self, source: str) -> str:
        """The script with the mistake. Raises MutantsError if the source has changed."""
        if (found := source.count(self.text)) != 1:
            raise MutantsError(f"{self.file} has {self.text!r} {found} times, not once: update {LIST.name}")
        return source.replace(self.text, self.by)


Survivor = tuple[str, str, str]  # module, name and diff of a mistake that no test has noticed


def say(*lines: str) -> None:
    """Print at once: what follows may take minutes."""
    print(*lines, sep="\n", flush=True)


def ending(log: Path) -> str:
    """The path of a log, and its end."""
    return f"see {log.relative_to(ROOT)}:\n{log.read_text(errors='replace')[-3000:]}"


def read_list() -> list[Mutant]:
    """The mistakes in the scripts."""
    return [Mutant(**each) for each in tomllib.loads(LIST.read_text(encoding="utf-8"))["mutant"]]


def copy(folder: Path) -> Path:
    """A copy of the working tree without ignored files, but with uncommitted changes, in a new folder."""
    shutil.rmtree(folder, ignore_errors=True)
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def report(tried: Iterable[str], survivors: list[Survivor], seconds: float) -> bool:
    """Print survivors with their diffs, then the counts by module. Returns whether all were noticed."""
    for _, name, diff in sorted(survivors):
        say(f"\n-- survived: {name}", diff.strip("\n"))
    of, survived = Counter(tried), Counter(module for module, _, _ in survivors)
    say(f"\n  noticed     of         in {seconds / 60:.0f} minutes")
    for module, count in [*sorted(of.items()), ("in all", of.total())]:
        killed = count - (survived.total() if module == "in all" else survived[module])
        say(f"{killed:9} {count:6} {killed / count:6.1%}  {module}")
    return not survivors


def run_tests(folder: Path, log: Path, timeout: float) -> str:
    """Run the scripts' tests on a copy. Returns the first failed test, "timeout", or "" if all passed."""
    # One server is enough, and tests that need none run no script.
    left_out = " or ".join({*SERVERS, "memory"} - {default_server()})
    command = [sys.executable, "-m", "pytest", "-x", "--ff", "-p", "no:randomly", "-k", f"not ({left_out})"]
    command += [*(f"tests/backends/test_{name}.py" for name in FIRST), "tests/backends"]
    command += [f"--ignore=tests/backends/test_{name}.py" for name in OTHERS]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # so that it stops its servers
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        process.kill()
        process.wait()
        return "timeout"
    if code not in (0, 1):
        raise MutantsError(f"pytest ended with {code}; {ending(log)}")
    failed = re.search(r"^(?:FAILED|ERROR) \S*::(\S+)", log.read_text(errors="replace"), re.MULTILINE)
    return "" if code == 0 else failed[1] if failed else "a failure"


def try_lua() -> bool:
    """Make each mistake of the list. Returns whether all were noticed."""
    began = time.monotonic()
    mutants = [each for each in read_list() if fnmatch(each.file, f"{MODULE or '*'}*")]
    sources = {each.file: (ROOT / LUA / each.file).read_text(encoding="utf-8") for each in mutants}
    made = [each.made_in(sources[each.file]) for each in mutants]
    copies: queue.Queue[Path] = queue.Queue()
    for number in range(JOBS):
        copies.put(copy(WORK / f"lua-{number}"))
    say(f"\n== {len(mutants)} mistakes in Redis' scripts; logs in {WORK.relative_to(ROOT)}")

    def attempt(number: int) -> str:
        """The test that notices a mistake; for -1, without a mistake, a test that fails anyway."""
        folder = copies.get()
        try:
            if number >= 0:
                (folder / LUA / mutants[number].file).write_text(made[number], encoding="utf-8")
            return run_tests(folder, WORK / f"lua-{number}.log", timeout)
        finally:
            for file, source in sources.items():
                (folder / LUA / file).write_text(source, encoding="utf-8")
            copies.put(folder)

    timeout = 900.0
    if failed := attempt(-1):
        raise MutantsError(f"without any mistake {failed} fails; {ending(WORK / 'lua--1.log')}")
    timeout = PATIENCE * (time.monotonic() - began)
    survivors = []
    with ThreadPoolExecutor(JOBS) as pool:
        for number, by in enumerate(pool.map(attempt, range(len(mutants)))):
            file, causes = mutants[number].file, mutants[number].causes
            say(f"{number + 1:4}  {file}: {causes} " + (f"[{by}]" if by else "SURVIVED"))
            if not by:
                diff = unified_diff(sources[file].splitlines(), made[number].splitlines(), n=0, lineterm="")
                survivors.append((file, f"{file}: {causes}", "\n".join([*diff][2:])))
    return report((each.file for each in mutants), survivors, time.monotonic() - began)


def outcomes(folder: Path) -> dict[str, int | None]:
    """The tests' exit code for each of mutmut's mutants; None if they haven't run."""
    found: dict[str, int | None] = {}
    for meta in sorted((folder / "mutants").glob("eclipse_ws/**/*.meta")):
        with contextlib.suppress(json.JSONDecodeError):  # it is being written
            found |= json.loads(meta.read_text(encoding="utf-8"))["exit_code_by_key"]
    return found


def mutmut(folder: Path, names: list[str], log: Path) -> bool:
    """Have mutmut try these, and print its progress. Returns whether it finished."""
    told, command = time.monotonic(), [MUTMUT, "run", "--max-children", str(JOBS), *names]
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)
    while process.poll() is None:
        time.sleep(0.5)
        if time.monotonic() - told > TELL_EVERY:
            told, known = time.monotonic(), outcomes(folder)
            done = sum(known.get(name) is not None for name in names)
            say(f"{done} of {len(names)}" if done else "finding out which test runs which code")
    return process.returncode == 0


def choose(names: Iterable[str]) -> list[str]:
    """Which of mutmut's mutants are tried: all of MODULE, or a share of the whole."""
    known = sorted(names)
    if MODULE:
        return [name for name in known if fnmatch(name.rpartition(".")[0], f"eclipse_ws.{MODULE}")]
    return sorted(random.Random(SEED).sample(known, max(1, round(len(known) * SHARE))))


def try_core() -> bool:
    """Try mutmut's mutants. Returns whether all were noticed."""
    began, folder, log = time.monotonic(), copy(WORK / "core"), WORK / "core.log"
    say(f"\n== mistakes in the core; {f'MODULE={MODULE}' if MODULE else f'SEED={SEED} SHARE={SHARE:g}'}")
    # No command only lists them. With an unknown name mutmut makes them, and then fails.
    mutmut(folder, ["none"], log)
    if not (folder / "mutants" / "mutmut-stats.json").exists():
        raise MutantsError(f"mutmut made no mutants; {ending(log)}")
    known = outcomes(folder)
    if not (names := choose(known)):
        raise MutantsError(f"there are no mutants of {MODULE}")
    say(f"{len(names)} of {len(known)} mutants; mutmut's own output is in {log.relative_to(ROOT)}")
    if not mutmut(folder, names, log):
        raise MutantsError(f"mutmut failed; {ending(log)}")
    known = outcomes(folder)
    survivors = []
    for name in names:
        if known[name] in (0, 33, None):  # all passed, no test runs it, it was not tried
            command = [MUTMUT, "show", name]
            shown = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
            survivors.append((name.rpartition(".")[0], name, shown))
    return report((name.rpartition(".")[0] for name in names), survivors, time.monotonic() - began)


def main(arguments: list[str]) -> int:
    """Run what the arguments name. Returns 0 if every mistake was noticed."""
    WORK.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also in the background: the tests inherit it
    try:
        noticed = "--lua" in arguments or try_core()
        if "--lua" in arguments or not MODULE:
            noticed &= try_lua()
    except MutantsError as error:
        say(f"FAILED: {error}")
        return 2
    return 0 if noticed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
