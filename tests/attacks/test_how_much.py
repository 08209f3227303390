"""How much: rates of commands, sizes, sessions of a chat, queues, and requests that never arrive."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.client import UPGRADE, Client, exchange, http, running, token, until
from tests.conftest import SECRET

POST = b"POST /api/chats/c/events HTTP/1.1\r\nHost: x\r\nX-Internal-Secret: %b\r\n" % SECRET.encode()
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
BURST, PATIENCE = "security.limits.BURST_SECONDS", "security.limits.RATE_PATIENCE"
RATES: dict[str, Any] = {"command_rate": 0, "message_rate": 0}


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("limit", "command"),
    [
        ("message_rate", {"type": "message", "content": "x", "role": "USER", "clientMessageId": "k"}),
        ("command_rate", {"type": "typing", "isTyping": True}),
        ("command_rate", {"type": "ping"}),
        ("command_rate", {"type": "nonsense"}),
        ("command_rate", {"type": "message", "content": "x", "role": "USER", "clientMessageId": "k"}),
        ("command_rate", {"type": "message", "content": "", "role": "USER", "clientMessageId": "k"}),
    ],
)
async def test_a_flood_is_refused_and_then_closed(limit: str, command: dict[str, object]) -> None:
    """First errors with `retryAfter` that name the limit, then 4009; the neighbour gets all messages."""
    given: dict[str, Any] = {**RATES, limit: 0.001, BURST: 3000, PATIENCE: 4}
    async with (
        running(**given) as server,
        await Client.join(server.port, "c2", "n1") as one,
        await Client.join(server.port, "c2", "n2") as two,
    ):
        flooder = await Client.join(server.port)
        for _ in range(3):
            await flooder.say(**command)
        await flooder.raw(json.dumps(command))
        while (error := await flooder.receive()).get("code") != "rate_limited":
            pass
        assert error["error"] == f"Rate limit exceeded: {limit}"
        assert error["retryable"] is True
        assert 0 < error["retryAfter"] <= 1000
        assert error.get("clientMessageId") == command.get("clientMessageId")
        await one.say(type="typing", isTyping=True)
        assert (await two.next("typing"))["data"]["userId"] == "n1"
        for _ in range(100 if command["type"] == "typing" else 10):
            await flooder.say(**command)
        codes = []
        try:
            while True:
                codes.append((await flooder.receive()).get("code"))
        except Exception:
            assert flooder.socket.close_code == 4009
            assert flooder.socket.close_reason == f"Rate limit exceeded: {limit}"
        assert set(codes) <= {"rate_limited", None, "missing_content_or_role", "unknown_type"}
        await one.say(type="typing", isTyping=False)
        assert (await two.next("typing"))["data"]["isTyping"] is False
        counts = server.node.limits.refused
        refused = range(60, 70) if command["type"] == "typing" else (5,)
        assert counts[limit] in refused
        assert (counts["rate_patience"], server.node.limits.closed) == (1, 1)


@pytest.mark.gen_test
async def test_a_flooder_cannot_come_back_at_once() -> None:
    """Its next session is closed with 4009 before it joins; a neighbour in the same chat can reconnect."""
    async with running(**{**RATES, "command_rate": 0.001, PATIENCE: 1}) as server:
        flooder = await Client.join(server.port, user="f")
        for _ in range(3):
            await flooder.say(type="ping")
        await flooder.next("pong")
        await flooder.next("error")
        assert (await flooder.ended())[0] == 4009
        again = await Client.open(server.port, f"token={token(user='f')}")
        assert await again.ended() == (4009, "Rate limit exceeded: rate_penalty")
        async with await Client.join(server.port, user="n") as neighbour:
            await neighbour.quiet()
        assert server.node.limits.refused["rate_penalty"] == 1


@pytest.mark.gen_test
async def test_a_refused_message_is_not_saved() -> None:
    """A message that exceeds its rate never reaches the chat API, and may be sent again later."""
    given = {**RATES, "message_rate": 0.001}
    async with running(**given) as server, await Client.join(server.port) as client:
        for key in ("k1", "k2"):
            await client.say(type="message", content=key, role="USER", clientMessageId=key)
        events = {event["type"]: event for event in [await client.receive() for _ in range(3)]}
        assert events.keys() == {"message", "ack", "error"}
        assert (events["ack"]["clientMessageId"], events["error"]["clientMessageId"]) == ("k1", "k2")
        saved = await server.api.history("c1", 10)  # type: ignore[attr-defined]
        assert [message.content for message in saved] == ["k1"]


@pytest.mark.gen_test
async def test_the_defaults_never_refuse_a_person() -> None:
    """With the default rates a client that types, sends and pings at a person's pace is never refused."""
    async with (
        running(command_rate=10, message_rate=10) as server,
        await Client.join(server.port) as client,
    ):
        for number in range(6):
            await client.say(type="typing", isTyping=True)
            await client.say(type="message", content=str(number), role="USER")
            await client.next("message")
            await client.say(type="ping")
            await client.next("pong")


@pytest.mark.gen_test
@pytest.mark.parametrize("frame", ['{"type":"typing","isTyping":true}', '{"type":"typing"}'])
async def test_a_held_key_does_not_end_a_session(frame: str) -> None:
    """A page that sends `typing` for each keystroke has most of it refused, and stays."""
    async with (
        running(command_rate=10, message_rate=10) as server,
        await Client.join(server.port) as page,
        await Client.join(server.port, user="u2") as neighbour,
    ):
        for _ in range(120):
            await page.raw(frame)
        for _ in range(80):
            await page.next("error")
        await neighbour.say(type="message", content="still there?", role="USER")
        await page.seek("message")
        assert server.node.limits.closed == 0


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "frame", ['{"type":"typing","isTyping":true,"x":"%s"}', '{"type":"typing","x":"%s"}']
)
async def test_long_typing_ends_a_session(frame: str) -> None:
    """No key that is held down sends a megabyte: such a `typing`, refused often, ends the session."""
    async with (
        running(command_rate=0.001, **{PATIENCE: 2}) as server,
        await Client.join(server.port) as client,
    ):
        with contextlib.suppress(ConnectionClosed):  # the last ones may find the session ended
            for _ in range(8):
                await client.raw(frame % ("x" * 1_300_000))
        await until(lambda: server.node.limits.closed)


@pytest.mark.gen_test
async def test_content_has_a_maximum_length() -> None:
    """A message that is too long is refused with a sentence; the next one is accepted."""
    async with (
        running(max_content=10) as server,
        await Client.join(server.port, user="n") as neighbour,
        await Client.join(server.port) as client,
    ):
        await client.say(type="message", content="x" * 11, role="USER", clientMessageId="k1")
        error = await client.next("error")
        assert (error["code"], error["clientMessageId"]) == ("content_too_long", "k1")
        assert "max_content" in error["error"]
        await client.say(type="message", content="x" * 10, role="USER")
        await client.next("message")
        assert (await neighbour.next("message"))["data"]["content"] == "x" * 10
        assert server.node.limits.refused["max_content"] == 1


@pytest.mark.gen_test
async def test_a_chat_is_full() -> None:
    """4009 names the limit; the chat's members, and the other chats, notice nothing."""
    async with (
        running(max_sessions_per_chat=2) as server,
        await Client.join(server.port) as one,
        await Client.join(server.port, user="u2") as two,
    ):
        third = await Client.open(server.port, f"token={token(user='u3')}")
        assert await third.ended() == (4009, "Rate limit exceeded: max_sessions_per_chat")
        async with await Client.join(server.port, "c2") as other:
            await other.quiet()
        await one.say(type="typing", isTyping=True)
        await two.next("typing")
        assert server.node.limits.refused["max_sessions_per_chat"] == 1
        await until(lambda: server.node.sessions == 2)


# -- queues -------------------------------------------------------------------------------------


class _Wire:
    def __init__(self, queued: int, held: int = 0) -> None:
        self.queued = queued
        self.held = held
        self.is_closing = False
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


class _Session:
    expires = float("inf")
    grants = None

    def __init__(self, queued: int, verifier: Any) -> None:
        self.verifier = verifier
        self.wire = _Wire(queued)
        self.closes: list[int] = []

    def end(self, close: Any, reason: str | None = None) -> None:
        self.closes.append(close.code)
        self.wire.is_closing = True


@pytest.mark.gen_test
async def test_a_full_node_closes_the_longest_queues_first() -> None:
    """Beyond the node's bound the longest queues are closed with 4008, then cut off; short ones stay."""
    async with running(**{"server.sweeper.QUEUE_BYTES": 1000_00}) as server:
        sessions = [_Session(size, server.node.verifier) for size in (60_000, 10, 50_000, 20_000)]
        server._sweeper._sessions = lambda: sessions  # type: ignore[assignment,return-value]
        await server._sweeper.sweep(time.time(), 0.0)
        assert [session.closes for session in sessions] == [[4008], [], [], []]
        await server._sweeper.sweep(time.time(), 0.0)
        assert [session.wire.aborted for session in sessions] == [True, False, False, False]
        assert server.node.limits.refused["node_queue_bytes"] == 1
        sessions = [_Session(200_000, server.node.verifier)]
        await server._sweeper.sweep(time.time(), 0.0)
        assert server.node.limits.refused["node_queue_bytes"] == 2
        server._sweeper._sessions = list  # type: ignore[assignment]


@pytest.mark.gen_test
@pytest.mark.parametrize("fragments", [0, 3])
async def test_unfinished_messages_have_a_budget(fragments: int) -> None:
    """Beyond the node's bound those who hold the most are closed with 4009; other sessions notice nothing."""
    async with (
        running(**{"server.sweeper.INPUT_BYTES": 100_000}, **{"server.sweeper.INTERVAL": 0.05}) as server,
        await Client.join(server.port, user="n") as neighbour,
    ):
        writers = []
        for number, size in enumerate((60_000, 30_000, 50_000)):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            lines = [f"GET /ws?token={token(user=f'u{number}')} HTTP/1.1", "Host: x"]
            lines += [f"{name}: {value}" for name, value in UPGRADE.items()]
            writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
            await reader.readuntil(b'"connected"')
            for piece in range(fragments):
                writer.write(bytes((0 if piece else 1, 0x80 | 100)) + bytes(4) + b"x" * 100)
            opcode = 0 if fragments else 1
            writer.write(bytes((opcode, 0xFE)) + b"\xf0\x00" + bytes(4) + b"x" * size)
            writers.append((reader, writer))
        await until(lambda: server.node.limits.refused["node_input_bytes"])
        assert b"Rate limit exceeded: node_input_bytes" in await writers[0][0].read()
        await neighbour.quiet()
        assert server.node.limits.refused["node_input_bytes"] == 1
        held = sum(session.wire.held for session in server._sessions())
        assert 80_000 <= held < 100_000
        for _, writer in writers:
            writer.transport.abort()


@pytest.mark.gen_test
async def test_a_reader_that_never_reads_harms_nobody() -> None:
    """Its queue is bounded, it is closed as too slow, and the others get every event."""
    async with running(queue_bytes=65536) as server, await Client.join(server.port, user="u2") as reader:
        stream, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
        lines = [f"GET /ws?token={token(user='slow')} HTTP/1.1", "Host: x"]
        lines += [f"{name}: {value}" for name, value in UPGRADE.items()]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
        await until(lambda: server.hub.sessions == 2)
        for number in range(400):
            await reader.say(type="message", content=f"{number} " + "x" * 16000, role="USER")
            assert (await reader.next("message"))["data"]["content"].startswith(f"{number} ")
            if server.hub.sessions == 1:
                break
        await until(lambda: server.hub.sessions == 1)
        del stream
        writer.close()


# -- requests that never arrive -----------------------------------------------------------------


@pytest.mark.gen_test
async def test_half_a_request_is_cut_off() -> None:
    """Headers that trickle in forever are cut off after the handshake's time; sessions are not."""
    async with (
        running(**{"server.listener.HANDSHAKE_TIMEOUT": 5}) as server,
        await Client.join(server.port) as neighbour,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /ws?token=x HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        await until(lambda: len(server._http.connections) == 1)
        server._http.sweep(time.monotonic() + 4)
        assert len(server._http.connections) == 1
        server._http.sweep(time.monotonic() + 6)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        await neighbour.quiet()
        assert server.node.limits.refused["handshake_timeout"] == 1
        await until(lambda: len(server._http.connections) == 0)


@pytest.mark.gen_test
async def test_half_a_body_is_cut_off(expect_log: Any) -> None:
    """A body that never comes is cut off after the same time."""
    expect_log(".*", optional=True)
    async with running(**{"server.listener.HANDSHAKE_TIMEOUT": 0.05}) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(POST + b"Content-Length: 100\r\n\r\n{")
        assert await reader.read() == b""
        writer.close()


@pytest.mark.gen_test
async def test_the_oldest_of_too_many_handshakes_is_cut_off() -> None:
    """One handshake too many cuts off the oldest, so that a quick client always gets in."""
    async with running(**{"server.file_descriptors.HTTP_CONNECTIONS": 3}) as server:
        slow = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(3)]
        await until(lambda: len(server._http.connections) == 3)
        async with await Client.join(server.port) as client:
            assert await slow[0][0].read() == b""
            await client.quiet()
        assert server.node.limits.refused["max_handshakes"] == 1
        for _, writer in slow:
            writer.close()
        await until(lambda: len(server._http.connections) == 0)


@pytest.mark.gen_test
async def test_an_idle_socket_gives_way_to_a_new_one() -> None:
    """Sockets between two requests are the first to go, and count like the others."""
    async with running(**{"server.file_descriptors.HTTP_CONNECTIONS": 1}) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        await until(lambda: len(server._http.connections) == 1)
        assert (await http(server.port, "/health")).status == 200
        await reader.read()
        writer.close()


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("request_bytes", "limit"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 20000 + b"\r\n\r\n", "max_header_bytes"),
        (POST + b"Content-Length: 16385\r\n\r\n", "max_body"),
        (POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", "max_body"),
        (POST + CHUNKED + b"4001\r\n" + b"x" * 16385 + b"\r\n", "max_body"),
        (POST + CHUNKED + (b"2000\r\n" + b"x" * 8192 + b"\r\n") * 3 + b"0\r\n\r\n", "max_body"),
    ],
    ids=["headers", "body", "huge", "chunk", "chunks"],
)
async def test_too_large_headers_and_bodies_are_refused(request_bytes: bytes, limit: str) -> None:
    """Headers and bodies beyond their settings end the request; nothing of them is kept."""
    async with (
        running(**{"config.settings.Settings.max_event": 16384}) as server,
        await Client.join(server.port) as neighbour,
    ):
        try:
            answer = await exchange(server.port, request_bytes)
            assert answer.status in (400, 413, 431)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        await until(lambda: server.node.limits.refused[limit] == 1)
        await until(lambda: len(server._http.connections) == 0)
        await neighbour.quiet()


@pytest.mark.gen_test
async def test_too_many_header_lines_are_refused() -> None:
    """Far more lines than anybody sends are not even parsed: 400, and the connection is closed."""
    async with running() as server:
        for lines, status in ((100, 200), (200, 400)):
            head = b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"a:b\r\n" * lines + b"\r\n"
            assert (await exchange(server.port, head)).status == status
        await until(lambda: len(server._http.connections) == 0)


@pytest.mark.gen_test
async def test_the_answer_to_a_large_body_names_the_limit() -> None:
    """413 with the limit's name, before any of the body is sent; smaller bodies are checked as usual."""
    async with running(**{"config.settings.Settings.max_event": 16384}) as server:
        answer = await exchange(server.port, POST + b"Content-Length: 16385\r\n\r\n")
        assert (answer.status, answer.json["limit"]) == (413, "max_body")
        answer = await exchange(server.port, POST + b"Content-Length: 16384\r\n\r\n" + b"x" * 16384)
        assert answer.status == 400


@pytest.mark.gen_test
async def test_an_endless_chunk_size_is_malformed() -> None:
    """A chunk size that never ends is malformed, and not counted as large headers."""
    async with running() as server:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await exchange(server.port, POST + CHUNKED + b"0" * 1000)
        await until(lambda: len(server._http.connections) == 0)
        assert server.node.limits.refused["max_header_bytes"] == 0


@pytest.mark.gen_test
async def test_a_flooder_that_ignores_its_close_is_not_read() -> None:
    """It costs nothing more: whatever else it sends stays in the kernel."""
    async with running(
        **{"server.server.CLOSE_TIMEOUT": 1}, **{**RATES, "command_rate": 0.001, PATIENCE: 1}
    ) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        lines = [f"GET /ws?token={token()} HTTP/1.1", "Host: x"]
        lines += [f"{name}: {value}" for name, value in UPGRADE.items()]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
        await until(lambda: server.hub.sessions == 1)
        stats = server.node.wire_stats
        before = stats.bytes_in
        frame = b"\x81\x84\x00\x00\x00\x00spam"
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                writer.write(frame * 6554)
                await writer.drain()
        assert stats.bytes_in - before < 1 << 20
        writer.transport.abort()
        del reader
        async with await Client.join(server.port, user="n") as neighbour:
            await neighbour.quiet()
        await until(lambda: server.hub.sessions == 0)
