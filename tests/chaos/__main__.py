"""``python -m tests.chaos``: run the scenarios and report; exit code 1 where a target is missed."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.chaos.command import chosen, conclude, run, server_version
from tests.chaos.judge import Verdict
from tests.chaos.report import TOLD, document, progress, table
from tests.chaos.run import run_lanes
from tests.chaos.scenarios import PLANS
from tests.servers import SERVERS, default_server


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="of each scenario")
    parser.add_argument("--only", metavar="NAME,...", help=f"of: {', '.join(plan.name for plan in PLANS)}")
    parser.add_argument("--server", default=default_server(), choices=SERVERS)
    parser.add_argument(
        "--lanes", type=int, default=2, help="scenarios at once, each on a cluster of its own"
    )
    parser.add_argument("--chats", type=int, default=100, help="with two clients each")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder for logs and evidence")
    parser.add_argument("--json", type=Path, help="write the verdicts here")
    parser.add_argument("--document", type=Path, help="write the report in Markdown here")
    given = parser.parse_args()
    plans = chosen(parser, given.only, PLANS, "scenario")
    version = server_version(parser, given.server)
    folder = given.keep or Path(tempfile.mkdtemp(prefix="eclipse-chaos-"))

    def tell(verdict: Verdict) -> None:
        print(progress(verdict), flush=True)

    verdicts = run(
        run_lanes(
            plans,
            folder,
            given.server,
            given.seconds,
            lanes=given.lanes,
            chats=given.chats,
            seed=given.seed,
            tell=tell,
        )
    )
    print(f"\n{table(verdicts)}\n\n{table(verdicts, TOLD)}\n")
    if given.json:
        given.json.write_text(json.dumps([verdict.as_json() for verdict in verdicts], indent=1))
    if given.document:
        given.document.write_text(document(verdicts, version, given.seconds, "make chaos"))
    return conclude(verdicts, folder, keep=given.keep is not None, evidence=4, saw="clients")


if __name__ == "__main__":
    sys.exit(main())
