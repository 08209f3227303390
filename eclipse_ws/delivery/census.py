"""The census: who is in every chat, on every node. Only a node that has asked for it has one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from eclipse_ws.delivery.presence_notes import Here
from eclipse_ws.delivery.presence_view import Sources

REMEMBERED: Final = 60.0
"""Seconds for which an empty chat is remembered, so that a note that is late doesn't fill it again."""


class Census:
    """The chats in which any node has users, or had some lately.

    What each node says of its users is put into `chat`, by presence. ``changed`` hears which chats may have
    other users than before; it must not block.
    """

    def __init__(self, changed: Callable[[str], None]) -> None:
        self._changed = changed
        self._chats: dict[str, Sources] = {}
        self._empty: dict[str, float] = {}

    def __contains__(self, chat_id: str) -> bool:
        return chat_id in self._chats

    def chats(self) -> Iterator[str]:
        """The chats."""
        return iter(self._chats)

    def chat(self, chat_id: str, now: float) -> Sources:
        """The users of a chat by their nodes."""
        found = self._chats.get(chat_id)
        if found is None:
            found = self._chats[chat_id] = Sources()
            self._empty[chat_id] = now
        return found

    def update(self, chat_id: str, now: float) -> None:
        """Note that something was put into a chat, or that a node was dropped from it."""
        if self._chats[chat_id].sources:
            self._empty.pop(chat_id, None)
        else:
            self._empty.setdefault(chat_id, now)
        self._changed(chat_id)

    def users(self, chat_id: str) -> dict[str, Here]:
        """The users of a chat on all nodes; of each node those who have been there longest."""
        found = self._chats.get(chat_id)
        return {} if found is None else found.merged()

    def forget(self, now: float) -> list[str]:
        """Forget the chats that have been empty for a while. Returns them."""
        old = [chat_id for chat_id, since in self._empty.items() if now - since >= REMEMBERED]
        for chat_id in old:
            del self._empty[chat_id], self._chats[chat_id]
        return old
