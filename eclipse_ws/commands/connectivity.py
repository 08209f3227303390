"""Why a neighbour could not be reached: the way was the server's own, its error tells which step failed."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import SplitResult, urlsplit

from eclipse_ws.commands.report import Finding
from eclipse_ws.config.settings import Settings

REDIS_FIX = "check host, port and scheme of REDIS_URL, and that this machine may reach it"
TRUST_FIX = "use the name that the certificate is for, or set {} to a PEM file with its authority"
CLIENT_FIX = "if it asks clients for a certificate, add ?ssl_certfile=...&ssl_keyfile=... to REDIS_URL"


async def redis(url: str, error: BaseException, timeout: float) -> Finding:
    """Why a link to Redis did not come about, by the error of the attempt."""
    name, parts = "REDIS_URL", urlsplit(url)
    if not parts.hostname:
        text = f"the socket {parts.path} does not answer as Redis ({error})"
        return Finding(name, "problem", text, "check that Redis runs here, and listens there")
    place = f"{parts.hostname}:{parts.port or 6379}"
    for cause in _causes(error):
        said = str(getattr(cause, "strerror", None) or cause or type(cause).__name__)
        match cause:
            case socket.gaierror() | UnicodeError():
                text, fix = f"{parts.hostname} can't be resolved ({said})", "check the host's name, and DNS"
            case ssl.SSLCertVerificationError():
                text = f"{place} shows a certificate that can't be trusted: {cause.verify_message}"
                fix = TRUST_FIX.format("ECLIPSE_REDIS_CA")
            case ssl.SSLError(reason=str(said)) if "ALERT" in said:
                text, fix = f"{place} refuses the TLS connection ({said})", CLIENT_FIX
            case ConnectionResetError() if parts.scheme == "rediss":
                text, fix = f"{place} breaks the TLS connection off ({said})", CLIENT_FIX
            case ConnectionResetError():
                continue
            case ssl.SSLError():
                text = f"{place} does not speak TLS ({cause.reason or said})"
                fix = "use the scheme without TLS, or the port that has it"
            case TimeoutError() if parts.scheme == "rediss" and await _accepts(parts, timeout):
                # Who doesn't speak TLS may just wait for more.
                text = f"{place} accepts, but does not speak TLS within {timeout:g} s"
                fix = "use the scheme without TLS, or the port that has it"
            case TimeoutError():
                text = f"{place} does not answer within {timeout:g} s"
                fix = "check the port, firewalls, and private networks"
            case OSError():
                text, fix = f"{place} can't be reached ({said})", "check that it runs there"
            case _:
                continue
        return Finding(name, "problem", text, fix)
    fix = REDIS_FIX
    if parts.scheme == "redis":
        fix += "; where only TLS is spoken the URL begins with rediss://"
    return Finding(name, "problem", f"{place} accepts, but does not answer as Redis ({error})", fix)


def application(value: Settings, error: BaseException | None, took: float) -> Finding:
    """Why a call to the application had no answer after ``took`` seconds, by its error."""
    import pycurl

    name, parts = "NEXT_API_URL", urlsplit(value.next_api_url)
    place = parts.netloc if parts.port else f"{parts.netloc}:{443 if parts.scheme == 'https' else 80}"
    cause = next((each for each in _causes(error) if hasattr(each, "errno")), None)
    said, number = getattr(cause, "message", None) or str(error), getattr(cause, "errno", None)
    if number == pycurl.E_COULDNT_RESOLVE_HOST:
        text, fix = f"{parts.hostname} can't be resolved ({said})", "check the host's name, and DNS"
    elif number == pycurl.E_COULDNT_CONNECT:
        text, fix = f"{place} can't be reached ({said})", "check that it runs there"
    elif number == pycurl.E_OPERATION_TIMEDOUT and took > 0.9 * value.api_timeout:
        text = f"did not answer within {value.api_timeout:g} s"
        fix = "ask again: if it was asleep it is awake now; else look at its log"
    elif number == pycurl.E_OPERATION_TIMEDOUT:
        text = f"{place} does not answer within {value.api_connect_timeout:g} s"
        fix = "check the port, firewalls, and private networks"
    elif number in (pycurl.E_PEER_FAILED_VERIFICATION, pycurl.E_SSL_CACERT, pycurl.E_SSL_CACERT_BADFILE):
        text = f"{place} shows a certificate that can't be trusted: {said}"
        fix = TRUST_FIX.format("ECLIPSE_API_CA")
    elif number == pycurl.E_SSL_CONNECT_ERROR:
        text = f"{place} does not speak TLS ({said})"
        fix = "use the scheme without TLS, or the port that has it"
    else:
        text, fix = f"broke the connection off ({said})", "look at the application's log"
    return Finding(name, "problem", text, fix)


async def _accepts(parts: SplitResult, timeout: float) -> bool:
    """Whether the port of a URL can be connected to at all."""
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port or 6379)
    except OSError:
        return False
    writer.transport.abort()
    return True


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what has led to it, the first cause first."""
    if error is not None:
        yield from _causes(error.__cause__ or error.__context__)
        yield error
