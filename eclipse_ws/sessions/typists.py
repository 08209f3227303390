"""Who is typing: a session that stops without saying so must not seem to type forever."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple

from eclipse_ws.protocol import Event, typing_event

PATIENCE: Final = 10.0
"""Seconds without another `typing` after which a session counts as having stopped."""


class Typist(NamedTuple):
    """A session that types in a chat."""

    session_id: str
    chat_id: str
    user_id: str


class Typists:
    """The sessions that are typing. ``broadcast`` takes a chat's id and an ephemeral event of it."""

    def __init__(self, broadcast: Callable[[str, Event], None]) -> None:
        self._broadcast = broadcast
        self._since: dict[Typist, float] = {}
        """When each one was last heard, on the monotonic clock, the longest ago first."""

    def __len__(self) -> int:
        return len(self._since)

    def note(self, typist: Typist, is_typing: bool) -> None:
        """Broadcast what a session says."""
        self._since.pop(typist, None)
        if is_typing:
            self._since[typist] = time.monotonic()
        self._tell(typist, is_typing)

    def stop(self, typist: Typist) -> None:
        """Broadcast that a session has stopped, if it was typing."""
        if self._since.pop(typist, None) is not None:
            self._tell(typist, False)

    def sweep(self, now: float) -> None:
        """Stop those that have said nothing for a while. ``now`` is a time of the monotonic clock."""
        while self._since:
            typist = next(iter(self._since))
            if self._since[typist] > now - PATIENCE:
                return
            self.stop(typist)

    def _tell(self, typist: Typist, is_typing: bool) -> None:
        self._broadcast(typist.chat_id, typing_event(typist.user_id, is_typing, typist.session_id))
