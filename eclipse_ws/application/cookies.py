"""A cookie session: ``tornado-httpclient-session`` 0.2.5, adapted to current Tornado and Python.

Cookies serve a load balancer's sticky sessions, and deployment protection in front of the application. There
is one jar per upstream, never one per user: so no user's cookie, such as the application's own session, may
get into it. It takes only the cookies that `KEPT` or a setting names.

The package dates from 2016. Its incompatibilities, and what this module does about each:

- It imports ``tornado.httputil._normalized_headers`` and ``collections.MutableMapping``, both gone. They
  are needed while its modules are imported and never afterwards, so they exist for exactly that long.
- ``fetch`` passes ``callback=`` to Tornado, which no longer has it: CookieSession has a ``fetch`` of its own,
  a coroutine.
- It reads cookies from successful responses only. A status of 4xx or 5xx arrives as an exception, whose
  response may set cookies too.
- It adds the cookies to the caller's own request, whose next use would carry them twice: a copy gets them.
- Python's cookie jar asks a request for ``type`` and ``host``, which the package's substitute lacks.
- ``close()`` leaves the client open, and ``__getattr__`` makes a failed constructor recurse through
  ``__del__``.
"""

from __future__ import annotations

import collections
import collections.abc
import copy
from collections.abc import Callable, Iterable
from http.cookiejar import Cookie, DefaultCookiePolicy
from typing import Any, Final
from urllib.parse import urlsplit

from tornado import httputil
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest

KEPT: Final = (
    # Amazon: AWSALBCORS, AWSALBTG, AWSALBAPP-0, ...; AWSELB is the classic load balancer's
    "AWSALB*",
    "AWSELB*",
    # Google Cloud
    "GCLB",
    "GCILB",
    # Azure: App Service, Application Gateway, Front Door
    "ARRAffinity*",
    "ApplicationGatewayAffinity*",
    "ASLBSA*",
    # Cloudflare: load balancing, bot management, rate limiting
    "__cflb",
    "__cf_bm",
    "__cfruid",
    "_cfuvid",
    # Vercel: deployment protection, skew protection
    "_vercel_jwt",
    "__vdpl",
    # Fly.io, Heroku, DigitalOcean, Scalingo
    "fly-*",
    "heroku-session-affinity",
    "DO-LB",
    "sc-sticky-session",
    # HAProxy, ingress-nginx, nginx, Apache, F5, Citrix, as they are commonly set up
    "SERVERID*",
    "INGRESSCOOKIE",
    "route",
    "ROUTEID",
    "BIGipServer*",
    "NSC_*",
)
"""Names of the cookies of load balancers and deployment protection; a trailing ``*`` matches any suffix."""


def _import_session() -> tuple[Any, Any, Any]:
    """Import the package with the two missing names in place, and remove them again."""
    missing: list[tuple[Any, str, Any]] = [
        (httputil, "_normalized_headers", {}),
        (collections, "MutableMapping", collections.abc.MutableMapping),
    ]
    added = [(module, name) for module, name, _ in missing if name not in vars(module)]
    for module, name, value in missing:
        if (module, name) in added:
            setattr(module, name, value)
    try:
        from httpclient_session.mocks import MockRequest, MockResponse
        from httpclient_session.sessions import Session
    finally:
        for module, name in added:
            delattr(module, name)
    return Session, MockRequest, MockResponse


_Session, _MockRequest, _MockResponse = _import_session()


class _Request(_MockRequest):  # type: ignore[misc, valid-type]  # the package has no types
    """The package's substitute for a ``urllib.request.Request``, with what Python's cookie jar needs
    today.
    """

    @property
    def type(self) -> str:
        """The URL's scheme; without it ``Secure`` cookies are neither taken nor sent."""
        return str(urlsplit(self._request.url).scheme)

    @property
    def host(self) -> str:
        """Host and port; without it a ``Port`` attribute can't be checked."""
        return str(urlsplit(self._request.url).netloc)


class _Policy(DefaultCookiePolicy):
    """Accepts the named cookies under the usual rules, and reports the others."""

    def __init__(self, kept: Iterable[str], on_drop: Callable[[str], None]) -> None:
        super().__init__()
        kept = tuple(kept)
        self._names = frozenset(name for name in kept if not name.endswith("*"))
        self._prefixes = tuple(name[:-1] for name in kept if name.endswith("*"))
        self._on_drop = on_drop

    def set_ok(self, cookie: Cookie, request: Any) -> bool:
        """Whether the cookie may get into the jar."""
        if cookie.name not in self._names and not cookie.name.startswith(self._prefixes):
            self._on_drop(cookie.name)
            return False
        return super().set_ok(cookie, request)


class CookieSession(_Session):  # type: ignore[misc, valid-type]  # the package has no types
    """An HTTP client with one cookie jar, for one upstream. It owns its client and closes it.

    ``httpclient_class`` and its keyword arguments are Tornado's; ``max_cookies`` bounds the jar: an
    upstream that sets more starts again with an empty one. ``kept`` are the names of accepted cookies, as in
    `KEPT`; ``on_drop`` is called with the name of each rejected one.
    """

    def __init__(
        self,
        httpclient_class: type[AsyncHTTPClient] = AsyncHTTPClient,
        *,
        max_cookies: int = 50,
        kept: Iterable[str] = KEPT,
        on_drop: Callable[[str], None] = lambda name: None,
        **kwargs: Any,
    ) -> None:
        # First, because __del__ runs after a failed constructor too.
        self._closed = True
        # force_instance: Tornado's own client is one per loop, and closing it would close it for all users.
        super().__init__(httpclient_class, force_instance=True, **kwargs)
        self.cookies.set_policy(_Policy(kept, on_drop))
        self._max_cookies = max_cookies
        self._filled = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self._httpclient, name)

    def __del__(self) -> None:
        """Do nothing: the package would close the client here, in any thread, after its loop is closed."""

    def close(self) -> None:
        """Close the client and its sockets. Wait for calls in progress first: they would never end."""
        if not self._closed:
            self._closed = True
            self._httpclient.close()

    async def fetch(self, request: Any, raise_error: bool = True, **kwargs: Any) -> Any:
        """The client's ``fetch`` with the jar's cookies. The request is not modified."""
        if self._closed:
            raise RuntimeError("fetch() on a closed CookieSession; open another one")
        if isinstance(request, str):
            request = HTTPRequest(request, **kwargs)
        # The jar is usually empty: then a call costs no more than one without a session.
        sent = self.prepare_request(request) if self._filled else request
        try:
            response = await self._httpclient.fetch(sent, raise_error=raise_error)
        except HTTPClientError as error:
            if error.response is not None:
                self._keep_cookies(sent, error.response)
            raise
        self._keep_cookies(sent, response)
        return response

    def prepare_request(self, request: Any) -> Any:
        """A copy of the request with the jar's cookies for it."""
        request = copy.copy(request)
        request.headers = httputil.HTTPHeaders(request.headers)
        self.cookies.add_cookie_header(_Request(request))
        return request

    def _keep_cookies(self, request: Any, response: Any) -> None:
        if "Set-Cookie" not in response.headers:
            return
        self.cookies.extract_cookies(_MockResponse(response), _Request(request))
        count = len(list(self.cookies))
        if count > self._max_cookies:
            self.cookies.clear()
            count = 0
        self._filled = count > 0
