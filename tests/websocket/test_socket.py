"""A socket's I/O: order, bounds and back-pressure in both directions, and every way to end."""

import asyncio
import gc
import os
import weakref
from typing import Any

import pytest
from tornado.testing import ExpectLog

from eclipse_ws.websocket import Audience, Socket, queued_bytes, text_frame
from tests.websocket.peer import (
    CLOSE,
    CONTINUATION,
    PING,
    TEXT,
    WAIT,
    Clock,
    Peer,
    Recorder,
    client_frame,
    close_frame,
    one_session,
    open_descriptors,
    serving,
    stats,
    until,
)

FIN = 0x80
BIG = text_frame(b"x" * 50_000)


async def session_of(server: Any) -> Any:
    """The newest session, once the client's handshake is through (so it is open)."""
    return server.sessions[-1]


# Out


@pytest.mark.gen_test
async def test_a_turns_frames_leave_in_one_call() -> None:
    """What is sent to a socket in one turn of the loop goes out in one system call, in order."""
    async with serving() as server:
        peer = await Peer.open(server.port)
        session = await session_of(server)
        before = stats.sends
        for number in range(10):
            session.wire.send(text_frame(b"%d" % number))
        assert session.wire.queued == 30
        assert queued_bytes() == 30
        assert [await peer.text() for _ in range(10)] == [str(number) for number in range(10)]
        assert stats.sends == before + 1
        assert session.wire.queued == 0


@pytest.mark.gen_test
async def test_a_slow_reader_gets_everything_in_the_end() -> None:
    """What the kernel does not take waits, and follows in order when the peer reads."""
    async with serving(wire_queue_bytes=1 << 30) as server:
        peer = await Peer.open(server.port, window=4096)
        wire = (await session_of(server)).wire
        for number in range(400):
            wire.send(text_frame(b"%04d" % number + b"." * 50_000))
        await asyncio.sleep(0)
        assert wire.queued > 1_000_000
        for number in range(400):
            assert (await peer.text()).startswith(f"{number:04d}.")
        assert wire.queued == 0
        wire.send(text_frame(b"after"))
        assert await peer.text() == "after"


@pytest.mark.gen_test
async def test_droppable_frames_are_dropped_first() -> None:
    """A full queue costs the frames that may be lost; the others arrive, and the session goes on."""
    async with serving(wire_queue_bytes=1 << 20) as server:
        peer = await Peer.open(server.port, window=4096)
        wire = (await session_of(server)).wire
        await fill(wire)
        dropped = stats.dropped
        wire.send(text_frame(b"kept"))
        for _ in range(50):
            wire.send(BIG, droppable=True)
        assert stats.dropped > dropped
        assert wire.queued <= 1 << 20
        assert not wire.is_closing
        while (text := await peer.text()) != "kept":
            assert text.startswith("x")


@pytest.mark.gen_test
async def test_a_reader_that_is_too_slow_is_closed_and_nobody_else_notices() -> None:
    """A queue that is full of what may not be lost ends its session with 1008, when it reads at last."""
    async with serving(wire_queue_bytes=1 << 20) as server:
        slow = await Peer.open(server.port, window=4096)
        session = await session_of(server)
        quick = await Peer.open(server.port)
        other = await session_of(server)
        closed = stats.closed_slow
        while not session.wire.is_closing:
            session.wire.send(BIG)
            other.wire.send(text_frame(b"fine"))
            assert await quick.text() == "fine"
        assert stats.closed_slow == closed + 1
        assert session.wire.queued < 60_000, "its queue is let go at once"
        session.wire.send(BIG)
        while (frame := await slow.frame())[0] != FIN | CLOSE:
            assert frame[1].startswith(b"x")
        assert frame[1] == (1008).to_bytes(2, "big") + b"Too slow: the queue is full"
        slow.send(close_frame(1008))
        assert await session.ended() == (1008, "Too slow: the queue is full")
        assert not other.wire.is_closing


@pytest.mark.gen_test
async def test_a_reader_that_never_reads_again_is_cut_off() -> None:
    """A peer that is too slow and does not even read its close frame is cut off after the close timeout."""
    async with serving(wire_queue_bytes=1 << 20, wire_close_timeout=0.1) as server:
        await Peer.open(server.port, window=4096)
        session = await session_of(server)
        while not session.wire.is_closing:
            session.wire.send(BIG)
            await asyncio.sleep(0)
        assert (await session.ended())[0] == 1008


@pytest.mark.gen_test
async def test_more_than_the_bound_in_one_turn_is_allowed() -> None:
    """A burst larger than the bound is fine for a peer whose kernel takes it."""

    class Bursts(Recorder):
        def open(self) -> None:
            super().open()
            for number in range(100):
                self.write_message(f"{number:03d}" + "." * 1000)

    async with serving(Bursts, wire_queue_bytes=5000) as server:
        peer = await Peer.open(server.port)
        for number in range(100):
            assert (await peer.text()).startswith(f"{number:03d}.")


@pytest.mark.gen_test
async def test_sending_to_a_dead_socket_does_not_raise() -> None:
    """A reset is noticed by the next write or read; nothing raises, and on_close() runs once."""
    async with serving() as server:
        peer = await Peer.open(server.port)
        session = await session_of(server)
        wire = session.wire
        peer.reset()
        while not wire.is_closing:
            wire.send(BIG)
            await asyncio.sleep(0)
        wire.send(BIG)
        wire.close()
        assert await session.ended() == (1006, "")
        session.wire.send(BIG)
        session.close()


@pytest.mark.gen_test
async def test_queued_droppable_frames_make_room() -> None:
    """What may not be lost takes the room of what may, before the queue counts as full."""
    async with serving(wire_queue_bytes=1 << 20) as server:
        peer = await Peer.open(server.port, window=4096)
        wire = (await session_of(server)).wire
        await fill(wire)
        for _ in range(6):
            wire.send(text_frame(b"y" * 50_000), droppable=True)
        dropped = stats.dropped
        while stats.dropped == dropped:
            wire.send(BIG)
        assert stats.dropped == dropped + 6
        assert not wire.is_closing
        wire.send(text_frame(b"end"))
        while (text := await peer.text()) != "end":
            assert text.startswith("x")


@pytest.mark.gen_test
async def test_a_frame_that_has_left_in_part_is_not_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel took of a droppable frame is followed by its rest, however full the queue is."""
    whole = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: whole(fd, data[:70]))
    async with serving(wire_queue_bytes=100) as server:
        peer = await Peer.open(server.port)
        wire = (await session_of(server)).wire
        wire.send(text_frame(b"a" * 58))
        wire.send(text_frame(b"b" * 28), droppable=True)
        assert await peer.text() == "a" * 58
        assert await peer.text() == "b" * 28


@pytest.mark.gen_test
async def test_a_peer_that_closes_before_it_reads() -> None:
    """Much that was sent in the turn of the peer's close still goes out, then the close, then the end."""

    class Much(Recorder):
        def on_message(self, message: str | bytes) -> None:
            for _ in range(200):
                self.wire.send(BIG)

    async with serving(Much, wire_queue_bytes=1 << 30) as server:
        peer = await Peer.open(server.port, window=4096)
        peer.send(client_frame(TEXT, b"go") + close_frame(1000))
        for _ in range(200):
            assert (await peer.frame())[0] == FIN | TEXT
        assert await peer.closed() == (1000, "")


@pytest.mark.gen_test
async def test_a_reset_while_frames_wait() -> None:
    """A peer that resets with a queue behind it is 1006, and the queue is freed."""
    async with serving() as server:
        peer = await Peer.open(server.port, window=4096)
        session = await session_of(server)
        wire = session.wire
        await fill(wire)
        peer.reset()
        assert await session.ended() == (1006, "")
        assert wire.queued == 0


@pytest.mark.gen_test
async def test_an_audience_that_fills_the_queue_during_a_send() -> None:
    """If what an audience has sent fills the queue, the socket's own next frame comes too late."""
    async with serving(wire_queue_bytes=100_000) as server:
        peer = await Peer.open(server.port, window=4096)
        wire = (await session_of(server)).wire
        audience = Audience()
        audience.add(wire)
        await fill(wire)
        for _ in range(4):
            audience.send(BIG)
        wire.send(text_frame(b"own"))
        assert wire.is_closing
        assert len(audience) == 0
        while (frame := await peer.frame())[0] != FIN | CLOSE:
            assert frame[1].startswith(b"x")
        peer.send(close_frame(1008))
        await peer.gone()


@pytest.mark.gen_test
async def test_an_audience_that_fills_the_queue_during_a_close() -> None:
    """If what an audience has sent fills the queue while we close, one close frame says so."""
    async with serving(wire_queue_bytes=100_000) as server:
        peer = await Peer.open(server.port, window=4096)
        session = await session_of(server)
        audience = Audience()
        audience.add(session.wire)
        await fill(session.wire)
        for _ in range(4):
            audience.send(BIG)
        session.close(1001)
        while (frame := await peer.frame())[0] != FIN | CLOSE:
            assert frame[1].startswith(b"x")
        assert frame[1][:2] == (1008).to_bytes(2, "big")
        peer.send(close_frame(1008))
        await peer.gone()
        assert (await session.ended())[0] == 1008


@pytest.mark.gen_test
async def test_an_audience_on_top_of_own_frames_is_bounded() -> None:
    """Own frames and an audience's of one turn leave early when together they are more than the bound."""
    async with serving(wire_queue_bytes=1000) as server:
        peer = await Peer.open(server.port)
        wire = (await session_of(server)).wire
        audience = Audience()
        audience.add(wire)
        wire.send(text_frame(b"a" * 600))
        audience.send(text_frame(b"b" * 600))
        wire.send(text_frame(b"c" * 600))
        assert [(await peer.text())[0] for _ in range(3)] == ["a", "b", "c"]


@pytest.mark.gen_test
async def test_a_peer_that_pings_and_does_not_read() -> None:
    """Its pings cost one answer, the last one's, when it reads at last."""
    async with serving(wire_frame_burst=3000) as server:
        peer = await Peer.open(server.port, window=4096)
        session = await session_of(server)
        await fill(session.wire)
        queued = session.wire.queued
        for number in range(2000):
            peer.send(client_frame(PING, b"%d" % number))
        peer.send(client_frame(TEXT, b"now"))
        await until(lambda: "now" in session.events)
        assert session.wire.queued <= queued + 5
        assert not session.wire.is_closing
        while (frame := await peer.frame())[0] != 0x8A:
            pass
        assert frame[1] == b"1999"


async def fill(wire: Socket) -> None:
    """Send until the kernel takes no more."""
    while not wire.queued:
        wire.send(BIG)
        await asyncio.sleep(0)


# In


class Slow(Recorder):
    """Finishes a message when it is told to."""

    def initialize(self) -> None:
        """Begin with a closed gate."""
        super().initialize()
        self.gate = asyncio.Semaphore(0)

    async def on_message(self, message: str | bytes) -> None:
        """Keep it, wait at the gate, answer."""
        self.events.append(message)
        await self.gate.acquire()
        self.write_message(f"done {message!s}")


@pytest.mark.gen_test
async def test_a_message_waits_for_the_last_one() -> None:
    """A second message is not begun before the first one is done; nothing is lost or reordered."""
    async with serving(Slow) as server:
        peer = await Peer.open(server.port)
        session = await session_of(server)
        for number in range(5):
            peer.send(client_frame(TEXT, b"%d" % number))
        for number in range(5):
            await until(lambda number=number: len(session.events) >= number + 2)
            assert session.events[1:] == [str(index) for index in range(number + 1)]
            session.gate.release()
            assert await peer.text() == f"done {number}"


@pytest.mark.gen_test
async def test_a_peer_that_floods_us_is_not_read_from() -> None:
    """While a message is in progress, no more than the bound is read, and all of it is handled."""
    async with serving(Slow, wire_read_bytes=10_000) as server:
        peer = await Peer.open(server.port)
        session = await session_of(server)
        before = stats.bytes_in
        frame = client_frame(TEXT, b"x" * 50_000)
        for _ in range(400):
            peer.send(frame)
        # The peer can't get rid of it all, so drain() can't end while we don't read.
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                peer.writer.transport.set_write_buffer_limits(0)
                await peer.writer.drain()
        assert stats.bytes_in - before <= 10_000 + 2 * 65536
        for _ in range(400):
            session.gate.release()
        for _ in range(400):
            assert (await peer.text()).startswith("done x")


@pytest.mark.gen_test
async def test_a_busy_peer_does_not_block_other_sockets() -> None:
    """However many messages came in one read, only a turn's share is handled before another socket's."""
    order: list[str] = []

    class Notes(Recorder):
        def on_message(self, message: str | bytes) -> None:
            order.append(str(message))
            if message == "last":
                self.write_message("done")

    async with serving(Notes, wire_messages_per_turn=8) as server:
        busy, quiet = await Peer.open(server.port), await Peer.open(server.port)
        busy.send(client_frame(TEXT, b"b") * 5000 + client_frame(TEXT, b"last"))
        quiet.send(client_frame(TEXT, b"q"))
        assert await busy.text() == "done"
        assert order.count("b") == 5000
        assert order.index("q") < 4000


@pytest.mark.gen_test
async def test_messages_of_a_peer_that_left_are_handled() -> None:
    """Messages that were received are handled although their sender is gone; then on_close()."""
    async with serving(Slow) as server:
        peer = await Peer.open(server.port)
        session = await session_of(server)
        peer.send(b"".join(client_frame(TEXT, b"%d" % number) for number in range(3)))
        peer.drop()
        for _ in range(3):
            session.gate.release()
        assert await session.ended() == (1006, "")
        assert session.events == ["open", "0", "1", "2", ("closed", 1006, "")]


@pytest.mark.gen_test
async def test_a_flooding_peer_that_resets_while_it_is_not_read_from() -> None:
    """A reset is noticed even though nothing is read, and what was read is still handled."""
    async with serving(Slow, wire_read_bytes=1000) as server:
        peer = await Peer.open(server.port)
        session = await session_of(server)
        peer.send(client_frame(TEXT, b"x" * 1000) * 200)
        await until(lambda: session.wire._intake)
        assert not session.wire.is_lost
        peer.reset()
        await until(lambda: session.wire.is_lost)
        for _ in range(300):
            session.gate.release()
        assert await session.ended() == (1006, "")
        assert len(session.events) > 10


@pytest.mark.gen_test
async def test_a_failing_message_ends_the_session() -> None:
    """An exception in on_message(), at once or later, is logged and closes with the handler's code."""

    class Fails(Recorder):
        wire_error_close = (4000, "Internal server error")

        def on_message(self, message: str | bytes) -> Any:
            if message == "now":
                raise ZeroDivisionError("now")
            return self.later()

        async def later(self) -> None:
            raise ZeroDivisionError("later")

    async with serving(Fails) as server:
        for message in (b"now", b"later"):
            peer = await Peer.open(server.port)
            with ExpectLog("tornado.application", "Uncaught exception in Fails"):
                peer.send(client_frame(TEXT, message))
                first, payload = await peer.frame()
            assert (first, payload) == (FIN | CLOSE, (4000).to_bytes(2, "big") + b"Internal server error")
            peer.send(close_frame(4000))
            await peer.gone()
            assert (await server.sessions[-1].ended())[0] == 4000


@pytest.mark.gen_test
async def test_failing_control_callbacks_end_the_session() -> None:
    """An exception in on_ping() or on_pong() is treated as one in on_message()."""

    class Fails(Recorder):
        def on_ping(self, data: bytes) -> None:
            raise ZeroDivisionError("ping")

    async with serving(Fails) as server:
        peer = await Peer.open(server.port)
        with ExpectLog("tornado.application", "Uncaught exception in Fails"):
            peer.send(client_frame(PING))
            assert (await peer.frame())[0] == 0x8A
            assert (await peer.frame())[1][:2] == (1011).to_bytes(2, "big")


# The end


@pytest.mark.gen_test
async def test_a_peer_that_never_answers_a_close() -> None:
    """on_close() comes when the close timeout is over, with our code, and the socket is gone."""
    async with serving(wire_close_timeout=0.1) as server:
        peer = await Peer.open(server.port)
        session = await session_of(server)
        session.close(4003, "go")
        session.close(4000, "a second close changes nothing")
        assert (await peer.frame())[1] == (4003).to_bytes(2, "big") + b"go"
        assert await session.ended() == (4003, "go")
        await peer.gone()


@pytest.mark.gen_test
async def test_closing_handshakes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of too many peers that don't answer our close the oldest is cut off; it has got its close frame."""
    monkeypatch.setattr("eclipse_ws.websocket.event_poll.MOST_CLOSING", 2)
    async with serving(Recorder, wire_close_timeout=60) as server:
        peers = [await Peer.open(server.port) for _ in range(5)]
        await until(lambda: len(server.sessions) == 5)
        poll = server.sessions[0].wire.poll
        for session in server.sessions:
            session.close(4001, "bye")
        await until(lambda: len(poll.closing) == 2)
        for session in server.sessions[:3]:
            assert await session.ended() == (4001, "bye")
        for peer in peers:
            assert (await peer.frame())[1] == (4001).to_bytes(2, "big") + b"bye"
        await asyncio.sleep(0.02)
        assert len(poll.closing) == 2


@pytest.mark.parametrize(("late", "timeout"), [(60, 60.0), (200, 0.05)], ids=["some", "too many"])
@pytest.mark.gen_test
async def test_frames_after_our_close_are_discarded(late: int, timeout: float) -> None:
    """Messages and pings between our close and the peer's are not handled; behind a few of them the peer's
    close is still heard, and behind too many the close timeout ends the session.
    """
    async with serving(wire_close_timeout=timeout) as server:
        peer = await Peer.open(server.port)
        session = await session_of(server)
        session.close(1001)
        await peer.frame()
        peer.send(client_frame(TEXT, b"late") * late + client_frame(PING) + close_frame(1001))
        await peer.gone()
        assert await session.ended() == (1001, "")
        assert session.events == ["open", ("closed", 1001, "")]


@pytest.mark.gen_test
async def test_a_peer_that_floods_after_our_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that answers our close with a flood is not read from, and has only the close timeout."""
    clock = Clock(monkeypatch)
    async with serving(Slow, wire_close_timeout=10) as server:
        for size in (10, 60_000):  # many frames in one read, and more than one read
            peer = await Peer.open(server.port)
            session = server.sessions[-1]
            peer.send(client_frame(TEXT, b"first"))
            await until(lambda session=session: len(session.events) == 2)
            session.close(1012)
            peer.send(client_frame(TEXT, b"x" * size) * (1 << 22 >> size.bit_length()))
            await until(lambda session=session: session.wire._intake)
            read = stats.bytes_in
            session.gate.release()  # its last message ends now, which must not start it all again
            await clock.skip(8)
            assert not session.over.is_set()
            await clock.skip(3)
            assert await session.ended() == (1012, "")
            assert stats.bytes_in == read
            assert session.events == ["open", "first", ("closed", 1012, "")]


@pytest.mark.gen_test
async def test_nonsense_after_our_close() -> None:
    """A protocol violation instead of an answer to our close is not answered."""
    async with serving() as server:
        peer = await Peer.open(server.port)
        session = await session_of(server)
        session.close(1001)
        await peer.frame()
        peer.send(client_frame(CONTINUATION))
        await peer.gone()
        assert await session.ended() == (1001, "")


@pytest.mark.gen_test
async def test_a_close_while_a_message_is_in_progress() -> None:
    """The handshake does not wait for the message, and the message's end changes nothing."""
    async with serving(Slow) as server:
        peer = await Peer.open(server.port)
        session = await session_of(server)
        peer.send(client_frame(TEXT, b"x"))
        await until(lambda: len(session.events) >= 2)
        session.close(1001)
        await peer.frame()
        peer.send(close_frame(1001))
        assert (await session.ended())[0] == 1001
        session.gate.release()
        await peer.gone()
        await until(lambda: len(asyncio.all_tasks()) == 1)
        assert session.events[-1] == ("closed", 1001, "")


@pytest.mark.gen_test
async def test_a_close_waits_for_a_slow_reader() -> None:
    """A close behind a queue goes out when the queue has."""
    async with serving(wire_close_timeout=WAIT) as server:
        peer = await Peer.open(server.port, window=4096)
        session = await session_of(server)
        await fill(session.wire)
        session.close(1001, "bye")
        while (frame := await peer.frame())[0] != FIN | CLOSE:
            pass
        assert frame[1][2:] == b"bye"
        peer.send(close_frame(1001))
        await peer.gone()
        assert (await session.ended())[0] == 1001


@pytest.mark.gen_test
async def test_a_peer_that_closes_behind_a_queue() -> None:
    """The peer's close is answered after what was queued before."""
    async with serving() as server:
        peer = await Peer.open(server.port, window=4096)
        session = await session_of(server)
        await fill(session.wire)
        peer.send(close_frame(1000))
        while (await peer.frame())[0] != FIN | CLOSE:
            pass
        await peer.gone()
        assert await session.ended() == (1000, "")


@pytest.mark.gen_test
async def test_a_failing_on_close_is_logged() -> None:
    """An exception in on_close() is logged, and nothing else suffers."""

    class Fails(Recorder):
        def on_close(self) -> None:
            super().on_close()
            raise ZeroDivisionError("bye")

    async with serving(Fails) as server:
        peer = await Peer.open(server.port)
        with ExpectLog("tornado.application", "Uncaught exception in Fails"):
            peer.drop()
            await server.sessions[0].ended()


@pytest.mark.gen_test(timeout=60)
async def test_a_thousand_sessions_leave_nothing() -> None:
    """Opened and closed in every way, sessions leave no descriptors, no tasks and no objects behind."""
    async with serving() as server:
        await one_session(server, 0)
        gc.collect()
        files, tasks = open_descriptors(), len(asyncio.all_tasks())
        left: list[weakref.ref[Any]] = []
        gc.disable()
        try:
            for number in range(1000):
                left.append(await one_session(server, number))
            await asyncio.sleep(0)
            alive = sum(ref() is not None for ref in left)
        finally:
            gc.enable()
        assert alive <= 1, "a session is let go without the collector's help"
        await until(lambda: open_descriptors() <= files)
        assert len(asyncio.all_tasks()) <= tasks
        assert stats.sockets == 0
