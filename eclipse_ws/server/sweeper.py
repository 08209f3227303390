"""The sweeper: checks timeouts and totals once a second, instead of one timer per session."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import structlog

from eclipse_ws.observability.logging import report_suppressed
from eclipse_ws.protocol import CloseCode
from eclipse_ws.server.garbage import collector
from eclipse_ws.server.listener import Listener
from eclipse_ws.sessions.joining import expire
from eclipse_ws.sessions.node import Node
from eclipse_ws.sessions.session import ChatSession

log = structlog.get_logger("eclipse_ws.sweeper")

INTERVAL: Final = 1.0
"""Seconds between sweeps."""
INPUT_BYTES: Final = 1 << 26
"""Bytes of all sessions' messages that are unfinished or wait for the application; above it those with the
most are closed.
"""
QUEUE_BYTES: Final = 1 << 26
"""Bytes queued for all sessions; above it the sessions with the longest queues are closed."""
BATCH = 50
"""Sessions that are checked in one turn of the loop: about 50 microseconds."""
MAX_REVOKED = 200
"""Sessions that one sweep ends because their token's key was removed: their clients reconnect at once."""


class Sweeper:
    """Ends sessions whose token expired or was revoked, the largest sessions of a full node, and slow
    connections.
    """

    def __init__(
        self, node: Node, sessions: Callable[[], Sequence[ChatSession]], listeners: Sequence[Listener]
    ) -> None:
        self._node = node
        self._sessions = sessions
        self._listeners = listeners
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Sweep every INTERVAL seconds from now on."""
        self._task = asyncio.create_task(self._run(), name="sweeper")

    def stop(self) -> None:
        """Stop sweeping. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                report_suppressed()
                await self.sweep(time.time(), time.monotonic())
            except Exception:
                # The next sweep may succeed; without one no session would ever expire.
                log.exception("sweep failed")

    async def sweep(self, wall: float, now: float) -> None:
        """Sweep once; ``wall`` is the wall-clock time of tokens, ``now`` the monotonic time of limits."""
        for listener in self._listeners:
            listener.sweep(now)
        self._node.commands.typists.sweep(now)
        self._node.addresses.sweep(now)
        self._node.shares.sweep(now)
        self._node.penalties.sweep(now)
        sessions = self._sessions()
        if not sessions:
            collector.collect_everything(now)
        settings = self._node.settings
        latest = wall - settings.expiry_grace
        latest_without_resume = min(latest, wall - settings.expiry_grace_without_resume)
        queued = held = revoked = 0
        for number, session in enumerate(sessions):
            if number % BATCH == BATCH - 1:
                await asyncio.sleep(0)
            verifier = self._node.verifier  # a reload may have replaced it
            if session.grants and session.retiring is None and not session.wire.is_closing:
                expire(session, latest, verifier)
            queued += session.wire.queued
            held += session.wire.held
            if (
                session.expires < latest
                and (session.can_resume or session.expires < latest_without_resume)
                and session.retiring is None
                and not session.wire.is_closing
            ):
                self._node.limits.refused["token_expired"] += 1
                session.retire(CloseCode.TOKEN_EXPIRED)
            elif session.verifier is not verifier and session.retiring is None:
                # The settings were reloaded after its token was verified: check it again.
                if verifier.accepts(session.claims):
                    session.verifier = verifier
                elif revoked < MAX_REVOKED:
                    revoked += 1
                    self._node.limits.refused["token_revoked"] += 1
                    session.retire(CloseCode.INVALID_TOKEN)
        if queued > QUEUE_BYTES:
            bound = _Bound("node_queue_bytes", QUEUE_BYTES, CloseCode.TOO_SLOW, None)
            self._shed([(session.wire.queued, session) for session in sessions], bound)
        if held > INPUT_BYTES:
            reason = CloseCode.RATE_LIMITED.with_detail("node_input_bytes")
            bound = _Bound("node_input_bytes", INPUT_BYTES, CloseCode.RATE_LIMITED, reason)
            self._shed([(session.wire.held, session) for session in sessions], bound)

    def _shed(self, sizes: list[tuple[int, ChatSession]], bound: _Bound) -> None:
        """End the sessions that hold the most until the rest is within the bound."""
        limits, ended = self._node.limits, 0
        left = before = sum(size for size, _ in sizes)
        for size, session in sorted(sizes, key=lambda each: each[0], reverse=True):
            if left <= bound.bytes:
                break
            left -= size
            if session.wire.is_closing:
                session.wire.abort()  # it was closed in the last sweep, and has not left yet
            else:
                limits.refuse(bound.limit)
                session.end(bound.close, bound.reason)
                ended += 1
        if ended:
            log.info("sessions shed", limit=bound.limit, bytes=before, sessions=ended)


class _Bound(NamedTuple):
    """A bound on the memory of all sessions together, and the close code of the largest ones."""

    limit: str
    bytes: int
    close: CloseCode
    reason: str | None
