"""Backends: what carries events between nodes. `create` finds one by its name.

`delivery` and above may import from here; these may import `security` and everything below.
"""

from __future__ import annotations

from importlib.metadata import entry_points

from eclipse_ws.backends.base import Backend, BackendError
from eclipse_ws.config.settings import Settings

GROUP = "eclipse_ws.backends"


def create(name: str, settings: Settings) -> Backend:
    """Make the backend that is installed under ``name`` in the entry-point group ``eclipse_ws.backends``.

    It is imported only now, so that the other backends cost nothing. Raises BackendError for a name that no
    installed package provides.
    """
    found = entry_points(group=GROUP)
    for entry_point in found:
        if entry_point.name == name:
            backend: Backend = entry_point.load()(settings)
            return backend
    known = ", ".join(sorted({entry_point.name for entry_point in found})) or "none"
    raise BackendError(f"no backend is called {name!r}; installed are: {known}")
