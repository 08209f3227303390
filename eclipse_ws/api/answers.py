"""What went wrong in a call to the application, as an ApiError: pure, from libcurl's or HTTP's words.

Above all it decides ``outcome_unknown`` for a POST. False has to be certain, because it invites another POST:

=============================  ====================  ========  ===============================================
what happened                  code                  unknown?  why
=============================  ====================  ========  ===============================================
circuit open, no free slot     api_unavailable       no        nothing was sent
DNS, refused, TLS failed       api_unavailable       no        nothing was sent
timeout while connecting       api_timeout           no        nothing was sent
timeout later                  api_timeout           yes       it may be at work, or done
reset, closed without answer   api_connection_lost   yes       it may have been done before
3xx but 303                    api_redirected        no        "ask elsewhere" is said in place of the work
303                            api_redirected        yes       "done, see there" (RFC 9110 section 15.4.4)
400, 422, other 4xx            api_rejected          no        the application checks before it saves
401, 403                       api_unauthorized      no        the secret differs; nothing was looked at
404                            chat_not_found, ...   no        there is nowhere to save it
408, 429                       api_busy              no        turned away before the work
409                            api_conflict          no        another request with this key is under way
503                            api_unavailable       no        a load balancer's or server's "not now"
500 with ``{"error": "..."}``  api_error             no        the application's own word that it failed
500 otherwise, 502, 504, 5xx   api_error             yes       a gateway's word: who knows what is behind it
200 ``{"success": false}``     api_rejected          no        the application's own word that it did not save
200 of another shape, no JSON  api_bad_answer        yes       200 says that it probably was saved
answer too large or not HTTP   api_bad_answer        yes       the same
=============================  ====================  ========  ===============================================

A GET changes nothing, so its outcome is never unknown. Details name the status, the media type and the size
of an answer, and never quote it: the application's messages may repeat what was sent.
"""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

import msgspec
import pycurl

from eclipse_ws.api.base import ApiError
from eclipse_ws.protocol import bounded

MAX_RETRY_AFTER: Final = 3600.0
"""Seconds; an answer that asks for more patience than this gets this."""

BREAKING: Final = frozenset(
    {
        "api_unavailable",
        "api_timeout",
        "api_connection_lost",
        "api_bad_answer",
        "api_redirected",
        "api_error",
    }
)
"""Codes that say that the API is broken, rather than that it refuses one request: they count for the
breaker.
"""

_NOT_HTTP: Final = frozenset(
    {
        pycurl.E_UNSUPPORTED_PROTOCOL,  # no HTTP status line: taken for HTTP/0.9, which is not allowed
        pycurl.E_FTP_WEIRD_SERVER_REPLY,  # the same number as CURLE_WEIRD_SERVER_REPLY
        pycurl.E_WRITE_ERROR,  # larger than api_max_answer
        pycurl.E_BAD_CONTENT_ENCODING,
        100,  # CURLE_TOO_LARGE, which pycurl has no name for
    }
)
_PERMANENT_5XX: Final = frozenset({HTTPStatus.NOT_IMPLEMENTED, HTTPStatus.HTTP_VERSION_NOT_SUPPORTED})


class _Failed(msgspec.Struct):
    error: str


_decode_failed = bounded(msgspec.json.Decoder(_Failed).decode)


def transport_error(what: str, errno: int, message: str, *, sent: bool, changes: bool) -> ApiError:
    """No answer: libcurl's error number and text; ``sent``: the request had begun to leave; ``changes``: no
    GET.
    """
    unknown = sent and changes
    detail = f"{what}: {message} (curl {errno})"
    if errno == pycurl.E_OPERATION_TIMEDOUT:
        return ApiError("api_timeout", detail, outcome_unknown=unknown)
    if not sent:
        return ApiError("api_unavailable", detail)
    if errno == pycurl.E_ABORTED_BY_CALLBACK:
        # ApiClient's own doing: it does not begin a request again.
        return ApiError("api_connection_lost", f"{what}: a kept connection was lost", outcome_unknown=unknown)
    if errno in _NOT_HTTP:
        return ApiError("api_bad_answer", detail, outcome_unknown=unknown)
    return ApiError("api_connection_lost", detail, outcome_unknown=unknown)


def status_error(
    what: str, status: int, media: str, retry_after: str | None, body: bytes, *, missing: str, changes: bool
) -> ApiError:
    """An answer whose status is not 2xx; ``missing`` is the code for 404."""
    detail = f"{what}: status {status}, {len(body)} bytes of {media[:60]!r}"
    wait = _seconds(retry_after)
    if status < 400:
        return ApiError(
            "api_redirected",
            f"{detail}; redirects are not followed, the secret would be sent on: let NEXT_API_URL "
            "name the final address",
            retryable=False,
            outcome_unknown=changes and status == HTTPStatus.SEE_OTHER,
        )
    if status >= 500:
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            return ApiError("api_unavailable", detail, retry_after=wait)
        own_word = status == HTTPStatus.INTERNAL_SERVER_ERROR and _says_failed(body)
        return ApiError(
            "api_error",
            detail,
            retryable=status not in _PERMANENT_5XX,
            retry_after=wait,
            outcome_unknown=changes and not own_word,
        )
    match status:
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            hint = f"{detail}; INTERNAL_API_SECRET has to be the same here and there"
            return ApiError("api_unauthorized", hint, retryable=False)
        case HTTPStatus.NOT_FOUND:
            return ApiError(missing, detail, retryable=False)
        case HTTPStatus.CONFLICT:
            return ApiError("api_conflict", detail, retry_after=wait)
        case HTTPStatus.REQUEST_TIMEOUT | HTTPStatus.TOO_EARLY | HTTPStatus.TOO_MANY_REQUESTS:
            return ApiError("api_busy", detail, retry_after=wait)
    return ApiError("api_rejected", detail, retryable=False)


def shape_error(what: str, status: int, media: str, body: bytes, *, changes: bool) -> ApiError:
    """A 2xx answer that is not what the contract says."""
    return ApiError(
        "api_bad_answer",
        f"{what}: status {status}, {len(body)} bytes of {media[:60]!r}, not the JSON that the contract says",
        outcome_unknown=changes,
    )


def _says_failed(body: bytes) -> bool:
    try:
        _decode_failed(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


def _seconds(value: str | None) -> float | None:
    """Retry-After in seconds, given as such or as a date (RFC 9110 section 10.2.3)."""
    if value is None:
        return None
    try:
        seconds = (
            float(int(value)) if value.isdecimal() else parsedate_to_datetime(value).timestamp() - time.time()
        )
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)
