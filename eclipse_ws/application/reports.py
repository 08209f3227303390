"""Reports: what the application learns about its chats, in signed batches."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from eclipse_ws.protocol.events import timestamp

MAX_BATCH: Final = 200
"""Reports in one batch."""
SIGNATURE: Final = "X-Signature"
"""The header that carries a batch's signature."""
PATH: Final = "/api/chat-events"
"""Where the embedded API takes reports."""

ReportType = Literal["chat_occupied", "chat_vacated", "user_joined", "user_left", "read"]


class Report(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One thing that has happened in a chat.

    ``id`` is unique, and the same whenever the report is sent again. ``at`` is ISO 8601 in UTC with
    milliseconds. Of a user, ``user_joined``, ``user_left`` and ``read`` have ``user_id`` and ``role``, and
    ``read`` has the ``message_id`` up to which they have read.
    """

    id: str
    type: ReportType
    chat_id: str
    at: str
    user_id: str = ""
    role: str = ""
    message_id: str = ""


class Batch(msgspec.Struct, frozen=True, rename="camel"):
    """The body of one request: reports in order, and when it was sent."""

    events: Sequence[Report]
    sent_at: str


_encode = msgspec.json.Encoder().encode


def encode_batch(reports: Sequence[Report]) -> bytes:
    """A batch that is sent now, as JSON. Raises UnicodeEncodeError for a text with lone surrogates."""
    return _encode(Batch(reports, timestamp()))


def signature(secret: bytes, body: bytes) -> str:
    """The value of `SIGNATURE` for a body: ``sha256=`` and its HMAC-SHA256 in lower-case hex."""
    return f"sha256={hmac.new(secret, body, hashlib.sha256).hexdigest()}"
