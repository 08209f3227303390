"""Accepting: sockets that wait to be served, and the pause when the system has no free descriptor."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from typing import Any

import pytest

from eclipse_ws.server.server import Server
from eclipse_ws.server.turnstile import AWAY, Table, Turnstile
from tests.attacks.test_http import held_up
from tests.client import http, running, until
from tests.server.test_connections import QUIET, TIMEOUT, connect, is_open, refused


class Full:
    """A listening socket whose accept() fails ``times`` times for lack of a descriptor."""

    def __init__(self, listening: socket.socket, times: int = 1) -> None:
        self.listening = listening
        self.left = times

    def accept(self) -> Any:
        """Raises OSError (EMFILE), or accepts."""
        if not self.left:
            return self.listening.accept()
        self.left -= 1
        raise OSError(errno.EMFILE, "Too many open files")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.listening, name)


def run_out(server: Server) -> None:
    """Let the server find that there is no descriptor for the next socket."""
    (listening,) = server._http._sockets.values()
    server._http._accept(Full(listening), 0)  # type: ignore[arg-type]


@pytest.mark.gen_test
async def test_another_worker_takes_the_connections(expect_log: Any) -> None:
    """A worker without a descriptor closes none that another one can accept."""
    expect_log("accept paused")
    descriptor = Table.make(2)
    table = Table(descriptor, 2)
    try:
        async with running() as server:
            server.share(Turnstile(table, 0, lambda: 0))
            table.cells[1] = 0
            early = [connect(server) for _ in range(3)]
            run_out(server)
            assert all(map(is_open, early))
            table.cells[1] = AWAY
            run_out(server)
            assert not any(map(is_open, early))
            assert refused(server, "file_limit") == [3]
            for peer in early:
                peer.close()
    finally:
        table.close()
        os.close(descriptor)


@pytest.mark.gen_test
async def test_connections_without_a_descriptor_are_closed(
    monkeypatch: pytest.MonkeyPatch, expect_log: Any
) -> None:
    """Waiting sockets are closed and counted; those that come in the pause are served after it."""
    expect_log("accept paused")
    monkeypatch.setattr("eclipse_ws.server.acceptor.ACCEPT_PAUSE", 0.05)
    async with running() as server:
        early = [connect(server) for _ in range(3)]
        run_out(server)
        assert not any(map(is_open, early))
        assert refused(server, "file_limit") == [3]
        late = connect(server)
        for _ in range(5):
            await asyncio.sleep(0)
        assert server._http.held == 0
        await until(lambda: server._http.held > 0)
        assert is_open(late)
        assert (await http(server.port, "/health")).status == 200
        assert refused(server, "file_limit") == [3]
        for peer in (*early, late):
            peer.close()


@pytest.mark.gen_test
@pytest.mark.parametrize(("again", "lines"), [(0.0, 3), (60.0, 1)])
async def test_pauses_are_logged_now_and_then(
    again: float,
    lines: int,
    monkeypatch: pytest.MonkeyPatch,
    expect_log: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Consecutive pauses are one line; after a while there is another one."""
    expect_log("accept paused")
    monkeypatch.setattr("eclipse_ws.server.acceptor.ACCEPT_PAUSE", 0.001)
    monkeypatch.setattr("eclipse_ws.server.acceptor.LOG_INTERVAL", again)
    async with running() as server:
        for _ in range(3):
            run_out(server)
            assert (await http(server.port, "/health")).status == 200
    assert str([record.msg for record in caplog.records]).count("accept paused") == lines


@pytest.mark.gen_test
async def test_a_stop_during_a_pause(monkeypatch: pytest.MonkeyPatch, expect_log: Any) -> None:
    """A server that is stopped during a pause does not resume, and leaves nothing open."""
    expect_log("accept paused")
    monkeypatch.setattr("eclipse_ws.server.acceptor.ACCEPT_PAUSE", 0.01)
    async with running() as server:
        run_out(server)
        await server.stop()
        ended = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.02, ended.set_result, None)
        await ended  # an error of the arranged end would be logged
        with pytest.raises(OSError):
            connect(server)


@pytest.mark.gen_test
async def test_waiting_sockets_have_the_handshakes_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accepted sockets that are not served are closed and counted, each after the timeout."""
    async with running(**QUIET) as server:
        held_up(server, monkeypatch)
        peers = [connect(server) for _ in range(3)]
        await until(lambda: server._http.held == 3)
        began = time.monotonic()
        await asyncio.sleep(0.01)
        late = connect(server)
        await until(lambda: server._http.held == 4)
        server._http.sweep(began + TIMEOUT - 10)
        assert all(map(is_open, peers))
        server._http.sweep(began + TIMEOUT)
        assert not any(map(is_open, peers))
        assert is_open(late)
        assert (server._http.held, refused(server, "handshake_timeout")) == (1, [3])
        for peer in (*peers, late):
            peer.close()
