"""The operator's load tool with --presence: who is told what, by servers that have presence and by others."""

from __future__ import annotations

import pytest

from eclipse_ws.commands import bench_presence, bench_report
from eclipse_ws.commands.bench_client import BenchError
from eclipse_ws.commands.bench_report import Outcome, Presence
from tests.client import running
from tests.commands.test_bench import GREETING, UPGRADED, call, frame, measure, peer
from tests.conftest import SECRET

GRACE = "delivery.presence_view.GRACE"
LIST = frame(b'{"type":"presence","data":{"users":[],"count":0}}')


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less time to make sure that nothing follows."""
    monkeypatch.setattr(bench_presence, "SETTLE", 0.1)


def found(outcome: Outcome) -> Presence:
    """What was found out about presence."""
    assert outcome.presence is not None
    return outcome.presence


@pytest.mark.gen_test
@pytest.mark.parametrize("mode", ["typing", "message"])
async def test_everything_is_told(mode: str) -> None:
    """Watchers are told who comes and who leaves, and not about reloads; events arrive as without them."""
    async with running(**{GRACE: 1.5}) as server:
        outcome = await measure(
            f"ws://127.0.0.1:{server.port}", mode=mode, per_chat=3, sessions=8, rate=20.0, presence=True
        )
    presence = found(outcome)
    assert (presence.watchers, presence.listed) == (3, 3)
    assert presence.online.total == presence.came == 8
    assert presence.gone.total == presence.left == 3
    assert (presence.reloads, presence.slow, presence.seen) == (3, 0, 0)
    assert outcome.received == outcome.expected > 0
    assert outcome.good


@pytest.mark.gen_test
async def test_reloads_that_are_told() -> None:
    """A server that takes a reload for a departure doesn't pass."""
    async with running(**{GRACE: 0.0}) as server:
        outcome = await measure(f"ws://127.0.0.1:{server.port}", sessions=8, presence=True)
    assert found(outcome).seen > 0
    assert not outcome.good


@pytest.mark.gen_test
async def test_departures_that_are_never_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who have left are waited for until a timeout."""
    monkeypatch.setattr(bench_presence, "GONE_WAIT", 0.1)
    async with running(**{GRACE: 100.0}) as server:
        outcome = await measure(f"ws://127.0.0.1:{server.port}", presence=True)
    assert (found(outcome).left, found(outcome).gone.total) == (2, 0)
    assert not outcome.good


@pytest.mark.gen_test
async def test_a_server_without_presence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that ignores `events` is reported, before any load."""
    monkeypatch.setattr(bench_presence, "LIST_WAIT", 0.2)
    async with running(**{"sessions.session.OPT_IN": frozenset()}) as server:
        with pytest.raises(BenchError, match=r"doesn't tell presence.*Fix: .*leave out --presence"):
            await measure(f"ws://127.0.0.1:{server.port}", presence=True)


@pytest.mark.gen_test
async def test_a_wrong_secret() -> None:
    """If no watcher is accepted, the error names the reason."""
    async with running(jwt_secret=SECRET + "x") as server:
        with pytest.raises(BenchError, match=r"No session was accepted.*4002 Invalid token \(2\)"):
            await measure(f"ws://127.0.0.1:{server.port}", presence=True)


@pytest.mark.gen_test
async def test_a_peer_that_tells_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who were never told are counted, and nonsense does no harm."""
    for wait in ("ONLINE_WAIT", "GONE_WAIT"):
        monkeypatch.setattr(bench_presence, wait, 0.05)
    monkeypatch.setattr("eclipse_ws.commands.bench.DRAIN", 0.05)
    nonsense = frame(b'{"type":"presence","data":7}') + frame(b'{"type":"presence","data":{"users":[1,{}]}}')
    async with peer(UPGRADED + frame(GREETING) + LIST + nonsense) as url:
        outcome = await measure(url, presence=True)
    presence = found(outcome)
    assert (presence.listed, presence.came, presence.online.total) == (2, 4, 0)
    assert (presence.left, presence.gone.total) == (2, 0)


@pytest.mark.gen_test
async def test_reloads_that_are_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who takes long to return may be seen, so they are not counted as a reload."""
    monkeypatch.setattr(bench_presence, "RELOAD", 0.0)
    async with running(**{GRACE: 0.2}) as server:
        outcome = await measure(f"ws://127.0.0.1:{server.port}", presence=True)
    assert (found(outcome).reloads, found(outcome).slow, found(outcome).seen) == (2, 2, 0)
    assert not outcome.good


def test_summary() -> None:
    """The summary says how many were told, how many never, and how long it took."""
    presence = Presence(watchers=2, listed=1, came=3, left=2, reloads=4, slow=1, seen=2)
    presence.online.add(0.002)
    presence.online.add(0.004)
    shown = bench_report.summary(Outcome(presence=presence)).splitlines()[-4:]
    assert shown[0] == "watchers    1 of 2 got the list of their chat's users"
    assert shown[1].startswith("online      2 of 3 told, 1 never   p50 2")
    assert shown[1].endswith("longest 4 ms")
    assert shown[2] == "gone        0 of 2 told, 2 never"
    assert shown[3] == "reloads     2 of 3 told, expected 0; 1 failed or were too slow to count"
    assert "watchers" not in bench_report.summary(Outcome())


def test_a_crowd() -> None:
    """Chats in which only the count is told are refused before anything is done."""
    result = call("127.0.0.1:1", "--presence", "--per-chat", "100", JWT_SECRET=SECRET)
    assert result.exit_code == 2
    assert "at most 99 sessions, not 100" in result.stderr
