"""Metrics: collected from plain counters when Prometheus scrapes, so that counting costs next to nothing.

Every label has a small, fixed set of values, never a chat, user or session. So the page has the same length
for ten sessions and for ten thousand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from eclipse_ws import __version__
from eclipse_ws.application.base import LATENCY_BUCKETS
from eclipse_ws.application.reporter import ReportCounts
from eclipse_ws.protocol import CloseCode
from eclipse_ws.server import sweeper
from eclipse_ws.server.families import counter, counters, gauge, histogram, process, text
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


def exposition(node: Node) -> Iterator[bytes]:
    """The page at ``/metrics`` in Prometheus' text format, metric by metric."""
    return (text([metric]) for metric in NodeCollector(node).collect())


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
        yield from self._reports()
        yield from self._drain()
        yield from process()

    def _node_itself(self) -> Iterator[Metric]:
        settings = self._node.settings
        build = GaugeMetricFamily(
            "eclipse_build_info",
            "Always 1; the labels say what runs here",
            labels=["version", "machine", "region"],
        )
        build.add_metric([__version__, settings.machine, settings.region], 1)
        yield build
        yield gauge("eclipse_memory_limit_bytes", "Memory that this process may use", memory_bytes())
        lag = self._node.lag.histogram
        yield histogram(
            "eclipse_loop_lag_seconds", "Delay of the event loop", lag.bounds, lag.buckets, lag.seconds
        )

    def _sessions(self) -> Iterator[Metric]:
        node, counts, wire = self._node, self._node.counts, self._node.wire_stats
        yield gauge("eclipse_sessions", "Sessions that have joined a chat", node.hub.sessions)
        yield gauge(
            "eclipse_sessions_limit",
            "Sessions that this node accepts (ECLIPSE_MAX_SESSIONS)",
            node.settings.max_sessions,
        )
        yield gauge(
            "eclipse_http_connections", "HTTP connections that are not sessions", node.http_connections()
        )
        yield gauge("eclipse_chats", "Chats with sessions on this node", node.hub.chats)
        yield counter("eclipse_sessions_started", "Sessions that began with a valid token", counts.started)
        yield counter("eclipse_sessions_ended", "Sessions that have ended", counts.ended)
        yield counters(
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
        yield counters(
            "eclipse_upgrades_refused",
            "Upgrades refused with an HTTP status, or with a close code at once; also counted as refusals",
            "reason",
            counts.upgrades_refused,
        )
        yield counter(
            "eclipse_rate_closes",
            f"Sessions closed for too many refused commands ({CloseCode.RATE_LIMITED.code})",
            node.limits.closed,
        )
        yield counters("eclipse_commands", "Commands accepted", "type", node.commands.handled)
        yield counter("eclipse_command_errors", "Commands answered with an error", counts.errors)
        yield gauge("eclipse_commands_under_way", "Commands in progress", node.under_way)
        yield gauge("eclipse_sockets", "Open WebSockets", wire.sockets)
        yield gauge(
            "eclipse_queue_bytes", "Bytes queued for peers that read slowly or not at all", queued_bytes()
        )
        yield gauge(
            "eclipse_queue_limit_bytes",
            "Bytes that may be queued by all sessions",
            sweeper.QUEUE_BYTES,
        )
        yield counters(
            "eclipse_frames", "WebSocket frames", "direction", {"in": wire.frames_in, "out": wire.frames_out}
        )
        yield counters(
            "eclipse_bytes",
            "Bytes of WebSocket frames",
            "direction",
            {"in": wire.bytes_in, "out": wire.bytes_out},
        )
        yield counter("eclipse_writes", "System calls that wrote frames", wire.sends)
        yield counter(
            "eclipse_frames_dropped", "Ephemeral frames dropped because a queue was full", wire.dropped
        )
        yield counter(
            "eclipse_slow_closes",
            f"Sessions closed as too slow ({CloseCode.TOO_SLOW.code})",
            wire.closed_slow,
        )
        yield counter(
            "eclipse_protocol_errors",
            "Connections closed because the peer violated RFC 6455",
            wire.protocol_errors,
        )

    def _events(self) -> Iterator[Metric]:
        hub, latency = self._node.hub, self._node.hub.latency
        yield counter("eclipse_events", "Events delivered to chats on this node", hub.events)
        yield counter("eclipse_deliveries", "Events delivered to sessions", hub.deliveries)
        yield counters(
            "eclipse_resumes",
            "Sessions that came back with a cursor",
            "outcome",
            {"recovered": hub.resumed, "not_recovered": hub.not_resumed},
        )
        presence = self._node.delivery.presence
        yield gauge("eclipse_presence_chats", "Chats that sessions of this node watch", presence.chats)
        yield gauge(
            "eclipse_presence_users", "Users of all nodes in the chats that this node watches", presence.users
        )
        yield counters(
            "eclipse_presence_notes",
            "Notes between nodes about presence",
            "direction",
            {"in": presence.notes_heard, "out": presence.notes_sent},
        )
        yield counter(
            "eclipse_interrupts",
            f"Sessions closed so that they resume ({CloseCode.RESUME_NEEDED.code})",
            hub.interrupted,
        )
        yield histogram(
            "eclipse_event_to_socket_seconds",
            "Time from an event's arrival on this node to its last socket; one event per loop turn",
            latency.bounds,
            latency.buckets,
            latency.seconds,
        )

    def _backend(self) -> Iterator[Metric]:
        backend, counts = self._node.backend, self._node.delivery.counts
        health = self._node.delivery.health
        yield gauge("eclipse_backend_up", "1 while the backend is available, else 0", health.state == "up")
        yield gauge(
            "eclipse_backend_latency_seconds", "Last round trip to the backend", health.latency or 0.0
        )
        yield gauge("eclipse_backend_queued", "Events waiting for the backend", health.queued)
        yield counter("eclipse_backend_published", "Events published by this node", counts.published)
        yield counter(
            "eclipse_duplicates_dropped",
            "Duplicate events dropped",
            counts.duplicates_dropped,
        )
        remembered = self._node.delivery.remembered
        yield gauge(
            "eclipse_identities_bytes",
            "Memory in which this node remembers the events that it has delivered",
            remembered.bytes,
        )
        yield counter(
            "eclipse_identities_forgotten",
            "Chats whose delivered events were forgotten, because that memory was full",
            remembered.forgotten,
        )
        yield counters(
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
        yield gauge(
            "eclipse_api_up", "1 while the circuit to the application is closed, else 0", api.state == "up"
        )
        yield counters("eclipse_api_calls", "Calls to the application", "outcome", calls)
        yield histogram(
            "eclipse_api_seconds",
            "Duration of calls to the application",
            LATENCY_BUCKETS,
            stats.buckets,
            stats.seconds,
        )
        yield gauge("eclipse_api_active", "Calls to the application in progress", stats.active)
        yield gauge("eclipse_api_waiting", "Calls waiting for a connection to the application", stats.waiting)
        yield counter(
            "eclipse_api_cookies_dropped",
            "Cookies of the application that were dropped",
            stats.cookies_dropped,
        )

    def _reports(self) -> Iterator[Metric]:
        reporter = self._node.reporter
        counts = ReportCounts() if reporter is None else reporter.counts
        yield gauge(
            "eclipse_reporting",
            "1 if this node reports to the application (ECLIPSE_APP_EVENTS_URL), else 0",
            reporter is not None and reporter.is_reporting,
        )
        yield gauge(
            "eclipse_reports_waiting",
            "Reports that the application has yet to get",
            0 if reporter is None else reporter.waiting,
        )
        yield counters(
            "eclipse_reports",
            "Reports to the application",
            "outcome",
            {"sent": counts.sent, "refused": counts.refused},
        )
        yield counter(
            "eclipse_report_failures", "Batches of reports that the application did not take", counts.failures
        )

    def _drain(self) -> Iterator[Metric]:
        node = self._node
        yield gauge("eclipse_draining", "1 while this node is draining, else 0", node.draining)
        yield gauge("eclipse_drain_sessions", "Sessions at the start of the drain", node.drain_sessions)
        yield gauge(
            "eclipse_drain_handed_over",
            "Chats that another node has taken over in this drain",
            node.handed_over,
        )
