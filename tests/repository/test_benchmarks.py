"""The benchmarks' own arithmetic: shares of many sessions, what peers are asked for, and reasons for gaps."""

from __future__ import annotations

import json
import resource
from typing import Any

import jwt
import pytest

from benchmarks import centrifugo, many, report, servers
from benchmarks.processes import CannotRunError
from benchmarks.targets import TARGETS
from benchmarks.works import WORKS

FRESH: dict[str, Any] = {
    "values": {},
    "others": {},
    "skipped": {},
    "when": "2026-01-01",
    "machine": {"cpu": "a CPU", "cores": 2, "memory": "1 GB"},
    "versions": {},
    "seconds": 1,
}


def test_the_shares_hold_each_chat_once() -> None:
    """No generator has more sessions than it may, and each has an address of its own."""
    loads = many.shares(100_000, 19_800)
    chats = [chat for load in loads for chat in range(load.first, load.first + load.chats)]
    assert chats == list(range(50_000))
    assert max(load.chats * load.per_chat for load in loads) == 19_800
    assert len({tuple(load.options) for load in loads}) == len(loads) == 6


def test_too_few_file_descriptors_are_a_reason_to_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says how many are needed and how many there are, before anything is started."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 20_000))
    with pytest.raises(CannotRunError, match=r"need 104,650 file descriptors, 20,000 are allowed"):
        many.many(servers.OURS, 1)


def test_a_skipped_measurement_says_why() -> None:
    """The reason may be of either side; without one it was not measured."""
    target = next(target for target in TARGETS if target.against is centrifugo.CENTRIFUGO)
    line = f"{target.measurement}: {centrifugo.CENTRIFUGO.name}"
    table = report.tables({**FRESH, "skipped": {line: "Go is not installed"}})
    assert table.count("skipped: Go is not installed |") == 1
    assert "not installed" not in report.tables(FRESH)
    assert "not measured |" in report.tables(FRESH)


def test_every_target_belongs_to_a_work() -> None:
    """A target whose measurement no work gives would stay empty."""
    for target in TARGETS:
        works = [work for work in WORKS if work.gives(target.measurement)]
        assert len(works) == 1, target
        assert target.ours in works[0].servers, target
        assert target.against is None or target.against in works[0].servers, target


def test_a_member_of_centrifugo_subscribes_by_its_token() -> None:
    """The first command has a token for the chat's channel, and what it sends goes there."""
    path, connect, publish = centrifugo.target("c1", "u1").split("\t")
    claims = jwt.decode(json.loads(connect)["connect"]["token"], servers.JWT_SECRET, algorithms=["HS256"])
    assert path == "/connection/websocket"
    assert (claims["sub"], claims["channels"]) == ("u1", ["chat:c1"])
    assert json.loads(publish)["publish"]["channel"] == "chat:c1"
    assert centrifugo.settings(1)["client"]["token"]["hmac_secret_key"] == servers.JWT_SECRET
