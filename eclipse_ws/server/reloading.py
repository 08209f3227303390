"""Reading the settings again, on SIGHUP."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from eclipse_ws.config.loading import Loaded
from eclipse_ws.config.problems import SettingsError

log = structlog.get_logger("eclipse_ws.server")


def read(load: Callable[[], Loaded]) -> Loaded | None:
    """Read the settings again; None, and a log line, if that fails."""
    try:
        return load()
    except SettingsError as error:
        log.error("settings reload failed", problems=[str(problem) for problem in error.problems])
    except Exception:
        log.exception("settings reload failed")
    return None
