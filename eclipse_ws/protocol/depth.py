"""Decoding untrusted JSON: bounded nesting, and repair of text that is not well-formed Unicode."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import accumulate
from typing import Any, Final, TypeVar

import msgspec

from eclipse_ws.protocol.unicode import well_formed

T = TypeVar("T")

MAX_DEPTH: Final = 128
"""Maximum nesting of arrays and objects. Our own events have three; the application's may have more."""

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
"""One up or one down, as signed bytes."""
_NO_BRACKETS = bytes(set(range(256)) - set(b"[{]}"))


class TooDeepError(msgspec.DecodeError):
    """JSON that is nested more than MAX_DEPTH deep; its text may be logged and returned to the sender."""


def check_depth(text: str | bytes) -> None:
    """Raise TooDeepError for JSON (bytes: in UTF-8) that is nested more than MAX_DEPTH deep.

    Whether it is valid JSON is left to the decoder.
    """
    if len(text) <= MAX_DEPTH:
        return
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    # Text with few brackets is not deep. `replace` finds them with memchr, several times as fast as `count`,
    # and stops when it has found enough.
    left = len(raw.replace(b"[", b"", MAX_DEPTH + 1)) + len(raw.replace(b"{", b"", MAX_DEPTH + 1))
    if 2 * len(raw) - left > MAX_DEPTH and depth(raw) > MAX_DEPTH:
        raise TooDeepError(f"nested more than {MAX_DEPTH} deep")


def depth(raw: bytes) -> int:
    """How deeply JSON in UTF-8 is nested: 0 for a string or a number, 1 for ``[]``."""
    steps = _STRING.sub(b"", raw).translate(_STEPS, _NO_BRACKETS)
    return max(accumulate(memoryview(steps).cast("b"), initial=0))


def bounded(decode: Callable[[str | bytes], T]) -> Callable[[str | bytes], T]:
    """The decoder, bounded: it raises TooDeepError, a DecodeError, for input that is nested too deeply.

    A lone surrogate, which the decoder rejects, is replaced with U+FFFD.
    """

    def checked(text: str | bytes) -> T:
        check_depth(text)
        try:
            return decode(text)
        except msgspec.DecodeError:
            raw = text.encode() if isinstance(text, str) else text
            repaired = well_formed(raw)
            if repaired == raw:
                raise
        return decode(repaired)

    return checked


_decode_any = bounded(msgspec.json.Decoder().decode)


def decode_json(text: str | bytes) -> Any:
    """Decode what another server sent. Raises ValueError if it is not JSON or nested too deeply."""
    try:
        return _decode_any(text)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None
