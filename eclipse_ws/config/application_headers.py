"""Headers that the setting ``api_headers`` adds to each call to the application."""

from __future__ import annotations

import json
import re
from typing import Final

MAX_TEXT: Final = 4096
"""Maximum characters of the setting."""
_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_RESERVED: Final = frozenset(
    {
        # set by each call
        "accept",
        "content-type",
        "cookie",
        "idempotency-key",
        "user-agent",
        "x-internal-secret",
        "x-signature",
        # framing and connection
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


class HeadersError(ValueError):
    """The setting is invalid; the text continues "ECLIPSE_API_HEADERS ...", and contains no value."""


def parse(text: str) -> dict[str, str]:
    """The headers by name: in lines of ``Name: value``, or a JSON object of texts. Raises HeadersError."""
    if len(text) > MAX_TEXT:
        raise HeadersError(f"has {len(text)} characters, expected at most {MAX_TEXT}")
    pairs = _from_json(text) if text.lstrip().startswith("{") else _from_lines(text)
    headers: dict[str, str] = {}
    seen: set[str] = set()
    for name, value in pairs:
        if not _NAME.fullmatch(name):
            raise HeadersError("contains an invalid header name")
        if name.lower() in _RESERVED:
            raise HeadersError(f"contains {name}, which this server sets itself")
        if name.lower() in seen:
            raise HeadersError(f"contains {name} twice")
        if not (value and value.isascii() and value.isprintable()):
            raise HeadersError(f"contains a value of {name} that is not one line of printable ASCII")
        seen.add(name.lower())
        headers[name] = value
    return headers


def _from_json(text: str) -> list[tuple[str, str]]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise HeadersError("begins with { but is not a JSON object") from None
    if not all(isinstance(value, str) for value in found.values()):
        raise HeadersError("contains a value that is not a string")
    return [(name, value.strip()) for name, value in found.items()]


def _from_lines(text: str) -> list[tuple[str, str]]:
    pairs = []
    for line in filter(None, map(str.strip, text.splitlines())):
        name, colon, value = line.partition(":")
        if not colon:
            raise HeadersError("has a line without a colon")
        pairs.append((name, value.strip()))
    return pairs
