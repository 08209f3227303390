"""The application's API over HTTP: a cookie session, with persistent connections."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from functools import partial
from typing import Final, Literal, TypeVar
from urllib.parse import quote

import msgspec
import structlog

from eclipse_ws import __version__
from eclipse_ws.application.base import ApiError, ChatApi, Share
from eclipse_ws.application.call import Call
from eclipse_ws.application.circuit_breaker import CircuitBreaker, Streak
from eclipse_ws.application.client import ApiClient
from eclipse_ws.application.concurrency_limiter import ConcurrencyLimiter
from eclipse_ws.application.cookies import KEPT, CookieSession
from eclipse_ws.application.decoding import decode_message, decode_user
from eclipse_ws.application.redirects import Route
from eclipse_ws.application.response import ApiResponse, TransportError
from eclipse_ws.application.response_errors import other_message, shape_error, status_error, transport_error
from eclipse_ws.application.saved import SavedMessages
from eclipse_ws.config import application_headers
from eclipse_ws.config.settings import Settings
from eclipse_ws.protocol import Message, User

log = structlog.get_logger("eclipse_ws.application")

T = TypeVar("T")
_DOTS: Final = frozenset({"", ".", ".."})
_UNRESERVED: Final = re.compile(r"[A-Za-z0-9_~-]+", re.ASCII)
CONNECT_TIMEOUT: Final = 3.0
"""Seconds to connect to the application; after that it counts as unreachable."""
MAX_IDLE: Final = 4.0
"""Seconds that an unused connection is kept: less than the 5 s for which Node.js keeps it."""
MAX_COOKIES: Final = 50
"""Cookies kept for the application's load balancer, as many as RFC 6265 asks of a client for each domain."""
BREAKER_FAILURES: Final = 5
"""Failures in a row, from at least three users or chats, that open the circuit."""
BREAKER_SECONDS: Final = 5.0
"""Seconds for which an open circuit fails calls at once."""


_encode = msgspec.json.Encoder().encode


class HttpApi(ChatApi):
    """Calls the application's routes, one connection per call; `response_errors` classifies failures."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        base = settings.next_api_url.rstrip("/")
        self.breaker = CircuitBreaker("application", BREAKER_FAILURES, BREAKER_SECONDS)
        self._own_failures = Streak()
        self._send = Route(base)
        self._users = Route(base)
        self._headers = _headers(settings)
        self._connect_timeout = min(CONNECT_TIMEOUT, settings.api_timeout)
        self._timeout = settings.api_timeout
        self._max_answer = settings.max_answer
        self._max_cookies = MAX_COOKIES
        self._kept_cookies = (*KEPT, *settings.api_cookies)
        self._dropped_cookies: set[str] = set()
        self._max_idle = MAX_IDLE
        self._ca = settings.api_ca
        self._honours_key = settings.api_honours_idempotency
        self._limiter = ConcurrencyLimiter(settings.api_max_connections, settings.api_max_waiting, self.stats)
        self._saved = SavedMessages()
        self._session: CookieSession | None = None

    @property
    def state(self) -> Literal["up", "down"]:
        """ "down" while the circuit is open or being probed."""
        return "up" if self.breaker.state == "closed" else "down"

    def reload(self, settings: Settings) -> None:
        """Send the secret and headers of these settings from the next call on."""
        self._headers = _headers(settings)  # a new dict: see ApiRequest

    async def start(self) -> None:
        """Open the session. The application need not be running yet."""
        self._session = CookieSession(
            ApiClient,
            max_cookies=self._max_cookies,
            kept=self._kept_cookies,
            on_drop=self._cookie_dropped,
            origin=self._send.address.origin,
            max_body_size=self._max_answer,
            connect_timeout=self._connect_timeout,
            max_idle=self._max_idle,
            ca=self._ca,
        )

    def _cookie_dropped(self, name: str) -> None:
        """Count a cookie that was not accepted, and log its name once."""
        self.stats.cookies_dropped += 1
        if name not in self._dropped_cookies and len(self._dropped_cookies) < self._max_cookies:
            self._dropped_cookies.add(name)
            log.info(
                "cookie dropped",
                name=name[:64],
                fix="if a load balancer needs it, add it to ECLIPSE_API_COOKIES",
            )

    async def close(self) -> None:
        """Wait for calls in progress, at most api_timeout, and close the connections."""
        session, self._session = self._session, None
        if session is None:
            return
        self._limiter.clear("the server is stopping")
        try:
            await session.drain(self._timeout)
        finally:
            session.close()

    async def send_message(
        self,
        chat_id: str,
        user_id: str,
        content: str,
        role: str,
        key: str | None = None,
        *,
        share: Share | None = None,
    ) -> Message:
        """POST the message; ``key`` is sent as Idempotency-Key."""
        try:
            path = f"/api/chats/{segment(chat_id, 'chat_not_found')}/messages/send"
            body = _encode({"content": content, "role": role, "userId": user_id})
        except UnicodeEncodeError:
            raise ApiError(
                "api_rejected", "POST message: text with lone surrogates", retryable=False
            ) from None
        call = Call(
            "POST message",
            "chat_not_found",
            self._send,
            path,
            self._headers,
            body=body,
            key=header_text(key) if key else None,
            once=not (key and self._honours_key),
        )
        decode = partial(decode_message, user_id=user_id, content=content, role=role)
        message = await self._perform(call, decode, share)
        if not self._saved.matches(chat_id, content, message):
            raise other_message("POST message")
        return message

    async def user(self, user_id: str, *, share: Share | None = None) -> User:
        """GET the user."""
        try:
            path = f"/api/users/{segment(user_id, 'user_not_found')}"
        except UnicodeEncodeError:
            raise ApiError(
                "user_not_found", "GET user: an id with lone surrogates", retryable=False
            ) from None
        call = Call("GET user", "user_not_found", self._users, path, self._headers)
        return await self._perform(call, partial(decode_user, user_id=user_id), share)

    async def _perform(self, call: Call, decode: Callable[[bytes], T], share: Share | None) -> T:
        """Take a slot, pass the breaker, and make the call; count it, and tell the breaker how it ended."""
        started, outcome = time.monotonic(), "cancelled"
        deadline = asyncio.get_running_loop().time() + self._timeout
        who = call.path if share is None else share.who
        has_slot, ticket = False, None
        try:
            if not self._limiter.take(share):
                if self.breaker.state != "closed":
                    raise self._circuit_open(call)  # rather than wait for a slot first
                await self._limiter.wait(deadline, share, 0 if call.body is None else len(call.body))
            has_slot = True
            ticket = self.breaker.enter(who)
            if ticket is None:
                raise self._circuit_open(call)
            result = decode_response(call, await self._fetch(call, deadline), decode)
            self.breaker.success(ticket)
            self._own_failures.clear()
            outcome = "ok"
            return result
        except ApiError as error:
            outcome = error.code
            if ticket is not None:
                self._report(ticket, call, error, who)
            raise
        finally:
            self.stats.count(outcome, time.monotonic() - started)
            if outcome == "cancelled" and ticket is not None:
                self.breaker.abandon(ticket)
            # After the breaker knows the result, because releasing starts the next call.
            if has_slot:
                if call.under_way:  # its caller was cancelled: the slot is free when the request has ended
                    call.on_end = partial(self._limiter.release, share)
                else:
                    self._limiter.release(share)

    async def _fetch(self, call: Call, deadline: float) -> ApiResponse:
        """The response to a call, after permitted redirects; all within one deadline. Raises ApiError."""
        try:
            while True:
                session = self._session
                if session is None:
                    what = f"{call.what}: the client is not started, or is stopping"
                    raise ApiError("api_unavailable", what)
                response: ApiResponse = await session.fetch(call.request(deadline), raise_error=False)
                if not call.follow_redirect(response):
                    return response
        except TransportError as error:
            raise transport_error(call.what, error, sent=call.sent, changes=call.changes) from error
        except ValueError as error:
            # The request can't be built. The error may quote a header, so it is left out.
            what = f"{call.what}: {type(error).__name__} while building the request"
            raise ApiError("api_rejected", what, retryable=False) from None

    def _report(self, ticket: int, call: Call, error: ApiError, who: str) -> None:
        if error.down:
            self.breaker.failure(ticket, str(error), who)
            return
        if not call.sent:
            self.breaker.abandon(ticket)  # it says nothing about the application
            return
        self.breaker.success(ticket)
        if error.code == "api_error":
            # The application itself reports a failure. For one caller, a retry would fail again; if
            # several get it and no call succeeds, its database is probably down.
            self._own_failures.add(who)
            error.retryable = self._own_failures.is_widespread

    def _circuit_open(self, call: Call) -> ApiError:
        return ApiError(
            "api_unavailable",
            f"{call.what}: the circuit to the application is open",
            retry_after=self.breaker.retry_after,
        )


def decode_response(call: Call, response: ApiResponse, decode: Callable[[bytes], T]) -> T:
    """The decoded response. Raises ApiError if the status is not 2xx, or ``decode`` rejects the body."""
    status, body = response.code, response.body
    media = response.headers.get("Content-Type", "")
    if not 200 <= status < 300:
        wait = response.headers.get("Retry-After")
        raise status_error(call.what, status, media, wait, body, missing=call.missing, changes=call.changes)
    try:
        return decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise shape_error(call.what, status, media, body, changes=call.changes) from None


def _headers(settings: Settings) -> dict[str, str]:
    return {
        "Accept": "application/json",
        "Accept-Encoding": "gzip",
        "Content-Type": "application/json",
        "User-Agent": f"eclipse-ws/{__version__}",
        "X-Internal-Secret": settings.internal_api_secret.get_secret_value(),
        **application_headers.parse(settings.api_headers.get_secret_value()),
    }


def segment(name: str, missing: str) -> str:
    """A name as one segment of a URL's path (RFC 3986 section 3.3).

    The empty name and dot segments can't be encoded: the URL standard treats ``%2E%2E`` as ``..``, which
    would leave the route. No chat or user has such a name: it is ``missing``.
    """
    if _UNRESERVED.fullmatch(name):  # as most ids are
        return name
    if name in _DOTS:
        raise ApiError(missing, f"the id {name!r} is not a valid path segment", retryable=False)
    return quote(name, safe="")


def header_text(key: str) -> str:
    """A key as a header's value: unchanged if it is plain ASCII, else percent-encoded; distinct keys stay
    distinct.
    """
    if key.isascii() and key.isprintable() and "%" not in key and key == key.strip():
        return key
    return quote(key, safe="", errors="surrogatepass")
