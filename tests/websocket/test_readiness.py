"""Readiness: an epoll and its replacement on systems without one do the same."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections.abc import Callable, Iterator

import pytest

from eclipse_ws.websocket import readiness
from eclipse_ws.websocket.readiness import READ, WRITE, Epoll, LoopReadiness, Readiness
from tests.client import until

KINDS = [
    pytest.param(
        Epoll, marks=pytest.mark.skipif(not hasattr(select, "epoll"), reason="only Linux has epoll")
    ),
    LoopReadiness,
]
every_kind = pytest.mark.parametrize("kind", KINDS)
Pair = tuple[socket.socket, socket.socket]


class Watcher:
    """A Readiness, and what it reported."""

    def __init__(self, kind: type[Epoll | LoopReadiness], most: int = 100) -> None:
        self.turns: list[list[tuple[int, int]]] = []
        self.most = most
        self.readiness: Readiness = kind(asyncio.get_running_loop(), self.on_ready)

    def on_ready(self) -> None:
        """Take what is ready, as a user does."""
        if ready := self.readiness.poll(0, self.most):
            self.turns.append(ready)

    async def next(self) -> list[tuple[int, int]]:
        """What the next turns report, first."""
        self.turns.clear()
        await until(lambda: self.turns)
        return self.turns[0]

    async def sees(self, *ready: tuple[int, int]) -> None:
        """Wait until a turn reports just this."""
        await until(lambda: list(ready) in self.turns)
        self.turns.clear()

    async def in_a_turn(self, act: Callable[[], None]) -> None:
        """Do this in the place of `on_ready`, when an event has been seen and not been polled yet."""
        if isinstance(self.readiness, LoopReadiness):
            done: list[None] = []

            def once() -> None:
                if not done:
                    act()
                    done.append(None)

            self.readiness._on_ready = once
            await until(lambda: done)
        else:
            act()

    async def quiet(self) -> bool:
        """Whether some turns of the loop report nothing."""
        await asyncio.sleep(0.01)  # what is on its way arrives
        self.turns.clear()
        await asyncio.sleep(0.02)
        return not self.turns


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two ends of a connection."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


@pytest.mark.gen_test
@every_kind
async def test_reading_and_writing(kind: type[Epoll | LoopReadiness], pair: Pair) -> None:
    """What was requested is reported while it lasts, and nothing else."""
    watcher, (ours, theirs), fd = Watcher(kind), pair, pair[0].fileno()
    watcher.readiness.register(fd, READ)
    assert await watcher.quiet()
    theirs.send(b"x")
    await watcher.sees((fd, READ))
    watcher.readiness.modify(fd, READ | WRITE)
    await watcher.sees((fd, READ | WRITE))
    watcher.readiness.modify(fd, WRITE)
    await watcher.sees((fd, WRITE))
    watcher.readiness.modify(fd, 0)
    assert await watcher.quiet()
    watcher.readiness.modify(fd, READ)
    assert ours.recv(10) == b"x"
    assert await watcher.quiet()
    watcher.readiness.close()


@pytest.mark.gen_test
@every_kind
async def test_a_peer_that_leaves(kind: type[Epoll | LoopReadiness], pair: Pair) -> None:
    """The end of a connection is reported as something to read."""
    watcher = Watcher(kind)
    watcher.readiness.register(pair[0].fileno(), READ)
    pair[1].close()
    ((fd, events),) = await watcher.next()
    assert (fd, events & READ) == (pair[0].fileno(), READ)
    watcher.readiness.close()


@pytest.mark.gen_test
@every_kind
async def test_at_most_so_many_in_one_turn(kind: type[Epoll | LoopReadiness]) -> None:
    """A turn reports no more than was requested, and the rest has its turn next, without new events."""
    pairs = [socket.socketpair() for _ in range(5)]
    watcher = Watcher(kind, most=2)
    for ours, theirs in pairs:
        watcher.readiness.register(ours.fileno(), READ)
        theirs.send(b"x")
    seen: set[int] = set()
    while len(seen) < 5:
        turn = await watcher.next()
        assert 1 <= len(turn) <= 2
        for fd, _ in turn:
            seen.add(fd)
            watcher.readiness.modify(fd, 0)
    watcher.readiness.close()
    for ours, theirs in pairs:
        ours.close()
        theirs.close()


@pytest.mark.gen_test
@every_kind
async def test_leftover_descriptors_need_no_new_event(kind: type[Epoll | LoopReadiness]) -> None:
    """Without changes in between, every descriptor gets its turn, not always the first ones."""
    pairs = [socket.socketpair() for _ in range(4)]
    watcher = Watcher(kind, most=1)
    for ours, theirs in pairs:
        watcher.readiness.register(ours.fileno(), READ)
        theirs.send(b"x")
    await until(lambda: len({fd for turn in watcher.turns for fd, _ in turn}) == 4)
    watcher.readiness.close()
    for ours, theirs in pairs:
        ours.close()
        theirs.close()


@pytest.mark.gen_test
@every_kind
async def test_registering(kind: type[Epoll | LoopReadiness], pair: Pair) -> None:
    """A descriptor is registered once, and one that is not watched can't be unregistered."""
    watcher, fd = Watcher(kind), pair[0].fileno()
    with pytest.raises(FileNotFoundError):
        watcher.readiness.unregister(fd)
    watcher.readiness.register(fd, READ)
    with pytest.raises(FileExistsError):
        watcher.readiness.register(fd, WRITE)
    pair[1].send(b"x")
    await watcher.next()
    watcher.readiness.unregister(fd)
    assert await watcher.quiet()
    watcher.readiness.register(fd, READ)
    assert await watcher.next() == [(fd, READ)]
    watcher.readiness.close()


@pytest.mark.gen_test
@every_kind
async def test_unregistering_between_event_and_turn(kind: type[Epoll | LoopReadiness], pair: Pair) -> None:
    """A descriptor unregistered after its event was seen is not reported: its number may be reused."""
    watcher, fd = Watcher(kind), pair[0].fileno()
    watcher.readiness.register(fd, READ)
    pair[1].send(b"x")
    polled: list[list[tuple[int, int]]] = []

    def let_go() -> None:
        watcher.readiness.unregister(fd)
        polled.append(watcher.readiness.poll(0, 10))

    await watcher.in_a_turn(let_go)
    assert polled == [[]]
    watcher.readiness.close()


@pytest.mark.gen_test
@every_kind
async def test_events_that_are_no_longer_requested(kind: type[Epoll | LoopReadiness], pair: Pair) -> None:
    """An event that was seen, and is no longer requested when the turn comes, is not reported."""
    watcher, fd = Watcher(kind), pair[0].fileno()
    watcher.readiness.register(fd, READ | WRITE)
    polled: list[list[tuple[int, int]]] = []

    def read_only() -> None:
        watcher.readiness.modify(fd, READ)
        polled.append(watcher.readiness.poll(0, 10))

    await watcher.in_a_turn(read_only)
    assert polled == [[]]
    watcher.readiness.close()


@pytest.mark.gen_test
@every_kind
async def test_closing_leaves_nothing(kind: type[Epoll | LoopReadiness], pair: Pair) -> None:
    """After close() the event loop watches none of it."""
    loop = asyncio.get_running_loop()
    watcher, fd = Watcher(kind), pair[0].fileno()
    watcher.readiness.register(fd, READ | WRITE)
    pair[1].send(b"x")
    watcher.readiness.close()
    assert await watcher.quiet()
    assert not loop.remove_reader(fd)
    assert not loop.remove_writer(fd)


def test_closing_after_the_loop(pair: Pair) -> None:
    """close() works after the event loop was closed."""
    for kind in (LoopReadiness, *([Epoll] if hasattr(select, "epoll") else [])):
        loop = asyncio.new_event_loop()
        watched: Readiness = kind(loop, lambda: None)
        watched.register(pair[0].fileno(), READ)
        loop.close()
        watched.close()


@pytest.mark.gen_test
async def test_an_epoll_is_used_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is an epoll it is used."""
    loop = asyncio.get_running_loop()
    if hasattr(select, "epoll"):
        watched = readiness.watch(loop, lambda: None)
        assert isinstance(watched, Epoll)
        watched.close()
        monkeypatch.delattr(select, "epoll")
    assert isinstance(readiness.watch(loop, lambda: None), LoopReadiness)


@pytest.mark.gen_test
@every_kind
async def test_a_drained_descriptor_is_not_reported_again(
    kind: type[Epoll | LoopReadiness], pair: Pair
) -> None:
    """A descriptor is reported for as long as there is something to read, and not once more."""
    ours, theirs = pair
    reported: list[tuple[int, int]] = []

    def on_ready() -> None:
        for event in watched.poll(0, 10):
            reported.append(event)
            with contextlib.suppress(BlockingIOError):
                ours.recv(10)

    watched: Readiness = kind(asyncio.get_running_loop(), on_ready)
    watched.register(ours.fileno(), READ)
    for number in range(1, 21):
        theirs.send(b"x")
        await until(lambda number=number: len(reported) >= number)  # type: ignore[misc]
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    assert reported == [(ours.fileno(), READ)] * 20
    watched.close()


@pytest.mark.gen_test
@every_kind
async def test_closing_between_event_and_turn(kind: type[Epoll | LoopReadiness], pair: Pair) -> None:
    """Nobody is called any more after close(), not even about what was seen before."""
    called: list[None] = []
    watched = kind(asyncio.get_running_loop(), lambda: called.append(None))
    watched.register(pair[0].fileno(), WRITE)
    if isinstance(watched, LoopReadiness):
        watched._report(pair[0].fileno())
    watched.close()
    await asyncio.sleep(0.01)
    assert not called


@pytest.mark.gen_test
@every_kind
async def test_a_turn_that_raises(kind: type[Epoll | LoopReadiness], pair: Pair) -> None:
    """It is called again in the next turn."""
    called: list[None] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)

    def on_ready() -> None:
        called.append(None)
        raise ValueError

    watched = kind(loop, on_ready)
    watched.register(pair[0].fileno(), WRITE)
    await until(lambda: len(called) > 2)
    watched.close()
    loop.set_exception_handler(None)


@pytest.mark.gen_test
@every_kind
async def test_a_descriptor_that_is_not_watched(kind: type[Epoll | LoopReadiness], pair: Pair) -> None:
    """It can't be modified."""
    watched = kind(asyncio.get_running_loop(), lambda: None)
    with pytest.raises(FileNotFoundError):
        watched.modify(pair[0].fileno(), READ)
    watched.close()
