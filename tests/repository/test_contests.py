"""The contests: their report, and how each server's client recovers, counts and waits."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.contests import report
from benchmarks.contests.base import Client, Contest
from benchmarks.contests.clients import CentrifugoClient, EclipseClient, SocketIOClient
from benchmarks.contests.contestants import CONTESTANTS

RESULTS: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "benchmarks/results/contests.json").read_text(encoding="utf-8")
)


class Sent:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def write(self, data: bytes) -> None:
        """Keep it; a frame's text without the frame."""
        if data.startswith(b"GET "):
            self.texts.append(data.split(b" ")[1].decode())
        else:
            self.texts.append(data[8 if data[1] == 0xFE else 6 :].decode())

    def abort(self) -> None:
        """Nothing to end."""


def connect(client: Client, greeting: str) -> list[str]:
    """A connection that is upgraded and greeted; what the client sent: the request target first."""
    transport = Sent()
    loop = asyncio.get_running_loop()
    client._buffer, client._is_upgraded = b"", False
    client._greeted, client._ended = loop.create_future(), loop.create_future()
    client.connection_made(transport)
    client.data_received(b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + frame(greeting))
    return transport.texts


def frame(text: str) -> bytes:
    """A server's text frame."""
    data = text.encode()
    return (
        bytes([0x81, len(data)]) if len(data) < 126 else b"\x81\x7e" + len(data).to_bytes(2, "big")
    ) + data


TICKS = {
    EclipseClient: (
        '{"type":"connected","cursor":"e-1"}',
        '{"type":"tick","data":{"n":%d},"cursor":"e-%d"}',
        '{"type":"connected","cursor":"e-5","recovered":true}',
        '{"type":"connected","cursor":"f-1","recovered":false}',
    ),
    CentrifugoClient: (
        '{"id":1,"connect":{"subs":{"chat:contest":{"epoch":"e","offset":1}}}}',
        '{}\n{"push":{"channel":"chat:contest","pub":{"data":{"n":%d},"offset":%d}}}',
        '{"id":1,"connect":{"subs":{"chat:contest":{"epoch":"e","recovered":true}}}}',
        '{"id":1,"connect":{"subs":{"chat:contest":{"epoch":"f","offset":9}}}}',
    ),
    SocketIOClient: (
        '40{"sid":"s","pid":"p"}',
        '42["tick",{"n":%d},"o-%d"]',
        '40{"sid":"s","pid":"p"}',
        '40{"sid":"t","pid":"q"}',
    ),
}
"""What each server says: a first greeting, a message, and greetings after a recovery and without one."""
POSITIONS = {
    EclipseClient: "&cursor=e-5",
    CentrifugoClient: '"subs":{"chat:contest":{"recover":true,"epoch":"e","offset":5}}',
    SocketIOClient: '40{"pid":"p","offset":"o-5"}',
}


def tick(kind: type[Client], number: int, position: int) -> bytes:
    """A message's frame."""
    return frame(TICKS[kind][1] % (number, position))


@pytest.mark.parametrize("kind", TICKS)
def test_a_client_recovers_from_its_last_position(kind: type[Client]) -> None:
    """What it missed is counted once it has come, copies are duplicates, and it says where it was."""

    async def play() -> None:
        client = kind(Contest([1], [1, 2, 3]), 0)
        first = connect(client, TICKS[kind][0])
        was_up = client.is_up
        assert not any(POSITIONS[kind] in text for text in first)
        client.data_received(tick(kind, 1, 5))
        client.connection_lost(None)
        assert (was_up, client.is_up) == (True, False)
        client._due = {2, 3}
        assert any(POSITIONS[kind] in text for text in connect(client, TICKS[kind][2]))
        client.data_received(tick(kind, 2, 6) + tick(kind, 2, 6)[:7])
        client.data_received(tick(kind, 2, 6)[7:])
        assert not client.replays
        client.data_received(tick(kind, 3, 7))
        assert (client.heard, client.duplicates, len(client.replays)) == ({1, 2, 3}, 1, 1)
        assert client.unrecovered == 0

    asyncio.run(play())


@pytest.mark.parametrize("kind", TICKS)
def test_a_client_that_is_not_recovered_is_counted(kind: type[Client]) -> None:
    """The first greeting is no failure, a later one without recovery is; the time it was down is taken."""

    async def play() -> None:
        client = kind(Contest([1]), 0)
        connect(client, TICKS[kind][0])
        client.data_received(tick(kind, 1, 5))
        assert (client.unrecovered, client.downs) == (0, [])
        client.connection_lost(None)
        connect(client, TICKS[kind][3])
        assert (client.unrecovered, len(client.downs)) == (1, 1)

    asyncio.run(play())


def test_pings_are_answered() -> None:
    """Centrifugo's and Socket.IO's own, and WebSocket's."""

    async def play() -> None:
        for kind, ping, pong in (
            (CentrifugoClient, frame("{}"), "{}"),
            (SocketIOClient, frame("2"), "3"),
            (EclipseClient, b"\x89\x01x", "x"),
        ):
            client = kind(Contest([1]), 0)
            sent = connect(client, TICKS[kind][0])
            client.data_received(ping)
            assert sent[-1] == pong

    asyncio.run(play())


def test_waits_are_those_of_each_client() -> None:
    """The longest and the shortest of many, in seconds."""
    waits = {
        (kind, attempt, code): [kind(Contest([1]), 0).delay(attempt, code) for _ in range(2000)]
        for kind in TICKS
        for attempt in (0, 3)
        for code in (0, 1012)
    }
    for (kind, attempt, code), low, high in (
        ((EclipseClient, 0, 1012), 0, 20),
        ((EclipseClient, 0, 0), 0, 0.5),
        ((CentrifugoClient, 0, 0), 0.5, 1),
        ((CentrifugoClient, 3, 0), 0.5, 4.5),
        ((SocketIOClient, 0, 0), 0.5, 1.5),
        ((SocketIOClient, 3, 0), 4, 5),
    ):
        found = waits[kind, attempt, code]
        assert low <= min(found) <= low + (high - low) / 20, (kind, attempt)
        assert high - (high - low) / 20 <= max(found) <= high, (kind, attempt)


def test_the_tables_are_made_from_the_stored_results() -> None:
    """The report was written since the results or the code changed."""
    assert report.tables(RESULTS) in report.PAGE.read_text(encoding="utf-8")


def test_the_report_says_how_busy_the_machine_was() -> None:
    """The worst of all runs; and of which clients, servers and runs it is."""
    values = {"messages": [120], "clients": [5000], "stall": [30.0], "others": [0.25], "delivered": [1.0]}
    results: dict[str, Any] = {
        "when": "2026-01-01",
        "machine": {"cpu": "a CPU", "cores": 2, "memory": "1 GB"},
        "versions": {"Redis": "7"},
        "jitter": {CONTESTANTS[0].name: values},
        "deploy": {},
    }
    text = report.tables(results)
    assert "late by at most 30 ms, and other processes used at most 25% of a core" in text
    assert "Medians of 1 run," in text
    assert "5,000 clients, each cut off" in text
    assert f"| {CONTESTANTS[0].name} | 100.000 % | – |" in text


def test_a_share_is_not_rounded_up() -> None:
    """One message in a million missed isn't 100 %; what is lost is added up over the runs."""
    assert report.cell("delivered", [0.999999]) == "99.999 %"
    assert report.cell("delivered", [1.0]) == "100.000 %"
    assert report.cell("missed", [1, 2, 0]) == "3"
    assert report.cell("replay p50", [10, 20, 30]) == "20 (10–30)"
    assert report.cell("back", []) == "–"


def test_each_contestant_publishes_the_number() -> None:
    """In a body that its clients understand."""
    bodies = [json.dumps(contestant.request(7)[2]) for contestant in CONTESTANTS]
    assert all('"n": 7' in body for body in bodies)
