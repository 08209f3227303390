"""``python -m tests.fleet``: run the cases and report; exit code 1 where a target is missed."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.chaos.command import chosen, conclude, run, server_version
from tests.fleet.cases import CASES
from tests.fleet.judge import Row
from tests.fleet.report import document, progress, tables
from tests.fleet.run import run_case
from tests.servers import SERVERS, default_server


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.fleet", description=__doc__)
    parser.add_argument("--only", metavar="NAME,...", help=f"of: {', '.join(case.name for case in CASES)}")
    parser.add_argument("--server", default=default_server(), choices=SERVERS)
    parser.add_argument("--size", type=float, default=1.0, help="below 1: fewer clients and messages")
    parser.add_argument("--keep", type=Path, help="folder for logs and evidence")
    parser.add_argument("--document", type=Path, help="write the report in Markdown here")
    given = parser.parse_args()
    cases = chosen(parser, given.only, CASES, "case")
    version = server_version(parser, given.server)
    folder = given.keep or Path(tempfile.mkdtemp(prefix="eclipse-fleet-"))

    async def one_after_the_other() -> list[Row]:
        rows = []
        for case in cases:
            rows.append(await run_case(case, folder / case.name.replace(" ", "-"), given.server, given.size))
            print(progress(rows[-1]), flush=True)
        return rows

    rows = run(one_after_the_other())
    print(f"\n{tables(rows)}\n")
    if given.document:
        given.document.write_text(document(rows, version))
    return conclude(rows, folder, keep=given.keep is not None, evidence=6, saw="members")


if __name__ == "__main__":
    sys.exit(main())
