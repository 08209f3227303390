"""What the processes of a test run inherit, so that `scripts/portable` reaches all of them."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]


def inherited() -> dict[str, str]:
    """Variables for a process whose environment a test makes anew: where the package is, and, under
    `scripts/portable`, what is taken away from Python.
    """
    if selector := os.environ.get("PORTABLE_SELECTOR"):
        return {"PYTHONPATH": f"{FOLDER}{os.pathsep}{ROOT}", "PORTABLE_SELECTOR": selector}
    return {"PYTHONPATH": str(ROOT)}
