"""What to do about what a smoke test has met: by the server's own word, or else by the look."""

from __future__ import annotations

import ssl
from typing import Final

from eclipse_ws.protocol import CloseCode

Word = int | str
"""What was answered: an error's code, a close code, or an HTTP status."""

CERTIFICATE: Final = "certificate"
"""The word for a certificate that can't be trusted, which the other side never sees."""

_LOG: Final = "look at the server's log"
_WAIT: Final = "wait a minute and try again: the server's limits stopped this test"
_FORGED: Final = (
    "set JWT_SECRET here to the server's own, ECLIPSE_JWT_ISSUER and ECLIPSE_JWT_AUDIENCE where it has them; "
    "hold both clocks against each other"
)

_BY_WORD: Final[dict[Word, str]] = {
    # errors of a message
    "api_busy": "try again later: the application, or the way to it, is busy",
    "api_conflict": "try again: the application has the same message under way",
    "api_connection_lost": "look at the application's log: it broke the connection off",
    "api_bad_answer": "check NEXT_API_URL of the server: what answers there does not answer as the chat API",
    "api_error": "look at the application's log: it accepted the secret, and then failed on its own",
    "api_redirected": "set NEXT_API_URL of the server to the address where the redirect ends",
    "api_rejected": "look at the application's log: it does not take this message",
    "api_timeout": "look why the application is slow; ECLIPSE_API_TIMEOUT is how long the server waits",
    "api_unauthorized": "set the same INTERNAL_API_SECRET at the server and at the application",
    "api_unavailable": "check NEXT_API_URL of the server, and that the application runs (`eclipse-ws check`)",
    "chat_not_found": "name a chat that the application has, with --chat",
    "content_too_long": "raise ECLIPSE_MAX_CONTENT of the server: the test's message has 16 characters",
    "forbidden": "let visitors write in the role USER: the server refuses them",
    "internal_error": _LOG,
    "outcome_unknown": "see whether the chat has the message: the application's answer to it was lost",
    "rate_limited": _WAIT,
    # closes
    CloseCode.TOO_BIG.code: "raise ECLIPSE_MAX_FRAME of the server",
    CloseCode.RESTARTING.code: "try again when the server has restarted",
    CloseCode.INTERNAL_ERROR.code: _LOG,
    CloseCode.MISSING_TOKEN.code: "look for a proxy that takes the query, with the token, out of the address",
    CloseCode.INVALID_TOKEN.code: _FORGED,
    CloseCode.KICKED.code: "name another chat: the application has disconnected this test's user there",
    CloseCode.TOO_SLOW.code: "look at the network between here and there: it is too slow",
    CloseCode.RATE_LIMITED.code: _WAIT,
    CloseCode.RESUME_NEEDED.code: "try again: the server has lost its Redis for a moment",
    # statuses
    401: "set INTERNAL_API_SECRET here to the server's own",
    403: "let the server answer under this name and to this origin (ECLIPSE_ALLOWED_HOSTS, ALLOWED_ORIGINS)",
    404: "give the address at which the application calls it: ECLIPSE_ADMIN_PORT may have moved these routes",
    429: _WAIT,
    502: "check that the server runs behind its proxy",
    503: "look at the server's /health: it is full, is stopping, or has no INTERNAL_API_SECRET",
    504: "check that the server runs behind its proxy",
    CERTIFICATE: "use the name that the certificate is for, or set SSL_CERT_FILE to its authority's PEM file",
}
_BY_LOOK: Final = {
    "health": "check the address, and that a server runs there (on Fly, `fly status` and `fly logs`)",
    "origin": "add it to the server's ALLOWED_ORIGINS, which SIGHUP or a restart reads",
    "tokens": "is this the server, or a page in front of it?",
    "two sessions": "check that the server is this one, and its log",
    "message and ack": "check NEXT_API_URL and INTERNAL_API_SECRET of the server (`eclipse-ws check`)",
    "event over HTTP": "check that both machines have the same REDIS_URL, and the server's log",
    "resume after a cut": "check that both machines have the same REDIS_URL",
    "drain": "with a single machine a restart begins anew; run two",
}


def advice(look: str, word: Word | None = None) -> str:
    """What to do where a look has failed; ``word`` is what the server answered, if it did."""
    return (_BY_WORD.get(word) if word is not None else None) or _BY_LOOK.get(look, _LOG)


def word_of(error: BaseException | None) -> Word | None:
    """What an error of a request says: the status of its answer, or that no certificate could be trusted."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return CERTIFICATE
    code = getattr(error, "code", None)
    return code if isinstance(code, int) and code != 599 else None
