"""How this program was started, for texts that tell a reader what to type."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

NAME = "eclipse-ws"


def program() -> str:
    """What starts this program again when it is typed: ``eclipse-ws`` where the PATH has it, else a path."""
    called = Path(sys.argv[0])
    if called == Path(__file__).parents[1] / "__main__.py":
        return f"{_typed(sys.executable)} -m eclipse_ws"
    return _typed(sys.argv[0]) if called.name == NAME else NAME


def _typed(path: str) -> str:
    name = Path(path).name
    return name if shutil.which(name) == path else shlex.quote(path)
