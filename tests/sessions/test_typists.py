"""Who types, and when they are taken to have stopped."""

from __future__ import annotations

import json
import time

from eclipse_ws.protocol import Event
from eclipse_ws.sessions.typists import PATIENCE, Typists


class Chats:
    """Remembers what was broadcast: the chat, the user and whether they type."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, bool]] = []

    def broadcast(self, chat_id: str, event: Event) -> None:
        """Take an event of a chat."""
        data = json.loads(event.body)["data"]
        self.told.append((chat_id, data["userId"], data["isTyping"]))

    def take(self) -> list[tuple[str, str, bool]]:
        """What came since the last time."""
        told, self.told = self.told, []
        return told


def test_patience_begins_with_the_last_word() -> None:
    """Who types on goes on, and who says nothing for a while has stopped, which is told once."""
    chats = Chats()
    typists = Typists(chats.broadcast)
    typists.note("s", "a", "user", True)
    time.sleep(0.02)
    again = time.monotonic()
    typists.note("s", "a", "user", True)
    assert chats.take() == [("a", "user", True)] * 2
    typists.sweep(again + PATIENCE - 0.001)
    assert chats.take() == []
    for _ in range(2):
        typists.sweep(time.monotonic() + PATIENCE)
    assert chats.take() == [("a", "user", False)]
    assert not typists


def test_a_session_types_in_each_chat_by_itself() -> None:
    """Leaving one chat ends its typing there alone; one in which it wasn't typing is told nothing."""
    chats = Chats()
    typists = Typists(chats.broadcast)
    for chat_id in ("a", "b"):
        typists.note("s", chat_id, "user", True)
    chats.take()
    typists.stop("s", "a")
    typists.stop("s", "a")
    typists.stop("s", "c")
    typists.stop("other", "b")
    assert chats.take() == [("a", "user", False)]
    typists.sweep(time.monotonic() + PATIENCE)
    assert chats.take() == [("b", "user", False)]
