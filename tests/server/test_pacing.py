"""Turns: strangers are served a few at a time, and nobody waits for a crowd."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from functools import partial

import pytest
from tornado.ioloop import IOLoop

from eclipse_ws.server.pacing import (
    EVENTS,
    FOUND,
    MAX_PER_TURN,
    OLDEST,
    PAUSE_TURNS,
    SLOW_TURN,
    TURN_BUDGET,
    Gate,
    PacedLoop,
    Turns,
)
from tests.client import until


def note(passed: list[int], number: int, _: object) -> None:
    """A request has had its turn."""
    passed.append(number)


async def turn(seconds: float = 0.0) -> None:
    """One turn of the loop that takes so long."""
    time.sleep(seconds)  # noqa: ASYNC251
    await asyncio.sleep(0)


@pytest.mark.gen_test
async def test_requests_take_turns() -> None:
    """A few requests pass in each turn of the loop, in order of arrival."""
    gate, passed = Gate(), list[int]()
    for number in range(MAX_PER_TURN):
        assert gate.enter("a") is None, number
    waits = []
    for number in range(2 * MAX_PER_TURN + 1):
        wait = gate.enter("a")
        assert wait is not None
        wait.add_done_callback(partial(note, passed, number))
        waits.append(wait)
    waits[0].cancel()
    counts = []
    while len(passed) < len(waits):
        before = len(passed)
        await asyncio.sleep(0)
        counts.append(len(passed) - before)
    assert passed == list(range(len(waits)))
    assert max(counts) <= MAX_PER_TURN + 1  # the one that left counts for none
    for _ in range(3):
        await asyncio.sleep(0)
    assert gate.enter("a") is None


@pytest.mark.gen_test
async def test_addresses_take_turns() -> None:
    """A crowd behind one address does not make another address wait behind all of it."""
    gate, passed = Gate(), list[int]()
    for _ in range(MAX_PER_TURN):
        assert gate.enter("crowd") is None
    waits = []
    for number, address in enumerate(["crowd"] * 20 + ["visitor"]):
        wait = gate.enter(address)
        assert wait is not None
        wait.add_done_callback(partial(note, passed, number))
        waits.append(wait)
    await asyncio.gather(*waits)
    await asyncio.sleep(0)
    assert passed.index(20) == 1
    assert [number for number in passed if number < 20] == list(range(20))


def test_the_newest_or_the_oldest_of_an_address() -> None:
    """An address's turn goes to its longest-waiting or its newest request; finished ones leave."""
    turns = Turns[int]()
    for number, address in enumerate("aaabbc"):
        turns.add(address, number)
    assert turns.take(newest=True) == 2
    assert [turns.take() for _ in range(4)] == [3, 5, 0, 4]
    assert len(turns) == 1
    for number, address in enumerate("abb", 10):
        turns.add(address, number)
    assert turns.take_while(lambda number: number < 12) == [1, 10, 11]
    assert (len(turns), turns.take(), len(turns)) == (1, 12, 0)
    assert not turns.take_while(lambda number: True)


@pytest.mark.gen_test
async def test_a_turn_has_a_budget_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strangers who take long are served one in a turn, others several."""
    monkeypatch.setattr("eclipse_ws.server.pacing.SLOW_TURN", 10.0)
    for seconds in (0.0, 2 * TURN_BUDGET):
        paced, served, turns = PacedLoop(Gate()), list[int](), [0]
        pairs = [socket.socketpair() for _ in range(20)]

        def serve(ready: socket.socket, _events: int) -> None:
            served.append(turns[0])  # noqa: B023
            ready.recv(1)
            time.sleep(seconds)  # noqa: B023

        for here, there in pairs:
            paced.add_handler(here, serve, IOLoop.READ)
            there.send(b"x")
        while len(served) < len(pairs):
            turns[0] += 1
            await asyncio.sleep(0)
        together = max(map(served.count, served))
        assert together == 1 if seconds else 1 < together <= EVENTS * MAX_PER_TURN
        for here, there in pairs:
            paced.remove_handler(here)
            here.close()
            there.close()
        paced.close()


@pytest.mark.gen_test
async def test_slow_turns_admit_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a slow turn none pass for a few turns, then half as many; after quick ones all again."""
    monkeypatch.setattr("eclipse_ws.server.pacing.QUICK_TURN", 0.0)
    monkeypatch.setattr("eclipse_ws.server.pacing.PAUSE_SECONDS", 10.0)
    gate = Gate()
    for most in (MAX_PER_TURN, MAX_PER_TURN // 2, MAX_PER_TURN // 4):
        assert gate.allowed == most
        await turn(2 * SLOW_TURN)
        for rested in range(PAUSE_TURNS):
            assert gate.allowed == 0, rested
            waiting = gate.enter("a")
            assert waiting is not None
            assert not waiting.done()
            waiting.cancel()
            await turn()
    assert gate.allowed == 1
    gate.enter("a")
    assert gate.enter("a") is not None
    await until(lambda: gate.allowed == MAX_PER_TURN)


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("name", "value"), [("QUICK_TURN", 10.0), ("PAUSE_SECONDS", 0.0), ("PAUSE_TURNS", 1)]
)
async def test_a_pause_ends(monkeypatch: pytest.MonkeyPatch, name: str, value: float) -> None:
    """A pause ends after an idle turn, and is bounded in turns and seconds."""
    rules = {"QUICK_TURN": 0.0, "PAUSE_SECONDS": 10.0, "PAUSE_TURNS": 100, name: value}
    for each in rules.items():
        monkeypatch.setattr(f"eclipse_ws.server.pacing.{each[0]}", each[1])
    gate = Gate()
    assert gate.allowed
    await turn(2 * SLOW_TURN)
    assert not gate.allowed
    await turn()
    assert gate.allowed


@contextlib.contextmanager
def streams(count: int) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    """Pairs of connected sockets."""
    pairs = [socket.socketpair() for _ in range(count)]
    try:
        yield pairs
    finally:
        for pair in pairs:
            for each in pair:
                each.close()


@pytest.mark.gen_test
async def test_the_newest_of_a_crowd_are_served_first() -> None:
    """Of very many streams that are ready a few are served in a turn: the newest, and some of the oldest."""
    served, crowd = list[int](), FOUND
    paced = PacedLoop(Gate())
    with streams(crowd) as pairs:
        places = {id(ours): place for place, (ours, _) in enumerate(pairs)}

        def serve(of: socket.socket, _events: int) -> None:
            served.append(places[id(of)])
            of.recv(1)

        for ours, _ in pairs:
            paced.add_handler(ours, serve, IOLoop.READ)
        for _, theirs in pairs:
            theirs.send(b"x")
        while not served:
            await turn()
        assert len(served) <= EVENTS * MAX_PER_TURN
        await until(lambda: len(served) == crowd)
        oldest = served[OLDEST - 1 :: OLDEST]
        newest = [place for number, place in enumerate(served, 1) if number % OLDEST]
        assert oldest == list(range(crowd // OLDEST))
        assert newest == list(range(crowd - 1, crowd // OLDEST - 1, -1))
        assert not paced._waiting
        for ours, _ in pairs:
            paced.remove_handler(ours)
        paced.close()


@pytest.mark.gen_test
async def test_a_waiting_stream_may_change_its_interest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that waits for its turn may change what it wants, or leave; both take effect."""
    served = list[tuple[int, int]]()
    monkeypatch.setattr(Gate, "allowed", 0)
    paced = PacedLoop(Gate())
    with streams(3) as pairs:
        ours = [each for each, _ in pairs]
        places = {id(each): place for place, each in enumerate(ours)}

        def serve(of: socket.socket, events: int) -> None:
            served.append((places[id(of)], events))
            if events & IOLoop.READ:
                of.recv(1)
            else:
                paced.update_handler(of, 0)

        for each, theirs in pairs:
            paced.add_handler(each, serve, IOLoop.READ)
            theirs.send(b"x")
        await until(lambda: len(paced._waiting) == 3)
        assert not paced._readiness.poll(0, 3), "who waits must not be reported again and again"
        paced.update_handler(ours[0], IOLoop.WRITE)
        paced.remove_handler(ours[1])
        monkeypatch.setattr(Gate, "allowed", 1)
        await until(lambda: len(served) == 2)
        assert served == [(2, IOLoop.READ), (0, IOLoop.WRITE)]
        paced.update_handler(ours[0], IOLoop.READ)
        await until(lambda: len(served) == 3)
        assert served[2] == (0, IOLoop.READ)
        assert not paced._readiness.poll(0, 3), "who wants to read must not be reported because it may write"
        paced.close()
