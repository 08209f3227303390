"""The cookie session: what it fixes in the package it is based on."""

from __future__ import annotations

import collections
import gc
import http.cookies
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from tornado import httputil
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from eclipse_ws.application.cookies import CookieSession


class Baker(RequestHandler):
    """Sets the cookies that the query names, with the status that it names, and returns those it got."""

    def get(self) -> None:
        """Set, and return."""
        for line in self.get_query_arguments("set"):
            self.add_header("Set-Cookie", line)
        self.set_status(int(self.get_query_argument("status", "200")))
        self.finish(self.request.headers.get("Cookie", ""))


@pytest.fixture
def url(io_loop: IOLoop) -> Iterator[str]:
    """A server that sets cookies."""
    sockets = bind_sockets(0, "127.0.0.1")
    server = HTTPServer(Application([("/.*", Baker)], log_function=lambda handler: None))

    async def listen() -> None:
        server.add_sockets(sockets)

    async def stop() -> None:
        server.stop()
        await server.close_all_connections()

    io_loop.run_sync(listen)
    yield f"http://127.0.0.1:{sockets[0].getsockname()[1]}/"
    io_loop.run_sync(stop)


@pytest.fixture
def session(io_loop: IOLoop) -> Iterator[CookieSession]:
    """A session on Tornado's client."""

    async def begin() -> CookieSession:
        return CookieSession(max_cookies=3, kept=["a", "b", "c", "d", "lb*"])

    session = io_loop.run_sync(begin)
    yield session
    session.close()


async def sent(session: CookieSession, url: str) -> dict[str, str]:
    """The cookies that a request carries."""
    text = (await session.fetch(url)).body.decode()
    return {name: morsel.value for name, morsel in http.cookies.SimpleCookie(text).items()}


def test_import_leaves_nothing_behind() -> None:
    """The names that the package needs for its import are removed again."""
    code = (
        "import eclipse_ws.application.cookies, collections, tornado.httputil;"
        "assert not hasattr(collections, 'MutableMapping');"
        "assert not hasattr(tornado.httputil, '_normalized_headers')"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=30)
    assert not hasattr(collections, "MutableMapping")
    assert not hasattr(httputil, "_normalized_headers")


def test_import_keeps_what_was_there() -> None:
    """An existing name is not removed."""
    code = (
        "import collections, collections.abc; collections.MutableMapping = collections.abc.MutableMapping;"
        "import eclipse_ws.application.cookies; assert collections.MutableMapping"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=30)


@pytest.mark.gen_test
async def test_cookies_come_back(session: CookieSession, url: str) -> None:
    """Cookies of a response are sent with the next request."""
    assert await sent(session, url) == {}
    await session.fetch(f"{url}?set=a=1&set=b=2")
    assert await sent(session, url) == {"a": "1", "b": "2"}
    await session.fetch(f"{url}?set=a=3")
    assert await sent(session, url) == {"a": "3", "b": "2"}


@pytest.mark.gen_test
@pytest.mark.parametrize("raise_error", [True, False])
async def test_a_failure_sets_cookies_too(session: CookieSession, url: str, raise_error: bool) -> None:
    """A 503 is an exception or a response; its cookies are stored in both cases."""
    try:
        assert (await session.fetch(f"{url}?set=a=1&status=503", raise_error=raise_error)).code == 503
    except HTTPClientError as exc:
        assert raise_error
        assert exc.code == 503
    assert await sent(session, url) == {"a": "1"}


@pytest.mark.gen_test
async def test_no_answer_sets_nothing(session: CookieSession) -> None:
    """A refused connection leaves the jar unchanged."""
    with pytest.raises((HTTPClientError, OSError)):
        await session.fetch("http://127.0.0.1:9/")
    assert len(session.cookies) == 0


@pytest.mark.gen_test
async def test_request_stays_the_callers(session: CookieSession, url: str) -> None:
    """The caller's request carries no cookie afterwards, so it can be sent again."""
    await session.fetch(f"{url}?set=a=1")
    request = HTTPRequest(url, headers={"X-A": "b"})
    for _ in range(2):
        assert (await session.fetch(request)).body == b"a=1"
    assert dict(request.headers).keys() == {"X-A"}


@pytest.mark.gen_test
async def test_secure_cookies_need_tls(session: CookieSession, url: str) -> None:
    """A Secure cookie is not sent without TLS, and one of a foreign domain is not taken."""
    await session.fetch(f"{url}?set=a=1;+Secure&set=b=2;+Domain=example.org&set=c=3")
    assert await sent(session, url) == {"c": "3"}


@pytest.mark.gen_test
async def test_expired_cookies_go(session: CookieSession, url: str) -> None:
    """An upstream can delete its cookie, and the session is as cheap as before."""
    await session.fetch(f"{url}?set=a=1")
    await session.fetch(f"{url}?set=a=1;+Max-Age=0")
    assert await sent(session, url) == {}
    assert not session._filled


@pytest.mark.gen_test
async def test_jar_is_bounded(session: CookieSession, url: str) -> None:
    """More cookies than the limit empty the jar."""
    await session.fetch(f"{url}?set=a=1&set=b=1&set=c=1")
    assert len(session.cookies) == 3
    await session.fetch(f"{url}?set=d=1")
    assert await sent(session, url) == {}


@pytest.mark.gen_test
async def test_jars_are_separate(session: CookieSession, url: str) -> None:
    """Two sessions share neither cookies nor clients."""
    other = CookieSession(kept=["a"])
    await session.fetch(f"{url}?set=a=1")
    assert await sent(other, url) == {}
    other.close()
    assert await sent(session, url) == {"a": "1"}


@pytest.mark.gen_test
async def test_only_named_cookies_are_kept(url: str) -> None:
    """Only cookies that are named, exactly or by a prefix, get into the jar; others are reported."""
    dropped: list[str] = []
    session = CookieSession(kept=["lb*", "route"], on_drop=dropped.append)
    await session.fetch(f"{url}?set=lb=1&set=lb-7=2&set=route=3&set=router=4&set=session=5&set=LB=6")
    assert await sent(session, url) == {"lb": "1", "lb-7": "2", "route": "3"}
    assert dropped == ["router", "session", "LB"]
    session.close()


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("AWSALBTGCORS", True),
        ("AWSALBAPP-0", True),
        ("AWSELB", True),
        ("GCLB", True),
        ("ARRAffinitySameSite", True),
        ("SERVERID", True),
        ("INGRESSCOOKIE", True),
        ("fly-machine-id", True),
        ("_vercel_jwt", True),
        ("__cf_bm", True),
        ("__cflb", True),
        ("route", True),
        ("session", False),
        ("connect.sid", False),
        ("next-auth.session-token", False),
        ("__Secure-authjs.session-token", False),
        ("JSESSIONID", False),
        ("PHPSESSID", False),
        ("sb-access-token", False),
        ("routes", False),
    ],
)
async def test_whose_cookies_are_kept(url: str, name: str, kept: bool) -> None:
    """Cookies of load balancers are stored, sessions of an application are not."""
    session = CookieSession()
    await session.fetch(f"{url}?set={name}=1")
    assert await sent(session, url) == ({name: "1"} if kept else {})
    session.close()


@pytest.mark.gen_test
async def test_invalid_cookies_are_ignored(session: CookieSession, url: str) -> None:
    """Invalid Set-Cookie lines are ignored."""
    response = await session.fetch(f"{url}?set=;;;=&set=%3D&set=a&set=x=1;+Expires=never")
    assert response.code == 200


@pytest.mark.gen_test
async def test_closed(session: CookieSession) -> None:
    """fetch() on a closed session raises, and close() is idempotent."""
    session.close()
    session.close()
    with pytest.raises(RuntimeError, match="closed CookieSession"):
        await session.fetch("http://127.0.0.1:9/")


@pytest.mark.gen_test
async def test_attributes_of_the_client_are_accessible(session: CookieSession) -> None:
    """The session has the attributes of its client, except private ones."""
    assert session.defaults["max_redirects"] == 5
    with pytest.raises(AttributeError, match="_nothing"):
        _ = session._nothing


def test_failed_constructor_is_quiet() -> None:
    """A client that can't be made raises its own error, and nothing when it is collected."""

    class Unwilling(AsyncHTTPClient):
        def __new__(cls, **kwargs: Any) -> Unwilling:
            raise ValueError("no client today")

    with pytest.raises(ValueError, match="no client today"):
        CookieSession(Unwilling)
    gc.collect()
