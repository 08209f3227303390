"""One session over a real socket, from its upgrade to its close, as the contract has it."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
import traceback
from typing import Any

import pytest

from eclipse_ws.application.base import ApiError
from eclipse_ws.protocol import CloseCode, Cursor
from tests.client import UPGRADE, Client, leaving_nothing, running, token, until
from tests.conftest import SECRET

STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def timeless(event: dict[str, Any]) -> dict[str, Any]:
    """The event without its time, which every event has."""
    assert STAMP.fullmatch(event["timestamp"]), event
    return {name: value for name, value in event.items() if name != "timestamp"}


async def upgraded(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A session on a bare stream, which reads and answers nothing by itself."""
    bare = socket.socket()
    bare.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # what is sent soon has to wait
    bare.setblocking(False)
    await asyncio.get_running_loop().sock_connect(bare, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=bare, limit=1024)
    lines = [f"GET /ws?token={token()} HTTP/1.1", f"Host: 127.0.0.1:{port}"]
    lines += [f"{name}: {value}" for name, value in UPGRADE.items()]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
    return reader, writer


# -- connecting ---------------------------------------------------------------------------------


@pytest.mark.gen_test
@pytest.mark.parametrize("path", ["/", "/ws"])
async def test_connected(path: str) -> None:
    """Both paths greet with the chat, the session, the chat's cursor and the token's end."""
    async with running() as server:
        expiry = int(time.time()) + 60
        async with await Client.open(server.port, f"token={token(exp=expiry)}", path=path) as client:
            event = timeless(await client.receive())
            session, cursor, expires = event.pop("sessionId"), event.pop("cursor"), event.pop("expiresAt")
            assert event == {"type": "connected", "chatId": "c1"}
            assert re.fullmatch("[0-9a-f]{16}", session)
            assert Cursor.parse(cursor) is not None
            assert expires == time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(expiry))


@pytest.mark.gen_test
async def test_cursor_that_is_no_utf8_is_an_unknown_cursor() -> None:
    """Odd bytes for a cursor are a cursor that reaches nothing, no error."""
    async with (
        running() as server,
        await Client.open(server.port, f"token={token()}&cursor=%ff", greet=True) as client,
    ):
        assert client.connected["recovered"] is False


# -- commands and events ------------------------------------------------------------------------


@pytest.mark.gen_test
@pytest.mark.parametrize("role", ["USER", "ASSISTANT", "AGENT"])
async def test_message(role: str) -> None:
    """A message reaches everybody in its chat once and alike; its sender alone has the ack."""
    async with running() as server:
        async with (
            await Client.join(server.port) as one,
            await Client.join(server.port, user="u2") as two,
            await Client.join(server.port, "c2") as elsewhere,
        ):
            await one.say(type="message", content="hi", role=role, clientMessageId="k1")
            event = await one.next("message")
            acked = timeless(await one.next("ack"))
            assert await two.next("message") == event
            for client in (one, two, elsewhere):
                await client.quiet()
        data = event["data"]
        assert timeless(event) == {
            "type": "message",
            "data": {
                "id": data["id"],
                "content": "hi",
                "role": role.lower(),
                "timestamp": data["timestamp"],
                "sender": {"id": "u1", "name": None, "email": None, "avatar": None},
            },
            "cursor": event["cursor"],
        }
        assert STAMP.fullmatch(data["timestamp"])
        assert acked == {
            "type": "ack",
            "clientMessageId": "k1",
            "id": data["id"],
            "cursor": event["cursor"],
            "delivery": "published",
        }


@pytest.mark.gen_test
async def test_message_without_a_key() -> None:
    """A client of today gets its event and no ack."""
    async with running() as server, await Client.join(server.port) as client:
        await client.say(type="message", content="hi", role="USER")
        await client.next("message")
        await client.quiet()


@pytest.mark.gen_test
async def test_messages_are_kept_in_order() -> None:
    """What one session sends in one go comes to all in that order, with growing cursors."""
    async with (
        running() as server,
        await Client.join(server.port) as one,
        await Client.join(server.port, user="u2") as two,
    ):
        for number in range(30):
            await one.say(type="message", content=str(number), role="USER")
        for client in (one, two):
            events = [await client.next("message") for _ in range(30)]
            assert [event["data"]["content"] for event in events] == [str(n) for n in range(30)]
            offsets = [int(event["cursor"].rpartition(".")[2]) for event in events]
            assert offsets == list(range(1, 31))


@pytest.mark.gen_test
async def test_typing() -> None:
    """Typing goes to the others in the chat, never back to the session that sent it, and is not kept."""
    async with (
        running() as server,
        await Client.join(server.port) as one,
        await Client.join(server.port) as same_user,
    ):
        await one.say(type="typing", isTyping=True)
        await one.say(type="typing", isTyping=False)
        for state in (True, False):
            event = timeless(await same_user.next("typing"))
            assert event == {"type": "typing", "data": {"userId": "u1", "isTyping": state}}
        await one.quiet()


@pytest.mark.gen_test
async def test_agent_joined() -> None:
    """An agent is announced by the chat API's name; what the client says of itself is ignored."""
    async with running() as server, await Client.join(server.port, user="agent_1") as agent:
        await agent.say(type="agent_joined", agentId="boss", agentName="The Boss")
        event = await agent.next("agent_joined")
        assert event["data"] == {
            "agentId": "agent_1",
            "agentName": "Ada Okafor",
            "timestamp": event["timestamp"],
        }
        assert Cursor.parse(event["cursor"]) is not None


@pytest.mark.gen_test
async def test_agent_who_is_not_found(expect_log: Any) -> None:
    """A user whom the chat API doesn't know is refused in today's words."""
    expect_log("agent not found")
    async with running() as server, await Client.join(server.port, user="nobody") as client:
        await client.say(type="agent_joined", agentId="a", agentName="b")
        assert timeless(await client.next("error")) == {
            "type": "error",
            "error": "Failed to fetch agent info",
            "code": "user_not_found",
            "retryable": False,
        }
        await client.quiet()


@pytest.mark.gen_test
async def test_agent_joined_that_can_not_be_published(
    expect_log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault while publishing is answered with `internal_error` and the text of the contract."""
    expect_log("agent_joined failed")
    async with running() as server, await Client.join(server.port, user="agent_1") as client:

        async def broken(*_: object, **__: object) -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(server.delivery, "publish", broken)
        await client.say(type="agent_joined")
        event = await client.next("error")
        assert (event["error"], event["code"]) == ("Failed to process agent_joined event", "internal_error")
        await client.quiet()


@pytest.mark.gen_test
async def test_ping() -> None:
    """A ping is answered with a pong, to its sender alone."""
    async with (
        running() as server,
        await Client.join(server.port) as one,
        await Client.join(server.port) as two,
    ):
        await one.say(type="ping")
        assert timeless(await one.next("pong")) == {"type": "pong"}
        await two.quiet()


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("frame", "text", "code"),
    [
        ('{"type":"message","content":"x"}', "Missing content or role", "missing_content_or_role"),
        (
            '{"type":"message","content":" ","role":"USER"}',
            "Missing content or role",
            "missing_content_or_role",
        ),
        ('{"type":"dance"}', "Unknown message type", "unknown_type"),
        ("hello", "Failed to process message", "malformed"),
        ("[]", "Failed to process message", "malformed"),
        ("{}", "Failed to process message", "malformed"),
        ("", "Failed to process message", "malformed"),
        (b"\xff\x00", "Failed to process message", "malformed"),
    ],
)
async def test_bad_input_is_answered(frame: str | bytes, text: str, code: str) -> None:
    """A bad frame is answered in today's words with our code, and what is behind it is carried out."""
    async with running() as server, await Client.join(server.port) as client:
        await client.raw(frame)
        await client.say(type="message", content="after it", role="USER")
        event = timeless(await client.next("error"))
        assert event == {"type": "error", "error": text, "code": code, "retryable": False}
        assert (await client.next("message"))["data"]["content"] == "after it"


@pytest.mark.gen_test
async def test_binary_frames_are_commands_too() -> None:
    """A command may come in a binary frame, as in the previous service."""
    async with running() as server, await Client.join(server.port) as client:
        await client.raw(b'{"type":"ping"}')
        await client.next("pong")


@pytest.mark.gen_test
async def test_api_error_is_told_without_its_detail(expect_log: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the chat API said stays in the log; the client has a code, a delay and its own key."""
    expect_log("message not saved")
    async with running() as server, await Client.join(server.port) as client:

        async def refused(*_: object, **__: object) -> None:
            raise ApiError("api_unavailable", "postgres at 10.0.0.7 is down", retry_after=1.5)

        monkeypatch.setattr(server.api, "send_message", refused)
        await client.say(type="message", content="x", role="USER", clientMessageId="k1")
        event = await client.next("error")
        assert timeless(event) == {
            "type": "error",
            "error": "Failed to send message",
            "code": "api_unavailable",
            "retryable": True,
            "retryAfter": 1.5,
            "clientMessageId": "k1",
        }
        assert "postgres" not in json.dumps(event)


@pytest.mark.gen_test
async def test_fault_of_ours_is_answered(expect_log: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in a command is an error frame and a log line with its trace; the session lives."""
    expect_log("command failed")
    async with running() as server, await Client.join(server.port) as client:

        async def broken(*_: object, **__: object) -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(server.api, "send_message", broken)
        await client.say(type="message", content="x", role="USER", clientMessageId="k")
        event = await client.next("error")
        assert (event["error"], event["code"]) == ("Failed to process message", "internal_error")
        assert event["clientMessageId"] == "k"
        await client.quiet()
        assert server.node.under_way == 0


@pytest.mark.gen_test
async def test_fault_beyond_commands_closes_with_4000(
    expect_log: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug where no answer is possible ends this session with the contract's code, and is in the log."""
    expect_log("Uncaught exception")
    async with (
        running() as server,
        await Client.join(server.port) as client,
        await Client.join(server.port) as neighbour,
    ):
        calls: list[int] = []

        def broken(*_: object) -> None:
            if not calls:
                calls.append(1)
                raise RuntimeError("a bug")

        monkeypatch.setattr(server.node.commands, "handle", broken)
        await client.say(type="ping")
        assert await client.ended() == (4000, "Internal server error")
        await neighbour.say(type="typing", isTyping=True)
        monkeypatch.undo()
        await neighbour.quiet()
    (logged,) = (each for each in caplog.records if each.name == "tornado.application")
    assert logged.exc_info
    assert traceback.extract_tb(logged.exc_info[2])[-1].name == "broken"


@pytest.mark.gen_test
async def test_backend_that_can_not_subscribe(expect_log: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chat that can't be heard ends the session with 4000, and leaves nothing."""
    from eclipse_ws.backends.base import BackendError

    expect_log("session failed")
    async with running() as server:

        async def broken(chat_id: str) -> None:
            raise BackendError("no room")

        monkeypatch.setattr(server.delivery, "subscribe", broken)
        async with leaving_nothing(server):
            client = await Client.open(server.port, f"token={token()}")
            assert await client.ended() == (4000, "Internal server error")


# -- idempotent sends and resume ----------------------------------------------------------------


@pytest.mark.gen_test
async def test_same_key_again() -> None:
    """The same key is answered with the same ack, also to another session, and told to nobody twice."""
    async with (
        running() as server,
        await Client.join(server.port) as one,
        await Client.join(server.port) as two,
    ):
        send = {"type": "message", "content": "hi", "role": "USER", "clientMessageId": "k1"}
        await one.say(**send)
        await one.say(**send)
        await one.next("message")
        acks = [await one.next("ack"), await one.next("ack")]
        await two.next("message")
        await two.say(**send)
        acks.append(await two.next("ack"))
        assert len({json.dumps(timeless(each)) for each in acks}) == 1
        async with await Client.join(server.port, "c2") as elsewhere:
            await elsewhere.say(**send)
            await elsewhere.next("message")
            assert (await elsewhere.next("ack"))["id"] != acks[0]["id"]
        await one.quiet()
        await two.quiet()


@pytest.mark.gen_test
async def test_resume() -> None:
    """A cursor handed back brings what was missed, in order, once, and then what is live."""
    async with running() as server, await Client.join(server.port) as speaker:
        gone = await Client.join(server.port, user="u2")
        await speaker.say(type="message", content="0", role="USER")
        cursor = (await gone.next("message"))["cursor"]
        await gone.close()
        for number in range(1, 6):
            await speaker.say(type="message", content=str(number), role="USER")
        await speaker.say(type="typing", isTyping=True)
        said = [await speaker.next("message") for _ in range(6)]
        async with await Client.join(server.port, user="u2", cursor=cursor) as back:
            assert back.connected["recovered"] is True
            assert back.connected["cursor"] == cursor
            await speaker.say(type="message", content="6", role="USER")
            replayed = [await back.next("message") for _ in range(6)]
            assert [each["data"]["content"] for each in replayed] == list("123456")
            assert replayed[:5] == said[1:]
            await back.quiet()


@pytest.mark.gen_test
async def test_resume_with_nothing_missed() -> None:
    """The current cursor brings nothing but the news that nothing was missed."""
    async with running() as server, await Client.join(server.port) as client:
        cursor = client.connected["cursor"]
        async with await Client.join(server.port, cursor=cursor) as back:
            assert (back.connected["recovered"], back.connected["cursor"]) == (True, cursor)
            await back.quiet()


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "cursor", ["", "x", "0123456789ab.0", "{epoch}.99", "{epoch}.-1", "{epoch}.01", "x" * 9000]
)
async def test_cursor_that_reaches_nothing(cursor: str) -> None:
    """A cursor of another epoch, of the future, or no cursor at all: not recovered, and where the chat is."""
    async with running() as server, await Client.join(server.port) as client:
        await client.say(type="message", content="x", role="USER")
        now = (await client.next("message"))["cursor"]
        tried = cursor.replace("{epoch}", now.rpartition(".")[0])
        async with await Client.join(server.port, cursor=tried) as back:
            assert (back.connected["recovered"], back.connected["cursor"]) == (False, now)
            await back.quiet()


@pytest.mark.gen_test
async def test_cursor_of_another_chat() -> None:
    """One chat's cursor reaches nothing in another."""
    async with (
        running() as server,
        await Client.join(server.port, "c2") as other,
        await Client.join(server.port, cursor=other.connected["cursor"]) as client,
    ):
        assert client.connected["recovered"] is False


@pytest.mark.gen_test
async def test_never_a_partial_replay() -> None:
    """A history that no longer reaches back is not replayed in part."""
    async with running(history_events=3) as server, await Client.join(server.port) as client:
        start = client.connected["cursor"]
        for number in range(4):
            await client.say(type="message", content=str(number), role="USER")
        cursors = [(await client.next("message"))["cursor"] for _ in range(4)]
        async with await Client.join(server.port, cursor=start) as back:
            assert (back.connected["recovered"], back.connected["cursor"]) == (False, cursors[-1])
            await back.quiet()
        async with await Client.join(server.port, cursor=cursors[0]) as back:
            assert back.connected["recovered"] is True
            assert [(await back.next("message"))["cursor"] for _ in range(3)] == cursors[1:]


# -- the end ------------------------------------------------------------------------------------


@pytest.mark.gen_test
@pytest.mark.parametrize("code", [1000, 1001, 3000, 4999])
async def test_client_leaves(code: int) -> None:
    """A client that leaves is answered with its own code and leaves nothing behind."""
    async with running() as server, leaving_nothing(server):
        client = await Client.join(server.port)
        await client.socket.close(code)
        assert client.socket.close_code == code


@pytest.mark.gen_test
async def test_client_vanishes() -> None:
    """A client that is cut off leaves nothing behind either."""
    async with running() as server, leaving_nothing(server):
        client = await Client.join(server.port)
        client.socket.transport.abort()
        await until(lambda: not server.hub.sessions)


@pytest.mark.gen_test
async def test_client_vanishes_while_its_message_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message in progress is saved and published even if its sender is gone."""
    async with running() as server, await Client.join(server.port, user="u2") as neighbour:
        gate, send = asyncio.Event(), server.api.send_message

        async def slow(*given: Any, **named: Any) -> Any:
            await gate.wait()
            return await send(*given, **named)

        monkeypatch.setattr(server.api, "send_message", slow)
        client = await Client.join(server.port)
        await client.say(type="message", content="last words", role="USER", clientMessageId="k")
        await until(lambda: server.node.under_way)
        client.socket.transport.abort()
        gate.set()
        assert (await neighbour.next("message"))["data"]["content"] == "last words"
        await until(lambda: server.hub.sessions == 1)


@pytest.mark.gen_test
async def test_message_too_big() -> None:
    """A frame over the limit ends its sender with 1009, and nobody else."""
    async with running() as server, await Client.join(server.port) as neighbour:
        async with leaving_nothing(server):
            client = await Client.join(server.port)
            await client.raw("x" * (server.settings.max_frame + 1))
            code, reason = await client.ended()
            assert code == 1009
            assert reason == f"Message too big: more than {server.settings.max_frame} bytes"
        await neighbour.quiet()
        await neighbour.raw(" " * (server.settings.max_frame - 15) + '{"type":"ping"}')
        await neighbour.next("pong")


@pytest.mark.gen_test
async def test_resume_needed() -> None:
    """A node that missed events of a chat ends that chat's sessions with 4010; cursors bring them back."""
    async with running() as server, await Client.join(server.port, "c2") as elsewhere:
        client = await Client.join(server.port)
        server.hub.interrupt("c1")
        assert await client.ended() == (4010, "Resume needed: this node missed events of the chat")
        async with await Client.join(server.port, cursor=client.connected["cursor"]) as back:
            assert back.connected["recovered"] is True
        await elsewhere.quiet()


@pytest.mark.gen_test
async def test_too_slow() -> None:
    """A client that reads nothing is ended with 4008, in one piece; who fills its queue loses nothing."""
    # Two sockets' buffers are in between: a few MB, which the kernel decides.
    async with (
        running(queue_bytes=131072, max_content=60_000) as server,
        await Client.join(server.port, user="u2") as speaker,
    ):
        # A raw stream, because the client of the tests reads ahead.
        reader, writer = await upgraded(server.port)
        await until(lambda: server.hub.sessions == 2)
        (slow,) = [each for each in server.hub.members("c1") if each.user_id == "u1"]
        sent = 0
        while not slow.wire.is_closing:
            sent += 1
            assert sent < 500, "a queue of 128 KB took 30 MB"
            await speaker.say(type="message", content="x" * 59_000 + str(sent), role="USER")
            event = await speaker.next("message")
            assert event["data"]["content"].endswith(f"x{sent}")
        data = await asyncio.wait_for(reader.read(), 10)
        reason = b"Too slow: outgoing queue is full"
        assert data.endswith(bytes([0x88, len(reason) + 2]) + (4008).to_bytes(2, "big") + reason)
        writer.close()
        await until(lambda: server.hub.sessions == 1)
        await speaker.quiet()


@pytest.mark.gen_test
async def test_dead_peer_is_noticed() -> None:
    """A peer that answers no ping is closed."""
    async with (
        running(ping_interval=0.05) as server,
        await Client.join(server.port, user="alive") as alive,
    ):
        reader, writer = await upgraded(server.port)
        await until(lambda: server.hub.sessions == 2)
        await until(lambda: server.hub.sessions == 1)
        await reader.read()
        writer.close()
        await alive.quiet()


@pytest.mark.gen_test
async def test_sessions_are_counted_and_ended_once() -> None:
    """Every started session ends once, however it ends; refusals are counted separately."""
    async with running() as server:
        counts = server.node.counts
        one, two = await Client.join(server.port), await Client.join(server.port)
        bad = await Client.open(server.port, "token=x")
        await bad.ended()
        await one.close()
        for session in server.hub.members():
            session.end(CloseCode.NORMAL)
            session.end(CloseCode.KICKED)
        await until(lambda: counts.ended == 2)
        await until(lambda: two.socket.close_code is not None)
        assert (counts.started, counts.upgrades_refused["token"]) == (2, 1)


@pytest.mark.gen_test
async def test_a_refused_refresh_says_why_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """The line has the session, and what is wrong with the token."""
    caplog.set_level("INFO")
    async with running() as server, await Client.join(server.port) as client:
        for wrong in (token(exp=1), token(userId="another")):
            await client.say(type="refresh", token=wrong)
            await client.next("error")
    lines = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
    refused = [line for line in lines if line["event"] == "refresh refused"]
    assert [(line["limit"], line.get("why")) for line in refused] == [
        ("token", "the token has expired"),
        ("forbidden", None),
    ]
    assert all("session" in line for line in refused)


@pytest.mark.gen_test
async def test_logs_never_hold_a_token_or_content(caplog: pytest.LogCaptureFixture) -> None:
    """One line at a session's start and one at its end, with ids, code and counts, and nothing private."""
    async with running() as server:
        text = token()
        with caplog.at_level("INFO"):
            async with await Client.open(server.port, f"token={text}", greet=True) as client:
                await client.say(type="message", content="top secret words", role="USER")
                await client.next("message")
            await until(lambda: not server.hub.sessions)
        lines = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
        started = [line for line in lines if line["event"] == "session started"]
        ended = [line for line in lines if line["event"] == "session ended"]
        assert len(started) == len(ended) == 1
        assert (started[0]["chat"], started[0]["user"]) == ("c1", "u1")
        assert ended[0]["client_address"] == "127.0.0.1"
        assert (ended[0]["code"], ended[0]["commands"], ended[0]["session"]) == (
            1000,
            1,
            started[0]["session"],
        )
        for private in (text, "top secret words", SECRET):
            assert private not in caplog.text
            assert not any(private in str(line) for line in lines)


# -- compression --------------------------------------------------------------------------------
