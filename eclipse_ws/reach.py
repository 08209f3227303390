"""Whether a host can be reached: its name, its port, its certificate; a finding says which of them fails."""

from __future__ import annotations

import asyncio
import socket
import ssl

from eclipse_ws.report import Finding


async def reach(name: str, host: str, port: int, tls: bool, timeout: float) -> Finding | None:
    """DNS, TCP and TLS; None if all of them are well."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout):
            await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError) as error:
        return Finding(
            name, "fault", f"{host} can't be resolved ({_say(error)})", "check the host's name, and DNS"
        )
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        text = f"{host}:{port} does not answer within {timeout:g} s"
        return Finding(name, "fault", text, "check the port, firewalls, and private networks")
    except OSError as error:
        text = f"{host}:{port} can't be reached ({_say(error)})"
        return Finding(name, "fault", text, "check that it runs there")
    try:
        if tls:
            async with asyncio.timeout(timeout):
                await writer.start_tls(ssl.create_default_context(), server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        text = f"{host}:{port} shows a certificate that can't be trusted: {error.verify_message}"
        mend = "use the name that the certificate is for, or install its authority"
        return Finding(name, "fault", text, mend)
    except (OSError, TimeoutError) as error:  # who doesn't speak TLS may just wait for more
        text = f"{host}:{port} does not speak TLS ({_say(error)})"
        return Finding(name, "fault", text, "use the scheme without TLS, or the port that has it")
    finally:
        # Not waited for: after a handshake that failed the wait would never end.
        writer.transport.abort()
    return None


def _say(error: BaseException) -> str:
    said = getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error)
    return str(said or type(error).__name__)
