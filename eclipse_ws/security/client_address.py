"""The client's address: of the socket's peer, or from the header that a proxy sets. Pure; no I/O."""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from tornado.httputil import HTTPServerRequest

from eclipse_ws.config.settings import Settings


class Source(NamedTuple):
    """Where a request comes from. ``address`` is an IPv4 address or a /64 IPv6 network.

    ``shared``: it may be a proxy's, because it is private and no setting names a header to trust. Its clients
    can't be distinguished then.
    """

    address: str
    shared: bool


class Sources:
    """Determines where a request comes from; a header is trusted only if a setting names it."""

    def __init__(self, settings: Settings) -> None:
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Apply the settings' header."""
        self.header = settings.client_address_header or (
            "X-Forwarded-For" if settings.trusted_proxies else ""
        )
        # A proxy sets a header with one address; it appends to X-Forwarded-For on the right.
        self._from_right = settings.trusted_proxies or 1
        name = re.escape(self.header.encode())
        self._line = re.compile(rb"\r?\n" + name + rb":([^\r\n]*)(?=\r?\n)", re.IGNORECASE) if name else None

    def guess(self, peer: str, head: bytes) -> Source:
        """The source of a request from its first, unparsed bytes: good enough to queue it fairly."""
        lines = [] if self._line is None else self._line.findall(head)
        return self.of(peer, b",".join(lines).decode("latin-1"))

    def of_request(self, request: HTTPServerRequest) -> Source:
        """The source of a parsed request."""
        return self.of(request.remote_ip or "", request.headers.get(self.header))

    def of(self, peer: str, header: str | None) -> Source:
        """The source of a request: its socket's address, and the value of ``header`` if there was one."""
        if self.header and header:
            parts = header.split(",")
            found = _network(parts[max(0, len(parts) - self._from_right)].strip())
            if found is not None:
                return Source(found[0], shared=False)
        found = _network(peer)
        if found is None:
            return Source(peer or "unknown", shared=True)
        # With a trusted header set, a request without it did not come through the proxy.
        return Source(found[0], shared=not found[1] and not self.header)


@lru_cache(4096)
def _network(text: str) -> tuple[str, bool] | None:
    """The address or network that limits count by, and whether it is public; None if the text (with or
    without a port) is not an address.
    """
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address: IPv4Address | IPv6Address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped), address.ipv4_mapped.is_global
        return f"{IPv6Address(int(address) >> 64 << 64)}/64", address.is_global
    return str(address), address.is_global
