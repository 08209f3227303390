"""Tokens for the command line: minted here or asked for, the URL that a client opens with one, addresses."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Protocol
from urllib.parse import SplitResult, urlencode, urlsplit

from eclipse_ws.protocol import ROLES, decode_json

TIMEOUT = 10.0  # s to get a token from a server


def mint(
    secret: str,
    chat_id: str,
    user_id: str | None,
    authenticated: bool,
    seconds: int = 7200,
    *,
    more: Mapping[str, str] | None = None,
) -> str:
    """A token as the application makes it (HS256), with ``more`` claims; a visitor without an id gets a fresh
    one.
    """
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


def socket_url(place: str, token: str) -> str:
    """The URL to open: ws:// for this machine's own addresses, wss:// for every other."""
    return f"{'ws' if is_loopback(place) else 'wss'}://{place}/ws?{urlencode({'token': token})}"


def address(text: str, *schemes: str) -> SplitResult | None:
    """The parts of a URL that somebody typed; None unless it has one of the schemes and a possible host."""
    try:
        parts = urlsplit(text)
        possible = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets without an end, a port that is no number or too large
        return None
    return parts if possible and not re.search(r"[\s\x00-\x1f\x7f]", text) else None


def is_place(text: str) -> bool:
    """True for what can be host or host:port, with nothing before and behind it."""
    parts = address(f"ws://{text}", "ws")
    return parts is not None and parts.netloc == text and "@" not in text


def is_loopback(place: str) -> bool:
    """True for this machine's own addresses (host or host:port)."""
    name = urlsplit(f"//{place}").hostname or ""
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


class Source(Protocol):
    """Where the URL of the next attempt comes from."""

    async def url(self) -> str:
        """A URL with a token; raises OSError when none can be had now."""


class FixedUrl:
    """Always the URL that was given."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def url(self) -> str:
        """The URL."""
        return self._url


class Mint:
    """A fresh token of our own for every attempt, as the widget does; the visitor's id stays the same."""

    def __init__(
        self,
        secret: str,
        place: str,
        chat_id: str,
        user_id: str | None,
        authenticated: bool,
        *,
        more: Mapping[str, str] | None = None,
    ) -> None:
        self._secret, self._place, self._chat_id = secret, place, chat_id
        self._user_id, self._authenticated, self._more = user_id, authenticated, more

    async def url(self) -> str:
        """A URL with a token minted now."""
        token = mint(self._secret, self._chat_id, self._user_id, self._authenticated, more=self._more)
        return socket_url(self._place, token)


class Ask:
    """The server's own token route, which the embedded API has: for secrets made up at its start."""

    def __init__(self, place: str, chat_id: str, user_id: str | None, agent: str | None) -> None:
        asked = {"chatId": chat_id, "userId": user_id, "agent": agent}
        scheme = "http" if is_loopback(place) else "https"
        query = urlencode({key: value for key, value in asked.items() if value})
        self._place, self._address = place, f"{scheme}://{place}/api/ws/token?{query}"

    async def url(self) -> str:
        """A URL with the token that the server gave."""
        from tornado.httpclient import AsyncHTTPClient, HTTPError

        client = AsyncHTTPClient(force_instance=True)
        try:
            answer = await client.fetch(self._address, request_timeout=TIMEOUT, follow_redirects=False)
            return socket_url(self._place, str(decode_json(answer.body)["token"]))
        except HTTPError as error:
            if error.code == 599:
                raise OSError("no answer") from error
            raise OSError(f"no token from it (HTTP {error.code}); set JWT_SECRET, or give --url") from error
        except (ValueError, KeyError, TypeError) as error:
            raise OSError("no token in its answer; set JWT_SECRET, or give --url") from error
        finally:
            client.close()
