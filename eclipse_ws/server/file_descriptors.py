"""Open files: how many a node needs, and as many as this process may have."""

from __future__ import annotations

import resource
from typing import Final

from eclipse_ws.config.settings import Settings

SPARE: Final = 600
"""Files of everything else: sockets in a closing handshake (`websocket.event_poll.MOST_CLOSING`), libraries,
the listeners, Redis, the store, a socket that is being taken over.
"""
INTERNAL_CONNECTIONS: Final = 200
"""HTTP connections of ECLIPSE_ADMIN_PORT, and of ECLIPSE_METRICS_PORT."""
LEAST: Final = 64
"""Sessions and HTTP connections that a node takes however few files it may open."""


def needed(settings: Settings) -> int:
    """Files that a node has open when it is full: each session, HTTP connection and call has one.

    As many HTTP connections again may be accepted and wait to be served.
    """
    return settings.max_sessions + 2 * settings.max_handshakes + _fixed(settings)


def _fixed(settings: Settings) -> int:
    inside = sum(port is not None for port in (settings.admin_port, settings.metrics_port))
    return inside * INTERNAL_CONNECTIONS + settings.api_max_connections + SPARE


def allowed() -> int | None:
    """Files that this process may have open at the most; None for any number."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if hard == resource.RLIM_INFINITY else hard


def fitting(settings: Settings, most: int) -> tuple[int, int]:
    """Sessions and HTTP connections that fit into so many files; the latter have a quarter, if need be."""
    room = max(LEAST, most - _fixed(settings))
    http = min(settings.max_handshakes, max(room // 4, room - settings.max_sessions) // 2)
    return min(settings.max_sessions, room - 2 * http), http


def lack(settings: Settings, most: int) -> str:
    """What a node does without that may open so few files."""
    sessions, http = fitting(settings, most)
    return (
        f"{most} files may be open, but {settings.max_sessions} sessions and {settings.max_handshakes} HTTP "
        f"connections need {needed(settings)}: this node takes {sessions} and {http}"
    )


def fit(settings: Settings) -> tuple[Settings, str]:
    """Raise this process's own limit as far as it needs to be.

    Returns the settings with as many sessions and HTTP connections as fit, and a sentence if those are fewer.
    """
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
        return settings, ""
    sessions, http = fitting(settings, most)
    said = f"{lack(settings, most)}. Fix: raise the limit (`ulimit -Hn {need}`; on macOS `ulimit -n {need}`)"
    return settings.model_copy(update={"max_sessions": sessions, "max_handshakes": http}), said
