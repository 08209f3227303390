"""HttpApi against a stand-in for the application, over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import patch

import pytest
import trustme
from pydantic import SecretStr
from tornado.testing import ExpectLog

from eclipse_ws.application.base import Share
from eclipse_ws.application.circuit_breaker import CircuitBreaker
from eclipse_ws.application.http import HttpApi, header_text, segment
from tests.application.conftest import CONTENT, failure, make_settings, send
from tests.application.contract import ChatApiContract
from tests.application.raw_server import deaf_server, raw_server
from tests.application.stub import SECRET, Fault, Stub
from tests.nested import DEEPEST, TOO_DEEP, nested
from tests.websocket.peer import open_descriptors

Open = Callable[[Any], Any]


@pytest.fixture
def certified(authority: trustme.CA) -> ssl.SSLContext:
    """A server's context with a certificate of the authority."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


class TestContract(ChatApiContract):
    """HttpApi keeps the contract."""


# -- requests -----------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_a_reload_changes_the_secret_of_the_next_call(api: HttpApi, stub: Stub) -> None:
    """This holds also for a call over the same connection as the ones before."""
    await send(api)
    await send(api)
    api.reload(make_settings().model_copy(update={"internal_api_secret": SecretStr("fresh")}))
    await asyncio.gather(send(api), return_exceptions=True)  # the stub knows the old one only
    assert [headers["X-Internal-Secret"] for _, _, headers in stub.requests] == [SECRET, SECRET, "fresh"]


@pytest.mark.gen_test
async def test_request_is_the_contracts(api: HttpApi, stub: Stub) -> None:
    """The POST has the route, headers and body that the application expects, and no key unless one was
    given.
    """
    await send(api)
    ((method, uri, headers),) = stub.requests
    assert (method, uri) == ("POST", "/api/chats/chat-1/messages/send")
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Internal-Secret"] == SECRET
    assert "Idempotency-Key" not in headers
    (saved,) = stub.saved
    assert (saved["content"], saved["role"], saved["userId"]) == (CONTENT, "USER", "anon_1_x")


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("chat", "path"),
    [
        ("../../users/1", "..%2F..%2Fusers%2F1"),
        ("a?b#c", "a%3Fb%23c"),
        ("%2e", "%252e"),
        ("\0\r\n ", "%00%0D%0A%20"),
        ("漢", "%E6%BC%A2"),
        ("..x", "..x"),
    ],
)
async def test_chat_is_one_segment(api: HttpApi, stub: Stub, chat: str, path: str) -> None:
    """Any chat id is one percent-encoded segment of the path."""
    await send(api, chat)
    assert stub.requests[0][1] == f"/api/chats/{path}/messages/send"
    assert stub.saved[0]["chatId"] == chat


@pytest.mark.gen_test
@pytest.mark.parametrize("name", ["", ".", ".."])
async def test_dot_segments_never_leave(api: HttpApi, stub: Stub, name: str) -> None:
    """A name that would be a dot segment is rejected finally, and never sent."""
    error = await failure(send(api, name))
    assert (error.code, error.retryable, error.outcome_unknown) == ("chat_not_found", False, False)
    assert (await failure(api.user(name))).code == "user_not_found"
    assert stub.requests == []


def test_segment_keeps_only_unreserved_characters() -> None:
    """Every reserved character of RFC 3986 is encoded."""
    assert segment("a-._~:/?#[]@!$&'()*+,;=", "x") == (
        "a-._~%3A%2F%3F%23%5B%5D%40%21%24%26%27%28%29%2A%2B%2C%3B%3D"
    )


@pytest.mark.parametrize(
    ("key", "sent"),
    [
        ("a-1:b", "a-1:b"),
        ("a b", "a b"),
        (" a", "%20a"),
        ("a\r\nX: y", "a%0D%0AX%3A%20y"),
        ("ü%", "%C3%BC%25"),
    ],
)
def test_key_fits_a_header(key: str, sent: str) -> None:
    """A key is sent as it is where a header allows it, and encoded where not."""
    assert header_text(key) == sent


@pytest.mark.gen_test
async def test_key_is_forwarded(api: HttpApi, stub: Stub) -> None:
    """A key is sent as Idempotency-Key."""
    await send(api, key="k-1")
    assert stub.saved[0]["key"] == "k-1"


@pytest.mark.gen_test
async def test_base_path(stub: Stub) -> None:
    """NEXT_API_URL may have a path, and a slash at its end."""
    api = HttpApi(make_settings(next_api_url=f"{stub.url}/base/"))
    await api.start()
    assert (await failure(send(api))).code == "chat_not_found"
    assert stub.requests[0][1] == "/base/api/chats/chat-1/messages/send"
    await api.close()


@pytest.mark.gen_test
async def test_connection_is_kept(api: HttpApi, stub: Stub) -> None:
    """Consecutive calls share a connection."""
    for _ in range(5):
        await send(api)
    assert len(stub.connections) == 1


@pytest.mark.gen_test
async def test_no_proxy_from_the_environment(
    api: HttpApi, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy in the environment never gets the secret."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    await send(api)
    assert len(stub.saved) == 1


# -- answers ------------------------------------------------------------------------------------

HTML = "<html>Our own words</html>"
MESSAGE = f'{{"id":"m","content":"{CONTENT}","role":"USER","createdAt":"t","sender":{{"id":"u"}}}}'
SAVED = f'{{"success":true,"message":{MESSAGE},"id":"u","x":%s}}'
FAILED = '{"error":"in our own words","x":%s}'
STATUSES = [
    # fault, code, retryable, outcome unknown, retry after
    (Fault("status", 400), "api_rejected", False, False, None),
    (Fault("status", 401), "api_unauthorized", False, False, None),
    (Fault("status", 403), "api_unauthorized", False, False, None),
    (Fault("status", 404), "chat_not_found", False, False, None),
    (Fault("status", 409), "api_conflict", True, False, None),
    (Fault("status", 413), "api_rejected", False, False, None),
    (Fault("status", 429, headers={"Retry-After": "7"}), "api_busy", True, False, 7.0),
    (Fault("status", 429, headers={"Retry-After": "99999999"}), "api_busy", True, False, 3600.0),
    (Fault("status", 429, headers={"Retry-After": "soon"}), "api_busy", True, False, None),
    (
        Fault("status", 429, headers={"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}),
        "api_busy",
        True,
        False,
        0.0,
    ),
    (Fault("status", 500), "api_error", False, False, None),
    (Fault("status", 500, HTML), "api_error", True, True, None),
    (Fault("status", 500, '{"error": 1}'), "api_error", True, True, None),
    (Fault("status", 501), "api_error", False, True, None),
    (Fault("status", 502, HTML), "api_error", True, True, None),
    (Fault("status", 503, HTML, headers={"Retry-After": "3"}), "api_unavailable", True, False, 3.0),
    (Fault("status", 504, HTML), "api_error", True, True, None),
    (Fault("status", 301, headers={"Location": "/elsewhere"}), "api_redirected", False, False, None),
    (Fault("status", 307, headers={"Location": "/elsewhere"}), "api_redirected", False, False, None),
    (Fault("status", 303, headers={"Location": "/elsewhere"}), "api_redirected", False, True, None),
    (Fault("status", 200, HTML), "api_bad_answer", True, True, None),
    (Fault("status", 200, ""), "api_bad_answer", True, True, None),
    (Fault("status", 200, "[" * 100_000), "api_bad_answer", True, True, None),
    *((Fault("status", 200, SAVED % nested(n)), "api_bad_answer", True, True, None) for n in TOO_DEEP),
    (Fault("status", 500, FAILED % nested(DEEPEST)), "api_error", False, False, None),
    *((Fault("status", 500, FAILED % nested(n)), "api_error", True, True, None) for n in TOO_DEEP),
    (Fault("status", 200, '{"success": true}'), "api_bad_answer", True, True, None),
    (Fault("status", 200, '{"success": "yes", "message": 1}'), "api_bad_answer", True, True, None),
    (Fault("status", 200, '{"success": false, "error": "no"}'), "api_rejected", False, False, None),
    (Fault("status", 200, "x" * (1 << 21)), "api_bad_answer", True, True, None),
    (Fault("raw", body="SSH-2.0-OpenSSH_9\r\n"), "api_bad_answer", True, True, None),
    (Fault("truncate"), "api_connection_lost", True, True, None),
    (Fault("close"), "api_connection_lost", True, True, None),
    (Fault("reset", saves=True), "api_connection_lost", True, True, None),
]


@pytest.mark.gen_test
@pytest.mark.parametrize(("fault", "code", "retryable", "unknown", "wait"), STATUSES)
async def test_each_failure_has_its_error(  # noqa: PLR0917
    api: HttpApi, stub: Stub, fault: Fault, code: str, retryable: bool, unknown: bool, wait: float | None
) -> None:
    """Each way in which a POST can fail has its code, and says whether the message may have been saved."""
    stub.fault = Fault(**{**vars(fault), "times": 1})
    error = await failure(send(api))
    assert (error.code, error.retryable, error.outcome_unknown, error.retry_after) == (
        code,
        retryable,
        unknown,
        wait,
    )
    assert "own words" not in str(error)
    assert (await send(api)).content == CONTENT
    assert [path for _, path, _ in stub.requests if "elsewhere" in path] == []


@pytest.mark.gen_test
@pytest.mark.parametrize("fault", [case[0] for case in STATUSES])
async def test_a_lookup_is_never_of_unknown_outcome(api: HttpApi, stub: Stub, fault: Fault) -> None:
    """A GET changes nothing, so its outcome is never unknown."""
    stub.fault = Fault(**{**vars(fault), "times": 1})
    error = await failure(api.user("agent_1"))
    assert not error.outcome_unknown
    assert error.code != "chat_not_found"


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "message", [{}, {"id": "", "content": "x"}, {"id": None}, {"id": ["m"]}, "saved", None]
)
async def test_message_without_an_id(api: HttpApi, stub: Stub, message: Any) -> None:
    """A 200 without a message with an id is rejected, and the message may be saved."""
    stub.fault = Fault("status", 200, json.dumps({"success": True, "message": message}))
    error = await failure(send(api))
    assert (error.code, error.outcome_unknown) == ("api_bad_answer", True)


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "fields", [{"id": 7}, {"createdAt": 1700000000}, {"sender": None}, {"content": None}]
)
async def test_message_of_another_shape(api: HttpApi, stub: Stub, fields: dict[str, Any]) -> None:
    """Once a message is saved and has an id, its other invalid fields are repaired."""
    stub.fault = saved(**fields)
    message = await send(api)
    assert message.id == str(fields.get("id", "m"))
    assert message.content == CONTENT
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", message.createdAt)
    assert message.sender.id == ("anon_1_x" if fields.get("sender", ...) is None else "u")


@pytest.mark.gen_test
async def test_user_of_another_shape(api: HttpApi, stub: Stub) -> None:
    """Invalid fields of a user are repaired."""
    stub.fault = Fault("status", 200, json.dumps({"id": 7, "name": None, "email": "e", "image": None}))
    user = await api.user("7")
    assert (user.id, user.name, user.email, user.image) == ("7", None, "e", None)


@pytest.mark.gen_test
async def test_more_than_the_contract_is_fine(api: HttpApi, stub: Stub) -> None:
    """Fields that we do not know, and a sender without names, are accepted; so is any other 2xx."""
    message = {
        "id": "m",
        "content": CONTENT,
        "role": "USER",
        "createdAt": "t",
        "new": [1],
        "sender": {"id": "u", "name": None, "email": None, "avatar": None, "more": {}},
    }
    stub.fault = Fault("status", 201, json.dumps({"success": True, "message": message, "also": 1}))
    assert (await send(api)).sender.name is None


def saved(**fields: Any) -> Fault:
    """A response about a saved message, with these fields changed."""
    message = {"id": "m", "content": CONTENT, "role": "USER", "createdAt": "t", "sender": {"id": "u"}}
    return Fault("status", 200, json.dumps({"success": True, "message": {**message, **fields}}))


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "fields",
    [
        {"id": "m2", "content": "another's words"},
        {"chatId": "chat-2", "content": "another's words"},
        {"chatId": 1, "content": "another's words"},
    ],
)
async def test_answer_about_another_message(api: HttpApi, stub: Stub, fields: dict[str, Any]) -> None:
    """A response about another chat's message is rejected, and the outcome is unknown."""
    stub.fault = saved(id="m2", content="another's words")
    await api.send_message("chat-2", "user-2", "another's words", "USER")
    stub.fault = saved(**fields)
    for _ in range(10):
        error = await failure(send(api))
        assert (error.code, error.outcome_unknown, error.retryable) == ("api_bad_answer", True, False)
        assert "words" not in str(error)
    assert api.state == "up"


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        ("  a  b\n", "a b"),
        ("a\r\nb", "a\nb"),
        ("e\u0301", "\u00e9"),
        ("\u00e9", "e\u0301"),
        ("\ufb01", "fi"),
        ("a\u00a0b", "a b"),
        ("damn it", "**** it"),
    ],
)
async def test_answer_with_cleaned_content(api: HttpApi, stub: Stub, sent: str, answered: str) -> None:
    """An application may clean up content."""
    stub.fault = saved(content=answered, chatId="chat-1")
    assert (await api.send_message("chat-1", "u", sent, "USER")).content == answered


@pytest.mark.gen_test
@pytest.mark.parametrize("named", [None, {"id": "chat-1"}, [], 1.5])
async def test_answer_with_an_invalid_chat(api: HttpApi, stub: Stub, named: Any) -> None:
    """The contract has no chatId in a response: an invalid one is ignored."""
    stub.fault = saved(chatId=named)
    assert (await send(api)).id == "m"


@pytest.mark.gen_test
async def test_half_of_a_pair_in_an_answer(api: HttpApi, stub: Stub) -> None:
    """Half of a surrogate pair in an answer, which JavaScript writes, is repaired."""
    stub.fault = saved(sender={"id": "u", "name": "Zo\ud83d"})
    assert (await send(api)).sender.name == "Zo\ufffd"


@pytest.mark.gen_test
async def test_deepest_answer(api: HttpApi, stub: Stub) -> None:
    """An answer as deep as the limit is read, a message's and a user's."""
    stub.fault = Fault("status", 200, SAVED % nested(DEEPEST))
    assert (await send(api)).id == "m"
    assert (await api.user("u")).id == "u"


@pytest.mark.gen_test
async def test_compressed_bomb_is_too_large() -> None:
    """The limit on an answer's size applies to its decompressed size."""
    bomb = gzip.compress(b"x" * 5_000_000)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n"
        writer.write(head.encode() + bomb)
        await writer.drain()

    async with raw_server(handle) as url:
        api = HttpApi(make_settings(next_api_url=url))
        await api.start()
        error = await failure(send(api))
        await api.close()
    assert (error.code, error.outcome_unknown) == ("api_bad_answer", True)


@pytest.mark.gen_test
async def test_valid_answer_that_is_too_large(api: HttpApi, stub: Stub) -> None:
    """The limit also applies to a valid answer; one just below it is accepted."""
    message = {"id": "m", "content": CONTENT, "role": "USER", "createdAt": "t", "sender": {"id": "u"}}
    answer = {"success": True, "message": message, "padding": ""}
    room = make_settings().max_answer - len(json.dumps(answer))
    for padding, fits in ((room, True), (room + 1, False)):
        stub.fault = Fault("status", 200, json.dumps({**answer, "padding": "x" * padding}))
        if fits:
            assert (await send(api)).id == "m"
        else:
            assert (await failure(send(api))).code == "api_bad_answer"


@pytest.mark.gen_test
async def test_long_content(api: HttpApi, stub: Stub) -> None:
    """An application may take long messages, and answer them with each character escaped."""
    content = "漢" * 80_000
    assert (await api.send_message("chat-1", "u", content, "USER")).content == content


@pytest.mark.gen_test
async def test_stray_answer_is_dropped(api: HttpApi, stub: Stub) -> None:
    """Bytes after a response are not used as the next call's response."""
    stub.fault = Fault("twice", times=1)
    first = await send(api)
    second = await send(api)
    assert [first.id, second.id] == ["m1", "m2"]


# -- requests that never arrive -----------------------------------------------------------------


@pytest.mark.gen_test
async def test_refused() -> None:
    """A refused connection: it is certain that nothing was saved."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    api = HttpApi(make_settings(next_api_url=f"http://127.0.0.1:{port}"))
    await api.start()
    error = await failure(send(api))
    await api.close()
    assert (error.code, error.retryable, error.outcome_unknown) == ("api_unavailable", True, False)


@pytest.mark.gen_test(timeout=20)
async def test_unknown_host() -> None:
    """An unknown host: it is certain that nothing was saved."""
    api = HttpApi(make_settings(next_api_url="http://chat.invalid"))
    await api.start()
    error = await failure(send(api))
    await api.close()
    assert error.code in ("api_unavailable", "api_timeout")
    assert not error.outcome_unknown


@pytest.mark.gen_test
async def test_untrusted_certificate(certified: ssl.SSLContext) -> None:
    """An untrusted certificate: the secret is not sent, and nothing was saved."""
    got: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.read())

    async with raw_server(handle, ssl=certified) as url:
        api = HttpApi(make_settings(next_api_url=url.replace("http:", "https:")))
        await api.start()
        error = await failure(send(api))
        await api.close()
    assert (error.code, error.outcome_unknown) == ("api_unavailable", False)
    assert b"".join(got) == b""


@pytest.mark.gen_test
@patch("eclipse_ws.application.http.CONNECT_TIMEOUT", 0.2)
async def test_timeout_while_connecting() -> None:
    """A full listen queue: a timeout, and it is certain that nothing was saved."""
    with deaf_server("127.0.0.1") as port:
        api = HttpApi(make_settings(next_api_url=f"http://127.0.0.1:{port}"))
        await api.start()
        began = asyncio.get_running_loop().time()
        error = await failure(send(api))
        assert asyncio.get_running_loop().time() - began < 2, "the timeout of a whole call is 4 s"
        await api.close()
    assert (error.code, error.outcome_unknown) == ("api_timeout", False)


@pytest.mark.gen_test
async def test_timeout_after_sending(stub: Stub) -> None:
    """No response in time: the outcome is unknown."""
    api = HttpApi(make_settings(next_api_url=stub.url, api_timeout=0.2))
    await api.start()
    stub.fault = Fault("hang", saves=True)
    error = await failure(send(api))
    await api.close()
    assert (error.code, error.retryable, error.outcome_unknown) == ("api_timeout", True, True)
    assert len(stub.saved) == 1


@asynccontextmanager
async def dies_on_second(api_fields: dict[str, Any]) -> AsyncIterator[tuple[HttpApi, list[bytes]]]:
    """An API that answers a connection's first POST and closes at the second, once it has it all."""
    posts: list[bytes] = []
    message = {"id": "m", "content": CONTENT, "role": "USER", "createdAt": "t", "sender": {"id": "u"}}
    text = json.dumps({"success": True, "message": message}).encode()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for n in range(2):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            posts.append(await reader.readexactly(length))
            if n == 0:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text))

    async with raw_server(handle) as url:
        api = HttpApi(make_settings(next_api_url=url, **api_fields))
        await api.start()
        yield api, posts
        await api.close()


@pytest.mark.gen_test
async def test_lost_kept_connection_is_not_posted_again() -> None:
    """Many clients post again when a persistent connection is lost; we never post twice."""
    async with dies_on_second({}) as (api, posts):
        await send(api)
        error = await failure(send(api, key="k"))
    assert (error.code, error.outcome_unknown) == ("api_connection_lost", True)
    assert len(posts) == 2


@pytest.mark.gen_test
async def test_lost_kept_connection_is_posted_again_with_an_honoured_key() -> None:
    """If the API honours keys, posting again is safe, and the sender notices nothing."""
    async with dies_on_second({"api_honours_idempotency": True}) as (api, posts):
        await send(api, key="k-1")
        await send(api, key="k-2")
        assert (await failure(send(api))).outcome_unknown
    assert len(posts) == 4


@pytest.mark.gen_test
async def test_closed_connections_are_detected(api: HttpApi, stub: Stub) -> None:
    """Persistent connections that the API has closed, as in a restart, make no call fail."""
    await asyncio.gather(*(send(api) for _ in range(20)))
    assert len(stub.connections) > 1
    await stub.server.close_all_connections()
    for _ in range(30):
        await send(api)
    assert len(stub.saved) == 50
    assert set(api.stats.calls) == {"ok"}


@pytest.mark.gen_test
async def test_a_tls_connection_closed_by_close_notify(certified: ssl.SSLContext, trusted: str) -> None:
    """Over TLS a peer sends close_notify before the connection ends: that is detected, too."""
    writers: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(re.findall(rb"Content-Length: (\d+)", head)[0]))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
            saved = (SAVED % "1").encode()
            writer.write(b"Content-Length: %d\r\n\r\n%s" % (len(saved), saved))

    async with raw_server(handle, ssl=certified) as url:
        api = HttpApi(make_settings(next_api_url=url.replace("http:", "https:"), api_ca=trusted))
        await api.start()
        for _ in range(3):
            await send(api)
        writers[0].close()
        await asyncio.sleep(0.05)
        await send(api)
        assert len(writers) == 2
        await api.close()
        writers[1].close()


@pytest.mark.gen_test
async def test_api_that_is_gone_after_its_connections(api: HttpApi, stub: Stub) -> None:
    """If the kept connection is closed and the port is too, it is certain that nothing was saved."""
    await send(api)
    stub.server.stop()
    await stub.server.close_all_connections()
    error = await failure(send(api))
    assert (error.code, error.outcome_unknown) == ("api_unavailable", False)


@pytest.mark.gen_test
async def test_unbuildable_request() -> None:
    """A request that can't be built is an error that quotes no header."""
    api = HttpApi(make_settings())
    api._headers["X-Internal-Secret"] = f"{SECRET}\r\nX-More: 1"
    await api.start()
    error = await failure(send(api))
    await api.close()
    assert (error.code, error.outcome_unknown) == ("api_rejected", False)


# -- bounds -------------------------------------------------------------------------------------


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until a condition holds; the test's own timeout bounds it."""
    while not condition():  # noqa: ASYNC110 - what is awaited is a counter
        await asyncio.sleep(0.001)


@pytest.mark.gen_test
async def test_queue_is_bounded(stub: Stub) -> None:
    """Calls past the connections wait, calls past the queue fail at once; waiting ones complete in turn."""
    api = HttpApi(make_settings(next_api_url=stub.url, api_max_connections=1, api_max_waiting=2))
    await api.start()
    stub.fault = Fault(delay=0.05, times=1)
    calls = [asyncio.ensure_future(send(api)) for _ in range(3)]
    await until(lambda: api.stats.waiting == 2)
    error = await failure(send(api))
    assert (error.code, error.retryable, error.outcome_unknown) == ("api_busy", True, False)
    assert error.retry_after
    assert [message.id for message in await asyncio.gather(*calls)] == ["m1", "m2", "m3"]
    assert api.state == "up"
    await api.close()


@pytest.mark.gen_test
async def test_queue_is_bounded_in_bytes(stub: Stub) -> None:
    """A long message that waits leaves less room for others."""
    api = HttpApi(make_settings(next_api_url=stub.url, api_max_connections=1, api_max_waiting=4))
    await api.start()
    stub.fault = Fault(delay=0.05, times=1)
    first = asyncio.ensure_future(send(api))
    await until(lambda: bool(stub.requests))
    second = asyncio.ensure_future(api.send_message("chat-1", "u1", "x" * 200_000, "USER"))
    await until(lambda: api.stats.waiting == 1)
    assert (await failure(send(api))).code == "api_busy"
    assert [(await call).id for call in (first, second)] == ["m1", "m2"]
    await api.close()


@pytest.mark.gen_test
async def test_waiting_counts_towards_the_timeout(stub: Stub) -> None:
    """A call that waits for a connection until the timeout is never sent."""
    api = HttpApi(make_settings(next_api_url=stub.url, api_max_connections=1, api_timeout=0.2))
    await api.start()
    stub.fault = Fault("hang")
    first = asyncio.ensure_future(send(api))
    await until(lambda: bool(stub.requests))
    api._timeout = 0.01
    error = await failure(send(api))
    assert (error.code, error.outcome_unknown) == ("api_unavailable", False)
    assert (await failure(first)).code == "api_timeout"
    await api.close()


@pytest.mark.gen_test
async def test_cancelled_caller_keeps_its_slot_until_the_request_ends(stub: Stub) -> None:
    """Cancelling a call doesn't let more requests out than there are connections, and loses no slot."""
    api = HttpApi(make_settings(next_api_url=stub.url, api_max_connections=1, api_timeout=0.3))
    await api.start()
    stub.fault = Fault("hang", times=1)
    call = asyncio.ensure_future(send(api))
    await until(lambda: bool(stub.requests))
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert api.stats.active == 1
    await until(lambda: api.stats.active == 0)
    assert (await send(api)).id == "m1"
    assert api.stats.calls["cancelled"] == 1
    await api.close()


@pytest.mark.gen_test
async def test_cancelled_while_waiting(stub: Stub) -> None:
    """A call that is cancelled while waiting leaves the queue."""
    api = HttpApi(make_settings(next_api_url=stub.url, api_max_connections=1))
    await api.start()
    stub.fault = Fault(delay=0.05, times=1)
    first = asyncio.ensure_future(send(api))
    second = asyncio.ensure_future(send(api))
    await until(lambda: api.stats.waiting == 1)
    second.cancel()
    await first
    with pytest.raises(asyncio.CancelledError):
        await second
    assert (await send(api)).id == "m2"
    await api.close()


@pytest.mark.gen_test
async def test_close_lets_calls_end(stub: Stub) -> None:
    """close() waits for calls in progress, and fails waiting ones."""
    api = HttpApi(make_settings(next_api_url=stub.url, api_max_connections=1))
    await api.start()
    stub.fault = Fault(delay=0.05)
    calls = [asyncio.ensure_future(send(api)) for _ in range(2)]
    await until(lambda: api.stats.waiting == 1)
    await api.close()
    assert (await calls[0]).id == "m1"
    assert (await failure(calls[1])).code == "api_unavailable"
    assert len(stub.saved) == 1


@pytest.mark.gen_test
async def test_cancelled_close_ends_all_calls(stub: Stub) -> None:
    """A cancelled close() still ends every call; their outcomes are unknown."""
    api = HttpApi(make_settings(next_api_url=stub.url))
    await api.start()
    stub.fault = Fault("hang")
    call = asyncio.ensure_future(send(api))
    await until(lambda: bool(stub.requests))
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(api.close(), 0.01)
    error = await failure(call)
    assert (error.code, error.outcome_unknown) == ("api_connection_lost", True)


@pytest.mark.gen_test
async def test_not_started() -> None:
    """A call before start() fails, and closing what was never started is fine."""
    api = HttpApi(make_settings())
    assert (await failure(send(api))).code == "api_unavailable"
    await api.close()


@pytest.mark.gen_test
async def test_nothing_stays_open(stub: Stub) -> None:
    """After close() no socket, no timer and no handler of a file descriptor is left."""
    before = open_descriptors()
    api = HttpApi(make_settings(next_api_url=stub.url, api_max_connections=5))
    await api.start()
    await asyncio.gather(*(send(api) for _ in range(20)))
    assert len(stub.connections) == 5
    await stub.server.close_all_connections()
    await send(api)
    await api.close()
    await stub.server.close_all_connections()
    assert open_descriptors() == before


@pytest.mark.gen_test
async def test_secret_is_in_no_log(api: HttpApi, stub: Stub, caplog: pytest.LogCaptureFixture) -> None:
    """At any level, the libraries' own included, the log has neither the secret nor the content."""
    with caplog.at_level(logging.DEBUG):
        await send(api)
        stub.fault = Fault("status", 500, CONTENT)
        await failure(send(api))
    assert SECRET not in caplog.text
    assert CONTENT not in caplog.text


@pytest.mark.gen_test
async def test_interim_answer() -> None:
    """An interim answer's headers are not the answer's, and a header that can't be one is passed over."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 103 Early Hints\r\nRetry-After: 9\r\n\r\n")
        writer.write(b"HTTP/1.1 429 Slow\r\nContent-Type: a\x01b\r\nContent-Length: 0\r\n\r\n")

    async with raw_server(handle) as url:
        api = HttpApi(make_settings(next_api_url=url))
        await api.start()
        error = await failure(send(api))
        await api.close()
    assert (error.code, error.retry_after) == ("api_busy", None)


# -- the circuit --------------------------------------------------------------------------------


class Clock:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        """The time."""
        return self.now


@pytest.mark.gen_test
async def test_circuit(api: HttpApi, stub: Stub) -> None:
    """An API that is down is noticed, calls fail without reaching it, and it is probed until it is back."""
    clock = Clock()
    api.breaker = CircuitBreaker("application", 3, 5, clock, lambda: 0.5)
    stub.fault = Fault("status", 502)
    with ExpectLog("eclipse_ws.application", ".*'failures': 3,.*circuit opened", level=logging.WARNING):
        for chat in "abc":
            assert (await failure(send(api, chat))).code == "api_error"
    assert (api.state, len(stub.requests)) == ("down", 3)

    error = await failure(send(api))
    assert (error.code, error.retryable, error.outcome_unknown) == ("api_unavailable", True, False)
    assert error.retry_after == 5
    assert len(stub.requests) == 3

    clock.now += 5
    assert (await failure(send(api, "a"))).code == "api_error"
    assert (await failure(send(api, "b"))).code == "api_unavailable"
    assert len(stub.requests) == 4

    clock.now += 5
    stub.fault = Fault()
    with ExpectLog("eclipse_ws.application", ".*circuit closed", level=logging.INFO):
        await send(api, "b")
    assert api.state == "up"


CHATS = [f"chat-{n}" for n in range(10)]
DOWN = [
    Fault("status", 500, HTML),
    Fault("status", 502),
    Fault("status", 503),
    Fault("status", 504),
    Fault("status", 200, HTML),
    Fault("close"),
]


@pytest.mark.gen_test
@pytest.mark.parametrize("fault", DOWN)
async def test_failures_from_several_chats_open_the_circuit(api: HttpApi, stub: Stub, fault: Fault) -> None:
    """Failures that may concern every request open it, once they come from several chats."""
    stub.fault = fault
    for _ in range(10):
        await failure(send(api))
        await failure(api.send_message("chat-2", "u", CONTENT, "USER", share=Share("chat:chat-1")))
    assert api.state == "up"
    with ExpectLog("eclipse_ws.application", ".*circuit opened"):
        await failure(send(api, "chat-3"))
    assert api.state == "down"


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", 500),
        Fault("status", 200, '{"success": true}'),
        Fault("status", 200, '{"success": false}'),
        saved(chatId="another", content="another's"),
        saved(id=None),
    ],
)
async def test_answers_of_the_application_do_not_open_the_circuit(
    api: HttpApi, stub: Stub, fault: Fault
) -> None:
    """Whatever the application itself answers, to however many, it is available."""
    stub.fault = fault
    for chat in CHATS:
        await failure(send(api, chat))
    assert (api.state, len(stub.requests)) == ("up", 10)


@pytest.mark.gen_test
async def test_one_chat_does_not_open_the_circuit(stub: Stub) -> None:
    """Content that makes the application hang affects only its own chat, which sees each call fail."""
    api = HttpApi(make_settings(next_api_url=stub.url, api_timeout=0.05))
    await api.start()
    stub.fault = Fault("hang", times=10)
    sends = [send(api) for _ in range(10)]
    errors = await asyncio.gather(*sends, return_exceptions=True)
    assert {getattr(error, "code", None) for error in errors} == {"api_timeout"}
    assert (await send(api, "chat-2")).content == CONTENT
    await api.close()


@pytest.mark.gen_test
async def test_failure_of_one_request_is_final(api: HttpApi, stub: Stub) -> None:
    """A failure of the application itself is final, unless several fail and no call succeeds in between."""
    stub.fault = Fault("status", 500)
    errors = [await failure(send(api, chat)) for chat in ("a", "a", "b", "a", "b", "c", "a")]
    assert [error.retryable for error in errors] == [False] * 5 + [True] * 2
    assert not any(error.outcome_unknown for error in errors)
    stub.fault = Fault("status", 400)
    assert not (await failure(send(api, "d"))).retryable
    stub.fault = Fault("status", 500)
    assert (await failure(api.user("agent_1"))).retryable
    stub.fault = Fault()
    await send(api, "d")
    stub.fault = Fault("status", 500)
    assert not (await failure(send(api, "c"))).retryable


@pytest.mark.gen_test
async def test_bad_content_and_deleted_users(api: HttpApi, stub: Stub) -> None:
    """A message that the application's database rejects fails finally, and affects no other sender."""
    stub.users = frozenset({"u", "deleted_1"})
    for content, user in (("a\0b", "u"), ("hello", "deleted_1"), ("hello", "smoke-0")) * 5:
        error = await failure(api.send_message("chat-1", user, content, "USER"))
        assert (error.code, error.retryable, error.outcome_unknown) == ("api_error", False, False)
    assert (await send(api, "chat-2")).content == CONTENT


@pytest.mark.gen_test
async def test_one_user_does_not_take_all_connections(stub: Stub) -> None:
    """While one user's calls fill that user's quota, everybody else's complete at once."""
    api = HttpApi(make_settings(next_api_url=stub.url, api_max_connections=20, api_max_waiting=100))
    await api.start()
    stub.fault = Fault("hang", times=18)
    greedy = Share("user:greedy", "10.0.0.1")
    calls = [
        asyncio.ensure_future(api.send_message("c", "greedy", CONTENT, "USER", share=greedy))
        for _ in range(60)
    ]
    await until(lambda: len(stub.requests) == 18)
    refused = [call for call in calls if call.done()]
    assert len(refused) == 32
    for call in refused:
        assert (await failure(call)).code == "api_busy"
    for number in range(5):
        share = Share(f"user:{number}", "10.0.0.2")
        assert (await api.send_message("c", "u", CONTENT, "USER", share=share)).content == CONTENT
    assert len(stub.requests) == 23
    stub.released.set()
    await asyncio.gather(*calls, return_exceptions=True)
    await api.close()


@pytest.mark.gen_test
@pytest.mark.parametrize("status", [400, 401, 404, 409, 429])
async def test_refusals_do_not_open_the_circuit(api: HttpApi, stub: Stub, status: int) -> None:
    """A 4xx shows that the API is available."""
    stub.fault = Fault("status", status)
    for _ in range(10):
        await failure(send(api))
    assert (api.state, len(stub.requests)) == ("up", 10)


async def open_circuit(api: HttpApi, stub: Stub) -> None:
    """Open the circuit by one failure, long enough ago for the next call to be a probe."""
    clock = Clock()
    api.breaker = CircuitBreaker("application", 1, 5, clock)
    stub.fault = Fault("status", 503, times=1)
    with ExpectLog("eclipse_ws.application", ".*circuit opened"):
        await failure(send(api))
    clock.now += 10


@pytest.mark.gen_test
async def test_probe_that_is_not_sent(api: HttpApi, stub: Stub) -> None:
    """A probe that fails before it is sent says nothing about the application: the next call probes."""
    await open_circuit(api, stub)
    headers, api._headers = api._headers, {"X-Internal-Secret": "a\nb"}
    assert (await failure(send(api))).code == "api_rejected"
    assert api.breaker.state == "open"
    api._headers = headers
    with ExpectLog("eclipse_ws.application", ".*circuit closed", level=logging.INFO):
        await send(api)


@pytest.mark.gen_test
async def test_probe_that_is_cancelled(api: HttpApi, stub: Stub) -> None:
    """A probe whose caller goes away does not keep the circuit from being probed again."""
    await open_circuit(api, stub)
    stub.requests.clear()
    stub.fault = Fault("hang", times=1)
    probe = asyncio.ensure_future(send(api))
    await until(lambda: bool(stub.requests))
    assert (await failure(send(api))).code == "api_unavailable"
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    assert (await send(api)).content == CONTENT
    stub.released.set()


@pytest.mark.gen_test
@patch("eclipse_ws.application.http.BREAKER_FAILURES", 1)
@patch("eclipse_ws.application.http.BREAKER_SECONDS", 60)
async def test_open_circuit_empties_the_queue(stub: Stub) -> None:
    """Those who wait for a connection when the circuit opens are not sent to an API that is down."""
    api = HttpApi(make_settings(next_api_url=stub.url, api_max_connections=1))
    await api.start()
    stub.fault = Fault("status", 503, delay=0.05)
    calls = [asyncio.ensure_future(send(api)) for _ in range(3)]
    await until(lambda: api.stats.waiting == 2)
    with ExpectLog("eclipse_ws.application", ".*circuit opened"):
        codes = [(await failure(call)).code for call in calls]
    assert codes == ["api_unavailable"] * 3
    assert len(stub.requests) == 1
    await api.close()


@pytest.mark.gen_test
async def test_nobody_queues_for_an_open_circuit(stub: Stub) -> None:
    """With the circuit open and every connection taken, a call fails at once instead of waiting for one."""
    api = HttpApi(make_settings(next_api_url=stub.url, api_max_connections=1))
    clock = Clock()
    api.breaker = CircuitBreaker("application", 1, 5, clock)
    await api.start()
    with ExpectLog("eclipse_ws.application", ".*circuit opened"):
        ticket = api.breaker.enter("a")
        assert ticket is not None
        api.breaker.failure(ticket, "why", "a")
    clock.now += 10
    stub.fault = Fault("hang")
    probe = asyncio.ensure_future(send(api))
    await until(lambda: bool(stub.requests))
    assert (await failure(send(api))).code == "api_unavailable"
    assert not probe.done()
    stub.released.set()
    assert (await failure(probe)).code == "api_connection_lost"
    await api.close()


# -- cookies ------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_sticky_cookie_comes_back(api: HttpApi, stub: Stub) -> None:
    """A load balancer's cookie, set even by a failure, is sent with the next call."""
    stub.fault = Fault("status", 503, headers={"Set-Cookie": "AWSALB=node-7; Path=/; HttpOnly"}, times=1)
    await failure(send(api))
    await send(api)
    await api.user("agent_1")
    assert [headers.get("Cookie") for _, _, headers in stub.requests] == [None, *["AWSALB=node-7"] * 2]


@pytest.mark.gen_test
async def test_sessions_of_the_application_are_not_kept(stub: Stub, caplog: pytest.LogCaptureFixture) -> None:
    """The application's own cookie is sent with nobody's next call; a setting can name it as a balancer's."""
    for names, sent in (("", None), ("sess*", "session=u1")):
        api = HttpApi(make_settings(next_api_url=stub.url, api_cookies=names))
        await api.start()
        stub.fault = Fault("status", 401, headers={"Set-Cookie": "session=u1; Path=/"}, times=2)
        with caplog.at_level(logging.INFO):
            for _ in range(2):
                await failure(send(api))
        await send(api)
        assert stub.requests[-1][2].get("Cookie") == sent
        assert api.stats.cookies_dropped == (0 if sent else 2)
        await api.close()
    lines = [line for line in caplog.messages if "cookie dropped" in line]
    assert len(lines) == 1
    assert "'session'" in lines[0]
    assert "u1" not in lines[0]
