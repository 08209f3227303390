"""Reports: what the application learns about its chats, in signed batches."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

import msgspec

from eclipse_ws.protocol.events import timestamp
from eclipse_ws.protocol.reports import Batch, Report

__all__ = ["MAX_BATCH", "PATH", "SIGNATURE", "Batch", "Report", "encode_batch", "signature"]

MAX_BATCH: Final = 200
"""Reports in one batch."""
SIGNATURE: Final = "X-Signature"
"""The header that carries a batch's signature."""
PATH: Final = "/api/chat-events"
"""Where the embedded API takes reports."""

_encode = msgspec.json.Encoder().encode


def encode_batch(reports: Sequence[Report]) -> bytes:
    """A batch that is sent now, as JSON. Raises UnicodeEncodeError for a text with lone surrogates."""
    return _encode(Batch(reports, timestamp()))


def signature(secret: bytes, body: bytes) -> str:
    """The value of `SIGNATURE` for a body: ``sha256=`` and its HMAC-SHA256 in lower-case hex."""
    return f"sha256={hmac.new(secret, body, hashlib.sha256).hexdigest()}"
