"""Who is typing: a session that stops without saying so must not seem to type forever."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from eclipse_ws.protocol import Event, typing_event

PATIENCE: Final = 10.0
"""Seconds without another `typing` after which a session counts as having stopped."""


class Typists:
    """The sessions that are typing. ``broadcast`` takes a chat's id and an ephemeral event of it."""

    def __init__(self, broadcast: Callable[[str, Event], None]) -> None:
        self._broadcast = broadcast
        self._heard: dict[tuple[str, str], tuple[str, float]] = {}
        """By session and chat: the user, and when they were last heard, on the monotonic clock."""

    def __len__(self) -> int:
        return len(self._heard)

    def note(self, session_id: str, chat_id: str, user_id: str, is_typing: bool) -> None:
        """Broadcast what a session says."""
        if is_typing:
            self._heard[session_id, chat_id] = user_id, time.monotonic()
        else:
            self._heard.pop((session_id, chat_id), None)
        self._broadcast(chat_id, typing_event(user_id, is_typing, session_id))

    def stop(self, session_id: str, chat_id: str) -> None:
        """Broadcast that a session has stopped, if it was typing."""
        if (heard := self._heard.get((session_id, chat_id))) is not None:
            user_id, _ = heard
            self.note(session_id, chat_id, user_id, False)

    def sweep(self, now: float) -> None:
        """Stop those that have said nothing for a while. ``now`` is a time of the monotonic clock."""
        for typist in [typist for typist, (_, at) in self._heard.items() if at <= now - PATIENCE]:
            self.stop(*typist)
