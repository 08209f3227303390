"""``python -m tests.chaos``: run the scenarios and report; exit code 1 where a target is missed."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.chaos.command import chosen, conclude, postgres_version, run, server_version
from tests.chaos.judge import Verdict
from tests.chaos.plans import PLANS
from tests.chaos.report import TOLD, document, progress, table
from tests.chaos.run import run_lanes
from tests.chaos.stage import BACKENDS
from tests.servers import SERVERS, default_server


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="of each scenario")
    names = dict.fromkeys(plan.name for plan in PLANS)
    parser.add_argument("--only", metavar="NAME,...", help=f"of: {', '.join(names)}")
    parser.add_argument("--backend", choices=BACKENDS, help="instead of all, one after the other")
    parser.add_argument("--server", default=default_server(), choices=SERVERS, help="the backend redis")
    parser.add_argument(
        "--lanes", type=int, default=2, help="scenarios at once, each on a cluster of its own"
    )
    parser.add_argument("--chats", type=int, default=100, help="with two clients each")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder for logs and evidence")
    parser.add_argument("--json", type=Path, help="write the verdicts here")
    parser.add_argument("--document", type=Path, help="write the report in Markdown here")
    given = parser.parse_args()
    backends = (given.backend,) if given.backend else BACKENDS
    selected = chosen(parser, given.only, PLANS, "scenario")
    plans = {backend: [each for each in selected if backend in each.backends] for backend in backends}
    if not any(plans.values()):
        parser.error(f"none of these applies to the backend {given.backend}")
    versions = {
        backend: server_version(parser, given.server) if backend == "redis" else postgres_version(parser)
        for backend in backends
    }
    folder = given.keep or Path(tempfile.mkdtemp(prefix="eclipse-chaos-"))

    def tell(verdict: Verdict) -> None:
        print(progress(verdict), flush=True)

    async def all_of_them() -> dict[str, list[Verdict]]:
        return {
            backend: await run_lanes(
                its_plans,
                folder / backend,
                given.server,
                given.seconds,
                lanes=given.lanes,
                backend=backend,
                chats=given.chats,
                seed=given.seed,
                tell=tell,
            )
            for backend, its_plans in plans.items()
            if its_plans
        }

    by_backend = run(all_of_them())
    verdicts = [verdict for each in by_backend.values() for verdict in each]
    for backend, each in by_backend.items():
        print(f"\n{versions[backend]}\n\n{table(each)}\n\n{table(each, TOLD)}\n")
    if given.json:
        given.json.write_text(json.dumps([verdict.as_json() for verdict in verdicts], indent=1))
    if given.document:
        given.document.write_text(document(by_backend, versions, given.seconds, "make chaos"))
    return conclude(verdicts, folder, keep=given.keep is not None, evidence=4, saw="clients")


if __name__ == "__main__":
    sys.exit(main())
