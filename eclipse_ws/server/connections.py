"""The HTTP connections that are no sessions: one bounded table of them."""

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
"""Overdue connections that are closed in one go."""
CUTS_PAUSE: Final = 0.005
"""Seconds until the next ones are closed."""
NODE_ANSWER_BYTES: Final = 1 << 26
"""Bytes of all answers that wait for their peers; above it those with the most are closed."""
_SHARED_RATE: Final = Rate.of(*SHARED_REQUESTS)


class Connection:
    """One HTTP connection. ``phase`` is the part of the table that it is in, None once it has left."""

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
        """What it is counted under; None if it is not."""
        self.request: HTTP1Connection | None = None
        """Its latest request."""
        self.body_bytes = 0
        """Bytes of that request's body that are held."""
        self.headless = True
        """Whether the headers of its request are not complete."""
        self.trusted = False
        """Whether its last request showed the secret."""
        self.upgrading = False
        """Whether its request asks to become a session."""
        self.failed = False
        """Whether such a request was refused."""
        self._full = 0.0

    @property
    def taken_over(self) -> bool:
        """Whether its latest request has become a session."""
        return cast(Any, self.request).stream is None  # which Tornado's types don't know of

    @property
    def untaken(self) -> int:
        """Bytes of its answer that the peer has not taken."""
        return len(cast(Any, self.stream)._write_buffer or b"")  # which Tornado tells nobody

    def may_ask(self, now: float) -> bool:
        """Take one request off the connection's own rate; False if it has used it up."""
        full = _SHARED_RATE.take(self._full, now)
        if full is None:
            return False
        self._full = full
        return True


class Connections:
    """The table. Each connection is in one of five phases, each of which is ordered by when it began.

    ``arriving``: its TLS handshake, its first request, or a later request's body. ``working``: the request is
    being answered. ``taking``: the peer has to take the answer. ``idle``: between two requests. ``trusted``:
    whatever it is doing, it has shown the secret.

    Arriving and taking have ``timeout`` seconds, idle has ``idle_timeout``, working has ``work_timeout``.
    Of too many connections the one that has been slowest is closed: one that is taking, else idle, else
    arriving, else working. Trusted ones are never closed for others.
    """

    def __init__(
        self, most: int, timeout: float, idle_timeout: float, work_timeout: float, limits: Limits
    ) -> None:
        self.arriving: OrderedDict[Connection, float] = OrderedDict()
        self.working: OrderedDict[Connection, float] = OrderedDict()
        self.taking: OrderedDict[Connection, float] = OrderedDict()
        self.idle: OrderedDict[Connection, float] = OrderedDict()
        self.trusted: OrderedDict[Connection, float] = OrderedDict()
        self.most = most
        """As many at once."""
        self._timeout = timeout
        self._idle_timeout = idle_timeout
        self._work_timeout = work_timeout
        self._limits = limits
        self._addresses: dict[str, dict[Connection, None]] = {}
        """The connections of each address that is counted, the oldest first."""

    def __len__(self) -> int:
        return sum(map(len, self._phases()))

    @property
    def addresses(self) -> int:
        """How many addresses have connections that are counted."""
        return len(self._addresses)

    def _phases(self) -> Iterator[OrderedDict[Connection, float]]:
        yield self.taking
        yield self.idle
        yield self.arriving
        yield self.working
        yield self.trusted

    def add(self, connection: Connection) -> None:
        """Take a new connection, and close another if that is one too many."""
        room = len(self) < self.most or self._make_room()
        self.move(connection, self.arriving)
        if not room:
            self.cut(connection, "max_handshakes")

    def _make_room(self) -> bool:
        if not self.taking:
            self._find_taking()
        for phase in self._phases():
            if phase and phase is not self.trusted:
                self.cut(next(iter(phase)), "max_handshakes")
                return True
        return False

    def move(self, connection: Connection, phase: OrderedDict[Connection, float]) -> None:
        """A phase begins."""
        if connection.phase is not None:
            del connection.phase[connection]
        connection.phase = phase
        phase[connection] = time.monotonic()

    def count(self, connection: Connection, address: str | None) -> None:
        """Count a connection under an address, or under none; of too many the oldest is closed."""
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
            slow = (each for each in others if each.phase is not self.working)
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
        """The connection is closed, or has become a session. Idempotent."""
        self._uncount(connection)
        if connection.phase is not None:
            del connection.phase[connection]
            connection.phase = None

    def cut(self, connection: Connection, limit: str | None) -> None:
        """Close a connection, and say which limit it ran into, if that is worth a word."""
        if limit is not None:
            self.note(connection, limit)
        self.drop(connection)
        connection.stream.close()

    def note(self, connection: Connection, limit: str) -> None:
        """Count a request that ran into a limit, and log it."""
        self._limits.refuse(limit)
        log.info("request cut off", limit=limit, address=connection.address or connection.peer)

    def _find_taking(self) -> None:
        """Look for those that wait for their peer: Tornado doesn't tell when an answer is written."""
        for phase in (self.working, self.trusted):
            for connection in [each for each in phase if each.stream.writing()]:
                self.move(connection, self.taking)

    def sweep(self, now: float) -> None:
        """Close those whose answers fill the node, and, a few at a time, those that have taken too long."""
        self._find_taking()
        for connection, since in [*self.working.items(), *self.trusted.items()]:
            if connection.headless:  # a trusted one that is idle
                if now - since >= self._idle_timeout:
                    self.cut(connection, None)
            elif now - since >= self._work_timeout:
                self.cut(connection, "answer_timeout")
        waiting = sum(connection.untaken for connection in self.taking)
        if waiting > NODE_ANSWER_BYTES:
            for connection in sorted(self.taking, key=lambda each: each.untaken, reverse=True):
                if waiting <= NODE_ANSWER_BYTES:
                    break
                waiting -= connection.untaken
                self.cut(connection, "node_answer_bytes")
        self._cut_overdue(now)

    def _cut_overdue(self, now: float) -> None:
        bounds = (
            (self.arriving, self._timeout, "handshake_timeout"),
            (self.taking, self._timeout, "answer_timeout"),
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
