"""One call to the application: one request, and one more for each redirect that it follows."""

from __future__ import annotations

import asyncio

from tornado.httpclient import HTTPResponse

from eclipse_ws.application.curl_handle import ApiRequest, Transfer
from eclipse_ws.application.redirects import MAX_REDIRECTS, Address, Route, advice, is_permanent, target_of
from eclipse_ws.application.response_errors import is_own_response, redirect_error


class Call:
    """A call to ``path`` of a route; ``body`` is None for a GET, ``future`` is the last response."""

    __slots__ = (
        "_address",
        "_followed",
        "_permanent",
        "body",
        "future",
        "headers",
        "path",
        "route",
        "transfer",
    )

    def __init__(
        self, route: Route, path: str, transfer: Transfer, headers: dict[str, str], body: bytes | None
    ) -> None:
        self.route = route
        self.path = path
        self.transfer = transfer
        self.headers = headers
        self.body = body
        self.future: asyncio.Future[HTTPResponse] | None = None
        self._address = route.address
        self._followed = 0
        self._permanent = True  # whether every redirect so far was permanent

    def request(self, connect_timeout: float, request_timeout: float) -> ApiRequest:
        """The next request; timeouts are in seconds."""
        return ApiRequest(
            self._address.url(self.path),
            self.transfer,
            method="GET" if self.body is None else "POST",
            headers=self.headers,
            body=self.body,
            connect_timeout=connect_timeout,
            request_timeout=request_timeout,
        )

    def follow_redirect(self, response: HTTPResponse) -> bool:
        """Whether the response redirects the call; if so, the next `request` goes there. Raises ApiError for
        a redirect that must not be followed.
        """
        status, next_address = response.code, None
        if status < 300:
            if self._followed and self._permanent:
                self.route.learn(self._address)
        elif status < 400:
            next_address = self._redirect_target(status, response.headers.get("Location"))
        elif status == 404 and not self._followed and not is_own_response(status, response.body):
            next_address = self.route.fall_back(self._address)
        if next_address is None:
            return False
        self._address = next_address
        self._followed += 1
        self.transfer.redirected()
        return True

    def _redirect_target(self, status: int, location: str | None) -> Address:
        target = target_of(self._address.url(self.path), self.path, location)
        next_address = None
        if self._followed < MAX_REDIRECTS:
            next_address = self.route.redirect(self._address, status, target, changes=self.transfer.changes)
        if next_address is None:
            raise redirect_error(
                self.transfer.what,
                status,
                advice(self._address, target, self._followed),
                changes=self.transfer.changes,
            )
        self._permanent = self._permanent and is_permanent(status)
        return next_address
