"""The sweeper: one look a second at what no event tells of, instead of a timer per session."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import structlog

from eclipse_ws.listener import Listener
from eclipse_ws.node import Node
from eclipse_ws.observe import tell_suppressed
from eclipse_ws.protocol import CloseCode
from eclipse_ws.session import ChatSession

log = structlog.get_logger("eclipse_ws.sweeper")

REVOKED_AT_ONCE = 200
"""Sessions that one look ends because their token's key is gone: their clients come back at once."""


class Sweeper:
    """Ends sessions whose token has expired or was revoked, the longest queues of a full node, and slow
    handshakes.
    """

    def __init__(
        self, node: Node, sessions: Callable[[], Sequence[ChatSession]], listeners: Sequence[Listener]
    ) -> None:
        self._node = node
        self._sessions = sessions
        self._listeners = listeners
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look every ``sweep_interval`` seconds from now on."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._node.settings.sweep_interval, self._turn)

    def stop(self) -> None:
        """Look no more. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _turn(self) -> None:
        try:
            tell_suppressed()
            self.sweep(time.time(), time.monotonic())
        except Exception:
            # The next look may go well; without one no session would ever end.
            log.exception("sweep failed")
        self.start()

    def sweep(self, wall: float, now: float) -> None:
        """Look once; ``wall`` is the time that tokens mean, ``now`` the clock that limits use."""
        for listener in self._listeners:
            listener.sweep(now)
        self._node.addresses.sweep(now)
        self._node.shares.sweep(now)
        self._node.penalties.sweep(now)
        sessions = self._sessions()
        latest = wall - self._node.settings.expiry_grace
        verifier = self._node.verifier
        queued = revoked = 0
        for session in sessions:
            queued += session.wire.queued
            if session.expires < latest and not session.wire.is_closing:
                self._node.limits.refused["token_expired"] += 1
                session.end(CloseCode.TOKEN_EXPIRED)
            elif session.verifier is not verifier and session.retiring is None:
                # A reload came after its token was verified: what was true then may not be now.
                if verifier.accepts(session.claims):
                    session.verifier = verifier
                elif revoked < REVOKED_AT_ONCE:
                    revoked += 1
                    self._node.limits.refused["token_revoked"] += 1
                    session.retire(CloseCode.INVALID_TOKEN)
        if queued > self._node.settings.node_queue_bytes:
            self._relieve(sessions, queued, now)

    def _relieve(self, sessions: Sequence[ChatSession], queued: int, now: float) -> None:
        """End the longest queues until the rest is within the bound."""
        limits, ended = self._node.limits, 0
        before = queued
        for session in sorted(sessions, key=lambda each: each.wire.queued, reverse=True):
            if queued <= self._node.settings.node_queue_bytes:
                break
            queued -= session.wire.queued
            if session.wire.is_closing:
                session.wire.abort()  # it was told at the last look, and hasn't read on
            else:
                limits.refused["node_queue_bytes"] += 1
                session.end(CloseCode.TOO_SLOW)
                ended += 1
        if ended:
            unsaid = limits.refuse("node_queue_bytes", now)
            limits.refused["node_queue_bytes"] -= 1  # the line is no refusal of its own, said or not
            if unsaid is not None:
                log.info("queues cut", limit="node_queue_bytes", bytes=before, sessions=ended, unsaid=unsaid)
