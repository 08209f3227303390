"""Metrics: collected from plain counters when somebody scrapes, so that nothing is paid for them before.

Every label has a small, fixed set of values; no chat, user or session ever is one. So the page is as
long with ten thousand sessions as with ten.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from eclipse_ws import __version__
from eclipse_ws.api.base import LATENCY_BUCKETS
from eclipse_ws.node import Node, memory_bytes
from eclipse_ws.wire.poll import queued_bytes
from eclipse_ws.wire.poll import stats as wire

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
"""What a call of the chat API may end as; anything else is counted as ``other``."""


def exposition(node: Node) -> bytes:
    """The page at ``/metrics``, in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(NodeCollector(node))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


class NodeCollector(Collector):
    """Reads a node's counters."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance: the registry need not collect only to learn the names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every metric that the server has."""
        yield from self._process()
        yield from self._sessions()
        yield from self._events()
        yield from self._backend()
        yield from self._api()
        yield from self._drain()

    def _process(self) -> Iterator[Metric]:
        settings = self._node.settings
        build = GaugeMetricFamily(
            "eclipse_build_info", "Always 1; what runs here", labels=["version", "machine", "region"]
        )
        build.add_metric([__version__, settings.machine, settings.region], 1)
        yield build
        yield _gauge("eclipse_memory_limit_bytes", "What this process may use", memory_bytes())
        lag = self._node.lag.timing
        yield _histogram(
            "eclipse_loop_lag_seconds", "How late the event loop is", lag.bounds, lag.buckets, lag.seconds
        )

    def _sessions(self) -> Iterator[Metric]:
        node, counts = self._node, self._node.session_counts
        yield _gauge("eclipse_sessions", "Sessions in a chat", node.hub.sessions)
        yield _gauge(
            "eclipse_sessions_limit", "Sessions that this node takes at most", node.settings.max_sessions
        )
        yield _gauge("eclipse_chats", "Chats with sessions on this node", node.hub.chats)
        yield _counter("eclipse_sessions_started", "Sessions with a valid token", counts["started"])
        yield _counter("eclipse_sessions_ended", "Of those, the ones that have ended", counts["ended"])
        yield _counters(
            "eclipse_refusals",
            "What was refused, by the limit it ran into",
            "reason",
            # What the wire refuses by itself is counted there.
            {**node.limits.refused, "max_frame": wire.too_big, "queue_bytes": wire.closed_slow},
        )
        yield _counter(
            "eclipse_rate_closes", "Sessions closed for refused commands (4009)", node.limits.closed
        )
        yield _counters("eclipse_commands", "Commands taken", "type", node.commands.handled)
        yield _counter("eclipse_command_errors", "Commands answered with an error", counts["errors"])
        yield _gauge("eclipse_commands_under_way", "Commands begun and not ended", node.under_way)
        yield _gauge("eclipse_sockets", "WebSockets open", wire.sockets)
        yield _gauge("eclipse_queue_bytes", "Bytes queued for peers that don't read", queued_bytes())
        yield _gauge("eclipse_queue_limit_bytes", "Bytes queued at most", node.settings.node_queue_bytes)
        yield _counters(
            "eclipse_frames", "WebSocket frames", "direction", {"in": wire.frames_in, "out": wire.frames_out}
        )
        yield _counters(
            "eclipse_bytes", "Bytes of frames", "direction", {"in": wire.bytes_in, "out": wire.bytes_out}
        )
        yield _counter("eclipse_writes", "System calls that wrote frames", wire.sends)
        yield _counter("eclipse_frames_dropped", "Ephemeral frames that a full queue cost", wire.dropped)
        yield _counter("eclipse_slow_closes", "Sessions closed as too slow (4008)", wire.closed_slow)
        yield _counter("eclipse_protocol_errors", "Peers that broke RFC 6455", wire.protocol_errors)

    def _events(self) -> Iterator[Metric]:
        hub, timing = self._node.hub, self._node.hub.latency
        yield _counter("eclipse_events", "Events handed to chats of this node", hub.events)
        yield _counter("eclipse_deliveries", "Events times the sessions that got them", hub.deliveries)
        yield _counters(
            "eclipse_resumes",
            "Sessions that came with a cursor",
            "outcome",
            {"recovered": hub.resumed, "not_recovered": hub.not_resumed},
        )
        yield _counter("eclipse_interrupts", "Sessions told to resume (4010)", hub.interrupted)
        yield _histogram(
            "eclipse_event_to_socket_seconds",
            "From an event's arrival to its last socket; one event a turn is measured",
            timing.bounds,
            timing.buckets,
            timing.seconds,
        )

    def _backend(self) -> Iterator[Metric]:
        backend = self._node.backend
        health = backend.health()
        yield _gauge("eclipse_backend_up", "1 while the other nodes are reached", health.state == "up")
        yield _gauge(
            "eclipse_backend_latency_seconds", "The last round trip to the backend", health.latency or 0.0
        )
        yield _gauge("eclipse_backend_queued", "Events that wait for the backend", health.queued)
        yield _counter("eclipse_backend_published", "Events sequenced by this node", backend.published)
        yield _counter(
            "eclipse_duplicates_dropped",
            "Copies of events, not delivered",
            backend.duplicates_dropped,
        )
        yield _counters(
            "eclipse_backend_dropped",
            "What could not be carried",
            "reason",
            {
                "malformed": backend.malformed_dropped,
                "broadcast": backend.broadcasts_dropped,
                "overflow": backend.queue_overflowed,
            },
        )

    def _api(self) -> Iterator[Metric]:
        api = self._node.api
        stats = api.stats
        calls = dict.fromkeys((*OUTCOMES, "other"), 0)
        for outcome, count in stats.calls.items():
            calls[outcome if outcome in calls else "other"] += count
        yield _gauge("eclipse_api_up", "1 while calls to the chat API are let through", api.state == "up")
        yield _counters("eclipse_api_calls", "Calls to the chat API", "outcome", calls)
        yield _histogram(
            "eclipse_api_seconds", "Calls to the chat API", LATENCY_BUCKETS, stats.buckets, stats.seconds
        )
        yield _gauge("eclipse_api_active", "Calls under way", stats.active)
        yield _gauge("eclipse_api_waiting", "Calls that wait for a connection", stats.waiting)

    def _drain(self) -> Iterator[Metric]:
        node = self._node
        yield _gauge("eclipse_draining", "1 from the signal to the end", node.draining)
        yield _gauge("eclipse_drain_sessions", "Sessions that there were at the signal", node.drain_sessions)
        yield _gauge(
            "eclipse_drain_handed_over", "Chats that another node hears by now in a drain", node.handed_over
        )


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
    """Of buckets that are not cumulative, the last one without an upper bound."""
    total, buckets = 0, []
    for bound, count in zip((*map(str, bounds), "+Inf"), counts, strict=True):
        total += count
        buckets.append((bound, total))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=seconds)
