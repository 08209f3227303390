"""The ports of a server: listening, and why that fails."""

from __future__ import annotations

import errno
import socket
import traceback
import warnings
from collections.abc import Sequence
from itertools import chain

from tornado.netutil import bind_sockets

from eclipse_ws.config.settings import Settings, variable


class StartError(Exception):
    """The server can't start; the text says why, and how to fix it."""


Sockets = dict[str, list[socket.socket]]
"""Listening sockets, by the setting that has their port."""


def listen_at_all(settings: Settings) -> Sockets:
    """Listen on all ports of the settings. Raises StartError, and then listens on none."""
    sockets: Sockets = {}
    hosts = {"port": settings.host, "admin_port": settings.admin_host, "metrics_port": settings.host}
    for field, host in hosts.items():
        port = getattr(settings, field)
        if port is not None:
            try:
                sockets[field] = listen(field, host, port)
            except StartError:
                close(*sockets.values())
                raise
    return sockets


def listen(field: str, host: str, port: int) -> list[socket.socket]:
    """Listen on a setting's port, at every address of its host. Raises StartError, from its cause."""
    try:
        return bind_sockets(port, host or None, backlog=4096)
    except (OSError, UnicodeError) as error:  # UnicodeError: an invalid host name
        with warnings.catch_warnings():
            # Tornado leaves its sockets to the garbage collector: close them now.
            warnings.simplefilter("ignore", ResourceWarning)
            traceback.clear_frames(error.__traceback__)
        raise StartError(_explain(error, field, f"{host}:{port}")) from error


def close(*groups: Sequence[socket.socket]) -> None:
    """Close the sockets of all groups."""
    for each in chain.from_iterable(groups):
        each.close()


def _explain(error: OSError | UnicodeError, field: str, where: str) -> str:
    number = getattr(error, "errno", None)
    if field != "port":
        return f"can't listen on {where}: {error}; check {variable(field)} and its host"
    if number == errno.EADDRINUSE:
        return (
            f"{where} is in use, perhaps by another run of this server: "
            "stop it, or choose another port (PORT=8081, or --port 8081)"
        )
    if number == errno.EACCES:
        return f"no permission to listen on {where}: choose a port from 1024 on (PORT=8080, or --port 8080)"
    return f"can't listen on {where}: {error}; check --host and --port"
