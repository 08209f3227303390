"""Runs a case: its fleet, its members, and the row that they make."""

from __future__ import annotations

import asyncio
import shutil
import time
from math import inf
from pathlib import Path

from tests.chaos.run import tick, until_empty, write_down
from tests.fleet.cases import Case
from tests.fleet.fleet import Fleet
from tests.fleet.judge import Row, judge_fleet
from tests.fleet.stage import Stage

LEFT_SECONDS = 12.0
BACK_SECONDS = 15.0


async def run_case(case: Case, folder: Path, server: str, size: float = 1.0) -> Row:
    """Run it on a fleet of its own, whose logs are in ``folder``; a ``size`` below 1 makes it shorter."""
    row = Row(
        case.name,
        resumes=not case.unresumed,
        # A short run shares its machine with other tests, and says nothing about time.
        allowed_gap=case.allowed_gap if size >= 1 else inf,
        allowed_back=BACK_SECONDS if size >= 1 else inf,
        allowed_refusals=case.refusals,
        edge=case.edge,
    )
    shutil.rmtree(folder, ignore_errors=True)  # an earlier run's
    fleet = Fleet(folder, server, case.settings, old=case.old, replica=case.replica)
    stage = Stage(fleet, row, size)
    ticking = asyncio.create_task(tick(stage.members))
    try:
        began = time.monotonic()
        try:
            await fleet.start()
            began = time.monotonic()
            await case.run(stage)
        except Exception as error:
            row.faults += 1
            row.say(f"the case itself failed: {error!r}")
            if not stage.members:  # nothing has begun
                return row
        row.seconds = round(time.monotonic() - began, 1)
        judge_fleet(row, fleet, stage.by_chat, await fleet.places(stage.by_chat))
        if row.missed_targets:
            write_down(folder, stage.members)
            (folder / "evidence.txt").write_text("\n".join(row.evidence))
        for member in stage.members:
            member.close()
        row.left = len(left := await until_empty(fleet.leftovers, LEFT_SECONDS))
        for node in fleet.nodes:
            row.tracebacks += node.log.read_text(errors="replace").count("Traceback (most recent call last)")
        for sentence in left:
            row.say(sentence)
    finally:
        ticking.cancel()
        await fleet.stop()
    return row
