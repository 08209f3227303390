"""What ``python -m tests.chaos`` and ``python -m tests.fleet`` both do: choose, stop on SIGTERM, conclude."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import subprocess
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tests import postgres
from tests.chaos.judge import Verdict
from tests.servers import NoServerError, server_binary

T = TypeVar("T")


def chosen(parser: argparse.ArgumentParser, only: str | None, plans: Sequence[T], noun: str) -> Sequence[T]:
    """The plans, which have a ``name``, that ``--only`` lists; exits if there is none."""
    if not only:
        return plans
    names = only.split(",")
    if unknown := [name for name in names if name not in [plan.name for plan in plans]]:
        parser.error(f"no such {noun}: {', '.join(unknown)}")
    return [plan for plan in plans if plan.name in names]


def server_version(parser: argparse.ArgumentParser, server: str) -> str:
    """Such as ``redis 7.0.15``; exits if there is none."""
    try:
        binary = server_binary(server)
    except NoServerError as error:
        parser.error(str(error))
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout.split()
    return f"{server} {next(word[2:] for word in said if word.startswith('v='))}"


def postgres_version(parser: argparse.ArgumentParser) -> str:
    """Such as ``PostgreSQL 15.14``; exits where there is none."""
    folder = postgres.binaries()
    if folder is None:
        parser.error(f"PostgreSQL is not installed ({postgres.HOW}); --backend redis does without")
    said = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=True)
    return f"PostgreSQL {said.stdout.split()[2]}"


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run it; on SIGTERM it is cancelled, and ends the processes that it has started."""

    async def cancellable() -> T:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    return asyncio.run(cancellable())


def conclude(verdicts: Sequence[Verdict], folder: Path, *, keep: bool, evidence: int, saw: str) -> int:
    """Print which targets were missed, each with some of its evidence; the exit code."""
    missed = [verdict for verdict in verdicts if verdict.missed_targets]
    for verdict in missed:
        print(f"{verdict.scenario}: {'; '.join(verdict.missed_targets)}")
        for sentence in verdict.evidence[:evidence]:
            print(f"  - {sentence}")
    if missed:
        print(f"\nlogs and what {saw} saw: {folder}")
        return 1
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)
    print("every target is met")
    return 0
