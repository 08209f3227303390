"""permessage-deflate (RFC 7692) without context takeover, so a session needs no memory for it. No I/O."""

import functools
import zlib
from typing import Any, Final, NamedTuple, Self

from eclipse_ws.websocket import frames

EXTENSION: Final = "permessage-deflate"
SMALLEST: Final = 64
"""Bytes below which compressing a message costs more than it saves; any message may be sent uncompressed."""
_TAIL: Final = b"\x00\x00\xff\xff"
"""The end of every compressed message, which is not sent (RFC 7692 section 7.2.1)."""
_WINDOW_BITS: Final = frozenset(str(bits) for bits in range(9, 16))


class Deflate(NamedTuple):
    """How one session's messages are compressed: zlib's level, memory level and window bits."""

    accepted: str
    """The value of our Sec-WebSocket-Extensions."""
    level: int
    memory: int
    bits: int

    @classmethod
    def of(cls, accepted: str, options: dict[str, Any]) -> Self:
        """From an accepted offer and what a handler's `get_compression_options` returned."""
        _, _, bits = accepted.partition("server_max_window_bits=")
        return cls(
            accepted, options.get("compression_level", 6), options.get("mem_level", 8), int(bits or 15)
        )


def accepted_offer(header: str) -> str | None:
    """Our response to the first supported offer of permessage-deflate: without context takeover.

    `header` is the client's Sec-WebSocket-Extensions; None if we support none of its offers (RFC 7692
    sections 5 and 7.1).
    """
    for offer in header.split(","):
        name, *parameters = (part.strip() for part in offer.split(";"))
        if name.lower() != EXTENSION:
            continue
        taken = [EXTENSION, "server_no_context_takeover", "client_no_context_takeover"]
        seen = set()
        for parameter in parameters:
            key, _, value = (part.strip().strip('"') for part in parameter.partition("="))
            if key in seen:
                break
            seen.add(key)
            if key in {"server_no_context_takeover", "client_no_context_takeover"} and not value:
                continue
            if key == "client_max_window_bits" and value in _WINDOW_BITS | {"", "8"}:
                continue
            # zlib doesn't support a window of 8 bits.
            if key == "server_max_window_bits" and value in _WINDOW_BITS:
                taken.append(f"{key}={value}")
                continue
            break
        else:
            return "; ".join(taken)
    return None


@functools.lru_cache(maxsize=64)
def deflated(frame: bytes, level: int, memory: int, bits: int) -> bytes:
    """One of our frames, compressed (RFC 7692 section 7.2.1); cached for sessions with the same options."""
    opcode = frame[0] & 0x0F
    header = {126: 4, 127: 10}.get(frame[1], 2)
    if opcode >= frames.CLOSE or len(frame) - header < SMALLEST:
        return frame
    deflate = zlib.compressobj(level, zlib.DEFLATED, -bits, memory)
    payload = deflate.compress(frame[header:]) + deflate.flush(zlib.Z_SYNC_FLUSH)
    compressed = frames.frame(opcode, payload.removesuffix(_TAIL))
    return bytes((compressed[0] | frames.RSV1,)) + compressed[1:]


def inflated(payload: bytes, limit: int) -> bytes:
    """A client's message of at most `limit` bytes (RFC 7692 section 7.2.2). Raises Violation.

    No more than `limit` + 1 bytes are decompressed, however large the message would become.
    """
    try:
        message = zlib.decompressobj(-zlib.MAX_WBITS).decompress(payload + _TAIL, limit + 1)
    except zlib.error:
        raise frames.Violation(frames.INVALID_DATA, "Compressed message is damaged") from None
    if len(message) > limit:
        raise frames.Violation(frames.TOO_BIG, frames.too_big(limit))
    return message
