"""Upgrades that have arrived whole become sessions without Tornado's connection, request and routing."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Any, Final

from tornado.web import Application

from eclipse_ws.sessions.node import Node
from eclipse_ws.sessions.session import ChatSession
from eclipse_ws.websocket import opening

PATHS: Final = frozenset(("/", "/ws"))
HEAD_BYTES: Final = 8192
"""Bytes of the longest upgrade that is parsed here."""


class Upgrades:
    """Looks at what a new connection has sent; a plain upgrade that would be accepted becomes a session.

    Everything else stays unread: Tornado answers it. So there is one place that words each refusal.
    """

    def __init__(self, application: Application, node: Node) -> None:
        self._application = application
        self._node = node

    def __call__(self, accepted: socket.socket, address: Any) -> bool:
        """See `acceptor.Upgrade`."""
        accepted.setblocking(False)
        head = accepted.recv(HEAD_BYTES, socket.MSG_PEEK)
        request = opening.parse(head, address[0] if address else "")
        if request is None or request.path not in PATHS:
            return False
        if not self._node.hosts.allows(request.headers["host"]):
            return False
        fd = accepted.fileno()
        if not ChatSession.upgrade(self._application, request, accepted, self._node):
            return False
        with contextlib.suppress(OSError):  # the peer is gone: the session will notice
            os.read(fd, len(head))
        return True
