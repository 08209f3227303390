"""Reports, as the application gets them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

ReportType = Literal["chat_occupied", "chat_vacated", "user_joined", "user_left", "read"]


class Report(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One thing that has happened in a chat.

    ``id`` is unique, and the same whenever the report is sent again. ``at`` is ISO 8601 in UTC with
    milliseconds. Of a user, ``user_joined``, ``user_left`` and ``read`` have ``userId`` and ``role``, and
    ``read`` has the ``messageId`` up to which they have read.
    """

    id: str
    type: ReportType
    chat_id: str
    at: str
    user_id: str = ""
    role: str = ""
    message_id: str = ""


class Batch(msgspec.Struct, frozen=True, rename="camel"):
    """The body of one request: at most 200 reports in order, and when it was sent. Without reports it is a
    question whether they would be taken.
    """

    events: Sequence[Report]
    sent_at: str
