"""Metrics as Prometheus' client library represents them, made of plain numbers; and those of a process."""

from __future__ import annotations

import contextlib
import math
import resource
from collections.abc import Iterable, Iterator, Mapping, Sequence

import psutil
from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from eclipse_ws.server import file_descriptors


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def text(families: Iterable[Metric]) -> bytes:
    """These metrics in Prometheus' text format."""
    return generate_latest(_Families(families))


def process() -> Iterator[Metric]:
    """The process metrics of every Prometheus client, under the usual names; by psutil on any system."""
    # Metrics that this system lacks are left out rather than fail the whole page.
    with contextlib.suppress(psutil.Error, OSError):
        process = psutil.Process()
        memory, cpu = process.memory_info(), process.cpu_times()
        yield gauge("process_resident_memory_bytes", "Resident memory of this process", memory.rss)
        yield gauge("process_virtual_memory_bytes", "Virtual memory of this process", memory.vms)
        yield counter("process_cpu_seconds", "CPU seconds of this process", cpu.user + cpu.system)
        yield gauge(
            "process_start_time_seconds", "Start of this process, as a Unix time", process.create_time()
        )
        yield gauge(
            "process_open_fds", "Open files of this process, sockets included", file_descriptors.opened()
        )
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = math.inf if limit == resource.RLIM_INFINITY else limit
    yield gauge("process_max_fds", "Files that this process may have open", most)


def gauge(name: str, text: str, value: float) -> Metric:
    """A number that may fall."""
    return GaugeMetricFamily(name, text, value=value)


def counter(name: str, text: str, value: float) -> Metric:
    """A number that only grows; its name without the suffix `_total`."""
    return CounterMetricFamily(name, text, value=value)


def counters(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """Such a number for each value of a label."""
    family = CounterMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def histogram(name: str, text: str, bounds: Sequence[float], counts: Sequence[int], seconds: float) -> Metric:
    """A histogram from buckets that are not cumulative; the last one has no upper bound."""
    total, buckets = 0, []
    for bound, count in zip((*map(str, bounds), "+Inf"), counts, strict=True):
        total += count
        buckets.append((bound, total))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=seconds)
