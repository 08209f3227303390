"""Files beside sessions: one in a turn of the loop, and with pauses while sessions are active."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from eclipse_ws.server import file_share
from eclipse_ws.server.file_share import FileShare
from tests.client import http, running, until

gen_test = pytest.mark.gen_test(timeout=20)


class Turns:
    """Counts the turns of the loop, and who was let in in each."""

    def __init__(self, share: FileShare) -> None:
        self.share = share
        self.number = 0
        self.entered: list[tuple[str, int]] = []

    async def ask(self, name: str) -> None:
        """A request."""
        await self.share.turn()
        self.entered.append((name, self.number))

    async def run(self, turns: int) -> None:
        """Let so many turns pass."""
        for _ in range(turns):
            await asyncio.sleep(0)
            self.number += 1


@gen_test
async def test_files_take_turns() -> None:
    """One in each turn of the loop, in the order in which they came; who leaves costs no turn."""
    turns = Turns(FileShare(lambda: 0))
    asking = [asyncio.create_task(turns.ask(name)) for name in "abcde"]
    await turns.run(1)
    asking[2].cancel()
    await turns.run(20)
    assert [name for name, _ in turns.entered] == ["a", "b", "d", "e"]
    numbers = [number for _, number in turns.entered]
    assert len(set(numbers)) == 4
    assert numbers[-1] < 12
    late = asyncio.create_task(turns.ask("late"))
    await turns.run(3)
    assert late.done()
    with contextlib.suppress(asyncio.CancelledError):
        await asking[2]


@gen_test
async def test_active_sessions_have_most_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause follows each file while sessions get frames, and none when they have been quiet for a while."""
    monkeypatch.setattr(file_share, "PAUSE", 60.0)
    monkeypatch.setattr(file_share, "QUIET", 0.05)
    frames = [0]
    turns = Turns(FileShare(lambda: frames[0]))
    await asyncio.gather(*(turns.ask(name) for name in "ab"))
    frames[0] += 1
    await turns.run(5)
    asking = [asyncio.create_task(turns.ask(name)) for name in "cd"]
    await turns.run(20)
    assert [name for name, _ in turns.entered] == ["a", "b", "c"]  # the pause after it is a minute
    assert turns.share._pause is not None
    turns.share._pause.cancel()
    await asyncio.sleep(0.06)
    turns.share._end_pause()
    await asyncio.gather(*asking, turns.ask("e"))
    assert [name for name, _ in turns.entered] == ["a", "b", "c", "d", "e"]


@gen_test
async def test_a_client_that_leaves_while_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its request ends with its turn, without an error; the next client gets the file."""
    async with running() as server:
        monkeypatch.setattr(file_share, "PAUSE", 0.2)
        server.node.wire_stats.frames_in += 1
        assert (await http(server.port, "/widget.js")).status == 200
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /widget.js HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: len(server._http.connections.handling) == 1)
        writer.close()
        await writer.wait_closed()
        assert (await http(server.port, "/widget.js")).status == 200
        await until(lambda: len(server._http.connections) == 0)
