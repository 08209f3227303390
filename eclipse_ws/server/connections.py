"""A bounded table of the HTTP connections that are not sessions."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, Final, cast

import structlog
from tornado.http1connection import HTTP1Connection
from tornado.ioloop import IOLoop
from tornado.iostream import IOStream

from eclipse_ws.security.limits import PUBLIC_CONNECTIONS, SHARED_REQUESTS, Limits, Rate

log = structlog.get_logger("eclipse_ws.listener")

CUTS_PER_TURN: Final = 32
"""Overdue connections that are closed in one turn."""
CUTS_PAUSE: Final = 0.005
"""Seconds between two such turns."""
NODE_ANSWER_BYTES: Final = 1 << 26
"""Bytes of all unsent responses; above it the connections with the most are closed."""
_SHARED_RATE: Final = Rate.of(*SHARED_REQUESTS)


class Connection:
    """One HTTP connection. ``phase`` is the part of the table that it is in, None once it was removed."""

    __slots__ = (
        "_full",
        "address",
        "body_bytes",
        "failed",
        "headless",
        "peer",
        "phase",
        "request",
        "stream",
        "trusted",
        "upgrading",
    )

    def __init__(self, stream: IOStream, peer: str) -> None:
        self.stream = stream
        self.peer = peer
        """The socket's address."""
        self.phase: OrderedDict[Connection, float] | None = None
        self.address: str | None = None
        """The address that it is counted under; None if it is not counted."""
        self.request: HTTP1Connection | None = None
        """Its latest request."""
        self.body_bytes = 0
        """Bytes of that request's body in memory."""
        self.headless = True
        """Whether the headers of its request are incomplete."""
        self.trusted = False
        """Whether its last request carried the secret."""
        self.upgrading = False
        """Whether its request is an upgrade to a session."""
        self.failed = False
        """Whether an upgrade was refused."""
        self._full = 0.0

    @property
    def taken_over(self) -> bool:
        """Whether its latest request has become a session."""
        return cast(Any, self.request).stream is None  # unknown to Tornado's types

    @property
    def unsent(self) -> int:
        """Bytes of its response that are not yet sent."""
        return len(cast(Any, self.stream)._write_buffer or b"")  # Tornado does not expose it

    def allow_request(self, now: float) -> bool:
        """Take one request from the connection's own rate; False if it is used up."""
        full = _SHARED_RATE.take(self._full, now)
        if full is None:
            return False
        self._full = full
        return True


class Connections:
    """The table. Each connection is in one of five phases, each ordered by when it began.

    ``receiving``: its TLS handshake, its first request, or a later request's body. ``handling``: a handler
    works on the request. ``sending``: the peer has to read the response. ``idle``: between two requests.
    ``trusted``: its request carried the secret, in any of these phases.

    Receiving and sending have ``timeout`` seconds, idle has ``idle_timeout``, handling has ``work_timeout``.
    When there are too many connections, the slowest is closed: one that is sending, else idle, else
    receiving, else handling. Trusted connections are never closed for others.
    """

    def __init__(
        self, most: int, timeout: float, idle_timeout: float, work_timeout: float, limits: Limits
    ) -> None:
        self.receiving: OrderedDict[Connection, float] = OrderedDict()
        self.handling: OrderedDict[Connection, float] = OrderedDict()
        self.sending: OrderedDict[Connection, float] = OrderedDict()
        self.idle: OrderedDict[Connection, float] = OrderedDict()
        self.trusted: OrderedDict[Connection, float] = OrderedDict()
        self.most = most
        """The maximum number of connections."""
        self._timeout = timeout
        self._idle_timeout = idle_timeout
        self._work_timeout = work_timeout
        self._limits = limits
        self._addresses: dict[str, dict[Connection, None]] = {}
        """The counted connections of each address, oldest first."""

    def __len__(self) -> int:
        return sum(map(len, self._phases()))

    @property
    def addresses(self) -> int:
        """The number of addresses with counted connections."""
        return len(self._addresses)

    def _phases(self) -> Iterator[OrderedDict[Connection, float]]:
        yield self.sending
        yield self.idle
        yield self.receiving
        yield self.handling
        yield self.trusted

    def add(self, connection: Connection) -> None:
        """Add a new connection, and close another one if there are too many."""
        room = len(self) < self.most or self._make_room()
        self.move(connection, self.receiving)
        if not room:
            self.cut(connection, "max_handshakes")

    def _make_room(self) -> bool:
        if not self.sending:
            self._find_sending()
        for phase in self._phases():
            if phase and phase is not self.trusted:
                self.cut(next(iter(phase)), "max_handshakes")
                return True
        return False

    def move(self, connection: Connection, phase: OrderedDict[Connection, float]) -> None:
        """Move a connection to another phase."""
        if connection.phase is not None:
            del connection.phase[connection]
        connection.phase = phase
        phase[connection] = time.monotonic()

    def count(self, connection: Connection, address: str | None) -> None:
        """Count a connection under an address, or under none; the oldest of too many is closed."""
        if connection.address == address or connection.phase is None:
            return
        self._uncount(connection)
        if address is None:
            return
        connection.address = address
        same = self._addresses.setdefault(address, {})
        same[connection] = None
        if len(same) > PUBLIC_CONNECTIONS:
            others = [each for each in same if each is not connection and each.phase is not self.trusted]
            slow = (each for each in others if each.phase is not self.handling)
            oldest = next(slow, others[0] if others else None)
            if oldest is not None:
                self.cut(oldest, "connections_per_address")

    def _uncount(self, connection: Connection) -> None:
        if connection.address is not None:
            same = self._addresses[connection.address]
            del same[connection]
            if not same:
                del self._addresses[connection.address]
            connection.address = None

    def drop(self, connection: Connection) -> None:
        """Remove a connection that is closed, or has become a session. Idempotent."""
        self._uncount(connection)
        if connection.phase is not None:
            del connection.phase[connection]
            connection.phase = None

    def cut(self, connection: Connection, limit: str | None) -> None:
        """Close a connection; count and log the limit that it exceeded, unless that is None."""
        if limit is not None:
            self.note(connection, limit)
        self.drop(connection)
        connection.stream.close()

    def note(self, connection: Connection, limit: str) -> None:
        """Count and log a request that exceeded a limit."""
        self._limits.refuse(limit)
        log.info("request aborted", limit=limit, client_address=connection.address or connection.peer)

    def _find_sending(self) -> None:
        """Find connections that wait for their peer: Tornado has no event for a written response."""
        for phase in (self.handling, self.trusted):
            for connection in [each for each in phase if each.stream.writing()]:
                self.move(connection, self.sending)

    def sweep(self, now: float) -> None:
        """Close connections whose responses fill the node, and, a few at a time, overdue ones."""
        self._find_sending()
        for connection, since in [*self.handling.items(), *self.trusted.items()]:
            if connection.headless:  # a trusted one that is idle
                if now - since >= self._idle_timeout:
                    self.cut(connection, None)
            elif now - since >= self._work_timeout:
                self.cut(connection, "answer_timeout")
        waiting = sum(connection.unsent for connection in self.sending)
        if waiting > NODE_ANSWER_BYTES:
            for connection in sorted(self.sending, key=lambda each: each.unsent, reverse=True):
                if waiting <= NODE_ANSWER_BYTES:
                    break
                waiting -= connection.unsent
                self.cut(connection, "node_answer_bytes")
        self._cut_overdue(now)

    def _cut_overdue(self, now: float) -> None:
        bounds = (
            (self.receiving, self._timeout, "handshake_timeout"),
            (self.sending, self._timeout, "answer_timeout"),
            (self.idle, self._idle_timeout, None),
        )
        for _ in range(CUTS_PER_TURN):
            for phase, timeout, limit in bounds:
                if phase and now - next(iter(phase.values())) >= timeout:
                    self.cut(next(iter(phase)), limit)
                    break
            else:
                return
        IOLoop.current().call_later(CUTS_PAUSE, self._cut_overdue, now)
