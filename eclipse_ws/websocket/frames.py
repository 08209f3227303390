"""WebSocket frames (RFC 6455 sections 5, 7.4 and 8.1), without I/O: bytes in, events out, and back.

`Inbound` parses what a client sends, in pieces of any size; `text_frame` and others encode what a server
sends. A server's frames are not masked, so the bytes of a frame are the same for every session.
"""

import codecs
import struct
from collections.abc import Callable
from typing import Final, NamedTuple

from tornado.util import _websocket_mask as unmask

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

FIN: Final = 0x80
RSV1: Final = 0x40
"""On a message's first frame: the message is compressed (RFC 7692 section 6)."""
CONTROL_BYTES: Final = 125
"""Maximum payload of a control frame (RFC 6455 section 5.5)."""

PROTOCOL_ERROR: Final = 1002
INVALID_DATA: Final = 1007
TOO_BIG: Final = 1009
NO_CODE: Final = 1005
"""The peer's close frame was empty (RFC 6455 section 7.4.1). Never on the wire."""
LOST: Final = 1006
"""No close frame came (RFC 6455 section 7.4.1). Never on the wire."""

_OPCODES = frozenset((CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG))
# Codes of IANA's registry that a client's close frame may contain, besides 3000 to 4999.
_CLOSE_CODES = frozenset((1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014))
_SHORT_HEADERS = [bytes((FIN | TEXT, size)) for size in range(126)]
_utf8_decoder = codecs.getincrementaldecoder("utf-8")


def too_big(limit: int) -> str:
    """The close reason for a message of more than `limit` bytes."""
    return f"Message too big: more than {limit} bytes"


class Violation(Exception):  # noqa: N818 - an error of the peer, not of ours
    """The peer violated the protocol: fail the connection with this close code and reason (RFC 6455 section
    7.1.7).
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class Event(NamedTuple):
    """The content of one frame.

    `text` for TEXT and for a close frame's reason, `data` for BINARY, PING and PONG, `code` for CLOSE (1005
    if the frame had none). CONTINUATION stands for a fragment that does not end its message: it is empty, and
    exists so that the fragment can be charged.
    """

    opcode: int
    text: str = ""
    data: bytes = b""
    code: int = NO_CODE


_FRAGMENT = Event(CONTINUATION)


def frame(opcode: int, payload: bytes) -> bytes:
    """One final, unmasked frame (RFC 6455 section 5.2)."""
    size = len(payload)
    if size < 126:
        return bytes((FIN | opcode, size)) + payload
    if size < 65536:
        return struct.pack("!BBH", FIN | opcode, 126, size) + payload
    return struct.pack("!BBQ", FIN | opcode, 127, size) + payload


def text_frame(payload: bytes) -> bytes:
    """One text message as a frame. `payload` is UTF-8; encode once, send the same bytes to every session."""
    size = len(payload)
    return _SHORT_HEADERS[size] + payload if size < 126 else frame(TEXT, payload)


def close_frame(code: int | None, reason: str = "") -> bytes:
    """A close frame, empty if there is no code. The reason is truncated to 123 bytes of whole characters."""
    if code is None or code == NO_CODE:
        return frame(CLOSE, b"")
    text = reason.encode("utf-8", "replace")
    if len(text) > CONTROL_BYTES - 2:
        text = text[: CONTROL_BYTES - 2].decode("utf-8", "ignore").encode()
    return frame(CLOSE, struct.pack("!H", code) + text)


def is_wire_code(code: int) -> bool:
    """Whether a close frame may contain that code (RFC 6455 section 7.4)."""
    return code in _CLOSE_CODES or 3000 <= code <= 4999


def whole_text(data: bytes, limit: int) -> str | None:
    """The text, if `data` is exactly one complete text message of at most `limit` bytes; else None, and
    `Inbound` has to parse it.

    Nearly every read in a chat is such a message, and needs no parser state.
    """
    size = len(data)
    if size < 6 or data[0] != FIN | TEXT:
        return None
    if size < 132:
        if data[1] != size + 122 or size - 6 > limit:  # 0x80 | (size - 6): masked, and nothing follows
            return None
        mask, payload = data[2:6], data[6:]
    else:
        if data[1] != 254 or data[2] << 8 | data[3] != size - 8 or size < 134 or size - 8 > limit:
            return None
        mask, payload = data[4:8], data[8:]
    try:
        return unmask(mask, payload).decode()
    except UnicodeDecodeError:
        return None  # Inbound raises the Violation


class Inbound:
    """Parses a client's frames. Feed it with `receive`, then call `next` until it returns None.

    Nothing is parsed ahead: the rest stays bytes until `next` is called, so the caller decides when the next
    message is handled. A message's payload is processed as it arrives (and its UTF-8 checked), and a length
    is compared with `limit` before anything is stored for it.

    `inflate` takes a compressed message and the limit, and returns the message or raises Violation. Without
    it a compressed message is a violation.
    """

    __slots__ = (
        "_check",
        "_data",
        "_deflated",
        "_fin",
        "_inflate",
        "_left",
        "_mask",
        "_message",
        "_opcode",
        "_pos",
        "limit",
        "reads",
    )

    def __init__(self, limit: int, inflate: Callable[[bytes, int], bytes] | None = None) -> None:
        self.limit = limit
        """Maximum size of a message in bytes, however many fragments it has."""
        self.reads = 0
        """Number of calls of `receive`; the caller may reset it."""
        self._inflate = inflate
        self._deflated = False
        """Whether the current message is compressed."""
        self._data = b""
        self._pos = 0
        self._opcode = CONTINUATION
        """TEXT or BINARY within a message."""
        self._message = bytearray()
        """Its payload so far, unmasked."""
        self._check: codecs.IncrementalDecoder | None = None
        """Validates a text as it arrives; None while it is in one piece."""
        self._left = 0
        """Missing bytes of the current data frame's payload."""
        self._mask = b""
        """Its mask, rotated to where the payload continues."""
        self._fin = False
        """Whether that frame ends the message."""

    @property
    def waiting(self) -> int:
        """Received bytes that are not parsed yet."""
        return len(self._data) - self._pos

    @property
    def held(self) -> int:
        """Bytes kept until a message is complete."""
        return len(self._data) + len(self._message)

    @property
    def idle(self) -> bool:
        """Whether there are no bytes and no unfinished message, so that this object is no longer needed."""
        return self._pos == len(self._data) and not self._opcode

    def receive(self, data: bytes) -> None:
        """Add bytes that the peer sent."""
        self._data = self._data[self._pos :] + data if self._pos < len(self._data) else data
        self._pos = 0
        self.reads += 1

    def next(self) -> Event | None:
        """The next event, or None if more bytes are needed. Nothing is parsed after a Violation."""
        if self._left:
            return self._payload()
        data, pos = self._data, self._pos
        have = len(data) - pos
        if have < 2:
            return None
        first, second = data[pos], data[pos + 1]
        opcode = first & 0x0F
        self._check_header(first, second, opcode)
        size = second & 0x7F
        header = 6
        if size == 126:
            if have < 4:
                return None
            size = data[pos + 2] << 8 | data[pos + 3]
            if size < 126:
                raise Violation(PROTOCOL_ERROR, "Length is not minimal")
            header = 8
        elif size == 127:
            if have < 10:
                return None
            size = int.from_bytes(data[pos + 2 : pos + 10], "big")
            if size >> 63:
                raise Violation(PROTOCOL_ERROR, "Length has its highest bit set")
            if size < 65536:
                raise Violation(PROTOCOL_ERROR, "Length is not minimal")
            header = 14
        if opcode < CLOSE:
            if opcode:
                self._deflated = first & RSV1 != 0
            # Data that can't be compressed becomes a little larger.
            limit = self.limit + (self.limit >> 8) + 64 if self._deflated else self.limit
            if len(self._message) + size > limit:
                raise Violation(TOO_BIG, too_big(self.limit))
        if have < header or (opcode >= CLOSE and have < header + size):
            return None
        mask = data[pos + header - 4 : pos + header]
        pos += header
        if opcode >= CLOSE:
            self._pos = pos + size
            return _control(opcode, unmask(mask, data[pos : pos + size]))
        if opcode and first & FIN and have >= header + size:
            self._pos = pos + size
            return self._whole(opcode, unmask(mask, data[pos : pos + size]))
        self._pos = pos
        self._left = size
        self._mask = mask
        self._fin = first >= FIN
        if opcode:
            self._opcode = opcode
        return self._payload()

    def _check_header(self, first: int, second: int, opcode: int) -> None:
        """Check a frame's first two bytes (RFC 6455 sections 5.1, 5.2, 5.4 and 5.5)."""
        if first & 0x70 and not (
            first & 0x70 == RSV1 and self._inflate is not None and CONTINUATION < opcode < CLOSE
        ):
            raise Violation(PROTOCOL_ERROR, "Reserved bits are set")
        if opcode not in _OPCODES:
            raise Violation(PROTOCOL_ERROR, f"Unknown opcode {opcode}")
        if second < 0x80:
            raise Violation(PROTOCOL_ERROR, "Frame is not masked")
        if opcode >= CLOSE:
            if first < FIN:
                raise Violation(PROTOCOL_ERROR, "Control frame is fragmented")
            if second & 0x7F > CONTROL_BYTES:
                raise Violation(PROTOCOL_ERROR, "Control frame is longer than 125 bytes")
        elif opcode == CONTINUATION:
            if not self._opcode:
                raise Violation(PROTOCOL_ERROR, "Continuation without a message")
        elif self._opcode:
            raise Violation(PROTOCOL_ERROR, "New message within a fragmented one")

    def _payload(self) -> Event | None:
        """Process what has arrived of the current data frame's payload."""
        part = self._data[self._pos : self._pos + self._left]
        if part:
            self._pos += len(part)
            self._left -= len(part)
            if self._pos == len(self._data):
                self._data, self._pos = b"", 0  # otherwise the bytes would be kept twice
            part = unmask(self._mask, part)
            turn = len(part) & 3
            if turn:
                self._mask = self._mask[turn:] + self._mask[:turn]
        done = self._fin and not self._left
        if self._opcode == TEXT and not self._deflated:
            self._validate(part)
        self._message += part
        if self._left:
            return None
        if not done:
            return _FRAGMENT
        message, opcode = bytes(self._message), self._opcode
        self._message = bytearray()
        self._opcode = CONTINUATION
        self._check = None
        return self._whole(opcode, message)

    def _whole(self, opcode: int, payload: bytes) -> Event:
        if self._deflated:
            assert self._inflate is not None
            payload = self._inflate(payload, self.limit)
        if opcode == BINARY:
            return Event(BINARY, data=payload)
        try:
            return Event(TEXT, payload.decode())
        except UnicodeDecodeError:
            raise Violation(INVALID_DATA, "Text is not UTF-8") from None

    def _validate(self, part: bytes) -> None:
        if self._check is None:
            self._check = _utf8_decoder()
        try:
            self._check.decode(part)  # may end within a character; the whole message is decoded at its end
        except UnicodeDecodeError:
            raise Violation(INVALID_DATA, "Text is not UTF-8") from None


def _control(opcode: int, payload: bytes) -> Event:
    if opcode != CLOSE:
        return Event(opcode, data=payload)
    if not payload:
        return Event(CLOSE)
    if len(payload) == 1:
        raise Violation(PROTOCOL_ERROR, "Close frame has half a code")
    code = payload[0] << 8 | payload[1]
    if not is_wire_code(code):
        raise Violation(PROTOCOL_ERROR, f"Close code {code} is not for the wire")
    try:
        return Event(CLOSE, payload[2:].decode(), code=code)
    except UnicodeDecodeError:
        raise Violation(INVALID_DATA, "Close reason is not UTF-8") from None
