"""File descriptors: how many a node needs, and how many this process may have."""

from __future__ import annotations

import resource
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from eclipse_ws.config.settings import Settings

SPARE: Final = 600
"""Descriptors of everything else: sockets in a closing handshake, libraries, the listeners, Redis, the store,
a socket that is being taken over.
"""
INTERNAL_CONNECTIONS: Final = 200
"""HTTP connections of ECLIPSE_ADMIN_PORT, and of ECLIPSE_METRICS_PORT."""
HTTP_CONNECTIONS: Final = 2000
"""HTTP connections at once on the public port, beside the sessions; one more closes the slowest."""
MIN_SESSIONS: Final = 64
"""Sessions and HTTP connections that a node accepts, however low the limit is."""
SLOW_COUNT, KEPT_COUNT = 0.0005, 60.0
"""If counting the open files takes longer than this, their number is kept for so many seconds."""
_counted, _keep_until = 0, 0.0


def needed(settings: Settings) -> int:
    """Descriptors of a full node: each session, HTTP connection and call has one.

    As many HTTP connections again may be waiting to be served.
    """
    return settings.max_sessions + 2 * HTTP_CONNECTIONS + _fixed(settings)


def _fixed(settings: Settings) -> int:
    inside = sum(port is not None for port in (settings.admin_port, settings.metrics_port))
    return inside * INTERNAL_CONNECTIONS + settings.api_max_connections + SPARE


def allowed() -> int | None:
    """The hard limit of this process; None if unlimited."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if hard == resource.RLIM_INFINITY else hard


def opened() -> int:
    """The open files of this process. Raises OSError or psutil.Error where they can't be counted.

    Linux knows their number since 6.2. Elsewhere each is counted, which takes milliseconds for thousands:
    then the number may be a minute old.
    """
    global _counted, _keep_until  # noqa: PLW0603
    with suppress(OSError):
        if known := Path("/proc/self/fd").stat().st_size:
            return known
    began = time.monotonic()
    if began >= _keep_until:
        _counted = psutil.Process().num_fds()
        took = time.monotonic() - began
        _keep_until = began + KEPT_COUNT if took > SLOW_COUNT else 0.0
    return _counted


def fitting(settings: Settings, most: int) -> tuple[int, int]:
    """Sessions and HTTP connections that fit into ``most`` descriptors; the latter get at least a quarter."""
    room = max(MIN_SESSIONS, most - _fixed(settings))
    http = min(HTTP_CONNECTIONS, max(room // 4, room - settings.max_sessions) // 2)
    return min(settings.max_sessions, room - 2 * http), http


def shortage(settings: Settings, most: int) -> str:
    """What does not fit into ``most`` descriptors, as a sentence."""
    sessions, http = fitting(settings, most)
    return (
        f"{settings.max_sessions} sessions and {HTTP_CONNECTIONS} HTTP connections need "
        f"{needed(settings)} open files, but the limit is {most}: this node accepts {sessions} and {http}"
    )


def fit(settings: Settings) -> tuple[Settings, int, str]:
    """Raise this process's soft limit as far as needed.

    Returns the settings with as many sessions as fit, the HTTP connections that fit, and a warning if either
    are fewer.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most, need = allowed(), needed(settings)
    wanted = need if most is None else min(need, most)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError):
            # macOS reports an unlimited hard limit, but rejects values above `kern.maxfilesperproc`.
            most = soft
    if most is None or most >= need:
        return settings, HTTP_CONNECTIONS, ""
    sessions, http = fitting(settings, most)
    warning = (
        f"{shortage(settings, most)}. Fix: raise the limit (`ulimit -Hn {need}`; on macOS `ulimit -n {need}`)"
    )
    return settings.model_copy(update={"max_sessions": sessions}), http, warning
