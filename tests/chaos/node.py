"""One node: ``eclipse-ws`` as it is, with one thing more: SIGUSR1 writes its tasks down.

``python -m tests.chaos.node TASKS ARGUMENTS...`` runs ``eclipse-ws ARGUMENTS...``; on SIGUSR1 the names of
all tasks go into the file TASKS, one a line.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from eclipse_ws.cli import main


def write_tasks_to(path: Path) -> None:
    """Make SIGUSR1 write down the tasks of the running loop."""

    def write(*_: object) -> None:
        lines = [f"{task.get_name()} {task.get_coro()}" for task in asyncio.all_tasks()]
        # Whole or not at all: a process that waits for the file may read it at once.
        path.with_suffix(".part").write_text("\n".join(sorted(lines)))
        path.with_suffix(".part").rename(path)

    signal.signal(signal.SIGUSR1, write)


if __name__ == "__main__":
    write_tasks_to(Path(sys.argv.pop(1)))
    main()
