"""Checks PostgreSQL as a backend before a start."""

from __future__ import annotations

import time

from eclipse_ws.commands.report import Finding
from eclipse_ws.config.settings import Settings


async def postgres(value: Settings) -> list[Finding]:
    """Check reachability, password, rights and response time: starts the backend, which makes its table."""
    from eclipse_ws.backends.base import BackendError, NullListener, Unavailable
    from eclipse_ws.backends.postgres import PostgresBackend

    name, backend = "DATABASE_URL", PostgresBackend(value)
    try:
        await backend.start(NullListener())
        if backend.health.state != "up":
            fix = "check host and port, that this machine can reach it, and that it takes writes"
            return [Finding(name, "problem", "PostgreSQL is unavailable", fix)]
        await backend.send(b"check", backend.address)  # connects
        began = time.monotonic()
        heard = await backend.send(b"check", backend.address)
        trip = (time.monotonic() - began) * 1000
    except (BackendError, Unavailable) as error:
        fix = "check the URL and the user's rights, and that no pooler breaks sessions, see docs/deploy.md"
        return [Finding(name, "problem", str(error), fix)]
    finally:
        await backend.close()
    if heard != 1:
        fix = "use the address of the database itself, or of a pooler in session mode"
        return [Finding(name, "problem", "leads to a pooler that breaks LISTEN and session locks", fix)]
    fix = "run this server in the database's region: every message waits for two round trips"
    return [Finding(name, "ok" if trip < 100 else "warning", f"answers in {trip:.1f} ms", fix)]
