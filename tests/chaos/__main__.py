"""``python -m tests.chaos``: run the scenarios and report; exit code 1 where a target is missed."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.chaos.judge import Verdict
from tests.chaos.report import TOLD, document, progress, table
from tests.chaos.run import run_lanes
from tests.chaos.scenarios import PLANS
from tests.servers import SERVERS, NoServerError, default_server, server_binary


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
    plans = PLANS
    if given.only:
        names = given.only.split(",")
        if unknown := [name for name in names if name not in [plan.name for plan in PLANS]]:
            parser.error(f"no such scenario: {', '.join(unknown)}")
        plans = [plan for plan in PLANS if plan.name in names]
    try:
        binary = server_binary(given.server)
    except NoServerError as error:
        parser.error(str(error))
    folder = given.keep or Path(tempfile.mkdtemp(prefix="eclipse-chaos-"))

    def tell(verdict: Verdict) -> None:
        print(progress(verdict), flush=True)

    async def run() -> list[Verdict]:
        task = asyncio.current_task()
        assert task is not None
        # Cancelled, every scenario ends the processes that it has started.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await run_lanes(
            plans,
            folder,
            given.server,
            given.seconds,
            lanes=given.lanes,
            chats=given.chats,
            seed=given.seed,
            tell=tell,
        )

    verdicts = asyncio.run(run())
    print(f"\n{table(verdicts)}\n\n{table(verdicts, TOLD)}\n")
    if given.json:
        given.json.write_text(json.dumps([verdict.as_json() for verdict in verdicts], indent=1))
    if given.document:
        version = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, check=True
        ).stdout.split()
        name = f"{given.server} {next(word[2:] for word in version if word.startswith('v='))}"
        given.document.write_text(document(verdicts, name, given.seconds, "make chaos"))
    missed = [verdict for verdict in verdicts if verdict.missed_targets]
    for verdict in missed:
        print(f"{verdict.scenario}: {'; '.join(verdict.missed_targets)}")
        for sentence in verdict.evidence[:4]:
            print(f"  - {sentence}")
    if missed:
        print(f"\nlogs and what clients saw: {folder}")
        return 1
    if given.keep is None:
        shutil.rmtree(folder, ignore_errors=True)
    print("every target is met")
    return 0


if __name__ == "__main__":
    sys.exit(main())
