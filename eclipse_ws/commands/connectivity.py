"""Explains why Redis or the application could not be reached, by the error of the server's own client."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import SplitResult, urlsplit

from eclipse_ws.commands.report import Finding
from eclipse_ws.config.settings import Settings

REDIS_FIX = "check host, port and scheme of REDIS_URL, and that this machine can reach it"
TRUST_FIX = "use the name in the certificate, or set {} to a PEM file with its authority"
CLIENT_FIX = "if it requires client certificates, add ?ssl_certfile=...&ssl_keyfile=... to REDIS_URL"
SKEW = 2.0
"""Difference of clocks, in seconds, from which on it is a warning."""


async def redis(url: str, error: BaseException, timeout: float) -> Finding:
    """Why a connection to Redis failed, by its error."""
    name, parts = "REDIS_URL", urlsplit(url)
    if not parts.hostname:
        text = f"the socket {parts.path} is not a Redis server ({error})"
        return Finding(
            name, "problem", text, "check that Redis runs on this machine, and listens on that socket"
        )
    address = f"{parts.hostname}:{parts.port or 6379}"
    for cause in _causes(error):
        detail = str(getattr(cause, "strerror", None) or cause or type(cause).__name__)
        match cause:
            case socket.gaierror() | UnicodeError():
                text, fix = f"{parts.hostname} can't be resolved ({detail})", "check the host's name, and DNS"
            case ssl.SSLCertVerificationError():
                text = f"{address} has an untrusted certificate: {cause.verify_message}"
                fix = TRUST_FIX.format("ECLIPSE_REDIS_CA")
            case ssl.SSLError(reason=str(detail)) if "ALERT" in detail:
                text, fix = f"{address} refuses the TLS connection ({detail})", CLIENT_FIX
            case ConnectionResetError() if parts.scheme == "rediss":
                text, fix = f"{address} closes the TLS connection ({detail})", CLIENT_FIX
            case ConnectionResetError():
                continue
            case ssl.SSLError():
                text = f"{address} does not speak TLS ({cause.reason or detail})"
                fix = "use the scheme without TLS, or the port that has it"
            case TimeoutError() if parts.scheme == "rediss" and await _accepts(parts, timeout):
                # A server without TLS may just wait for more.
                text = f"{address} accepts, but does not speak TLS within {timeout:g} s"
                fix = "use the scheme without TLS, or the port that has it"
            case TimeoutError():
                text = f"{address} does not answer within {timeout:g} s"
                fix = "check the port, firewalls, and private networks"
            case OSError():
                text, fix = f"{address} can't be reached ({detail})", "check that it runs there"
            case _:
                continue
        return Finding(name, "problem", text, fix)
    fix = REDIS_FIX
    if parts.scheme == "redis":
        fix += "; with TLS the URL begins with rediss://"
    return Finding(name, "problem", f"{address} accepts, but is not a Redis server ({error})", fix)


def application(name: str, url: str, value: Settings, error: BaseException | None, took: float) -> Finding:
    """Why a call to the application at ``url``, which ``name`` sets, got no response in ``took`` seconds, by
    its error.
    """
    from eclipse_ws.application.http import CONNECT_TIMEOUT
    from eclipse_ws.application.response import TransportError

    parts = urlsplit(url)
    address = parts.netloc if parts.port else f"{parts.netloc}:{443 if parts.scheme == 'https' else 80}"
    cause = next((each for each in _causes(error) if isinstance(each, TransportError)), None)
    detail, reason = str(cause or error), cause.reason if cause else None
    if reason == "unresolved":
        text, fix = f"{parts.hostname} can't be resolved ({detail})", "check the host's name, and DNS"
    elif reason == "refused":
        text, fix = f"{address} can't be reached ({detail})", "check that it runs there"
    elif reason == "timeout" and took > 0.9 * value.api_timeout:
        text = f"did not answer within {value.api_timeout:g} s"
        fix = "run the check again, in case the application was asleep; otherwise see its log"
    elif reason == "timeout":
        text = f"{address} does not answer within {min(CONNECT_TIMEOUT, value.api_timeout):g} s"
        fix = "check the port, firewalls, and private networks"
    elif reason == "untrusted":
        text = f"{address} has an untrusted certificate: {detail}"
        fix = TRUST_FIX.format("ECLIPSE_API_CA")
    elif reason == "no_tls":
        text = f"{address} does not speak TLS ({detail})"
        fix = "use the scheme without TLS, or the port that has it"
    else:
        text, fix = f"closed the connection ({detail})", "see the application's log"
    return Finding(name, "problem", text, fix)


async def _accepts(parts: SplitResult, timeout: float) -> bool:
    """Whether the port of a URL accepts connections."""
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port or 6379)
    except OSError:
        return False
    writer.transport.abort()
    return True


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and its causes, the first cause first."""
    if error is not None:
        yield from _causes(error.__cause__ or error.__context__)
        yield error
