"""The node: one running server process, as seen by its handlers."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import psutil

from eclipse_ws import __version__
from eclipse_ws.application.base import ChatApi
from eclipse_ws.application.reporter import Reporter
from eclipse_ws.backends.base import Backend
from eclipse_ws.config.settings import RELOADED, Settings
from eclipse_ws.delivery.delivery import Delivery
from eclipse_ws.observability.histogram import Cached, LoopLag
from eclipse_ws.protocol import timestamp
from eclipse_ws.protocol.schema import BackendHealth, Connections, HealthDocument, LargeChat, Memory
from eclipse_ws.security.client_address import Sources
from eclipse_ws.security.hosts import Hosts
from eclipse_ws.security.internal_auth import InternalAuth
from eclipse_ws.security.jwt import Verifier
from eclipse_ws.security.limits import Addresses, Limits, Rate, burst
from eclipse_ws.security.origins import Origins
from eclipse_ws.security.senders import Penalties, Shares
from eclipse_ws.sessions.commands import Commands
from eclipse_ws.sessions.hub import Hub
from eclipse_ws.websocket.counters import Stats

LARGEST_CHATS = 20
TYPING_RECEIVERS = 200
"""Receivers of typing in one chat on this node, for one session that types at the maximum rate."""

UPGRADE_LIMITS = (
    "draining",
    "allowed_origins",
    "max_sessions",
    "max_sessions_per_address",
    "upgrades_per_minute",
    "token",
    "rate_penalty",
    "max_sessions_per_chat",
    "banned",
)
"""Why an upgrade may be refused."""


@dataclass(slots=True)
class SessionCounts:
    """Counters of a node's sessions; plain integers, read when metrics are scraped."""

    started: int = 0
    ended: int = 0
    upgrades_refused: dict[str, int] = field(default_factory=lambda: dict.fromkeys(UPGRADE_LIMITS, 0))
    """By the limit or check; with an HTTP status, or at once with a close code."""
    errors: int = 0
    """Commands answered with an error."""


class Machine(Protocol):
    """The machine of several workers, of which this process is one."""

    async def health(self) -> dict[str, Any] | None:
        """The health document of all workers together; None if it can't be had in time."""

    async def metrics(self) -> bytes | None:
        """Likewise their metrics, in Prometheus' text format."""


@dataclass
class Node:
    """The parts of a process; each can be replaced without the others noticing."""

    settings: Settings
    backend: Backend
    delivery: Delivery
    api: ChatApi
    hub: Hub
    commands: Commands
    verifier: Verifier
    counts: SessionCounts = field(default_factory=SessionCounts)
    wire_stats: Stats = field(default_factory=Stats)
    draining: bool = False
    drain_sessions: int = 0
    """Sessions at the start of the drain."""
    handed_over: int = 0
    """Chats that another node has taken over in this drain."""
    under_way: int = 0
    """Commands that were read and have not ended, including those that have not begun."""
    sessions: int = 0
    """Sessions, including those that are being upgraded or are joining, but not refused ones."""
    http_connections: Callable[[], int] = lambda: 0
    """HTTP connections that are not sessions, on all ports."""
    started: float = field(default_factory=time.monotonic)
    reporter: Reporter | None = None
    """None: the application is told nothing."""
    machine: Machine | None = None
    """None for a process that is alone."""

    def __post_init__(self) -> None:
        self.lag = LoopLag()
        self._health = Cached(self._look_at_health)
        self.limits = Limits(self.settings)
        self.shares = Shares(self.settings)
        self.penalties = Penalties()
        self.addresses = Addresses(self.settings)
        self.sources = Sources(self.settings)
        self.origins = Origins(self.settings)
        self.hosts = Hosts(self.settings)
        self.internal_auth = InternalAuth(self.settings, self.sources, self.addresses, self.limits)
        self._bound_fan_out()

    def reload(self, fresh: Settings) -> None:
        """Apply new settings as far as a running node can: secrets, keys, origins and limits."""
        self.settings = self.settings.model_copy(update={name: getattr(fresh, name) for name in RELOADED})
        self.verifier = Verifier(self.settings)
        parts = (
            self.limits,
            self.shares,
            self.addresses,
            self.sources,
            self.origins,
            self.internal_auth,
        )
        for part in parts:
            part.configure(self.settings)
        self._bound_fan_out()
        self.api.reload(self.settings)
        if self.reporter is not None:
            self.reporter.reload(self.settings)

    def _bound_fan_out(self) -> None:
        rate = TYPING_RECEIVERS * self.settings.command_rate
        self.hub.fan_out = Rate.of(rate, burst(rate))

    def health(self) -> dict[str, Any]:
        """The health document (section 8); up to a second old under very many requests."""
        return self._health.get()

    def _look_at_health(self) -> dict[str, Any]:
        """The previous service's fields, then this server's."""
        backend = self.delivery.health
        used, total = resident_bytes(), memory_bytes()
        status: Literal["healthy", "degraded", "draining"] = (
            "draining" if self.draining else "healthy" if backend.state == "up" else "degraded"
        )
        return HealthDocument(
            status=status,
            uptime=round(time.monotonic() - self.started, 3),
            connections=Connections(
                total=self.hub.sessions,
                by_chat=[
                    LargeChat(chat_id[:8] + "...", count)
                    for chat_id, count in self.hub.largest(LARGEST_CHATS)
                ],
                chats=self.hub.chats,
            ),
            memory=Memory(used, total, round(100 * used / total)),
            timestamp=timestamp(),
            backend=BackendHealth(backend.name, backend.state, backend.latency, backend.queued),
            api=self.api.state,
            version=__version__,
            machine=self.settings.machine,
            region=self.settings.region,
        ).fields()


def resident_bytes() -> int:
    """This process's resident memory, or its peak where that is unknown (Linux without /proc)."""
    try:
        return int(psutil.Process().memory_info().rss)
    except (psutil.Error, OSError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # in KiB on Linux


def memory_bytes() -> int:
    """Memory that this process may use: its control group's limit if it has one, else the machine's."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limit = int(Path(path).read_text())
        except (OSError, ValueError):
            continue
        if limit < 1 << 60:
            return limit
    try:
        return int(psutil.virtual_memory().total)
    except (psutil.Error, OSError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
