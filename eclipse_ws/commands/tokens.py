"""Tokens for the command line, minted or requested, and the URLs to connect to."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any, Protocol
from urllib.parse import SplitResult, urlencode, urlsplit

from eclipse_ws.protocol import ROLES, decode_json

TIMEOUT = 10.0  # seconds to get a token from a server


def mint(
    secret: str,
    chat_id: str,
    user_id: str | None,
    authenticated: bool,
    seconds: int = 7200,
    *,
    more: Mapping[str, Any] | None = None,
) -> str:
    """A token like the application's (HS256), with ``more`` claims; without a user id, a new visitor's."""
    import jwt

    now = time.time()
    claims = {
        "userId": user_id or f"anon_{int(now * 1000)}_{secrets.token_hex(5)}",
        "chatId": chat_id,
        "isAuthenticated": authenticated,
        "roles": ROLES if authenticated else ROLES[:1],
        "iat": int(now),
        "exp": int(now) + seconds,
        **(more or {}),
    }
    return jwt.encode(claims, secret, algorithm="HS256")


def socket_url(server: str, token: str) -> str:
    """The URL to open: ws:// for this machine's own addresses, wss:// for every other."""
    return f"{'ws' if is_loopback(server) else 'wss'}://{server}/ws?{urlencode({'token': token})}"


def address(text: str, *schemes: str) -> SplitResult | None:
    """The parts of a typed URL; None unless it has one of the schemes and a valid host."""
    try:
        parts = urlsplit(text)
        possible = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets without an end, an invalid port
        return None
    return parts if possible and not re.search(r"[\s\x00-\x1f\x7f]", text) else None


def is_address(text: str) -> bool:
    """Whether the text is host or host:port, and nothing else."""
    parts = address(f"ws://{text}", "ws")
    return parts is not None and parts.netloc == text and "@" not in text


def is_loopback(server: str) -> bool:
    """True for this machine's own addresses (host or host:port)."""
    name = urlsplit(f"//{server}").hostname or ""
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


class Source(Protocol):
    """Supplies the URL of each connection attempt."""

    async def url(self) -> str:
        """A URL with a token; raises OSError if none is available now."""


class FixedUrl:
    """Always the same URL."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def url(self) -> str:
        """The URL."""
        return self._url


class MintedUrl:
    """A new token for every attempt, as the widget does; the visitor's id stays the same."""

    def __init__(
        self,
        secret: str,
        server: str,
        chat_id: str,
        user_id: str | None,
        authenticated: bool,
        *,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        self._secret, self._server, self._chat_id = secret, server, chat_id
        self._user_id, self._authenticated, self._more = user_id, authenticated, more

    async def url(self) -> str:
        """A URL with a token minted now."""
        token = mint(self._secret, self._chat_id, self._user_id, self._authenticated, more=self._more)
        return socket_url(self._server, token)


class RequestedUrl:
    """A token from the embedded API's route, for a server that generated its secrets."""

    def __init__(
        self,
        server: str,
        chat_id: str,
        user_id: str | None,
        agent: str | None,
        further: Sequence[str] = (),
    ) -> None:
        """``further``: ids of chats that the token opens, too; only an agent gets these."""
        arguments = {"chatId": chat_id, "userId": user_id, "agent": agent, "chatIds": ",".join(further)}
        scheme = "http" if is_loopback(server) else "https"
        query = urlencode({key: value for key, value in arguments.items() if value})
        self._server, self._address = server, f"{scheme}://{server}/api/ws/token?{query}"

    async def url(self) -> str:
        """A URL with a token from the server."""
        from tornado.httpclient import AsyncHTTPClient, HTTPError

        client = AsyncHTTPClient(force_instance=True)
        try:
            answer = await client.fetch(self._address, request_timeout=TIMEOUT, follow_redirects=False)
            return socket_url(self._server, str(decode_json(answer.body)["token"]))
        except HTTPError as error:
            if error.code == 599:
                raise OSError("no answer") from error
            raise OSError(
                f"the server issues no token (HTTP {error.code}); set JWT_SECRET, or use --url"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise OSError("no token in the server's response; set JWT_SECRET, or use --url") from error
        finally:
            client.close()
