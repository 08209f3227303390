"""Web origins that may open sessions and read responses (RFC 6454). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from eclipse_ws.config.problems import printable
from eclipse_ws.config.settings import Settings

MAX_SHOWN: Final = 100
"""Maximum characters of an origin in the log."""
MAX_LISTED: Final = 3
"""Maximum number of allowed origins in a log line."""
_LOOPBACK = re.compile(r"(https?://)(localhost|127(?:\.\d{1,3}){3}|\[::1\])((?::\d{1,5})?)")
_SHOWN = re.compile(r"([a-z][a-z0-9+.-]*://)?(?:[^/?#]*@)?([^/?#]*)", re.IGNORECASE)
_NAMED = re.compile(r"(https?://)((?:[a-z0-9_-]+\.)+[a-z][a-z0-9-]*)((?::\d{1,5})?)")
_LABELS = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


class Origins:
    """The settings' ``allowed_origins``: exact ones, and ``https://*.example.com`` for all subdomains.

    Outside production the server's own pages are allowed too, the names of this machine are equivalent, and
    with an empty list every page that this machine serves is allowed. In production an empty list allows no
    web page at all.
    """

    def __init__(self, settings: Settings) -> None:
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Apply the settings' list."""
        exact = {origin for origin in settings.allowed_origins if "*" not in origin}
        if not settings.production:
            local = filter(None, map(_LOOPBACK.fullmatch, tuple(exact)))
            exact |= {
                f"{found[1]}{name}{found[3]}"
                for found in local
                for name in ("localhost", "127.0.0.1", "[::1]")
            }
        listed = ", ".join(settings.allowed_origins[:MAX_LISTED]) or "empty"
        self.why = f"ALLOWED_ORIGINS is {listed}; its default is the origin of NEXT_API_URL"
        """The reason that is logged when an origin is refused."""
        self._exact = frozenset(exact)
        self._below = tuple(
            (scheme + "://", suffix)
            for scheme, _, suffix in (
                origin.partition("://*") for origin in settings.allowed_origins if "*" in origin
            )
        )
        self._own = not settings.production
        self._loopback = self._own and not settings.allowed_origins

    def allows(self, origin: str, host: str = "") -> bool:
        """Whether pages of the origin are allowed; ``host`` is the request's own ``Host``."""
        origin = origin.lower()
        if origin in self._exact:
            return True
        for scheme, suffix in self._below:
            if origin.startswith(scheme) and origin.endswith(suffix):
                names = origin[len(scheme) : -len(suffix)]
                if _LABELS.fullmatch(names):
                    return True
        if self._own and host:
            try:
                if urlsplit(origin).netloc == host.lower():
                    return True
            except ValueError:
                return False
        return self._loopback and _LOOPBACK.fullmatch(origin) is not None

    def siblings(self, listed: Iterable[str]) -> list[str]:
        """Origins that are not allowed, and differ from a listed one only by ``www.``.

        They are not allowed implicitly: another site may be served there.
        """
        found = []
        for scheme, name, port in (match.groups() for match in map(_NAMED.fullmatch, listed) if match):
            if name.startswith("www."):
                sibling = name.removeprefix("www.")
            elif name.count(".") == 1:
                sibling = f"www.{name}"
            else:
                continue
            if not self.allows(f"{scheme}{sibling}{port}"):
                found.append(f"{scheme}{sibling}{port}")
        return found


def shown(origin: str) -> str:
    """An origin for the log: printable, short, and without the other parts of a forged URL."""
    found = _SHOWN.match(origin)
    return "" if found is None else printable(f"{found[1] or ''}{found[2]}"[:MAX_SHOWN])[:MAX_SHOWN]
