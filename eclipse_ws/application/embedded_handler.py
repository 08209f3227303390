"""What the embedded API's routes have in common."""

from __future__ import annotations

import hmac
from http import HTTPStatus
from typing import Any, Final, cast

import msgspec
import structlog
from tornado.web import HTTPError, RequestHandler

from eclipse_ws.application.base import ApiError
from eclipse_ws.application.embedded import MAX_ID, EmbeddedApi, valid_id
from eclipse_ws.application.embedded_chats import ChatSummary
from eclipse_ws.security.origins import shown

MAX_LISTED: Final = 1000
"""Maximum number of messages or chats in a response."""

_STATUS: Final = {
    "chat_not_found": HTTPStatus.BAD_REQUEST,  # the first message creates a chat: only the id can be wrong
    "user_not_found": HTTPStatus.NOT_FOUND,
    "api_rejected": HTTPStatus.BAD_REQUEST,
}
_encode = msgspec.json.Encoder().encode
log = structlog.get_logger("eclipse_ws.application")


class Handler(RequestHandler):
    """Responds in JSON, to pages of allowed origins only, and in production to those who have the secret."""

    # The listener reads these attributes of a handler's class.
    needs_secret = False
    takes_body = False
    is_for_pages = False
    """Whether a page may change something with it: then only a page of an allowed origin may."""

    def initialize(self, api: EmbeddedApi) -> None:
        """See RequestHandler."""
        self.api = api

    def set_default_headers(self) -> None:
        """JSON that nobody stores, for pages of allowed origins."""
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.clear_header("Server")
        origins, origin = self.settings.get("origins"), self.request.headers.get("Origin")
        if origins is not None:
            self.set_header("Vary", "Origin")
            if origin and origins.allows(origin, self.request.host):
                self.set_header("Access-Control-Allow-Origin", origin)

    def answer(self, value: Any) -> None:
        """Finish with a JSON document."""
        self.finish(_encode(value))

    def answer_chat(self, chat: ChatSummary | None) -> None:
        """Finish with a chat; raises a 404 if it is None."""
        if chat is None:
            raise HTTPError(404, "the chat is unknown: its first message creates it")
        self.answer({"chat": chat})

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Finish with ``{error}``; details go to the log only."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, ApiError):
            status_code = _STATUS.get(error.code, HTTPStatus.SERVICE_UNAVAILABLE)
            self.set_status(status_code)
            reason = error.code
        else:
            known = isinstance(error, HTTPError) and error.log_message and status_code < 500
            reason = cast(HTTPError, error).log_message or "" if known else HTTPStatus(status_code).phrase
        if status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            served = [name for name in self.SUPPORTED_METHODS if name.lower() in vars(type(self))]
            self.set_header("Allow", ", ".join(served))
        self.finish(_encode({"error": reason}))

    def log_exception(self, typ: Any, value: BaseException | None, tb: Any) -> None:
        """Log a traceback, except for an ApiError or HTTPError, which is an expected response."""
        if not isinstance(value, ApiError | HTTPError):
            super().log_exception(typ, value, tb)

    def prepare(self) -> None:
        """Require the secret if it is needed; 503 if none is configured.

        The server's listener does so before it reads the body; this check is for handlers served without it.
        In production every route here needs the secret: a token gives access to its chat.
        """
        origins, origin = self.settings.get("origins"), self.request.headers.get("Origin")
        if origins is not None and origin and not origins.allows(origin, self.request.host):
            # The browser only reports a missing header.
            log.info(
                "response withheld from page", limit="allowed_origins", origin=shown(origin), why=origins.why
            )
            if self.is_for_pages:
                raise HTTPError(403, "Pages of this origin may not change chats")
        if not (self.needs_secret or self.api.settings.production):
            return
        secret = self.api.settings.internal_api_secret.get_secret_value()
        internal_auth = self.settings.get("internal_auth")  # None without the rest of the server
        if internal_auth is not None:
            refusal = internal_auth.refusal(self.request)
            if refusal is not None:
                raise HTTPError(refusal.status, refusal.text)
            return
        if not secret:
            raise HTTPError(503)
        given = self.request.headers.get("X-Internal-Secret", "")
        # In bytes, because compare_digest accepts ASCII text only.
        if not hmac.compare_digest(given.encode("utf-8", "replace"), secret.encode()):
            raise HTTPError(401, "X-Internal-Secret is missing or wrong")

    def limit(self) -> int:
        """The argument ``limit``, 1 to MAX_LISTED; 200 by default."""
        text = self.get_query_argument("limit", "200")
        if not (text.isascii() and text.isdecimal() and len(text) < 6 and 0 < int(text) <= MAX_LISTED):
            raise HTTPError(400, f"limit must be a number from 1 to {MAX_LISTED}")
        return int(text)

    def before(self) -> int | None:
        """The argument ``before``, a position in the list of chats, or None."""
        text = self.get_query_argument("before", None)
        if text is None:
            return None
        if not (text.isascii() and text.isdecimal() and len(text) < 19):
            raise HTTPError(400, "before must be the `next` of a page of chats")
        return int(text)

    def check_id(self, name: str, what: str) -> str:
        """The id if it is valid; raises a 400 otherwise."""
        if not valid_id(name):
            raise HTTPError(400, f"{what} must have 1 to {MAX_ID} characters, without control characters")
        return name
