"""The route that takes reports for the embedded API, as an application should."""

from __future__ import annotations

import hmac
import time
from datetime import datetime
from typing import Annotated, Final

import msgspec
from tornado.routing import URLSpec
from tornado.web import HTTPError, url

from eclipse_ws.application.embedded import MAX_ID, EmbeddedApi, valid_id
from eclipse_ws.application.embedded_handler import Handler
from eclipse_ws.application.reports import PATH, SIGNATURE, Report, signature
from eclipse_ws.protocol import bounded

MAX_AGE: Final = 300.0
"""Seconds that ``sentAt`` may differ from this machine's clock: an older batch may be a copy of one."""

_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]


class _Report(Report, frozen=True, rename="camel", kw_only=True):
    """A report of any type: later versions may have more."""

    id: _Id
    type: str  # type: ignore[assignment]
    at: Annotated[str, msgspec.Meta(max_length=40)]


class _Batch(msgspec.Struct, rename="camel"):
    events: Annotated[list[_Report], msgspec.Meta(max_length=1000)]
    sent_at: str


_decode = bounded(msgspec.json.Decoder(_Batch).decode)


def routes(api: EmbeddedApi) -> list[URLSpec]:
    """The route for reports."""
    return [url(PATH, _Reports, {"api": api})]


class _Reports(Handler):
    takes_body = True
    is_for_pages = True

    async def post(self) -> None:
        """Take a batch of reports: 401 for a wrong signature or an old batch, 400 for a malformed one."""
        secret, body = self.api.settings.internal_api_secret.get_secret_value(), self.request.body
        given = self.request.headers.get(SIGNATURE, "")
        # In bytes, because compare_digest accepts ASCII text only.
        right = signature(secret.encode(), body).encode()
        if not secret or not hmac.compare_digest(given.encode("utf-8", "replace"), right):
            raise HTTPError(401, f"{SIGNATURE} is missing or wrong")
        try:
            batch = _decode(body)
            age = abs(time.time() - datetime.fromisoformat(batch.sent_at).timestamp())
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError, OverflowError):
            raise HTTPError(400, "the body must be {events, sentAt}") from None
        if age > MAX_AGE:
            # Not 400, with which the reports would be lost: sent again, they have another sentAt.
            raise HTTPError(401, f"sentAt differs from this machine's clock by more than {MAX_AGE:g} s")
        reports = [each for each in batch.events if valid_id(each.chat_id) and len(each.user_id) <= MAX_ID]
        await self.api.take_reports(reports)
        self.set_status(204)
        self.clear_header("Content-Type")
        self.finish()
