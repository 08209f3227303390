"""Detects responses about another chat's message."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from eclipse_ws.application.decoding import ApplicationMessage

MAX_REMEMBERED: Final = 10_000
"""Messages that are remembered."""


class SavedMessages:
    """The latest messages that the application has saved: the chat and the content's hash of each.

    An application may clean up content, so different content alone does not make a response wrong. It may
    number each chat's messages separately, and use other chat ids than tokens do, so neither does a known
    message id or another chat id. Different content together with one of these does.
    """

    def __init__(self) -> None:
        self._saved: OrderedDict[str, tuple[str, int]] = OrderedDict()

    def matches(self, chat_id: str, content: str, message: ApplicationMessage) -> bool:
        """Whether the message can be the saved ``content`` of the chat; if so, it is remembered."""
        digest = hash(message.content)
        if message.content != content:
            named, known = message.chatId, self._saved.get(message.id)
            if isinstance(named, str | int) and str(named) != chat_id:
                return False
            if known is not None and known[0] != chat_id and known[1] == digest:
                return False
        self._saved[message.id] = chat_id, digest
        if len(self._saved) > MAX_REMEMBERED:
            self._saved.popitem(last=False)
        return True
