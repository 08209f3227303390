"""Which redirects of the application are followed, and the address of its routes that they lead to.

An application may redirect its routes: Next.js with ``trailingSlash: true`` to the same path with a slash
(308), a proxy to a path with a prefix. Such a redirect says that nothing was done and
where to send the request instead. It is followed only

- within the origin: no other server may get the secret and the message;
- to the same route, with the same ids: neither a sign-in page nor another chat may get the message. A prefix
  (a base path, a locale), a slash at the end and the way in which ids are percent-encoded may differ. Upper
  and lower case may not, because they tell ids apart;
- by a status that keeps the method: 307 and 308, and for a GET 301 and 302 too.

The path that is sent is always our own with that prefix and slash, never the path or query of the response.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import quote, unquote, urljoin, urlsplit

from eclipse_ws.config.problems import origin_of, printable

MAX_REDIRECTS: Final = 3
"""Maximum redirects of one call."""

_KEEP_METHOD: Final = frozenset({307, 308})
_OF_GET: Final = frozenset({301, 302, 307, 308})
_PERMANENT: Final = frozenset({301, 308})
_AS_IT_IS: Final = "/%:@!$&'()*+,;=~"
_PREFIX: Final = re.compile(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,99}){0,10}", re.ASCII)


class Address(NamedTuple):
    """The parts of a URL around a route's path: the origin, a prefix or nothing, and after it a slash or
    nothing.
    """

    origin: str
    prefix: str = ""
    slash: str = ""

    @property
    def base(self) -> str:
        """The URL before the path."""
        return self.origin + self.prefix

    def target(self, path: str) -> str:
        """What is requested from the origin for a path, which begins with a slash."""
        return f"{self.prefix}{path}{self.slash}"

    def url(self, path: str) -> str:
        """The URL of a path."""
        return self.origin + self.target(path)


class Target(NamedTuple):
    """Where a redirect leads: its origin and path, and the ``address`` if it is the same route there."""

    origin: str
    path: str
    address: Address | None


class Route:
    """One of the application's routes, and the address at which the application serves it.

    A permanent redirect that led to a response is remembered, so that not every call is redirected. It is
    forgotten when that address redirects or returns 404.
    """

    def __init__(self, base: str) -> None:
        prefix = quote(urlsplit(base).path.rstrip("/"), safe=_AS_IT_IS)
        self._configured = Address(origin_of(base), prefix)
        self.address = self._configured

    def redirect(
        self, address: Address, status: int, target: Target | None, *, changes: bool
    ) -> Address | None:
        """The address that a redirected call goes to; None if the redirect must not be followed."""
        if target is None or target.address is None or target.origin != address.origin:
            return None
        if status not in (_KEEP_METHOD if changes else _OF_GET):
            return None
        self.forget(address)
        return target.address

    def fall_back(self, address: Address) -> Address | None:
        """The configured address if the remembered one returned 404; None if it was the configured one."""
        self.forget(address)
        return None if address == self._configured else self._configured

    def forget(self, address: Address) -> None:
        """Return to the configured address, unless another one has been learned since."""
        if self.address == address:
            self.address = self._configured

    def learn(self, address: Address) -> None:
        """Use this address from now on."""
        self.address = address


def is_permanent(status: int) -> bool:
    """Whether a redirect applies to later calls, too (RFC 9110 section 15.4)."""
    return status in _PERMANENT


def target_of(url: str, path: str, location: str | None) -> Target | None:
    """The target of a response's Location; ``path`` is the route's. None if it can't be parsed."""
    if not location:
        return None
    try:
        parts = urlsplit(urljoin(url, location))
        origin = origin_of(parts.geturl())
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return None
    found, wanted = unquote(parts.path), unquote(path)
    address = None
    for slash in ("/", ""):
        prefix = found.removesuffix(wanted + slash)
        if prefix != found and _PREFIX.fullmatch(prefix) and "@" not in parts.netloc:
            address = Address(origin, prefix, slash)
            break
    return Target(origin, printable(parts.path)[:100], address)


def advice(address: Address, target: Target | None, followed: int) -> str:
    """Why a redirect was not followed, and the fix; without the query, which may contain a secret."""
    if target is None:
        return "has no usable Location; set NEXT_API_URL to the final address"
    elsewhere = target.origin != address.origin
    if target.address is None:
        page = target.origin if elsewhere else target.path
        return (
            f"leads to another page, {page}, such as a sign-in page; exempt /api/chats and /api/users "
            "from it, or set ECLIPSE_API_HEADERS to the header that lets this server in"
        )
    if elsewhere:
        there = target.address.base
        return f"leads to another origin, which must not get the secret; set NEXT_API_URL to {there}"
    if followed >= MAX_REDIRECTS:
        return f"is the {followed + 1}th in a row; fix the redirect loop in the application"
    return "has a status that turns a POST into a GET; make the application redirect with 308"
