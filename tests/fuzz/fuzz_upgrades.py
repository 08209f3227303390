"""Fuzzes upgrades that arrive whole: `python -m tests.fuzz.fuzz_upgrades --seconds 60`.

What `opening` takes for a plain upgrade is one to Tornado, too, with the same path, arguments and headers.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable

from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPServerRequest, parse_request_start_line

from eclipse_ws.websocket import opening
from eclipse_ws.websocket.takeover import fault
from tests.fuzz.loop import main
from tests.websocket.peer import upgrade

SEEDS = [
    upgrade(),
    upgrade("/ws?token=a.b.c&cursor=x.1&cursor=x.2"),
    upgrade("/?%zz=%41&&=;a=b+c", origin="http://localhost:3000", x_long="v" * 300),
    upgrade(connection="keep-alive, Upgrade", sec_websocket_protocol="eclipse.v1, bearer.a.b.c"),
    upgrade(host="[::1]:8080", sec_websocket_extensions="permessage-deflate; client_max_window_bits"),
]
WORDS = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n ",
    b"\r\n\r\n",
    b": ",
    b" :",
    b"\t",
    b"\0",
    b"\x7f",
    b"\xff",
    b"host: a, b\r\n",
    b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Expect: 100-continue\r\n",
    b"Upgrade: h2c\r\n",
    b"Sec-WebSocket-Version: 8\r\n",
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
    b"x_y: 1\r\n",
    b" HTTP/1.0",
    b"?",
    b"&",
    b"=",
    b"%",
    b"#",
    b"http://other/",
    b"&a" * 40,
]


def check(data: bytes) -> Hashable:
    """Whether it is a plain upgrade, and its shape; fails if Tornado reads it in another way."""
    request = opening.parse(data, "127.0.0.1")
    if request is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # As Tornado's connection does; the head ends where its own search would end it.
        head = data[: data.index(b"\n\r\n") + 3]
        assert head == data, "more than a head"
        start, headers = HTTP1Connection._parse_headers(None, head)  # type: ignore[arg-type]
        theirs = HTTPServerRequest(start_line=parse_request_start_line(start), headers=headers)
    assert (theirs.method, theirs.version) == (request.method, request.version)
    assert (theirs.path, theirs.uri) == (request.path, request.uri)
    assert theirs.query_arguments == request.query_arguments
    assert dict(request.headers) == {name.lower(): value for name, value in headers.get_all()}
    assert fault(theirs) is None
    assert headers["Upgrade"].lower() == "websocket"
    assert headers["Sec-WebSocket-Version"] == "13"
    assert opening.response(request, None).endswith(b"\r\n\r\n")
    return request.path[:4], len(request.headers), len(request.query_arguments)


if __name__ == "__main__":
    main(check, SEEDS, WORDS, __doc__)
