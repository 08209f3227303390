"""How this program was started, for texts with commands to type."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

NAME = "eclipse-ws"


def program() -> str:
    """The command that starts this program: ``eclipse-ws`` if it is in PATH, else a path."""
    called = Path(sys.argv[0])
    if called == Path(__file__).parents[1] / "__main__.py":
        return f"{_typed(sys.executable)} -m eclipse_ws"
    return _typed(sys.argv[0]) if called.name == NAME else NAME


def _typed(path: str) -> str:
    name = Path(path).name
    return name if shutil.which(name) == path else shlex.quote(path)
