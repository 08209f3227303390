"""Fixes for failures of a smoke test: by the server's error or close code, or else by the step."""

from __future__ import annotations

import ssl
from typing import Final

from eclipse_ws.protocol import CloseCode

Code = int | str
"""An error's code, a close code, or an HTTP status."""

CERTIFICATE: Final = "certificate"
"""Stands for an untrusted certificate, which has no code."""

_LOG: Final = "see the server's log"
_WAIT: Final = "wait a minute and try again: the server's limits stopped this test"
_FORGED: Final = (
    "set JWT_SECRET here to the server's own, ECLIPSE_JWT_ISSUER and ECLIPSE_JWT_AUDIENCE if it has them; "
    "compare both clocks"
)

_BY_CODE: Final[dict[Code, str]] = {
    # errors of a message
    "api_busy": "try again later: the application, or the way to it, is busy",
    "api_conflict": "try again: the application is still saving the same message",
    "api_connection_lost": "see the application's log: it closed the connection",
    "api_bad_answer": "check NEXT_API_URL of the server: the response there is not the application's",
    "api_error": "see the application's log: it accepted the secret, and then failed",
    "api_redirected": "set NEXT_API_URL of the server to the address where the redirect ends",
    "api_rejected": "see the application's log: it rejects this message",
    "api_timeout": "find out why the application is slow; the server waits for ECLIPSE_API_TIMEOUT",
    "api_unauthorized": "set the same INTERNAL_API_SECRET at the server and at the application",
    "api_unavailable": "check NEXT_API_URL of the server, and that the application runs (`eclipse-ws check`)",
    "chat_not_found": "name a chat that the application has, with --chat",
    "content_too_long": "raise ECLIPSE_MAX_CONTENT of the server: the test's message has 16 characters",
    "forbidden": "allow visitors the role USER: the server refuses them",
    "internal_error": _LOG,
    "outcome_unknown": "check whether the chat has the message: the application's response was lost",
    "rate_limited": _WAIT,
    # closes
    CloseCode.TOO_BIG.code: "raise ECLIPSE_MAX_CONTENT of the server",
    CloseCode.RESTARTING.code: "try again when the server has restarted",
    CloseCode.INTERNAL_ERROR.code: _LOG,
    CloseCode.MISSING_TOKEN.code: "find the proxy that removes the query, with the token, from the URL",
    CloseCode.INVALID_TOKEN.code: _FORGED,
    CloseCode.KICKED.code: "name another chat: the application has disconnected this test's user there",
    CloseCode.TOO_SLOW.code: "check the network to the server: it is too slow",
    CloseCode.RATE_LIMITED.code: _WAIT,
    CloseCode.RESUME_NEEDED.code: "try again: the server lost its Redis connection for a moment",
    # statuses
    401: "set INTERNAL_API_SECRET here to the server's own",
    403: "allow this host name and origin at the server (ECLIPSE_ALLOWED_HOSTS, ALLOWED_ORIGINS)",
    404: "use the address that the application uses: ECLIPSE_ADMIN_PORT may have moved these routes",
    429: _WAIT,
    502: "check that the server runs behind its proxy",
    503: "see the server's /health: it is full, stopping, or has no INTERNAL_API_SECRET",
    504: "check that the server runs behind its proxy",
    CERTIFICATE: "use the name in the certificate, or set SSL_CERT_FILE to its authority's PEM file",
}
_BY_STEP: Final = {
    "health": "check the address, and that a server runs there (on Fly, `fly status` and `fly logs`)",
    "origin": "add it to the server's ALLOWED_ORIGINS, and send SIGHUP or restart",
    "tokens": "check that this is the server, not a page in front of it",
    "two sessions": "check that the URL is this server's, and see its log",
    "message and ack": "check NEXT_API_URL and INTERNAL_API_SECRET of the server (`eclipse-ws check`)",
    "event over HTTP": "check that both machines have the same REDIS_URL, and the server's log",
    "resume after a cut": "check that both machines have the same REDIS_URL",
    "drain": "a restart of a single machine loses its sessions; run two machines",
}


def advice(step: str, code: Code | None = None) -> str:
    """The fix for a failed step; ``code`` is the server's error, if it sent one."""
    return (_BY_CODE.get(code) if code is not None else None) or _BY_STEP.get(step, _LOG)


def code_of(error: BaseException | None) -> Code | None:
    """The code of a request's error: its HTTP status, or CERTIFICATE."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return CERTIFICATE
    code = getattr(error, "code", None)
    return code if isinstance(code, int) and code != 599 else None
