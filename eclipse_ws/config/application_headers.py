"""Headers that the setting ``api_headers`` adds to each call to the application."""

from __future__ import annotations

import json
import re
from typing import Final

MAX_TEXT: Final = 4096
"""Characters of the whole setting."""
_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_OURS: Final = frozenset(
    {
        # what a call says itself
        "accept",
        "content-type",
        "cookie",
        "idempotency-key",
        "user-agent",
        "x-internal-secret",
        # what says where a request begins and ends, and on which connection
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
    """The setting can't be used; the text says why, as in "ECLIPSE_API_HEADERS ...", and holds no value."""


def parse(text: str) -> dict[str, str]:
    """The headers by name: in lines of ``Name: value``, or a JSON object of texts. Raises HeadersError."""
    if len(text) > MAX_TEXT:
        raise HeadersError(f"has {len(text)} characters, at most {MAX_TEXT} are expected")
    pairs = _from_json(text) if text.lstrip().startswith("{") else _from_lines(text)
    headers: dict[str, str] = {}
    taken: set[str] = set()
    for name, value in pairs:
        if not _NAME.fullmatch(name):
            raise HeadersError("holds a name that no header can have")
        if name.lower() in _OURS:
            raise HeadersError(f"holds {name}, which this server sets itself")
        if name.lower() in taken:
            raise HeadersError(f"holds {name} twice")
        if not (value and value.isascii() and value.isprintable()):
            raise HeadersError(f"holds a value of {name} that is not printable ASCII in one line")
        taken.add(name.lower())
        headers[name] = value
    return headers


def _from_json(text: str) -> list[tuple[str, str]]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise HeadersError("begins with { and is no JSON object") from None
    if not all(isinstance(value, str) for value in found.values()):
        raise HeadersError("holds a value that is no text")
    return [(name, value.strip()) for name, value in found.items()]


def _from_lines(text: str) -> list[tuple[str, str]]:
    pairs = []
    for line in filter(None, map(str.strip, text.splitlines())):
        name, colon, value = line.partition(":")
        if not colon:
            raise HeadersError("has a line without a colon")
        pairs.append((name, value.strip()))
    return pairs
