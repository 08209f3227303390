"""Whether the application's answer is about the message that was sent, or about another chat's."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from eclipse_ws.application.decoding import AnsweredMessage

REMEMBERED: Final = 10_000
"""The latest messages that are remembered."""


class SavedMessages:
    """The latest messages that the application has saved: which chat each belongs to, and what it says.

    An application may tidy up what it saves, so other words alone don't make an answer a wrong one. It may
    number each chat's messages on its own, and know chats by other names than tokens do, so neither does
    another chat's id or name. Other words together with one of these do.
    """

    def __init__(self) -> None:
        self._saved: OrderedDict[str, tuple[str, int]] = OrderedDict()

    def is_answer_to(self, chat_id: str, content: str, message: AnsweredMessage) -> bool:
        """Whether the message can be what became of ``content`` in the chat; if so, it is remembered."""
        words = hash(message.content)
        if message.content != content:
            named, known = message.chatId, self._saved.get(message.id)
            if isinstance(named, str | int) and str(named) != chat_id:
                return False
            if known is not None and known[0] != chat_id and known[1] == words:
                return False
        self._saved[message.id] = chat_id, words
        if len(self._saved) > REMEMBERED:
            self._saved.popitem(last=False)
        return True
