"""One call to the application: one request, and one more for each redirect that it follows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from eclipse_ws.application.redirects import MAX_REDIRECTS, Address, Route, advice, is_permanent, target_of
from eclipse_ws.application.response import ApiResponse
from eclipse_ws.application.response_errors import is_own_response, redirect_error


class Call:
    """A call to ``path`` of a route: a POST of a body, or a GET if ``body`` is None.

    ``what`` names it in error details, ``missing`` is the code of a 404. ``headers`` must not be changed
    afterwards, because consecutive requests with the same mapping reuse their bytes; ``key`` is sent as
    Idempotency-Key. If ``once``, it is sent at most once.
    """

    __slots__ = (
        "_address",
        "_followed",
        "_permanent",
        "body",
        "headers",
        "key",
        "missing",
        "on_end",
        "once",
        "path",
        "response",
        "route",
        "sent",
        "under_way",
        "what",
    )

    def __init__(
        self,
        what: str,
        missing: str,
        route: Route,
        path: str,
        headers: Mapping[str, str],
        *,
        body: bytes | None = None,
        key: str | None = None,
        once: bool = False,
    ) -> None:
        self.what = what
        self.missing = missing
        self.route = route
        self.path = path
        self.headers = headers
        self.body = body
        self.key = key
        self.once = once
        self.sent = False
        """Whether any of the last request may have been sent."""
        self.under_way = False
        """Whether a request is in progress: even one whose caller was cancelled."""
        self.on_end: Callable[[], None] | None = None
        """Called when the request in progress has ended."""
        self.response: ApiResponse | None = None
        """The last response."""
        self._address = route.address
        self._followed = 0
        self._permanent = True  # whether every redirect so far was permanent

    @property
    def changes(self) -> bool:
        """Whether it may change something: it is not a GET."""
        return self.body is not None

    def request(self, deadline: float) -> ApiRequest:
        """The next request, which must end by a time of the loop's clock."""
        return ApiRequest(self, self._address, deadline)

    def follow_redirect(self, response: ApiResponse) -> bool:
        """Whether the response redirects the call; if so, the next `request` goes there. Raises ApiError for
        a redirect that must not be followed.
        """
        self.response = response
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
        self.sent = False  # a redirect says that nothing was done, and where to ask instead
        return True

    def _redirect_target(self, status: int, location: str | None) -> Address:
        target = target_of(self._address.url(self.path), self.path, location)
        next_address = None
        if self._followed < MAX_REDIRECTS:
            next_address = self.route.redirect(self._address, status, target, changes=self.changes)
        if next_address is None:
            raise redirect_error(
                self.what,
                status,
                advice(self._address, target, self._followed),
                changes=self.changes,
            )
        self._permanent = self._permanent and is_permanent(status)
        return next_address


class ApiRequest:
    """One request of a call. The cookie session may replace its ``headers``."""

    __slots__ = ("_address", "call", "data", "deadline", "future", "headers", "stop")

    def __init__(self, call: Call, address: Address, deadline: float) -> None:
        self.call = call
        self.headers = call.headers
        self.deadline = deadline
        self._address = address
        self.data: bytes
        """The request as it is sent; set by the client."""
        self.future: asyncio.Future[ApiResponse]
        """The response; set by the client."""
        self.stop: Callable[[], object] | None = None
        """Closes the connection that it is on, or ends the attempt to open one; set by the client."""

    @property
    def target(self) -> str:
        """The percent-encoded path."""
        return self._address.target(self.call.path)

    @property
    def url(self) -> str:
        """The whole URL, for the cookie jar."""
        return self._address.url(self.call.path)
