"""JSON that escapes a lone surrogate: JavaScript writes it, and our decoders reject it."""

from __future__ import annotations

import re
from typing import Final

_HIGH: Final = rb"\\u[dD][89abAB][0-9a-fA-F]{2}"
_LOW: Final = rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_ESCAPE: Final = re.compile(rb"(?:%b%b|\\[^u])|%b|%b" % (_HIGH, _LOW, _HIGH, _LOW))
_HALF: Final = (b"\\ud", b"\\uD")


def _whole(found: re.Match[bytes]) -> bytes:
    escape = found[0]
    return rb"\ufffd" if len(escape) == 6 else escape


def well_formed(text: bytes) -> bytes:
    """The JSON text with U+FFFD in place of each lone surrogate.

    Text without one is returned as it is, whether it is JSON or not.
    """
    if _HALF[0] not in text and _HALF[1] not in text:
        return text
    return _ESCAPE.sub(_whole, text)
