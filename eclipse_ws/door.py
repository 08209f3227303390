"""The application's door: who knows the shared secret may in, and nobody may try for long."""

from __future__ import annotations

import hmac
import time
from typing import NamedTuple

import structlog
from tornado.httputil import HTTPServerRequest

from eclipse_ws.limits import Addresses, Limits, Sources

log = structlog.get_logger("eclipse_ws.door")


class Refusal(NamedTuple):
    """What a caller is told: an HTTP status, a sentence, and the limit that it ran into, if any."""

    status: int
    text: str
    limit: str = ""


class Door:
    """Compares ``X-Internal-Secret`` in constant time, and limits wrong ones by address.

    An address that has used its guesses up is refused without a comparison, so that guessing on tells
    nothing. Only where several callers may share the address (a proxy's, and no setting names its header)
    is the right secret still let in: a stranger there must not be able to lock the application out.
    """

    def __init__(self, sources: Sources, addresses: Addresses, limits: Limits) -> None:
        self._sources = sources
        self._addresses = addresses
        self._limits = limits

    def refusal(self, request: HTTPServerRequest, secret: str) -> Refusal | None:
        """None if the request shows the secret."""
        if not secret:
            return Refusal(503, "No INTERNAL_API_SECRET is configured on this server")
        now = time.monotonic()
        source = self._sources.of(request.remote_ip or "", request.headers.get(self._sources.header))
        may_guess = self._addresses.may_guess(source, now)
        if may_guess or source.shared:
            given = request.headers.get("X-Internal-Secret", "")
            # In bytes, because compare_digest takes no text outside ASCII.
            if hmac.compare_digest(given.encode("utf-8", "replace"), secret.encode()):
                return None
            self._addresses.guessed(source, now)
        name = "secret" if may_guess else "guesses_per_minute"
        if (unsaid := self._limits.refuse(name, now)) is not None:
            log.info(
                "call refused", limit=name, address=source.address, path=request.path[:200], unsaid=unsaid
            )
        if may_guess:
            return Refusal(401, "X-Internal-Secret is missing or wrong")
        return Refusal(429, "Too many wrong secrets from this address; try again in a minute", name)
