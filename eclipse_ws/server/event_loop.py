"""The event loop that the settings choose."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from eclipse_ws.config.settings import Settings

T = TypeVar("T")


def run(settings: Settings, main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine as `asyncio.run` does, on that loop."""
    if settings.event_loop == "uvloop":
        import uvloop

        return uvloop.run(main)
    return asyncio.run(main)
