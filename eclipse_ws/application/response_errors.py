"""Classifies failed calls to the application as ApiErrors, from the client's error or the HTTP response.

Above all it decides ``outcome_unknown`` for a POST. False must be certain, because it invites another POST:

=============================  ====================  ========  ===============================================
what happened                  code                  unknown?  why
=============================  ====================  ========  ===============================================
circuit open                   api_unavailable       no        nothing was sent
no free slot in time           api_busy              no        nothing was sent
DNS, refused, TLS failed       api_unavailable       no        nothing was sent
timeout while connecting       api_timeout           no        nothing was sent
timeout later                  api_timeout           yes       it may be in progress, or done
reset, closed without response  api_connection_lost   yes       it may have been done before
3xx but 303, not followed      api_redirected        no        a redirect replaces the work
303                            api_redirected        yes       "done, see there" (RFC 9110 section 15.4.4)
400, 422, other 4xx            api_rejected          no        the application checks before it saves
401, 403                       api_unauthorized      no        the secret differs, or something in front of
                                                               the application turned the call away
404                            chat_not_found, ...   no        there is nowhere to save it
408, 429                       api_busy              no        turned away before the work
409                            api_conflict          no        another request with this key is in progress
503                            api_unavailable       no        a load balancer's or server's "not now"
500 with ``{"error": "..."}``  api_error             no        the application itself reports the failure
500 otherwise, 502, 504, 5xx   api_error             yes       from a gateway: the application may have saved
200 ``{"success": false}``     api_rejected          no        the application itself says "not saved"
200 of another shape, not JSON api_bad_answer        yes       200 says that it probably was saved
200 about another message      api_bad_answer        yes       the same, and that message must not be shown
response too large or not HTTP api_bad_answer        yes       the same
=============================  ====================  ========  ===============================================

It also decides which failures concern the API as a whole (`ApiError.down`): a failed connection, a timeout, a
redirect, 502, 503, 504, and a response that can't be the application's own. The application's own JSON
concerns one request, whatever its status: a visitor may have found content that always makes it fail.

A GET changes nothing, so its outcome is never unknown. Details name the status, the media type and the size
of a response, and never quote it: the application's messages may repeat what was sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

import msgspec

from eclipse_ws.application.base import ApiError
from eclipse_ws.application.response import TransportError
from eclipse_ws.protocol import bounded

LET_IN: Final = (
    "let this server through deployment protection or the firewall, or set ECLIPSE_API_HEADERS to the header "
    "that does"
)
"""The fix if something in front of the application responds in its place."""
MAX_RETRY_AFTER: Final = 3600.0
"""Seconds; a longer Retry-After is reduced to this."""

_PERMANENT_5XX: Final = frozenset({HTTPStatus.NOT_IMPLEMENTED, HTTPStatus.HTTP_VERSION_NOT_SUPPORTED})
_GATEWAYS: Final = frozenset(
    {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}
)


class _Failed(msgspec.Struct):
    error: str


_decode_failed = bounded(msgspec.json.Decoder(_Failed).decode)
_decode_object = bounded(msgspec.json.Decoder(dict[str, msgspec.Raw]).decode)


def transport_error(what: str, error: TransportError, *, sent: bool, changes: bool) -> ApiError:
    """An error without a response. ``sent``: part of the request was sent; ``changes``: it is not a GET."""
    unknown = sent and changes
    detail = f"{what}: {error}"
    if error.reason == "timeout":
        return ApiError("api_timeout", detail, outcome_unknown=unknown, down=True)
    if not sent:
        return ApiError("api_unavailable", detail, down=True)
    code = "api_bad_answer" if error.reason == "bad_response" else "api_connection_lost"
    return ApiError(code, detail, outcome_unknown=unknown, down=True)


def status_error(
    what: str, status: int, media: str, retry_after: str | None, body: bytes, *, missing: str, changes: bool
) -> ApiError:
    """A response with a status of 400 or more; ``missing`` is the code for 404."""
    detail = f"{what}: status {status}, {len(body)} bytes of {media[:60]!r}"
    wait = retry_after_seconds(retry_after)
    if status >= 500:
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            return ApiError("api_unavailable", detail, retry_after=wait, down=True)
        own = status not in _GATEWAYS and is_own_response(status, body)
        return ApiError(
            "api_error",
            detail,
            # A retry of this request would fail again; HttpApi handles failures of all requests.
            retryable=not own and status not in _PERMANENT_5XX,
            retry_after=wait,
            outcome_unknown=changes and not (own and status == HTTPStatus.INTERNAL_SERVER_ERROR),
            down=not own,
        )
    match status:
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            return ApiError("api_unauthorized", f"{detail}; {_refusal(status, media, body)}", retryable=False)
        case HTTPStatus.NOT_FOUND:
            if not is_own_response(status, body):
                detail += "; this is not the application's response: check NEXT_API_URL"
            return ApiError(missing, detail, retryable=False)
        case HTTPStatus.CONFLICT:
            return ApiError("api_conflict", detail, retry_after=wait)
        case HTTPStatus.REQUEST_TIMEOUT | HTTPStatus.TOO_EARLY | HTTPStatus.TOO_MANY_REQUESTS:
            return ApiError("api_busy", detail, retry_after=wait)
    return ApiError("api_rejected", detail, retryable=False)


def _refusal(status: int, media: str, body: bytes) -> str:
    """Possible causes of a 401 or 403."""
    differs = "INTERNAL_API_SECRET must be the same here and in the application"
    front = f"this response is not from the application, but from something in front of it: {LET_IN}"
    if is_own_response(status, body):
        return differs
    return front if "html" in media.lower() else f"{differs}; or {front}"


def redirect_error(what: str, status: int, why: str, *, changes: bool) -> ApiError:
    """A redirect that must not be followed, and why."""
    return ApiError(
        "api_redirected",
        f"{what}: the redirect (status {status}) {why}",
        retryable=False,
        outcome_unknown=changes and status == HTTPStatus.SEE_OTHER,
        down=True,
    )


def is_own_response(status: int, body: bytes) -> bool:
    """Whether the application itself responded, not something in front of it: with JSON, and for an error
    with the contract's ``{"error": "..."}``.
    """
    return _decodes(_decode_object if status < 300 else _decode_failed, body)


def shape_error(what: str, status: int, media: str, body: bytes, *, changes: bool) -> ApiError:
    """A 2xx response that violates the contract."""
    own = is_own_response(status, body)
    detail = f"{what}: status {status}, {len(body)} bytes of {media[:60]!r}, not the JSON of the contract"
    if not own:
        detail += f"; if it comes from something in front of the application, {LET_IN}"
    return ApiError("api_bad_answer", detail, outcome_unknown=changes, down=not own)


def other_message(what: str) -> ApiError:
    """A 2xx response about another chat's message."""
    return ApiError(
        "api_bad_answer",
        f"{what}: the response is about another chat's message; the application must scope Idempotency-Keys "
        "to a chat",
        retryable=False,
        outcome_unknown=True,
    )


def _decodes(decode: Callable[[bytes], object], body: bytes) -> bool:
    try:
        decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


def retry_after_seconds(value: str | None, most: float = MAX_RETRY_AFTER) -> float | None:
    """Retry-After, a number or a date, in seconds (RFC 9110 section 10.2.3), at most ``most``; None if it is
    missing or neither.
    """
    if value is None:
        return None
    try:
        seconds = (
            float(int(value)) if value.isdecimal() else parsedate_to_datetime(value).timestamp() - time.time()
        )
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), most)
