"""What several workers report together."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from eclipse_ws.server.families import counter, counters, gauge, histogram
from eclipse_ws.server.metrics import NodeCollector
from eclipse_ws.server.server import Server
from eclipse_ws.server.workers.totals import HIGHEST, LOWEST, Report, Totals, health, report
from tests.conftest import make_settings


def sent(*families: Any) -> Report:
    """A report as the supervisor gets it."""
    found: Report = msgspec.json.decode(msgspec.json.encode(report(families)))
    return found


def read(page: bytes) -> dict[str, float]:
    """The page's samples."""
    return {
        sample.name + "".join(f"{{{value}}}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def test_metrics_are_summed() -> None:
    """Counters, gauges and histograms, by label and bucket; of some gauges the lowest or highest counts."""
    one, two = (
        sent(
            counter("c", "", number),
            counters("l", "", "kind", {"a": number, "b": 1}),
            histogram("h", "", (1, 2), (number, 0, 1), number),
            gauge("g", "", number),
            gauge("eclipse_backend_up", "", number > 1),
            gauge("eclipse_backend_latency_seconds", "", number),
            gauge("process_max_fds", "", float("inf")),
        )
        for number in (1, 4)
    )
    found = read(Totals().page([one, two], [gauge("g", "", 100)]))
    assert found == {
        "c_total": 5,
        "l_total{a}": 5,
        "l_total{b}": 2,
        "h_bucket{1}": 5,
        "h_bucket{2}": 5,
        "h_bucket{+Inf}": 7,
        "h_count": 7,
        "h_sum": 5,
        "g": 105,
        "eclipse_backend_up": 0,
        "eclipse_backend_latency_seconds": 4,
        "process_max_fds": float("inf"),
    }


def test_what_ended_workers_had_counted() -> None:
    """Counters and histograms keep it, and gauges don't."""
    totals = Totals()
    for _ in range(2):
        totals.keep(sent(counter("c", "", 2), gauge("g", "", 2), histogram("h", "", (1,), (1, 1), 3)))
    totals.keep([])
    now = sent(counter("c", "", 1), gauge("g", "", 1), histogram("h", "", (1,), (0, 0), 0))
    for _ in range(2):
        found = read(totals.page([now], []))
        assert (found["c_total"], found["g"], found["h_count"], found["h_sum"]) == (5, 1, 4, 6)
        assert found["h_bucket{1}"] == 2


def test_all_metrics_of_a_server_can_be_added() -> None:
    """Two equal reports make a page with the names of one, and the gauges that are named here exist."""
    families = list(NodeCollector(Server(make_settings()).node).collect())
    one = sent(*families)
    page = Totals().page([one, copy.deepcopy(one)], [])
    assert read(page).keys() == read(Totals().page([one], [])).keys()
    gauges = {family.name for family in families if family.type == "gauge"}
    assert gauges >= LOWEST | HIGHEST
    assert (
        read(page)["eclipse_memory_limit_bytes"]
        == read(Totals().page([one], []))["eclipse_memory_limit_bytes"]
    )


def document(status: str = "healthy", sessions: int = 1, **more: Any) -> dict[str, Any]:
    """A worker's health document."""
    return {
        "status": status,
        "uptime": 1.0,
        "connections": {"total": sessions, "byChat": [], "chats": 1},
        "memory": {"used": 100, "total": 1000, "percentage": 10},
        "timestamp": "",
        "backend": {"name": "redis", "state": "up", "latency": 0.5, "queued": 2},
        "api": "up",
        **more,
    }


def whole(*documents: dict[str, Any], largest: Any = ()) -> dict[str, Any]:
    """The machine's."""
    return health(documents, largest, uptime=7.0004, own_memory=50)


def test_health_is_the_sum() -> None:
    """Sessions, chats and memory are added; a chat's sessions on all workers count together."""
    largest = [("chat-one-1", 3), ("chat-two-2", 4), ("chat-one-1", 2), ("chat-one-3", 1)]
    found = whole(document(sessions=6), document(sessions=4), largest=largest)
    assert found["connections"] == {
        "total": 10,
        "byChat": [
            {"chatId": "chat-one...", "count": 5},
            {"chatId": "chat-two...", "count": 4},
            {"chatId": "chat-one...", "count": 1},
        ],
        "chats": 2,
    }
    assert found["memory"] == {"used": 250, "total": 1000, "percentage": 25}
    assert found["uptime"] == 7.0
    assert found["backend"] == {"name": "redis", "state": "up", "latency": 0.5, "queued": 4}


def test_the_worst_state_counts() -> None:
    """Of the backend and the application; a machine drains only if all of its workers do."""
    down = {"name": "redis", "state": "down", "latency": None, "queued": 0}
    found = whole(document(), document("degraded", backend=down, api="down"))
    assert (found["status"], found["backend"]["state"], found["api"]) == ("degraded", "down", "down")
    assert found["backend"]["latency"] == 0.5
    assert whole(document("draining"), document())["status"] == "healthy"
    assert whole(document("draining"), document("draining"))["status"] == "draining"
