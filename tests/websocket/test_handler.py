"""From the upgrade to open(): the takeover, early bytes, and what is freed."""

import asyncio
import socket
import ssl
from typing import Any

import pytest
from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream, StreamClosedError
from tornado.netutil import bind_unix_socket
from tornado.web import Application
from tornado.websocket import WebSocketClosedError

from eclipse_ws.websocket import Stats
from eclipse_ws.websocket.socket import ENDED
from tests.websocket.peer import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    WAIT,
    Peer,
    Recorder,
    client_frame,
    close_frame,
    serving,
    stats,
    until,
    upgrade,
)

FIN = 0x80


class Opens(Recorder):
    """Takes its time to open."""

    def initialize(self) -> None:
        """Begin with a closed gate."""
        super().initialize()
        self.gate = asyncio.Event()

    async def open(self, *args: str, **kwargs: str) -> None:
        """Say something and wait at the gate."""
        self.sessions.append(self)
        self.write_message("opening")
        await self.gate.wait()
        self.events.append("open")


@pytest.mark.gen_test
async def test_frames_sent_with_the_upgrade_are_not_lost() -> None:
    """Frames in the same packet as the upgrade are handled after open()."""
    async with serving() as server:
        frames = client_frame(TEXT, b"early") + client_frame(TEXT, b"bird" * 5000)
        before = stats.bytes_in
        peer = await Peer.open(server.port, then=frames[:100])
        assert await peer.text() == "early"
        peer.send(frames[100:])
        assert await peer.text() == "bird" * 5000
        assert stats.bytes_in - before == len(frames)


@pytest.mark.gen_test
async def test_messages_wait_for_open() -> None:
    """While open() runs, messages are kept, and what it sends is written."""
    async with serving(Opens) as server:
        peer = await Peer.open(server.port, then=client_frame(TEXT, b"1"))
        assert await peer.text() == "opening"
        peer.send(client_frame(TEXT, b"2"))
        session = server.sessions[0]
        await until(lambda: session.wire._inbound.waiting >= 14)
        assert session.events == []
        session.gate.set()
        assert [await peer.text(), await peer.text()] == ["1", "2"]
        assert session.events == ["open", "1", "2"]


@pytest.mark.parametrize("leave", [Peer.drop, Peer.reset])
@pytest.mark.gen_test
async def test_a_peer_that_leaves_during_open(leave: Any) -> None:
    """on_close() comes once, and not before open() is done; what was said before is handled."""
    async with serving(Opens) as server:
        peer = await Peer.open(server.port)
        await peer.text()
        session = server.sessions[0]
        peer.send(client_frame(TEXT, b"hello"))
        await until(lambda: session.wire._inbound is not None)
        leave(peer)
        await until(lambda: session.wire._intake == ENDED)
        session.write_message("to nobody")
        await asyncio.sleep(0)
        assert session.events == []
        session.gate.set()
        assert await session.ended() == (1006, "")
        assert session.events == ["open", "hello", ("closed", 1006, "")]


@pytest.mark.gen_test
async def test_a_close_during_open() -> None:
    """A handler may close in open(); on_close() comes when open() is done and the peer has answered."""
    async with serving(Opens) as server:
        peer = await Peer.open(server.port)
        await peer.text()
        session = server.sessions[0]
        session.close(4002, "Token expired")
        assert (await peer.frame())[1] == (4002).to_bytes(2, "big") + b"Token expired"
        peer.send(close_frame(4002))
        await peer.gone()
        assert session.events == []
        session.gate.set()
        assert await session.ended() == (4002, "Token expired")
        assert session.events[0] == "open"


@pytest.mark.gen_test
async def test_a_failing_open(expect_log: Any) -> None:
    """An exception in open() is logged and closes with 1011."""

    class Fails(Recorder):
        def open(self, *args: str, **kwargs: str) -> None:
            super().open()
            raise ZeroDivisionError

    expect_log("Uncaught exception GET /")
    async with serving(Fails) as server:
        peer = await Peer.open(server.port)
        assert (await peer.frame())[1] == (1011).to_bytes(2, "big") + b"Internal error"
        peer.send(close_frame(1011))
        await peer.gone()
        assert await server.sessions[0].ended() == (1011, "Internal error")


@pytest.mark.usefixtures("both_ways")
@pytest.mark.gen_test
async def test_frames_are_not_delayed_by_the_system() -> None:
    """Nagle's algorithm is off: a turn's frames leave at once."""
    async with serving() as server:
        await Peer.open(server.port)
        session = await server.first()
        connection = socket.socket(fileno=session.wire._fd)
        try:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        finally:
            connection.detach()


@pytest.mark.usefixtures("both_ways")
@pytest.mark.gen_test
async def test_the_request_is_freed() -> None:
    """After open() a session keeps only its own data; using the request raises an error that says why."""

    class Keeps(Recorder):
        def open(self, *args: str, **kwargs: str) -> None:
            super().open()
            self.name = self.get_query_argument("name")
            self.events.append(self.path_args)

    async with serving(Keeps, colour="blue") as server:
        peer = await Peer.open(server.port, "/?name=ada")
        peer.send(client_frame(TEXT, b"x"))
        await peer.text()
        session = server.sessions[0]
        assert session.name == "ada"
        assert session.settings["colour"] == "blue"
        assert session.get_status() == 101
        assert not set(vars(session)) & {"request", "_headers", "ui", "open_args", "_transforms"}
        with pytest.raises(AttributeError, match="save what you need of it in open"):
            _ = session.request
        with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
            _ = session.nonsense


@pytest.mark.usefixtures("both_ways")
@pytest.mark.gen_test
async def test_the_server_keeps_nothing_of_the_upgrade() -> None:
    """The HTTP server counts a session that was taken over as done."""
    async with serving() as server:
        peer = await Peer.open(server.port)
        peer.send(client_frame(TEXT, b"x"))
        await peer.text()
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


@pytest.mark.usefixtures("both_ways")
@pytest.mark.gen_test
async def test_subprotocols() -> None:
    """The result of select_subprotocol() is sent and known; it may be none."""

    class Chooses(Recorder):
        def select_subprotocol(self, subprotocols: list[str]) -> str | None:
            return "b" if len(subprotocols) != 1 else "c"

    async with serving(Chooses) as server:
        peer = await Peer.open(server.port, sec_websocket_protocol="a, b")
        assert b"Sec-Websocket-Protocol: b\r\n" in peer.head
        assert server.sessions[0].selected_subprotocol == "b"
    async with serving() as server:
        peer = await Peer.open(server.port)
        assert b"Sec-Websocket-Protocol" not in peer.head
        assert server.sessions[0].selected_subprotocol is None


@pytest.mark.usefixtures("both_ways")
@pytest.mark.gen_test
async def test_a_subprotocol_that_was_not_offered(expect_log: Any) -> None:
    """Choosing what the client did not offer is answered with 500."""

    class Chooses(Recorder):
        def select_subprotocol(self, subprotocols: list[str]) -> str | None:
            return "c"

    expect_log("Uncaught exception")
    async with serving(Chooses) as server:
        peer = await Peer.connect(server.port)
        peer.send(upgrade())
        assert b" 500 " in await peer.handshake()


@pytest.mark.gen_test
async def test_the_api_of_a_tornado_handler() -> None:
    """write_message, ping, close and set_nodelay do what they do in Tornado, and raise after a close."""

    class Pongs(Recorder):
        def on_pong(self, data: bytes) -> None:
            self.events.append(data)
            self.close()

    async with serving(Pongs) as server:
        peer = await Peer.open(server.port)
        session = server.sessions[0]
        session.set_nodelay(True)
        await session.write_message({"a": 1})
        assert await peer.text() == '{"a": 1}'
        with pytest.raises(ValueError, match="at most 125 bytes"):
            session.ping(b"x" * 126)
        session.ping("you")
        assert await peer.frame() == (FIN | PING, b"you")
        peer.send(client_frame(PONG, b"you"))
        assert await peer.frame() == (FIN | CLOSE, b"")
        for call in (session.ping, lambda: session.write_message("x")):
            with pytest.raises(WebSocketClosedError):
                call()
        peer.send(close_frame())
        assert await session.ended() == (1005, "")
        assert session.events == ["open", b"you", ("closed", 1005, "")]
        assert session.ws_connection is None


@pytest.mark.gen_test
async def test_a_reason_needs_a_code() -> None:
    """A reason without a code is sent as 1000, as in Tornado; a close before the upgrade is nothing."""

    class Early(Recorder):
        def prepare(self) -> None:
            self.close(1001)
            assert not self.settings.get("refuse")

    async with serving(Early) as server:
        peer = await Peer.open(server.port)
        server.sessions[0].close(reason="done")
        assert (await peer.frame())[1] == (1000).to_bytes(2, "big") + b"done"


@pytest.mark.gen_test
async def test_bounds_of_a_class_override_those_of_the_application() -> None:
    """A class's own bound counts, then the application's setting, then the default."""

    class Bounds(Recorder):
        wire_max_message = 5

    async with serving(Bounds, wire_max_message=9, wire_queue_bytes=77) as server:
        await Peer.open(server.port)
        session = server.sessions[0]
        params = session.wire_params()
        assert (params.max_message, params.queue_bytes, params.read_bytes) == (5, 77, 65536)
        assert session.wire.poll.params is params
        assert session.max_message_size == 5
        assert (session.ping_interval, session.ping_timeout) == (25, 20)
    async with serving(wire_ping_interval=10) as server:
        await Peer.open(server.port)
        assert (server.sessions[0].ping_interval, server.sessions[0].ping_timeout) == (10, 10)


@pytest.mark.gen_test
async def test_a_takeover_that_fails(monkeypatch: pytest.MonkeyPatch, expect_log: Any) -> None:
    """Without a file descriptor the session ends with 1006 before it was opened, and it is logged."""

    class Fails(Recorder):
        def prepare(self) -> None:
            self.sessions.append(self)

    def no_more(self: socket.socket) -> socket.socket:
        raise OSError(24, "Too many open files")

    expect_log("Can't take a socket over.*Too many open files")
    async with serving(Fails) as server:
        monkeypatch.setattr(socket.socket, "dup", no_more)
        peer = await Peer.connect(server.port)
        peer.send(upgrade())
        await peer.handshake()
        await peer.gone()
        assert await server.sessions[0].ended() == (1006, "")
        assert server.sessions[0].events == [("closed", 1006, "")]


@pytest.mark.gen_test
async def test_a_peer_that_is_gone_before_the_takeover() -> None:
    """A peer that resets between its upgrade and the answer has its on_close(), once, and no open()."""

    class Waits(Recorder):
        gate = asyncio.Event()

        async def prepare(self) -> None:
            self.sessions.append(self)
            await self.gate.wait()

    async with serving(Waits) as server:
        peer = await Peer.connect(server.port)
        peer.send(upgrade())
        await until(lambda: server.sessions)
        peer.reset()
        await server.sessions[0].ended()
        Waits.gate.set()
        assert [event for event in server.sessions[0].events if event != "open"] == [("closed", None, None)]


@pytest.mark.parametrize("error", [None, ssl.SSLError("no record")])
@pytest.mark.gen_test
async def test_a_stream_that_dies_under_the_upgrade(
    error: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that is gone when its socket is asked for, or speaks no TLS any more, ends with 1006, without a
    line in the log.
    """

    class Late(Recorder):
        def prepare(self) -> None:
            self.sessions.append(self)

    def died(self: IOStream, *args: Any, **kwargs: Any) -> Any:
        self.close()
        if error is not None:
            raise error
        return asyncio.get_running_loop().create_future()

    async with serving(Late) as server:
        monkeypatch.setattr(IOStream, "read_bytes", died)
        peer = await Peer.connect(server.port)
        peer.send(upgrade())
        assert await (await server.first()).ended() == (1006, "")
        await peer.handshake()
        await peer.gone()


@pytest.mark.gen_test
async def test_an_answer_that_the_kernel_does_not_take_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The takeover waits until the answer to the upgrade is out."""
    monkeypatch.setattr(IOStream, "writing", lambda self: True)
    async with serving() as server:
        peer = await Peer.open(server.port)
        peer.send(client_frame(TEXT, b"x"))
        assert await peer.text() == "x"

    class Late(Recorder):
        def prepare(self) -> None:
            self.sessions.append(self)

    write = IOStream.write

    def leave(stream: IOStream, data: bytes) -> Any:
        if data:
            return write(stream, data)
        raise StreamClosedError

    monkeypatch.setattr(IOStream, "write", leave)
    async with serving(Late) as server:
        peer = await Peer.connect(server.port)
        peer.send(upgrade())
        assert await (await server.first()).ended() == (1006, "")


@pytest.mark.gen_test
async def test_a_unix_socket(tmp_path: Any) -> None:
    """Sockets without TCP are taken over as well."""
    kind = type("OnUnix", (Recorder,), {"sessions": []})
    server = HTTPServer(Application([("/.*", kind)], log_function=lambda _: None, wire_stats=stats))
    server.add_socket(bind_unix_socket(str(tmp_path / "ws")))
    peer = Peer(*await asyncio.open_unix_connection(str(tmp_path / "ws")))
    peer.send(upgrade())
    await peer.handshake()
    peer.send(client_frame(TEXT, b"x") + close_frame(1000))
    assert await peer.text() == "x"
    assert await peer.closed() == (1000, "")
    async with asyncio.timeout(WAIT):
        await kind.sessions[0].over.wait()
    server.stop()
    await Peer.alive.pop().forget()
    assert stats.sockets == 0


@pytest.mark.gen_test
async def test_each_application_counts_its_own_sockets() -> None:
    """Two applications in one process have separate counters, also by default."""
    mine = Stats()
    async with (
        serving(wire_stats=mine) as one,
        serving(wire_stats=None) as two,
        serving(wire_stats=None) as three,
    ):
        found = []
        for each in (one, two, three):
            peer = await Peer.connect(each.port)
            peer.send(upgrade())
            await peer.handshake()
            found.append((await each.first()).wire.poll.stats)
        assert found[0] is mine
        assert len(set(found)) == 3
        assert [each.sockets for each in found] == [1, 1, 1]
