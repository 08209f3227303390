"""One call to the application, which may take several requests: it goes on where a redirect says so."""

from __future__ import annotations

import asyncio

from tornado.httpclient import HTTPResponse

from eclipse_ws.application.curl_handle import ApiRequest, Sending
from eclipse_ws.application.redirects import MAX_REDIRECTS, Address, Route, advice, is_permanent, target_of
from eclipse_ws.application.response_errors import is_own_answer, redirect_error


class Call:
    """A call to ``path`` of a route; ``body`` is None for a GET, ``future`` the last request's answer."""

    __slots__ = (
        "_address",
        "_followed",
        "_permanent",
        "body",
        "future",
        "headers",
        "path",
        "route",
        "sending",
    )

    def __init__(
        self, route: Route, path: str, sending: Sending, headers: dict[str, str], body: bytes | None
    ) -> None:
        self.route = route
        self.path = path
        self.sending = sending
        self.headers = headers
        self.body = body
        self.future: asyncio.Future[HTTPResponse] | None = None
        self._address = route.address
        self._followed = 0
        self._permanent = True  # each of the redirects

    def request(self, connect_timeout: float, request_timeout: float) -> ApiRequest:
        """The next request; timeouts are in seconds."""
        return ApiRequest(
            self._address.url(self.path),
            self.sending,
            method="GET" if self.body is None else "POST",
            headers=self.headers,
            body=self.body,
            connect_timeout=connect_timeout,
            request_timeout=request_timeout,
        )

    def goes_on(self, response: HTTPResponse) -> bool:
        """Whether this answer says to ask elsewhere, which the next `request` does. Raises ApiError for a
        redirect that must not be followed.
        """
        status, onward = response.code, None
        if status < 300:
            if self._followed and self._permanent:
                self.route.learn(self._address)
        elif status < 400:
            onward = self._onward(status, response.headers.get("Location"))
        elif status == 404 and not self._followed and not is_own_answer(status, response.body):
            onward = self.route.missing(self._address)
        if onward is None:
            return False
        self._address = onward
        self._followed += 1
        self.sending.redirected()
        return True

    def _onward(self, status: int, location: str | None) -> Address:
        target = target_of(self._address.url(self.path), self.path, location)
        onward = None
        if self._followed < MAX_REDIRECTS:
            onward = self.route.redirected(self._address, status, target, changes=self.sending.changes)
        if onward is None:
            raise redirect_error(
                self.sending.what,
                status,
                advice(self._address, target, self._followed),
                changes=self.sending.changes,
            )
        self._permanent = self._permanent and is_permanent(status)
        return onward
