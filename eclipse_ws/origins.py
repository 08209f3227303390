"""Where from: which web origins may open sessions and read answers (RFC 6454). Pure."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from eclipse_ws.settings import Settings

_LOOPBACK = re.compile(r"https?://(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?")
_LABELS = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


class Origins:
    """The settings' ``allowed_origins``: exact ones, and ``https://*.example.com`` for all names below one.

    Outside production the server's own pages may come too, and with an empty list every page that this
    machine serves. In production an empty list allows no web page at all.
    """

    def __init__(self, settings: Settings) -> None:
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Take the settings' list."""
        self._exact = frozenset(origin for origin in settings.allowed_origins if "*" not in origin)
        self._below = tuple(
            (scheme + "://", suffix)
            for scheme, _, suffix in (
                origin.partition("://*") for origin in settings.allowed_origins if "*" in origin
            )
        )
        self._own = not settings.production
        self._loopback = self._own and not settings.allowed_origins

    def allows(self, origin: str, host: str = "") -> bool:
        """Whether pages of the origin may; ``host`` is the request's own ``Host``."""
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
