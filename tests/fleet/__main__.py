"""``python -m tests.fleet``: run the cases and report; exit code 1 where a target is missed."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fleet.cases import CASES
from tests.fleet.judge import Row
from tests.fleet.report import document, progress, tables
from tests.fleet.run import run_case
from tests.servers import SERVERS, NoServerError, default_server, server_binary


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.fleet", description=__doc__)
    parser.add_argument("--only", metavar="NAME,...", help=f"of: {', '.join(case.name for case in CASES)}")
    parser.add_argument("--server", default=default_server(), choices=SERVERS)
    parser.add_argument("--size", type=float, default=1.0, help="below 1: fewer clients and messages")
    parser.add_argument("--keep", type=Path, help="folder for logs and evidence")
    parser.add_argument("--document", type=Path, help="write the report in Markdown here")
    given = parser.parse_args()
    cases = CASES
    if given.only:
        names = given.only.split(",")
        if unknown := [name for name in names if name not in [case.name for case in CASES]]:
            parser.error(f"no such case: {', '.join(unknown)}")
        cases = [case for case in CASES if case.name in names]
    try:
        binary = server_binary(given.server)
    except NoServerError as error:
        parser.error(str(error))
    folder = given.keep or Path(tempfile.mkdtemp(prefix="eclipse-fleet-"))

    async def run() -> list[Row]:
        task = asyncio.current_task()
        assert task is not None
        # Cancelled, a case ends the processes that it has started.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        rows = []
        for case in cases:
            rows.append(await run_case(case, folder / case.name.replace(" ", "-"), given.server, given.size))
            print(progress(rows[-1]), flush=True)
        return rows

    rows = asyncio.run(run())
    print(f"\n{tables(rows)}\n")
    if given.document:
        version = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, check=True
        ).stdout.split()
        name = f"{given.server} {next(word[2:] for word in version if word.startswith('v='))}"
        given.document.write_text(document(rows, name))
    missed = [row for row in rows if row.missed_targets]
    for row in missed:
        print(f"{row.scenario}: {'; '.join(row.missed_targets)}")
        for sentence in row.evidence[:6]:
            print(f"  - {sentence}")
    if missed:
        print(f"\nlogs and what members saw: {folder}")
        return 1
    if given.keep is None:
        shutil.rmtree(folder, ignore_errors=True)
    print("every target is met")
    return 0


if __name__ == "__main__":
    sys.exit(main())
