"""The terminal's chat client against a scripted server: what it shows, sends and settles; reconnecting."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tornado.web import Application
from tornado.websocket import WebSocketHandler

from eclipse_ws.commands import chat as chat_module
from eclipse_ws.commands import chat_client
from eclipse_ws.commands.chat import chat
from eclipse_ws.commands.chat_client import Chat
from eclipse_ws.commands.tokens import FixedUrl, MintedUrl
from eclipse_ws.protocol import CloseCode
from tests.client import Client, running
from tests.conftest import SECRET

CONNECTED = {"type": "connected", "chatId": "c1", "cursor": "e.1"}


class Scripted(WebSocketHandler):
    """A server that tells the test who connected and what was sent, and does what the test wants."""

    def initialize(self, server: Server) -> None:
        """Keep what is shared with the test."""
        self._server = server

    async def prepare(self) -> None:
        """Lets nobody in before the test wants it."""
        await self._server.gate.wait()

    def on_close(self) -> None:
        """Tells that somebody left."""
        self._server.left.set()

    async def open(self) -> None:
        """Greets as the test wants."""
        self.arguments = {name: self.get_query_argument(name) for name in self.request.query_arguments}
        code = self._server.refuse.pop(0) if self._server.refuse else None
        if code is not None:
            self.close(code, "Token expired" if code == 4002 else None)
            return
        await self.write_message(json.dumps(CONNECTED))
        self._server.came.put_nowait(self)

    async def on_message(self, message: str | bytes) -> None:
        """Passes the command on."""
        self._server.commands.put_nowait(json.loads(message))


class Server:
    """What the scripted server and a test share."""

    def __init__(self) -> None:
        self.came: asyncio.Queue[Scripted] = asyncio.Queue()
        self.commands: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.refuse: list[int] = []
        self.gate, self.left = asyncio.Event(), asyncio.Event()
        self.gate.set()


class Screen:
    """The lines shown, which can be waited for."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._more = asyncio.Event()

    def __call__(self, line: str) -> None:
        """Shows a line."""
        self.lines.append(line)
        self._more.set()

    async def shows(self, part: str) -> str:
        """The first line that holds `part`."""
        while True:
            for line in self.lines:
                if part in line:
                    return line
            self._more.clear()
            await self._more.wait()


@pytest.fixture
def server() -> Server:
    """What the scripted server and the test share."""
    return Server()


@pytest.fixture
def app(server: Server) -> Application:
    """The scripted server."""
    return Application([(r"/ws", Scripted, {"server": server})], log_function=lambda handler: None)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other at once."""
    monkeypatch.setattr(chat_client, "FIRST_WAIT", 0.001)


@pytest.fixture
def url(http_server: Any, http_port: int) -> str:
    """The scripted server's URL."""
    return f"ws://127.0.0.1:{http_port}/ws?token=t"


async def leave(running: asyncio.Task[None]) -> None:
    """Ends a participant's task."""
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


EVENTS = [
    ({"type": "message", "data": {"content": "hi", "sender": {"id": "u", "name": "Ann"}}}, "Ann: hi"),
    ({"type": "message", "data": {"content": "hi", "sender": {"id": "u", "email": "a@b"}}}, "a@b: hi"),
    ({"type": "message", "data": {"content": "hi", "sender": {"id": "u", "name": None}}}, "u: hi"),
    ({"type": "message", "data": {"content": "hi", "sender": 3}}, "somebody: hi"),
    ({"type": "message_updated", "data": {"content": "ho", "sender": {"id": "u"}}}, "u (changed): ho"),
    ({"type": "message", "data": {"content": "\x1b[2Jx\ny", "sender": {"id": "\r"}}}, "\\r: \\x1b[2Jx\\ny"),
    ({"type": "typing", "data": {"userId": "u", "isTyping": True}}, "* u is typing ..."),
    ({"type": "agent_joined", "data": {"agentName": "Bob"}}, "* Bob has joined"),
    ({"type": "error", "error": "Missing content or role"}, "! Missing content or role"),
    ({"type": "presence", "data": {"users": [{"userId": "u", "role": "user"}, 7]}}, "* here: u (user)"),
    ({"type": "presence", "data": {"users": []}}, "* here: nobody"),
    (
        {"type": "presence", "data": {"userId": "\r", "role": "agent", "online": True}},
        "* \\r (agent) is here",
    ),
    ({"type": "presence", "data": {"userId": "u", "role": "user", "online": False}}, "* u (user) has left"),
]


@pytest.mark.parametrize(("event", "line"), EVENTS)
@pytest.mark.gen_test
async def test_events_are_shown(server: Server, url: str, event: dict[str, Any], line: str) -> None:
    """Each event is a line, with nothing in it that could steer the terminal."""
    screen = Screen()
    runs = asyncio.create_task(Chat(FixedUrl(url), "USER", screen).run())
    socket = await server.came.get()
    await socket.write_message("no json")
    await socket.write_message("[]")
    await socket.write_message(json.dumps({"type": "typing", "data": {"userId": "u", "isTyping": False}}))
    await socket.write_message(json.dumps({"type": "presence", "data": {}}))
    await socket.write_message(json.dumps(event))
    await screen.shows(line)
    assert screen.lines == ["* connected to the chat c1", line]
    await leave(runs)


@pytest.mark.parametrize("answer", ["ack", "message"])
@pytest.mark.gen_test
async def test_a_line_is_sent_and_settled(server: Server, url: str, answer: str) -> None:
    """A line becomes a command; an ack settles it, or the message itself where there are no acks."""
    me = Chat(FixedUrl(url), "AGENT", Screen())
    runs = asyncio.create_task(me.run())
    socket = await server.came.get()
    await me.send("hello")
    command = await server.commands.get()
    key = command.pop("clientMessageId")
    assert command == {"type": "message", "content": "hello", "role": "AGENT"}
    assert 1 <= len(key) <= 64
    assert not await me.finish(timeout=0)
    other = {"type": "message", "data": {"content": "something else"}}
    event = (
        {"type": "ack", "clientMessageId": key}
        if answer == "ack"
        else {"type": "message", "data": {"content": "hello"}}
    )
    await socket.write_message(json.dumps(other))
    await socket.write_message(json.dumps(event))
    assert await me.finish(timeout=60)
    await me.typing(True)
    assert await server.commands.get() == {"type": "typing", "isTyping": True}
    await leave(runs)


@pytest.mark.gen_test
async def test_several_chats(monkeypatch: pytest.MonkeyPatch) -> None:
    """It joins further chats, names each line's, sends lines where they belong, and resumes all."""
    screen = Screen()
    typed: asyncio.Queue[str] = asyncio.Queue()

    async def lines(prompt: str) -> AsyncIterator[str]:
        while line := await typed.get():
            yield line

    monkeypatch.setattr(chat_module, "lines", lines)
    async with running() as server, await Client.join(server.port, "c2", "u2") as other:
        claims = {"chatIds": ["c2", "c3"]}
        source = MintedUrl(SECRET, f"127.0.0.1:{server.port}", "c1", "me", True, more=claims)
        me = Chat(source, "USER", screen, ["c2", "no"])
        tasks = [asyncio.create_task(work) for work in (me.run(), chat_module._send_lines(me, ""))]
        await screen.shows("* connected to the chat c2")
        await screen.shows("[no] ! Not allowed")
        for line in ("one", "/chat c2", "two", "/chat c3", "three", "/chat c1", "four", "/who"):
            typed.put_nowait(line)
        for shown in ("[c1] me: one", "[c2] me: two", "[c3] me: three", "[c1] me: four"):
            await screen.shows(shown)
        assert (await other.next("message"))["data"]["content"] == "two"
        assert await me.finish(timeout=60)
        for session in server.hub.members("c1"):
            session.end(CloseCode.RESTARTING)
        await screen.shows("* connection lost (1012: Server restarting)")
        await other.say(type="message", content="missed", role="USER")
        await screen.shows("[c2] u2: missed")
        assert len([line for line in screen.lines if line == "[c2] me: two"]) == 1
        assert await screen.shows("* connected to the chat c3")
        for task in tasks:
            await leave(task)


@pytest.mark.gen_test
async def test_an_error_names_the_line_that_was_not_sent(server: Server, url: str) -> None:
    """An error for a line shows it again, so that it can be retyped, and settles it."""
    screen = Screen()
    me = Chat(FixedUrl(url), "USER", screen)
    runs = asyncio.create_task(me.run())
    socket = await server.came.get()
    await me.send("hello")
    key = (await server.commands.get())["clientMessageId"]
    error = {"type": "error", "error": "Failed to send message", "clientMessageId": key}
    await socket.write_message(json.dumps(error))
    assert await me.finish(timeout=60)
    assert "! Failed to send message (not sent: hello)" in screen.lines
    await me.send("again")
    key = (await server.commands.get())["clientMessageId"]
    await socket.write_message(json.dumps({**error, "code": "outcome_unknown", "clientMessageId": key}))
    assert await me.finish(timeout=60)
    assert "! Failed to send message (perhaps sent: again)" in screen.lines
    await leave(runs)


@pytest.mark.gen_test
async def test_a_lost_connection_is_resumed_with_the_cursor(server: Server, url: str) -> None:
    """After a close the client reconnects with the last cursor, and sends again what was not settled."""
    screen = Screen()
    me = Chat(FixedUrl(url), "USER", screen)
    await me.send("typed before there was a connection")
    runs = asyncio.create_task(me.run())
    first = await server.came.get()
    assert "cursor" not in first.arguments
    sent = await server.commands.get()
    await first.write_message(json.dumps({"type": "message", "data": {"content": "x"}, "cursor": "e.2&3"}))
    await screen.shows("somebody: x")
    first.close(1012, "server restarting")
    second = await server.came.get()
    assert second.arguments == {"token": "t", "events": "presence", "cursor": "e.2&3"}
    assert await server.commands.get() == sent
    assert "connection lost (1012: server restarting); trying again in" in screen.lines[2]
    await leave(runs)


@pytest.mark.gen_test
async def test_refusals_are_shown_and_retried(server: Server, url: str) -> None:
    """A refused token and a close without a reason are shown, and the client goes on."""
    screen = Screen()
    server.refuse = [4002, 4000]
    runs = asyncio.create_task(Chat(FixedUrl(url), "USER", screen).run())
    await server.came.get()
    assert screen.lines[0].startswith("* Token expired (4002); trying again")
    assert screen.lines[1].startswith("* connection lost (4000); trying again")
    await leave(runs)


@pytest.mark.gen_test
async def test_a_kick_is_the_end(server: Server, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """4003 means stop: the client prints it, and exits with 1."""
    monkeypatch.setattr(chat_module, "lines", silence)
    printed: list[str] = []
    monkeypatch.setattr("builtins.print", lambda line, **_: printed.append(line))
    server.refuse = [4003]
    assert await chat(FixedUrl(url), "USER") == 1
    assert printed == ["* disconnected by the application"]


@pytest.mark.gen_test
async def test_an_unreachable_server(http_port: int, url: str) -> None:
    """A refused connection, and a page instead of a WebSocket, are reported and retried."""
    for address, part in (
        (url.replace("/ws?", "/other?"), "the server refused"),
        ("ws://127.0.0.1:1/ws", "refused"),
    ):
        screen = Screen()
        runs = asyncio.create_task(Chat(FixedUrl(address), "USER", screen).run())
        assert "trying again" in await screen.shows(part)
        await leave(runs)


@pytest.mark.gen_test
async def test_writing_to_a_closed_connection_does_not_raise(server: Server, url: str) -> None:
    """A line typed when the connection has just closed waits for the next one."""
    screen = Screen()
    me = Chat(FixedUrl(url), "USER", screen)
    runs = asyncio.create_task(me.run())
    first = await server.came.get()
    await screen.shows("connected")
    me._socket.close()
    await me.send("late")
    await server.came.get()
    assert (await server.commands.get())["content"] == "late"
    first.close()
    await leave(runs)


@pytest.mark.gen_test
async def test_too_many_unsettled_lines_wait(
    server: Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for its ack is bounded: a further line waits for room."""
    monkeypatch.setattr(chat_client, "MAX_UNSETTLED", 1)
    me = Chat(FixedUrl(url), "USER", Screen())
    runs = asyncio.create_task(me.run())
    socket = await server.came.get()
    await me.send("one")
    waiting = asyncio.create_task(me.send("two"))
    key = (await server.commands.get())["clientMessageId"]
    assert not waiting.done()
    await socket.write_message(json.dumps({"type": "ack", "clientMessageId": key}))
    await waiting
    assert (await server.commands.get())["content"] == "two"
    await leave(runs)


async def silence(prompt: str) -> AsyncIterator[str]:
    """An input that never ends and has no lines."""
    await asyncio.Event().wait()
    yield prompt


@pytest.mark.gen_test
async def test_the_program_reads_its_input_to_the_end(
    server: Server, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Non-blank lines of a pipe are sent; the end waits for the acks, and exits with 1 without them."""
    monkeypatch.setattr(chat_module, "FINISH_TIMEOUT", 0.2)
    for acks in (True, False):
        monkeypatch.setattr(sys, "stdin", io.StringIO("one\n \ntwo\n"))
        program = asyncio.create_task(chat(FixedUrl(url), "USER"))
        socket = await server.came.get()
        for content in ("one", "two"):
            command = await server.commands.get()
            assert command["content"] == content
            if acks:
                await socket.write_message(
                    json.dumps({"type": "ack", "clientMessageId": command["clientMessageId"]})
                )
        assert await program == (0 if acks else 1)
        left = "" if acks else "! perhaps not sent: one\n! perhaps not sent: two\n"
        assert capsys.readouterr().out == f"* connected to the chat c1\n{left}"


@pytest.mark.gen_test
async def test_an_unreachable_server_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A client that never joined exits with 1 and prints its unsent lines; later failures are not logged."""
    monkeypatch.setattr(chat_module, "FINISH_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and never answers
        url = FixedUrl(f"ws://127.0.0.1:{silent.getsockname()[1]}/ws?token=t")
        for typed, left in (("", ""), ("one\ntwo", "! not sent: one\n! not sent: two\n")):
            monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
            assert await chat(url, "USER") == 1
            assert capsys.readouterr().out == left
    await asyncio.sleep(0.1)  # the connections end now, after everybody has left


@pytest.mark.gen_test
async def test_an_empty_input_still_joins(server: Server, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no input the program joins before it leaves: exit code 0 means that the chat can be joined."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert await chat(FixedUrl(url), "USER") == 0
    assert not server.came.empty()


@pytest.mark.gen_test
async def test_a_late_connection_is_closed(server: Server, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that opens after the program gave it up is not left open."""
    monkeypatch.setattr(chat_client, "CONNECT_TIMEOUT", 0.1)
    server.gate.clear()
    screen = Screen()
    runs = asyncio.create_task(Chat(FixedUrl(url), "USER", screen).run())
    await screen.shows("TimeoutError")
    await leave(runs)
    server.gate.set()
    await server.left.wait()


@pytest.mark.gen_test
async def test_an_unexpected_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected error ends the program with a traceback."""

    class Broken(FixedUrl):
        async def url(self) -> str:
            """Never one."""
            raise ZeroDivisionError

    monkeypatch.setattr(chat_module, "lines", silence)
    with pytest.raises(ZeroDivisionError):
        await chat(Broken(""), "USER")


@pytest.mark.gen_test
async def test_typing_is_sent_while_a_line_is_typed(
    server: Server, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a terminal others see that one types, and their messages appear above the line being typed."""
    typed = "hel"
    monkeypatch.setattr(chat_module, "TYPING_INTERVAL", 0.001)
    monkeypatch.setattr(chat_module, "_line_editor", lambda: lambda: typed)
    monkeypatch.setattr(chat_module, "lines", silence)
    program = asyncio.create_task(chat(FixedUrl(url), "USER"))
    await server.came.get()
    first = await server.commands.get()
    typed = ""
    second = await server.commands.get()
    assert [first["isTyping"], second["isTyping"]] == [True, False]
    program.cancel()
    await asyncio.gather(program, return_exceptions=True)
    assert "\r\x1b[K* connected to the chat c1\n> hel" in capsys.readouterr().out


def test_the_line_editor_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe has no line being typed; a terminal has, where Python has readline."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert chat_module._line_editor() is None
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(sys, "stdout", Terminal())
    editor = chat_module._line_editor()
    assert editor is not None
    assert editor() == ""
    monkeypatch.setitem(sys.modules, "readline", None)
    assert chat_module._line_editor() is None
