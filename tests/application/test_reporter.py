"""What the application is told, and by whom, on a clock on which nothing is waited for."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from eclipse_ws.application import report_queue, reporter
from eclipse_ws.application.reports import MAX_BATCH
from eclipse_ws.application.reports_client import ApplicationBusy
from eclipse_ws.backends.ledger import MemoryLedger
from tests.application.reporter_world import Application, Reporting
from tests.delivery.presence_world import played_on, settled
from tests.delivery.world import Flaky, Server

Expect = Callable[..., None]
C = "chat"
GONE = 30.0
"""Seconds until a killed node's users are told to have left."""


class Stage:
    """Nodes over one server, and an application."""

    def __init__(self) -> None:
        self.server = Server(random.Random(1))
        self.shared = MemoryLedger()
        self.application = Application(random.Random(1))
        self.names = 0

    async def node(self) -> Reporting:
        """Start one."""
        self.names += 1
        backend = Flaky(self.server, f"n{self.names}", 0)
        clock = asyncio.get_running_loop().time
        return await Reporting(backend, clock, self.shared, self.application).start()

    async def nodes(self, count: int) -> list[Reporting]:
        """Start some, the first of which reports."""
        made = [await self.node()]
        await settled(lambda: made[0].reporter.is_reporting, "the first reports")
        made += [await self.node() for _ in range(count - 1)]
        await settled(lambda: all(len(node.presence._peers) == count - 1 for node in made), "they are known")
        return made

    def told(self, *, since: int = 0) -> list[str]:
        """The reports in the order in which they came, each as one word or more."""
        reports = list(self.application.reports.values())[since:]
        return [" ".join(filter(None, (r.type, r.user_id, r.message_id))) for r in reports]


on_stage = played_on(Stage)


@on_stage
async def test_comings_and_goings(stage: Stage) -> None:
    """A chat is occupied with its first user, and vacated five seconds after the last has left."""
    one, other = await stage.nodes(2)
    one.come(C, "a")
    await asyncio.sleep(1)
    other.come(C, "b", "agent")
    await asyncio.sleep(1)
    assert stage.told() == ["chat_occupied", "user_joined a", "user_joined b"]
    one.go(C, "a")
    await asyncio.sleep(3)
    other.go(C, "b")
    await asyncio.sleep(4)
    assert stage.told(since=3) == ["user_left a"]
    await asyncio.sleep(4)
    assert stage.told(since=4) == ["user_left b", "chat_vacated"]
    assert not await stage.shared.read()
    roles = {report.user_id: report.role for report in stage.application.reports.values() if report.user_id}
    assert roles == {"a": "user", "b": "agent"}


@on_stage
async def test_a_cut_is_not_told(stage: Stage) -> None:
    """Who is back within five seconds, on this node or another, has not left."""
    one, other = await stage.nodes(2)
    one.come(C, "a")
    await asyncio.sleep(1)
    for before, after in ((one, one), (one, other), (other, one)):
        before.go(C, "a")
        await asyncio.sleep(4.5)
        after.come(C, "a")
        await asyncio.sleep(10)
    assert stage.told() == ["chat_occupied", "user_joined a"]


@on_stage
async def test_a_killed_node(stage: Stage) -> None:
    """The chats of a killed node are vacated within half a minute, once; those of others stay."""
    one, other, third = await stage.nodes(3)
    other.come(C, "a")
    other.come("moved", "b")
    third.come("stays", "c")
    await asyncio.sleep(1)
    before = len(stage.application.reports)
    await other.kill()
    await asyncio.sleep(3)
    one.come("moved", "b")
    await asyncio.sleep(GONE - 3)
    assert stage.told(since=before) == ["user_left a", "chat_vacated"]
    assert not stage.application.chats[C].occupied
    await asyncio.sleep(60)
    assert len(stage.application.reports) == before + 2


@on_stage
async def test_the_reporter_is_killed(stage: Stage) -> None:
    """Another node reports then, knows what was told, and tells what happened to the killed node's users."""
    one, other, third = await stage.nodes(3)
    one.come(C, "a")
    other.come("stays", "b")
    await asyncio.sleep(1)
    before = len(stage.application.reports)
    await one.kill()
    third.come("new", "c")
    await asyncio.sleep(GONE)
    assert sorted(stage.told(since=before)) == [
        "chat_occupied",
        "chat_vacated",
        "user_joined c",
        "user_left a",
    ]
    assert sorted(node.reporter.is_reporting for node in (other, third)) == [False, True]


@on_stage
async def test_the_reporter_is_stopped(stage: Stage) -> None:
    """It says so, and the next one tells within seconds what it has not."""
    one, other = await stage.nodes(2)
    one.come(C, "a")
    await asyncio.sleep(1)
    await one.close()
    await settled(lambda: other.reporter.is_reporting, "the other reports")
    await asyncio.sleep(8)
    assert stage.told(since=2) == ["user_left a", "chat_vacated"]


@on_stage
async def test_the_only_node_is_killed(stage: Stage) -> None:
    """The one that is started in its place knows whom the application takes to be there."""
    (one,) = await stage.nodes(1)
    one.come(C, "a")
    one.come("other", "b")
    await asyncio.sleep(1)
    before = len(stage.application.reports)
    await one.kill()
    await asyncio.sleep(600)
    node = await stage.node()
    node.come(C, "a")
    await asyncio.sleep(20)
    assert stage.told(since=before) == ["user_left b", "chat_vacated"]
    assert stage.application.chats[C].users == {"a": "user"}


@on_stage
async def test_an_outage_of_the_application(stage: Stage, expect_log: Expect) -> None:
    """What happens in ten minutes without it is told in order when it is back, also by another node."""
    expect_log("reports not taken")
    one, _ = await stage.nodes(2)
    stage.application.is_down = True
    for number in range(100):
        one.come(f"c{number % 7}", f"u{number}")
        await asyncio.sleep(3)
        one.go(f"c{number % 7}", f"u{number}")
        await asyncio.sleep(3)
        if number == 50:
            await one.kill()
            one = await stage.node()
            await asyncio.sleep(GONE)  # a visit that begins and ends while nobody reports is not told
    assert not stage.application.reports
    stage.application.is_down = False
    await asyncio.sleep(120)
    assert stage.application.count("user_joined") == stage.application.count("user_left") == 100
    assert stage.application.count("chat_occupied") == stage.application.count("chat_vacated")
    assert not any(told.occupied for told in stage.application.chats.values())
    assert not stage.application.repeats


@on_stage
async def test_a_repeated_batch(stage: Stage, expect_log: Expect) -> None:
    """A batch whose response is lost is sent again, under the same ids."""
    expect_log("reports not taken")
    (one,) = await stage.nodes(1)
    post = stage.application.post
    lost: list[bool] = []

    async def lose(reports: Any) -> None:
        await post(reports)
        if not lost:
            lost.append(True)
            raise ApplicationBusy("no response")

    one.reporter._client.post = lose  # type: ignore[method-assign]
    one.come(C, "a")
    await asyncio.sleep(5)
    assert stage.told() == ["chat_occupied", "user_joined a"]
    assert stage.application.repeats == 2


@on_stage
async def test_a_refused_report(stage: Stage, expect_log: Expect) -> None:
    """What the application can't take is dropped alone: the others of its batch are told."""
    expect_log("report refused")
    (one,) = await stage.nodes(1)
    stage.application.refuses = {"bad"}
    for chat_id in ("a", "bad", "c"):
        one.come(chat_id, "u")
    await asyncio.sleep(5)
    assert stage.application.batches == [1, 1, 1, 1]
    assert one.reporter.counts.refused == 2
    assert {told.occupied for told in stage.application.chats.values()} == {True}
    one.come("d", "u")
    one.come("e", "u")
    await asyncio.sleep(5)
    assert stage.application.batches[4:] == [4]


@on_stage
async def test_a_long_batch(stage: Stage, expect_log: Expect) -> None:
    """Many reports are sent in batches of at most so many."""
    expect_log("reports not taken")
    (one,) = await stage.nodes(1)
    stage.application.is_down = True
    for number in range(MAX_BATCH):
        one.come(f"c{number}", "u")
    await asyncio.sleep(5)
    stage.application.is_down = False
    await asyncio.sleep(60)
    assert stage.application.batches == [MAX_BATCH, MAX_BATCH]


@patch.object(report_queue, "MAX_WAITING", 20)
@patch.object(report_queue, "MAX_OF_CHAT", 10)
@on_stage
async def test_more_than_may_wait(stage: Stage, expect_log: Expect) -> None:
    """Of what happens while too much waits only the result is told, and nothing grows."""
    expect_log("reports not taken")
    one, other = await stage.nodes(2)
    stage.application.is_down = True
    for number in range(30):
        other.come(C, f"u{number}")
        await asyncio.sleep(7)
        other.go(C, f"u{number}")
    await asyncio.sleep(10)
    assert one.reporter.waiting == len(one.reporter._queue._chats[C]) <= report_queue.MAX_OF_CHAT + 2
    for number in range(30):
        one.come(f"c{number}", "u")
        await asyncio.sleep(7)
        one.go(f"c{number}", "u")
    assert one.reporter.waiting <= report_queue.MAX_WAITING + 2
    one.come("last", "u")
    stage.application.is_down = False
    await asyncio.sleep(120)
    occupied = [chat_id for chat_id, told in stage.application.chats.items() if told.occupied]
    assert occupied == ["last"]
    assert stage.application.count("user_joined") < 61


@on_stage
async def test_a_reporter_that_others_take_for_dead(stage: Stage) -> None:
    """It finds out when it writes the ledger, which another node holds, and stops."""
    one, other = await stage.nodes(2)
    backend: Any = one.backend
    send = backend.send
    backend.send = one._never
    await settled(lambda: other.reporter.is_reporting, "the other reports")
    backend.send = send
    assert one.reporter.is_reporting
    one.come(C, "a")
    await settled(lambda: not one.reporter.is_reporting, "the first has stopped")
    await asyncio.sleep(20)
    assert stage.told() == ["chat_occupied", "user_joined a"]
    assert other.reporter.is_reporting


@on_stage
async def test_the_backend_loses_its_data(stage: Stage) -> None:
    """The reporter has all of it, and writes it again."""
    one, other = await stage.nodes(2)
    other.come(C, "a")
    await asyncio.sleep(5)  # nothing of that chat is left to be written
    stage.shared.__init__()  # type: ignore[misc]
    one.come("new", "b")
    await asyncio.sleep(2)
    assert (await stage.shared.read()).keys() == {C, "new"}
    await one.kill()
    await asyncio.sleep(GONE)
    assert stage.told(since=4) == ["user_left b", "chat_vacated"]


@on_stage
async def test_reads(stage: Stage) -> None:
    """A read that any node hears is told, and if the reporter dies before it could, by the next one."""
    one, other = await stage.nodes(2)
    for node in (one, other):
        node.read(C, "a", "m1")
    await asyncio.sleep(1)
    assert stage.told() == ["read a m1"]
    await asyncio.sleep(reporter.RECENT + 1)
    await one.kill()
    other.read(C, "a", "m2")
    await asyncio.sleep(GONE)
    assert stage.told() == ["read a m1", "read a m2"]


@on_stage
async def test_a_fleet_at_rest_asks_the_backend_nothing(stage: Stage) -> None:
    """To be the reporter, or to wait for its end, costs no command."""
    one, other = await stage.nodes(2)
    one.come(C, "a")
    await asyncio.sleep(10)
    before = one.ledger.commands, other.ledger.commands
    await asyncio.sleep(3600)
    assert (one.ledger.commands, other.ledger.commands) == before


@on_stage
async def test_a_backend_without_a_ledger(stage: Stage, expect_log: Expect) -> None:
    """Nothing is reported, which the log says."""
    expect_log("no ledger")
    backend, clock = Flaky(stage.server, "n1", 0), asyncio.get_running_loop().time
    one = Reporting(backend, clock, stage.shared, stage.application)
    one.backend.ledger = None
    await one.start()
    one.come(C, "a")
    await asyncio.sleep(10)
    assert not stage.application.reports
    await one.close()


@on_stage
async def test_a_malformed_record(stage: Stage, expect_log: Expect) -> None:
    """What another release has written there, and nobody understands, is dropped, and the rest is told."""
    expect_log("malformed record")
    await stage.shared.take("gone")
    await stage.shared.write("gone", {"x": b"[1]", C: b'{"users":{"a":"user"}}'})
    await stage.nodes(1)
    stage.application.chats[C].occupied, stage.application.chats[C].users = True, {"a": "user"}
    await asyncio.sleep(10)
    assert stage.told() == ["user_left a", "chat_vacated"]
    assert not await stage.shared.read()
