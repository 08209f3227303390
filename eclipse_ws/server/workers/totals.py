"""What the workers of a machine report together: their health documents as one, their metrics as one page.

Counters and histograms are summed, those of workers that have ended included, so that they never fall. Of a
worker that was killed, what it counted after its last report is lost. Gauges are summed, too, except those of
which the lowest or the highest counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from prometheus_client.core import Metric

from eclipse_ws.server.families import counters, gauge, text

LOWEST: Final = frozenset(
    {"eclipse_backend_up", "eclipse_api_up", "eclipse_draining", "process_start_time_seconds"}
)
"""Gauges of which the lowest counts: 1 only if it is 1 in every worker."""
HIGHEST: Final = frozenset(
    {"eclipse_build_info", "eclipse_memory_limit_bytes", "eclipse_backend_latency_seconds"}
)
"""Gauges of which the highest counts."""
LARGEST_CHATS: Final = 20
ENDS: Final = ("exited", "hung")
"""How a worker that nobody stopped has ended: by itself, or it was killed because it was stuck."""

Report = list[Any]
"""A process's metrics, as they are sent: each family's name, text and type, and its samples."""
_Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def report(families: Iterable[Metric]) -> Report:
    """Metrics in a form that can be sent. An infinite value becomes None: JSON has none."""
    return [
        [
            family.name,
            family.documentation,
            family.type,
            [
                [sample.name, sample.labels, sample.value if math.isfinite(sample.value) else None]
                for sample in family.samples
            ],
        ]
        for family in families
    ]


def supervisor_metrics(ready: int, ended: Mapping[str, int]) -> Iterator[Metric]:
    """What only a supervisor counts."""
    yield gauge("eclipse_workers", "Workers of this machine that are ready; only if there are several", ready)
    yield counters(
        "eclipse_worker_ends",
        "Workers that ended although nobody stopped them, and were started again",
        "reason",
        dict.fromkeys(ENDS, 0) | dict(ended),
    )


class Totals:
    """Adds up the workers' metrics."""

    def __init__(self) -> None:
        self._ended: _Values = {}
        """What workers that have ended had counted."""

    def keep(self, last: Report) -> None:
        """Keep what a worker that has ended had counted, by its last report."""
        for _, _, kind, samples in last:
            if kind in ("counter", "histogram"):
                _add(self._ended, samples)

    def page(self, reports: Sequence[Report], own: Iterable[Metric]) -> bytes:
        """The page at ``/metrics``, of the reports of all workers and of the supervisor's own metrics."""
        return text(self._sum([*reports, report(own)]))

    def _sum(self, reports: Sequence[Report]) -> Iterator[Metric]:
        """Each family once."""
        helps: dict[str, tuple[str, str]] = {}
        values: dict[str, _Values] = {}
        for name, help_text, kind, samples in (family for each in reports for family in each):
            helps.setdefault(name, (help_text, kind))
            _add(
                values.setdefault(name, {}),
                samples,
                min if name in LOWEST else max if name in HIGHEST else None,
            )
        for name, (help_text, kind) in helps.items():
            metric = Metric(name, help_text, kind)
            for key, value in values[name].items():
                before = self._ended.get(key, 0) if kind != "gauge" else 0
                metric.add_sample(key[0], dict(key[1]), value + before)
            yield metric


def _add(values: _Values, samples: Iterable[Any], choose: Any = None) -> None:
    for name, labels, number in samples:
        key, value = (name, tuple(labels.items())), math.inf if number is None else number
        if key not in values:
            values[key] = value
        else:
            values[key] = choose(values[key], value) if choose else values[key] + value


def health(
    documents: Sequence[dict[str, Any]],
    largest: Iterable[Iterable[Any]],
    *,
    uptime: float,
    own_memory: int,
) -> dict[str, Any]:
    """One health document of those of all workers.

    ``largest`` are their largest chats, each an id and its sessions there; ``uptime`` and ``own_memory`` are
    the supervisor's. Of the states, the worst counts; ``draining`` only if all workers are.
    """
    whole = dict(documents[0])
    serving = [each for each in documents if each["status"] != "draining"]
    if serving:
        degraded = any(each["status"] == "degraded" for each in serving)
        whole["status"] = "degraded" if degraded else "healthy"
    chats: dict[str, int] = {}
    for chat_id, count in largest:
        chats[chat_id] = chats.get(chat_id, 0) + count
    first = sorted(chats.items(), key=lambda each: each[1], reverse=True)[:LARGEST_CHATS]
    whole["connections"] = {
        "total": sum(each["connections"]["total"] for each in documents),
        "byChat": [{"chatId": chat_id[:8] + "...", "count": count} for chat_id, count in first],
        "chats": sum(each["connections"]["chats"] for each in documents),
    }
    used, total = own_memory + sum(each["memory"]["used"] for each in documents), whole["memory"]["total"]
    whole["memory"] = {"used": used, "total": total, "percentage": round(100 * used / total)}
    states = [each["backend"]["state"] for each in documents]
    latencies = [each["backend"]["latency"] for each in documents if each["backend"]["latency"] is not None]
    whole["backend"] = {
        "name": whole["backend"]["name"],
        "state": next((state for state in ("down", "connecting") if state in states), "up"),
        "latency": max(latencies, default=None),
        "queued": sum(each["backend"]["queued"] for each in documents),
    }
    whole["api"] = "down" if any(each["api"] == "down" for each in documents) else "up"
    whole["uptime"] = round(uptime, 3)
    return whole
