"""Garbage collection: what a collection walks while there are sessions, and what sessions leave to it."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from typing import Any

import pytest

from eclipse_ws.server import garbage
from tests.client import Client, running, until


@pytest.fixture
def walked() -> Iterator[list[int]]:
    """How many objects each collection might walk."""
    sizes: list[int] = []

    def note(phase: str, info: dict[str, Any]) -> None:
        if phase == "start":
            sizes.append(sum(len(gc.get_objects(n)) for n in range(info["generation"] + 1)))

    gc.callbacks.append(note)
    yield sizes
    gc.callbacks.remove(note)


@pytest.mark.gen_test
async def test_a_collection_walks_only_what_is_new(walked: list[int]) -> None:
    """However many objects live on, a collection walks a few thousand at most."""
    async with running():
        walked.clear()
        kept = [[number, [number]] for number in range(100_000)]
        assert len(walked) > 50
        assert max(walked) < 2 * garbage.YOUNG * (garbage.ROUNDS + 2)
        assert len(kept) == 100_000


@pytest.mark.gen_test
async def test_sessions_leave_nothing_to_collect() -> None:
    """A session that ends, in any way, is freed by reference counts: frozen cycles would stay."""
    async with running() as server:

        async def sessions() -> None:
            for number in range(40):
                client = await Client.join(server.port, f"c{number % 4}")
                if number % 2:
                    await client.say(type="message", content="hello", role="USER")
                    await client.seek("message")
                if number % 3:
                    client.socket.transport.abort()
                else:
                    await client.close()
            await until(lambda: not server.node.sessions)

        await sessions()
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            await sessions()
            gc.collect()
            ours = [each for each in gc.garbage if type(each).__module__.startswith("eclipse_ws.")]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
        assert not ours


@pytest.mark.gen_test
async def test_everything_is_collected_without_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen cycle is collected by the sweep of a node without sessions, at most once an hour."""

    class Cycle:
        alive = 0

        def __init__(self) -> None:
            Cycle.alive += 1
            self.me = self

        def __del__(self) -> None:
            Cycle.alive -= 1

    async with running(**{"server.sweeper.INTERVAL": 60}) as server:
        Cycle()
        gc.freeze()
        async with await Client.join(server.port):
            await server._sweeper.sweep(time.time(), time.monotonic() + 2 * garbage.FULL_INTERVAL)
            assert Cycle.alive == 1
        await until(lambda: not server.node.sessions)
        await server._sweeper.sweep(time.time(), time.monotonic())
        assert Cycle.alive == 1
        await server._sweeper.sweep(time.time(), time.monotonic() + 2 * garbage.FULL_INTERVAL)
        assert Cycle.alive == 0


@pytest.mark.gen_test
async def test_the_last_server_restores_the_collector() -> None:
    """Several servers may run in a process; when all have stopped, the thresholds are as before."""
    before, callbacks = gc.get_threshold(), len(gc.callbacks)
    async with running(), running():
        assert gc.get_threshold() == (garbage.YOUNG, garbage.ROUNDS, garbage.NEVER)
        assert len(gc.callbacks) == callbacks + 1
    assert gc.get_threshold() == before
    assert len(gc.callbacks) == callbacks
    assert gc.get_freeze_count() == 0
