"""Sends batches of reports to the application."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final
from urllib.parse import quote, urljoin, urlsplit

from eclipse_ws import __version__
from eclipse_ws.application.call import Call
from eclipse_ws.application.client import ApiClient
from eclipse_ws.application.http import CONNECT_TIMEOUT, MAX_IDLE
from eclipse_ws.application.redirects import Route
from eclipse_ws.application.reports import PATH, SIGNATURE, Report, encode_batch, signature
from eclipse_ws.application.response import ApiResponse, TransportError
from eclipse_ws.application.response_errors import retry_after_seconds
from eclipse_ws.config import application_headers
from eclipse_ws.config.problems import origin_of, printable
from eclipse_ws.config.settings import Settings

MAX_RETRY_AFTER: Final = 60.0
"""Seconds; a longer Retry-After is reduced to this."""
_REFUSED: Final = frozenset(
    {HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY}
)
_AS_IT_IS: Final = "/%:@!$&'()*+,;=~"


def reports_url(settings: Settings, port: int) -> str:
    """Where reports go, "" if nowhere: ``app_events_url``, or else, where the demo is, to the embedded API of
    this server itself, which listens on ``port``.
    """
    if settings.app_events_url or not settings.has_demo or settings.tls_cert:
        return settings.app_events_url
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    return f"http://[{host}]:{port}{PATH}" if ":" in host else f"http://{host}:{port}{PATH}"


class BatchRefused(Exception):  # noqa: N818 - not a mistake of ours
    """The application can't take this batch, now or later (400, 413, 422); ``str()`` says what happened."""


class ApplicationBusy(Exception):  # noqa: N818 - a state, which passes
    """The batch was not taken, but may be later. ``str()`` says what happened, without secrets or contents.

    ``status`` is the response's, 0 if there was none. ``retry_after`` is in seconds, None if the application
    didn't say.
    """

    def __init__(self, detail: str, *, status: int = 0, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.retry_after = retry_after


class ReportsClient:
    """POSTs batches to one URL, the setting ``app_events_url`` unless another ``url`` is given.

    A call takes at most ``api_timeout``. The response's status counts, its body doesn't. No redirect is
    followed, because another address must not get the reports. ECLIPSE_API_HEADERS are sent only to the
    origin of NEXT_API_URL: they may contain a secret of that origin. X-Internal-Secret is never sent; the
    signature shows that the batch comes from somebody who has it.
    """

    def __init__(self, settings: Settings, url: str = "") -> None:
        self._url = url or settings.app_events_url
        parts = urlsplit(self._url)
        self._route = Route(origin_of(self._url))
        self._path = quote(parts.path or "/", safe=_AS_IT_IS)
        self._timeout = settings.api_timeout
        self._connect_timeout = min(CONNECT_TIMEOUT, settings.api_timeout)
        self._max_body = settings.max_answer
        self._ca = settings.api_ca
        self._client: ApiClient | None = None
        self.reload(settings)

    def reload(self, settings: Settings) -> None:
        """Sign with the secret of these settings, and send their headers, from the next call on."""
        self._secret = settings.internal_api_secret.get_secret_value().encode()
        self._headers = {
            "Accept": "application/json",
            "Content-Type": "application/json",
            "User-Agent": f"eclipse-ws/{__version__}",
        }
        if settings.api == "http" and origin_of(settings.next_api_url) == self._route.address.origin:
            self._headers |= application_headers.parse(settings.api_headers.get_secret_value())

    async def start(self) -> None:
        """Get ready. The application need not be running yet."""
        self._client = ApiClient(
            force_instance=True,  # otherwise it would be the one that HttpApi uses
            origin=self._route.address.origin,
            max_body_size=self._max_body,
            connect_timeout=self._connect_timeout,
            max_idle=MAX_IDLE,
            ca=self._ca,
        )

    async def close(self) -> None:
        """End the call in progress, which fails, and close the connection. Idempotent."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    async def post(self, reports: Sequence[Report]) -> None:
        """Send a batch of at most MAX_BATCH reports; none at all is a question whether it would be taken.

        Raises BatchRefused if these reports must not be sent again like this, ApplicationBusy if they must.
        """
        client = self._client
        if client is None:
            raise ApplicationBusy("the client is not started, or is stopping")
        try:
            body = encode_batch(reports)
        except UnicodeEncodeError:
            raise BatchRefused("a report has a text with lone surrogates") from None
        headers = {**self._headers, SIGNATURE: signature(self._secret, body)}
        call = Call("POST reports", "", self._route, self._path, headers, body=body)
        deadline = asyncio.get_running_loop().time() + self._timeout
        try:
            response = await client.fetch(call.request(deadline))
        except TransportError as error:
            raise ApplicationBusy(str(error)) from error
        self._judge(response)

    def _judge(self, response: ApiResponse) -> None:
        status = response.code
        if 200 <= status < 300:
            return
        media = response.headers.get("Content-Type", "")
        detail = f"status {status}, {len(response.body)} bytes of {media[:60]!r}"
        if status in _REFUSED:
            raise BatchRefused(detail)
        if 300 <= status < 400:
            detail = f"the redirect (status {status}) {self._advice(response.headers.get('Location'))}"
        wait = retry_after_seconds(response.headers.get("Retry-After"), MAX_RETRY_AFTER)
        raise ApplicationBusy(detail, status=status, retry_after=wait)

    def _advice(self, location: str | None) -> str:
        """Where a redirect leads, without the query, which may contain a secret."""
        try:
            parts = urlsplit(urljoin(self._url, location or ""))
            place = origin_of(parts.geturl()) + printable(parts.path)[:100]
        except ValueError:
            return "has no usable Location; set ECLIPSE_APP_EVENTS_URL to the final address"
        return f"is not followed; set ECLIPSE_APP_EVENTS_URL to {place}"
