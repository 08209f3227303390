"""HTTP beside the sockets, byte by byte."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPRequest

from eclipse_ws.server import static_files
from eclipse_ws.server.http_handlers import takes_gzip
from eclipse_ws.server.server import Server
from eclipse_ws.server.static_files import STATIC
from tests.client import Client, exchange, http, running, token, until
from tests.conftest import SECRET, make_settings
from tests.nested import DEEPEST, TOO_DEEP, nested

OURS = {"X-Internal-Secret": SECRET}
UPDATED = {
    "type": "message_updated",
    "data": {"id": "m1", "content": "x", "updatedAt": "t1"},
    "timestamp": "t",
}


# -- health -------------------------------------------------------------------------------------


@pytest.mark.gen_test
@pytest.mark.parametrize("path", ["/health", "/"])
async def test_health(path: str) -> None:
    """Both paths answer the health document, as JSON that any page may read and no cache keeps."""
    async with running() as server, await Client.join(server.port, "a-long-chat-id"):
        answer = await http(server.port, path)
        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.json["status"] == "healthy"
        assert answer.json["connections"] == {
            "total": 1,
            "byChat": [{"chatId": "a-long-c...", "count": 1}],
            "chats": 1,
        }
        head = await http(server.port, path, "HEAD")
        assert (head.status, head.body) == (200, b"")


@pytest.mark.gen_test
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_health_by_other_methods(method: str) -> None:
    """Health accepts only reads; anything else is 405 in JSON, with what is allowed."""
    async with running() as server:
        answer = await http(server.port, "/health", method)
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
        assert answer.json == {"error": "Method Not Allowed"}


@pytest.mark.gen_test
@pytest.mark.parametrize("path", ["/health", "/", "/health?now", "/?now"])
async def test_any_page_may_read_the_health(path: str) -> None:
    """A browser's CORS preflight gets a 200, also while draining, and allows what is served."""
    async with running(profile="prod", allow_embedded_api=True) as server:
        asked = {"Origin": "https://status.example", "Access-Control-Request-Headers": "cache-control"}
        for server.node.draining in (False, True):
            answer = await http(server.port, path, "OPTIONS", headers=asked)
            assert (answer.status, answer.body) == (200, b"")
            assert answer.headers["access-control-allow-origin"] == "*"
            assert answer.headers["access-control-allow-methods"] == "GET, HEAD, OPTIONS"
            assert answer.headers["access-control-allow-headers"] == "*"
        for method in ("GET", "HEAD"):
            answer = await http(server.port, path, method, headers=asked)
            assert answer.headers["access-control-allow-origin"] == "*"
        answer = await http(server.port, path, "PUT", headers=asked)
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")


# -- not found ----------------------------------------------------------------------------------


@pytest.mark.gen_test
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize(
    "path", ["/nope", "/api", "/api/chats/", "/api/chats//events", "/%00", "/..", "/a?b=c"]
)
async def test_not_found(path: str, method: str) -> None:
    """An unknown path gets 404 in JSON, with any method."""
    async with running() as server:
        answer = await http(server.port, path, method)
        assert answer.status == 404
        assert list(answer.json) == ["error"]
        assert "server" not in answer.headers


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "request_",
    [
        b"GET\r\n\r\n",
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-A: %b\r\n" % (b"y" * 20_000) + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nno colon here\r\n\r\n",
    ],
)
async def test_invalid_http(request_: bytes, expect_log: Any) -> None:
    """An invalid request is refused or cut off, and the next one is answered as usual."""
    expect_log("Malformed HTTP", "Unsatisfiable read", "Invalid", optional=True)
    async with running() as server:
        try:
            answer = await exchange(server.port, request_)
            assert answer.status >= 400
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # cut off without an answer
        assert (await http(server.port, "/health")).status == 200


# -- internal authentication --------------------------------------------------------------------


@pytest.mark.gen_test
@pytest.mark.parametrize("path", ["/api/chats/c1/events", "/api/chats/c1/disconnect"])
@pytest.mark.parametrize("secret", [None, "", "wrong", SECRET[:-1], SECRET + "x", SECRET.upper(), "\xe9"])
async def test_the_secret_is_required(path: str, secret: str | None) -> None:
    """Without the shared secret nothing is done, and the answer says nothing about it."""
    async with running() as server, await Client.join(server.port) as client:
        headers = {} if secret is None else {"X-Internal-Secret": secret}
        answer = await http(server.port, path, "POST", UPDATED, headers=headers)
        assert answer.status == 401
        assert answer.json == {"error": "X-Internal-Secret is missing or wrong"}
        await client.quiet()


@pytest.mark.gen_test
@pytest.mark.parametrize("path", ["/api/chats/c1/events", "/api/chats/c1/disconnect"])
async def test_no_secret_is_configured(path: str) -> None:
    """A server without a secret rejects every request, also one with an empty secret."""
    async with running(internal_api_secret="") as server:
        for headers in ({}, {"X-Internal-Secret": ""}, OURS):
            answer = await http(server.port, path, "POST", UPDATED, headers=headers)
            assert answer.status == 503
            assert "INTERNAL_API_SECRET" in answer.json["error"]


@pytest.mark.gen_test
@pytest.mark.parametrize("path", ["/api/chats/c1/events", "/api/chats/c1/disconnect"])
async def test_a_get_instead_of_a_post(path: str) -> None:
    """With the secret, a GET on a POST route is 405 with what is allowed."""
    async with running() as server:
        answer = await http(server.port, path, headers=OURS)
        assert (answer.status, answer.headers["allow"]) == (405, "POST")
        assert answer.json == {"error": "Method Not Allowed"}


@pytest.mark.gen_test
async def test_event_of_the_application() -> None:
    """An event is sequenced and reaches the chat's sessions unchanged but for its cursor, once."""
    async with (
        running() as server,
        await Client.join(server.port) as one,
        await Client.join(server.port) as two,
        await Client.join(server.port, "c2") as elsewhere,
    ):
        answer = await http(server.port, "/api/chats/c1/events", "POST", UPDATED, headers=OURS)
        assert answer.status == 202
        cursor = answer.json["cursor"]
        for client in (one, two):
            assert await client.receive() == {**UPDATED, "cursor": cursor}
        again = await http(server.port, "/api/chats/c1/events", "POST", UPDATED, headers=OURS)
        assert (again.status, again.json["cursor"]) == (202, cursor)
        for client in (one, two, elsewhere):
            await client.quiet()


@pytest.mark.gen_test
async def test_event_of_an_unknown_type() -> None:
    """A type that we do not know is passed on, kept and resumed like any."""
    async with running() as server, await Client.join(server.port) as client:
        event = {"type": "survey", "questions": ["how?"], "timestamp": "t"}
        answer = await http(server.port, "/api/chats/c1/events", "POST", event, headers=OURS)
        told = {**event, "cursor": answer.json["cursor"]}
        assert await client.receive() == told
        async with await Client.join(server.port, cursor=client.connected["cursor"]) as back:
            assert await back.receive() == told


@pytest.mark.gen_test
async def test_ephemeral_event_of_the_application() -> None:
    """An ephemeral event is passed on without a cursor."""
    async with running() as server, await Client.join(server.port) as client:
        event = {"type": "typing", "data": {"userId": "bot", "isTyping": True}}
        answer = await http(server.port, "/api/chats/c1/events", "POST", event, headers=OURS)
        assert (answer.status, answer.json["cursor"]) == (202, None)
        assert await client.receive() == event


@pytest.mark.gen_test
async def test_idempotency_key() -> None:
    """The same key publishes once in a chat; with another body it is refused, and publishes nothing."""
    async with running() as server, await Client.join(server.port) as client:
        headers = {**OURS, "Idempotency-Key": "k1"}
        first = await http(
            server.port, "/api/chats/c1/events", "POST", {"type": "a", "n": 1}, headers=headers
        )
        later = {"type": "a", "n": 1, "timestamp": "2026-01-01T00:00:00.000Z"}
        again = await http(server.port, "/api/chats/c1/events", "POST", later, headers=headers)
        reused = await http(
            server.port, "/api/chats/c1/events", "POST", {"type": "a", "n": 2}, headers=headers
        )
        other = await http(
            server.port, "/api/chats/c2/events", "POST", {"type": "a", "n": 1}, headers=headers
        )
        assert first.json == again.json
        assert (reused.status, reused.json["code"], set(reused.json)) == (
            422,
            "key_reused",
            {"error", "code"},
        )
        assert other.json != first.json
        assert (await client.receive())["n"] == 1
        await client.quiet()


@pytest.mark.gen_test
async def test_a_clients_key_is_not_the_applications() -> None:
    """A client can't use an application's key, nor the other way round."""
    async with running() as server, await Client.join(server.port) as client:
        await client.say(type="message", content="x", role="USER", clientMessageId="k1")
        await client.next("message")
        await client.next("ack")
        headers = {**OURS, "Idempotency-Key": "k1"}
        await http(server.port, "/api/chats/c1/events", "POST", {"type": "a"}, headers=headers)
        await client.next("a")


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x",
        b"[]",
        b"5",
        b"null",
        b"{}",
        b'{"type":5}',
        b"\xff",
        b'{"type":"x"',
        b"[" * 10000,
        *(b'{"type":"x","data":%b}' % nested(levels).encode() for levels in TOO_DEEP),
        b'{"type":"x","cursor":"e.1"}',
        b'{"type":"x","cursor":5}',
    ],
)
async def test_malformed_event(body: bytes) -> None:
    """A malformed event, or one with a cursor, gets 400, and is not delivered."""
    async with running() as server, await Client.join(server.port) as client:
        answer = await http(server.port, "/api/chats/c1/events", "POST", body, headers=OURS)
        assert answer.status == 400
        assert 10 < len(answer.json["error"]) < 300
        await client.quiet()


@pytest.mark.gen_test
async def test_deepest_bodies() -> None:
    """An event and a question as deep as the limit are accepted like any other."""
    async with running() as server, await Client.join(server.port) as client:
        body = b'{"type":"x","data":%b}' % nested(DEEPEST).encode()
        answer = await http(server.port, "/api/chats/c1/events", "POST", body, headers=OURS)
        assert answer.status == 202
        assert (await client.next("x"))["data"] == json.loads(nested(DEEPEST))
        body = b'{"userId":"nobody","x":%b}' % nested(DEEPEST).encode()
        answer = await http(server.port, "/api/chats/c1/disconnect", "POST", body, headers=OURS)
        assert answer.json == {"disconnected": 0}


@pytest.mark.gen_test
async def test_event_too_big() -> None:
    """An event over the limit gets 413, and is not delivered."""
    async with (
        running(**{"config.settings.Settings.max_event": 2000}) as server,
        await Client.join(server.port) as client,
    ):
        event = {"type": "a", "x": "y" * 2000}
        answer = await http(server.port, "/api/chats/c1/events", "POST", event, headers=OURS)
        assert answer.status == 413
        assert "2000" in answer.json["error"]
        await client.quiet()


@pytest.mark.gen_test
@pytest.mark.parametrize("key", ["", "k" * 129])
async def test_invalid_idempotency_key(key: str) -> None:
    """A key has to have 1 to 128 characters."""
    async with running() as server:
        headers = {**OURS, "Idempotency-Key": key}
        answer = await http(server.port, "/api/chats/c1/events", "POST", UPDATED, headers=headers)
        assert answer.status == 400
        assert "Idempotency-Key" in answer.json["error"]


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "chat", ["a/b", "100%41", "../../users/1", "{c}", "ü 😀", "a%2Fb", "x" * 256, "+", "?#&="]
)
async def test_odd_chat_ids_in_a_path(chat: str) -> None:
    """A chat's id, percent-encoded once, means that chat and no other."""
    async with (
        running() as server,
        await Client.join(server.port, chat) as client,
        await Client.join(server.port, "100A") as neighbour,
    ):
        path = f"/api/chats/{quote(chat, safe='')}"
        answer = await http(server.port, path + "/events", "POST", UPDATED, headers=OURS)
        assert answer.status == 202
        await client.next("message_updated")
        answer = await http(server.port, path + "/disconnect", "POST", {}, headers=OURS)
        assert answer.json == {"disconnected": 1}
        assert (await client.ended())[0] == 4003
        await neighbour.quiet()


@pytest.mark.gen_test
@pytest.mark.parametrize("path", ["%00", "a%0Ab", "%ff", "%7f", "x" * 257])
@pytest.mark.parametrize("route", ["events", "disconnect"])
async def test_invalid_chat_id(path: str, route: str) -> None:
    """An invalid chat id is 400."""
    async with running() as server:
        answer = await http(server.port, f"/api/chats/{path}/{route}", "POST", UPDATED, headers=OURS)
        assert answer.status == 400
        assert answer.json["error"]


@pytest.mark.gen_test
async def test_disconnect_a_chat() -> None:
    """All sessions of a chat are ended with 4003, and no other's."""
    async with running() as server:
        one, two = await Client.join(server.port), await Client.join(server.port, user="u2")
        async with await Client.join(server.port, "c2") as elsewhere:
            answer = await http(server.port, "/api/chats/c1/disconnect", "POST", headers=OURS)
            assert (answer.status, answer.json) == (200, {"disconnected": 2})
            for client in (one, two):
                assert await client.ended() == (4003, "Disconnected by the application")
            await elsewhere.quiet()
        again = await http(server.port, "/api/chats/c1/disconnect", "POST", {}, headers=OURS)
        assert again.json == {"disconnected": 0}


@pytest.mark.gen_test
async def test_disconnect_a_user() -> None:
    """One user's sessions in a chat are ended with the application's reason."""
    async with running() as server:
        one, two = await Client.join(server.port), await Client.join(server.port)
        async with await Client.join(server.port, user="u2") as other:
            body = {"userId": "u1", "reason": "Bye, " + "ü" * 59}
            answer = await http(server.port, "/api/chats/c1/disconnect", "POST", body, headers=OURS)
            assert answer.json == {"disconnected": 2}
            for client in (one, two):
                assert await client.ended() == (4003, body["reason"])
            await other.quiet()


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "body",
    [
        b"x",
        b"[]",
        b'{"userId":5}',
        b'{"reason":["x"]}',
        b"\xff",
        b"[" * 10000,
        *(b'{"x":%b}' % nested(levels).encode() for levels in TOO_DEEP),
        json.dumps({"reason": "x" * 124}).encode(),
        json.dumps({"reason": "ü" * 62}).encode(),
    ],
)
async def test_disconnect_with_a_wrong_body(body: bytes) -> None:
    """An invalid body, or a reason that is too long for a close frame, gets 400 and ends no session."""
    async with running() as server, await Client.join(server.port) as client:
        answer = await http(server.port, "/api/chats/c1/disconnect", "POST", body, headers=OURS)
        assert answer.status == 400
        assert answer.json["error"]
        await client.quiet()


@pytest.mark.gen_test
async def test_internal_error(expect_log: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An internal error gets 500 in JSON without details, which are in the log."""
    expect_log("Uncaught exception")
    async with running() as server:

        async def broken(*_: object) -> None:
            raise RuntimeError("a bug with internals")

        monkeypatch.setattr(server.delivery, "publish", broken)
        answer = await http(server.port, "/api/chats/c1/events", "POST", UPDATED, headers=OURS)
        assert (answer.status, answer.json) == (500, {"error": "Internal Server Error"})


# -- the widget's files and the demo ------------------------------------------------------------


@pytest.mark.gen_test
async def test_scripts_are_compressed_for_clients_that_accept_it() -> None:
    """A browser gets the widget at a third of its size; without Accept-Encoding it is uncompressed."""
    plain = (STATIC / "widget.js").read_bytes()
    async with running() as server:
        request = HTTPRequest(
            f"http://127.0.0.1:{server.port}/widget.js",
            headers={"Accept-Encoding": "gzip, br"},
            decompress_response=False,
        )
        asked = await AsyncHTTPClient().fetch(request)
        assert (asked.headers["Content-Encoding"], asked.headers["Vary"]) == ("gzip", "Accept-Encoding")
        assert len(asked.body) < len(plain) / 2
        assert gzip.decompress(asked.body) == plain
        assert (await http(server.port, "/widget.js")).body == plain
        part = await http(server.port, "/widget.js", headers={"Range": "bytes=0-9"})
        assert (part.status, part.body) == (200, plain)  # a range may be answered with the whole (RFC 9110)
        head = await http(server.port, "/widget.js", "HEAD", headers={"Accept-Encoding": "gzip"})
        assert (head.status, head.headers["content-length"]) == (200, asked.headers["Content-Length"])


@pytest.mark.gen_test
async def test_the_compressed_file_has_its_own_validator() -> None:
    """What one of the two was validated with does not validate the other one."""
    async with running() as server:
        etags = []
        for encoding in ("gzip", "identity"):
            given = {"Accept-Encoding": encoding}
            head = await http(server.port, "/widget.js", "HEAD", headers=given)
            etags.append(head.headers["etag"])
            for etag, status in zip(etags, (304,) if encoding == "gzip" else (200, 304), strict=True):
                again = await http(
                    server.port, "/widget.js", "HEAD", headers={**given, "If-None-Match": etag}
                )
                assert (again.status, again.headers["etag"]) == (status, etags[-1])
                assert again.headers["vary"] == "Accept-Encoding"


@pytest.mark.parametrize(
    ("accepted", "takes"),
    [
        ("", False),
        ("br", False),
        ("identity;q=1, *;q=0", False),
        ("gzip", True),
        ("GZIP", True),
        ("br, gzip ; q=0.5", True),
        ("gzip;q=1.000, br", True),
        ("gzip;q=0", False),
        ("br;q=1, gzip; q=0.000", False),
        ("notgzip", False),
    ],
)
def test_who_accepts_compressed_files(accepted: str, takes: bool) -> None:
    """A client that names gzip, unless its weight says that it must not come."""
    assert takes_gzip(accepted) == takes


def test_no_request_waits_for_a_compression(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server reads and compresses all files before it starts."""
    monkeypatch.setattr(static_files, "_files", {})
    Server(make_settings())
    monkeypatch.delattr("eclipse_ws.server.static_files.gzip.compress")
    for name in ("widget.js", "widget.panel.js", "eclipse-chat.js", "demo.html"):
        assert static_files.find(name) is not None


@pytest.mark.gen_test
async def test_an_edited_file_is_read_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file is read and compressed once for all who ask; an edit shows with the next request."""
    monkeypatch.setattr("eclipse_ws.server.static_files.STATIC", tmp_path)
    file = tmp_path / "widget.js"
    file.write_text("first")
    packed: list[bytes] = []

    def compress(data: bytes, mtime: int) -> bytes:
        packed.append(data)
        return data

    monkeypatch.setattr("eclipse_ws.server.static_files.gzip.compress", compress)
    async with running() as server:
        first = [await http(server.port, "/widget.js") for _ in range(3)]
        assert {answer.body for answer in first} == {b"first"}
        file.write_text("second")
        os.utime(file, ns=(1, 1))
        second = await http(server.port, "/widget.js", headers={"If-None-Match": first[0].headers["etag"]})
        assert (second.status, second.body) == (200, b"second")
        assert packed == [b"first", b"second"]
        huge = "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"
        for since, status in ((second.headers["last-modified"], 304), ("x", 200), ("", 200), (huge, 200)):
            headers = {"If-Modified-Since": since}
            assert (await http(server.port, "/widget.js", headers=headers)).status == status
        file.unlink()
        assert (await http(server.port, "/widget.js")).status == 404


@pytest.mark.gen_test
@pytest.mark.parametrize("path", ["/widget.js", "/widget.panel.js", "/widget.de.js", "/eclipse-chat.js"])
async def test_scripts_for_other_sites(path: str) -> None:
    """The widget's scripts may be used by any page, and are nothing but scripts."""
    async with running() as server:
        answer = await http(server.port, path)
        assert answer.status == 200
        assert "javascript" in answer.headers["content-type"]
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-cache"
        again = await http(server.port, path, headers={"If-None-Match": answer.headers["etag"]})
        assert again.status == 304


@pytest.mark.gen_test
async def test_the_clients_types_are_served_beside_it() -> None:
    """The types of the client are served beside it, as text."""
    async with running() as server:
        answer = await http(server.port, "/eclipse-chat.d.ts")
        assert (answer.status, answer.headers["content-type"].partition(";")[0]) == (200, "text/plain")
        assert answer.headers["access-control-allow-origin"] == "*"
        assert b"export declare class EclipseChat" in answer.body
        assert (await http(server.port, "/widget.d.ts")).status == 404


@pytest.mark.gen_test
@pytest.mark.parametrize("path", ["/demo", "/demo/agent"])
async def test_pages_of_the_demo(path: str) -> None:
    """The demo's pages run only our own files, and can't be framed."""
    async with running(profile="dev") as server:
        answer = await http(server.port, path)
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/html")
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert b"<script" in answer.body


@pytest.mark.gen_test
@pytest.mark.parametrize("path", ["/demo", "/demo/agent", "/static/demo.js", "/static/demo.html"])
@pytest.mark.parametrize("given", [{}, {"profile": "dev", "api": "http"}], ids=str)
async def test_no_demo_by_default(path: str, given: dict[str, Any]) -> None:
    """The demo is served only in development, and only if its pages can get tokens."""
    async with running(**given) as server:
        assert (await http(server.port, path)).status == 404


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "path",
    [
        "/static/../web.py",
        "/static/..%2fweb.py",
        "/static/nope.js",
        "/static/",
        "/static/%2e%2e/web.py",
        "/demo/../web.py",
        "/demo/x",
        "/demo.html",
    ],
)
async def test_no_other_file(path: str) -> None:
    """No path leads out of the folder, or to a missing file."""
    async with running(profile="dev") as server:
        answer = await http(server.port, path)
        assert answer.status in (403, 404)
        assert b"import" not in answer.body


BROWSERS = [
    "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8,x/y;v=b3;q=0.7",
    "application/json;q=0.5, TEXT/HTML ; q=0.6",
]
OTHERS = [
    "",
    "*/*",
    "application/json",
    "text/html;q=0.5, application/json",
    "text/html;q=0",
    "text/html;q=x",
]


@pytest.mark.gen_test
async def test_a_browser_at_the_root_gets_the_demo() -> None:
    """In development a browser gets a page; other clients and methods get the health document."""
    async with running(profile="dev") as server:
        for accept in BROWSERS:
            answer = await http(server.port, "/", headers={"Accept": accept})
            assert (answer.status, answer.headers["location"]) == (302, "/demo"), accept
            assert (answer.headers["vary"], answer.headers["cache-control"]) == ("Accept", "no-store")
            assert "server" not in answer.headers
        for accept in OTHERS:
            answer = await http(server.port, "/", headers={"Accept": accept})
            assert (answer.status, answer.json["status"]) == (200, "healthy"), accept
        head = await http(server.port, "/", "HEAD", headers={"Accept": BROWSERS[0]})
        assert (head.status, head.body) == (200, b"")
        upgrade = {"Accept": BROWSERS[0], "Upgrade": "websocket", "Sec-WebSocket-Version": "12"}
        assert (await http(server.port, "/", headers=upgrade)).status == 426
        for path in ("/ws", "/health"):
            assert (await http(server.port, path, headers={"Accept": BROWSERS[0]})).status in (200, 426)


@pytest.mark.gen_test
async def test_a_browser_at_the_root_without_a_demo() -> None:
    """In production a browser gets the health document too."""
    async with running() as server:
        answer = await http(server.port, "/", headers={"Accept": BROWSERS[0]})
        assert (answer.status, answer.json["status"]) == (200, "healthy")


@pytest.mark.gen_test
async def test_answers_do_not_name_their_server() -> None:
    """No answer names the software."""
    async with running(profile="dev") as server:
        for path in ("/health", "/nope", "/widget.js", "/demo"):
            assert "server" not in (await http(server.port, path)).headers


@pytest.mark.gen_test
async def test_requests_leave_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Requests of every kind leave no session, and no secret or token in a log."""
    async with running() as server:
        with caplog.at_level("DEBUG", "eclipse_ws"):
            text = token()
            for path in (f"/nope?token={text}", f"/ws?token={text}", f"/health?token={text}"):
                await http(server.port, path)
            await http(server.port, "/api/chats/c1/events", "POST", UPDATED, headers=OURS)
            await http(server.port, "/api/chats/c1/events", "POST", UPDATED)
        await until(lambda: not server.hub.sessions)
        lines = "\n".join(str(record.msg) + record.getMessage() for record in caplog.records)
        assert "/nope" in lines
        assert text not in lines
        assert SECRET not in lines
