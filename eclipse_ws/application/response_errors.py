"""What went wrong in a call to the application, as an ApiError: pure, from libcurl's or HTTP's words.

Above all it decides ``outcome_unknown`` for a POST. False has to be certain, because it invites another POST:

=============================  ====================  ========  ===============================================
what happened                  code                  unknown?  why
=============================  ====================  ========  ===============================================
circuit open                   api_unavailable       no        nothing was sent
no free slot                   api_busy              no        nothing was sent
DNS, refused, TLS failed       api_unavailable       no        nothing was sent
timeout while connecting       api_timeout           no        nothing was sent
timeout later                  api_timeout           yes       it may be at work, or done
reset, closed without answer   api_connection_lost   yes       it may have been done before
3xx but 303, not followed      api_redirected        no        "ask elsewhere" is said in place of the work
303                            api_redirected        yes       "done, see there" (RFC 9110 section 15.4.4)
400, 422, other 4xx            api_rejected          no        the application checks before it saves
401, 403                       api_unauthorized      no        the secret differs, or something in front of
                                                               the application turned the call away
404                            chat_not_found, ...   no        there is nowhere to save it
408, 429                       api_busy              no        turned away before the work
409                            api_conflict          no        another request with this key is under way
503                            api_unavailable       no        a load balancer's or server's "not now"
500 with ``{"error": "..."}``  api_error             no        the application's own word that it failed
500 otherwise, 502, 504, 5xx   api_error             yes       a gateway's word: who knows what is behind it
200 ``{"success": false}``     api_rejected          no        the application's own word that it did not save
200 of another shape, no JSON  api_bad_answer        yes       200 says that it probably was saved
200 about another message      api_bad_answer        yes       the same, and nobody may see that message here
answer too large or not HTTP   api_bad_answer        yes       the same
=============================  ====================  ========  ===============================================

It also decides what tells of the API as a whole (`ApiError.down`): a connection that fails, a timeout, a
redirect, 502, 503, 504, and an answer that can't be the application's own. The application's own JSON is an
answer to one request, whatever its status: a visitor may have found content that always makes it fail.

A GET changes nothing, so its outcome is never unknown. Details name the status, the media type and the size
of an answer, and never quote it: the application's messages may repeat what was sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

import msgspec
import pycurl

from eclipse_ws.application.base import ApiError
from eclipse_ws.protocol import bounded

LET_IN: Final = (
    "let this server through deployment protection or the firewall, or set ECLIPSE_API_HEADERS to the header "
    "that does"
)
"""What to do where something in front of the application answers in its place."""
MAX_RETRY_AFTER: Final = 3600.0
"""Seconds; an answer that asks for more patience than this gets this."""

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
_GATEWAYS: Final = frozenset(
    {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}
)


class _Failed(msgspec.Struct):
    error: str


_decode_failed = bounded(msgspec.json.Decoder(_Failed).decode)
_decode_object = bounded(msgspec.json.Decoder(dict[str, msgspec.Raw]).decode)


def transport_error(what: str, errno: int, message: str, *, sent: bool, changes: bool) -> ApiError:
    """No answer: libcurl's error number and text; ``sent``: the request had begun to leave; ``changes``: no
    GET.
    """
    unknown = sent and changes
    detail = f"{what}: {message} (curl {errno})"
    if errno == pycurl.E_OPERATION_TIMEDOUT:
        return ApiError("api_timeout", detail, outcome_unknown=unknown, down=True)
    if not sent:
        return ApiError("api_unavailable", detail, down=True)
    if errno == pycurl.E_ABORTED_BY_CALLBACK:
        # ApiClient's own doing: it does not begin a request again.
        detail = f"{what}: a kept connection was lost"
    elif errno in _NOT_HTTP:
        return ApiError("api_bad_answer", detail, outcome_unknown=unknown, down=True)
    return ApiError("api_connection_lost", detail, outcome_unknown=unknown, down=True)


def status_error(
    what: str, status: int, media: str, retry_after: str | None, body: bytes, *, missing: str, changes: bool
) -> ApiError:
    """An answer whose status is 400 or more; ``missing`` is the code for 404."""
    detail = f"{what}: status {status}, {len(body)} bytes of {media[:60]!r}"
    wait = _seconds(retry_after)
    if status >= 500:
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            return ApiError("api_unavailable", detail, retry_after=wait, down=True)
        own_word = status not in _GATEWAYS and is_own_answer(status, body)
        return ApiError(
            "api_error",
            detail,
            # What it says of one request it will say again; see HttpApi for what it says to everybody.
            retryable=not own_word and status not in _PERMANENT_5XX,
            retry_after=wait,
            outcome_unknown=changes and not (own_word and status == HTTPStatus.INTERNAL_SERVER_ERROR),
            down=not own_word,
        )
    match status:
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            return ApiError("api_unauthorized", f"{detail}; {_refusal(status, media, body)}", retryable=False)
        case HTTPStatus.NOT_FOUND:
            if not is_own_answer(status, body):
                detail += "; this is not the chat API's answer: check NEXT_API_URL"
            return ApiError(missing, detail, retryable=False)
        case HTTPStatus.CONFLICT:
            return ApiError("api_conflict", detail, retry_after=wait)
        case HTTPStatus.REQUEST_TIMEOUT | HTTPStatus.TOO_EARLY | HTTPStatus.TOO_MANY_REQUESTS:
            return ApiError("api_busy", detail, retry_after=wait)
    return ApiError("api_rejected", detail, retryable=False)


def _refusal(status: int, media: str, body: bytes) -> str:
    """What may be behind a 401 or 403."""
    differs = "INTERNAL_API_SECRET has to be the same here and there"
    front = f"this is not the application's answer, but that of something in front of it: {LET_IN}"
    if is_own_answer(status, body):
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


def is_own_answer(status: int, body: bytes) -> bool:
    """Whether the application answers itself, and not something in front of it: JSON, and an error as the
    contract has it, ``{"error": "..."}``.
    """
    return _reads(_decode_object if status < 300 else _decode_failed, body)


def shape_error(what: str, status: int, media: str, body: bytes, *, changes: bool) -> ApiError:
    """A 2xx answer that is not what the contract says."""
    own = is_own_answer(status, body)
    detail = (
        f"{what}: status {status}, {len(body)} bytes of {media[:60]!r}, not the JSON that the contract says"
    )
    if not own:
        detail += f"; if it is a page of something in front of the application, {LET_IN}"
    return ApiError("api_bad_answer", detail, outcome_unknown=changes, down=not own)


def other_message(what: str) -> ApiError:
    """A 2xx answer that tells of another chat's message."""
    return ApiError(
        "api_bad_answer",
        f"{what}: the answer tells of another chat's message; the application must keep Idempotency-Keys "
        "for each chat apart",
        retryable=False,
        outcome_unknown=True,
    )


def _reads(decode: Callable[[bytes], object], body: bytes) -> bool:
    try:
        decode(body)
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
