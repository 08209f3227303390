"""Fuzzes the HTTP routes: `python -m tests.fuzz.fuzz_bodies --seconds 60`.

The first byte chooses the route, the first line is the chat's part of the path, the rest is the body. Every
answer is JSON, none is a failure of ours, and none shows a secret.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Hashable
from unittest.mock import patch
from urllib.parse import quote

from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine
from tornado.web import Application

from eclipse_ws.server.server import Server
from tests.conftest import SECRET, make_settings
from tests.fuzz.loop import main, quiet

ROUTES = (
    ("POST", "/api/chats/{}/events"),
    ("POST", "/api/chats/{}/disconnect"),
    ("GET", "/api/chats/{}/presence"),
    ("POST", "/api/chats/{}/messages/send"),
    ("GET", "/api/chats/{}/messages"),
    ("GET", "/api/ws/token?chatId={}"),
    ("GET", "/{}"),
    ("POST", "/api/chats/{}/assign"),
    ("GET", "/api/chats?query={}"),
)
SEEDS = [
    b'\x00c1\n{"type":"message","data":{"id":"m1"}}',
    b'\x00c1\n{"type":"typing","data":{}}',
    b'\x00c1\n{"type":"x","cursor":"e.1"}',
    b'\x01c1\n{"userId":"u1","reason":"bye"}',
    b"\x01c1\n",
    b"\x02c1\n",
    b'\x03c1\n{"content":"hello","role":"USER","userId":"u1"}',
    b"\x04c1\n",
    b"\x05c1&userId=u&agent=1\n",
    b"\x06health\n",
    b'\x07c1\n{"agentId":"agent_1"}',
    b"\x08hello&status=open&before=9\n",
]
WORDS = [
    b"%00",
    b"%2f",
    b"..",
    b"%ff",
    b"?",
    b"&limit=",
    b'"type":',
    b'"userId":',
    b'"reason":',
    b'"\\ud800"',
    b"null",
    b'"content":',
    b'"role":"AGENT"',
    b"[" * 600,
    b"\xed\xa0\x80",
    b'"' + b"x" * 130 + b'"',
    b"1e999",
    b"\\u0000",
]


class _Sink:
    """What a request's answer is written to."""

    def __init__(self) -> None:
        self.status = 0
        self.body = b""
        self.context = type("Context", (), {"remote_ip": "127.0.0.1", "protocol": "http"})()
        self.no_keep_alive = False
        self.finished: asyncio.Future[None] = LOOP.create_future()

    def set_close_callback(self, callback: object) -> None:
        """Nobody leaves early here."""

    def write_headers(self, start: object, headers: object, chunk: bytes = b"") -> asyncio.Future[None]:
        """Keep the status and the first bytes."""
        self.status = start.code  # type: ignore[attr-defined]
        self.body += chunk
        return _done()

    def write(self, chunk: bytes) -> asyncio.Future[None]:
        """Keep more bytes."""
        self.body += chunk
        return _done()

    def finish(self) -> None:
        """The answer is whole."""
        self.finished.set_result(None)


def _done() -> asyncio.Future[None]:
    future: asyncio.Future[None] = LOOP.create_future()
    future.set_result(None)
    return future


LOOP = asyncio.new_event_loop()


class _Target:
    """A server without sockets, and the application that its listener would serve."""

    def __init__(self) -> None:
        with patch("eclipse_ws.application.embedded.MAX_BYTES", 1 << 24):
            self.server = Server(make_settings(history_events=5))
        application = self.server._http.request_callback
        assert isinstance(application, Application)
        self.application = application

    async def start(self) -> None:
        await self.server.api.start()
        await self.server.delivery.start(self.server.hub)

    async def answer(self, method: str, uri: str, body: bytes) -> _Sink:
        sink = _Sink()
        headers = HTTPHeaders({"Host": "x", "X-Internal-Secret": SECRET})
        request = HTTPServerRequest(
            headers=headers,
            body=body,
            connection=sink,  # type: ignore[arg-type]
            start_line=RequestStartLine(method, uri, "HTTP/1.1"),
        )
        dispatcher = self.application.find_handler(request)
        assert dispatcher is not None
        dispatcher.headers_received(request.connection and RequestStartLine(method, uri, "HTTP/1.1"), headers)
        result = dispatcher.execute()  # type: ignore[attr-defined]
        if result is not None:
            await result
        await asyncio.wait_for(sink.finished, 10)
        return sink


_target: _Target | None = None


def check(data: bytes) -> Hashable:
    """Check what must hold for every input."""
    global _target
    if _target is None:
        quiet()
        asyncio.set_event_loop(LOOP)

        async def start() -> _Target:
            target = _Target()
            await target.start()
            return target

        _target = LOOP.run_until_complete(start())
    method, pattern = ROUTES[data[0] % len(ROUTES)] if data else ROUTES[0]
    line, _, body = data[1:].partition(b"\n")
    uri = pattern.format(quote(line, safe="%?&=/~:@!$'()*+,;"))
    sink = LOOP.run_until_complete(_target.answer(method, uri, body))
    assert 200 <= sink.status < 500, (sink.status, sink.body)
    assert SECRET.encode() not in sink.body
    if pattern.startswith("/api") and sink.body:
        json.loads(sink.body)
    return method, pattern, sink.status, sink.body[:40] if sink.status >= 400 else b""


if __name__ == "__main__":
    main(check, SEEDS, WORDS, __doc__)
