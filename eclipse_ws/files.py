"""Open files: how many a node needs, and as many as this process may have."""

from __future__ import annotations

import resource
from typing import Final

from eclipse_ws.settings import Settings

SPARE: Final = 200
"""File descriptors beside those of sessions: libraries, listeners, Redis."""


def needed(settings: Settings) -> int:
    """Files that a node has open when it is full."""
    return settings.max_sessions + settings.api_max_connections + SPARE


def allowed() -> int | None:
    """Files that this process may have open at the most; None for any number."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if hard == resource.RLIM_INFINITY else hard


def allow(settings: Settings) -> str:
    """Raise this process's own limit as far as it needs to be; a sentence if that isn't enough."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most, need = allowed(), needed(settings)
    wanted = need if most is None else min(need, most)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError):
            # macOS calls its hard limit unlimited, and refuses what is above `kern.maxfilesperproc`.
            most = soft
    if most is None or most >= need:
        return ""
    return (
        f"{most} files may be open, but {settings.max_sessions} sessions need {need}: "
        f"raise the limit (`ulimit -Hn {need}`; on macOS `ulimit -n {need}`), or lower ECLIPSE_MAX_SESSIONS"
    )
