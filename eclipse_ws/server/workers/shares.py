"""How many workers there are, and what each has of the machine's limits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from eclipse_ws.config.settings import Settings

DIVIDED: Final = ("max_sessions", "api_max_connections", "api_max_waiting", "max_attempts")
"""Settings that apply to the machine, so that each worker has a part; all others apply to each worker."""
CPU_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")


def count(settings: Settings) -> int:
    """The number of workers that the settings ask for."""
    if settings.workers != "auto":
        return settings.workers
    return cores() if settings.allows_workers else 1


def share(settings: Settings, number: int, of: int) -> Settings:
    """The settings of a worker, numbered from 1 on: at least 1 of what is divided."""
    parts = {name: getattr(settings, name) for name in DIVIDED}
    update = {name: max(1, whole // of + (number <= whole % of)) for name, whole in parts.items()}
    return settings.model_copy(update=update) if of > 1 else settings


def cores() -> int:
    """The whole cores that this process may use, by its affinity and its control group's quota."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CPU_QUOTA.read_text().split()
        found = min(found, int(quota) // int(period))
    except (OSError, ValueError):
        pass  # no control group, or "max"
    return max(1, found)
