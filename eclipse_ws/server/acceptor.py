"""Accepts sockets, a few at a time, and copes when the system has no file descriptor for another one."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, cast

import structlog
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.iostream import IOStream, SSLIOStream

from eclipse_ws.security.client_address import Source, Sources
from eclipse_ws.security.limits import Limits
from eclipse_ws.server.connections import Connection, Connections
from eclipse_ws.server.pacing import OLDEST, Gate, PacedLoop, Turns

log = structlog.get_logger("eclipse_ws.listener")

ACCEPTS_PER_TURN: Final = 32
"""Sockets that are accepted in a turn of the event loop; fewer are served in it."""
HEAD: Final = 4096
"""Bytes of a request that are searched for the header with the client's address."""
RECORDS_PER_TURN: Final = 32
"""TLS records of one connection that are read in a turn of the loop."""
ACCEPT_PAUSE: Final = 0.2
"""Seconds without accepting when the system has no descriptor or memory for another socket."""
MAX_TURNED_AWAY: Final = 64
"""Waiting sockets that are accepted and closed at once before such a pause."""
LOG_INTERVAL: Final = 30.0
"""Minimum seconds between two log lines about a pause."""
PEER_ERRORS: Final = frozenset(
    getattr(errno, name)
    for name in ("ECONNABORTED", "EPROTO", "ENETDOWN", "ENETUNREACH", "EHOSTDOWN", "EHOSTUNREACH")
    if hasattr(errno, name)
)
"""Errors of accept() that concern only the accepted socket, which is already closed (accept(2))."""


class _Accepted(NamedTuple):
    """A socket that waits to be served."""

    since: float
    socket: socket.socket
    address: Any


class Upgrade(Protocol):
    """Tries to begin a session without Tornado; see `Upgrades`."""

    def __call__(self, accepted: socket.socket, address: Any) -> bool:
        """Whether the socket belongs to a session now; otherwise nothing was read from it.

        Raises BlockingIOError while the peer has sent nothing, other OSErrors if it is gone.
        """


class _Silent:
    """Stands for the stream of a connection whose peer has sent nothing yet."""

    _write_buffer = None

    def __init__(self, accepted: _Accepted, forget: Callable[[socket.socket], None]) -> None:
        self.accepted = accepted
        self._forget = forget

    def close(self) -> None:
        """Close the socket."""
        self._forget(self.accepted.socket)
        self.accepted.socket.close()

    def writing(self) -> bool:
        """False: there is nothing to answer."""
        return False


class Acceptor(HTTPServer):
    """The part of an HTTP server that accepts. Subclasses set the first five attributes.

    Accepted sockets, as many as there may be connections, wait here until the gate lets them through:
    addresses take turns, and of one address, which may be a proxy's, mostly the newest are served. In the
    system's own queue a new client would wait behind a whole crowd.
    """

    limits: Limits
    sources: Sources
    gate: Gate
    connections: Connections
    timeout: float
    """Seconds that an accepted socket may wait."""
    upgrade: Upgrade | None = None
    """Begins a session if a socket's upgrade has arrived whole. If set, Tornado gets a connection with its
    first bytes, not before.
    """
    _paced: PacedLoop | None = None
    """Watches the connections."""
    _speaking: Connection | None = None
    """The connection that is being handed to Tornado, if it had to be waited for."""
    _serving = False
    """Whether `_serve` is running or scheduled."""
    _served = 0
    """The number of served sockets."""
    _reserve = -1
    """A spare file descriptor, released to turn clients away when no other one is free."""
    _logged = -LOG_INTERVAL
    """When a pause was last logged."""

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        """Tornado calls this with the constructor's arguments."""
        super().initialize(*args, **kwargs)
        self._accepted: Turns[_Accepted] = Turns()
        self._silent: dict[socket.socket, Connection] = {}
        """Sockets that have sent nothing yet."""
        self._begun: dict[IOStream, Connection] = {}
        """Those that have, until Tornado begins to read their requests."""

    def add_sockets(self, sockets: Iterable[socket.socket]) -> None:
        """Accept connections on these sockets, a few at a time.

        Tornado accepts up to 128 in one turn of the loop, and each is a handshake that takes as long as
        twenty messages: a crowd of reconnecting clients would delay all others.
        """
        self._take_reserve()
        self._paced = PacedLoop(self.gate)
        loop = IOLoop.current()
        for listening in sockets:
            self._sockets[listening.fileno()] = listening
            loop.add_handler(listening, self._accept, IOLoop.READ)
            self._handlers[listening.fileno()] = partial(loop.remove_handler, listening)

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        """Serve an accepted connection."""
        if isinstance(stream, SSLIOStream):
            cast(Any, stream).__class__ = _Records  # Tornado offers no other way
        self.pace(stream, paced=True)
        if self._speaking is not None:
            self._speaking.stream = stream
            self._begun[stream] = self._speaking
        super().handle_stream(stream, address)

    def pace(self, stream: IOStream, paced: bool) -> None:
        """Serve a connection at the gate's pace, as a stranger's, or without delay."""
        watched: Any = stream
        loop: Any = self._paced if paced and self._paced is not None else IOLoop.current()
        if watched.io_loop is loop:
            return
        if watched._state is not None:
            watched.io_loop.remove_handler(watched.fileno())
            loop.add_handler(watched.fileno(), watched._handle_events, watched._state)
        watched.io_loop = loop

    async def close_all_connections(self) -> None:
        """Close open connections, and wait until they are closed."""
        await super().close_all_connections()
        for connection in list(self._silent.values()):
            self.connections.cut(connection, None)
        if self._paced is not None:
            self._paced.close()
            self._paced = None

    def stop(self) -> None:
        """Stop accepting. Idempotent."""
        super().stop()
        self._give_reserve()
        while self._accepted:
            self._accepted.take().socket.close()

    def drop_overdue(self, now: float) -> None:
        """Close the sockets that have waited too long to be served."""
        for overdue in self._accepted.take_while(lambda each: now - each.since >= self.timeout):
            overdue.socket.close()
            self.limits.refuse("handshake_timeout")

    def _accept(self, listening: socket.socket, _events: int) -> None:
        for _ in range(self._places()):
            try:
                accepted, address = listening.accept()
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                if error.errno in PEER_ERRORS:
                    continue
                self._pause(listening, error)
                break
            waiting = _Accepted(time.monotonic(), accepted, address)
            self._accepted.add(self._source(waiting).address, waiting)
        if not self._serving:
            self._serve()

    def _places(self) -> int:
        """How many sockets may be accepted now."""
        return min(ACCEPTS_PER_TURN, self.connections.most - len(self._accepted))

    def _source(self, accepted: _Accepted) -> Source:
        """The source that a socket is queued under. Behind a proxy a request header names it; the request is
        usually there as soon as the socket.
        """
        head = b""
        if self.sources.header and self.ssl_options is None:
            with contextlib.suppress(OSError):
                head = accepted.socket.recv(HEAD, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        return self.sources.guess(accepted.address[0] if accepted.address else "", head)

    def _serve(self) -> None:
        """Serve a few waiting sockets."""
        self._serving = bool(self._accepted)
        if self._paced is None or not self._serving:
            return  # no socket waits, or the server was stopped
        for number in range(self.gate.allowed):
            if not self._accepted or (number and not self.gate.has_time):
                break
            self._served += 1
            self._begin(self._accepted.take(newest=self._served % OLDEST != 0))
        self._serving = bool(self._accepted)
        if self._serving:
            asyncio.get_running_loop().call_soon(self._serve)

    def _begin(self, accepted: _Accepted, connection: Connection | None = None) -> None:
        """Make a session of a socket, or hand it to Tornado, or wait for its first bytes.

        ``connection``: its place in the table if it had to be waited for.
        """
        try:
            if self.upgrade is not None and self.upgrade(accepted.socket, accepted.address):
                if connection is not None:
                    self.connections.drop(connection)
            else:
                self._speaking = connection
                self._handle_connection(accepted.socket, accepted.address)
            return
        except BlockingIOError:
            if connection is not None:
                self.connections.drop(connection)
            self._wait_for_bytes(accepted)
            return
        except OSError as error:  # the peer closed before its upgrade, or its TLS handshake, began
            log.debug("connection lost", why=str(error))
        except Exception:
            log.exception("connection failed")
        finally:
            self._speaking = None
        accepted.socket.close()
        if connection is not None:
            self.connections.drop(connection)

    def _wait_for_bytes(self, accepted: _Accepted) -> None:
        assert self._paced is not None
        stream: Any = _Silent(accepted, self._forget_silent)
        connection = Connection(stream, accepted.address[0] if accepted.address else "")
        self._silent[accepted.socket] = connection
        self._paced.add_handler(accepted.socket, self._has_bytes, IOLoop.READ)
        self.connections.add(connection)
        self.count_by_peer(connection)

    def _has_bytes(self, accepted: socket.socket, _events: int) -> None:
        connection = self._silent[accepted]
        self._forget_silent(accepted)
        self._begin(cast(Any, connection.stream).accepted, connection)

    def _forget_silent(self, accepted: socket.socket) -> None:
        if self._silent.pop(accepted, None) is not None and self._paced is not None:
            self._paced.remove_handler(accepted)

    def count_by_peer(self, connection: Connection) -> None:
        """Count a connection by its socket's address, unless a header names the client."""
        source = self.sources.of(connection.peer, None)
        known = not source.shared and not self.sources.header
        self.connections.count(connection, source.address if known else None)

    def _pause(self, listening: socket.socket, error: OSError) -> None:
        """Turn waiting clients away, and retry after a pause: the listening socket stays ready, so the loop
        would call us without end.
        """
        loop, now = IOLoop.current(), time.monotonic()
        self._turn_away(listening)
        loop.remove_handler(listening)
        loop.call_later(ACCEPT_PAUSE, self._resume, listening)
        if now - self._logged >= LOG_INTERVAL:
            self._logged = now
            log.error("accept paused", limit="file_limit", why=error.strerror or str(error))

    def _resume(self, listening: socket.socket) -> None:
        self._take_reserve()
        if not self._stopped:
            IOLoop.current().add_handler(listening, self._accept, IOLoop.READ)

    def _turn_away(self, listening: socket.socket) -> None:
        self._give_reserve()
        for _ in range(MAX_TURNED_AWAY):
            try:
                accepted, _address = listening.accept()
            except OSError:
                break
            accepted.close()
            self.limits.refused["file_limit"] += 1
        self._take_reserve()

    def _take_reserve(self) -> None:
        if self._reserve < 0 and not self._stopped:
            with contextlib.suppress(OSError):
                self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _give_reserve(self) -> None:
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1


class _Records(SSLIOStream):
    """A TLS connection that is read a few records at a time.

    Tornado reads for as long as there is something to read. The system joins small segments, but nothing
    joins records: a request in records of a byte each would delay everybody else by a second.
    """

    _read = 0
    """Records read since the last wait for the peer."""

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        """As Tornado's, but None after that many records: the kernel keeps the rest and reports it again."""
        size = super().read_from_fd(buf) if self._read < RECORDS_PER_TURN else None
        self._read = 0 if size is None else self._read + 1
        return size
