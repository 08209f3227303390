"""Internal authentication: requests that must show the secret shared with the application."""

from __future__ import annotations

import hmac
import time
from typing import NamedTuple

import structlog
from tornado.httputil import HTTPServerRequest

from eclipse_ws.config.settings import Settings
from eclipse_ws.protocol.schema import ErrorBody
from eclipse_ws.security.client_address import Sources
from eclipse_ws.security.limits import Addresses, Limits

log = structlog.get_logger("eclipse_ws.internal_auth")


class Refusal(NamedTuple):
    """A refused request's response: an HTTP status, a sentence, the limit that was exceeded, if any, and the
    seconds until a retry makes sense, 0 if never.
    """

    status: int
    text: str
    limit: str = ""
    retry_after: int = 0

    @property
    def body(self) -> ErrorBody:
        """The response's body."""
        return ErrorBody(self.text, self.limit or None)


class InternalAuth:
    """Compares the secret in constant time, and limits wrong secrets by address.

    An address that has used up its guesses is refused without a comparison, so that further guesses reveal
    nothing. Only where several callers may share the address (a proxy's, and no setting names its header)
    the right secret still passes: an attacker there must not be able to lock the application out.
    """

    def __init__(self, settings: Settings, sources: Sources, addresses: Addresses, limits: Limits) -> None:
        self.sources = sources
        self.addresses = addresses
        self.limits = limits
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Apply the settings' secret."""
        self._secret = settings.internal_api_secret.get_secret_value().encode()

    def refusal(self, request: HTTPServerRequest) -> Refusal | None:
        """None if the request carries the secret, as ``X-Internal-Secret`` or as a bearer token."""
        if not self._secret:
            return Refusal(503, "No INTERNAL_API_SECRET is configured on this server")
        now = time.monotonic()
        source = self.sources.of_request(request)
        may_guess = self.addresses.may_guess(source, now)
        if may_guess or source.shared:
            # In bytes, because compare_digest accepts ASCII text only.
            if hmac.compare_digest(_presented(request).encode("utf-8", "replace"), self._secret):
                return None
            self.addresses.guessed(source, now)
        name = "secret" if may_guess else "guesses_per_minute"
        self.limits.refuse(name)
        log.info("call refused", limit=name, client_address=source.address, path=request.path[:200])
        if may_guess:
            return Refusal(401, "X-Internal-Secret is missing or wrong")
        return Refusal(429, "Too many wrong secrets from this address; try again in a minute", name, 60)


def _presented(request: HTTPServerRequest) -> str:
    """The secret that a request carries; empty if none."""
    given = request.headers.get("X-Internal-Secret")
    if given is not None:
        return given
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else ""
