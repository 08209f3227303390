"""Metrics: collected from plain counters when Prometheus scrapes, so that counting costs next to nothing.

Every label has a small, fixed set of values, never a chat, user or session. So the page has the same length
for ten sessions and for ten thousand.
"""

from __future__ import annotations

import contextlib
import math
import resource
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import psutil
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from eclipse_ws import __version__
from eclipse_ws.application.base import LATENCY_BUCKETS
from eclipse_ws.protocol import CloseCode
from eclipse_ws.server import sweeper
from eclipse_ws.sessions.node import Node, memory_bytes
from eclipse_ws.websocket.event_poll import queued_bytes

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
OUTCOMES: Final = (
    "ok",
    "cancelled",
    "api_unavailable",
    "api_timeout",
    "api_connection_lost",
    "api_bad_answer",
    "api_redirected",
    "api_error",
    "api_busy",
    "api_conflict",
    "api_rejected",
    "api_unauthorized",
    "chat_not_found",
    "user_not_found",
)
"""Outcomes of a call to the application; anything else is counted as ``other``."""


def exposition(node: Node) -> bytes:
    """The page at ``/metrics``, in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(NodeCollector(node))
    return generate_latest(registry)


class NodeCollector(Collector):
    """Reads a node's counters."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the registry need not collect to learn the names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every metric of the server."""
        yield from self._node_itself()
        yield from self._sessions()
        yield from self._events()
        yield from self._backend()
        yield from self._api()
        yield from self._drain()
        yield from _process()

    def _node_itself(self) -> Iterator[Metric]:
        settings = self._node.settings
        build = GaugeMetricFamily(
            "eclipse_build_info",
            "Always 1; the labels say what runs here",
            labels=["version", "machine", "region"],
        )
        build.add_metric([__version__, settings.machine, settings.region], 1)
        yield build
        yield _gauge("eclipse_memory_limit_bytes", "Memory that this process may use", memory_bytes())
        lag = self._node.lag.histogram
        yield _histogram(
            "eclipse_loop_lag_seconds", "Delay of the event loop", lag.bounds, lag.buckets, lag.seconds
        )

    def _sessions(self) -> Iterator[Metric]:
        node, counts, wire = self._node, self._node.counts, self._node.wire_stats
        yield _gauge("eclipse_sessions", "Sessions that have joined a chat", node.hub.sessions)
        yield _gauge(
            "eclipse_sessions_limit",
            "Sessions that this node accepts (ECLIPSE_MAX_SESSIONS)",
            node.settings.max_sessions,
        )
        yield _gauge(
            "eclipse_http_connections", "HTTP connections that are not sessions", node.http_connections()
        )
        yield _gauge("eclipse_chats", "Chats with sessions on this node", node.hub.chats)
        yield _counter("eclipse_sessions_started", "Sessions that began with a valid token", counts.started)
        yield _counter("eclipse_sessions_ended", "Sessions that have ended", counts.ended)
        yield _counters(
            "eclipse_refusals",
            "Refused connections, requests and commands, by the limit or check that refused them",
            "reason",
            # Refusals by the WebSocket layer and the hub are counted there.
            {
                **node.limits.refused,
                "max_frame": wire.too_big,
                "queue_bytes": wire.closed_slow,
                "chat_typing": node.hub.fan_out_dropped,
            },
        )
        yield _counters(
            "eclipse_upgrades_refused",
            "Upgrades refused with an HTTP status, or with a close code at once; also counted as refusals",
            "reason",
            counts.upgrades_refused,
        )
        yield _counter(
            "eclipse_rate_closes",
            f"Sessions closed for too many refused commands ({CloseCode.RATE_LIMITED.code})",
            node.limits.closed,
        )
        yield _counters("eclipse_commands", "Commands accepted", "type", node.commands.handled)
        yield _counter("eclipse_command_errors", "Commands answered with an error", counts.errors)
        yield _gauge("eclipse_commands_under_way", "Commands in progress", node.under_way)
        yield _gauge("eclipse_sockets", "Open WebSockets", wire.sockets)
        yield _gauge(
            "eclipse_queue_bytes", "Bytes queued for peers that read slowly or not at all", queued_bytes()
        )
        yield _gauge(
            "eclipse_queue_limit_bytes",
            "Bytes that may be queued by all sessions",
            sweeper.QUEUE_BYTES,
        )
        yield _counters(
            "eclipse_frames", "WebSocket frames", "direction", {"in": wire.frames_in, "out": wire.frames_out}
        )
        yield _counters(
            "eclipse_bytes",
            "Bytes of WebSocket frames",
            "direction",
            {"in": wire.bytes_in, "out": wire.bytes_out},
        )
        yield _counter("eclipse_writes", "System calls that wrote frames", wire.sends)
        yield _counter(
            "eclipse_frames_dropped", "Ephemeral frames dropped because a queue was full", wire.dropped
        )
        yield _counter(
            "eclipse_slow_closes",
            f"Sessions closed as too slow ({CloseCode.TOO_SLOW.code})",
            wire.closed_slow,
        )
        yield _counter(
            "eclipse_protocol_errors",
            "Connections closed because the peer violated RFC 6455",
            wire.protocol_errors,
        )

    def _events(self) -> Iterator[Metric]:
        hub, latency = self._node.hub, self._node.hub.latency
        yield _counter("eclipse_events", "Events delivered to chats on this node", hub.events)
        yield _counter("eclipse_deliveries", "Events delivered to sessions", hub.deliveries)
        yield _counters(
            "eclipse_resumes",
            "Sessions that came back with a cursor",
            "outcome",
            {"recovered": hub.resumed, "not_recovered": hub.not_resumed},
        )
        yield _counter(
            "eclipse_interrupts",
            f"Sessions closed so that they resume ({CloseCode.RESUME_NEEDED.code})",
            hub.interrupted,
        )
        yield _histogram(
            "eclipse_event_to_socket_seconds",
            "Time from an event's arrival on this node to its last socket; one event per loop turn",
            latency.bounds,
            latency.buckets,
            latency.seconds,
        )

    def _backend(self) -> Iterator[Metric]:
        backend, counts = self._node.backend, self._node.delivery.counts
        health = self._node.delivery.health
        yield _gauge("eclipse_backend_up", "1 while the backend is available, else 0", health.state == "up")
        yield _gauge(
            "eclipse_backend_latency_seconds", "Last round trip to the backend", health.latency or 0.0
        )
        yield _gauge("eclipse_backend_queued", "Events waiting for the backend", health.queued)
        yield _counter("eclipse_backend_published", "Events published by this node", counts.published)
        yield _counter(
            "eclipse_duplicates_dropped",
            "Duplicate events dropped",
            counts.duplicates_dropped,
        )
        yield _counters(
            "eclipse_backend_dropped",
            "Events dropped by the backend",
            "reason",
            {
                "malformed": counts.malformed_dropped,
                "broadcast": backend.broadcasts_dropped,
                "overflow": counts.overflowed,
            },
        )

    def _api(self) -> Iterator[Metric]:
        api = self._node.api
        stats = api.stats
        calls = dict.fromkeys((*OUTCOMES, "other"), 0)
        for outcome, count in stats.calls.items():
            calls[outcome if outcome in calls else "other"] += count
        yield _gauge(
            "eclipse_api_up", "1 while the circuit to the application is closed, else 0", api.state == "up"
        )
        yield _counters("eclipse_api_calls", "Calls to the application", "outcome", calls)
        yield _histogram(
            "eclipse_api_seconds",
            "Duration of calls to the application",
            LATENCY_BUCKETS,
            stats.buckets,
            stats.seconds,
        )
        yield _gauge("eclipse_api_active", "Calls to the application in progress", stats.active)
        yield _gauge(
            "eclipse_api_waiting", "Calls waiting for a connection to the application", stats.waiting
        )
        yield _counter(
            "eclipse_api_cookies_dropped",
            "Cookies of the application that were dropped",
            stats.cookies_dropped,
        )

    def _drain(self) -> Iterator[Metric]:
        node = self._node
        yield _gauge("eclipse_draining", "1 while this node is draining, else 0", node.draining)
        yield _gauge("eclipse_drain_sessions", "Sessions at the start of the drain", node.drain_sessions)
        yield _gauge(
            "eclipse_drain_handed_over",
            "Chats that another node has taken over in this drain",
            node.handed_over,
        )


def _process() -> Iterator[Metric]:
    """The process metrics of every Prometheus client, under the usual names; by psutil on any system."""
    # Metrics that this system lacks are left out rather than fail the whole page.
    with contextlib.suppress(psutil.Error, OSError):
        process = psutil.Process()
        memory, cpu = process.memory_info(), process.cpu_times()
        yield _gauge("process_resident_memory_bytes", "Resident memory of this process", memory.rss)
        yield _gauge("process_virtual_memory_bytes", "Virtual memory of this process", memory.vms)
        yield _counter("process_cpu_seconds", "CPU seconds of this process", cpu.user + cpu.system)
        yield _gauge(
            "process_start_time_seconds", "Start of this process, as a Unix time", process.create_time()
        )
        yield _gauge("process_open_fds", "Open files of this process, sockets included", process.num_fds())
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = math.inf if limit == resource.RLIM_INFINITY else limit
    yield _gauge("process_max_fds", "Files that this process may have open", most)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _counters(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _histogram(
    name: str, text: str, bounds: Sequence[float], counts: Sequence[int], seconds: float
) -> Metric:
    """A histogram from buckets that are not cumulative; the last one has no upper bound."""
    total, buckets = 0, []
    for bound, count in zip((*map(str, bounds), "+Inf"), counts, strict=True):
        total += count
        buckets.append((bound, total))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=seconds)
