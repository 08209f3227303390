"""Bad input gets a clear answer, and costs nothing that comes after it or beside it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import quote

import jwt
import pytest
from websockets.exceptions import InvalidStatus

from tests.client import UPGRADE, Client, claims, exchange, http, running, token
from tests.conftest import SECRET
from tests.e2e.bystanders import bystanders
from tests.e2e.process import program
from tests.nested import TOO_DEEP, nested

MALFORMED = ("Failed to process message", "malformed")
NUL = ("Invalid content: it must not contain NUL (U+0000)", "invalid_content")
UNKNOWN = ("Unknown message type", "unknown_type")
MISSING = ("Missing content or role", "missing_content_or_role")

# -- tokens -------------------------------------------------------------------------------------

UNSIGNED = jwt.encode(claims(), "", algorithm="none")
INVALID = "Invalid token"
NO_CLAIMS = "Invalid token payload: missing userId or chatId"


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        ("", 4001, "Missing authentication token"),
        ("garbage", 4002, INVALID),
        ("\x00\r\n", 4002, INVALID),
        ("a.b.c", 4002, INVALID),
        ("é" * 50, 4002, INVALID),
        (token(secret="another-secret-which-is-long-enough-too"), 4002, INVALID),
        (UNSIGNED, 4002, INVALID),
        (UNSIGNED + "x", 4002, INVALID),
        (token(exp=1), 4002, "Token expired"),
        (token(nbf=4_000_000_000), 4002, INVALID),
        (token(userId=None), 4002, NO_CLAIMS),
        (token(chatId=None), 4002, NO_CLAIMS),
        (token(user=""), 4002, NO_CLAIMS),
        (token(""), 4002, NO_CLAIMS),
        (token(userId=5), 4002, NO_CLAIMS),
        (token(chatId=["c1"]), 4002, NO_CLAIMS),
        (token(chatId={"id": "c1"}), 4002, NO_CLAIMS),
        (token(chatId=True), 4002, NO_CLAIMS),
        (token("a\x00b"), 4002, NO_CLAIMS),
        (token("a\r\nSet-Cookie: x"), 4002, NO_CLAIMS),
        (token("   "), 4002, NO_CLAIMS),
        (token("x" * 3000), 4002, NO_CLAIMS),
    ],
)
async def test_bad_token(text: str, code: int, reason: str) -> None:
    """A bad token is refused by a close code that says why, wherever the token comes from."""
    async with running() as server, bystanders(server):
        client = await Client.open(server.port, f"token={quote(text)}")
        assert await client.ended() == (code, reason)
        if text.isascii() and text.isprintable() and text:
            headers = {"Authorization": f"Bearer {text}"}
            client = await Client.open(server.port, additional_headers=headers)
            assert await client.ended() == (code, reason)


@pytest.mark.gen_test
async def test_chat_of_ten_kilobytes() -> None:
    """A chat id of 10 KB is refused, by whichever limit it meets first."""
    async with running() as server, bystanders(server):
        text = token("x" * 10_240)
        try:
            client = await Client.open(server.port, f"token={text}")
            assert (await client.ended())[0] == 4002
        except InvalidStatus as refused:
            assert refused.response.status_code in (400, 414, 431)
        client = await Client.open(server.port, additional_headers={"Authorization": f"Bearer {text}"})
        assert (await client.ended())[0] == 4002


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "chat", ["../../users/1", "{}", "{c1}:x", "a b", "c1 ", "%00", "c1/messages", "?#", "😀"]
)
async def test_odd_chat(chat: str) -> None:
    """An odd chat id is a chat of its own, also in the chat API: not a path, a key, or another chat."""
    async with (
        running() as one,
        running(api="http", next_api_url=f"http://127.0.0.1:{one.port}") as two,
        bystanders(two),
        await Client.join(two.port, chat) as client,
    ):
        await client.say(type="message", content="hi", role="USER", clientMessageId="k")
        assert (await client.next("message"))["data"]["content"] == "hi"
        await client.next("ack")
        listed = (await http(one.port, "/api/chats")).json["chats"]
        assert [each["id"] for each in listed] == [chat, "other"]


# -- frames -------------------------------------------------------------------------------------


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("frame", "told"),
    [
        ("", MALFORMED),
        ("   ", MALFORMED),
        ("hello", MALFORMED),
        ("{", MALFORMED),
        ("null", MALFORMED),
        ("5", MALFORMED),
        ('"ping"', MALFORMED),
        ("[]", MALFORMED),
        ('[{"type":"ping"}]', MALFORMED),
        ("[" * 10_000, MALFORMED),
        ("[" * 10_000 + "]" * 10_000, MALFORMED),
        *((f'{{"type":"ping","x":{nested(levels)}}}', MALFORMED) for levels in (TOO_DEEP[0], 10_000)),
        ('{"a":' * 9_000 + "1" + "}" * 9_000, MALFORMED),
        ("{}", MALFORMED),
        ('{"type":5}', MALFORMED),
        ('{"type":null}', MALFORMED),
        ('{"type":{"$ne":1}}', MALFORMED),
        ('{"type":"message","content":"a\\u0000b","role":"USER"}', NUL),
        (b"", MALFORMED),
        (b"\x00\x01\x02\xff", MALFORMED),
        (b'{"type":"message","content":"\xff","role":"USER"}', MALFORMED),
        ('{"type":""}', UNKNOWN),
        ('{"type":"dance"}', UNKNOWN),
        ('{"type":"__proto__"}', UNKNOWN),
        (json.dumps({"type": "x" * 60_000}), UNKNOWN),
        ('{"type":"message"}', MISSING),
        ('{"type":"message","content":5,"role":"USER"}', MISSING),
        ('{"type":"message","content":null,"role":"USER"}', MISSING),
        ('{"type":"message","content":{"a":1},"role":"USER"}', MISSING),
        ('{"type":"message","content":["x"],"role":"USER"}', MISSING),
        ('{"type":"message","content":true,"role":"USER"}', MISSING),
        ('{"type":"message","content":"","role":"USER"}', MISSING),
        ('{"type":"message","content":"\\u2003\\n","role":"USER"}', MISSING),
        ('{"type":"message","content":"x","role":"SYSTEM"}', MISSING),
        ('{"type":"message","content":"x","role":["USER"]}', MISSING),
        ('{"type":"message","content":"x","role":null}', MISSING),
        ('{"type":"typing"}', None),
        ('{"type":"typing","isTyping":"yes"}', None),
        ('{"type":"typing","isTyping":1}', None),
        ('{"type":"typing","isTyping":[true]}', None),
    ],
)
async def test_bad_frame(frame: str | bytes, told: tuple[str, str] | None) -> None:
    """A bad frame gets the documented error, only at its sender, and later frames are carried out."""
    async with running() as server, bystanders(server) as others, await Client.join(server.port) as client:
        await client.raw(frame)
        await client.say(type="message", content="behind it", role="USER", clientMessageId="k")
        if told is not None:
            error = await client.next("error")
            assert (error["error"], error["code"], error["retryable"]) == (*told, False)
        event = await client.next("message")
        assert event["data"]["content"] == "behind it"
        await client.next("ack")
        assert await others.here.next("message") == event


@pytest.mark.gen_test
@pytest.mark.parametrize("binary", [False, True])
async def test_a_frame_of_megabytes(binary: bool) -> None:
    """A frame of 2 MiB ends its sender with 1009, and earlier commands are carried out."""
    async with running() as server, bystanders(server) as others:
        client = await Client.join(server.port)
        await client.say(type="message", content="before it", role="USER")
        await client.next("message")
        frame = json.dumps({"type": "message", "content": "x" * (1 << 21), "role": "USER"})
        await client.raw(frame.encode() if binary else frame)
        assert (await client.ended())[0] == 1009
        assert (await others.here.next("message"))["data"]["content"] == "before it"


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "content",
    [
        "a\x01b",
        "\r\n\t.",
        "\x1b[31mred",
        "x\u2028\u2029y",
        "</script><!--",
        "é" * 4000,
        "👩‍👩‍👧‍👦",
        "\ufeffx",
        "\u202ex",
    ],
)
async def test_odd_content(content: str) -> None:
    """Odd content is content: it reaches everybody and comes back from the store unchanged."""
    async with running() as server, bystanders(server) as others, await Client.join(server.port) as client:
        await client.say(type="message", content=content, role="USER", clientMessageId="k")
        event = await client.next("message")
        assert event["data"]["content"] == content
        await client.next("ack")
        assert await others.here.next("message") == event
        (saved,) = (await http(server.port, "/api/chats/c1/messages")).json["messages"]
        assert saved["content"] == content


@pytest.mark.gen_test
async def test_half_of_a_surrogate_pair() -> None:
    """Content with half of a surrogate pair reaches everybody, and is saved, with U+FFFD in its place."""
    async with running() as server, bystanders(server) as others, await Client.join(server.port) as client:
        await client.raw('{"type":"message","content":"a\\ud83d","role":"USER","clientMessageId":"k"}')
        event = await client.next("message")
        assert event["data"]["content"] == "a\ufffd"
        await client.next("ack")
        assert await others.here.next("message") == event
        (saved,) = (await http(server.port, "/api/chats/c1/messages")).json["messages"]
        assert saved["content"] == "a\ufffd"


@pytest.mark.gen_test
@pytest.mark.parametrize("key", ["", "x" * 65, 5, ["k"], {}, False])
async def test_bad_client_message_id(key: object) -> None:
    """An invalid key is refused, so that its sender does not wait for an ack that can't come."""
    async with running() as server, bystanders(server), await Client.join(server.port) as client:
        await client.say(type="message", content="x", role="USER", clientMessageId=key)
        assert (await client.next("error"))["code"] == "invalid_client_message_id"


@pytest.mark.gen_test
@pytest.mark.parametrize("key", ["\x00", "a\r\nX-Internal-Secret: y", "../..", "👍" * 64, " ", "{c1}"])
async def test_odd_client_message_id(key: str, expect_log: Any) -> None:
    """An odd key is a key: it is returned in the ack, or in an error, and gets into no header of ours."""
    expect_log("message not saved", optional=True)
    async with (
        running() as one,
        running(api="http", next_api_url=f"http://127.0.0.1:{one.port}") as two,
        bystanders(two) as others,
        await Client.join(two.port) as client,
    ):
        await client.say(type="message", content="x", role="USER", clientMessageId=key)
        acked = await client.seek("ack")
        assert (acked["clientMessageId"], acked["delivery"]) == (key, "published")
        await others.here.next("message")


@pytest.mark.gen_test
async def test_many_bad_frames_at_once() -> None:
    """Many bad frames from several sessions are answered one by one."""
    async with running() as server, bystanders(server):
        clients = [await Client.join(server.port) for _ in range(5)]
        for _ in range(20):
            for client in clients:
                await client.raw("hello")
                await client.raw('{"type":"dance"}')
        for client in clients:
            codes = [(await client.next("error"))["code"] for _ in range(40)]
            assert codes == ["malformed", "unknown_type"] * 20
            await client.close()


# -- HTTP ---------------------------------------------------------------------------------------


@pytest.mark.gen_test
@pytest.mark.parametrize("path", ["/nope", "/ws/extra", "/api/chats/c1/messages/send"])
async def test_upgrade_on_another_path(path: str) -> None:
    """An upgrade on a path without a socket gets an HTTP refusal."""
    async with running() as server, bystanders(server):
        answer = await http(server.port, f"{path}?token={token()}", headers=UPGRADE)
        assert answer.status in (401, 404, 405)
        assert answer.json["error"]


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "path", ["/api/chats/c1/events", "/api/chats/c1/disconnect", "/api/chats/c1/messages/send"]
)
async def test_get_instead_of_post(path: str) -> None:
    """A GET on a POST route is 405 in JSON."""
    async with running() as server, bystanders(server):
        answer = await http(server.port, path, headers={"X-Internal-Secret": SECRET})
        assert answer.status == 405
        assert answer.json["error"]


@pytest.mark.gen_test
async def test_half_a_handshake() -> None:
    """A client that leaves during the handshake, or right after it, leaves nothing behind."""
    request = f"GET /ws?token={token()} HTTP/1.1\r\nHost: x\r\n"
    request += "".join(f"{name}: {value}\r\n" for name, value in UPGRADE.items()) + "\r\n"
    async with running() as server, bystanders(server):
        for length in (1, 30, len(request) - 2, len(request)):
            for _ in range(3):
                _, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(request[:length].encode())
                await writer.drain()
                writer.transport.abort()


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "data",
    [
        b"\x00" * 50,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 100,
        b"GET /ws HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 50_000 + b"\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    ],
)
async def test_another_protocol(data: bytes, expect_log: Any) -> None:
    """Another protocol is refused or cut off."""
    expect_log("Malformed HTTP", "Unsatisfiable read", optional=True)
    async with running() as server, bystanders(server):
        with contextlib.suppress(asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            assert (await exchange(server.port, data + b"\r\n\r\n")).status >= 400


# -- a full disk --------------------------------------------------------------------------------


@pytest.mark.gen_test
@patch("eclipse_ws.application.embedded.MAX_BYTES", 131_072)
async def test_full_database(tmp_path: Path, expect_log: Any) -> None:
    """A full database refuses messages with the documented error; all else goes on."""
    expect_log("message not saved")
    database = str(tmp_path / "small.sqlite3")
    async with (
        running(embedded_db=database, max_content=60_000) as server,
        await Client.join(server.port) as client,
        await Client.join(server.port) as neighbour,
    ):
        for _ in range(20):
            await client.say(type="message", content="x" * 10_000, role="USER", clientMessageId=f"k{_}")
            answer = await client.receive()
            if answer["type"] == "error":
                break
            await client.next("ack")
            await neighbour.next("message")
        assert (answer["error"], answer["code"]) == ("Failed to send message", "api_unavailable")
        assert answer["retryable"] is True
        assert "sqlite" not in json.dumps(answer).lower()
        await client.say(type="typing", isTyping=True)
        await neighbour.next("typing")
        for each in (client, neighbour):
            await each.quiet()


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux limits another process")
@pytest.mark.gen_test
async def test_full_disk(tmp_path: Path) -> None:
    """A full disk ends neither the process nor a session, and is used again when there is room."""
    async with (
        program(tmp_path, embedded_db=str(tmp_path / "chat.sqlite3")) as server,
        await Client.join(server.port) as client,
        await Client.join(server.port, user="u2") as neighbour,
    ):
        await client.say(type="message", content="before", role="USER", clientMessageId="before")
        await client.next("message")
        await client.next("ack")
        await neighbour.next("message")
        # A write beyond this size fails as one on a full disk does (setrlimit(2), RLIMIT_FSIZE).
        limits = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (1024, limits[1]))
        for number in range(3):
            await client.say(type="message", content="x" * 9_000, role="USER", clientMessageId=f"k{number}")
            error = await client.next("error")
            assert (error["error"], error["code"]) == ("Failed to send message", "api_unavailable")
            assert (error["retryable"], error["clientMessageId"]) == (True, f"k{number}")
        await client.say(type="typing", isTyping=True)
        await neighbour.next("typing")
        await client.quiet()
        assert (await http(server.port, "/health")).json["api"] == "down"
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, limits)
        await client.say(type="message", content="after", role="USER", clientMessageId="after")
        assert (await client.next("message"))["data"]["content"] == "after"
        await client.next("ack")
        await neighbour.next("message")
        history = (await http(server.port, "/api/chats/c1/messages")).json["messages"]
        assert [each["content"] for each in history] == ["before", "after"]
        assert (await http(server.port, "/health")).json["api"] == "up"
